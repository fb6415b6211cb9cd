//! How HAProxy's verdicts on servers have changed between two readings: who went DOWN, who came UP, and who was otherwise for
//! a moment in between. For people: nothing is decided by it.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::model::{ServerName, ServerState};

/// HAProxy counts in whole seconds, and may have been busy.
const INEXACT: i64 = 2;

/// The verdict on a server that is to serve, and was, is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The server.
    pub server: ServerName,
    /// How.
    pub to: Turned,
    /// How long ago, as far as that is known: no earlier than it was.
    pub ago: Duration,
}

/// How a verdict has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It is DOWN.
    Down,
    /// It is UP again.
    Up,
    /// It is UP for the first time since it was made ready.
    Admitted,
    /// It was UP, and is, and was not for a moment.
    DownForAMoment,
    /// It was DOWN, and is, and was not for a moment.
    UpForAMoment,
}

impl Turned {
    /// Whether it is UP now.
    #[must_use]
    pub fn is_up(self) -> bool {
        match self {
            Self::Up | Self::Admitted | Self::DownForAMoment => true,
            Self::Down | Self::UpForAMoment => false,
        }
    }
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "HAProxy's check: DOWN",
            Self::Up => "HAProxy's check: UP again",
            Self::Admitted => "HAProxy's check: UP for the first time",
            Self::DownForAMoment => "HAProxy's check: DOWN for a moment, and UP again",
            Self::UpForAMoment => "HAProxy's check: UP for a moment, and DOWN again",
        })
    }
}

/// The turns between two readings of a backend with so much time between them.
pub(super) fn turns(
    before: &[ServerState],
    after: &[ServerState],
    between: Duration,
    is_new: impl Fn(&ServerName) -> bool,
) -> Vec<Turn> {
    let mut turns = Vec::new();
    // Most of the time they are the same servers, in the same order.
    if before.len() == after.len() && before.iter().zip(after).all(|(a, b)| a.name == b.name) {
        let rows = before.iter().zip(after);
        turns.extend(rows.filter_map(|(was, is)| turn(was, is, between, &is_new)));
        return turns;
    }
    let before: BTreeMap<_, _> = before.iter().map(|state| (&state.name, state)).collect();
    for is in after {
        let was = before.get(&is.name);
        turns.extend(was.and_then(|was| turn(was, is, between, &is_new)));
    }
    turns
}

fn turn(
    was: &ServerState,
    is: &ServerState,
    between: Duration,
    is_new: &impl Fn(&ServerName) -> bool,
) -> Option<Turn> {
    let is_to_serve = is.admin.is_ready() && was.address() == is.address();
    let server = is.name.as_ref().filter(|_| is_to_serve)?;
    if !was.admin.is_ready() {
        // Whoever is put back by hand is UP at once, and DOWN when a check has failed.
        let is_ill = !is.is_up() && !is_new(server);
        return is_ill.then(|| Turn {
            server: server.clone(),
            to: Turned::Down,
            ago: Duration::ZERO,
        });
    }
    let between = i64::try_from(between.as_secs()).unwrap_or(i64::MAX);
    // A server that stays as it is gets older.
    let is_younger =
        is.since_change + INEXACT < was.since_change.saturating_add(between) && was.oper == is.oper;
    let to = match (was.is_up(), is.is_up()) {
        (true, false) => Turned::Down,
        (false, true) if is_new(server) => Turned::Admitted,
        (false, true) => Turned::Up,
        (true, true) if is_younger => Turned::DownForAMoment,
        (false, false) if is_younger => Turned::UpForAMoment,
        (true, true) | (false, false) => return None,
    };
    let ago = (is.since_change - 1).clamp(0, between);
    Some(Turn {
        server: server.clone(),
        to,
        ago: Duration::from_secs(u64::try_from(ago).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AdminState, CheckState, OperState};

    fn server(name: &str, oper: OperState, since_change: i64) -> ServerState {
        ServerState {
            name: ServerName::new(name).ok(),
            ip: "127.0.0.1".parse().ok(),
            port: 80,
            oper,
            admin: AdminState::default(),
            weight: 1,
            initial_weight: 1,
            since_change,
            check_health: 0,
            check: CheckState(6),
            agent: CheckState::default(),
            line: None,
        }
    }

    fn between(was: &ServerState, is: &ServerState, seconds: u64) -> Option<(Turned, u64)> {
        let (was, is) = ([was.clone()], [is.clone()]);
        let turns = turns(&was, &is, Duration::from_secs(seconds), |name| {
            name.as_str() == "new"
        });
        turns.first().map(|turn| (turn.to, turn.ago.as_secs()))
    }

    #[test]
    fn who_goes_down_or_comes_up_has_turned_and_so_has_who_was_otherwise_for_a_moment() {
        use OperState::{Running, Starting, Stopped};

        for (was, is, turned) in [
            ((Running, 90), (Stopped, 3), Some((Turned::Down, 2))),
            ((Stopped, 90), (Running, 0), Some((Turned::Up, 0))),
            ((Stopped, 90), (Starting, 1), Some((Turned::Up, 0))),
            (
                (Running, 90),
                (Running, 4),
                Some((Turned::DownForAMoment, 3)),
            ),
            ((Stopped, 90), (Stopped, 1), Some((Turned::UpForAMoment, 0))),
            // HAProxy's seconds are whole ones.
            ((Running, 90), (Running, 93), None),
            ((Running, 90), (Running, 95), None),
            ((Running, 0), (Running, 4), None),
            ((Stopped, 90), (Stopped, 94), None),
            // At the end of its slow start.
            ((Starting, 90), (Running, 1), None),
            // Its count is no older than the last reading, whatever it says.
            ((Running, 90), (Stopped, 4_000), Some((Turned::Down, 5))),
            ((Running, 90), (Stopped, -3), Some((Turned::Down, 0))),
        ] {
            let [was, is] = [was, is].map(|(oper, since)| server("a", oper, since));
            assert_eq!(between(&was, &is, 5), turned, "{was:?} {is:?}");
        }
        let [was, is] = [Stopped, Running].map(|oper| server("new", oper, 0));
        assert_eq!(between(&was, &is, 5), Some((Turned::Admitted, 0)));
    }

    #[test]
    fn what_was_done_to_a_server_is_no_verdict() {
        let up = server("a", OperState::Running, 90);
        let down = server("a", OperState::Stopped, 0);
        for admin in [1, 8] {
            let mut out = down.clone();
            out.admin = AdminState(admin);
            assert_eq!(between(&up, &out, 5), None);
            assert_eq!(between(&out, &up, 5), None);
            // Put back by hand, and still ill.
            assert_eq!(between(&out, &down, 5), Some((Turned::Down, 0)));
            out.name = ServerName::new("new").ok();
            assert_eq!(
                between(&out, &server("new", OperState::Stopped, 0), 5),
                None
            );
        }
        let mut moved = down.clone();
        moved.port = 81;
        assert_eq!(between(&up, &moved, 5), None);
        assert_eq!(between(&up, &server("b", OperState::Stopped, 0), 5), None);
        let mut foreign = down;
        foreign.name = None;
        assert_eq!(between(&foreign, &foreign, 5), None);
    }

    #[test]
    fn servers_are_told_apart_by_their_names_wherever_they_stand() {
        let names = ["a", "b", "c", "d"];
        let before = names.map(|name| server(name, OperState::Running, 90));
        let after = ["d", "x", "b"].map(|name| server(name, OperState::Stopped, 0));
        let turns = turns(&before, &after, Duration::from_secs(5), |_| false);
        let turned: Vec<_> = turns.iter().map(|turn| turn.server.as_str()).collect();
        assert_eq!(turned, ["d", "b"]);
    }
}
