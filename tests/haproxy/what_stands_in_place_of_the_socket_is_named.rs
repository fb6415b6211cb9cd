//! While something else has the place of HAProxy's socket, the log says what it is, and nothing is written to it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    thread,
};

use crate::support::world::{BOTH, World, on_every_line};

#[test]
fn a_file_a_directory_a_dead_socket_and_a_stranger_are_told_apart_and_haproxy_is_found_again() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let path = world.haproxy.socket();
        let socket = path.to_str().expect("a path of ours is text");
        let mut sidecar = world.sidecar_with(&[("HAPROXY_SOCKET", socket)]);
        sidecar.until_ready();
        world.haproxy.kill9();
        let says = |what: &str| {
            sidecar.logged(&[
                " WARN ",
                "HAProxy cannot be used; trying again for ever",
                what,
            ]);
        };
        says(&format!(
            "nobody listens on {socket}: HAProxy is not running, or is just being restarted"
        ));

        fs::remove_file(&path).expect("a killed HAProxy leaves its socket");
        fs::write(&path, "precious").expect("the directory is ours");
        says(&format!(
            "{socket} is not a socket: name HAProxy's stats socket with --haproxy-socket"
        ));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
        fs::remove_file(&path).expect("it is ours");

        says(&format!(
            "{socket} does not exist: start HAProxy, or name its stats socket"
        ));
        fs::create_dir(&path).expect("the directory is ours");
        let not_a_socket = || sidecar.count("is not a socket");
        crate::support::sidecar::soon("the directory is named", || {
            (not_a_socket() >= 2).then_some(())
        });
        fs::remove_dir(&path).expect("it is ours");

        let stranger = UnixListener::bind(&path).expect("the directory is ours");
        let heard = thread::spawn(move || {
            let (mut stream, _) = stranger.accept().expect("it is asked");
            stream
                .write_all(b"220 mail ESMTP\n> 220 ok\n> ")
                .expect("it listens");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap_or_default();
            String::from_utf8_lossy(&heard).into_owned()
        });
        says(&format!(
            "{socket} does not answer as HAProxy does, but with "
        ));
        let heard = heard.join().expect("it heard something");
        assert!(heard.lines().all(|line| line == "prompt"), "{heard}");
        fs::remove_file(&path).expect("it is ours");

        world.haproxy.restart();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        sidecar.until_ready();
        assert!(sidecar.ended().is_none());
    });
}
