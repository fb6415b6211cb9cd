//! Programs that the demo starts, and that are gone when it is.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// A program in a process group of its own, so that a Ctrl-C at the terminal is the demo's alone. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output in the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// SIGINT, and time to clean up before it is killed.
    pub(crate) fn interrupt(&mut self, patience: Duration) {
        self.signal("INT");
        let pause = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        while waited < patience && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(pause);
            waited += pause;
        }
    }

    /// The end of what it said.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn signal(&self, signal: &str) {
        // Nothing else of std can signal. It may have ended by itself.
        let command = format!("kill -s {signal} -- -{} 2>/dev/null", self.child.id());
        drop(Command::new("/bin/sh").args(["-c", &command]).status());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("KILL");
            drop(self.child.wait());
        }
    }
}
