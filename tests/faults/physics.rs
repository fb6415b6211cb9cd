//! What the physics of a fault allows: which requests may fail, and for how long. All of it is in terms of what was seen,
//! not of the clock: of a fault that lasts longer on a slow machine more is allowed, and of one that is over nothing.
//!
//! - While no process listens requests fail, and those that were under way: no connection, reset, cut off.
//! - A process that begins without addresses answers 503 until the sidecar has put them back. That may take [`PUT_BACK`] from
//!   when HAProxy answers and a sidecar runs that knows them; a new sidecar has to learn them first ([`LEARN`]).
//! - Slots with a state file have their addresses from the beginning, unless HAProxy was away for [`KEPT_FOR`].
//! - Nothing keeps routes, nor backends that were made at runtime: a map begins as its file was, or empty, so that what is found
//!   by a route is as good as empty until it was put back, whatever servers it has.
//! - An instance that ends when its `shutdown_delay` is over, though nobody could tell HAProxy of it, takes with it who was about
//!   to ask it: 502.
//! - Whatever else happens costs nothing. So two faults at once allow what each of them allows alone; only that a sidecar
//!   that is away puts nothing back, and that a new one learns nothing from a Nomad that is away.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    kind::Kind,
    story::Event,
    support::load::{Outcome, Record},
    watch::Seen,
};

/// After this time without HAProxy the sidecar removes its state file.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(10);

/// The session with HAProxy asks so often who it is.
const NOTICE: Duration = Duration::from_millis(250);
/// Readings, commands, and what they wait for of each other.
const BATCH: Duration = Duration::from_millis(250);
/// A sidecar that starts, and reads the catalog.
const LEARN: Duration = Duration::from_secs(1);
/// Whom nobody knows HAProxy has to check: twice, an `inter` of a slot apart.
const ADMIT: Duration = Duration::from_secs(2);
/// The longest delay between two tries to reach Nomad.
const NOMAD_RETRY: Duration = Duration::from_secs(10);
/// For a machine that has other things to do.
const ROOM: Duration = Duration::from_millis(750);

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Nobody listens.
    Process,
    /// The backend is empty, or nothing leads to it.
    Servers,
    /// An instance ends that is in rotation.
    Instance,
}

/// A time in which something is lacking.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) lack: Lack,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Window {
    /// Whether it is the reason that this request failed.
    pub(crate) fn allows(&self, record: &Record) -> bool {
        let fits = match self.lack {
            Lack::Process => matches!(
                record.outcome,
                Outcome::NotConnected(_)
                    | Outcome::Reset
                    | Outcome::ClosedWithoutAnswer
                    | Outcome::Cut
            ),
            Lack::Servers => record.outcome == Outcome::HaproxyAnswered { status: 503 },
            Lack::Instance => record.outcome == Outcome::HaproxyAnswered { status: 502 },
        };
        fits && record.ended() >= self.from && record.due <= self.until
    }
}

/// What may happen to one backend, and what did not happen in time.
#[derive(Debug, Default)]
pub(crate) struct Physics {
    pub(crate) windows: Vec<Window>,
    /// From when it could be put back until it was.
    pub(crate) put_back: Option<Duration>,
    pub(crate) problems: Vec<String>,
}

/// A backend, and addresses of its service.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) kind: Kind,
    /// They are registered all the time.
    pub(crate) stays: Vec<String>,
    /// It is not.
    pub(crate) leaves: String,
}

pub(crate) fn of(
    served: &Served,
    events: &[(Instant, Event)],
    seen: &[Seen],
    machine_was_late: Duration,
) -> Physics {
    let Served {
        kind,
        stays,
        leaves,
    } = served;
    let backend = kind.name;
    // What was before is no fault: a sidecar that was started then knows what it has to.
    let begins = events.iter().position(|(_, event)| *event == Event::Begins);
    let events = &events[begins.expect("a story has a beginning")..];
    let mut physics = Physics::default();
    let at = |wanted: &[Event]| {
        let events = events.iter();
        let fit = events.filter(|(_, event)| wanted.contains(event));
        fit.map(|(at, _)| *at).collect::<Vec<_>>()
    };
    let answers = at(&[Event::HaproxyAnswers]);
    let away: Vec<_> = at(&[Event::HaproxyEnds])
        .into_iter()
        .filter_map(|from| {
            let until = answers.iter().find(|answers| **answers > from)?;
            Some((from, *until))
        })
        .collect();
    physics
        .windows
        .extend(away.iter().map(|(from, until)| Window {
            lack: Lack::Process,
            from: *from,
            until: *until,
        }));

    let ends = at(&[Event::InstanceEnds, Event::InstanceEnded]);
    if let [from, until] = ends[..] {
        let last = seen.iter().rfind(|seen| seen.asked <= from);
        if last.is_some_and(|seen| is_in_rotation(seen, backend, std::slice::from_ref(leaves))) {
            physics.windows.push(Window {
                lack: Lack::Instance,
                from,
                until,
            });
        }
    }

    let longest = away.iter().map(|(from, until)| *until - *from).max();
    let is_kept = kind.survives() && longest.is_none_or(|longest| longest < KEPT_FOR);
    let begins = at(&[Event::ReloadAsked, Event::HaproxyEnds]);
    let ready = at(&[Event::Reloaded, Event::HaproxyAnswers]);
    if let (Some(from), Some(ready)) = (begins.first(), ready.last())
        && !is_kept
    {
        let since = first_of(seen, *ready);
        let back = seen[since..]
            .iter()
            .find(|seen| is_in_rotation(seen, backend, stays));
        let Some(back) = back else {
            physics.problems.push("it was never put back".to_owned());
            return physics;
        };
        physics.windows.push(Window {
            lack: Lack::Servers,
            from: *from,
            until: back.answered.max(*ready),
        });
        let (could, within) = could_be_put_back(&at, *ready);
        let took = back.asked.saturating_duration_since(could);
        physics.put_back = Some(took);
        if took > within + machine_was_late {
            physics.problems.push(format!(
                "it was put back {took:.3?} after it could have been, and {within:?} and {machine_was_late:.3?} for a \
                 machine that was late are allowed"
            ));
        }
    }

    // Who is registered all the time is in rotation all the time, but for these windows.
    for (number, seen_now) in seen.iter().enumerate() {
        let until = seen
            .get(number + 1)
            .map_or(seen_now.answered, |next| next.asked);
        let excused = physics.windows.iter().any(|window| {
            seen_now.asked >= window.from && until <= window.until
                || seen_now.answered >= window.from && seen_now.answered <= window.until
        });
        if seen_now.look.is_some() && !excused && !is_in_rotation(seen_now, backend, stays) {
            let look = seen_now
                .look
                .as_ref()
                .map(|look| look.in_rotation.get(backend));
            physics.problems.push(format!(
                "{:?} of {stays:?} were in rotation {:.3} s after the beginning",
                look.flatten(),
                (seen_now.answered - events[0].0).as_secs_f64()
            ));
        }
    }
    physics
}

/// The first thing that was seen of the process that was ready at this time: what was seen is what changed, and it may have
/// been put back before its being ready was heard of.
fn first_of(seen: &[Seen], ready: Instant) -> usize {
    let pid = |seen: &Seen| seen.look.as_ref().map(|look| look.pid.clone());
    let after = seen.partition_point(|seen| seen.answered < ready);
    let process = seen[after..].iter().find_map(pid);
    let before = seen[..after].iter().rev();
    let same = before.take_while(|seen| process.is_some() && pid(seen) == process);
    after - same.count()
}

/// Since when, and how long it may take.
fn could_be_put_back(
    at: &impl Fn(&[Event]) -> Vec<Instant>,
    ready: Instant,
) -> (Instant, Duration) {
    let mut could = ready;
    let mut within = NOTICE + BATCH + ROOM;
    let comes = at(&[Event::SidecarStarts, Event::SidecarGoesOn]);
    if let Some(comes) = comes.last() {
        could = could.max(*comes);
    }
    if !at(&[Event::SidecarStarts]).is_empty() {
        within += LEARN + ADMIT;
        if let Some(recovers) = at(&[Event::NomadRecovers]).last() {
            could = could.max(*recovers);
            within += NOMAD_RETRY;
        }
    }
    (could, within)
}

fn is_in_rotation(seen: &Seen, backend: &str, addresses: &[String]) -> bool {
    let in_rotation = seen
        .look
        .as_ref()
        .and_then(|look| look.in_rotation.get(backend));
    in_rotation.is_some_and(|all| addresses.iter().all(|address| all.contains(address)))
}
