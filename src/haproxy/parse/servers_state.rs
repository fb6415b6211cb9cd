//! `show servers state`: the format's version, a header, one server a line. Cells are separated by single spaces and hold
//! none, since names cannot.

use nom::character::complete::{i32, i64, u8, u16, u32};

use super::{ParseError, columns, line, name, number, shown, unfit, value};
use crate::model::{
    AdminState, BackendName, CheckState, OperState, ServerName, ServerRow, ServerState,
};

const COLUMNS: [&str; 14] = [
    "be_id",
    "be_name",
    "srv_name",
    "srv_addr",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
    "srv_iweight",
    "srv_time_since_last_change",
    "srv_check_health",
    "srv_check_state",
    "srv_agent_state",
    "srv_port",
    "srv_fqdn",
];

/// The servers of `show servers state`, in HAProxy's order: backends by their place in the configuration.
pub fn servers_state(answer: &[u8]) -> Result<Vec<ServerRow>, ParseError> {
    let Ok((rest, b"1")) = line(answer) else {
        return Err(ParseError::Beginning(shown(answer)));
    };
    let (mut rest, header) = line(rest).map_err(|_| ParseError::CutOff(2))?;
    let Some(header) = header.strip_prefix(b"# ") else {
        return Err(ParseError::Beginning(shown(answer)));
    };
    let header: Vec<&[u8]> = cells(header).collect();
    let places = columns(&header, COLUMNS)?;

    let mut rows = Vec::new();
    let mut row: Vec<&[u8]> = Vec::with_capacity(header.len());
    // Servers of a backend come together: its name is checked and stored once.
    let mut latest: Option<(&[u8], Option<BackendName>)> = None;
    let mut row_number = 2;
    while !rest.is_empty() {
        row_number += 1;
        let (after, text) = line(rest).map_err(|_| ParseError::CutOff(row_number))?;
        rest = after;
        row.clear();
        row.extend(cells(text));
        if row.len() != header.len() {
            return Err(ParseError::Columns {
                line: row_number,
                columns: row.len(),
                expected: header.len(),
            });
        }
        let [id, backend, cells @ ..] = places.map(|place| row[place]);
        let backend = match &latest {
            Some((bytes, known)) if *bytes == backend => known.clone(),
            _ => {
                let new = name(backend).and_then(|text| BackendName::new(text).ok());
                latest = Some((backend, new.clone()));
                new
            }
        };
        if let Some(backend) = backend {
            rows.push(ServerRow {
                backend,
                backend_id: number(id, row_number, "be_id", u32)?,
                state: server(cells, text, row_number)?,
            });
        }
    }
    Ok(rows)
}

fn cells(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ')
}

fn server(cells: [&[u8]; 12], text: &[u8], line: usize) -> Result<ServerState, ParseError> {
    let [
        server,
        ip,
        oper,
        admin,
        weight,
        initial_weight,
        since_change,
        check_health,
        check,
        agent,
        port,
        host,
    ] = cells;
    let admin = AdminState(number(admin, line, "srv_admin_state", u8)?);
    let is_restorable = admin.is_config_disabled() && host != b"-";
    Ok(ServerState {
        name: name(server).and_then(|text| ServerName::new(text).ok()),
        ip: match ip {
            b"-" => None,
            ip => Some(value(ip, line, "srv_addr")?),
        },
        port: number(port, line, "srv_port", u16)?,
        oper: match oper {
            b"0" => OperState::Stopped,
            b"1" => OperState::Starting,
            b"2" => OperState::Running,
            b"3" => OperState::Stopping,
            other => return Err(unfit(other, line, "srv_op_state")),
        },
        admin,
        weight: number(weight, line, "srv_uweight", u16)?,
        initial_weight: number(initial_weight, line, "srv_iweight", u16)?,
        since_change: number(since_change, line, "srv_time_since_last_change", i64)?,
        check_health: number(check_health, line, "srv_check_health", i32)?,
        check: CheckState(number(check, line, "srv_check_state", u8)?),
        agent: CheckState(number(agent, line, "srv_agent_state", u8)?),
        line: name(text).filter(|_| is_restorable).map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
        srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
        bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr \
        srv_agent_addr srv_agent_port\n";
    const ROW: &str = "3 web 77 nomad1 ::1 2 4 10 1 2 15 3 -3 6 0 0 1 - 40057 - 0 0 - - 0\n";

    fn read(row: &str) -> Result<Vec<ServerRow>, ParseError> {
        servers_state([HEADER, row].concat().as_bytes())
    }

    #[test]
    fn a_server_is_read_column_by_column() {
        assert_eq!(
            read(ROW).unwrap(),
            [ServerRow {
                backend: BackendName::new("web").unwrap(),
                backend_id: 3,
                state: ServerState {
                    name: Some(ServerName::new("nomad1").unwrap()),
                    ip: Some("::1".parse().unwrap()),
                    port: 40057,
                    oper: OperState::Running,
                    admin: AdminState(4),
                    weight: 10,
                    initial_weight: 1,
                    since_change: 2,
                    check_health: -3,
                    check: CheckState(6),
                    agent: CheckState(0),
                    line: None,
                }
            }]
        );
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn the_line_of_a_disabled_server_that_names_a_host_is_kept() {
        let line = |row: &str| read(row).unwrap()[0].state.line.clone();
        let named = ROW.replace("- 40057", "slot.invalid 40057");
        assert_eq!(line(&named).as_deref(), Some(named.trim_end()));
        assert_eq!(line(&named.replace(" 2 4 10 ", " 2 0 10 ")), None);
    }

    #[test]
    fn columns_may_move_and_grow() {
        let columns: Vec<&str> = HEADER[4..].trim_end().split(' ').collect();
        let cells: Vec<&str> = ROW.trim_end().split(' ').collect();
        let reversed = |parts: &[&str]| parts.iter().rev().copied().collect::<Vec<_>>().join(" ");
        let moved = format!("1\n# new {}\n? {}\n", reversed(&columns), reversed(&cells));
        assert_eq!(servers_state(moved.as_bytes()), read(ROW));
    }

    #[test]
    fn names_outside_our_grammar_are_passed_over() {
        let rows = read(&format!(
            "{}{}{ROW}",
            ROW.replace("web", "a,b"),
            ROW.replace("nomad1 ::1", "BACKEND -")
        ))
        .unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((&rows[0].state.name, rows[0].state.ip), (&None, None));
        assert_eq!(rows[1].state.name.as_ref().unwrap().as_str(), "nomad1");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (row, error) in [
            (ROW.trim_end().to_owned(), "the answer is cut off in line 3"),
            (
                ROW.replace(" - - 0", ""),
                "line 3 has 22 columns, its header has 25",
            ),
            (
                ROW.replace("::1 2", "::1 4"),
                r#"line 3: srv_op_state cannot be "4""#,
            ),
            (
                ROW.replace("::1", "host"),
                r#"line 3: srv_addr cannot be "host""#,
            ),
            (
                ROW.replace("40057", "65536"),
                r#"line 3: srv_port cannot be "65536""#,
            ),
            (
                format!("{ROW}\n"),
                "line 4 has 1 columns, its header has 25",
            ),
        ] {
            assert_eq!(read(&row).unwrap_err().to_string(), error);
        }
        assert_eq!(
            servers_state(HEADER.replace("srv_port", "port").as_bytes()),
            Err(ParseError::Missing("srv_port"))
        );
        assert!(matches!(
            servers_state(b"2\n# be_id\n"),
            Err(ParseError::Beginning(_))
        ));
        assert_eq!(servers_state(b"1\n# be_id"), Err(ParseError::CutOff(2)));
    }

    #[test]
    fn ten_thousand_servers_are_read() {
        let mut answer = HEADER.to_owned();
        for id in 0..10_000 {
            let backend = id / 100;
            writeln!(
                answer,
                "{backend} be{backend} {id} nomad{id} 10.0.0.1 2 4 1 1 2 15 3 4 6 0 0 0 - 80 - 0 0 - - 0"
            )
            .unwrap();
        }
        assert_eq!(servers_state(answer.as_bytes()).unwrap().len(), 10_000);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>, at in 0..HEADER.len() + ROW.len(), inserted: Vec<u8>) {
            let _ = servers_state(&answer);
            let good = [HEADER, ROW].concat().into_bytes();
            let _ = servers_state(&good[..at]);
            let _ = servers_state(&[&good[..at], &inserted, &good[at..]].concat());
            let _ = servers_state(&[HEADER.as_bytes(), &inserted].concat());
        }
    }
}
