//! `show info`: lines of `Name: value`. Only what identifies the process and its life is read.

use nom::{
    IResult, Parser,
    bytes::complete::{tag, take_until},
    combinator::rest,
    sequence::separated_pair,
};

use super::{ParseError, line, shown, value};
use crate::model::ProcessInfo;

fn entry(row: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    separated_pair(
        take_until(": ".as_bytes()),
        tag(": ".as_bytes()),
        rest::<&[u8], nom::error::Error<&[u8]>>,
    )
    .parse(row)
}

/// The process that wrote this answer to `show info`.
pub fn info(answer: &[u8]) -> Result<ProcessInfo, ParseError> {
    let Ok((mut rest, b"Name: HAProxy")) = line(answer) else {
        return Err(ParseError::Beginning(shown(answer)));
    };
    let mut version = None;
    let mut pid = None;
    let mut start_time = None;
    let mut uptime = None;
    let mut connections = None;
    let mut stopping = None;
    let mut number = 1;
    while !rest.is_empty() {
        number += 1;
        let (after, row) = line(rest).map_err(|_| ParseError::CutOff(number))?;
        rest = after;
        // `node:` and `description:` can be without a value.
        let Ok((_, (key, text))) = entry(row) else {
            continue;
        };
        match key {
            b"Version" => version = Some((value(text, number, "Version")?, shown(text))),
            b"Pid" => pid = Some(value(text, number, "Pid")?),
            b"Start_time_sec" => start_time = Some(value(text, number, "Start_time_sec")?),
            b"Uptime_sec" => uptime = Some(value(text, number, "Uptime_sec")?),
            b"CumConns" => connections = Some(value(text, number, "CumConns")?),
            b"Stopping" => stopping = Some(value::<u8>(text, number, "Stopping")? != 0),
            _ => {}
        }
    }
    let (version, version_text) = version.ok_or(ParseError::Missing("Version"))?;
    Ok(ProcessInfo {
        version,
        version_text,
        pid: pid.ok_or(ParseError::Missing("Pid"))?,
        start_time: start_time.ok_or(ParseError::Missing("Start_time_sec"))?,
        uptime: uptime.ok_or(ParseError::Missing("Uptime_sec"))?,
        connections: connections.ok_or(ParseError::Missing("CumConns"))?,
        stopping: stopping.ok_or(ParseError::Missing("Stopping"))?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Version;

    const ANSWER: &str = "Name: HAProxy\nVersion: 3.0.11-1+deb13u4\nPid: 77\nUptime_sec: 5\nCumConns: 9\nnode: a: b\n\
                          description:\nStopping: 1\nStart_time_sec: 1795534114\nTainted: 0\n";

    #[test]
    fn the_process_is_identified() {
        assert_eq!(
            info(ANSWER.as_bytes()).unwrap(),
            ProcessInfo {
                version: Version::new(3, 0, 11),
                version_text: "3.0.11-1+deb13u4".to_owned(),
                pid: 77,
                start_time: 1_795_534_114,
                uptime: 5,
                connections: 9,
                stopping: true,
            }
        );
    }

    #[test]
    fn what_is_missing_cut_off_or_odd_is_said() {
        for (from, to, error) in [
            ("Pid: 77\n", "", "Pid is missing"),
            ("Pid: 77", "Pid: x\0", r#"line 3: Pid cannot be "x\0""#),
            (
                "3.0.11-1+deb13u4",
                "next",
                r#"line 2: Version cannot be "next""#,
            ),
            (
                "Tainted: 0\n",
                "Tainted",
                "the answer is cut off in line 10",
            ),
            (
                "Name: HAProxy\n",
                "Name: Varnish\n",
                r#"the answer does not begin as expected, but with "Name: Varnish\nVersion"#,
            ),
        ] {
            let text = info(ANSWER.replace(from, to).as_bytes())
                .unwrap_err()
                .to_string();
            assert!(text.starts_with(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>, at in 0..ANSWER.len(), inserted: Vec<u8>) {
            let _ = info(&answer);
            let _ = info(&[&ANSWER.as_bytes()[..at], &inserted, &ANSWER.as_bytes()[at..]].concat());
            let _ = info(&ANSWER.as_bytes()[..at]);
        }
    }
}
