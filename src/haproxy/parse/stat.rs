//! `show stat <backend> 6 -1`: CSV with a header. A cell in quotes may hold commas, doubled quotes and, before 2.6.17 and
//! 2.8.6, line feeds (the text of a check's answer, so a server's own words).
//!
//! HAProxy takes a name that no proxy has for a number, and a proxy's number is valid here: `-1` shows all. So rows of
//! other proxies may come and are told apart by their name. Up to 3.2 a frontend may share a backend's name; if it comes
//! first in the configuration, it is the one that is shown, and the answer has no rows although the backend has servers.

use std::{borrow::Cow, collections::BTreeMap};

use nom::{
    IResult, Parser,
    branch::alt,
    bytes::complete::{is_not, tag, take_till},
    combinator::{cut, value as replace},
    multi::fold_many0,
    sequence::delimited,
};

use super::{ParseError, column, columns, line, name, shown, value};
use crate::model::{BackendName, BackendRows, BackendStat, ServerName, StatRow};

const COLUMNS: [&str; 7] = [
    "pxname", "svname", "qcur", "scur", "slim", "stot", "srv_icur",
];

/// The servers of `backend`; `None` if the answer is about another proxy, so that there is no `backend`. A server that is
/// missing from the answer says nothing: it is not a quiet one.
pub fn stat(answer: &[u8], backend: &BackendName) -> Result<Option<BackendStat>, ParseError> {
    let mut rows = Rows::of(answer)?;
    let [proxy, server, queued, sessions, limit, total, idle] = columns(&rows.header, COLUMNS)?;
    let private_idle = column(&rows.header, "priv_idle_cur");
    let rise = column(&rows.header, "check_rise");
    let status = column(&rows.header, "status");

    let mut servers = BTreeMap::new();
    let mut others = false;
    let mut is_running = false;
    let mut is_unpublished = false;
    while let Some(cells) = rows.next()? {
        let number = rows.number;
        if *cells[proxy] != *backend.as_str().as_bytes() {
            others = true;
            continue;
        }
        if *cells[server] == *b"BACKEND" {
            is_running = true;
            is_unpublished = status.is_some_and(|place| cells[place].ends_with(UNPUBLISHED));
            continue;
        }
        let Some(name) = name(&cells[server]).and_then(|text| ServerName::new(text).ok()) else {
            continue;
        };
        let private_idle = match private_idle.map(|place| &*cells[place]) {
            None | Some(b"") => 0,
            Some(cell) => value(cell, number, "priv_idle_cur")?,
        };
        let rise = match rise.map(|place| &*cells[place]) {
            None | Some(b"") => None,
            Some(cell) => Some(value(cell, number, "check_rise")?),
        };
        let stat = StatRow {
            sessions: value(&cells[sessions], number, "scur")?,
            queued: value(&cells[queued], number, "qcur")?,
            idle: value::<u64>(&cells[idle], number, "srv_icur")?.saturating_add(private_idle),
            total_sessions: value(&cells[total], number, "stot")?,
            maxconn: match &*cells[limit] {
                b"" => None,
                cell => Some(value(cell, number, "slim")?),
            },
            rise,
        };
        servers.insert(name, stat);
    }
    let stat = BackendStat {
        servers,
        is_running,
        is_unpublished,
    };
    Ok((!others || is_running || !stat.servers.is_empty()).then_some(stat))
}

/// What the own rows of all backends tell: column `cookie` has the name of the cookie by which clients stay with a server.
pub fn backend_rows(answer: &[u8]) -> Result<BackendRows, ParseError> {
    let mut rows = Rows::of(answer)?;
    let [proxy, server, cookie] = columns(&rows.header, ["pxname", "svname", "cookie"])?;
    let status = column(&rows.header, "status");
    let mut backends = BackendRows::default();
    while let Some(cells) = rows.next()? {
        if *cells[server] != *b"BACKEND" {
            continue;
        }
        let Some(name) = name(&cells[proxy]).and_then(|text| BackendName::new(text).ok()) else {
            continue;
        };
        if status.is_some_and(|place| cells[place].ends_with(UNPUBLISHED)) {
            backends.unpublished.insert(name.clone());
        }
        if !cells[cookie].is_empty() {
            backends.cookies.insert(name);
        }
    }
    Ok(backends)
}

/// How `status` ends when `use_backend` passes the backend over.
const UNPUBLISHED: &[u8] = b" (UNPUB)";

/// The rows of an answer, each as long as its header.
pub(super) struct Rows<'a> {
    pub(super) header: Vec<&'a [u8]>,
    rest: &'a [u8],
    /// The line that was read last.
    pub(super) number: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn of(answer: &'a [u8]) -> Result<Self, ParseError> {
        let (rest, header) = line(answer).map_err(|_| ParseError::CutOff(1))?;
        let Some(header) = header.strip_prefix(b"# ") else {
            return Err(ParseError::Beginning(shown(answer)));
        };
        Ok(Self {
            header: header.split(|byte| *byte == b',').collect(),
            rest,
            number: 1,
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<Vec<Cow<'a, [u8]>>>, ParseError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let (after, cells) =
            row(self.rest, self.header.len()).map_err(|_| ParseError::CutOff(self.number))?;
        self.rest = after;
        if cells.len() != self.header.len() {
            return Err(ParseError::Columns {
                line: self.number,
                columns: cells.len(),
                expected: self.header.len(),
            });
        }
        Ok(Some(cells))
    }
}

/// A line of CSV that likely has `expected` cells, with its line feed.
fn row(input: &[u8], expected: usize) -> IResult<&[u8], Vec<Cow<'_, [u8]>>> {
    let (rest, text) = line(input)?;
    let mut cells = Vec::with_capacity(expected);
    // Nearly every row is without quotes, and has up to 200 cells.
    if !text.contains(&b'"') {
        cells.extend(text.split(|byte| *byte == b',').map(Cow::Borrowed));
        return Ok((rest, cells));
    }
    let mut input = input;
    loop {
        let (rest, cell) = cell(input)?;
        cells.push(cell);
        let (rest, end) = alt((tag(",".as_bytes()), tag("\n".as_bytes()))).parse(rest)?;
        if end == b"\n" {
            return Ok((rest, cells));
        }
        input = rest;
    }
}

fn cell(input: &[u8]) -> IResult<&[u8], Cow<'_, [u8]>> {
    let quoted = fold_many0(
        alt((
            is_not("\"".as_bytes()),
            replace("\"".as_bytes(), tag("\"\"".as_bytes())),
        )),
        Vec::new,
        |mut text, part: &[u8]| {
            text.extend_from_slice(part);
            text
        },
    );
    alt((
        // Once open, quotes must close: what is in them is no cell of its own.
        delimited(tag("\"".as_bytes()), quoted, cut(tag("\"".as_bytes()))).map(Cow::Owned),
        take_till(|byte| byte == b',' || byte == b'\n').map(Cow::Borrowed),
    ))
    .parse(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "# pxname,svname,qcur,scur,slim,stot,last_chk,check_rise,srv_icur,priv_idle_cur,\n\
                          web,nomad1,1,2,,30,,2,4,5,\n\
                          web,nomad2,0,0,7,0,\"said \"\"no\"\",\n> again\",,0,,\n\
                          web,BACKEND,0,2,20,30,,,,,\n";

    fn backend(name: &str) -> BackendName {
        BackendName::new(name).unwrap()
    }

    #[test]
    fn servers_are_read_whatever_their_checks_said() {
        let servers = stat(ANSWER.as_bytes(), &backend("web"))
            .unwrap()
            .unwrap()
            .servers;
        let expected = [
            (
                "nomad1",
                StatRow {
                    queued: 1,
                    sessions: 2,
                    maxconn: None,
                    total_sessions: 30,
                    idle: 9,
                    rise: Some(2),
                },
            ),
            (
                "nomad2",
                StatRow {
                    maxconn: Some(7),
                    ..StatRow::default()
                },
            ),
        ];
        assert_eq!(
            servers,
            expected
                .map(|(name, row)| (ServerName::new(name).unwrap(), row))
                .into()
        );
    }

    #[test]
    fn idle_private_connections_count_where_they_are_told() {
        let older = "# pxname,svname,qcur,scur,slim,stot,srv_icur,\nweb,s,0,0,,0,4,\n";
        let servers = stat(older.as_bytes(), &backend("web")).unwrap().unwrap();
        assert_eq!(servers.servers.values().next().unwrap().idle, 4);
    }

    #[test]
    fn the_rows_of_another_proxy_are_no_answer() {
        assert_eq!(stat(ANSWER.as_bytes(), &backend("4")), Ok(None));
        let header = ANSWER.split_inclusive('\n').next().unwrap();
        assert_eq!(
            stat(header.as_bytes(), &backend("web")),
            Ok(Some(BackendStat::default()))
        );
    }

    #[test]
    fn a_backend_that_is_not_published_says_so() {
        for (status, expected) in [("DOWN (UNPUB)", true), ("UP", false)] {
            let answer = format!(
                "# pxname,svname,qcur,scur,slim,stot,status,srv_icur,\nweb,BACKEND,0,0,1,0,{status},,\n"
            );
            let stat = stat(answer.as_bytes(), &backend("web")).unwrap().unwrap();
            assert_eq!(stat.is_unpublished, expected);
        }
    }

    #[test]
    fn backends_with_a_cookie_and_those_that_are_not_published_are_told() {
        let answer = "# pxname,svname,scur,status,cookie,\na,BACKEND,0,UP,SRV,\nb,BACKEND,0,DOWN (UNPUB),,\na,nomad1,0,UP,s1,\n";
        let rows = backend_rows(answer.as_bytes()).unwrap();
        assert_eq!(rows.cookies, [backend("a")].into());
        assert_eq!(rows.unpublished, [backend("b")].into());
        assert_eq!(
            backend_rows(b"# pxname,svname,\n").unwrap_err().to_string(),
            "cookie is missing"
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (from, to, error) in [
            (
                "web,nomad1,1,2",
                "web,nomad1,1,two",
                r#"line 2: scur cannot be "two""#,
            ),
            (
                ",4,5,\n",
                ",4,\n",
                "line 2 has 10 columns, its header has 11",
            ),
            ("again\"", "again", "the answer is cut off in line 3"),
            (",20,30,,,,,\n", ",20", "the answer is cut off in line 4"),
            ("srv_icur", "icur", "srv_icur is missing"),
            (
                "# px",
                "px",
                r#"the answer does not begin as expected, but with "pxname"#,
            ),
        ] {
            let answer = ANSWER.replace(from, to);
            let text = stat(answer.as_bytes(), &backend("web"))
                .unwrap_err()
                .to_string();
            assert!(text.starts_with(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>, at in 0..ANSWER.len(), inserted: Vec<u8>) {
            let web = backend("web");
            let _ = stat(&answer, &web);
            let _ = backend_rows(&answer);
            let _ = backend_rows(&ANSWER.as_bytes()[..at]);
            let _ = stat(&ANSWER.as_bytes()[..at], &web);
            let _ = stat(&[&ANSWER.as_bytes()[..at], &inserted, &ANSWER.as_bytes()[at..]].concat(), &web);
        }
    }
}
