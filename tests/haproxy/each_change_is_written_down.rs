//! Each change of HAProxy, with its cause and what became of it: in `/status`, and in the file of `--audit-log`.

use std::fs;

use serde_json::Value;

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn in_the_status_and_in_the_audit_log() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let file = folder.path().join("audit.log");
        let path = file.to_str().expect("a path of ours is text");
        let toys = BOTH.map(|service| world.serve(service, 1));
        let mut sidecar = world.sidecar_with(&[("SIDECAR_AUDIT_LOG", path)]);
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        sidecar.until_ready();
        let sent = || world.tap.changes();
        soon("the status has all changes", || {
            let status = sidecar.json("/status");
            let commands = commands(status["changes"].as_array().expect("a list"));
            (commands == sent()).then_some(())
        });
        let status = sidecar.json("/status?changes=1");
        let last = status["changes"].as_array().expect("a list");
        assert_eq!(last.len(), 1);
        assert_eq!(last[0]["outcome"], "done");
        assert_eq!(last[0]["why"], "registered in Nomad, not in HAProxy");
        assert!(last[0]["index"].as_u64() > Some(0), "{last:?}");

        // logrotate moves it away.
        let lines = |path: &std::path::Path| -> Vec<Value> {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines = text
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"));
            lines.collect()
        };
        soon("the file has all changes", || {
            (commands(&lines(&file)) == sent()).then_some(())
        });
        let old = folder.path().join("audit.log.1");
        fs::rename(&file, &old).expect("the folder is ours");
        let before = sent();
        let joins = Toy::start("joins");
        world.register("dynamic", &joins);
        world.until_served_by("dynamic", &[&toys[1][0], &joins]);
        soon("a new file has the new ones", || {
            let (old, new) = (commands(&lines(&old)), commands(&lines(&file)));
            (old == before && [old, new].concat() == sent()).then_some(())
        });
        // What is changed last is written before the end.
        sidecar.signal("TERM");
        soon("it has ended", || sidecar.ended());
        assert_eq!(
            commands(&lines(&old)).len() + commands(&lines(&file)).len(),
            sent().len()
        );
    });
}

fn commands(changes: &[Value]) -> Vec<String> {
    let commands = changes
        .iter()
        .map(|change| change["command"].as_str().expect("a text"));
    commands.map(str::to_owned).collect()
}
