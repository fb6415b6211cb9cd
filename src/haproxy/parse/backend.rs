//! `show backend`: a header, then one name a line. Frontends are not in it, `listen` sections are. And `dump stats-file`,
//! for the guids of backends.

use std::collections::BTreeSet;

use super::{ParseError, line, name, shown};
use crate::{haproxy::command::GUID, model::BackendName};

/// The backends of `show backend`, in HAProxy's order. Names that no service can resolve to are left out.
pub fn backends(answer: &[u8]) -> Result<Vec<BackendName>, ParseError> {
    let Ok((mut rest, b"# name")) = line(answer) else {
        return Err(ParseError::Beginning(shown(answer)));
    };
    let mut backends = Vec::new();
    let mut number = 1;
    while !rest.is_empty() {
        number += 1;
        let (after, row) = line(rest).map_err(|_| ParseError::CutOff(number))?;
        backends.extend(name(row).and_then(|row| BackendName::new(row).ok()));
        rest = after;
    }
    Ok(backends)
}

/// The backends that a sidecar made, by the guids of `dump stats-file`: sections for each kind of object, each with a header,
/// and in them a line for each object that has a guid.
pub fn guids(answer: &[u8]) -> Result<BTreeSet<BackendName>, ParseError> {
    let mut backends = BTreeSet::new();
    let mut section = None;
    let (mut rest, mut number) = (answer, 0);
    while !rest.is_empty() {
        number += 1;
        let (after, row) = line(rest).map_err(|_| ParseError::CutOff(number))?;
        rest = after;
        if row.starts_with(b"#") {
            section = Some(row.starts_with(b"#be guid,"));
            continue;
        }
        match section {
            None if !row.is_empty() => return Err(ParseError::Beginning(shown(answer))),
            Some(true) => backends.extend(made(row)),
            None | Some(false) => {}
        }
    }
    match section {
        Some(_) => Ok(backends),
        None => Err(ParseError::Beginning(shown(answer))),
    }
}

/// The backend that a line of `dump stats-file` is of, if its guid is a sidecar's.
fn made(row: &[u8]) -> Option<BackendName> {
    let guid = row.split(|byte| *byte == b',').next()?;
    let backend = guid.strip_prefix(GUID.as_bytes()).and_then(name)?;
    BackendName::new(backend).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn backends_are_listed_and_odd_names_left_out() {
        let names: Vec<String> = backends(b"# name\nweb\na,b\n123\n\xff\n#1\n-\n")
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["web", "123", "-"]);
        assert_eq!(backends(b"# name\n").unwrap(), []);
    }

    #[test]
    fn a_list_that_is_cut_off_is_refused() {
        assert_eq!(backends(b"# name\nweb\nap"), Err(ParseError::CutOff(3)));
        assert_eq!(
            backends(b"web\n").unwrap_err().to_string(),
            r#"the answer does not begin as expected, but with "web\n""#
        );
    }

    #[test]
    fn the_guids_of_backends_tell_which_are_ours() {
        let dump = "#fe guid,stot,\nnomad:fe,0,\n\n#be guid,stot,\nnomad:web,0,\nother,0,\nnomad:,0,\nnomad:a b,0,\n\n#sv guid,\nnomad:s,\n";
        assert_eq!(
            guids(dump.as_bytes()),
            Ok([BackendName::new("web").unwrap()].into())
        );
        assert_eq!(guids(b"\n#be guid,stot,\n\n"), Ok(BTreeSet::new()));
        assert_eq!(guids(b"#be guid,\nnomad:w"), Err(ParseError::CutOff(2)));
        for wrong in ["Unknown command: 'dump'\n", "", "\n"] {
            assert!(matches!(
                guids(wrong.as_bytes()),
                Err(ParseError::Beginning(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>, after_header: Vec<u8>) {
            let _ = backends(&answer);
            let _ = backends(&[b"# name\n", after_header.as_slice()].concat());
            let _ = guids(&answer);
            let _ = guids(&[b"#be guid,\nnomad:", after_header.as_slice()].concat());
        }
    }
}
