//! The faults, and what each does to a world.

use std::time::Duration;

use haproxy_nomad_sidecar::{catalog::FailureKind, model::Registration};

use crate::{guards::Ear, laws::Deed, link::Health, world::World};

macro_rules! faults {
    ($($fault:ident $what:literal)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Fault {
            $(#[doc = $what] $fault,)*
        }

        impl Fault {
            pub(crate) const ALL: &[Self] = &[$(Self::$fault,)*];

            pub(crate) const fn what(self) -> &'static str {
                match self {
                    $(Self::$fault => $what,)*
                }
            }
        }
    };
}

faults! {
    HaproxyReload "HAProxy is reloaded"
    HaproxyKill "HAProxy is killed, and starts at once"
    HaproxyStop "HAProxy is stopped for 20 s"
    SidecarKill "the sidecar is killed at any line, and starts again"
    SidecarTerm "the sidecar is told to end, and starts again"
    SidecarStop "the sidecar is stopped by SIGSTOP for 10 s"
    NomadAway "Nomad is away"
    NomadDenied "Nomad denies everything"
    NomadFalseEmpty "Nomad's lists are empty, or short, and wrong"
    NomadRestored "Nomad is restored to an older index"
    NomadRestarted "Nomad is restarted, and replays its past"
    SecondSidecar "a second sidecar, of which one dies"
    Hostile "a registration that is an attack"
    Garbled "an answer of HAProxy is garbled"
    OneRefuses "HAProxy refuses all changes of one backend in unknown words"
    Maintenance "an operator puts a server into maintenance for a while"
    Drain "an operator drains a server for a while"
    Weight "an operator changes a server's weight for a while"
    Frozen "removals are stopped for a while"
    Vanished "a registration vanishes, and its allocation runs on"
    Ghost "a registration whose allocation has ended"
    OpinionForbidden "allocations may not be read"
    OpinionSilent "nobody answers who is asked for an allocation"
}

/// How a fault ends that does not end by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It does.
    Itself,
    /// Nomad is well again.
    Nomad,
    /// One of two sidecars is ended.
    Second,
    /// The registration is taken back.
    Hostile,
    /// That backend is well again.
    Refusing,
    /// The operator undoes what he did to this server.
    ByHand((String, String)),
    /// Removals are allowed.
    Frozen,
    /// It registers again, or ends.
    Vanished(Registration),
    /// The registration is deleted.
    Ghost,
    /// Allocations can be asked for.
    Opinion,
}

impl Fault {
    /// Whether it cannot be while it is already.
    pub(crate) const fn is_once(self) -> bool {
        matches!(
            self,
            Self::HaproxyStop | Self::SidecarStop | Self::SecondSidecar | Self::Frozen
        )
    }

    /// Whether clients may find nobody because of it.
    pub(crate) const fn empties(self) -> bool {
        matches!(
            self,
            Self::HaproxyReload
                | Self::HaproxyKill
                | Self::HaproxyStop
                | Self::NomadRestored
                | Self::Maintenance
                | Self::Drain
                | Self::Weight
        )
    }
}

const HAPROXY_STOP: Duration = Duration::from_secs(20);
const SIDECAR_STOP: Duration = Duration::from_secs(10);

impl World {
    /// Injects it: when it ends and how, or none if there is nothing that it could do to.
    pub(crate) fn inject(&mut self, fault: Fault) -> Option<(Duration, Ending)> {
        if !self.can_be(fault) {
            return None;
        }
        self.trace(|| format!("--- {}", fault.what()));
        let moment = Duration::from_millis(50);
        let ends = match fault {
            Fault::HaproxyReload => {
                self.reload_haproxy();
                (moment, Ending::Itself)
            }
            Fault::HaproxyKill => {
                let back = self.random.millis(10, 500);
                self.kill_haproxy(back);
                (back, Ending::Itself)
            }
            Fault::HaproxyStop => {
                self.kill_haproxy(HAPROXY_STOP);
                (HAPROXY_STOP, Ending::Itself)
            }
            Fault::SidecarKill if self.random.chance(50) => {
                // In the middle of what it does next, if it does anything.
                let lines = 1 + self.random.next() % 12;
                self.kill_after_changes = Some(self.changes + lines);
                (Duration::from_secs(2), Ending::Itself)
            }
            Fault::SidecarKill | Fault::SidecarTerm => {
                let back = self.random.millis(10, 1_500);
                self.kill_sidecar(back);
                (back, Ending::Itself)
            }
            Fault::SidecarStop => {
                self.stop_sidecar(SIDECAR_STOP);
                (SIDECAR_STOP, Ending::Itself)
            }
            Fault::NomadAway => {
                self.break_stream();
                self.nomad_is(Health::Away)
            }
            Fault::NomadDenied => {
                let kind = [FailureKind::Denied, FailureKind::BadToken][self.random.below(2)];
                self.nomad_is(Health::Failing(kind))
            }
            Fault::NomadFalseEmpty => {
                let healths = [
                    Health::Failing(FailureKind::NotBelievable),
                    Health::ShortLists,
                ];
                let health = healths[self.random.below(2)];
                self.nomad_is(health)
            }
            Fault::NomadRestored => {
                let ago = self.random.below(6);
                let index = self.nomad.index();
                self.restore_nomad(ago);
                // Raft's goes on (`restoreUserSnapshot`), while the table has its old one until it changes.
                self.nomad.reach(index + 1);
                (moment, Ending::Itself)
            }
            Fault::NomadRestarted => {
                self.restart_nomad();
                let away = self.random.millis(100, 3_000);
                self.nomad_is_for(Health::Away, away)
            }
            Fault::SecondSidecar => {
                self.start_another();
                (self.random.millis(100, 4_000), Ending::Second)
            }
            Fault::Hostile => {
                self.register_an_attack();
                (self.random.millis(100, 4_000), Ending::Hostile)
            }
            Fault::Garbled => {
                self.faults.garbled += 1;
                (Duration::from_secs(1), Ending::Itself)
            }
            Fault::OneRefuses => {
                let number = self.random.below(self.config.backends.len());
                self.faults.refusing = Some(self.config.backends[number].name.clone());
                // Long enough for an instance of another one to be served.
                (self.random.millis(5_000, 8_000), Ending::Refusing)
            }
            Fault::Maintenance => self.by_hand(Deed::Maintenance)?,
            Fault::Drain => self.by_hand(Deed::Drain)?,
            Fault::Weight => {
                let deed = [Deed::Weight, Deed::WeightZero][self.random.below(2)];
                self.by_hand(deed)?
            }
            Fault::Frozen => {
                self.freeze(true);
                (self.random.millis(1_000, 8_000), Ending::Frozen)
            }
            Fault::Vanished => {
                let gone = self.one_vanishes()?;
                (self.random.millis(1_500, 8_000), Ending::Vanished(gone))
            }
            Fault::Ghost => {
                self.register_a_ghost();
                (self.random.millis(1_000, 6_000), Ending::Ghost)
            }
            Fault::OpinionForbidden => self.questions_are(Ear::Forbidden),
            Fault::OpinionSilent => self.questions_are(Ear::Silent),
        };
        Some(ends)
    }

    /// Whether there is something that it could do to.
    fn can_be(&self, fault: Fault) -> bool {
        let is_running = self.sidecar.is_some() && !self.is_stopped();
        let is_up = self.current_pid.is_some();
        match fault {
            Fault::HaproxyReload
            | Fault::HaproxyKill
            | Fault::HaproxyStop
            | Fault::Maintenance
            | Fault::Drain
            | Fault::Weight => is_up,
            Fault::Frozen => !self.guards.is_frozen,
            Fault::OpinionForbidden | Fault::OpinionSilent => self.policy.second_opinion,
            Fault::SidecarKill | Fault::SidecarTerm | Fault::SidecarStop => is_running,
            Fault::SecondSidecar => is_running && self.other.is_none(),
            Fault::Garbled | Fault::OneRefuses => is_running && self.session.process.is_some(),
            Fault::NomadAway
            | Fault::NomadDenied
            | Fault::NomadFalseEmpty
            | Fault::NomadRestored
            | Fault::NomadRestarted
            | Fault::Vanished
            | Fault::Ghost
            | Fault::Hostile => true,
        }
    }

    fn by_hand(&mut self, deed: Deed) -> Option<(Duration, Ending)> {
        let view = self.any_in_service()?;
        self.hold(&view, deed);
        let time = self.random.millis(1_000, 9_000);
        Some((time, Ending::ByHand((view.backend, view.name))))
    }

    fn questions_are(&mut self, ear: Ear) -> (Duration, Ending) {
        self.guards.ear = ear;
        (self.random.millis(1_000, 8_000), Ending::Opinion)
    }

    fn nomad_is(&mut self, health: Health) -> (Duration, Ending) {
        let time = self.random.millis(500, 8_000);
        self.nomad_is_for(health, time)
    }

    fn nomad_is_for(&mut self, health: Health, time: Duration) -> (Duration, Ending) {
        self.trace(|| format!("nomad: {health:?} for {time:?}"));
        self.link.health = Some(health);
        (time, Ending::Nomad)
    }
}
