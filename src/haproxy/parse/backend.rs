//! `show backend`: a header, then one name a line. Frontends are not in it, `listen` sections are.

use super::{ParseError, line, name, shown};
use crate::model::BackendName;

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

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>, after_header: Vec<u8>) {
            let _ = backends(&answer);
            let _ = backends(&[b"# name\n", after_header.as_slice()].concat());
        }
    }
}
