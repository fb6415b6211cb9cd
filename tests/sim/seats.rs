//! Two sidecars at one socket, and a process that is stopped for a while.
//!
//! What the world has of its sidecar is of the one that is in charge, or was last. All that is the other's own is kept
//! in a [`Seat`], and changes places with it while something happens to the other one. The lock is the kernel's: it is
//! free when its holder is dead, not when it is stopped.

use std::time::Duration;

use haproxy_nomad_sidecar::{
    catalog::{Mirror, Wanted},
    reconcile::{Hands, Input, Mode, Reconciler},
    snapshot,
};

use crate::{
    invariants::ONE_IN_CHARGE,
    ledger::Ledger,
    link::Link,
    session::Session,
    world::{Event, Sidecar, World},
};

/// After so long without Nomad a sidecar takes in what its predecessor left.
pub(crate) const AWAY: Duration = Duration::from_secs(2);
/// Between two tries of the lock.
const TRY: Duration = Duration::from_millis(250);

const TAKES_OVER_WITHIN: Duration = Duration::from_secs(1);
/// So few that a world can have services beyond the limit.
const HELD_READS: usize = 2;

/// What is a sidecar's own.
pub(crate) struct Seat {
    sidecar: Option<Sidecar>,
    session: Session,
    link: Link,
    ledger: Ledger,
    generation: u32,
    knows_since: Option<Duration>,
    stopped_until: Duration,
}

/// When something is due without an event.
#[derive(Clone, Copy, Default)]
pub(crate) struct Timers {
    pub(crate) core: Option<Duration>,
    pub(crate) mirror: Option<Duration>,
}

impl Timers {
    fn of(sidecar: Option<&Sidecar>, stopped_until: Duration) -> Self {
        let after = |at: Duration| at.max(stopped_until);
        Self {
            core: sidecar.and_then(|one| one.core.next_timeout()).map(after),
            mirror: sidecar
                .and_then(|one| one.mirror.next_deadline())
                .map(after),
        }
    }

    fn first(self) -> Duration {
        let times = [self.core, self.mirror].into_iter().flatten();
        times.min().unwrap_or(Duration::MAX)
    }
}

impl World {
    // === One ===

    pub(crate) fn start_sidecar(&mut self) {
        if self.sidecar.is_some() {
            return;
        }
        self.last_generation += 1;
        self.generation = self.last_generation;
        self.stopped_until = Duration::ZERO;
        self.knows_since = None;
        self.book.trouble = self.now;
        self.ledger.forget_indexes(true);
        self.trace(|| "the sidecar starts".to_owned());
        let namespace = if self.star { "*" } else { "default" };
        let seed = self.random.next();
        let wanted = Wanted::new("haproxy", false);
        let mut core = Reconciler::new(self.policy.clone(), self.mode_at_start(), seed);
        if self.keeps_state_file {
            core = core.with_state_file();
        }
        self.sidecar = Some(Sidecar {
            core,
            mirror: Mirror::new(&[namespace.to_owned()], &wanted, HELD_READS, seed, self.now),
            frozen_since: None,
            recalled: Duration::ZERO,
            met: None,
            has_looked: false,
        });
        if self.guards.is_frozen {
            self.hear_of_freezing();
        }
        self.drain_mirror();
        self.recall();
        self.after(Duration::ZERO, Event::Connect(self.generation));
        self.after(AWAY, Event::Restore(self.generation));
    }

    pub(crate) fn kill_sidecar(&mut self, back_after: Duration) {
        if self.sidecar.is_some() {
            self.end_sidecar();
            self.after(back_after, Event::StartSidecar);
        }
    }

    pub(crate) fn end_sidecar(&mut self) {
        let Some(sidecar) = self.sidecar.take() else {
            return;
        };
        if let Some(remembered) = sidecar.core.remember(self.now) {
            self.snapshot = Some((self.now, remembered));
        }
        self.trace(|| "the sidecar is killed".to_owned());
        self.lose_unwritten_hands();
        self.lock.take_if(|of| *of == self.generation);
        self.link.close();
        self.cut("the sidecar is dead", None);
    }

    // === Two ===

    /// The other sidecar and this one change places.
    pub(crate) fn change_places(&mut self) {
        let Some(other) = &mut self.other else { return };
        std::mem::swap(&mut self.sidecar, &mut other.sidecar);
        std::mem::swap(&mut self.session, &mut other.session);
        std::mem::swap(&mut self.link, &mut other.link);
        // Nomad is the same for both.
        std::mem::swap(&mut self.link.health, &mut other.link.health);
        std::mem::swap(&mut self.ledger, &mut other.ledger);
        std::mem::swap(&mut self.generation, &mut other.generation);
        std::mem::swap(&mut self.knows_since, &mut other.knows_since);
        std::mem::swap(&mut self.stopped_until, &mut other.stopped_until);
    }

    /// Something happens to the other one, or to this one.
    pub(crate) fn as_the<T>(&mut self, other: bool, happens: impl FnOnce(&mut Self) -> T) -> T {
        if !other {
            return happens(self);
        }
        let before = self.generation;
        self.change_places();
        let result = happens(self);
        // Unless it has taken charge.
        if self.generation != before && !self.is_in_charge() {
            self.change_places();
        }
        result
    }

    /// It happens to both.
    pub(crate) fn both(&mut self, mut happens: impl FnMut(&mut Self)) {
        happens(self);
        if self.other.is_some() {
            self.as_the(true, happens);
        }
    }

    /// What is due first, and whether it is the other's.
    pub(crate) fn next_timers(&self) -> (Timers, bool) {
        let own = Timers::of(self.sidecar.as_ref(), self.stopped_until);
        let Some(other) = &self.other else {
            return (own, false);
        };
        let others = Timers::of(other.sidecar.as_ref(), other.stopped_until);
        if others.first() < own.first() {
            (others, true)
        } else {
            (own, false)
        }
    }

    /// Whether an event is the other sidecar's.
    pub(crate) fn is_of_the_other(&self, event: &Event) -> bool {
        let Some(other) = &self.other else {
            return false;
        };
        match event {
            Event::Connect(of)
            | Event::Refused(of, _)
            | Event::Asked(of, _)
            | Event::Heard(of, _)
            | Event::HeardRead(of, ..)
            | Event::Opinion(of, ..)
            | Event::Freeze(of)
            | Event::Restore(of)
            | Event::TryLock(of) => *of == other.generation,
            Event::Poll(of) | Event::Line(of) | Event::Answer(of) | Event::Lost(of, _) => {
                *of == other.session.number
            }
            Event::StartSidecar
            | Event::StartHaproxy
            | Event::Conduct(..)
            | Event::Return(_)
            | Event::Arrive(_)
            | Event::Leave(..)
            | Event::Chaos => false,
        }
    }

    /// A timeout of the core, or of the mirror.
    pub(crate) fn time_passed(&mut self, is_core: bool) {
        if is_core {
            self.load.timeouts += 1;
            return self.input(Input::Timeout);
        }
        self.load.ticks += 1;
        let now = self.now;
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.mirror.tick(now);
        }
        self.drain_mirror();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.sidecar.is_some() && self.stopped_until > self.now
    }

    /// A stopped process hears of nothing.
    pub(crate) fn waits_for_the_process(&self, event: &Event) -> bool {
        let is_heard = matches!(
            event,
            Event::Connect(_)
                | Event::Refused(..)
                | Event::Poll(_)
                | Event::Answer(_)
                | Event::Heard(..)
                | Event::HeardRead(..)
                | Event::Opinion(_, _, Some(_))
                | Event::Freeze(_)
                | Event::Restore(_)
                | Event::TryLock(_)
        );
        is_heard && self.is_stopped()
    }

    /// SIGSTOP, and SIGCONT after that time.
    pub(crate) fn stop_sidecar(&mut self, time: Duration) {
        self.trace(|| format!("the sidecar is stopped for {time:?}"));
        self.book.trouble = self.now + time;
        self.stopped_until = self.now + time;
    }

    /// Whether a sidecar has a connection to this process.
    pub(crate) fn is_spoken_to(&self, pid: u32) -> bool {
        let other = self.other.as_ref().map(|other| &other.session);
        [Some(&self.session), other]
            .into_iter()
            .flatten()
            .any(|session| session.is_with(pid))
    }

    /// Most of what takes its time takes less.
    pub(crate) fn be_quick(&mut self) {
        self.policy.hold = Duration::from_secs(5);
        self.policy.drain_timeout = Duration::from_secs(3);
        self.ledger = Ledger::new(self.ledger.places(), self.policy.clone());
    }

    /// What the one before has left is taken in.
    pub(crate) fn restore(&mut self) {
        if let Some((written, remembered)) = self.snapshot.clone()
            && self.now.saturating_sub(written) < snapshot::MAX_AGE
        {
            self.trace(|| format!("  the snapshot of {written:?} is taken in"));
            self.ledger.restored(&remembered);
            self.input(Input::Restored(remembered));
        }
    }

    /// What is known to be by hand is written, which takes its time.
    pub(crate) fn keep_hands(&mut self, hands: Hands) {
        let writing = self.now.subsec_micros() % 50_000;
        let written = self.now + Duration::from_micros(writing.into());
        self.hands.push((written, hands));
    }

    pub(crate) fn lose_unwritten_hands(&mut self) {
        let now = self.now;
        self.hands.retain(|(written, _)| *written <= now);
    }

    /// Who comes into charge takes in what was written last.
    pub(crate) fn recall(&mut self) {
        let mut written = self.hands.iter();
        let last = written.rfind(|(written, _)| *written <= self.now);
        let hands = last.map(|(_, hands)| hands.clone()).unwrap_or_default();
        let pid = self.current_pid.map(u64::from);
        let known = (Some(hands.pid) == pid).then_some(&hands.servers);
        if self.is_in_charge() {
            self.operator.forget_unless_known(known);
        }
        let (now, met) = (self.now, self.current_pid);
        if let Some(sidecar) = &mut self.sidecar {
            (sidecar.recalled, sidecar.met, sidecar.has_looked) = (now, met, false);
        }
        self.input(Input::Recalled(hands));
    }

    // === The lock ===

    /// Whether this one may write.
    pub(crate) fn is_in_charge(&self) -> bool {
        self.sidecar.is_some() && self.lock == Some(self.generation)
    }

    /// A sidecar starts: it takes the lock, or observes.
    pub(crate) fn mode_at_start(&mut self) -> Mode {
        if self.lock.is_some() {
            self.after(TRY, Event::TryLock(self.generation));
            return Mode::Standby;
        }
        self.lock = Some(self.generation);
        Mode::Act
    }

    pub(crate) fn try_lock(&mut self) {
        if self.lock.is_some() {
            return self.after(TRY, Event::TryLock(self.generation));
        }
        self.take_charge();
    }

    /// A second one starts beside this one, if there is none.
    pub(crate) fn start_another(&mut self) -> bool {
        if self.other.is_some() || self.sidecar.is_none() {
            return false;
        }
        self.trace(|| "a second sidecar is started".to_owned());
        self.other = Some(Box::new(Seat {
            sidecar: None,
            session: Session::default(),
            link: Link::default(),
            ledger: self.ledger.clone(),
            generation: 0,
            knows_since: None,
            stopped_until: Duration::ZERO,
        }));
        self.as_the(true, Self::start_sidecar);
        true
    }

    /// One of the two dies for good: the second, or the first, whose place the second takes.
    pub(crate) fn end_one(&mut self, the_other: bool) {
        let Some(other) = &self.other else { return };
        // One that is on its way back, or stopped, cannot take its place.
        let can_follow = other.sidecar.is_some() && other.stopped_until <= self.now;
        let the_other = the_other || !can_follow;
        self.as_the(the_other, Self::end_sidecar);
        if !the_other {
            let (start, ended) = (self.now, self.generation);
            while self.generation == ended && self.violation.is_none() {
                self.run_for(TRY);
                if self.now.saturating_sub(start) > TAKES_OVER_WITHIN {
                    self.violated(
                        ONE_IN_CHARGE,
                        "the second does not take over within a second",
                    );
                }
            }
        }
        self.other = None;
    }

    /// A sidecar that was killed starts again.
    pub(crate) fn start_where_none_is(&mut self) {
        let is_others = self.sidecar.is_some();
        self.as_the(is_others, Self::start_sidecar);
    }

    fn take_charge(&mut self) {
        self.trace(|| "the second sidecar takes over".to_owned());
        self.lock = Some(self.generation);
        self.recall();
        self.input(Input::Turned(Mode::Act));
    }
}
