//! The load of the tests as a program, for runs against real programs:
//!
//! ```text
//! load --target 127.0.0.1:8080 --kind keep-alive --rate 50 --seconds 60 [--records FILE]
//! ```
//!
//! - `--target`: `IP:PORT`, `unix:PATH`, or `listed:FILE`, with an `IP:PORT` in each line, which is read before every request
//! - `--kind`: `keep-alive` or `close` (HTTP, to `toy-web` behind HAProxy), or `tcp` (a session for each request, to the same)
//! - `--rate`: requests in a second; `--longest` how many milliseconds the longest of them ask to last (2000)
//! - `--seconds`: for how long; without it until SIGTERM or SIGINT
//! - `--records`: every request as a line of JSON: `at` (when it was due, in milliseconds since 1970), `ended`, `late_ms`,
//!   `lasts_ms`, `took_ms`, `outcome`, `failed`, `retried`
//!
//! It prints one JSON object: what was asked for and sent, `failed` and `failures` by kind, the first failed requests with
//! their times, the answers of each instance, and the latency beyond what the requests asked to last. It exits with 0 when
//! nothing failed, with 2 when something did, with 1 when it was too slow itself.

#[expect(dead_code, reason = "this program uses a part of it")]
mod load;

use std::{
    fs,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use load::{Kind, Load, Order, Record, Report, Target};

/// So many failed requests are told one by one.
const TOLD: usize = 20;

/// Sends requests at a constant rate, and tells what became of them.
#[derive(Parser)]
struct Flags {
    /// `IP:PORT`, `unix:PATH`, or `listed:FILE`.
    #[arg(long, value_parser = target)]
    target: Target,
    /// What kind of client.
    #[arg(long, value_enum, default_value_t = Client::KeepAlive)]
    kind: Client,
    /// The header Host.
    #[arg(long, default_value = "load")]
    host: String,
    /// Requests in a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How many milliseconds the longest requests last.
    #[arg(long, default_value_t = 2000)]
    longest: u64,
    /// For how long; without it until a signal.
    #[arg(long)]
    seconds: Option<u64>,
    /// What decides how long each request lasts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write every request.
    #[arg(long)]
    records: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Client {
    KeepAlive,
    Close,
    Tcp,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<ExitCode> {
    let flags = Flags::parse();
    let is_told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_told_to_end))?;
    }
    let order = Order {
        target: flags.target,
        kind: match flags.kind {
            Client::KeepAlive => Kind::KeepAlive,
            Client::Close => Kind::Close,
            Client::Tcp => Kind::Tcp,
        },
        host: flags.host,
        rate: flags.rate,
        longest: Duration::from_millis(flags.longest),
        seed: flags.seed,
    };
    let load = Load::start(&Handle::current(), order);
    let end = flags
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    while !is_told_to_end.load(Ordering::SeqCst) && end.is_none_or(|end| Instant::now() < end) {
        sleep(Duration::from_millis(10)).await;
    }
    let report = load.stop().await;

    let calendar = Calendar::new();
    if let Some(path) = flags.records {
        let mut file = BufWriter::new(fs::File::create(path)?);
        for record in &report.records {
            writeln!(file, "{}", of_record(record, &calendar))?;
        }
        file.flush()?;
    }
    writeln!(io::stdout(), "{:#}", summary(&report, &calendar))?;
    Ok(match (report.fault(), report.failed().next()) {
        (Some(fault), _) => {
            writeln!(io::stderr(), "{fault}")?;
            ExitCode::FAILURE
        }
        (None, Some(_)) => ExitCode::from(2),
        (None, None) => ExitCode::SUCCESS,
    })
}

fn summary(report: &Report, calendar: &Calendar) -> Value {
    let told: Vec<_> = report
        .failed()
        .take(TOLD)
        .map(|record| of_record(record, calendar))
        .collect();
    json!({
        "rate": report.rate,
        "achieved": (report.achieved() * 10.0).round() / 10.0,
        "fault": report.fault(),
        "began": calendar.millis(report.began),
        "seconds": report.lasted.as_secs_f64(),
        "requests": report.records.len(),
        "failed": report.failed().count(),
        "failures": report.failures(),
        "retried": report.retried(),
        "answered": report.answered(),
        "latency_ms": of_percentiles(report.percentiles(Record::latency)),
        "late_ms": of_percentiles(report.percentiles(|record| record.late)),
        "first_failed": told,
    })
}

fn of_record(record: &Record, calendar: &Calendar) -> Value {
    json!({
        "at": calendar.millis(record.due),
        "ended": calendar.millis(record.ended()),
        "late_ms": millis(record.late),
        "lasts_ms": millis(record.lasts),
        "took_ms": millis(record.took),
        "outcome": record.outcome.to_string(),
        "failed": record.outcome.has_failed(),
        "retried": record.retried,
    })
}

fn of_percentiles([p50, p99, max]: [Duration; 3]) -> Value {
    json!({"p50": millis(p50), "p99": millis(p99), "max": millis(max)})
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// What time of the day an instant was.
struct Calendar {
    now: Instant,
    since_1970: Duration,
}

impl Calendar {
    #[expect(
        clippy::disallowed_methods,
        reason = "its times are compared with the logs of other programs"
    )]
    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            now: Instant::now(),
            since_1970: since_1970.unwrap_or_default(),
        }
    }

    fn millis(&self, instant: Instant) -> u64 {
        let since_1970 = self
            .since_1970
            .saturating_sub(self.now.saturating_duration_since(instant));
        u64::try_from(since_1970.as_millis()).unwrap_or_default()
    }
}

fn target(text: &str) -> Result<Target, String> {
    match text.split_once(':') {
        Some(("unix", path)) => Ok(Target::Unix(path.into())),
        Some(("listed", path)) => Ok(Target::Listed(path.into())),
        _ => text
            .parse()
            .map(Target::Tcp)
            .map_err(|_| "expected IP:PORT, unix:PATH or listed:FILE".to_owned()),
    }
}
