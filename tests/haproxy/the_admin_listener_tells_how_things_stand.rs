//! `/live`, `/ready`, `/status` and `/metrics` of a running sidecar: what is missing before the first sync, and numbers after it.

use std::fs;

use crate::support::{
    haproxy::now,
    promtool,
    sidecar::soon,
    world::{BOTH, World, on_every_line},
};

#[test]
fn ready_says_what_is_missing_and_metrics_count_what_happened() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 2));
        world.nomad.stop();
        world.haproxy.kill9();
        let socket = world.haproxy.socket();
        fs::remove_file(&socket).expect("a killed HAProxy leaves its socket");
        let socket = socket.to_str().expect("a path of ours is text");
        let sidecar = world.sidecar_with(&[("HAPROXY_SOCKET", socket)]);

        let missing = format!(
            "haproxy: not connected: {socket} does not exist: start HAProxy, or name its stats socket with --haproxy-socket\n"
        );
        let no_list = format!(
            "nomad: no list was accepted yet: nomad at {}: ",
            world.nomad.url()
        );
        soon("/ready says that both are missing", || {
            let (status, body) = sidecar.get("/ready");
            (status == 503 && body.contains(&missing) && body.contains(&no_list)).then_some(())
        });
        assert_eq!(sidecar.get("/live").0, 200);
        assert_eq!(sidecar.get("/page").0, 404);
        assert_eq!(sidecar.metric("ready"), Some(0.0));
        assert_eq!(sidecar.metric("initial_sync_duration_seconds"), None);
        assert!(sidecar.metric(r#"sync_failures_total{kind="haproxy"}"#) >= Some(1.0));
        assert!(sidecar.metric(r#"sync_failures_total{kind="nomad"}"#) >= Some(1.0));

        world.haproxy.restart();
        soon("/ready says that only the catalog is missing", || {
            let (status, body) = sidecar.get("/ready");
            (status == 503 && !body.contains("haproxy:") && body.contains(&no_list)).then_some(())
        });
        world.nomad.resume();
        sidecar.until_ready();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
        }

        let metric = |name: &str| sidecar.metric(name).unwrap_or_else(|| panic!("no {name}"));
        let took = metric("initial_sync_duration_seconds");
        assert!(took > 0.0 && took <= sidecar.age().as_secs_f64(), "{took}");
        for (name, value) in [
            ("ready", 1),
            ("services_restored", 2),
            ("haproxy_restarts_total", 0),
            ("backends_blocked", 0),
            ("registrations_rejected", 0),
            (r#"commands_total{kind="add_server",outcome="done"}"#, 2),
            // 8 slots, of which 2 are taken.
            (r#"servers_owned{state="free"}"#, 6),
            (r#"servers_owned{state="in_rotation"}"#, 4),
            ("servers_admitting", 0),
            (r#"admissions_total{end="in_rotation"}"#, 4),
            (r#"admissions_total{end="left"}"#, 0),
        ] {
            sidecar.until_metric(name, value);
        }
        promtool::assert_takes(&sidecar.get("/metrics").1);
        assert!(metric("syncs_total") >= 1.0);
        assert!(metric("catalog_age_seconds") < 60.0);
        sidecar.until_metric(r#"namespace_followed{namespace="default",by="stream"}"#, 1);
        assert!(metric(r#"namespace_age_seconds{namespace="default"}"#) < 60.0);
        assert!(metric(r#"namespace_index{namespace="default"}"#) >= 4.0);
        assert!(metric(r#"nomad_requests_total{kind="list",outcome="ok"}"#) >= 1.0);
        assert!(metric(r#"nomad_requests_total{kind="list",outcome="unreachable"}"#) >= 1.0);
        assert!(metric(r#"nomad_received_bytes_total{kind="read"}"#) > 400.0);
        let (code, status) = sidecar.get("/status");
        assert_eq!(code, 200);
        for part in [
            &format!("nomad: asked at {}\n", world.nomad.url()),
            "\nnamespace default: followed by its event stream for ",
            "; last trouble ended ",
            "is the agent running? set NOMAD_ADDR to where it answers\n",
        ] {
            assert!(status.contains(part), "{part}: {status}");
        }

        let syncs = metric("syncs_total");
        let killed = now();
        world.haproxy.kill9();
        soon("/ready says that HAProxy is gone", || {
            let (status, body) = sidecar.get("/ready");
            (status == 503 && body.starts_with("haproxy: not connected: ")).then_some(())
        });
        world.haproxy.restart();
        sidecar.until_ready();
        eprintln!(
            "{}: ready again {:.0?} after kill -9",
            bin.version,
            killed.elapsed()
        );
        soon("the restart is counted", || {
            (metric("haproxy_restarts_total") > 0.5 && metric("syncs_total") > syncs).then_some(())
        });
        assert!(
            (metric("services_restored") - 2.0).abs() < 0.5,
            "only the first sync counts"
        );
        let applied = metric("event_to_applied_seconds_count");
        world.serve("dynamic", 1);
        soon("the event's time is counted", || {
            (metric("event_to_applied_seconds_count") > applied).then_some(())
        });
    });
}
