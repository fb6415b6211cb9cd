//! Looks at HAProxy all the time, and remembers when something was different.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    site::{Site, entries_in},
    support::{
        haproxy::one_shot,
        world::{Server, servers_in},
    },
};

const EVERY: Duration = Duration::from_millis(20);

/// What HAProxy said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) pid: String,
    /// Addresses of the servers in rotation, by backend; where a route has to lead to it, only while one does.
    pub(crate) in_rotation: BTreeMap<String, BTreeSet<String>>,
}

/// A change, seen when it was answered to a question that was asked at `asked`. No look means no answer.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    pub(crate) look: Option<Look>,
}

/// Ends when it is dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<Vec<Seen>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn begin(site: &Site) -> Self {
        let socket = site.socket();
        let [hosts, suffixes] = &site.maps;
        let question = format!("show info;show servers state;show map {hosts};show map {suffixes}");
        let crews = site.crews.iter();
        let routed = crews.filter(|crew| crew.kind.route.is_some());
        let routed: Vec<_> = routed.map(|crew| crew.kind.name).collect();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (seen, is_over) = (Arc::clone(&seen), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    let asked = Instant::now();
                    let answer = one_shot(&socket, &question);
                    let look = answer.ok().and_then(|answer| look(&answer, &routed));
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    if seen.last().is_none_or(|last| last.look != look) {
                        let answered = Instant::now();
                        seen.push(Seen {
                            asked,
                            answered,
                            look,
                        });
                    }
                    drop(seen);
                    thread::sleep(EVERY);
                }
            }
        });
        Self {
            seen,
            is_over,
            thread: Some(thread),
        }
    }

    /// Everything that was different from what was seen before it.
    pub(crate) fn end(self) -> Vec<Seen> {
        let seen = Arc::clone(&self.seen);
        drop(self);
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nothing to see.
            thread.join().unwrap_or_default();
        }
    }
}

/// None if the process is on its way out, or gone before it has said everything.
fn look(answer: &str, routed: &[&str]) -> Option<Look> {
    let value = |key: &str| {
        let mut lines = answer.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    };
    (value("Stopping")? == "0").then_some(())?;
    let pid = value("Pid")?.to_owned();
    // Up to 2.8 what was asked second may begin at once.
    let state = &answer[answer.find("1\n# be_id")?..];
    let (state, maps) = state.split_at(state.find("\n0x").unwrap_or(state.len()));
    let mut in_rotation: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for ((backend, _), server) in servers_in(state) {
        if Server::is_in_rotation(&server) && server.weight > 0 {
            in_rotation
                .entry(backend)
                .or_default()
                .insert(server.address);
        }
    }
    let leads_to: BTreeSet<_> = (entries_in(maps).into_iter())
        .map(|(_, backend)| backend)
        .collect();
    in_rotation
        .retain(|backend, _| !routed.contains(&backend.as_str()) || leads_to.contains(backend));
    Some(Look { pid, in_rotation })
}
