//! Readers of whole `show …` answers. They go by the names of columns, not by their places, since columns grow from
//! version to version, and take bytes, since HAProxy echoes what it was sent, valid UTF-8 or not.
//!
//! A name outside our grammar is nobody's mistake and is passed over as `model` says; anything else that does not fit is
//! an error, never a guess. Source: management guide, section 9.3.

mod backend;
mod info;
mod map;
mod servers_state;
mod stat;
mod verdicts;

use memchr::memchr;
use nom::{
    IResult, Parser,
    bytes::complete::{tag, take},
    combinator::all_consuming,
    sequence::terminated,
};

pub use backend::{backends, guids};
pub use info::info;
pub use map::map;
pub use servers_state::servers_state;
pub use stat::{backend_rows, stat};
pub use verdicts::verdicts;

/// Why an answer cannot be read. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The answer ends within a line, or before what must be there.
    #[error("the answer is cut off in line {0}")]
    CutOff(usize),
    /// Not the first lines that belong to this answer.
    #[error("the answer does not begin as expected, but with {0:?}")]
    Beginning(String),
    /// A column, or a line of `show info`, that is needed and not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A line has not as many columns as the header.
    #[error("line {line} has {columns} columns, its header has {expected}")]
    Columns {
        /// The line.
        line: usize,
        /// How many it has.
        columns: usize,
        /// How many the header has.
        expected: usize,
    },
    /// A value that is not of its kind.
    #[error("line {line}: {what} cannot be {value:?}")]
    Value {
        /// The line.
        line: usize,
        /// The column.
        what: &'static str,
        /// Its value.
        value: String,
    },
}

/// At most this many characters of an answer are shown.
const SHOWN: usize = 200;

/// The first characters of an answer, for an error.
pub(super) fn shown(bytes: &[u8]) -> String {
    // No character is longer than four bytes.
    String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)])
        .chars()
        .take(SHOWN)
        .collect()
}

/// One line, without its line feed.
fn line(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let end = memchr(b'\n', input).unwrap_or(input.len());
    terminated(take(end), tag("\n".as_bytes())).parse(input)
}

/// A number, by one of nom's parsers.
fn number<'a, T>(
    bytes: &'a [u8],
    line: usize,
    what: &'static str,
    parser: impl Fn(&'a [u8]) -> IResult<&'a [u8], T>,
) -> Result<T, ParseError> {
    match all_consuming(parser).parse(bytes) {
        Ok((_, number)) => Ok(number),
        Err(_) => Err(unfit(bytes, line, what)),
    }
}

/// Another value with a text form.
fn value<T: std::str::FromStr>(
    bytes: &[u8],
    line: usize,
    what: &'static str,
) -> Result<T, ParseError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| unfit(bytes, line, what))
}

/// A value that is not of its kind.
fn unfit(bytes: &[u8], line: usize, what: &'static str) -> ParseError {
    ParseError::Value {
        line,
        what,
        value: shown(bytes),
    }
}

/// A text that may be one of our names.
fn name(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Finds out where the columns that are asked for are. The same column never is asked for twice.
fn columns<const N: usize>(
    header: &[&[u8]],
    names: [&'static str; N],
) -> Result<[usize; N], ParseError> {
    let mut places = [0; N];
    for (place, name) in places.iter_mut().zip(names) {
        *place = column(header, name).ok_or(ParseError::Missing(name))?;
    }
    Ok(places)
}

fn column(header: &[&[u8]], name: &str) -> Option<usize> {
    header.iter().position(|column| *column == name.as_bytes())
}
