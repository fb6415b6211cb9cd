//! In a Nomad task the commands find the sidecar of their allocation by its socket, and nothing has to be set for that.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::support::{
    sidecar::{command_with, soon},
    world::{World, on_every_line},
};

#[test]
fn by_the_directory_of_the_allocation() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = world.serve("dynamic", 1);
        let folder = tempfile::TempDir::with_prefix_in("alloc", "/tmp").expect("/tmp is writable");
        let alloc = folder.path().to_str().expect("a path of ours is text");
        let settings = [("NOMAD_ALLOC_DIR", alloc)];
        let mut first = world.sidecar_with(&settings);
        world.until_served_by("dynamic", &[&toys[0]]);
        let socket = folder.path().join("haproxy-nomad-sidecar.sock");
        let mode = || fs::metadata(&socket).map(|file| file.permissions().mode() & 0o777);
        soon("it listens", || (mode().ok() == Some(0o660)).then_some(()));
        // Port 1 is not where it listens: it is found by the socket.
        let nobody = [
            ("NOMAD_ALLOC_DIR", alloc),
            ("SIDECAR_ADMIN_LISTEN", "127.0.0.1:1"),
        ];
        let run = |arguments: &[&str]| {
            let output = world.with_settings(&nobody, |all| command_with(all, arguments));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        soon("the status is the sidecar's", || {
            run(&["status"])
                .contains("this sidecar is in charge")
                .then_some(())
        });
        soon("its server is in rotation", || {
            let json = serde_json::from_str::<serde_json::Value>(&run(&["status", "--json"]));
            (json.expect("JSON")["backends"][0]["in_rotation"] == 1).then_some(())
        });

        // One that was killed leaves its socket, and the next one takes it.
        first.kill9();
        assert!(socket.exists());
        assert!(run(&["status"]).contains("no sidecar answered"));
        let mut second = world.sidecar_with(&settings);
        soon("the status is the second one's", || {
            run(&["status"])
                .contains("this sidecar is in charge")
                .then_some(())
        });
        second.signal("TERM");
        soon("it has ended", || second.ended());
        assert!(!socket.exists());
    });
}
