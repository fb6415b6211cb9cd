//! One HAProxy with backends of some kinds, a Nomad, and the place of a sidecar or two: what faults befall.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::Output,
    sync::{Mutex, OnceLock},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::{
    crew::Crew,
    kind::{Kind, Servers},
    lock,
    story::{Event, Story},
    support::{
        app::loopback,
        fake_nomad::{Catalog, Token},
        haproxy::{Haproxy, HaproxyBin, one_shot, wait_for},
        sidecar::{self, Sidecar},
        world::Nomad,
    },
};

/// Servers of others, in every backend of the configuration: a static one, one that an operator has put into maintenance, and
/// one that is named as if it were ours. They have no weight, so that they hide no failure.
pub(crate) const FOREIGN: [&str; 3] = ["fixed", "hands", "nomad99"];

pub(crate) const TOKEN: &str = "11111111-2222-3333-4444-555555555555";

/// What [`FOREIGN`] servers can be told apart by; the rest of a row moves by itself.
const LASTING: [&str; 13] = [
    "be_id",
    "be_name",
    "srv_id",
    "srv_name",
    "srv_addr",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
    "srv_iweight",
    "srv_f_forced_id",
    "srv_fqdn",
    "srv_port",
    "srv_check_port",
];

const FIRST_PORT: u16 = 9000;

/// `kill_timeout` of Nomad, by default.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

const DEFAULTS: &str = "
  server-state-file @DIR@/state
# Backends are made from it.
defaults nomad
  mode http
  timeout connect 500ms
  retries 3
  option redispatch 1
  timeout client 30s
  timeout server 30s
  option httpchk GET /health
  timeout check 2s
  balance roundrobin
";

/// Finds the backends that have no frontend of their own. There is no other backend to go to: who finds none is told 503.
const ROUTES: &str = "
  http-request set-var(txn.host) req.hdr(host),host_only,lower
  http-request set-var(txn.to) var(txn.host),map_str(@HOSTS@)
  http-request set-var(txn.to) var(txn.host),map_end(@SUFFIXES@) unless { var(txn.to) -m found }
  use_backend %[var(txn.to)] if { var(txn.to) -m found }
";

/// An entry of somebody else's in the file of a map.
const IN_FILE: &str = "in-file.example elsewhere\n";

/// A server of somebody else's in a backend of somebody else's, where backends can be made.
const BY_HAND: [&str; 2] = [
    "add backend by-hand from nomad",
    "add server by-hand/fixed 127.0.0.1:1 weight 0",
];

const TEMPLATE: &str = "  server-template nomad 1-8 slot.invalid:1 disabled init-addr last,127.0.0.1 check inter 1s fastinter 250ms downinter 250ms\n";

pub(crate) struct Site {
    pub(crate) story: Story,
    pub(crate) nomad: Nomad,
    pub(crate) crews: Vec<Crew>,
    /// Where HAProxy listens, from [`FIRST_PORT`] on.
    addr: Ipv4Addr,
    haproxy: Mutex<Haproxy>,
    reloading: Mutex<()>,
    socket: PathBuf,
    /// What finds a whole host, and what finds the end of one.
    pub(crate) maps: [String; 2],
    _directory_of_maps: TempDir,
    settings: Vec<(&'static str, String)>,
    sidecars: [Mutex<Option<Sidecar>>; 2],
    logs: Mutex<String>,
    older: OnceLock<Catalog>,
}

impl Site {
    /// HAProxy and Nomad; no sidecar.
    pub(crate) fn start(bin: &HaproxyBin, kinds: &[Kind], runtime: &Handle) -> Self {
        let addr = loopback();
        let directory_of_maps = tempfile::tempdir().expect("there is room");
        let maps = maps(bin, &directory_of_maps);
        let config = config(kinds, addr, &maps);
        let haproxy = Haproxy::start(bin, &config);
        let nomad = Nomad::start();
        nomad.issue(TOKEN, Token::Client(vec!["default".to_owned()]));
        let socket = haproxy.socket();
        let in_directory = |name| haproxy.directory().join(name).display().to_string();
        let settings = vec![
            ("HAPROXY_SOCKET", socket.display().to_string()),
            ("NOMAD_ADDR", nomad.url()),
            ("NOMAD_TOKEN", TOKEN.to_owned()),
            // Longer than the longest request.
            ("SIDECAR_DRAIN_TIMEOUT", "3s".to_owned()),
            ("SIDECAR_STATE_FILE", in_directory("state")),
            ("SIDECAR_LOG_LEVEL", "debug".to_owned()),
            ("SIDECAR_HOST_MAP", maps[0].clone()),
            ("SIDECAR_SUFFIX_MAP", maps[1].clone()),
        ];
        let crews = kinds.iter().map(|kind| Crew::start(runtime, &nomad, *kind));
        Self {
            story: Story::default(),
            crews: crews.collect(),
            nomad,
            addr,
            haproxy: Mutex::new(haproxy),
            reloading: Mutex::default(),
            socket,
            maps,
            _directory_of_maps: directory_of_maps,
            settings,
            sidecars: [const { Mutex::new(None) }; 2],
            logs: Mutex::default(),
            older: OnceLock::new(),
        }
    }

    /// Where the load on the service number `at` goes.
    pub(crate) fn address(&self, at: u16) -> (Ipv4Addr, u16) {
        (self.addr, FIRST_PORT + at)
    }

    // === HAProxy ===

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub(crate) fn ask(&self, command: &str) -> String {
        lock(&self.haproxy).ask(command)
    }

    /// The entries of both maps: what is looked for, and the backend.
    pub(crate) fn routes(&self) -> Vec<(String, String)> {
        let maps = self.maps.iter();
        maps.flat_map(|map| entries_in(&self.ask(&format!("show map {map}"))))
            .collect()
    }

    /// The rows of the servers of others, without what moves by itself, and the entries of others.
    pub(crate) fn foreign_rows(&self) -> Vec<String> {
        let state = self.ask("show servers state");
        let mut lines = state.lines().skip(1);
        let header = lines.next().unwrap_or_default().trim_start_matches("# ");
        let rows = lines.filter_map(|line| {
            let row: BTreeMap<_, _> = header.split(' ').zip(line.split(' ')).collect();
            let is_foreign = FOREIGN.contains(row.get("srv_name")?);
            is_foreign.then(|| LASTING.map(|column| row[column]).join(" "))
        });
        let is_ours = |backend: &str| self.crews.iter().any(|crew| crew.kind.name == backend);
        let routes = self.routes().into_iter();
        let entries = routes
            .filter(|(_, backend)| !is_ours(backend))
            .map(|(key, backend)| format!("{key} leads to {backend}"));
        rows.chain(entries).collect()
    }

    /// An operator does it: maintenance of a server, or a backend, and an entry of a map.
    pub(crate) fn operator_comes(&self) {
        let is_made = |crew: &&Crew| crew.kind.servers == Servers::Made;
        let (made, declared): (Vec<_>, Vec<_>) = self.crews.iter().partition(is_made);
        for crew in declared {
            self.ask(&format!("set server {}/hands state maint", crew.kind.name));
        }
        if !made.is_empty() {
            for command in BY_HAND {
                self.ask(command);
            }
        }
        self.ask(&format!(
            "add map {} by-hand.example elsewhere",
            self.maps[0]
        ));
    }

    pub(crate) fn reload_haproxy(&self) {
        // 2.6 does not say when it is done, and what comes meanwhile is another worker, not this one.
        let _one_after_the_other = lock(&self.reloading);
        let (before, master) = {
            let haproxy = lock(&self.haproxy);
            (haproxy.pid(), haproxy.master_socket())
        };
        if before.is_none() {
            return self.story.tell("there is nothing to reload");
        }
        self.story.is(Event::ReloadAsked);
        // Nobody is kept from killing it meanwhile, and then there is nothing to wait for.
        let is_killed = || {
            let mut events = self.story.events().into_iter().rev();
            let last =
                events.find(|(_, event)| [Event::HaproxyEnds, Event::ReloadAsked].contains(event));
            last.is_some_and(|(_, event)| event == Event::HaproxyEnds)
        };
        wait_for("the master to reload", || {
            (one_shot(&master, "reload").is_ok() || is_killed()).then_some(())
        });
        let is_new = wait_for("the new worker", || {
            if is_killed() {
                return Some(false);
            }
            let pid = lock(&self.haproxy).pid();
            (pid.is_some() && pid != before).then_some(true)
        });
        if is_new {
            self.story.is(Event::Reloaded);
        }
    }

    /// And starts it again at once.
    pub(crate) fn kill_haproxy(&self) {
        let mut haproxy = lock(&self.haproxy);
        if !haproxy.is_running() {
            return self.story.tell("there is nothing to kill");
        }
        self.story.is(Event::HaproxyEnds);
        haproxy.kill9();
        haproxy.restart();
        self.story.is(Event::HaproxyAnswers);
    }

    pub(crate) fn stop_haproxy(&self) {
        let mut haproxy = lock(&self.haproxy);
        if haproxy.is_running() {
            self.story.is(Event::HaproxyEnds);
            haproxy.stop();
        }
    }

    pub(crate) fn start_haproxy(&self) {
        let mut haproxy = lock(&self.haproxy);
        if !haproxy.is_running() {
            haproxy.restart();
            self.story.is(Event::HaproxyAnswers);
        }
    }

    // === sidecars ===

    pub(crate) fn start_sidecar(&self, at: usize) {
        let mut place = lock(&self.sidecars[at]);
        if place.is_none() {
            *place = Some(self.with_settings(Sidecar::start));
            self.story.is(Event::SidecarStarts);
        }
    }

    pub(crate) fn end_sidecar(&self, at: usize, signal: &str) {
        let mut place = lock(&self.sidecars[at]);
        let Some(mut sidecar) = place.take() else {
            return self.story.tell("there is no sidecar to end");
        };
        self.story.is(Event::SidecarGone);
        sidecar.signal(signal);
        let patience = tokio::time::Instant::now() + KILL_TIMEOUT;
        while sidecar.ended().is_none() {
            if tokio::time::Instant::now() > patience {
                self.story.tell("it takes too long");
                sidecar.kill9();
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.keep_log(&sidecar);
    }

    /// The number of its process.
    pub(crate) fn freeze_sidecar(&self) -> Option<u32> {
        let place = lock(&self.sidecars[0]);
        let sidecar = place.as_ref()?;
        self.story.is(Event::SidecarGone);
        sidecar.signal("STOP");
        Some(sidecar.pid())
    }

    /// If it is there still.
    pub(crate) fn thaw_sidecar(&self, frozen: Option<u32>) {
        let place = lock(&self.sidecars[0]);
        if let Some(sidecar) = place
            .as_ref()
            .filter(|sidecar| Some(sidecar.pid()) == frozen)
        {
            sidecar.signal("CONT");
            self.story.is(Event::SidecarGoesOn);
        }
    }

    /// What a sidecar that starts now would do.
    pub(crate) fn plan(&self) -> Output {
        self.with_settings(sidecar::plan)
    }

    /// Of all sidecars.
    pub(crate) fn logs(&self) -> String {
        for place in &self.sidecars {
            if let Some(sidecar) = lock(place).as_ref() {
                self.keep_log(sidecar);
            }
        }
        lock(&self.logs).clone()
    }

    fn keep_log(&self, sidecar: &Sidecar) {
        let mut logs = lock(&self.logs);
        write!(logs, "--- sidecar {}\n{}", sidecar.pid(), sidecar.log())
            .expect("a text can be written to");
    }

    fn with_settings<T>(&self, then: impl FnOnce(&[(&str, &str)]) -> T) -> T {
        let settings: Vec<_> = self
            .settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        then(&settings)
    }

    // === Nomad ===

    /// From now on the catalog of this moment is an older one.
    pub(crate) fn remember_catalog(&self) {
        let catalog = self.nomad.snapshot();
        assert!(self.older.set(catalog).is_ok(), "it is remembered once");
        self.nomad.other_entries(50);
    }

    pub(crate) fn older_catalog(&self) -> Catalog {
        self.older.get().expect("it was remembered").clone()
    }

    /// Some are registered, others no longer.
    pub(crate) fn catalog_changes(&self) {
        for crew in &self.crews {
            crew.change(&self.nomad);
        }
        self.story.tell("one joins, one leaves");
    }

    pub(crate) fn catalog_is_corrected(&self) {
        for crew in &self.crews {
            crew.correct(&self.nomad);
        }
    }
}

/// The maps of hosts and of ends of hosts: files where HAProxy has no virtual ones.
fn maps(bin: &HaproxyBin, directory: &TempDir) -> [String; 2] {
    if !bin.line().starts_with("2.") {
        return ["virt@hosts", "virt@suffixes"].map(str::to_owned);
    }
    [("hosts", IN_FILE), ("suffixes", "")].map(|(name, content)| {
        let path = directory.path().join(name);
        fs::write(&path, content).expect("the file is ours");
        path.display().to_string()
    })
}

/// What is in `haproxy.cfg` after the `global` section's first lines.
fn config(kinds: &[Kind], addr: Ipv4Addr, [hosts, suffixes]: &[String; 2]) -> String {
    let mut config = DEFAULTS.to_owned();
    let mut routes = String::new();
    for (port, kind) in (FIRST_PORT..).zip(kinds) {
        let name = kind.name;
        let bind = format!("  bind {addr}:{port}\n");
        if kind.route.is_some() {
            routes += &bind;
        } else {
            let frontend = [
                "frontend ",
                name,
                "-in\n",
                &bind,
                "  default_backend ",
                name,
            ];
            config.extend(frontend);
        }
        let (from, template) = match kind.servers {
            Servers::Kept => ("global", TEMPLATE),
            Servers::Slots => ("none", TEMPLATE),
            Servers::Dynamic => ("none", ""),
            Servers::Made => continue,
        };
        write!(
            config,
            "\nbackend {name}\n  load-server-state-from-file {from}\n{template}"
        )
        .expect("a text can be written to");
        for name in FOREIGN {
            writeln!(config, "  server {name} {addr}:1 weight 0")
                .expect("a text can be written to");
        }
    }
    if routes.is_empty() {
        // A map that nobody looks up is not there, and something is to be written into it.
        routes += "  bind @DIR@/routes mode 600\n";
    }
    let lookups = ROUTES
        .replace("@HOSTS@", hosts)
        .replace("@SUFFIXES@", suffixes);
    config + "frontend routes\n" + &routes + &lookups
}

/// The entries in an answer to `show map`: keys and values.
pub(crate) fn entries_in(answer: &str) -> Vec<(String, String)> {
    let entries = answer.lines().filter_map(|line| {
        let (_, entry) = line.strip_prefix("0x")?.split_once(' ')?;
        let (key, value) = entry.split_once(' ')?;
        Some((key.to_owned(), value.to_owned()))
    });
    entries.collect()
}
