//! Of several addresses of Nomad one that answers is enough: HAProxy follows it, and the log says which one is asked.

use crate::support::{
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn a_dead_address_and_a_missing_socket_are_passed_over() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let first = Toy::start("first");
        let keys = BOTH.map(|service| world.register(service, &first));
        let url = world.nomad.url();
        // Nobody listens on port 1.
        let addresses = format!("http://127.0.0.1:1,unix:///nowhere/api.sock,{url}");
        let sidecar = world.sidecar_with(&[("NOMAD_ADDR", &addresses)]);
        sidecar.until_ready();
        sidecar.logged(&[
            "another address of Nomad is asked from now on",
            &format!("nomad=\"{url}\""),
            "http://127.0.0.1:1: cannot connect: Connection refused",
        ]);
        sidecar.logged(&["following namespace default by its event stream"]);
        assert_eq!(sidecar.count("WARN"), 0, "{}", sidecar.log());
        let second = Toy::start("second");
        for (service, key) in BOTH.iter().zip(&keys) {
            world.register(service, &second);
            world.deregister(key);
            world.until_served_by(service, &[&second]);
        }
    });
}
