//! The sidecar is killed.

use super::*;

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
