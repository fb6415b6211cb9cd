//! The real program as a child process: its settings, its log, its admin listener, and signals to it. Whatever it tells is
//! searched for the secrets that it was given.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tempfile::TempDir;

use super::haproxy::now;

/// How long a test waits for what should happen soon.
const SOON: Duration = Duration::from_secs(10);

/// Asks every few milliseconds until there is an answer; panics after 10 seconds.
pub(crate) fn soon<T>(what: &str, poll: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, poll)
}

/// Asks every few milliseconds until there is an answer; panics after `limit`.
pub(crate) fn within<T>(limit: Duration, what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + limit;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(now() < deadline, "waited {limit:?} until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_haproxy-nomad-sidecar");

/// The program with these settings and nothing else in its environment but secrets, if it has none of its own.
fn command(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(all_settings(settings));
    command.stdin(Stdio::null());
    command
}

/// Runs `plan` to its end.
pub(crate) fn plan(settings: &[(&str, &str)]) -> Output {
    command_with(settings, &["plan"])
}

/// Runs a command to its end.
pub(crate) fn command_with(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let output = command(settings).args(arguments).output();
    let output = output.expect("the program was built with the test");
    let secrets = secrets(&all_settings(settings));
    for text in [&output.stdout, &output.stderr] {
        assert_tells_no_secret(
            &format!("{arguments:?}"),
            &String::from_utf8_lossy(text),
            &secrets,
        );
    }
    output
}

// === secrets ===

const TOKEN: &str = "5ec4e7aa-1111-2222-3333-444444444444";
const USER: &str = "somebody:5ec4e7-pass-phrase";

/// With secrets to look for. Without ACLs, Nomad does not care for them.
fn all_settings<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = settings.to_vec();
    let is_set = |name: &str| settings.iter().any(|(it, _)| *it == name);
    if !["NOMAD_TOKEN", "NOMAD_TOKEN_FILE", "SIDECAR_CONFIG"]
        .map(is_set)
        .contains(&true)
    {
        all.push(("NOMAD_TOKEN", TOKEN));
    }
    if !["NOMAD_HTTP_AUTH", "SIDECAR_CONFIG"]
        .map(is_set)
        .contains(&true)
    {
        all.push(("NOMAD_HTTP_AUTH", USER));
    }
    all
}

/// What nobody may read anywhere.
fn secrets(settings: &[(&str, &str)]) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    for (name, value) in settings {
        match *name {
            "NOMAD_TOKEN" => drop(secrets.insert((*value).to_owned())),
            "NOMAD_TOKEN_FILE" => secrets.extend(fs::read_to_string(value)),
            "NOMAD_HTTP_AUTH" => {
                let (_, password) = value.split_once(':').unwrap_or(("", value));
                secrets.insert(password.to_owned());
                secrets.insert(BASE64_STANDARD.encode(value));
            }
            _ => {}
        }
    }
    let trimmed = secrets.iter().map(|secret| secret.trim().to_owned());
    // What is shorter may stand anywhere by chance.
    trimmed.filter(|secret| secret.len() >= 8).collect()
}

fn assert_tells_no_secret(place: &str, text: &str, secrets: &BTreeSet<String>) {
    for secret in secrets {
        assert!(
            !text.contains(secret.as_str()),
            "{place} shows the secret {secret}:\n{text}"
        );
    }
}

/// The files that it writes.
fn written(settings: &[(String, String)]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (name, value) in settings {
        match name.as_str() {
            "SIDECAR_AUDIT_LOG" | "SIDECAR_STATE_FILE" => paths.push(value.into()),
            "SIDECAR_SNAPSHOT_FILE" => {
                paths.extend([value.into(), format!("{value}.hands").into()]);
            }
            "HAPROXY_SOCKET" => paths.push(format!("{value}.sidecar.lock").into()),
            _ => {}
        }
    }
    paths
}

/// What its listener answers.
const PAGES: [&str; 6] = [
    "/live",
    "/ready",
    "/metrics",
    "/status?changes=1000",
    "/",
    "/checks?backend=web",
];

/// A running `haproxy-nomad-sidecar run`. Killed when dropped; a logged ERROR fails the test then.
pub(crate) struct Sidecar {
    process: Child,
    directory: TempDir,
    /// Where its copy is.
    program: Option<TempDir>,
    started: Instant,
    settings: Vec<(String, String)>,
    /// Those of the beginning, too: files change.
    secrets: BTreeSet<String>,
}

impl Sidecar {
    /// Starts it with these environment variables. Its admin listener is on a free port unless they say otherwise.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Self::run(command, settings)
    }

    /// The same as the last arguments of another program, which becomes it: to take rights from it. Everybody may read and
    /// execute it.
    pub(crate) fn start_behind(before: &[&str], settings: &[(&str, &str)]) -> Self {
        let directory =
            TempDir::with_prefix("everybody").expect("the temporary directory is writable");
        let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
        open(directory.path()).expect("it is ours");
        let program = directory.path().join("haproxy-nomad-sidecar");
        // Not by this process: a child that another thread starts meanwhile would keep the file open for writing.
        let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp failed");
        open(&program).expect("it is ours");
        let mut sidecar = Self::run(
            |settings| {
                let mut command = Command::new(before[0]);
                command.args(&before[1..]).arg(&program);
                command.env_clear().envs(all_settings(settings));
                command.env("PATH", env::var_os("PATH").unwrap_or_default());
                command.stdin(Stdio::null());
                command
            },
            settings,
        );
        sidecar.program = Some(directory);
        sidecar
    }

    fn run(command: impl Fn(&[(&str, &str)]) -> Command, settings: &[(&str, &str)]) -> Self {
        let directory =
            TempDir::with_prefix("sidecar").expect("the temporary directory is writable");
        let log = fs::File::create(directory.path().join("log")).expect("the directory is ours");
        let started = now();
        let process = command(&[("SIDECAR_ADMIN_LISTEN", "127.0.0.1:0")])
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        Self {
            process,
            directory,
            program: None,
            started,
            settings: all_settings(settings)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            secrets: secrets(&all_settings(settings)),
        }
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How long ago it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("it is there from the start")
    }

    /// Waits for a line of the log with all these parts, and returns it.
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        self.logged_within(SOON, parts)
    }

    /// The same, with more patience.
    pub(crate) fn logged_within(&self, limit: Duration, parts: &[&str]) -> String {
        within(limit, &format!("{parts:?} is logged"), || {
            let log = self.log();
            let line = log
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned)
        })
    }

    /// How many lines of the log have this in them.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(part))
            .count()
    }

    /// Where its admin listener listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        let line = self.logged(&["the admin listener answers"]);
        line.split_once("addr=")
            .and_then(|(_, addr)| addr.trim().parse().ok())
            .unwrap_or_else(|| panic!("there is no address in {line}"))
    }

    /// The status code and body of a path of the admin listener, in lines.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.get_as(path, "text/plain")
    }

    /// What a path has as JSON.
    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get_as(path, "application/json");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    fn get_as(&self, path: &str, kind: &str) -> (u16, String) {
        let answer = ask(self.admin(), path, kind, None).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.expect("a head has a status"), body.to_owned())
    }

    /// Waits until `/ready` says so.
    pub(crate) fn until_ready(&self) {
        soon("/ready answers 200", || {
            let (status, _) = self.get("/ready");
            (status == 200).then_some(())
        });
    }

    /// A sample of `/metrics`: its name, with labels, after the common prefix.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics");
        let prefix = format!("haproxy_nomad_sidecar_{name} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix)?.parse().ok())
    }

    /// Waits until a sample is this whole number. Gauges follow within a second.
    pub(crate) fn until_metric(&self, name: &str, value: u32) {
        soon(&format!("{name} is {value}"), || {
            let sample = self.metric(name)?;
            ((sample - f64::from(value)).abs() < 0.5).then_some(())
        });
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`, `KILL`.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("/bin/sh")
            .args(["-c", &format!("kill -s {signal} {}", self.process.id())])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill failed");
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("it is our child")
    }

    /// kill -9, and waits for its end.
    pub(crate) fn kill9(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
    }
}

impl Sidecar {
    /// What its listener answers. One that has ended, is stopped, or has too few files, is not waited for.
    fn pages(&mut self) -> Vec<(String, String)> {
        let log = self.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("the admin listener answers"));
        let addr = lines.find_map(|line| line.split_once("addr=")?.1.trim().parse().ok());
        let (Some(addr), Ok(None)) = (addr, self.process.try_wait()) else {
            return Vec::new();
        };
        let kinds =
            |path: &'static str| ["application/json", "text/plain"].map(|kind| (path, kind));
        let answers = PAGES.into_iter().flat_map(kinds).map(|(path, kind)| {
            let limit = Some(Duration::from_millis(500));
            Some((path.to_owned(), ask(addr, path, kind, limit).ok()?))
        });
        answers.map_while(|answer| answer).collect()
    }

    /// Everything that it tells, where it can be asked, and everything that it wrote.
    fn told(&mut self) -> Vec<(String, String)> {
        let mut told = self.pages();
        self.process.kill().unwrap_or_default();
        self.process.wait().expect("it is our child");
        told.push(("the log".to_owned(), self.log()));
        for path in written(&self.settings) {
            if let Ok(bytes) = fs::read(&path) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                told.push((path.display().to_string(), text));
            }
        }
        told
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if thread::panicking() {
            self.process.kill().unwrap_or_default();
            self.process.wait().expect("it is our child");
            eprintln!("log of the sidecar:\n{}", self.log());
            return;
        }
        let told = self.told();
        let log = self.log();
        assert!(!log.contains(" ERROR "), "an error was logged:\n{log}");
        let settings: Vec<_> = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.secrets.extend(secrets(&settings));
        for (place, text) in told {
            assert_tells_no_secret(&place, &text, &self.secrets);
        }
    }
}

/// The whole answer, head and body.
fn ask(addr: SocketAddr, path: &str, kind: &str, limit: Option<Duration>) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(limit)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: sidecar\r\nAccept: {kind}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
