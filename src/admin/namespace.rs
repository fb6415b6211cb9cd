//! How one namespace is followed, as `/status` and the metrics show it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::status::OneLine;

/// A namespace that is followed, or `*`.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name, as the operator wrote it.
    pub name: String,
    /// By what.
    pub followed: Followed,
    /// Since when by that.
    pub since: Instant,
    /// The highest index of Nomad's table of registrations that is known.
    pub index: Option<u64>,
    /// When what is known was last the catalog of that moment.
    pub known_at: Option<Instant>,
    /// What kept it from being read last.
    pub trouble: Option<Trouble>,
    /// Nomad's index went back: its servers were restored from a snapshot, or made anew.
    pub went_back: Option<WentBack>,
}

/// How often an index went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WentBack {
    /// How often, since the start.
    pub times: u64,
    /// The last time.
    pub last: Instant,
}

/// By what a namespace is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Its event stream.
    Stream,
    /// Queries that Nomad holds until something changes.
    Blocking,
    /// Nothing for now.
    Nothing,
}

/// What keeps, or kept, a namespace or one of its services from being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened, in an operator's words.
    pub text: String,
    /// Since when.
    pub began: Instant,
    /// Until when, if it is over.
    pub ended: Option<Instant>,
}

impl Followed {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Blocking, Self::Nothing];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Blocking => "blocking",
            Self::Nothing => "none",
        }
    }
}

impl Namespace {
    /// One that nothing is known of at `now`.
    #[must_use]
    pub fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            followed: Followed::Nothing,
            since: now,
            index: None,
            known_at: None,
            trouble: None,
            went_back: None,
        }
    }

    /// One line for an operator, as of `now`.
    pub(super) fn line(&self, now: Instant) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            let seconds = |since| now.saturating_duration_since(since).as_secs();
            let how = match self.followed {
                Followed::Stream => "followed by its event stream",
                Followed::Blocking => "followed by blocking queries",
                Followed::Nothing => "not followed",
            };
            write!(
                f,
                "namespace {}: {how} for {} s",
                self.name,
                seconds(self.since)
            )?;
            match self.index {
                Some(index) => write!(f, "; index {index}")?,
                None => f.write_str("; no index")?,
            }
            match self.known_at {
                Some(at) => write!(f, "; current {} s ago", seconds(at))?,
                None => f.write_str("; never read")?,
            }
            if let Some(WentBack { times, last }) = self.went_back {
                let times = match times {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                };
                let ago = seconds(last);
                write!(f, "; its index went back {times}, last {ago} s ago")?;
            }
            let Some(Trouble { text, began, ended }) = &self.trouble else {
                return Ok(());
            };
            let text = OneLine(text);
            match ended {
                None => write!(f, "; trouble for {} s: {text}", seconds(*began)),
                Some(ended) => {
                    let lasted: Duration = ended.saturating_duration_since(*began);
                    let (ago, lasted) = (seconds(*ended), lasted.as_secs());
                    write!(
                        f,
                        "; last trouble ended {ago} s ago after {lasted} s: {text}"
                    )
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "only a starting point")]
    fn a_namespace_is_one_line_whatever_its_trouble_says() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut namespace = Namespace::new("default", start);
        let line = |namespace: &Namespace| namespace.line(at(60)).to_string();
        assert_eq!(
            line(&namespace),
            "namespace default: not followed for 60 s; no index; never read"
        );
        namespace.followed = Followed::Stream;
        namespace.since = at(20);
        namespace.index = Some(17);
        namespace.known_at = Some(at(57));
        namespace.trouble = Some(Trouble {
            text: "nomad at a:\nstatus 500".to_owned(),
            began: at(5),
            ended: Some(at(10)),
        });
        let begin =
            "namespace default: followed by its event stream for 40 s; index 17; current 3 s ago; ";
        assert_eq!(
            line(&namespace),
            format!("{begin}last trouble ended 50 s ago after 5 s: nomad at a: status 500")
        );
        namespace.trouble = None;
        for (times, said) in [(1, "once"), (3, "3 times")] {
            let last = at(18);
            namespace.went_back = Some(WentBack { times, last });
            let end = format!("its index went back {said}, last 42 s ago");
            assert_eq!(line(&namespace), format!("{begin}{end}"));
        }
        namespace.went_back = None;
        namespace.trouble = Some(Trouble {
            text: "x".repeat(1000),
            began: at(55),
            ended: None,
        });
        assert_eq!(
            line(&namespace),
            format!("{begin}trouble for 5 s: {}…", "x".repeat(300))
        );
    }
}
