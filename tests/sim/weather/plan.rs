//! What a seed will do, drawn before anything runs: the life of the cluster, and the faults. What chance decides later is
//! a hash of the seed and of what it is about, so that a fault that is left out shifts nothing else.

use std::time::Duration;

use haproxy_nomad_sidecar::model::SplitMix64;

use crate::{random::Random, weather::kind::Kind};

/// How long there are faults.
pub(crate) const WEATHER: Duration = Duration::from_mins(8);

/// Namespace and name. Further namespaces appear by [`Kind::NewNamespace`].
pub(crate) const SERVICES: [(&str, &str); 6] = [
    ("default", "web"),
    ("default", "api"),
    ("default", "db"),
    ("default", "cache"),
    ("team", "web"),
    ("team", "mail"),
];
pub(crate) const INSTANCES: usize = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Whatever else chance has to say about it.
    pub(crate) dice: u64,
}

pub(crate) enum Step {
    /// New, or otherwise than before; without the tag that makes it wanted if it is not `tagged`.
    Register {
        service: usize,
        instance: usize,
        tagged: bool,
    },
    Deregister {
        service: usize,
        instance: usize,
    },
    /// Batches of other topics.
    Others(usize),
    /// The token file changes, or a SIGHUP.
    Resync,
    Fault(Fault),
}

/// What stays as it is while a seed is played.
pub(crate) struct Way {
    pub(crate) namespaces: &'static [&'static str],
    /// There is a right to the stream.
    pub(crate) streams: bool,
    /// Up to 1.11.1: streams are denied by a 403 and end by a text.
    pub(crate) old: bool,
    /// So many services may have a blocking query of their own: none over TCP.
    pub(crate) held_reads: usize,
    /// A namespace that may not be read any more when all else is well again.
    pub(crate) forbidden_for_ever: Option<&'static str>,
}

pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) way: Way,
    pub(crate) steps: Vec<(Duration, Step)>,
}

impl Plan {
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let namespaces: [&[&str]; 3] = [&["default"], &["default", "team"], &["*"]];
        let way = Way {
            namespaces: namespaces[random.below(3)],
            streams: !random.chance(25),
            old: random.chance(40),
            held_reads: [0, 2, 64][random.below(3)],
            forbidden_for_ever: random.chance(15).then_some("team"),
        };
        // Some kinds, not all: what one of them hides, another seed shows.
        let share = [15, 40, 100][random.below(3)];
        let kinds: Vec<Kind> = Kind::ALL
            .iter()
            .copied()
            .filter(|kind| random.chance(share) && kind.can_strike(&way))
            .collect();
        let lots: Vec<Kind> = kinds
            .iter()
            .flat_map(|kind| std::iter::repeat_n(*kind, kind.weight()))
            .collect();
        let pause = [500, 2_000, 6_000][random.below(3)];
        let mut steps = Vec::new();
        let mut at = Duration::ZERO;
        for service in 0..SERVICES.len() {
            let tagged = true;
            steps.push((at, register(service, random.below(INSTANCES), tagged)));
        }
        at += random.millis(0, 10_000);
        while at < WEATHER {
            let (service, instance) = (random.below(SERVICES.len()), random.below(INSTANCES));
            let step = match random.below(100) {
                0..30 => register(service, instance, !random.chance(15)),
                30..45 => Step::Deregister { service, instance },
                45..50 => Step::Others(random.below(8)),
                50 => Step::Resync,
                _ => {
                    let dice = random.next();
                    match random.pick(&lots) {
                        Some(&kind) => Step::Fault(Fault { kind, dice }),
                        None => register(service, instance, true),
                    }
                }
            };
            steps.push((at, step));
            at += random.millis(1, pause);
            if random.chance(2) {
                // Long enough for everything to be known.
                at += Duration::from_secs(20);
            }
        }
        Self { seed, way, steps }
    }

    /// A number of chance that depends on nothing but the seed, `what` and `which`.
    pub(crate) fn chance(&self, what: u64, which: u64) -> u64 {
        let mixed = self.seed ^ what.rotate_left(48) ^ which.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        SplitMix64::new(mixed).next()
    }
}

const fn register(service: usize, instance: usize, tagged: bool) -> Step {
    Step::Register {
        service,
        instance,
        tagged,
    }
}
