//! A real `nomad agent -dev`, for tests that are worth more with one. Jobs are `raw_exec` tasks that sleep.

use std::{
    fs::File,
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use haproxy_nomad_sidecar::nomad::{
    settings::Endpoint,
    transport::{Dial as _, Dialler},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    raw_http::{Reply, ask_on},
    tls::Certificates,
};

/// A slow machine takes half a minute until the node is ready.
const STARTS_WITHIN: Duration = Duration::from_mins(2);
/// The agent ends its tasks first.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// The task whose identity and Task API the tests use. Its job has the same name.
const TASK: &str = "identity";

/// The running agent. It is stopped when this is dropped.
pub(crate) struct RealNomad {
    endpoint: Endpoint,
    version: [u32; 3],
    /// The management token, if ACLs are on.
    token: Option<String>,
    agent: Child,
    directory: TempDir,
}

impl RealNomad {
    /// Starts the `nomad` that is on PATH; without one says so where everybody sees it. With `tls` it serves HTTPS alone
    /// and wants a certificate of its clients.
    pub(crate) async fn start(acl: bool, tls: bool) -> Option<Self> {
        let Some(program) = program() else {
            say("NO REAL NOMAD: there is no `nomad` on PATH, only the fake is tested");
            return None;
        };
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let ports = free_ports();
        let mut config = json!({
            "bind_addr": "127.0.0.1",
            "data_dir": directory.path(),
            "disable_update_check": true,
            "ports": {"http": ports[0], "rpc": ports[1], "serf": ports[2]},
            "acl": {"enabled": acl},
            "plugin": {"raw_exec": {"config": {"enabled": true}}},
            // They ask the network, which takes long where there is none.
            "client": {"options": {"fingerprint.denylist":
                "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"}},
        });
        let mut endpoint = Endpoint::Http {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: ports[0],
        };
        if tls {
            Certificates::write(directory.path());
            config["tls"] = json!({
                "http": true,
                "verify_https_client": true,
                "ca_file": directory.path().join("ca.pem"),
                "cert_file": directory.path().join("agent.pem"),
                "key_file": directory.path().join("agent-key.pem"),
            });
            endpoint = Endpoint::Https {
                host: Ipv4Addr::LOCALHOST.to_string(),
                port: ports[0],
                tls: Certificates::client(directory.path()),
            };
        }
        let path = directory.path().join("agent.json");
        std::fs::write(&path, config.to_string()).expect("the directory is writable");
        let log = File::create(directory.path().join("log")).expect("the directory is writable");
        let agent = Command::new(&program)
            .args(["agent", "-dev", "-config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn()
            .expect("the program can be run");
        let version = Command::new(&program).arg("version").output();
        let version = version.expect("the program can be run").stdout;
        let mut nomad = Self {
            endpoint,
            version: numbers(&String::from_utf8_lossy(&version)),
            token: None,
            agent,
            directory,
        };
        let ready = async {
            while !nomad.is_listening().await {}
            if acl {
                nomad.bootstrap().await;
            }
            while !nomad.has_a_ready_node().await {
                sleep(PAUSE).await;
            }
            nomad.run_task().await;
        };
        let started = timeout(STARTS_WITHIN, ready).await.is_ok();
        assert!(
            started,
            "{} did not start: {}",
            program.display(),
            nomad.log()
        );
        Some(nomad)
    }

    /// Where the agent itself is asked.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn version(&self) -> [u32; 3] {
        self.version
    }

    /// The secrets directory of a running task that has an identity, no policy, and services of no kind.
    pub(crate) fn secrets(&self) -> PathBuf {
        let path = std::fs::read_to_string(self.directory.path().join("secrets"));
        path.expect("the task has written it").trim().into()
    }

    /// The management token, if ACLs are on.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Asks as management.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: &Value) -> Reply {
        let token = self.token.as_deref().unwrap_or_default();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let headers = format!("X-Nomad-Token: {token}\r\n");
        let socket = Dialler.dial(&self.endpoint).await;
        let socket = socket.expect("the agent listens");
        ask_on(socket, method, target, &body, &headers).await
    }

    async fn run_task(&self) {
        let path = self.directory.path().join("secrets");
        // It is moved so that it is never seen half written.
        let script = format!(
            "echo $NOMAD_SECRETS_DIR >{0}.new && mv {0}.new {0} && exec sleep 600",
            path.display()
        );
        let task = json!({
            "Name": TASK,
            "Driver": "raw_exec",
            "Config": {"command": "/bin/sh", "args": ["-c", script]},
            "Identity": {"Env": true, "File": true},
            "KillTimeout": 1_000_000_000,
            "Resources": {"CPU": 10, "MemoryMB": 10},
        });
        self.run_job("default", TASK, &json!({"Name": "grp", "Tasks": [task]}))
            .await;
        while !path.exists() {
            sleep(PAUSE).await;
        }
    }

    async fn run_job(&self, namespace: &str, name: &str, group: &Value) {
        let job = json!({"Job": {
            "ID": name,
            "Name": name,
            "Namespace": namespace,
            "Type": "service",
            "Datacenters": ["dc1"],
            "TaskGroups": [group],
        }});
        let reply = self.ask("PUT", "/v1/jobs", &job).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// Gives the identity of [`Self::secrets`] `read-job` in this namespace.
    pub(crate) async fn grant(&self, namespace: &str) {
        let policy = json!({
            "Name": TASK,
            "Rules": read_job(namespace),
            "JobACL": {"Namespace": "default", "JobID": TASK},
        });
        let target = format!("/v1/acl/policy/{TASK}");
        let reply = self.ask("PUT", &target, &policy).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// Runs `count` allocations that register `service` with `tags`, or changes them in place.
    pub(crate) async fn run(&self, namespace: &str, service: &str, tags: &[&str], count: usize) {
        let group = json!({
            "Name": "grp",
            "Count": count,
            "Networks": [{"DynamicPorts": [{"Label": "http"}]}],
            "Services": [{"Name": service, "PortLabel": "http", "Provider": "nomad", "Tags": tags}],
            "Tasks": [{
                "Name": "main",
                "Driver": "raw_exec",
                "Config": {"command": "/bin/sleep", "args": ["600"]},
                "KillTimeout": 1_000_000_000,
                "Resources": {"CPU": 10, "MemoryMB": 10},
            }],
        });
        self.run_job(namespace, service, &group).await;
    }

    /// Stops what [`Self::run`] has started.
    pub(crate) async fn stop(&self, namespace: &str, service: &str) {
        let target = format!("/v1/job/{service}?namespace={namespace}&purge=true");
        let reply = self.ask("DELETE", &target, &Value::Null).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    pub(crate) async fn create_namespace(&self, name: &str) {
        let reply = self
            .ask(
                "PUT",
                &format!("/v1/namespace/{name}"),
                &json!({"Name": name}),
            )
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// Issues a token that has `read-job` in these namespaces.
    pub(crate) async fn issue(&self, name: &str, namespaces: &[&str]) -> String {
        let rules: Vec<String> = namespaces.iter().copied().map(read_job).collect();
        let policy = json!({"Name": name, "Rules": rules.join("\n")});
        let target = format!("/v1/acl/policy/{name}");
        if !namespaces.is_empty() {
            assert_eq!(self.ask("PUT", &target, &policy).await.status, 200);
        }
        let token = json!({"Name": name, "Type": "client", "Policies": [name]});
        let reply = self.ask("PUT", "/v1/acl/token", &token).await;
        reply.json()["SecretID"]
            .as_str()
            .expect("a token has a secret")
            .to_owned()
    }

    async fn is_listening(&self) -> bool {
        sleep(PAUSE).await;
        Dialler.dial(&self.endpoint).await.is_ok()
    }

    async fn bootstrap(&mut self) {
        while self.token.is_none() {
            sleep(PAUSE).await;
            let reply = self.ask("PUT", "/v1/acl/bootstrap", &Value::Null).await;
            if reply.status == 200 {
                self.token = reply.json()["SecretID"].as_str().map(str::to_owned);
            }
        }
    }

    async fn has_a_ready_node(&self) -> bool {
        let reply = self.ask("GET", "/v1/nodes", &Value::Null).await;
        reply.status == 200 && reply.json()[0]["Status"] == "ready"
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RealNomad {
    fn drop(&mut self) {
        // An agent in dev mode ends its tasks when it is interrupted, not when it is killed.
        let pid = self.agent.id().to_string();
        let interrupted = Command::new("kill").args(["-INT", &pid]).status();
        let mut left = STOPS_WITHIN;
        while interrupted.is_ok() && !left.is_zero() && matches!(self.agent.try_wait(), Ok(None)) {
            thread::sleep(PAUSE);
            left = left.saturating_sub(PAUSE);
        }
        // It is gone or it will not go; neither is the test's business.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        unmount_under(self.directory.path());
    }
}

/// The agent does not always wait until the file systems of its tasks are gone, and a directory with one in it stays.
fn unmount_under(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for path in paths.filter(|path| Path::new(path).starts_with(directory)) {
        // The test has said what it has to say.
        let _ = Command::new("umount").arg(path).status();
    }
}

fn read_job(namespace: &str) -> String {
    format!(r#"namespace "{namespace}" {{ capabilities = ["read-job"] }}"#)
}

/// The three numbers of `Nomad v2.0.5` and whatever stands behind it.
fn numbers(version: &str) -> [u32; 3] {
    let start = version.find('v').expect("there is a version") + 1;
    let mut numbers = version[start..].split(|c: char| !c.is_ascii_digit());
    [(); 3].map(|()| {
        let number = numbers.next().and_then(|number| number.parse().ok());
        number.expect("a version has three numbers")
    })
}

/// Says something past the capture of the test harness.
pub(crate) fn say(text: &str) {
    writeln!(io::stderr(), "{text}").expect("stderr is open");
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("nomad"))
        .find(|program| program.is_file())
}

/// Three ports that the kernel has just handed out.
fn free_ports() -> [u16; 3] {
    let listeners = [0; 3].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    listeners.map(|listener| {
        let addr = listener.and_then(|listener| listener.local_addr());
        addr.expect("the kernel hands out ports").port()
    })
}
