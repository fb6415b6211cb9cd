//! Who does not act: an observer, and the second of two sidecars of one HAProxy.

use super::*;

fn standby() -> World {
    let mut world = World::new(&["web"]);
    world.core = Reconciler::new(Policy::default(), Mode::Standby, 1);
    world.input(Input::Connected(world.info.clone()));
    world
}

#[test]
fn who_stands_by_writes_nothing_tells_no_plan_and_is_in_sync_when_the_other_one_is() {
    let mut world = standby();
    world.input(synced(catalog(&[("web", 1..3)])));
    world.wait(10 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
    let told = |fact: &Fact| matches!(fact, Fact::WouldSend { .. } | Fact::InSync { .. });
    assert!(!world.facts.iter().any(told), "{:?}", world.facts);
    assert!(!world.core.overview().in_sync);

    // The other one does it.
    let mut other = World::new(&["web"]);
    other.input(Input::Connected(other.info.clone()));
    other.input(synced(catalog(&[("web", 1..3)])));
    other.up();
    other.wait(10 * SECOND);
    world.haproxy = other.haproxy;
    world.wait(2 * SECOND);
    assert!(world.core.overview().in_sync);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn who_takes_over_reads_everything_before_it_writes() {
    let mut world = standby();
    world.input(synced(catalog(&[("web", 1..3)])));
    world.wait(10 * SECOND);
    world.forget();
    world.input(Input::Turned(Mode::Act));
    let first = world
        .sent
        .iter()
        .position(|one| matches!(one, Request::Change(_)));
    let read = world
        .sent
        .iter()
        .position(|one| *one == Request::ServersState(None));
    assert!(read.unwrap() < first.unwrap(), "{:?}", world.sent);
    world.up();
    world.wait(10 * SECOND);
    assert!(world.core.overview().in_sync);
    assert_eq!(
        world.haproxy[&BackendName::new("web").unwrap()]
            .servers
            .len(),
        2
    );
}

#[test]
fn what_the_other_one_had_begun_is_no_operators_hand() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..3)])));
    world.up();
    world.wait(10 * SECOND);
    // The same, as one that stood by has seen it, and then what the other one does before it dies.
    world.input(Input::Turned(Mode::Standby));
    world.wait(10 * SECOND);
    let web = BackendName::new("web").unwrap();
    let server = &mut world.haproxy.get_mut(&web).unwrap().servers[0];
    (server.weight, server.admin) = (0, crate::model::AdminState(8));
    world.wait(6 * SECOND);
    world.forget();
    world.input(Input::Turned(Mode::Act));
    world.wait(SECOND);
    assert_eq!(world.ready("web"), 2, "{:?}", world.facts);
}

/// Between two looks the other one may have made it ready, and sessions came.
#[test]
fn who_takes_over_gives_every_drain_its_whole_time() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..3)])));
    world.up();
    world.wait(10 * SECOND);
    world.input(Input::Turned(Mode::Standby));
    let web = BackendName::new("web").unwrap();
    let server = &mut world.haproxy.get_mut(&web).unwrap().servers[0];
    (server.weight, server.admin) = (0, crate::model::AdminState(8));
    world.input(Input::Changed(service("web"), registrations("web", 2..3)));
    world.sessions = 1;
    world.wait(60 * SECOND);
    world.forget();
    world.input(Input::Turned(Mode::Act));
    let is_out = |world: &World| {
        let mut changes = world.changes().into_iter();
        changes.any(|command| matches!(command, Command::Maintenance(_)))
    };
    world.wait(9 * SECOND);
    assert!(!is_out(&world));
    world.wait(2 * SECOND);
    assert!(is_out(&world));
}

#[test]
fn who_steps_back_sends_nothing_more_and_passes_over_what_was_under_way() {
    let mut world = World::started(&["web"]);
    world
        .core
        .handle(world.now, synced(catalog(&[("web", 1..3)])));
    let mut under_way = Vec::new();
    while let Some(output) = world.core.poll() {
        if let Output::Run(batch) = output {
            under_way.push(batch);
        }
    }
    assert!(!under_way.is_empty());
    world.forget();
    world.input(Input::Turned(Mode::Standby));
    for batch in under_way {
        let answers = batch
            .requests
            .iter()
            .map(|request| world.answer(request))
            .collect();
        world.input(Input::Answered(batch.id, answers));
    }
    world.input(Input::Changed(service("web"), registrations("web", 1..9)));
    world.wait(10 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn observing_tells_the_whole_plan_once_and_writes_nothing() {
    let mut world = World::new(&["web"]);
    world.core = Reconciler::new(Policy::default(), Mode::Observe, 1);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..3)])));
    world.wait(60 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
    let plans: Vec<_> = world
        .facts
        .iter()
        .filter_map(|fact| {
            if let Fact::WouldSend { steps, .. } = fact {
                Some(steps.len())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(plans, [6]);
}

#[test]
fn what_is_not_sent_is_not_looked_for_at_once() {
    for mode in [Mode::Observe, Mode::Standby] {
        let mut world = World::new(&["web"]);
        world.core = Reconciler::new(Policy::default(), mode, 1);
        world.slots(vec![restarts::slot(1, "127.0.0.1:1", 5)]);
        world.input(Input::Connected(world.info.clone()));
        world.input(synced(catalog(&[("web", 1..2)])));
        let next = world.core.next_timeout().unwrap();
        assert!(next >= world.now + SECOND, "{mode:?}: {next:?}");
    }
}
