//! A hand between the core and HAProxy that breaks one rule on purpose, so that each law is seen to catch what it is
//! there for: `SABOTAGE=7 SEED=3 cargo test --test sim one_seed -- --nocapture` plays it once more.

use std::time::Duration;

use haproxy_nomad_sidecar::model::Command;

use crate::{haproxy_model::View, play, rules, session::Sent, variable, world::World};

/// What it does, by the invariant that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// No server is ever held.
    NoHolds,
    /// The core sees no sessions on servers that are drained.
    DrainedSeemIdle,
    /// The core sees no sessions on servers in maintenance, and no idle connections.
    FreedSeemQuiet,
    /// Nothing is down when it comes in.
    NothingComesInDown,
    /// Whatever is DOWN is made UP.
    UpByForce,
}

impl Sabotage {
    pub(crate) const ALL: [Self; 5] = [
        Self::NoHolds,
        Self::DrainedSeemIdle,
        Self::FreedSeemQuiet,
        Self::NothingComesInDown,
        Self::UpByForce,
    ];

    /// The number of the invariant.
    pub(crate) fn invariant(self) -> usize {
        6 + Self::ALL.iter().position(|one| *one == self).unwrap()
    }

    /// By the number of the invariant.
    pub(crate) fn of(invariant: u64) -> Self {
        let at = usize::try_from(invariant)
            .ok()
            .and_then(|number| number.checked_sub(6));
        let of = at.and_then(|at| Self::ALL.get(at));
        *of.expect("SABOTAGE is the number of an invariant, 6 to 10")
    }

    /// The law that has to catch it.
    pub(crate) fn law(self) -> &'static str {
        match self {
            Self::NoHolds => rules::MAKE_BEFORE_BREAK,
            Self::DrainedSeemIdle => rules::NOTHING_IS_CUT,
            Self::FreedSeemQuiet => rules::QUIET_SLOTS,
            Self::NothingComesInDown => rules::HAPROXY_ADMITS,
            Self::UpByForce => rules::VERDICTS,
        }
    }
}

impl World {
    /// From the start on.
    pub(crate) fn sabotaged(mut self, sabotage: Sabotage) -> Self {
        if sabotage == Sabotage::NoHolds {
            // The laws have a policy of their own.
            self.policy.hold = Duration::ZERO;
        }
        self.sabotage = Some(sabotage);
        self
    }

    /// Carries out a change, as it is or not, and judges it.
    pub(crate) fn carry_out_change(&mut self, pid: u32, command: &Command, line: &Sent) -> String {
        let server = command.server();
        let (backend, name) = (server.backend.as_str(), server.server.as_str());
        let now = self.now;
        let is_current = Some(pid) == self.current_pid;
        let process = self.processes.get_mut(&pid).unwrap();
        let before = process.server(backend, name);
        let reply = match twisted(self.sabotage, line.text.trim_end()) {
            Some(text) => process.execute(now, &text),
            None => String::new(),
        };
        let after = process.server(backend, name);
        let cuts = process.take_cuts();
        if is_current {
            self.judge_change(command, line, before.as_ref(), after.as_ref(), &cuts);
        }
        self.sessions_were_cut(&cuts);
        if is_current && self.sabotage == Some(Sabotage::UpByForce) {
            self.force_up(pid, backend);
        }
        reply
    }

    fn force_up(&mut self, pid: u32, backend: &str) {
        let process = self.processes.get_mut(&pid).unwrap();
        let is_down = |view: &View| {
            let is_ours = view.dynamic || view.admin & 4 != 0;
            view.backend == backend && is_ours && view.found_down && view.admin & 9 == 0
        };
        let Some(before) = process.servers().into_iter().find(is_down) else {
            return;
        };
        let text = format!("set server {backend}/{} health up", before.name);
        process.execute(self.now, &text);
        let after = process.server(backend, &before.name);
        self.trace(|| format!("  sabotage: {text}"));
        if let Some(after) = after {
            self.judge_verdict(&before, &after);
        }
    }

    /// What the core reads.
    pub(crate) fn twist_reading(&mut self, pid: u32, text: &str, reply: String) -> String {
        if let Some(rest) = text.strip_prefix("show servers state")
            && Some(pid) == self.current_pid
        {
            let backend = rest.trim();
            self.addresses_were_read((!backend.is_empty()).then_some(backend));
        }
        let status = match self.sabotage {
            Some(Sabotage::DrainedSeemIdle) => "DRAIN",
            Some(Sabotage::FreedSeemQuiet) => "MAINT",
            _ => return reply,
        };
        if text.starts_with("show stat ") {
            without_sessions(&reply, status)
        } else {
            reply
        }
    }
}

fn twisted(sabotage: Option<Sabotage>, text: &str) -> Option<String> {
    if sabotage != Some(Sabotage::NothingComesInDown) {
        return Some(text.to_owned());
    }
    (!text.ends_with(" health down")).then(|| text.replace(" init-state fully-down", ""))
}

/// An answer to `show stat` in which servers of this status have neither sessions nor idle connections.
fn without_sessions(reply: &str, status: &str) -> String {
    let mut lines = reply.split_inclusive('\n');
    let header = lines.next().unwrap_or_default();
    let columns: Vec<&str> = header.trim_start_matches("# ").split(',').collect();
    let at = |column: &str| columns.iter().position(|one| *one == column).unwrap();
    let (scur, icur, state) = (at("scur"), at("srv_icur"), at("status"));
    let mut text = header.to_owned();
    for line in lines {
        let mut cells: Vec<&str> = line.split(',').collect();
        if cells
            .get(state)
            .is_some_and(|cell| cell.starts_with(status))
        {
            cells[scur] = "0";
            cells[icur] = "0";
        }
        text += &cells.join(",");
    }
    text
}

/// Of so many seeds one shows it.
const SEEDS: u64 = 40;

#[test]
fn whoever_breaks_one_of_the_invariants_6_to_10_is_caught_by_its_law() {
    if variable("SEED").is_some() {
        return;
    }
    for sabotage in Sabotage::ALL {
        let caught = (1..=SEEDS).find_map(|seed| {
            let mut world = World::of_seed(seed).sabotaged(sabotage);
            play(&mut world).err()?;
            let violation = world.violation?;
            violation
                .starts_with(sabotage.law())
                .then(|| format!("seed {seed}: {violation}"))
        });
        let invariant = sabotage.invariant();
        println!("SABOTAGE={invariant}: {caught:?}");
        assert!(caught.is_some(), "{sabotage:?} is not caught");
    }
}
