//! `show stat <backend> 4 -1`, for people: what HAProxy says of each server's checks. Nothing is decided by it, so a column that
//! is missing, or a cell that is odd, is left out.

use std::{borrow::Cow, collections::BTreeMap};

use super::{ParseError, column, columns, name, shown, stat::Rows, value};
use crate::model::{BackendName, ServerName, Verdict};

/// The verdicts on the servers of `backend`. Rows of others may be in the answer: see [`stat`](super::stat()).
pub fn verdicts(
    answer: &[u8],
    backend: &BackendName,
) -> Result<BTreeMap<ServerName, Verdict>, ParseError> {
    let mut rows = Rows::of(answer)?;
    let [proxy, server, state] = columns(&rows.header, ["pxname", "svname", "status"])?;
    let optional = [
        "check_status",
        "last_chk",
        "addr",
        "check_code",
        "check_duration",
        "lastchg",
        "scur",
    ];
    let places = optional.map(|column_name| column(&rows.header, column_name));
    let mut verdicts = BTreeMap::new();
    while let Some(cells) = rows.next()? {
        if *cells[proxy] != *backend.as_str().as_bytes() {
            continue;
        }
        let Some(server) = name(&cells[server]).and_then(|text| ServerName::new(text).ok()) else {
            continue;
        };
        let [check_status, text, address, code, took, since, sessions] =
            places.map(|place| place.map_or(&b""[..], |place| cell(&cells, place)));
        let number = |cell: &[u8]| value(cell, rows.number, "number").ok();
        // While a check runs, its former outcome has a star.
        let check_status = check_status.strip_prefix(b"* ").unwrap_or(check_status);
        let verdict = Verdict {
            state: shown(&cells[state]),
            check_status: shown(check_status),
            code: number(code),
            text: shown(text),
            took: number(took),
            since_change: number(since),
            address: shown(address),
            sessions: number(sessions).unwrap_or(0),
        };
        verdicts.insert(server, verdict);
    }
    Ok(verdicts)
}

fn cell<'a>(cells: &'a [Cow<'_, [u8]>], place: usize) -> &'a [u8] {
    &cells[place]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "# pxname,svname,scur,status,lastchg,check_status,check_code,check_duration,last_chk,addr,\n\
                          web,nomad1,2,UP,12,L7OK,200,1,\"OK, \"\"fine\"\"\",10.0.0.1:80,\n\
                          web,nomad2,0,DOWN,3,* L4CON,,0,Connection refused,[::1]:80,\n\
                          web,nomad3,0,MAINT,5,,,,,,\n\
                          other,nomad1,0,UP,12,L7OK,200,1,,,\n";

    fn read(answer: &[u8]) -> Result<BTreeMap<ServerName, Verdict>, ParseError> {
        verdicts(answer, &BackendName::new("web").unwrap())
    }

    #[test]
    fn each_server_has_haproxys_words() {
        let verdicts = read(ANSWER.as_bytes()).unwrap();
        assert_eq!(verdicts.len(), 3);
        let of = |name: &str| verdicts[&ServerName::new(name).unwrap()].clone();
        assert_eq!(
            of("nomad1"),
            Verdict {
                state: "UP".to_owned(),
                check_status: "L7OK".to_owned(),
                code: Some(200),
                text: "OK, \"fine\"".to_owned(),
                took: Some(1),
                since_change: Some(12),
                address: "10.0.0.1:80".to_owned(),
                sessions: 2,
            }
        );
        assert_eq!(of("nomad2").check_status, "L4CON");
        assert_eq!(of("nomad2").text, "Connection refused");
        assert_eq!(of("nomad3").check_status, "");
    }

    #[test]
    fn columns_that_a_version_lacks_are_left_out() {
        let verdicts = read(b"# pxname,svname,status,\nweb,s,UP,\n").unwrap();
        assert_eq!(verdicts.len(), 1);
        assert!(read(b"# pxname,svname,\nweb,s,\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>, at in 0..ANSWER.len(), inserted: Vec<u8>) {
            let _ = read(&answer);
            let _ = read(&[&ANSWER.as_bytes()[..at], &inserted, &ANSWER.as_bytes()[at..]].concat());
        }
    }
}
