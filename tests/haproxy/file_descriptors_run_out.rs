//! A sidecar that may open no more files says so, and goes on when that is over.

use std::{
    net::{SocketAddr, TcpStream},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::support::{
    sidecar::Sidecar,
    world::{World, on_every_line},
};

#[test]
fn whoever_hogs_the_admin_listener_is_named_and_outlasted() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = world.serve("dynamic", 1);
        let socket = world.haproxy.socket();
        let socket = socket.to_str().expect("a path of ours is text");
        let settings = [("HAPROXY_SOCKET", socket)];
        let mut sidecar = world.with_settings(&settings, |settings| {
            Sidecar::start_behind(&["prlimit", "--nofile=20"], settings)
        });
        world.until_served_by("dynamic", &[&toys[0]]);
        sidecar.until_ready();
        let line = sidecar.logged(&["the admin listener answers"]);
        let (_, addr) = line.split_once("addr=").expect("it says where");
        let addr: SocketAddr = addr.trim().parse().expect("it is an address");
        let (over, is_over) = mpsc::channel::<()>();
        let hog = thread::spawn(move || {
            // Ends when the other end is dropped, be it by a panic.
            while is_over.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout)
            {
                let hogs: Vec<_> = (0..40).map(|_| TcpStream::connect(addr)).collect();
                thread::sleep(Duration::from_millis(100));
                drop(hogs);
            }
        });
        sidecar.logged(&[
            " WARN ",
            "the admin listener cannot accept connections and tries again every second: raise the limit of open files (ulimit -n)",
        ]);
        world.haproxy.kill9();
        world.haproxy.restart();
        drop(over);
        hog.join().expect("it only connects");
        world.until_served_by("dynamic", &[&toys[0]]);
        sidecar.until_ready();
        sidecar.logged(&[" INFO ", "the admin listener accepts connections again"]);
        assert!(sidecar.ended().is_none());
    });
}
