//! The configuration of a day's HAProxy: slots and dynamic servers in backends that are in it, backends that are made at
//! runtime; and frontends that find them, each its own or all of them by routes.

use std::{fmt::Write as _, fs, net::Ipv4Addr};

use tempfile::TempDir;

use crate::{
    day::Setup,
    scenarios::Scenario,
    support::haproxy::{HaproxyBin, one_shot},
};

/// Each backend has a frontend of its own.
pub(crate) const SLOTS: &str = "slots";
/// Routes lead there.
pub(crate) const DYNAMIC: &str = "dynamic";
/// The configuration has no backend of these; routes lead there. From 3.4 on.
pub(crate) const MADE: &str = "made";
const KINDS: [&str; 3] = [SLOTS, DYNAMIC, MADE];

const FIRST_PORT: u16 = 9000;

/// As an operator would write it.
const DEFAULTS: &str = "
  # An instance that has just ended refuses connections. It must cost the client nothing: the next try is on another
  # server at once (redispatch 1), and where there is none, three tries half a second apart are over before a client loses
  # its patience.
  timeout connect 500ms
  retries 3
  option redispatch 1
  # Longer than the longest request.
  timeout client 30s
  timeout server 30s
  # HAProxy admits and expels instances by this, for sessions of TCP as well.
  option httpchk GET /health
  timeout check 1s
  balance roundrobin
";

/// The maps that routes are in, by hosts for HTTP and by ports for TCP: files where HAProxy has no virtual ones.
pub(crate) struct Maps {
    names: [String; 2],
    _directory: TempDir,
}

impl Maps {
    pub(crate) fn new(bin: &HaproxyBin) -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let names = ["hosts", "ports"].map(|kind| {
            if !bin.line().starts_with("2.") {
                return format!("virt@{kind}");
            }
            let file = directory.path().join(kind);
            fs::write(&file, "").expect("the file is ours");
            file.display().to_string()
        });
        Self {
            names,
            _directory: directory,
        }
    }

    /// What the sidecar has to know of them.
    pub(crate) fn settings(&self) -> [(&'static str, &str); 2] {
        let [hosts, ports] = &self.names;
        [("SIDECAR_HOST_MAP", hosts), ("SIDECAR_PORT_MAP", ports)]
    }

    /// Whether both of them lead to these backends.
    pub(crate) fn lead_to(&self, socket: &std::path::Path, backends: &[String; 2]) -> bool {
        let mut both = self.names.iter().zip(backends);
        both.all(|(map, backend)| {
            let answer = one_shot(socket, &format!("show map {map}"));
            let answer = answer.expect("HAProxy answers");
            let mut values = answer.lines().filter_map(|line| line.split(' ').nth(2));
            values.any(|value| value == backend)
        })
    }
}

/// Where the load on a scenario with these servers goes, for HTTP and for TCP.
pub(crate) fn ports(number: u16, servers: &str) -> [u16; 2] {
    let kind = KINDS.iter().position(|kind| *kind == servers);
    let kind = u16::try_from(kind.expect("there are these kinds")).expect("a few kinds");
    let first = FIRST_PORT + 6 * number + 2 * kind;
    [first, first + 1]
}

/// What is in `haproxy.cfg` after its `global` section.
pub(crate) fn text(addr: Ipv4Addr, setup: Setup, scenarios: &[&Scenario], maps: &Maps) -> String {
    let mut config = ["http", "tcp"]
        .map(|mode| {
            let name = profile(mode);
            format!("\ndefaults {name}\n  mode {mode}{DEFAULTS}")
        })
        .concat();
    let mut routed = [String::new(), String::new()];
    for (number, scenario) in (0..).zip(scenarios) {
        for servers in scenario.servers(setup) {
            for (at, mode) in ["http", "tcp"].into_iter().enumerate() {
                let suffix = if mode == "tcp" { "-tcp" } else { "" };
                let name = format!("{}-{servers}{suffix}", scenario.name);
                let next = format!("{}-{servers}-next{suffix}", scenario.name);
                let from = format!("from {}", profile(mode));
                let bind = format!("  bind {addr}:{}\n", ports(number, servers)[at]);
                match servers {
                    SLOTS => write!(
                        config,
                        "\nfrontend {name}-in {from}\n{bind}  default_backend {name}\nbackend {name} {from}\n  \
                         server-template nomad 1-12 slot.invalid:1 disabled init-addr last,127.0.0.1 {}\n",
                        setup.check
                    ),
                    DYNAMIC => write!(config, "\nbackend {name} {from}\nbackend {next} {from}\n"),
                    _ => Ok(()),
                }
                .expect("a text can be written to");
                if servers != SLOTS {
                    routed[at] += &bind;
                }
            }
        }
    }
    let lookups = ["req.hdr(host),host_only,lower", "dst_port"];
    for (at, mode) in ["http", "tcp"].into_iter().enumerate() {
        if !routed[at].is_empty() {
            write!(
                config,
                "\nfrontend routes-{mode} from {}\n{}  use_backend %[{},map_str({})]\n",
                profile(mode),
                routed[at],
                lookups[at],
                maps.names[at]
            )
            .expect("a text can be written to");
        }
    }
    config
}

/// The section that backends are made from: for HTTP the sidecar's default.
pub(crate) fn profile(mode: &str) -> &'static str {
    if mode == "tcp" { "nomad-tcp" } else { "nomad" }
}
