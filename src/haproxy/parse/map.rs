//! `show map <map>`: a line for each entry, `0x<reference> <key> <value>`, in HAProxy's order; nothing for an empty map.
//!
//! HAProxy stores any bytes and shows them raw, so what an operator put there may look like anything. What is not two words
//! of our grammar is somebody else's, never an error.

use super::{ParseError, line, name, shown};
use crate::model::{MapContent, MapEntry, MapWord};

/// The entries of a map.
pub fn map(answer: &[u8]) -> Result<MapContent, ParseError> {
    let mut content = MapContent::default();
    let mut rest = answer;
    let mut number = 0;
    // Whether the last entry is in `content.entries`.
    let mut is_kept = false;
    while !rest.is_empty() {
        number += 1;
        let (after, row) = line(rest).map_err(|_| ParseError::CutOff(number))?;
        rest = after;
        match entry(row) {
            Row::Entry(entry) => {
                content.entries.push(entry);
                is_kept = true;
            }
            Row::Other => {
                content.others += 1;
                is_kept = false;
            }
            Row::Continued if number == 1 => return Err(ParseError::Beginning(shown(row))),
            // A key or value with a line feed in it: what it seemed to be, it is not.
            Row::Continued => {
                if let Some(last) = content.entries.last_mut().filter(|_| is_kept) {
                    last.value = None;
                }
            }
        }
    }
    Ok(content)
}

enum Row {
    Entry(MapEntry),
    Other,
    Continued,
}

fn entry(row: &[u8]) -> Row {
    let Some((reference, words)) = split(row) else {
        return Row::Continued;
    };
    let is_reference = reference
        .strip_prefix(b"0x")
        .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit));
    if !is_reference {
        return Row::Continued;
    }
    let (key, value) = split(words).unwrap_or((words, b""));
    let word = |bytes| MapWord::new(name(bytes)?).ok();
    match word(key) {
        Some(key) => Row::Entry(MapEntry {
            key,
            value: word(value),
        }),
        None => Row::Other,
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..space], &bytes[space + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(answer: &[u8]) -> Vec<(String, Option<String>)> {
        let entries = map(answer).unwrap().entries.into_iter();
        entries
            .map(|entry| {
                (
                    entry.key.to_string(),
                    entry.value.map(|value| value.to_string()),
                )
            })
            .collect()
    }

    #[test]
    fn entries_are_read_in_haproxys_order_and_odd_ones_are_nobodys() {
        let answer = b"0x7fba7d679ea0 file.example be1\n0x7fba7d679780 p2.example be2 with spaces\n\
            0x7fba7d6796c0  p3.example   be1   \n0x7f q2.example\nq3.example be1\n0x7f \nr2.example be2\n\
            0x7f #hash be1\n0x7f \xc3\xa9 be1\n0x7f s.example \n0x7f a.example be1\n0x7f a.example be2\n";
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(
            entries(answer),
            [
                ("file.example".to_owned(), some("be1")),
                ("p2.example".to_owned(), None),
                ("q2.example".to_owned(), None),
                ("s.example".to_owned(), None),
                ("a.example".to_owned(), some("be1")),
                ("a.example".to_owned(), some("be2")),
            ]
        );
        assert_eq!(map(answer).unwrap().others, 4);
        assert_eq!(map(b"").unwrap(), MapContent::default());
        assert_eq!(map(b"0x1 a b\n0x2 c"), Err(ParseError::CutOff(2)));
        let error = map(b"What a lovely day.\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the answer does not begin as expected, but with \"What a lovely day.\""
        );
    }

    proptest! {
        #[test]
        fn what_haproxy_shows_of_our_words_is_read_back(words in proptest::collection::vec(("[!-~]{1,30}", "[A-Za-z0-9_.:-]{1,20}"), 0..20)) {
            let words: Vec<_> = words.into_iter().filter(|(key, _)| MapWord::new(key).is_ok()).collect();
            let rows: Vec<_> = words.iter().map(|(key, value)| format!("0x7f01 {key} {value}\n")).collect();
            let answer = rows.concat();
            let expected: Vec<_> = words.into_iter().map(|(key, value)| (key, Some(value))).collect();
            prop_assert_eq!(entries(answer.as_bytes()), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(answer: Vec<u8>) {
            let _ = map(&answer);
        }
    }
}
