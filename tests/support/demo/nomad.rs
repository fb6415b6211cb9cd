//! The catalog of the demo: a real `nomad agent -dev` when there is one on PATH, otherwise the fake one.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use super::{haproxy::free_port, process::Process, web};

/// A service, and its tags besides `haproxy.enable=true`.
pub(crate) type Service = (&'static str, &'static [&'static str]);

/// Either of the two. An instance of `web` answers with `web-0`, `web-1`, …
pub(crate) enum Nomad {
    Fake(Fake),
    Real(Real),
}

pub(crate) struct Fake {
    addr: SocketAddr,
    control: SocketAddr,
    process: Process,
    directory: PathBuf,
    toys: BTreeMap<&'static str, Vec<Toy>>,
    /// Deregistered, and still listening as with a `shutdown_delay`.
    leaving: Vec<Toy>,
}

struct Toy {
    port: u16,
    _process: Process,
}

pub(crate) struct Real {
    addr: SocketAddr,
    version: String,
    process: Process,
}

impl Nomad {
    /// Starts it. It may not answer yet.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut programs = env::split_paths(&path).map(|directory| directory.join("nomad"));
        match programs.find(|program| program.is_file()) {
            Some(program) => Real::start(&program, directory).map(Self::Real),
            None => Fake::start(directory).map(Self::Fake),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Fake(fake) => fake.addr,
            Self::Real(real) => real.addr,
        }
    }

    /// What it is, for the audience.
    pub(crate) fn title(&self) -> &str {
        match self {
            Self::Fake(_) => "a FAKE Nomad, since there is no `nomad` on PATH",
            Self::Real(real) => &real.version,
        }
    }

    /// Whether services can be run.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Fake(fake) => web::get(fake.control, "/control/requests").is_ok(),
            Self::Real(real) => web::get(real.addr, "/v1/nodes")
                .is_ok_and(|nodes| nodes.contains(r#""Status":"ready""#)),
        }
    }

    /// Has `count` instances of a service from now on.
    pub(crate) fn scale(&mut self, service: Service, count: usize) -> io::Result<()> {
        match self {
            Self::Fake(fake) => fake.scale(service, count),
            Self::Real(real) => real.scale(service, count),
        }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        match self {
            Self::Fake(fake) => fake.process.last_words(),
            Self::Real(real) => real.process.last_words(),
        }
    }
}

// === impl Fake ===

impl Fake {
    fn start(directory: &Path) -> io::Result<Self> {
        let localhost = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (addr, control) = (localhost(free_port()), localhost(free_port()));
        let mut command = Command::new(example("fake-nomad")?);
        command.args(["--listen", &addr.to_string()]);
        command.args(["--control", &control.to_string()]);
        Ok(Self {
            addr,
            control,
            process: Process::start(&mut command, &directory.join("nomad.log"))?,
            directory: directory.to_owned(),
            toys: BTreeMap::new(),
            leaving: Vec::new(),
        })
    }

    fn scale(&mut self, (service, tags): Service, count: usize) -> io::Result<()> {
        let toys = self.toys.entry(service).or_default();
        while toys.len() > count
            && let Some(toy) = toys.pop()
        {
            let id = registration_id(service, toy.port);
            let target = format!("/control/deregister?namespace=default&id={id}");
            web::ask(self.control, "POST", &target, "")?;
            self.leaving.push(toy);
        }
        while toys.len() < count {
            let port = free_port();
            let name = format!("{service}-{}", toys.len());
            let mut command = Command::new(example("toy-web")?);
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--name", &name]);
            toys.push(Toy {
                port,
                _process: Process::start(&mut command, &self.directory.join("toys.log"))?,
            });
            let registration = json!({
                "ID": registration_id(service, port),
                "AllocID": alloc_id(port),
                "ServiceName": service,
                "Address": "127.0.0.1",
                "Port": port,
                "Tags": all(tags),
            });
            let target = "/control/register";
            web::ask(self.control, "POST", target, &registration.to_string())?;
        }
        Ok(())
    }
}

fn alloc_id(port: u16) -> String {
    format!("{port:08x}-0000-4000-8000-000000000000")
}

fn registration_id(service: &str, port: u16) -> String {
    format!("_nomad-task-{}-group-app-{service}-http", alloc_id(port))
}

// === impl Real ===

impl Real {
    fn start(program: &Path, directory: &Path) -> io::Result<Self> {
        let version = Command::new(program).arg("version").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let port = free_port();
        let config = json!({
            "bind_addr": "127.0.0.1",
            "data_dir": directory.join("nomad"),
            "disable_update_check": true,
            "ports": {"http": port, "rpc": free_port(), "serf": free_port()},
            "plugin": {"raw_exec": {"config": {"enabled": true}}},
            // They ask the network, which takes long where there is none.
            "client": {"options": {"fingerprint.denylist":
                "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"}},
        });
        let file = directory.join("nomad.json");
        fs::write(&file, config.to_string())?;
        let mut command = Command::new(program);
        command.args(["agent", "-dev", "-config"]).arg(&file);
        Ok(Self {
            addr: (Ipv4Addr::LOCALHOST, port).into(),
            version: format!(
                "a real {}, agent -dev",
                version.lines().next().unwrap_or("Nomad")
            ),
            process: Process::start(&mut command, &directory.join("nomad.log"))?,
        })
    }

    fn scale(&self, (service, tags): Service, count: usize) -> io::Result<()> {
        let group = json!({
            "Name": "app",
            "Count": count,
            "ShutdownDelay": 2_000_000_000,
            "Networks": [{"DynamicPorts": [{"Label": "http"}]}],
            "Services": [{"Name": service, "PortLabel": "http", "Provider": "nomad", "Tags": all(tags)}],
            "Tasks": [{
                "Name": "server",
                "Driver": "raw_exec",
                "Config": {
                    "command": example("toy-web")?,
                    "args": ["--listen", "${NOMAD_ADDR_http}", "--name", "${NOMAD_JOB_ID}-${NOMAD_ALLOC_INDEX}"],
                },
                "Resources": {"CPU": 10, "MemoryMB": 16},
            }],
        });
        let job = json!({"Job": {
            "ID": service,
            "Name": service,
            "Type": "service",
            "Datacenters": ["dc1"],
            "TaskGroups": [group],
        }});
        web::ask(self.addr, "PUT", "/v1/jobs", &job.to_string()).map(drop)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // An agent in dev mode ends its tasks when it is interrupted, not when it is killed.
        self.process.interrupt(Duration::from_secs(30));
    }
}

fn all(tags: &[&'static str]) -> Vec<&'static str> {
    [&["haproxy.enable=true"], tags].concat()
}

/// Another example of this package, which is built beside this one.
fn example(name: &str) -> io::Result<PathBuf> {
    let path = env::current_exe()?.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        let advice = format!("{} is not built: use `make demo`", path.display());
        Err(io::Error::new(io::ErrorKind::NotFound, advice))
    }
}
