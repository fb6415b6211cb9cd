//! When a snapshot of the catalog is written, and when one is read: at the start, if Nomad gives no catalog within
//! seconds. The bytes are those of [`crate::snapshot`], the file is `file`'s.

mod file;
pub(super) mod hands;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::report::Chain;
use crate::{
    admin::Metrics,
    catalog::Cause,
    config::Config,
    model::Scope,
    nomad::{settings::Endpoint, watch::Event},
    reconcile::Remembered,
    snapshot::{Refusal, Snapshot, Source, Usable, decode, encode},
};

/// So long a start waits for Nomad. Its first sync takes less when it is there.
const AWAY: Duration = Duration::from_secs(2);
/// So long when it has answered, and only the reads take their time.
const SLOW: Duration = Duration::from_secs(10);
/// Between two snapshots.
const PAUSE: Duration = Duration::from_secs(1);
/// Without a change one is written this often, since its age counts from when Nomad was last current.
const REFRESH: Duration = Duration::from_mins(1);
/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of the catalog's age, and what is to be done with the file.
pub(super) struct Keeper {
    source: Source,
    path: Option<PathBuf>,
    /// Nobody writes without a path.
    writer: Option<mpsc::Sender<Snapshot>>,
    started: Instant,
    /// When the snapshot is to be read; nothing when that is decided.
    read_at: Option<Instant>,
    reading: Option<JoinHandle<Result<Vec<u8>, Refusal>>>,
    index: u64,
    /// When each namespace was last current.
    current: BTreeMap<Arc<str>, Instant>,
    is_changed: bool,
    handed_over: Option<Instant>,
}

impl Keeper {
    /// `parts` gets the task that writes.
    pub(super) fn new(
        config: &Config,
        now: Instant,
        metrics: Arc<Metrics>,
        parts: &mut JoinSet<()>,
    ) -> Self {
        let path = config.snapshot_file.clone();
        let writer = path.clone().map(|path| {
            let (sender, receiver) = mpsc::channel(1);
            parts.spawn(write(path, receiver, metrics));
            sender
        });
        Self {
            source: source(config),
            read_at: path.is_some().then_some(now + AWAY),
            path,
            writer,
            started: now,
            reading: None,
            index: 0,
            current: BTreeMap::new(),
            is_changed: false,
            handed_over: None,
        }
    }

    /// Nomad said something.
    pub(super) fn heard(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Synced(synced) => {
                (self.read_at, self.reading) = (None, None);
                self.is_changed = true;
                self.index = self.index.max(synced.index);
                for namespace in &self.source.namespaces {
                    let namespace: Arc<str> = namespace.as_str().into();
                    if !synced
                        .unproven
                        .contains(&Scope::Namespace(Arc::clone(&namespace)))
                    {
                        self.current.entry(namespace).or_insert(now);
                    }
                }
            }
            Event::Changed { index, .. } => {
                self.is_changed = true;
                self.index = self.index.max(*index);
            }
            Event::Current {
                namespace,
                index,
                at,
            } => {
                self.index = self.index.max(*index);
                self.current.insert(Arc::clone(namespace), *at);
            }
            Event::Rereads {
                cause: Cause::FirstSync,
                ..
            } if self.read_at.is_some() => self.read_at = Some(self.started + SLOW),
            Event::IndexWentBack { to, .. } => self.index = *to,
            Event::Rereads { .. }
            | Event::Following { .. }
            | Event::StreamLost { .. }
            | Event::Trouble { .. }
            | Event::Recovered { .. } => {}
        }
    }

    /// What is held changed.
    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// When [`Self::act`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let write_at = self.writer.as_ref().and_then(|_| {
            let Some(before) = self.handed_over else {
                return self.is_changed.then_some(self.started);
            };
            let refreshed = self.current.values().any(|at| *at > before);
            if self.is_changed {
                Some(before + PAUSE)
            } else {
                refreshed.then_some(before + REFRESH)
            }
        });
        self.read_at.into_iter().chain(write_at).min()
    }

    /// Begins to read, or hands over what `remember` gives to be written.
    pub(super) fn act(&mut self, now: Instant, remember: impl FnOnce() -> Option<Remembered>) {
        if self.read_at.is_some_and(|at| at <= now) {
            self.read_at = None;
            if let Some(path) = self.path.clone() {
                self.reading = Some(spawn_blocking(move || file::read(&path)));
            }
            return;
        }
        // A sidecar that has not heard Nomad, or is not in charge, has nothing to say.
        if let Some(writer) = &self.writer
            && let Ok(free) = writer.try_reserve()
            && let Some(remembered) = remember()
        {
            let written = wall_clock();
            let current = self.current.iter();
            free.send(Snapshot {
                source: self.source.clone(),
                index: self.index,
                current: current
                    .map(|(namespace, at)| {
                        let since = now.saturating_duration_since(*at);
                        (namespace.to_string(), written.saturating_sub(since))
                    })
                    .collect(),
                written,
                remembered,
            });
            self.is_changed = false;
        }
        self.handed_over = Some(now);
    }

    /// What was read, when it is there.
    pub(super) async fn read(&mut self) -> Result<Usable, Refusal> {
        let bytes = match &mut self.reading {
            Some(reading) => reading.await,
            None => std::future::pending().await,
        };
        self.reading = None;
        let bytes = bytes.unwrap_or_else(|error| Err(Refusal::Unreadable(error.to_string())))?;
        decode(&bytes, &self.source, wall_clock())
    }

    /// Where the snapshot is.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("off"))
    }
}

/// Writes what it is given, the newest when the disk is slow or fails, until nobody gives any more.
async fn write(path: PathBuf, mut snapshots: mpsc::Receiver<Snapshot>, metrics: Arc<Metrics>) {
    let mut failed: Option<(Arc<Snapshot>, String)> = None;
    loop {
        let newer = match &failed {
            Some(_) => timeout(RETRY, snapshots.recv()).await,
            None => Ok(snapshots.recv().await),
        };
        let snapshot = match (newer, &failed) {
            (Ok(Some(newer)), _) => Arc::new(newer),
            (Err(_), Some((again, _))) => Arc::clone(again),
            (Ok(None), _) | (Err(_), None) => return,
        };
        let (to, content) = (path.clone(), Arc::clone(&snapshot));
        let written = spawn_blocking(move || file::write(&to, &encode(&content))).await;
        let shown = path.display();
        match written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            Ok(length) => {
                metrics.snapshot().written();
                debug!(snapshot = %shown, length, "the snapshot was written");
                if failed.take().is_some() {
                    info!(snapshot = %shown, "the snapshot of the catalog can be written again");
                }
            }
            Err(error) => {
                metrics.snapshot().failed();
                let text = Chain(&error).to_string();
                if failed.as_ref().is_none_or(|(_, said)| *said != text) {
                    warn!(
                        snapshot = %shown,
                        reason = text,
                        "the snapshot of the catalog cannot be written and is tried again: a start without Nomad would find \
                         an old one or none; see to the directory and its disk, or set --snapshot-file to another file or to off"
                    );
                }
                failed = Some((snapshot, text));
            }
        }
    }
}

fn source(config: &Config) -> Source {
    let nomad = &config.nomad;
    let address = |endpoint: &Endpoint| match endpoint {
        // Each task has its own path to it.
        Endpoint::Unix(_) => "unix".to_owned(),
        Endpoint::Http { .. } | Endpoint::Https { .. } => endpoint.to_string(),
    };
    Source {
        addresses: nomad.endpoints.iter().map(address).collect(),
        region: nomad.region.clone(),
        namespaces: nomad.namespaces.clone(),
        own_namespace: config.own_namespace.clone(),
        tag_prefix: nomad.tag_prefix.clone(),
        expose_by_default: nomad.expose_by_default,
    }
}

/// Since the epoch: age has to count while no process runs.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell is where time comes from"
)]
fn wall_clock() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}
