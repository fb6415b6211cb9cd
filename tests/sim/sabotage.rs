//! A hand between the core and HAProxy that breaks one rule on purpose, so that each law is seen to catch what it is
//! there for: `SABOTAGE=7 SEED=3 cargo test --test sim one_seed -- --nocapture` plays it once more.

use std::time::Duration;

use haproxy_nomad_sidecar::model::{Command, MapChange, ServerRef};

use crate::{
    guards,
    haproxy_model::View,
    invariants,
    matrix::Fault,
    play, play_matrix, routes, rules,
    session::Sent,
    variable,
    world::{FIRST_PID, World},
};

/// What it does, by the invariant that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// What HAProxy reports is what the process before had.
    OldReadings,
    /// What is meant for one server is done to an operator's.
    HandsOnForeign,
    /// A list that nobody believes is believed.
    FalseEmptyBelieved,
    /// When all is done, one server is not in what HAProxy reports.
    NeverDone,
    /// Whoever comes second does not connect.
    NoSecondStart,
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
    /// What an attack's tag says is said to HAProxy.
    NothingIsValidated,
    /// Unknown words are taken for a success.
    AllIsUnderstood,
    /// While HAProxy refuses what is done in one backend, nothing is heard of the services of others.
    OneHoldsUpAll,
    /// The core is not told that removals are stopped.
    NothingFreezes,
    /// What runs is said to be told to stop.
    NobodyRuns,
    /// What has ended is said to run.
    NobodyHasEnded,
    /// Every map is empty as far as the core sees.
    MapsSeemEmpty,
    /// With each new entry one of an operator's goes.
    HandsOnForeignEntries,
}

impl Sabotage {
    pub(crate) const ALL: [Self; 18] = [
        Self::OldReadings,
        Self::HandsOnForeign,
        Self::FalseEmptyBelieved,
        Self::NeverDone,
        Self::NoSecondStart,
        Self::NoHolds,
        Self::DrainedSeemIdle,
        Self::FreedSeemQuiet,
        Self::NothingComesInDown,
        Self::UpByForce,
        Self::NothingIsValidated,
        Self::AllIsUnderstood,
        Self::OneHoldsUpAll,
        Self::NothingFreezes,
        Self::NobodyRuns,
        Self::NobodyHasEnded,
        Self::MapsSeemEmpty,
        Self::HandsOnForeignEntries,
    ];

    /// The number of the invariant; those of the guards and of routes come after them.
    pub(crate) fn invariant(self) -> usize {
        1 + Self::ALL.iter().position(|one| *one == self).unwrap()
    }

    /// By the number of the invariant.
    pub(crate) fn of(invariant: u64) -> Self {
        let at = usize::try_from(invariant)
            .ok()
            .and_then(|number| number.checked_sub(1));
        let of = at.and_then(|at| Self::ALL.get(at));
        *of.expect("SABOTAGE is the number of an invariant")
    }

    /// The law that has to catch it.
    pub(crate) fn law(self) -> &'static str {
        match self {
            Self::OldReadings => invariants::FROM_WHAT_IT_REPORTS,
            Self::HandsOnForeign => invariants::FOREIGN,
            Self::FalseEmptyBelieved => invariants::NOTHING_REMOVED,
            Self::NeverDone => invariants::NOTHING_TO_DO,
            Self::NoSecondStart => invariants::RIGHT_AGAIN,
            Self::NoHolds => rules::MAKE_BEFORE_BREAK,
            Self::DrainedSeemIdle => rules::NOTHING_IS_CUT,
            Self::FreedSeemQuiet => rules::QUIET_SLOTS,
            Self::NothingComesInDown => rules::HAPROXY_ADMITS,
            Self::UpByForce => rules::VERDICTS,
            Self::NothingIsValidated => invariants::VALIDATED,
            Self::AllIsUnderstood => invariants::UNDERSTOOD,
            Self::OneHoldsUpAll => invariants::OTHERS_GO_ON,
            Self::NothingFreezes => guards::FROZEN,
            Self::NobodyRuns => guards::ALIVE,
            Self::NobodyHasEnded => guards::ENDED,
            Self::MapsSeemEmpty => routes::ROUTES,
            Self::HandsOnForeignEntries => routes::OTHERS_ROUTES,
        }
    }

    /// 6 to 10 need many kinds of servers and clients, the others the faults of the matrix.
    fn needs_faults(self) -> bool {
        !(6..=10).contains(&self.invariant())
    }

    /// What shows it: every other fault is this one.
    pub(crate) fn shown_by(self) -> Option<Fault> {
        match self {
            Self::OldReadings => Some(Fault::HaproxyReload),
            Self::FalseEmptyBelieved => Some(Fault::NomadFalseEmpty),
            Self::NoSecondStart => Some(Fault::HaproxyKill),
            Self::NothingIsValidated => Some(Fault::Hostile),
            Self::AllIsUnderstood => Some(Fault::Garbled),
            Self::OneHoldsUpAll => Some(Fault::OneRefuses),
            Self::NothingFreezes => Some(Fault::Frozen),
            Self::NobodyRuns => Some(Fault::Vanished),
            Self::NobodyHasEnded => Some(Fault::Ghost),
            Self::HandsOnForeign
            | Self::NeverDone
            | Self::NoHolds
            | Self::DrainedSeemIdle
            | Self::FreedSeemQuiet
            | Self::NothingComesInDown
            | Self::UpByForce
            | Self::MapsSeemEmpty
            | Self::HandsOnForeignEntries => None,
        }
    }

    fn play(self, seed: u64) -> Option<String> {
        let mut world = if self.needs_faults() {
            World::of_matrix(seed)
        } else {
            World::of_seed(seed)
        };
        world = world.muted().sabotaged(self);
        let played = if self.needs_faults() {
            play_matrix(&mut world)
        } else {
            play(&mut world)
        };
        played.err()?;
        world.violation
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
        let Some(server) = command.server() else {
            let process = self.processes.get_mut(&pid).unwrap();
            return process.execute(self.now, line.text.trim_end());
        };
        let (backend, name) = (server.backend.as_str(), server.server.as_str());
        let now = self.now;
        let is_current = Some(pid) == self.current_pid;
        let process = self.processes.get_mut(&pid).unwrap();
        let before = process.server(backend, name);
        let reply = match twisted(self.sabotage, line.text.trim_end(), server) {
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

    /// Carries out the change of a map, as it is or not, and judges it.
    pub(crate) fn carry_out_map(&mut self, pid: u32, change: &MapChange, line: &Sent) -> String {
        let now = self.now;
        let process = self.processes.get_mut(&pid).unwrap();
        if self.sabotage == Some(Sabotage::HandsOnForeignEntries) {
            process.execute(now, "del map virt@hosts static.example");
        }
        let reply = process.execute(now, line.text.trim_end());
        if Some(pid) == self.current_pid {
            self.judge_map(change, line);
        }
        reply
    }

    /// What the first process said to this last.
    fn first_reading(&mut self, pid: u32, text: &str, reply: String) -> String {
        if pid == FIRST_PID {
            self.old_readings.insert(text.to_owned(), reply.clone());
            return reply;
        }
        self.old_readings.get(text).cloned().unwrap_or(reply)
    }

    /// What is to be said instead of a line.
    pub(crate) fn unvalidated(&self, line: &Sent) -> Option<Sent> {
        if self.sabotage != Some(Sabotage::NothingIsValidated) || !line.is_change() {
            return None;
        }
        let mut tags = self.nomad.table().values().flat_map(|one| &one.tags);
        let attack = tags.find(|tag| tag.contains("shutdown"))?;
        let mut line = line.clone();
        line.text = format!("{} {attack}\n", line.text.trim_end());
        Some(line)
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
            Some(Sabotage::OldReadings) if text.starts_with("show servers state") => {
                return self.first_reading(pid, text, reply);
            }
            Some(Sabotage::NeverDone) if text.starts_with("show servers state") && self.quiet => {
                return without_one(&reply);
            }
            Some(Sabotage::MapsSeemEmpty) if text.starts_with("show map ") => {
                return String::new();
            }
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

fn twisted(sabotage: Option<Sabotage>, text: &str, server: &ServerRef) -> Option<String> {
    if sabotage == Some(Sabotage::HandsOnForeign) && text.ends_with(" state drain") {
        let foreign = if server.backend.as_str() == "web" {
            "old1"
        } else {
            "static1"
        };
        return Some(text.replace(server.server.as_str(), foreign));
    }
    if sabotage != Some(Sabotage::NothingComesInDown) {
        return Some(text.to_owned());
    }
    (!text.ends_with(" health down")).then(|| text.replace(" init-state fully-down", ""))
}

/// An answer to `show servers state` without one server in service.
fn without_one(reply: &str) -> String {
    let mut lines: Vec<&str> = reply.split_inclusive('\n').collect();
    let is_in_service = |line: &&str| {
        let cells: Vec<&str> = line.split(' ').collect();
        cells.len() > 6 && cells[3].starts_with("nomad") && ["0", "4"].contains(&cells[6])
    };
    if let Some(at) = lines.iter().position(is_in_service) {
        lines.remove(at);
    }
    lines.concat()
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
fn whoever_breaks_one_of_the_invariants_is_caught_by_its_law() {
    if variable("SEED").is_some() {
        return;
    }
    for sabotage in Sabotage::ALL {
        let caught = (1..=SEEDS).find_map(|seed| {
            let violation = sabotage.play(seed)?;
            violation
                .starts_with(sabotage.law())
                .then(|| format!("seed {seed}: {violation}"))
        });
        let invariant = sabotage.invariant();
        println!("SABOTAGE={invariant}: {caught:?}");
        assert!(caught.is_some(), "{sabotage:?} is not caught");
    }
}
