//! Two sidecars at one socket.

use super::*;

#[test]
fn a_second_one_takes_over_when_the_first_is_dead_and_not_when_it_is_stopped() {
    for version in VERSIONS {
        let mut world = settled(version);
        assert!(world.start_another());
        world.run_for(5 * SECOND);
        world.stop_sidecar(10 * SECOND);
        world.register(("default", "shop", &[]), "late", address(50), &[]);
        world.run_for(9 * SECOND);
        assert_eq!(world.lock, Some(1), "{}", world.report());
        world.run_for(5 * SECOND);
        expect_right(&world);

        world.end_one(false);
        expect_lawful(&world);
        assert_eq!(world.lock, Some(2), "{}", world.report());
        world.register(("default", "shop", &[]), "later", address(51), &[]);
        world.run_for(10 * SECOND);
        expect_right(&world);
        expect_recovery(&mut world);
    }
}
