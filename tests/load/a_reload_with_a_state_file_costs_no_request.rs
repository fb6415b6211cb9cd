//! HAProxy is reloaded under load, again and again, with slots and a state file.

use std::{fmt::Write as _, fs, net::SocketAddr, thread, time::Duration};

use tokio::runtime;

use crate::{
    alone, judged,
    support::{
        app::{App, loopback},
        fake_nomad::ServiceRegistration,
        haproxy::{HaproxyBin, binaries},
        load::{Kind, Load, Order, Target},
        sidecar::soon,
        world::{ENABLED, Server, World},
    },
};

const CONFIG: &str = "  server-state-file @DIR@/state
defaults
  load-server-state-from-file global
  timeout connect 500ms
  timeout client 30s
  timeout server 30s
  retries 3
  option redispatch 1
  option httpchk GET /health
  balance roundrobin
";
const RELOADS: u32 = 4;
const RATE: u32 = 50;

#[test]
fn a_reload_with_a_state_file_costs_no_request() {
    let _alone = alone();
    let mut problems = Vec::new();
    for bin in &binaries() {
        problems.extend(judged(|| play(bin)));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn play(bin: &HaproxyBin) -> Vec<String> {
    let mut config = CONFIG.to_owned();
    for mode in ["http", "tcp"] {
        write!(
            config,
            "frontend {mode}-in\n  mode {mode}\n  bind @DIR@/{mode} mode 600\n  default_backend {mode}\n\
             backend {mode}\n  mode {mode}\n  server-template nomad 1-8 slot.invalid:1 disabled init-addr last,127.0.0.1 \
             check inter 1s fastinter 250ms downinter 250ms\n"
        )
        .expect("a text can be written to");
    }
    let world = World::start_with(bin, &config);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be had");
    let apps: Vec<_> = (1..=3)
        .map(|number| {
            let address = SocketAddr::from((loopback(), 0));
            let name = format!("app#{number}");
            let app = App::boot(runtime.handle(), &name, address, Duration::ZERO)
                .expect("a port can be had");
            for service in ["http", "tcp"] {
                let port = i64::from(app.address().port());
                let registration = ServiceRegistration::new(service, number, port)
                    .address(&app.address().ip().to_string())
                    .tags(&[ENABLED]);
                world.nomad.register(registration);
            }
            app
        })
        .collect();
    let file = world.haproxy.directory().join("state");
    let sidecar = world.sidecar_with(&[(
        "SIDECAR_STATE_FILE",
        file.to_str().expect("a path of ours is text"),
    )]);
    let in_rotation = |backend: &str| {
        let servers = world.servers(backend).into_values();
        servers.filter(Server::is_in_rotation).count()
    };
    soon("all are in rotation, and in the file", || {
        let text = fs::read_to_string(&file).ok()?;
        let all = ["http", "tcp"].map(in_rotation) == [apps.len(); 2];
        (all && text.lines().count() == 2 + 2 * apps.len()).then_some(())
    });

    let loads = [Kind::KeepAlive, Kind::Close, Kind::Tcp].map(|kind| {
        let socket = if kind == Kind::Tcp { "tcp" } else { "http" };
        let order = Order {
            target: Target::Unix(world.haproxy.directory().join(socket)),
            kind,
            host: "load.example".to_owned(),
            rate: RATE,
            longest: Duration::from_secs(1),
            seed: 1,
        };
        (kind, Load::start(runtime.handle(), order))
    });
    for reloads in 1..=RELOADS {
        // What HAProxy does with its connections at a reload is to be met by as many moments of them as can be.
        thread::sleep(Duration::from_millis(700));
        world.haproxy.reload();
        sidecar.until_metric("haproxy_restarts_total", reloads);
    }
    thread::sleep(Duration::from_millis(700));
    let mut problems = Vec::new();
    for (kind, load) in loads {
        let report = runtime.block_on(load.stop());
        let failed: Vec<_> = report.failed().map(|record| &record.outcome).collect();
        eprintln!(
            "{:8} {kind:?}: {RELOADS} reloads, {} requests, {} failed, {} retried",
            world.version(),
            report.records.len(),
            failed.len(),
            report.retried(),
        );
        problems.extend(report.fault());
        if !failed.is_empty() {
            problems.push(format!("{}, {kind:?}: {failed:?}", world.version()));
        }
    }
    problems
}
