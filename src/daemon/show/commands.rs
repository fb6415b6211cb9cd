//! `status` and `explain`: they ask the sidecar that runs, and read both sides themselves when there is none.

use std::{
    collections::BTreeSet,
    io::{IsTerminal as _, Write, stdout},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    ask::ask,
    both_sides::{BothSides, elsewhere},
};
use crate::{
    config::Config,
    daemon::Error,
    picture::{
        Evidence, Picture, Served, Server, Stage, Subject, Unasked, explain as explained, find,
        screen,
    },
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

/// How everything stands, by the sidecar that runs, or read by this command; then there is more to read of both sides.
async fn evidence(config: &Config) -> (Evidence, Option<BothSides>) {
    let body = ask(&config.admin_listen, STATUS).await;
    let picture = body.map_err(Unasked::from).and_then(|body| {
        serde_json::from_slice(&body).map_err(|error| Unasked {
            text: format!(
                "no sidecar answered: what is at --admin-listen does not answer as one does ({error})"
            ),
            is_there: false,
        })
    });
    let mut evidence = Evidence::default();
    match picture {
        Ok(picture) => {
            evidence.picture = picture;
            (evidence, None)
        }
        Err(unasked) => {
            let sides = BothSides::read(config).await;
            evidence.picture = sides.picture.clone();
            evidence.picture.sidecar.unasked = Some(unasked);
            (evidence, Some(sides))
        }
    }
}

/// Adds HAProxy's words on the checks of these backends.
async fn hear_checks(
    config: &Config,
    sides: &mut Option<BothSides>,
    backends: impl IntoIterator<Item = String>,
    evidence: &mut Evidence,
) {
    for backend in backends.into_iter().take(MOST_BACKENDS) {
        let checks = if let Some(sides) = sides {
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
}

/// Writes how everything stands to `out`; whether anything of it could be read.
///
/// # Errors
///
/// When `out` cannot be written.
pub async fn status(config: Config, form: StatusForm, out: &mut impl Write) -> Result<bool, Error> {
    loop {
        let (mut evidence, mut sides) = evidence(&config).await;
        let picture = &evidence.picture;
        if form.watch && stdout().is_terminal() {
            // From the top of an empty screen.
            write!(out, "\u{1b}[H\u{1b}[2J")?;
        } else if form.watch && !form.json {
            writeln!(out, "--- {}", picture.taken_at)?;
        }
        if form.json {
            let document = serde_json::to_string(picture).map_err(std::io::Error::from)?;
            writeln!(out, "{document}")?;
        } else {
            let backends = ill(picture);
            hear_checks(&config, &mut sides, backends, &mut evidence).await;
            write!(out, "{}", screen(&evidence))?;
        }
        out.flush()?;
        if !form.watch {
            let picture = &evidence.picture;
            return Ok(sides.is_none() || picture.haproxy.read || picture.nomad.known);
        }
        sleep(WATCH).await;
    }
}

/// The backends of servers whose checks are the reason for something.
fn ill(picture: &Picture) -> Vec<String> {
    let is_ill = |server: &Server| matches!(server.stage, Stage::Down | Stage::Admitted);
    let backends = picture.backends.iter();
    let backends = backends.filter(|backend| backend.servers.iter().any(is_ill));
    backends.map(|backend| backend.name.to_string()).collect()
}

/// Writes why `what` gets traffic, or does not, to `out`; whether everything that it names does.
///
/// # Errors
///
/// When `out` cannot be written.
pub async fn explain(config: Config, what: &str, out: &mut impl Write) -> Result<Served, Error> {
    let (mut evidence, mut sides) = evidence(&config).await;
    let backends = backends_of(&evidence.picture, what);
    hear_checks(&config, &mut sides, backends, &mut evidence).await;
    if find(&evidence.picture, what).is_empty() {
        let (elsewhere, problem) = elsewhere(&config, what).await;
        evidence.elsewhere = elsewhere;
        let (asked, sidecars) = (
            config.nomad.endpoints.to_string(),
            &evidence.picture.nomad.address,
        );
        evidence.unread = problem.map(|problem| {
            if sides.is_some() || asked == *sidecars {
                return problem;
            }
            // Nobody's token is sent to an address that is read from elsewhere.
            format!(
                "{problem}; this command asks Nomad at {asked}, the sidecar at {sidecars}: give --nomad-addr"
            )
        });
    }
    let explained = explained(what, &evidence);
    write!(out, "{explained}")?;
    Ok(explained.served())
}

/// The backends whose checks say something about `what`; if it names nothing, the one that it is perhaps a free slot of.
fn backends_of(picture: &Picture, what: &str) -> BTreeSet<String> {
    let subjects = find(picture, what).into_iter();
    let mut backends: BTreeSet<_> = subjects
        .filter_map(|subject| match subject {
            Subject::Registration(_, registration) => {
                let place = registration.place.as_ref()?;
                Some(place.backend.to_string())
            }
            Subject::Server(backend, _) => Some(backend.name.to_string()),
        })
        .collect();
    if backends.is_empty()
        && let Some((name, _)) = what.split_once('/')
    {
        let known = picture.backend(name);
        backends.extend(known.map(|backend| backend.name.to_string()));
    }
    backends
}
