//! Clients of HAProxy's frontends: requests that take their time, over new and over kept connections, with and without a
//! persistence cookie, and sessions that last for minutes. Each waits for its answer, thinks, and comes again.
//!
//! They are what invariants 6 to 10 are there for: where their requests arrive is judged in `rules`.

use std::time::Duration;

use crate::{
    haproxy_model::{Conduct, Cut, Wish},
    random::Random,
    world::{Event, World},
};

/// How a client uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// A connection for each request.
    Plain,
    /// One connection for all its requests.
    KeepAlive,
    /// The same, and it comes back to the server whose cookie it has.
    Cookie,
    /// A session of up to minutes, as of TCP or an upgraded connection.
    Long,
}

/// Who asks for what.
const POPULATION: [(&str, Habit); 16] = [
    ("web", Habit::Plain),
    ("web", Habit::KeepAlive),
    ("web", Habit::Cookie),
    ("web", Habit::Cookie),
    ("web", Habit::Long),
    ("api", Habit::KeepAlive),
    ("api", Habit::Long),
    ("shop", Habit::Plain),
    ("shop", Habit::KeepAlive),
    ("shop", Habit::Cookie),
    ("shop", Habit::Long),
    ("photo_books", Habit::KeepAlive),
    ("photo_books", Habit::Long),
    ("cache", Habit::Plain),
    ("cache", Habit::Cookie),
    ("team.web", Habit::KeepAlive),
];

/// After a 503, or when there is no HAProxy.
const RETRY: Duration = Duration::from_millis(1_500);

struct Client {
    backend: &'static str,
    habit: Habit,
    cookie: Option<String>,
    /// It has a connection, so its next request is not the first one on it.
    is_connected: bool,
    /// What it waits for, and in which process.
    waits_for: Option<(u32, u64)>,
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// They came to an instance that serves.
    pub(crate) served: u64,
    /// They were answered 503, for want of a server.
    pub(crate) unserved: u64,
    /// Nobody listened where HAProxy sent them.
    pub(crate) refused: u64,
    /// They came to a drained server, by its cookie.
    pub(crate) kept: u64,
    /// HAProxy was killed under them.
    pub(crate) lost: u64,
    /// They were ended by `shutdown sessions`.
    pub(crate) cut: u64,
    /// The longest of all, in seconds.
    pub(crate) longest: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.served += other.served;
        self.unserved += other.unserved;
        self.refused += other.refused;
        self.kept += other.kept;
        self.lost += other.lost;
        self.cut += other.cut;
        self.longest = self.longest.max(other.longest);
    }
}

pub(crate) struct Clients {
    list: Vec<Client>,
    last_id: u64,
    /// Dice of their own: more clients change nothing else.
    random: Random,
    /// Nobody comes after that.
    pub(crate) until: Duration,
    /// No request takes longer.
    pub(crate) longest: Duration,
    pub(crate) tally: Tally,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            list: Vec::new(),
            last_id: 0,
            random: Random::new(seed ^ 0x5e55_1045),
            until: Duration::MAX,
            longest: Duration::MAX,
            tally: Tally::default(),
        }
    }

    /// Whether anybody would send this cookie.
    pub(crate) fn hold_cookie(&self, backend: &str, cookie: &str) -> bool {
        self.list
            .iter()
            .any(|one| one.backend == backend && one.cookie.as_deref() == Some(cookie))
    }
}

impl World {
    /// All of them arrive within a second.
    pub(crate) fn clients_come(&mut self) {
        for (backend, habit) in POPULATION {
            self.client_comes(backend, habit);
        }
    }

    pub(crate) fn client_comes(&mut self, backend: &'static str, habit: Habit) {
        let number = self.clients.list.len();
        self.clients.list.push(Client {
            backend,
            habit,
            cookie: None,
            is_connected: false,
            waits_for: None,
        });
        let delay = self.clients.random.millis(0, 1_000);
        self.after(delay, Event::Arrive(number));
    }

    /// A client has something to ask.
    pub(crate) fn arrive(&mut self, number: usize) {
        if self.now >= self.clients.until {
            return;
        }
        let Some(pid) = self.current_pid else {
            self.clients.list[number].is_connected = false;
            return self.after(RETRY, Event::Arrive(number));
        };
        self.clients.last_id += 1;
        let (id, turn) = (self.clients.last_id, self.clients.random.below(1 << 16));
        let client = &mut self.clients.list[number];
        let habit = client.habit;
        let cookie = client.cookie.clone();
        let wish = Wish {
            id,
            backend: client.backend,
            cookie: cookie.as_deref(),
            keeps_connection: habit != Habit::Long,
            reuses: client.is_connected,
            turn,
        };
        client.is_connected = matches!(habit, Habit::KeepAlive | Habit::Cookie);
        let now = self.now;
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let Some(dispatch) = process.open(now, &wish) else {
            self.clients.tally.unserved += 1;
            self.judge_refusal(wish.backend);
            return self.after(RETRY, Event::Arrive(number));
        };
        if habit == Habit::Cookie {
            self.clients.list[number]
                .cookie
                .clone_from(&dispatch.cookie);
        }
        self.judge_dispatch(wish.backend, &dispatch);
        let conduct = self.conducts.borrow().get(&dispatch.to).copied();
        let lasts = match conduct {
            None | Some(Conduct::Refuses) => {
                self.clients.tally.refused += 1;
                RETRY
            }
            Some(Conduct::Serves | Conduct::Fails) => {
                self.clients.tally.served += 1;
                self.clients.tally.kept += u64::from(dispatch.is_drained);
                self.duration(habit)
            }
        };
        self.clients.list[number].waits_for = Some((pid, id));
        self.after(lasts, Event::Leave(number, id));
    }

    fn duration(&mut self, habit: Habit) -> Duration {
        let random = &mut self.clients.random;
        let lasts = match habit {
            Habit::Long if random.chance(50) => random.millis(10_000, 240_000),
            Habit::Long => random.millis(500, 20_000),
            Habit::Plain | Habit::KeepAlive | Habit::Cookie => {
                // Most are short.
                let most = [50, 200, 2_000][random.below(3)];
                random.millis(10, most)
            }
        };
        let lasts = lasts.min(self.clients.longest);
        let longest = &mut self.clients.tally.longest;
        *longest = lasts.as_secs().max(*longest);
        lasts
    }

    /// A client has its answer, and thinks.
    pub(crate) fn leave(&mut self, number: usize, id: u64) {
        let client = &mut self.clients.list[number];
        let Some((pid, _)) = client.waits_for.take_if(|(_, awaited)| *awaited == id) else {
            return;
        };
        let now = self.now;
        let is_over = self
            .processes
            .get_mut(&pid)
            .is_some_and(|process| process.close(now, id));
        if !is_over {
            // Of an old process without a connection to it nobody can tell any more.
            self.clients.tally.lost += 1;
            self.clients.list[number].is_connected = false;
        }
        self.think(number);
    }

    fn think(&mut self, number: usize) {
        // As often at once as after a while.
        let most = [5, 100, 1_500][self.clients.random.below(3)];
        let pause = self.clients.random.millis(1, most);
        self.after(pause, Event::Arrive(number));
    }

    /// Sessions were ended from the socket.
    pub(crate) fn sessions_were_cut(&mut self, cuts: &[Cut]) {
        for cut in cuts {
            self.clients.tally.cut += 1;
            let number = self
                .clients
                .list
                .iter()
                .position(|one| one.waits_for.is_some_and(|(_, id)| id == cut.id));
            if let Some(number) = number {
                let client = &mut self.clients.list[number];
                client.waits_for = None;
                client.is_connected = false;
                self.think(number);
            }
        }
    }

    /// Nobody stays longer than a few seconds more, and nobody comes after a while.
    pub(crate) fn clients_hurry(&mut self) {
        self.clients.until = self.now + Duration::from_secs(20);
        for number in 0..self.clients.list.len() {
            let client = &self.clients.list[number];
            if client.habit == Habit::Long
                && let Some((_, id)) = client.waits_for
            {
                let delay = self.clients.random.millis(1_000, 4_000);
                self.after(delay, Event::Leave(number, id));
                self.clients.list[number].habit = Habit::Plain;
            }
        }
    }
}
