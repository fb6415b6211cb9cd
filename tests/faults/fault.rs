//! The faults: how each begins and how it ends.

use std::{thread, time::Duration};

use crate::{
    site::{Site, TOKEN},
    story::Event,
    support::fake_nomad::{Mode, Recorded, Token, Which},
};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Slots without a state file, and dynamic servers, are empty until the sidecar has put them back: 503.
    ReloadHaproxy,
    /// And what is under way breaks, and nobody listens until it is started, at once.
    KillHaproxy,
    /// The same for longer than addresses are kept, so that slots with a state file are empty as well.
    StopHaproxy,
    /// Costs nothing, as all that follow.
    KillSidecar,
    /// By SIGTERM, as Nomad does it: SIGKILL when it takes too long.
    EndSidecar,
    FreezeSidecar,
    /// A second one comes, the first one is killed, comes again as the second, and the other one goes.
    TwoSidecars,
    NomadAway,
    NomadDenies,
    NomadFalselyEmpty,
    NomadRestored,
    NomadRestarts,
}

pub(crate) const ALL: [Fault; 12] = [
    Fault::ReloadHaproxy,
    Fault::KillHaproxy,
    Fault::StopHaproxy,
    Fault::KillSidecar,
    Fault::EndSidecar,
    Fault::FreezeSidecar,
    Fault::TwoSidecars,
    Fault::NomadAway,
    Fault::NomadDenies,
    Fault::NomadFalselyEmpty,
    Fault::NomadRestored,
    Fault::NomadRestarts,
];

/// How long they last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Longer than [`crate::physics::KEPT_FOR`].
    stopped: Duration,
    frozen: Duration,
    /// Each time for which there are two, or the other one.
    two: Duration,
    nomad: Duration,
}

pub(crate) const IN_CI: Lengths = Lengths {
    stopped: Duration::from_secs(12),
    frozen: Duration::from_secs(6),
    two: Duration::from_millis(1500),
    nomad: Duration::from_secs(4),
};

pub(crate) const IN_LIFE: Lengths = Lengths {
    stopped: Duration::from_secs(20),
    frozen: Duration::from_secs(10),
    two: Duration::from_secs(5),
    nomad: Duration::from_secs(15),
};

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReloadHaproxy => "reload-haproxy",
            Self::KillHaproxy => "kill-haproxy",
            Self::StopHaproxy => "stop-haproxy",
            Self::KillSidecar => "kill-sidecar",
            Self::EndSidecar => "end-sidecar",
            Self::FreezeSidecar => "freeze-sidecar",
            Self::TwoSidecars => "two-sidecars",
            Self::NomadAway => "nomad-away",
            Self::NomadDenies => "nomad-denies",
            Self::NomadFalselyEmpty => "nomad-falsely-empty",
            Self::NomadRestored => "nomad-restored",
            Self::NomadRestarts => "nomad-restarts",
        }
    }

    pub(crate) fn length(self, lengths: &Lengths) -> Duration {
        match self {
            Self::ReloadHaproxy | Self::KillHaproxy | Self::KillSidecar | Self::EndSidecar => {
                Duration::ZERO
            }
            Self::StopHaproxy => lengths.stopped,
            Self::FreezeSidecar => lengths.frozen,
            Self::TwoSidecars => 3 * lengths.two,
            Self::NomadAway
            | Self::NomadDenies
            | Self::NomadFalselyEmpty
            | Self::NomadRestored
            | Self::NomadRestarts => lengths.nomad,
        }
    }

    /// Returns when it is over.
    pub(crate) fn happen(self, site: &Site, lengths: &Lengths) {
        site.story.tell(format!("{} begins", self.name()));
        match self {
            Self::ReloadHaproxy => site.reload_haproxy(),
            Self::KillHaproxy => site.kill_haproxy(),
            Self::StopHaproxy => {
                site.stop_haproxy();
                thread::sleep(lengths.stopped);
                site.start_haproxy();
            }
            Self::KillSidecar => {
                site.end_sidecar(0, "KILL");
                site.start_sidecar(0);
            }
            Self::EndSidecar => {
                site.end_sidecar(0, "TERM");
                site.start_sidecar(0);
            }
            Self::FreezeSidecar => {
                let frozen = site.freeze_sidecar();
                thread::sleep(lengths.frozen);
                site.thaw_sidecar(frozen);
            }
            Self::TwoSidecars => {
                site.start_sidecar(1);
                thread::sleep(lengths.two);
                site.end_sidecar(0, "KILL");
                thread::sleep(lengths.two);
                site.start_sidecar(0);
                thread::sleep(lengths.two);
                site.end_sidecar(1, "TERM");
            }
            Self::NomadAway
            | Self::NomadDenies
            | Self::NomadFalselyEmpty
            | Self::NomadRestored
            | Self::NomadRestarts => self.befall_nomad(site, lengths),
        }
        site.story.tell(format!("{} is over", self.name()));
    }

    fn befall_nomad(self, site: &Site, lengths: &Lengths) {
        const EMPTY: [Which; 2] = [Which::Lists, Which::Reads];
        let nomad = &site.nomad;
        site.story.is(Event::NomadFails);
        match self {
            Self::NomadAway => nomad.stop(),
            Self::NomadDenies => {
                nomad.issue(TOKEN, Token::Client(vec!["other".to_owned()]));
                nomad.cut();
            }
            Self::NomadFalselyEmpty => {
                for which in EMPTY {
                    nomad.mode(which, Mode::Answer(Recorded::ShuttingDown));
                }
                nomad.mode(Which::Streams, Mode::Hang);
                nomad.cut();
            }
            // To when the one that joins was not there, if it has joined already, and the one that leaves was.
            Self::NomadRestored => {
                nomad.restore(site.older_catalog());
                // As 2.0.5 does it.
                thread::sleep(Duration::from_millis(400));
                nomad.cut_streams();
            }
            Self::NomadRestarts => nomad.begin_restart(),
            Self::ReloadHaproxy
            | Self::KillHaproxy
            | Self::StopHaproxy
            | Self::KillSidecar
            | Self::EndSidecar
            | Self::FreezeSidecar
            | Self::TwoSidecars => unreachable!("that is none of Nomad's"),
        }
        thread::sleep(lengths.nomad);
        match self {
            Self::NomadAway => nomad.resume(),
            Self::NomadDenies => {
                nomad.issue(TOKEN, Token::Client(vec!["default".to_owned()]));
            }
            Self::NomadFalselyEmpty => {
                for which in EMPTY.into_iter().chain([Which::Streams]) {
                    nomad.mode(which, Mode::Normal);
                }
                nomad.cut();
            }
            // What the clients of Nomad do, some time after.
            Self::NomadRestored => site.catalog_is_corrected(),
            Self::NomadRestarts => nomad.finish_restart(),
            Self::ReloadHaproxy
            | Self::KillHaproxy
            | Self::StopHaproxy
            | Self::KillSidecar
            | Self::EndSidecar
            | Self::FreezeSidecar
            | Self::TwoSidecars => unreachable!("that is none of Nomad's"),
        }
        site.story.is(Event::NomadRecovers);
    }
}
