//! How long dynamic servers are away when HAProxy is reloaded, or killed and started, and how many requests that costs. Under
//! load at a constant rate, on every HAProxy of `HAPROXY_BINS`, with 10 and with 1,000 servers.
//!
//! `cargo bench --bench gap` prints a line for each. The servers of the backend that is asked are among the last to be back.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

#[path = "../tests/support"]
#[expect(dead_code, reason = "the tests use more of it")]
mod support {
    pub(crate) mod app;
    pub(crate) mod fake_nomad;
    pub(crate) mod haproxy;
    pub(crate) mod load;
}

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{
    app::App,
    fake_nomad::{FakeNomad, ServiceRegistration},
    haproxy::{Haproxy, HaproxyBin, binaries, now, wait_for},
    load::{Kind, Load, Order, Target},
};
use tokio::runtime::{self, Runtime};

/// Of each backend.
const INSTANCES: u16 = 10;
const RATE: u32 = 200;
const ROUNDS: usize = 3;

fn main() {
    // `cargo test --benches` must not run this.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    for bin in binaries() {
        for backends in [1, 100] {
            let bench = Bench::start(&bin, backends);
            for event in [Event::Reload, Event::Kill] {
                bench.measure(event);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Reload,
    Kill,
}

/// What one of them cost.
struct Gap {
    /// From when the new process answered first until the last server was UP.
    up_after: Duration,
    /// Requests that failed though a process answered.
    failed: usize,
    /// From when the first of them was due until the last one was.
    lasted: Duration,
}

struct Bench {
    haproxy: std::cell::RefCell<Haproxy>,
    sidecar: Child,
    runtime: Runtime,
    backends: u16,
    _apps: Vec<App>,
    _nomad: FakeNomad,
}

impl Bench {
    fn start(bin: &HaproxyBin, backends: u16) -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be had");
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let app = App::boot(runtime.handle(), "app#1", everywhere, Duration::ZERO);
        let app = app.expect("a port can be had");
        let nomad = runtime.block_on(FakeNomad::start());
        let all = (0..backends)
            .flat_map(|service| (0..INSTANCES).map(move |instance| (service, instance)));
        nomad.register_all(all.map(|(service, instance)| {
            let number = (u32::from(service) << 16) + u32::from(instance);
            ServiceRegistration::new(&name(service), number, app.address().port().into())
                .address(&format!("127.1.{service}.{}", 1 + instance))
                .tags(&["haproxy.enable=true"])
        }));
        let haproxy = Haproxy::start(bin, &config(backends));
        let sidecar = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
            .env_clear()
            .env("HAPROXY_SOCKET", haproxy.socket())
            .env("NOMAD_ADDR", nomad.url())
            .env("SIDECAR_ADMIN_LISTEN", "off")
            .env("SIDECAR_LOG_LEVEL", "warn")
            .stderr(Stdio::null())
            .spawn()
            .expect("the sidecar starts");
        Self {
            haproxy: haproxy.into(),
            sidecar,
            runtime,
            backends,
            _apps: vec![app],
            _nomad: nomad,
        }
    }

    fn measure(&self, event: Event) {
        let rounds = (0..3 * ROUNDS).filter_map(|_| self.once(event));
        let mut gaps: Vec<_> = rounds.take(ROUNDS).collect();
        if gaps.len() < ROUNDS {
            let line = self.haproxy.borrow().bin().line().to_owned();
            println!("{line} {event:?}: not measured, the machine was too slow");
            return;
        }
        gaps.sort_by_key(|gap| gap.up_after);
        let (middle, worst) = (&gaps[ROUNDS / 2], &gaps[ROUNDS - 1]);
        let mut failed: Vec<_> = gaps.iter().map(|gap| gap.failed).collect();
        failed.sort_unstable();
        println!(
            "{} {event:?}: {:4} dynamic servers: the last one UP {:.0?} after the new process's first answer (median; at most {:.0?}), \
             {} requests failed of {RATE} a second (median; at most {}), in {:.0?}",
            self.haproxy.borrow().bin().line(),
            self.servers(),
            middle.up_after,
            worst.up_after,
            failed[ROUNDS / 2],
            failed[ROUNDS - 1],
            middle.lasted,
        );
    }

    /// Nothing when the generator could not keep its rate.
    fn once(&self, event: Event) -> Option<Gap> {
        self.wait_until_up();
        // What the sidecar has not seen in rotation is not put back, but admitted by its checks: it reads every 5 s.
        thread::sleep(Duration::from_millis(5_500));
        let order = Order {
            target: Target::Unix(self.haproxy.borrow().directory().join("http")),
            kind: Kind::Close,
            host: "load.example".to_owned(),
            rate: RATE,
            longest: Duration::ZERO,
            seed: 1,
        };
        let load = Load::start(self.runtime.handle(), order);
        thread::sleep(Duration::from_millis(300));
        match event {
            Event::Reload => self.haproxy.borrow().reload(),
            Event::Kill => {
                self.haproxy.borrow_mut().kill9();
                self.haproxy.borrow_mut().restart();
            }
        }
        let answered = now();
        self.wait_until_up();
        let up_after = answered.elapsed();
        thread::sleep(Duration::from_millis(300));
        let report = self.runtime.block_on(load.stop());
        if let Some(fault) = report.fault() {
            eprintln!("MEASURED AGAIN: {fault}");
            return None;
        }
        let due = report.failed().map(|record| record.due.into_std());
        // What fails while no HAProxy is there is not the sidecar's part.
        let due: Vec<Instant> = due
            .filter(|due| matches!(event, Event::Reload) || *due >= answered)
            .collect();
        let lasted = match (due.first(), due.last()) {
            (Some(first), Some(last)) => *last - *first,
            _ => Duration::ZERO,
        };
        Some(Gap {
            up_after,
            failed: due.len(),
            lasted,
        })
    }

    fn wait_until_up(&self) {
        wait_for("all servers to be up", || {
            let rows = self.haproxy.borrow().ask("show servers state");
            let up = rows.lines().skip(2).filter(|row| {
                let cells: Vec<_> = row.split(' ').collect();
                cells.len() == 25 && cells[5] == "2" && cells[6] == "0"
            });
            (up.count() == self.servers()).then_some(())
        });
    }

    fn servers(&self) -> usize {
        usize::from(self.backends * INSTANCES)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.sidecar.kill());
        drop(self.sidecar.wait());
    }
}

fn name(service: u16) -> String {
    format!("s{service:03}")
}

fn config(backends: u16) -> String {
    let mut config = format!(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n\
         frontend in\n  bind @DIR@/http mode 600\n  default_backend {}\n",
        name(backends - 1)
    );
    for service in 0..backends {
        writeln!(config, "backend {}\n  balance roundrobin", name(service))
            .expect("a text can be written to");
    }
    config
}
