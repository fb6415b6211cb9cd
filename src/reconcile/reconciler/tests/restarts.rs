//! A HAProxy that was restarted: what is put back, and what the state file is to have, and when.

use super::*;
use crate::{
    model::{AdminState, CheckState, OperState, ServerName},
    reconcile::Restoring,
};

pub(super) fn slot(number: u8, address: &str, admin: u8) -> ServerState {
    let (ip, port) = address.rsplit_once(':').unwrap();
    ServerState {
        name: Some(ServerName::new(&format!("nomad{number}")).unwrap()),
        ip: Some(ip.parse().unwrap()),
        port: port.parse().unwrap(),
        oper: if admin & 1 == 0 {
            OperState::Running
        } else {
            OperState::Stopped
        },
        admin: AdminState(admin),
        weight: 1,
        initial_weight: 1,
        since_change: 0,
        check_health: 4,
        check: CheckState(6),
        agent: CheckState(0),
        line: Some(format!("line{number}").into()),
    }
}

/// A HAProxy whose backend `web` has these slots, and a core that keeps a file.
fn world(slots: Vec<ServerState>, mode: Mode) -> World {
    let mut world = World::new(&["web"]);
    world.core = Reconciler::new(Policy::default(), mode, 1).with_state_file();
    world.slots(slots);
    world
}

impl World {
    pub(super) fn slots(&mut self, slots: Vec<ServerState>) {
        let web = BackendName::new("web").unwrap();
        self.haproxy.get_mut(&web).unwrap().servers = slots;
    }

    pub(super) fn connect(&mut self) {
        self.input(Input::Connected(self.info.clone()));
    }

    /// The lines that were asked for last, if anything was asked for since.
    fn lines(&mut self) -> Vec<String> {
        let wanted = mem::take(&mut self.state_file);
        let written = wanted.into_iter().filter_map(|wanted| match wanted {
            StateFile::Write(texts) => {
                let text = texts.concat();
                let lines = text.lines().skip(2).map(str::to_owned);
                Some(lines.collect::<Vec<_>>().join(" "))
            }
            StateFile::Keep | StateFile::Remove => None,
        });
        written.collect()
    }
}

impl World {
    /// Another process, in which nothing is.
    fn restart(&mut self, pid: u64) {
        self.input(Input::Disconnected);
        let servers = self.haproxy.values_mut();
        servers.for_each(|observed| observed.servers.clear());
        self.info.pid = pid;
        self.forget();
        self.connect();
    }

    /// Their checks fail.
    pub(super) fn down(&mut self) {
        for observed in self.haproxy.values_mut() {
            for server in &mut observed.servers {
                server.oper = OperState::Stopped;
            }
        }
    }

    /// How many servers were added that have to pass their checks first.
    fn admitted(&self) -> usize {
        let is_admitted = |command: &&&Command| matches!(command, Command::AddServer(_, _, words) if words.contains(&crate::model::Keyword::InitStateFullyDown));
        self.changes().iter().filter(is_admitted).count()
    }
}

#[test]
fn what_was_put_back_and_found_down_is_not_put_back_once_more() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.up();
    world.wait(6 * SECOND);
    world.restart(2);
    assert_eq!(world.admitted(), 0);
    world.down();
    world.wait(6 * SECOND);
    // It leaves and returns.
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(2 * SECOND);
    assert_eq!(world.ready("web"), 0);
    world.forget();
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    assert_eq!(world.admitted(), 1);
    // There is another restart.
    world.down();
    world.wait(6 * SECOND);
    world.restart(3);
    assert_eq!(world.admitted(), 1);
}

#[test]
fn who_takes_over_after_a_restart_lets_haproxy_check_first() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.up();
    world.wait(6 * SECOND);
    world.input(Input::Turned(Mode::Standby));
    world.wait(6 * SECOND);
    // What it has seen is older than what the other one did since.
    world.restart(2);
    world.input(Input::Turned(Mode::Act));
    assert_eq!(world.admitted(), 1);
}

#[test]
fn a_restarted_haproxy_is_filled_again_and_what_was_up_is_put_back_up() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..4)])));
    world.up();
    world.wait(6 * SECOND);
    world.forget();
    world.input(Input::Disconnected);
    world
        .haproxy
        .values_mut()
        .for_each(|observed| observed.servers.clear());
    world.info.pid = 2;
    world.input(Input::Connected(world.info.clone()));
    assert_eq!(world.ready("web"), 3);
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Restarted { .. }))
    );
    assert!(
        world
            .changes()
            .iter()
            .all(|command| !matches!(command, Command::HealthDown(_)))
    );
}

#[test]
fn the_lines_of_slots_in_use_are_written_when_what_they_restore_is_another() {
    let mut world = world(
        vec![slot(1, "10.0.0.1:80", 4), slot(2, "127.0.0.1:1", 5)],
        Mode::Act,
    );
    world.connect();
    assert_eq!(world.lines(), [""; 0], "what is wanted is not known yet");
    world.input(synced(catalog(&[("web", 1..2)])));
    assert_eq!(world.lines(), ["line1"]);
    world.wait(4 * SECOND);
    assert_eq!(world.lines(), [""; 0]);

    // Time goes on in a line, and its check, without a new file.
    let mut changed = slot(1, "10.0.0.1:80", 4);
    (changed.since_change, changed.check_health) = (9, 3);
    changed.line = Some("later".into());
    world.slots(vec![changed, slot(2, "127.0.0.1:1", 5)]);
    world.wait(6 * SECOND);
    assert_eq!(world.lines(), [""; 0]);
    let mut changed = slot(1, "10.0.0.1:80", 4);
    changed.weight = 7;
    world.slots(vec![changed, slot(2, "127.0.0.1:1", 5)]);
    world.wait(6 * SECOND);
    assert_eq!(world.lines().first().map(String::as_str), Some("line1"));
}

#[test]
fn only_what_comes_back_as_it_was_has_a_line() {
    let down = |mut slot: ServerState| {
        slot.oper = OperState::Stopped;
        slot
    };
    let weightless = |mut slot: ServerState| {
        slot.weight = 0;
        slot
    };
    let nameless = |mut slot: ServerState| {
        slot.line = None;
        slot
    };
    for (state, has_line) in [
        (slot(1, "10.0.0.9:80", 4), true),
        (slot(1, "10.0.0.9:80", 12), true),
        (weightless(slot(1, "10.0.0.9:80", 4)), true),
        (slot(1, "10.0.0.9:80", 5), true),
        (weightless(slot(1, "10.0.0.9:80", 5)), false),
        (down(slot(1, "10.0.0.9:80", 4)), false),
        (down(slot(1, "10.0.0.9:80", 12)), false),
        (slot(1, "127.0.0.1:1", 4), false),
        (nameless(slot(1, "10.0.0.9:80", 4)), false),
        // The configuration did not disable it: an operator's.
        (slot(1, "10.0.0.9:80", 0), false),
    ] {
        let shown = format!("{state:?}");
        let mut keeper = Keeper::default();
        keeper.want();
        let mut observed = ObservedBackend::default();
        observed.servers.push(state);
        keeper.observe(
            &BackendName::new("web").unwrap(),
            &observed,
            &Policy::default(),
        );
        let output = keeper.review(SECOND, Mode::Act, true, true);
        let Some(Output::StateFile(StateFile::Write(texts))) = output else {
            panic!("{output:?}");
        };
        assert_eq!(texts.concat().ends_with("\nline1\n"), has_line, "{shown}");
    }
}

#[test]
fn a_file_is_removed_when_haproxy_has_been_gone_for_ten_seconds() {
    let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Act);
    world.connect();
    world.input(synced(catalog(&[("web", 1..2)])));
    world.wait(60 * SECOND);
    world.state_file.clear();
    world.input(Input::Disconnected);
    world.wait(SECOND * 99 / 10);
    assert_eq!(world.state_file, []);
    world.wait(SECOND / 5);
    assert_eq!(world.state_file, [StateFile::Remove]);
    world.wait(60 * SECOND);
    assert_eq!(world.state_file, [StateFile::Remove]);
    world.connect();
    assert_eq!(world.lines(), ["line1"]);
}

#[test]
fn a_file_is_removed_when_haproxy_does_not_come_within_ten_seconds_of_the_start() {
    let mut world = world(Vec::new(), Mode::Act);
    world.now = 100 * SECOND;
    assert_eq!(world.core.next_timeout(), Some(Duration::ZERO));
    world.input(Input::Timeout);
    assert_eq!(world.core.next_timeout(), Some(110 * SECOND));
    world.wait(10 * SECOND);
    assert_eq!(world.state_file, [StateFile::Remove]);
    assert_eq!(world.core.next_timeout(), None);
}

#[test]
fn a_file_that_is_right_is_marked_as_current_while_haproxy_is_there() {
    let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Act);
    world.connect();
    world.input(synced(catalog(&[("web", 1..2)])));
    world.state_file.clear();
    world.wait(60 * SECOND);
    assert!(world.state_file.len() >= 4, "{:?}", world.state_file);
    assert!(
        world
            .state_file
            .iter()
            .all(|wanted| *wanted == StateFile::Keep)
    );
}

#[test]
fn who_was_not_in_charge_writes_the_file_when_it_is() {
    let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Standby);
    world.connect();
    world.input(synced(catalog(&[("web", 1..2)])));
    world.wait(60 * SECOND);
    assert_eq!(world.state_file, []);
    for _ in 0..2 {
        world.input(Input::Turned(Mode::Act));
        world.wait(SECOND);
        assert_eq!(world.lines(), ["line1"]);
        world.input(Input::Turned(Mode::Standby));
        world.wait(SECOND);
    }
}

#[test]
fn whom_the_other_one_let_to_a_slot_is_not_brought_in_again() {
    let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Standby);
    world.connect();
    world.input(synced(catalog(&[("web", 1..2)])));
    world.wait(10 * SECOND);
    // Another instance has the address, and the one in charge has brought it in.
    let mut other = registrations("web", 2..3);
    other[0].address = "10.0.0.1".to_owned();
    world.input(Input::Changed(service("web"), other));
    world.wait(10 * SECOND);
    world.input(Input::Turned(Mode::Act));
    world.wait(10 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn whom_the_other_one_let_to_a_slot_in_a_new_process_is_left_alone_though_another_had_it_before() {
    let slots = |first: &str, second: &str| vec![slot(1, first, 4), slot(2, second, 4)];
    let (one, two) = ("10.0.0.1:80", "10.0.0.2:80");
    let mut world = world(slots(one, two), Mode::Act);
    world.connect();
    world.input(synced(catalog(&[("web", 1..3)])));
    world.wait(10 * SECOND);
    // The one that was in charge filled the next process otherwise, and died while this one was still with the former.
    world.input(Input::Disconnected);
    world.info.pid = 2;
    world.slots(slots(two, one));
    world.connect();
    world.wait(10 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn who_only_observes_wants_nothing_of_the_file() {
    let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Observe);
    world.connect();
    world.input(synced(catalog(&[("web", 1..2)])));
    world.wait(60 * SECOND);
    world.input(Input::Disconnected);
    world.wait(60 * SECOND);
    assert_eq!(world.state_file, []);
    assert_eq!(world.core.next_timeout(), None);
}

#[test]
fn a_process_that_has_taken_up_the_file_needs_no_other_and_no_command() {
    for is_taken_up in [true, false] {
        let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Act);
        world.connect();
        world.input(synced(catalog(&[("web", 1..2)])));
        world.forget();
        world.state_file.clear();
        world.input(Input::Disconnected);
        world.info.pid = 2;
        if !is_taken_up {
            world.slots(vec![slot(1, "127.0.0.1:1", 5)]);
        }
        world.connect();
        let told = world.facts.contains(&Fact::Restoring(Restoring::NotDone));
        let is_changed = !world.changes().is_empty();
        assert_eq!((told, is_changed), (!is_taken_up, !is_taken_up));
        assert_eq!(world.state_file.is_empty(), is_taken_up);
    }
}

/// Another instance at the address of one that was there before has not passed its check.
#[test]
fn whose_a_slot_was_is_known_after_it_was_restored() {
    let mut world = world(vec![slot(1, "10.0.0.1:80", 4)], Mode::Act);
    world.connect();
    world.input(synced(catalog(&[("web", 1..2)])));
    world.wait(SECOND);
    world.input(Input::Disconnected);
    let mut other = registrations("web", 7..8);
    other[0].address = "10.0.0.1".to_owned();
    world.input(Input::Changed(service("web"), other));
    world.info.pid = 2;
    world.forget();
    world.connect();
    assert!(
        world
            .changes()
            .iter()
            .any(|command| matches!(command, Command::HealthDown(_))),
        "{:?}",
        world.changes()
    );
}
