//! What a failure shows: the last things that happened, and the law that was broken.

use std::collections::VecDeque;

use haproxy_nomad_sidecar::{catalog::Heard, model::NomadEvent};

use crate::world::World;

/// So many lines are shown.
const TAIL: usize = 150;

#[derive(Default)]
pub(crate) struct Trace {
    lines: VecDeque<String>,
    everything: bool,
    /// Nobody reads it: most seeds keep the laws, and writing costs more than all else.
    muted: bool,
}

impl World {
    pub(crate) fn trace(&mut self, text: impl FnOnce() -> String) {
        if self.trace.muted {
            return;
        }
        let line = format!("{:>10.4} {}", self.now.as_secs_f64(), text());
        self.trace.lines.push_back(line);
        if !self.trace.everything && self.trace.lines.len() > TAIL {
            self.trace.lines.pop_front();
        }
    }

    pub(crate) fn trace_everything(&mut self) {
        self.trace.everything = true;
    }

    pub(crate) fn muted(mut self) -> Self {
        self.trace.muted = true;
        self
    }

    pub(crate) fn violated(&mut self, law: &str, how: &str) {
        self.trace(|| format!("BROKEN: {law}: {how}"));
        let step = self.steps;
        self.violation
            .get_or_insert_with(|| format!("{law}: {how}, at step {step}"));
    }

    /// The trace and what was violated, for people.
    pub(crate) fn report(&self) -> String {
        let sabotage = self
            .sabotage
            .map(|one| format!("SABOTAGE={} ", one.invariant()));
        let sabotage = sabotage.unwrap_or_default();
        let test = if self.matrix.place.is_some() {
            "one_matrix"
        } else {
            "one_seed"
        };
        let lines: Vec<_> = self.trace.lines.iter().map(String::as_str).collect();
        format!(
            "{}\nHAProxy {}, seed {} (again: {sabotage}SEED={} cargo test --test sim {test} -- --nocapture)\nbroken: {}",
            lines.join("\n"),
            self.version,
            self.seed,
            self.seed,
            self.violation.as_deref().unwrap_or("nothing"),
        )
    }
}

/// What the mirror hears, in short.
pub(crate) fn shown(heard: &Heard) -> String {
    match heard {
        Heard::StreamOpened { .. } => "stream opened".to_owned(),
        Heard::StreamLine { line, .. } => {
            let events = line.events.iter().map(|event| match event {
                NomadEvent::Registered(one) => format!("+{}", one.id),
                NomadEvent::Deregistered(one) => {
                    format!("-{}", one.id)
                }
            });
            format!(
                "line {}: {}",
                line.index,
                events.collect::<Vec<_>>().join(" ")
            )
        }
        Heard::StreamEnded { end, .. } => format!("stream ended: {end:?}"),
        Heard::Listed { result, .. } => match result {
            Ok(listing) => format!(
                "list {}: {:?}",
                listing.index,
                listing
                    .services
                    .iter()
                    .map(|one| &one.key)
                    .collect::<Vec<_>>()
            ),
            Err(failure) => format!("list: {}", failure.kind),
        },
        Heard::Read { result, .. } => match result {
            Ok(reading) => format!(
                "read {}: {:?}",
                reading.index,
                reading
                    .registrations
                    .iter()
                    .map(|one| &one.id)
                    .collect::<Vec<_>>()
            ),
            Err(failure) => format!("read: {}", failure.kind),
        },
    }
}
