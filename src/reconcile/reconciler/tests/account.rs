//! What the machine says of itself, in numbers.

use super::*;

#[test]
fn the_overview_counts_what_is_wanted_and_what_is_in_rotation() {
    let mut world = World::started(&["web"]);
    let mut two = registrations("web", 1..3);
    two[1].port = 0;
    world.input(synced([(service("web"), two)].into()));
    world.up();
    world.wait(6 * SECOND);
    let expected = Overview {
        catalog_known: true,
        haproxy_read: true,
        in_sync: true,
        backends: 1,
        services: 1,
        wanted: 1,
        rejected: 1,
        owned: crate::reconcile::Owned {
            in_rotation: 1,
            ..crate::reconcile::Owned::default()
        },
        ..Overview::default()
    };
    assert_eq!(world.core.overview(), expected);
}
