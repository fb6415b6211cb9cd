//! The real HAProxy for tests: of which versions it is there, and one process of one of them with its socket.
//!
//! A missing HAProxy fails the test that asks for it: nothing is skipped. Traffic is not made here; web servers to
//! stand behind HAProxy are in `toy.rs`, a tap on its socket in `tap.rs`.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const LINES: [&str; 5] = ["2.6", "2.8", "3.0", "3.2", "3.4"];

/// An executable HAProxy.
#[derive(Clone, Debug)]
pub(crate) struct HaproxyBin {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// As `show info` says it: `3.0.11-1+deb13u4`.
    pub(crate) version: String,
}

impl HaproxyBin {
    /// The one at `path`, or on `PATH`. Panics when there is none.
    pub(crate) fn at(path: &str) -> Self {
        Self {
            version: version_of(path),
            path: path.into(),
        }
    }

    /// `3.0` of 3.0.11.
    pub(crate) fn line(&self) -> &str {
        let mut dots = self.version.match_indices('.').map(|(at, _)| at);
        let second = dots.nth(1).expect("a version has two dots");
        &self.version[..second]
    }

    /// Whether it can have more backends than its configuration has: from 3.4 on.
    pub(crate) fn makes_backends(&self) -> bool {
        let numbers = self.line().split_once('.').expect("a line has a dot");
        let number = |text: &str| text.parse().expect("a number");
        (number(numbers.0), number(numbers.1)) >= (3u16, 4u16)
    }
}

/// Every HAProxy to test with: the ones of `HAPROXY_BINS` (paths, colon-separated), else the one on `PATH`.
///
/// Panics when there is none, or with `HAPROXY_LINES_REQUIRED=1` unless 2.6, 2.8, 3.0, 3.2 and 3.4 are all there.
pub(crate) fn binaries() -> Vec<HaproxyBin> {
    let paths = env::var("HAPROXY_BINS").unwrap_or_else(|_| "haproxy".to_owned());
    let found: Vec<HaproxyBin> = paths
        .split(':')
        .filter(|path| !path.is_empty())
        .map(HaproxyBin::at)
        .collect();
    assert!(
        !found.is_empty(),
        "HAPROXY_BINS is empty: give it paths, or unset it"
    );
    for bin in &found {
        eprintln!(
            "testing with HAProxy {} ({})",
            bin.version,
            bin.path.display()
        );
    }
    if env::var("HAPROXY_LINES_REQUIRED").is_ok_and(|value| value == "1") {
        for line in LINES {
            assert!(
                found.iter().any(|bin| bin.line() == line),
                "HAPROXY_LINES_REQUIRED=1, and there is no HAProxy {line} in HAPROXY_BINS={paths}"
            );
        }
    }
    found
}

fn version_of(path: &str) -> String {
    let missing = "the tests need a HAProxy: install one, or HAPROXY_BINS=$(scripts/haproxy-lines)";
    let output = Command::new(path)
        .arg("-v")
        .output()
        .unwrap_or_else(|error| panic!("{path}: {error}; {missing}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .strip_prefix("HAProxy version ")
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .unwrap_or_else(|| panic!("{path} -v says {text:?}; {missing}"));
    version.to_owned()
}

/// A port that nobody listens on. Below those that the kernel hands out, so that it stays free while a program is away, and
/// below those that Nomad hands out.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 12_000 + u16::try_from(std::process::id() % 7_000).expect("below 7000");
    (0..1_000)
        .map(|_| start + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .expect("one of a thousand ports is free")
}

/// The time, for deadlines.
#[expect(
    clippy::disallowed_methods,
    reason = "tests with real processes wait in real time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks every few milliseconds until there is an answer; panics after 20 seconds.
pub(crate) fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(now() < deadline, "waited 20 s for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running HAProxy, killed with all its processes when dropped.
pub(crate) struct Haproxy {
    bin: HaproxyBin,
    directory: TempDir,
    /// A configuration file before its own, and its environment.
    shipped: Option<(PathBuf, u16)>,
    with_master: bool,
    process: Option<Child>,
}

impl Haproxy {
    /// A master with a worker (`-W`), as packages start it. `config` is the file after its first `global` section,
    /// which has the stats socket; `@DIR@` in it becomes the directory of this HAProxy.
    pub(crate) fn start(bin: &HaproxyBin, config: &str) -> Self {
        Self::start_as(bin, config, true)
    }

    /// One process without a master.
    pub(crate) fn start_single(bin: &HaproxyBin, config: &str) -> Self {
        Self::start_as(bin, config, false)
    }

    /// A master with a worker, and one of the configurations in `nomad-jobs` as it is, in the environment that Nomad
    /// would give to it. The sections of `more` come after it.
    pub(crate) fn start_shipped(bin: &HaproxyBin, file: &Path, http_port: u16, more: &str) -> Self {
        let mut haproxy = Self::new(bin, true);
        haproxy.shipped = Some((file.to_owned(), http_port));
        fs::write(haproxy.directory().join("haproxy.cfg"), more).expect("the directory is ours");
        haproxy.restart();
        haproxy
    }

    fn start_as(bin: &HaproxyBin, config: &str, with_master: bool) -> Self {
        let mut haproxy = Self::new(bin, with_master);
        haproxy.write_config(config);
        haproxy.restart();
        haproxy
    }

    fn new(bin: &HaproxyBin, with_master: bool) -> Self {
        Self {
            bin: bin.clone(),
            // Not below a long TMPDIR: the path of a Unix socket has at most 107 bytes.
            directory: TempDir::with_prefix_in("hap", "/tmp").expect("/tmp is writable"),
            shipped: None,
            with_master,
            process: None,
        }
    }

    /// The configuration for the next reload or restart. Two threads, unless it says `nbthread` itself.
    pub(crate) fn write_config(&self, config: &str) {
        let directory = self.directory.path().display().to_string();
        let threads = if config.contains("nbthread ") {
            ""
        } else {
            "  nbthread 2\n"
        };
        let text = format!(
            "global\n{threads}  stats socket {} mode 600 level admin\n{}",
            self.socket().display(),
            config.replace("@DIR@", &directory)
        );
        fs::write(self.directory.path().join("haproxy.cfg"), text).expect("the file is ours");
    }

    /// Which HAProxy this is.
    pub(crate) fn bin(&self) -> &HaproxyBin {
        &self.bin
    }

    /// Whether it was started and not ended since.
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The stats socket, level admin.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("haproxy.sock")
    }

    /// Where `@DIR@` is.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it wrote to stderr.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// `Pid` of the worker that answers, when it answers and is not on its way out.
    pub(crate) fn pid(&self) -> Option<u32> {
        let info = self.try_ask("show info").ok()?;
        let value = |key: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
        };
        (value("Stopping:")? == "0").then_some(())?;
        value("Pid:")?.parse().ok()
    }

    /// One command, one connection; the answer without its empty last line.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command)
            .unwrap_or_else(|error| panic!("{command}: {error}; stderr: {}", self.stderr()))
    }

    fn try_ask(&self, command: &str) -> std::io::Result<String> {
        one_shot(&self.socket(), command)
    }

    /// A connection in prompt mode.
    pub(crate) fn prompt(&self) -> Prompt {
        Prompt::open(&self.socket())
    }

    /// A new worker takes over; returns when it answers. By the master's socket, since 3.0.11 may lose a SIGUSR2 that
    /// comes too early.
    pub(crate) fn reload(&self) {
        assert!(self.with_master, "only a master can reload");
        let before = self
            .pid()
            .expect("a reload begins with a HAProxy that answers");
        // The master of 2.6 refuses connections for a moment after its start, and answers a reload with end of file.
        let master = self.master_socket();
        let log = wait_for("the master's socket", || {
            match one_shot(&master, "reload") {
                Ok(log) => Some(log),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
                Err(error) => panic!("the master does not answer: {error}"),
            }
        });
        assert!(!log.starts_with("Success=0"), "the reload failed: {log}");
        wait_for("the new worker", || self.pid().filter(|pid| *pid != before));
    }

    /// Where the master takes commands.
    pub(crate) fn master_socket(&self) -> PathBuf {
        self.directory.path().join("master.sock")
    }

    /// SIGKILL to master and workers.
    pub(crate) fn kill9(&mut self) {
        self.signal("KILL");
    }

    /// SIGTERM: it ends at once, with its sessions.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
    }

    fn signal(&mut self, signal: &str) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // The whole process group: the workers of a killed master would go on. Nothing else of std can signal.
        let command = format!("kill -s {signal} -- -{}", process.id());
        let status = Command::new("/bin/sh").args(["-c", &command]).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{command} failed");
            process.kill().unwrap_or_default();
        }
        process.wait().expect("it is our child");
        // The workers are the master's children: they may need a moment more.
        wait_for("its socket to be deaf", || {
            UnixStream::connect(self.socket()).is_err().then_some(())
        });
    }

    /// Starts it again, with the same directory, after [`Haproxy::kill9`] or [`Haproxy::stop`]. Returns when it answers.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let directory = self.directory.path();
        let stderr = fs::File::create(directory.join("stderr")).expect("the directory is ours");
        let mut command = Command::new(&self.bin.path);
        if self.with_master {
            command.arg("-W").arg("-S").arg(self.master_socket());
        }
        if let Some((file, http_port)) = &self.shipped {
            command
                .env("NOMAD_ALLOC_DIR", directory)
                .env("NOMAD_PORT_http", http_port.to_string())
                .arg("-f")
                .arg(file);
        }
        let child = command
            .arg("-f")
            .arg(directory.join("haproxy.cfg"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("HAProxy is executable");
        self.process = Some(child);
        wait_for("HAProxy to start", || {
            let child = self.process.as_mut().expect("it was just started");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("HAProxy ended with {status}: {}", self.stderr());
            }
            self.pid()
        });
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("stderr of HAProxy {}: {}", self.bin.version, self.stderr());
        }
        if self.process.is_some() {
            self.kill9();
        }
    }
}

/// One command, or several with `;` between them, on a connection of its own; the answer without its empty last line.
pub(crate) fn one_shot(socket: &Path, command: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.trim_end_matches('\n').to_owned())
}

/// A connection in prompt mode.
pub(crate) struct Prompt {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Prompt {
    /// Connects and asks for the prompt.
    pub(crate) fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("HAProxy listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout of 20 s is valid");
        let mut prompt = Self {
            stream,
            unread: Vec::new(),
        };
        prompt.send(&["prompt", "set timeout cli 1h"]);
        prompt
    }

    /// Writes the lines in one piece and returns their answers: what comes before each `\n> `.
    pub(crate) fn send(&mut self, lines: &[impl AsRef<str>]) -> Vec<String> {
        let text: String = lines
            .iter()
            .map(|line| line.as_ref().to_owned() + "\n")
            .collect();
        self.stream
            .write_all(text.as_bytes())
            .expect("HAProxy reads its commands");
        lines.iter().map(|_| self.read_answer()).collect()
    }

    fn read_answer(&mut self) -> String {
        const END: &[u8] = b"\n> ";
        loop {
            if let Some(at) = self.unread.windows(END.len()).position(|part| part == END) {
                let rest = self.unread.split_off(at + END.len());
                let answer = String::from_utf8_lossy(&self.unread[..at]).into_owned();
                self.unread = rest;
                return answer;
            }
            let mut buffer = [0; 16_384];
            let count = self
                .stream
                .read(&mut buffer)
                .expect("an answer comes within 20 s");
            assert!(count > 0, "HAProxy closed the connection");
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }
}
