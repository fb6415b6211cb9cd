//! `status` and `explain`: they ask the sidecar that runs, and read both sides themselves when there is none.

use std::{
    io::{IsTerminal as _, Write, stdout},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    ask::{AskError, ask},
    both_sides::{BothSides, elsewhere},
};
use crate::{
    config::Config,
    daemon::Error,
    picture::{Evidence, Picture, Subject, explain as explained, find, screen},
};

/// All changes that a sidecar remembers.
const STATUS: &str = "/status?changes=1000";
/// Between two screens.
const WATCH: Duration = Duration::from_secs(1);
/// More than that nobody reads.
const MOST_BACKENDS: usize = 20;

/// How `status` is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusForm {
    /// As JSON.
    pub json: bool,
    /// Again and again.
    pub watch: bool,
}

/// The picture of the sidecar that runs, or why there is none.
async fn of_daemon(config: &Config) -> Result<Picture, String> {
    let body = ask(&config.admin_listen, STATUS).await;
    let body = body.map_err(|error: AskError| error.to_string())?;
    serde_json::from_slice(&body).map_err(|error| format!("its answer is not understood: {error}"))
}

/// Writes how everything stands to `out`.
///
/// # Errors
///
/// When `out` cannot be written.
pub async fn status(config: Config, form: StatusForm, out: &mut impl Write) -> Result<(), Error> {
    loop {
        let (picture, alone) = match of_daemon(&config).await {
            Ok(picture) => (picture, None),
            Err(why) => (BothSides::read(&config).await.picture, Some(why)),
        };
        if form.watch && stdout().is_terminal() {
            // From the top of an empty screen.
            write!(out, "\u{1b}[H\u{1b}[2J")?;
        }
        if form.json {
            writeln!(
                out,
                "{}",
                serde_json::to_string(&picture).map_err(std::io::Error::from)?
            )?;
        } else {
            if let Some(why) = &alone {
                writeln!(
                    out,
                    "no sidecar answered, so both sides were read now: {why}"
                )?;
            }
            write!(out, "{}", screen(&picture))?;
        }
        out.flush()?;
        if !form.watch {
            return Ok(());
        }
        sleep(WATCH).await;
    }
}

/// Writes why `what` gets traffic, or does not, to `out`; whether everything that it names does.
///
/// # Errors
///
/// When `out` cannot be written.
pub async fn explain(config: Config, what: &str, out: &mut impl Write) -> Result<bool, Error> {
    let mut evidence = Evidence::default();
    let mut sides = None;
    match of_daemon(&config).await {
        Ok(picture) => evidence.picture = picture,
        Err(why) => {
            let both = BothSides::read(&config).await;
            evidence.picture = both.picture.clone();
            evidence.alone = Some(why);
            sides = Some(both);
        }
    }
    let mut backends: Vec<String> = Vec::new();
    for subject in find(&evidence.picture, what) {
        let backend = match subject {
            Subject::Registration(_, registration) => registration
                .place
                .as_ref()
                .map(|place| place.backend.to_string()),
            Subject::Server(backend, _) => Some(backend.name.to_string()),
        };
        backends.extend(backend.filter(|name| !backends.contains(name)));
    }
    for backend in backends.into_iter().take(MOST_BACKENDS) {
        let checks = if let Some(sides) = &mut sides {
            sides.checks(&backend).await
        } else {
            let path = format!("/checks?backend={backend}");
            let body = ask(&config.admin_listen, &path).await.ok();
            body.and_then(|body| serde_json::from_slice(&body).ok())
        };
        if let Some(checks) = checks {
            evidence.checks.insert(backend, checks);
        }
    }
    if find(&evidence.picture, what).is_empty() {
        (evidence.elsewhere, evidence.unasked) = elsewhere(&config, what).await;
    }
    let all = explained(what, &evidence);
    let mut gets_traffic = true;
    for (number, one) in all.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        write!(out, "{one}")?;
        gets_traffic &= one.gets_traffic;
    }
    Ok(gets_traffic)
}
