//! What the mirror hears, asks and tells, with the times: what a fault must change in order to count.

use std::{
    collections::VecDeque,
    fmt::{self, Debug, Write as _},
    time::Duration,
};

/// So much is shown of what led to a broken law.
const TAIL: usize = 200;

/// The hashes of the entries since the last fork.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    entries: Vec<u64>,
    /// For people; kept only by those who ask for it.
    text: Option<VecDeque<String>>,
}

impl Trace {
    pub(crate) fn entries(&self) -> &[u64] {
        &self.entries
    }

    pub(crate) fn forget_entries(&mut self) {
        self.entries.clear();
    }

    /// The trace of a fork: it begins here.
    pub(crate) fn forked() -> Self {
        Self::default()
    }

    pub(crate) fn keep_text(&mut self) {
        self.text = Some(VecDeque::new());
    }

    /// Something passed between the mirror and the world.
    pub(crate) fn enter(&mut self, now: Duration, what: &str, content: &dyn Debug) {
        let mut hash = Hash(0);
        write!(hash, "{} {what} {content:?}", now.as_nanos()).unwrap();
        self.entries.push(hash.0);
        self.note(now, || format!("{what} {content:?}"));
    }

    /// A line for people that is no part of what is compared.
    pub(crate) fn note(&mut self, now: Duration, text: impl FnOnce() -> String) {
        let Some(lines) = &mut self.text else { return };
        lines.push_back(format!("{:>10.4} {}", now.as_secs_f64(), text()));
        if lines.len() > TAIL {
            lines.pop_front();
        }
    }

    pub(crate) fn shown(&self) -> String {
        let lines = self.text.iter().flatten();
        lines.fold(String::new(), |all, line| all + line + "\n")
    }
}

/// Of text, in any number of pieces.
struct Hash(u64);

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for eight in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..eight.len()].copy_from_slice(eight);
            let mixed = (self.0 ^ u64::from_le_bytes(bytes)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.0 = mixed ^ (mixed >> 29);
        }
        Ok(())
    }
}
