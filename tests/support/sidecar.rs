//! The real program as a child process: its settings, its log, its admin listener, and signals to it.

use std::{
    env,
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

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

/// The program with these settings and nothing else in its environment.
fn command(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(settings.iter().copied());
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
    output.expect("the program was built with the test")
}

/// A running `haproxy-nomad-sidecar run`. Killed when dropped; a logged ERROR fails the test then.
pub(crate) struct Sidecar {
    process: Child,
    directory: TempDir,
    /// Where its copy is.
    program: Option<TempDir>,
    started: Instant,
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
                command.env_clear().envs(settings.iter().copied());
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
        let mut stream = TcpStream::connect(self.admin()).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: sidecar\r\nAccept: {kind}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
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

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        self.process.wait().expect("it is our child");
        let log = self.log();
        if thread::panicking() {
            eprintln!("log of the sidecar:\n{log}");
        } else {
            assert!(!log.contains(" ERROR "), "an error was logged:\n{log}");
        }
    }
}
