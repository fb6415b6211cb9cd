//! What a plan has to say besides the changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{BackendName, Command, Scope, ServerName, ServiceKey},
    nomad::watch::Unread,
    reconcile::{
        Fact, Found, Guard, Overview, Owned, Removals, desired::Rejection, routes::RouteFact,
    },
};

/// The remarks, each a line, and how much there is of what is not as it should be and is not changed either.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    pub(super) lines: Vec<String>,
    frozen: BTreeSet<(BackendName, ServerName)>,
    blocked: usize,
    by_hand: usize,
    not_served: usize,
    not_routed: usize,
    not_read: usize,
}

impl Remarks {
    /// `overview` is of the end: what was found at the begin did not yet tell of what nobody asks for any more.
    pub(super) fn of(
        unread: &BTreeMap<Scope, Unread>,
        facts: &[Fact],
        overview: &Overview,
    ) -> Self {
        let mut remarks = Self {
            not_read: unread.len(),
            ..Self::default()
        };
        for (scope, why) in unread {
            let what = match scope {
                Scope::Service(key) => key.to_string(),
                Scope::Namespace(name) => name.to_string(),
            };
            remarks.say(format!(
                "not read: {what}: {why}; what HAProxy has of it stays"
            ));
        }
        for fact in facts {
            remarks.add(fact, overview);
        }
        remarks
    }

    /// `2 held, 1 blocked`; empty if all is as it should be.
    pub(super) fn summary(&self) -> String {
        let counted = [
            (self.frozen.len(), "held"),
            (self.blocked, "blocked"),
            (self.by_hand, "by hand"),
            (self.not_served, "not served"),
            (self.not_routed, "not routed"),
            (self.not_read, "not read"),
        ];
        let there = counted.iter().filter(|(count, _)| *count > 0);
        let words: Vec<_> = there
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        words.join(", ")
    }

    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    fn add(&mut self, fact: &Fact, overview: &Overview) {
        match fact {
            Fact::Found(found) => self.say(found_in_the_end(found, &overview.owned)),
            Fact::Hindered(backend, hindrance) => {
                self.blocked += 1;
                let (who, what) = (&hindrance.registration, &hindrance.obstacle);
                self.say(format!("blocked in {backend}: {who}: {what}"));
            }
            Fact::ByHand(backend, left) => {
                self.by_hand += 1;
                let (who, what) = (&left.registration, left.describe(backend));
                self.say(format!("by hand in {backend}: {who}: {what}"));
            }
            Fact::Held(backend, hold) if hold.guard == Some(Guard::Frozen) => {
                self.freeze(backend, &hold.server, &hold.registration);
            }
            Fact::Waits(backend, server, Removals::Frozen) => {
                self.freeze(backend, server, server.as_str());
            }
            Fact::Routes(RouteFact::Blocked(obstacle)) => {
                self.blocked += 1;
                self.say(format!("route blocked: {obstacle}"));
            }
            Fact::WouldSend { backend, steps, .. } => {
                for step in steps {
                    let Command::AddBackend(_, section) = &step.command else {
                        continue;
                    };
                    self.say(format!(
                        "not known of {backend}: whether haproxy.cfg has a section `defaults {section}` to make it from, which \
                         HAProxy tells when it is made; `explain {backend}` tells what a sidecar that runs has met"
                    ));
                }
            }
            Fact::Rejected(service, rejection) => self.reject(service, rejection),
            Fact::Routes(
                RouteFact::Applied { .. }
                | RouteFact::WouldSend(_)
                | RouteFact::Sent(_)
                | RouteFact::Failed { .. }
                | RouteFact::Unblocked(_),
            )
            | Fact::Restarted { .. }
            | Fact::Applied { .. }
            | Fact::Sent(_)
            | Fact::Noticed(..)
            | Fact::Failed { .. }
            | Fact::Unhindered(..)
            | Fact::NoLongerByHand(..)
            // That is a change, though not now.
            | Fact::Held(..)
            | Fact::HoldEnded(..)
            | Fact::MassBegan(_)
            | Fact::MassEnded { .. }
            | Fact::SecondOpinion(_)
            | Fact::Frozen { .. }
            | Fact::Thawed { .. }
            | Fact::Limited { .. }
            | Fact::Waits(..)
            | Fact::Unrejected(..)
            | Fact::FirstSync { .. }
            | Fact::InSync { .. }
            | Fact::Admitted { .. }
            | Fact::Arrived(..)
            | Fact::Turned(..)
            | Fact::SnapshotApplied { .. }
            | Fact::Restoring(_)
            | Fact::SyncFailed { .. } => {}
        }
    }

    fn freeze(&mut self, backend: &BackendName, server: &ServerName, who: &str) {
        if self.frozen.insert((backend.clone(), server.clone())) {
            self.say(format!("frozen in {backend}: {who}: removals are stopped"));
        }
    }

    fn reject(&mut self, service: &ServiceKey, rejection: &Rejection) {
        let word = if rejection.reason.costs_a_route() {
            self.not_routed += 1;
            "not routed"
        } else if rejection.reason.is_note() {
            "note"
        } else {
            self.not_served += 1;
            "not served"
        };
        let (who, why) = (&rejection.registration, &rejection.reason);
        self.say(format!("{word}: {service}: {who}: {why}"));
    }
}

/// What there is, each server counted as what it turned out to be.
fn found_in_the_end(found: &Found, owned: &Owned) -> String {
    let ours = owned.in_rotation + owned.down + owned.draining + owned.maintenance + owned.free;
    let all = found.owned + found.foreign;
    format!(
        "HAProxy {}: {ours} servers are the sidecar's, {} are not and stay as they are; {} services are wanted",
        found.process.version_text,
        all.saturating_sub(ours),
        found.services
    )
}
