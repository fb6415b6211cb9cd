//! A start without Nomad, with what a predecessor left.

use super::*;
use crate::reconcile::{HeldServer, HoldEnd, Remembered};

impl World {
    /// A successor of this world's core, with a HAProxy that was restarted with it.
    fn successor(&mut self, haproxy_lives: bool) -> (Self, Remembered) {
        let remembered = self.core.remember(self.now).unwrap();
        let names: Vec<_> = self
            .haproxy
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut next = Self::new(&names);
        if haproxy_lives {
            next.haproxy.clone_from(&self.haproxy);
        }
        next.input(Input::Connected(next.info.clone()));
        (next, remembered)
    }

    /// One of `web` and one of `api` in rotation, and that of `api` is held.
    fn before_the_crash() -> Self {
        let mut world = Self::started(&["web", "api"]);
        world.input(Input::Changed(service("web"), registrations("web", 1..2)));
        world.input(Input::Changed(service("api"), registrations("api", 2..3)));
        world.up();
        world.wait(SECOND);
        world.input(Input::Changed(service("api"), Vec::new()));
        world.wait(10 * SECOND);
        assert_eq!(world.core.overview().held, 1);
        world
    }

    fn told(&self, wanted: impl Fn(&Fact) -> bool) -> usize {
        self.facts.iter().filter(|fact| wanted(fact)).count()
    }
}

#[test]
fn what_a_predecessor_knew_is_admitted_by_checks_and_what_it_held_is_held_for_the_rest() {
    let (mut world, remembered) = World::before_the_crash().successor(false);
    let [HeldServer { left, .. }] = &remembered.holds[..] else {
        panic!("{remembered:?}");
    };
    assert_eq!(*left, 20 * SECOND);
    world.checks_fail = true;
    world.input(Input::Restored(remembered));
    world.wait(SECOND);
    assert_eq!((world.ready("web"), world.ready("api")), (1, 1));
    // New servers begin in HAProxy's own state for those: nothing is put back.
    let made: Vec<_> = world
        .changes()
        .into_iter()
        .filter(|command| matches!(command, Command::EnableHealth(_)))
        .collect();
    assert_eq!(made.len(), 2, "{:?}", world.changes());
    let overview = world.core.overview();
    assert!(overview.from_snapshot && overview.in_sync);
    assert_eq!(overview.held, 1);
    assert_eq!(
        world.told(|fact| matches!(fact, Fact::SnapshotApplied { .. })),
        1
    );
    assert_eq!(
        world.told(|fact| matches!(fact, Fact::FirstSync { .. } | Fact::InSync { .. })),
        0
    );
    // Nobody may take a predecessor's word for news.
    assert_eq!(world.core.remember(world.now), None);

    world.checks_fail = false;
    world.up();
    world.wait(17 * SECOND);
    assert_eq!(world.core.overview().held, 1);
    world.wait(3 * SECOND);
    let is_over =
        |fact: &Fact| matches!(fact, Fact::HoldEnded(_, hold) if hold.end == HoldEnd::Over);
    assert_eq!(world.told(is_over), 1);
}

#[test]
fn over_a_haproxy_that_is_right_a_snapshot_writes_nothing() {
    let (mut world, remembered) = World::before_the_crash().successor(true);
    world.input(Input::Restored(remembered));
    world.wait(10 * SECOND);
    assert_eq!(world.changes().len(), 0);
    assert_eq!(world.core.overview().held, 1);
}

#[test]
fn what_a_snapshot_lacks_is_not_taken_out() {
    let mut world = World::before_the_crash();
    let (_, old) = world.successor(false);
    world.input(Input::Changed(service("web"), registrations("web", 1..4)));
    world.up();
    world.wait(SECOND);
    let (mut world, _) = world.successor(true);
    world.input(Input::Restored(old));
    world.wait(60 * SECOND);
    assert_eq!(world.ready("web"), 3);
    assert_eq!(world.proven.len(), 0);
}

#[test]
fn what_nomad_does_not_list_is_read_before_it_is_believed_to_be_gone() {
    let mut before = World::started(&["web", "api"]);
    before.input(Input::Changed(service("web"), registrations("web", 1..3)));
    before.input(Input::Changed(service("api"), registrations("api", 3..4)));
    before.up();
    before.wait(SECOND);
    let (mut world, remembered) = before.successor(true);
    world.input(Input::Restored(remembered));
    world.wait(SECOND);

    // The list has one of `web` less, and no `api`.
    let left: BTreeMap<_, _> = [(service("web"), registrations("web", 1..2))].into();
    world.input(synced(left));
    assert_eq!(world.proven, [service("api")].into());
    world.wait(10 * SECOND);
    assert_eq!((world.ready("web"), world.ready("api")), (1, 1));
    assert_eq!(world.told(|fact| matches!(fact, Fact::FirstSync { .. })), 1);
    assert!(!world.core.overview().from_snapshot);
    assert!(world.core.remember(world.now).is_some());

    world.input(Input::Changed(service("api"), Vec::new()));
    world.wait(HELD);
    assert_eq!((world.ready("web"), world.ready("api")), (1, 0));
}

#[test]
fn nothing_is_restored_once_nomad_was_heard() {
    let (_, remembered) = World::before_the_crash().successor(false);
    let mut world = World::started(&["web", "api"]);
    world.input(Input::Restored(remembered));
    world.wait(10 * SECOND);
    assert_eq!(world.changes().len(), 0);
    assert!(!world.core.overview().from_snapshot);
}

#[test]
fn a_hold_of_a_backend_that_its_service_may_not_use_is_not_restored() {
    let (mut world, mut remembered) = World::before_the_crash().successor(false);
    remembered.holds[0].service = Some(ServiceKey::new("other", "api"));
    world.input(Input::Restored(remembered));
    world.wait(SECOND);
    assert_eq!((world.ready("web"), world.ready("api")), (1, 0));
}
