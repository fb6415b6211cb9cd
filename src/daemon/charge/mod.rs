//! One sidecar is in charge of a socket: it holds the lock beside it. Another one stands by: it reads and plans as always,
//! writes nothing, and takes over when the lock is free.
//!
//! A sidecar that follows something else would take out the servers of the one before it. It waits for longer, so that the
//! other one can come back; the name that stays in the lock file tells. Where nothing can be locked, that is said, and
//! the sidecar acts: to serve is worth more.

mod holder;
mod lock;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use self::{
    holder::Holder,
    lock::{Attempt, Lock, LockError},
};
use super::now;
use crate::config::Config;

/// Between two looks at the lock: by who waits for it, and by who has it, whether it still is in its place.
const LOOK: Duration = Duration::from_millis(200);
/// For so long a sidecar that followed something else may be away. Nomad starts a task again within a minute.
const GRACE: Duration = Duration::from_mins(2);

/// Whether this sidecar acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    InCharge,
    /// Another one does, for this reason.
    Standby(String),
}

/// Tells how it stands, at first at once and then whenever that changes.
pub(super) async fn run(mut charge: Charge, standing: watch::Sender<Option<Standing>>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(new) = charge.look(now()) {
            standing.send_replace(Some(new));
        }
    }
}

/// The sidecar `id` has ended as it should: nobody has to wait for it to come back.
pub(super) fn leave(socket: &Path, id: u64) {
    Lock::forget(socket, id);
}

/// A look at the lock.
#[derive(Debug)]
enum Found {
    Locked,
    /// There can be no lock.
    NoLock(LockError),
    /// Not yet: the folder is not there, and so there is no HAProxy.
    Nothing,
    Held(Option<Holder>),
    /// It is free. Who had it followed something else, and may come back until then.
    Awaited(Holder, Duration),
}

/// This sidecar and the lock.
pub(super) struct Charge {
    socket: PathBuf,
    own: Holder,
    lock: Option<Lock>,
    /// How it stood at the last look.
    standing: Option<Standing>,
    /// What was said last of the reason.
    said: String,
    waiting_since: Option<Instant>,
    /// Since when the lock is free, and its former holder away.
    free_since: Option<Instant>,
}

impl Charge {
    /// A sidecar that does not know yet. `id` is its own, for as long as the process lives.
    pub(super) fn new(config: &Config, id: u64) -> Self {
        // For whoever looks for the process.
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = Holder::new(id, host.trim().to_owned(), config);
        Self::of(config.haproxy.socket.clone(), own)
    }

    fn of(socket: PathBuf, own: Holder) -> Self {
        Self {
            socket,
            own,
            lock: None,
            standing: None,
            said: String::new(),
            waiting_since: None,
            free_since: None,
        }
    }

    /// Looks at the lock, and takes it when it may. How it stands, when that has changed.
    pub(super) fn look(&mut self, now: Instant) -> Option<Standing> {
        let found = self.find(now);
        let standing = match found {
            Found::Locked => Standing::InCharge,
            Found::NoLock(error) => {
                if self.says(error.to_string()) {
                    warn!(
                        "{error}; until then this sidecar acts without a lock, and so would a second one: make sure that there is none"
                    );
                }
                Standing::InCharge
            }
            Found::Nothing => {
                Standing::Standby(format!("{} cannot be locked yet", self.socket.display()))
            }
            Found::Held(by) => Standing::Standby(self.standby(by.as_ref())),
            Found::Awaited(former, left) => {
                let text = format!(
                    "the sidecar that was in charge of {} is gone, and followed something else: {} (this one would take out \
                     its servers, and waits for it to come back; {former}: {}; here: {})",
                    self.socket.display(),
                    self.own.follows.advice(&former.follows),
                    former.follows,
                    self.own.follows,
                );
                if self.says(text.clone()) {
                    warn!(takes_over_in = ?Seconds(left), "{text}");
                }
                Standing::Standby(text)
            }
        };
        if self.standing.as_ref() == Some(&standing) {
            return None;
        }
        match (&standing, self.standing.replace(standing.clone())) {
            (Standing::InCharge, Some(Standing::Standby(_))) => {
                let waited = self.waiting_since.take().map(|since| now - since);
                info!(waited = ?Seconds(waited.unwrap_or_default()), "in charge now: this sidecar takes over, and reads everything before it writes");
            }
            (Standing::InCharge, _) => {
                debug!(socket = %self.socket.display(), "in charge");
            }
            (Standing::Standby(_), _) => {
                self.waiting_since.get_or_insert(now);
            }
        }
        Some(standing)
    }

    /// Another one is in charge.
    fn standby(&mut self, by: Option<&Holder>) -> String {
        let socket = self.socket.display();
        let text = match by {
            None => format!(
                "another process holds the lock of {socket}, and the lock file does not say which: fuser finds it"
            ),
            Some(by) if by.follows.is_same(&self.own.follows) => {
                format!(
                    "another sidecar is in charge of {socket}: {by}, {}",
                    by.follows
                )
            }
            Some(by) => format!(
                "another sidecar is in charge of {socket} and follows something else: {} (each would take out the servers \
                 of the other; {by}: {}; here: {})",
                self.own.follows.advice(&by.follows),
                by.follows,
                self.own.follows,
            ),
        };
        if self.says(text.clone()) {
            warn!("{text}; this one only observes, until that one ends");
        }
        text
    }

    fn find(&mut self, now: Instant) -> Found {
        if let Some(lock) = &self.lock {
            if lock.is_in_place() {
                return Found::Locked;
            }
            warn!(
                "the lock file of {} was removed or replaced: locking anew",
                self.socket.display()
            );
            self.said.clear();
        }
        let attempt = Lock::attempt(&self.socket);
        // What is no longer in its place keeps nobody out.
        self.lock = None;
        match attempt {
            Ok(Attempt::Locked(lock, former)) => {
                let stranger = former.filter(|former| {
                    former.id != self.own.id && !self.own.follows.covers(&former.follows)
                });
                let free_for = now - *self.free_since.get_or_insert(now);
                match stranger {
                    Some(former) if free_for < GRACE => {
                        Found::Awaited(former, GRACE.saturating_sub(free_for))
                    }
                    Some(_) | None => {
                        self.take(lock);
                        Found::Locked
                    }
                }
            }
            // The part that had it before this one, in this process, is about to let go.
            Ok(Attempt::Held(Some(by))) if by.id == self.own.id => Found::Nothing,
            Ok(Attempt::Held(by)) => {
                self.free_since = None;
                Found::Held(by)
            }
            Err(LockError::NoFolder(_)) => Found::Nothing,
            // It is somebody's, or it is ours at the next look.
            Err(LockError::Replaced(_)) => Found::Held(None),
            Err(error) => Found::NoLock(error),
        }
    }

    fn take(&mut self, mut lock: Lock) {
        self.free_since = None;
        self.said.clear();
        if let Err(unnamed) = lock.name(&self.own) {
            warn!("{unnamed}; it is locked, and does not say by whom");
        }
        self.lock = Some(lock);
    }

    /// Whether this was not said last.
    fn says(&mut self, text: String) -> bool {
        if self.said == text {
            return false;
        }
        self.said = text;
        true
    }
}

/// A time as people read it.
struct Seconds(Duration);

impl fmt::Debug for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1?}", self.0)
    }
}

/// What is heard of the lock; nothing, under `--observe`.
pub(super) struct Standings {
    seen: Option<watch::Receiver<Option<Standing>>>,
    last: Option<Standing>,
}

impl Standings {
    /// Hears of it there.
    pub(super) fn new(seen: Option<watch::Receiver<Option<Standing>>>) -> Self {
        Self { seen, last: None }
    }

    /// The next one that is not the last one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Standing {
        if let Some(seen) = &mut self.seen {
            loop {
                if let Some(new) = seen.borrow_and_update().clone()
                    && self.last.as_ref() != Some(&new)
                {
                    self.last = Some(new.clone());
                    return new;
                }
                if seen.changed().await.is_err() {
                    break;
                }
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::{holder::tests::holder, *};

    struct World {
        folder: tempfile::TempDir,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { folder, now: now() }
        }

        fn socket(&self) -> PathBuf {
            self.folder.path().join("haproxy.sock")
        }

        fn sidecar(&self, id: u64, namespaces: &[&str]) -> Charge {
            Charge::of(self.socket(), holder(id, namespaces))
        }

        fn lock_file(&self) -> PathBuf {
            self.folder.path().join("haproxy.sock.sidecar.lock")
        }
    }

    fn standby(standing: Option<Standing>) -> String {
        match standing {
            Some(Standing::Standby(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_second_stands_by_and_takes_over_when_the_first_is_gone() {
        let world = World::new();
        let mut first = world.sidecar(1, &["default"]);
        let mut second = world.sidecar(2, &["default"]);
        assert_eq!(first.look(world.now), Some(Standing::InCharge));
        assert_eq!(
            standby(second.look(world.now)),
            format!(
                "another sidecar is in charge of {}: pid 7 on lb-1, namespaces default, from namespace default, region of \
                 the agent, tags haproxy.…, slots nomad…",
                world.socket().display()
            )
        );
        assert_eq!(first.look(world.now), None);
        assert_eq!(second.look(world.now), None);
        drop(first);
        assert_eq!(second.look(world.now), Some(Standing::InCharge));
    }

    #[test]
    fn who_follows_something_else_waits_for_the_former_to_come_back() {
        let mut world = World::new();
        let mut first = world.sidecar(1, &["a"]);
        let mut other = world.sidecar(2, &["b"]);
        assert_eq!(first.look(world.now), Some(Standing::InCharge));
        let text = standby(other.look(world.now));
        assert!(
            text.contains(
                "and follows something else: run one sidecar with --namespaces a,b (each would"
            ),
            "{text}"
        );
        drop(first);
        let text = standby(other.look(world.now));
        assert!(
            text.contains(
                "is gone, and followed something else: run one sidecar with --namespaces a,b ("
            ),
            "{text}"
        );
        world.now += GRACE.mul_f64(0.9);
        assert_eq!(other.look(world.now), None);

        // It comes back, and what was waited for begins anew.
        let mut again = world.sidecar(3, &["a"]);
        assert_eq!(again.look(world.now), Some(Standing::InCharge));
        standby(other.look(world.now));
        drop(again);
        standby(other.look(world.now));
        world.now += GRACE.mul_f64(0.9);
        assert_eq!(other.look(world.now), None);
        world.now += GRACE.mul_f64(0.2);
        assert_eq!(other.look(world.now), Some(Standing::InCharge));
    }

    #[test]
    fn nobody_waits_for_one_that_ended_as_it_should_or_whose_servers_it_has_too() {
        let world = World::new();
        world.sidecar(1, &["a"]).look(world.now);
        leave(&world.socket(), 1);
        let mut other = world.sidecar(2, &["b"]);
        assert_eq!(other.look(world.now), Some(Standing::InCharge));
        drop(other);
        let mut both = world.sidecar(3, &["a", "b"]);
        assert_eq!(both.look(world.now), Some(Standing::InCharge));
        drop(both);
        // The same process, after its configuration was read again.
        let mut less = world.sidecar(3, &["a"]);
        assert_eq!(less.look(world.now), Some(Standing::InCharge));
    }

    #[test]
    fn who_finds_its_lock_file_gone_locks_anew_or_steps_back() {
        let world = World::new();
        let mut first = world.sidecar(1, &["a"]);
        let mut second = world.sidecar(2, &["a"]);
        assert_eq!(first.look(world.now), Some(Standing::InCharge));
        standby(second.look(world.now));
        fs::remove_file(world.lock_file()).unwrap();
        assert_eq!(first.look(world.now), None, "still in charge");
        assert_eq!(second.look(world.now), None, "still not");
        fs::remove_file(world.lock_file()).unwrap();
        assert_eq!(second.look(world.now), Some(Standing::InCharge));
        standby(first.look(world.now));
    }

    #[test]
    fn without_a_lock_it_acts_and_steps_back_when_there_can_be_one() {
        let world = World::new();
        fs::create_dir(world.lock_file()).unwrap();
        let mut first = world.sidecar(1, &["a"]);
        assert_eq!(first.look(world.now), Some(Standing::InCharge));
        fs::remove_dir(world.lock_file()).unwrap();
        let mut second = world.sidecar(2, &["a"]);
        assert_eq!(second.look(world.now), Some(Standing::InCharge));
        standby(first.look(world.now));
    }

    #[test]
    fn where_there_is_no_folder_there_is_nobody_to_act_upon() {
        let mut charge = Charge::of("/nowhere/at/all.sock".into(), holder(1, &["a"]));
        standby(charge.look(now()));
    }
}
