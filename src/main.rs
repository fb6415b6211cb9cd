//! Starts the program and ends it with the right exit code: 0 ok, 1 failed, 2 there is something to report, 64
//! usage or configuration.

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    iter,
    process::ExitCode,
};

use haproxy_nomad_sidecar::{
    cli::{self, Asked, Command},
    config::Config,
    daemon::{self, LintVerdict, PlanForm, PlanVerdict, Served, StatusForm},
    telemetry,
};

const FAILED: u8 = 1;
/// There is something to report.
const REPORT: u8 = 2;
const USAGE: u8 = 64;
/// What a shell says of a program that was ended by SIGPIPE: whoever read the output, as `head` does, has read enough.
const UNREAD: u8 = 141;

fn main() -> ExitCode {
    let (command, sources) = match cli::parse(env::args_os()) {
        Ok(Asked::Command(command, sources)) => (command, sources),
        Ok(Asked::Text(text)) => return show(&text),
        Err(message) if message.use_stderr() => {
            // There is nobody left to tell when the standard error is gone.
            drop(message.print());
            return ExitCode::from(USAGE);
        }
        Err(help) => return show(help.render().to_string().as_bytes()),
    };
    let config = match Config::load(*sources) {
        Ok(config) => config,
        Err(error) => return end(USAGE, &error),
    };
    if let Err(error) = telemetry::init(&config.log) {
        return end(FAILED, &error);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return end(FAILED, &error),
    };
    let mut out = Out::default();
    let ended: Result<_, Box<dyn Error>> = match command {
        Command::Run => runtime
            .block_on(daemon::run(config))
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Plan { json, commands } => runtime
            .block_on(daemon::plan(config, PlanForm { json, commands }, &mut out))
            .map(|verdict| match verdict {
                PlanVerdict::NothingToDo => ExitCode::SUCCESS,
                PlanVerdict::HasChanges => ExitCode::from(REPORT),
            })
            .map_err(Into::into),
        Command::Status { json, watch } => runtime
            .block_on(daemon::status(config, StatusForm { json, watch }, &mut out))
            .map(|is_known| {
                if is_known {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(FAILED)
                }
            })
            .map_err(Into::into),
        Command::Explain { what } => runtime
            .block_on(daemon::explain(config, &what, &mut out))
            .map(|served| match served {
                Served::Yes => ExitCode::SUCCESS,
                Served::No => ExitCode::from(REPORT),
                Served::Unknown => ExitCode::from(FAILED),
            })
            .map_err(Into::into),
        Command::Lint(options) => runtime
            .block_on(daemon::lint(config, &options, &mut out))
            .map(|verdict| match verdict {
                LintVerdict::NothingToReport => ExitCode::SUCCESS,
                LintVerdict::HasFindings => ExitCode::from(REPORT),
            })
            .map_err(Into::into),
    };
    // A name that is still being resolved, or a file that hangs, is not waited for.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        if out.is_unread {
            ExitCode::from(UNREAD)
        } else {
            end(FAILED, &*error)
        }
    })
}

/// Prints a text that nothing had to be read for.
fn show(text: &[u8]) -> ExitCode {
    let mut out = Out::default();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if out.is_unread => ExitCode::from(UNREAD),
        Err(error) => {
            let error = io::Error::other(format!("write to the standard output: {error}"));
            end(FAILED, &error)
        }
    }
}

/// The standard output, which remembers that nobody reads it any more: a pipe that breaks elsewhere is worth a word.
#[derive(Default)]
struct Out {
    is_unread: bool,
}

impl Out {
    fn note<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|error| self.is_unread |= error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = io::stdout().write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = io::stdout().flush();
        self.note(done)
    }
}

/// Says what went wrong, with its causes, and gives the exit code back.
fn end(code: u8, error: &(dyn Error + 'static)) -> ExitCode {
    let chain = iter::successors(Some(error), |&error| error.source());
    let words: Vec<_> = chain.map(ToString::to_string).collect();
    // There is nobody left to tell when the standard error is gone.
    drop(writeln!(io::stderr(), "error: {}", words.join(": ")));
    ExitCode::from(code)
}
