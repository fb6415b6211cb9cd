//! The sidecar is killed.

use super::*;
use crate::link::Health;

#[test]
fn a_sidecar_killed_at_any_line_of_the_first_sync_leaves_what_its_successor_can_finish() {
    for version in VERSIONS {
        for line in 1..=haproxy::lines_of_first_sync(version) {
            let mut world = before_start(version);
            world.kill_after_changes = Some(line);
            world.start_sidecar();
            world.run_for(20 * SECOND);
            expect_right(&world);
            assert_eq!(world.generation, 2, "it was killed at line {line}");
        }
    }
}

#[test]
fn a_sidecar_killed_at_any_line_of_a_removal_leaves_what_its_successor_can_finish() {
    for version in VERSIONS {
        let mut line = 0;
        loop {
            line += 1;
            let mut world = settled(version);
            world.kill_after_changes = Some(world.changes + line);
            let gone: Vec<_> = world
                .nomad
                .table()
                .values()
                .filter(|one| one.id.ends_with('1'))
                .cloned()
                .collect();
            // The others are still there, or nothing would tell a successor whose these servers were.
            let gone: Vec<_> = gone
                .into_iter()
                .filter(|one| &*one.service.name != "cache")
                .collect();
            world.deregister(&gone);
            // With cookies a drain takes all of its time, and after a restart once more.
            world.run_for(40 * SECOND);
            expect_right(&world);
            if world.generation == 1 {
                break;
            }
        }
        assert!(line > 8, "there were lines to die at: {line}");
    }
}

#[test]
fn a_sidecar_and_a_haproxy_that_die_without_nomad_are_served_from_the_snapshot() {
    for version in VERSIONS {
        let mut world = settled(version);
        world.link.health = Some(Health::Away);
        world.break_stream();
        world.kill_sidecar(SECOND);
        world.kill_haproxy(SECOND);
        world.run_for(20 * SECOND);
        // Whatever became of the catalog meanwhile, this is what was known.
        expect_right(&world);
        assert_eq!(world.generation, 2);

        let gone: Vec<_> = world
            .nomad
            .table()
            .values()
            .filter(|one| one.id.ends_with('1'))
            .cloned()
            .collect();
        world.deregister(&gone);
        let changes = world.changes;
        world.run_for(60 * SECOND);
        expect_lawful(&world);
        assert_eq!(world.changes, changes, "{}", world.report());
        expect_recovery(&mut world);
    }
}

#[test]
fn a_sidecar_that_restarts_without_nomad_over_a_right_haproxy_writes_nothing() {
    for version in VERSIONS {
        let mut world = settled(version);
        world.link.health = Some(Health::Away);
        world.break_stream();
        let changes = world.changes;
        for _ in 0..3 {
            world.kill_sidecar(SECOND);
            world.run_for(20 * SECOND);
            expect_right(&world);
        }
        assert_eq!(world.changes, changes, "{}", world.report());
        expect_recovery(&mut world);
    }
}
