//! What happened when, by whoever did it.

use std::{
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

/// What physics goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The first fault begins at most now.
    Begins,
    /// The master is told to reload.
    ReloadAsked,
    /// Another process answers.
    Reloaded,
    /// A signal is about to end all of HAProxy.
    HaproxyEnds,
    /// It was started again, and answers.
    HaproxyAnswers,
    /// It ends, or stands still.
    SidecarGone,
    /// Another one was started: it knows nothing.
    SidecarStarts,
    /// The same one goes on: it knows what it knew.
    SidecarGoesOn,
    NomadFails,
    NomadRecovers,
    /// The one that leaves is told to end.
    InstanceEnds,
    /// And has finished what ran.
    InstanceEnded,
    /// What physics does not care for.
    Told(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(text) => f.write_str(text),
            Self::Begins
            | Self::ReloadAsked
            | Self::Reloaded
            | Self::HaproxyEnds
            | Self::HaproxyAnswers
            | Self::SidecarGone
            | Self::SidecarStarts
            | Self::SidecarGoesOn
            | Self::NomadFails
            | Self::NomadRecovers
            | Self::InstanceEnds
            | Self::InstanceEnded => write!(f, "{self:?}"),
        }
    }
}

/// Told by several threads.
#[derive(Default)]
pub(crate) struct Story(Mutex<Vec<(Instant, Event)>>);

impl Story {
    pub(crate) fn is(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push((Instant::now(), event));
    }

    pub(crate) fn tell(&self, text: impl Into<String>) {
        self.is(Event::Told(text.into()));
    }

    pub(crate) fn events(&self) -> Vec<(Instant, Event)> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone()
    }
}

/// Seconds since the first fault began, before which they are negative.
pub(crate) fn since(begins: Instant, at: Instant) -> f64 {
    if at < begins {
        -(begins - at).as_secs_f64()
    } else {
        (at - begins).as_secs_f64()
    }
}

/// A line for each.
pub(crate) fn printed(events: &[(Instant, Event)], begins: Instant) -> String {
    let mut text = String::new();
    for (at, event) in events {
        writeln!(text, "  {:7.3} {event}", since(begins, *at)).expect("a text can be written to");
    }
    text
}
