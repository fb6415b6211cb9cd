//! A web server for the demo and for runs on a real Nomad: the application of `app.rs` as a process. It answers 200 with
//! its name, `/sleep/<ms>` after a while, `/health` for checks, and sessions of TCP on the same port.
//!
//! ```text
//! toy-web --listen ${NOMAD_ADDR_http} --name ${NOMAD_ALLOC_ID} --boots 300 --boots-at-most 3000
//! ```
//!
//! It boots so many milliseconds before it listens, by chance (`--seed`) up to `--boots-at-most`. On SIGTERM it closes its
//! listener, finishes what runs and exits with 0. While the file `--sick` is there, `/health` answers 503 and the rest is
//! served. It prints its address at once.

#[expect(dead_code, reason = "the tests use more of it")]
mod app;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use haproxy_nomad_sidecar::model::SplitMix64;
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::{runtime::Handle, time::sleep};

use app::App;

/// Answers every request with its name.
#[derive(Parser)]
struct Flags {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What to say.
    #[arg(long, default_value = "toy")]
    name: String,
    /// How many milliseconds it boots before it listens, at least.
    #[arg(long, default_value_t = 0)]
    boots: u64,
    /// The same, at most.
    #[arg(long, default_value_t = 0)]
    boots_at_most: u64,
    /// What decides how long it boots [default: the number of the process].
    #[arg(long)]
    seed: Option<u64>,
    /// Its checks fail while this file is there.
    #[arg(long)]
    sick: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let is_told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_told_to_end))?;
    }
    let mut random = SplitMix64::new(flags.seed.unwrap_or_else(|| process::id().into()));
    let more = flags.boots_at_most.saturating_sub(flags.boots);
    let boots = Duration::from_millis(flags.boots + random.next() % (more + 1));
    let app = App::boot(&Handle::current(), &flags.name, flags.listen, boots)?;
    writeln!(io::stdout(), "http://{}", app.address())?;
    io::stdout().flush()?;
    while !app.has_ended() {
        if is_told_to_end.load(Ordering::SeqCst) {
            app.terminate();
        }
        if let Some(sick) = &flags.sick {
            app.set_healthy(!sick.exists());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
