//! The sidecar's session with HAProxy, as `haproxy::session` keeps it: one connection to one process, runs of changes of
//! one server in one piece, a window, a look at the process every 250 ms. Text is printed and read by the product.
//!
//! What it does not promise, it does not do: after a cut nobody knows which lines were carried out.

use std::{collections::VecDeque, time::Duration};

use haproxy_nomad_sidecar::{
    haproxy::{command::print, reply},
    model::{Batch, BatchId, Command, Outcome, ProcessInfo, Request, Response},
    reconcile::{Failure, Input},
};

use crate::{
    invariants::{FROM_WHAT_IT_REPORTS, UNDERSTOOD},
    sabotage::Sabotage,
    world::{Event, FIRST_PID, World},
};

const WINDOW: usize = 8192;
const POLL: Duration = Duration::from_millis(250);
const REPLY_DEADLINE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Session {
    /// Counts connections: what belongs to an older one has no effect.
    pub(crate) number: u32,
    /// The process that it is connected to.
    pub(crate) process: Option<(u32, ProcessInfo)>,
    jobs: VecDeque<Job>,
    /// How many jobs, from the front, are written as a whole.
    written_jobs: usize,
    /// Written and not carried out.
    written: VecDeque<Vec<Sent>>,
    /// Carried out and not heard of.
    replies: VecDeque<Vec<(Sent, String)>>,
    unanswered_bytes: usize,
    /// Lines and answers keep their order.
    last_line: Duration,
    last_answer: Duration,
    progress: Duration,
}

struct Job {
    batch: Batch,
    wanted_at: Duration,
    written: usize,
    responses: Vec<Response>,
}

#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) text: String,
    /// None for the session's own look.
    pub(crate) request: Option<Request>,
    /// When the core wanted it: what happened since, it could not know.
    pub(crate) wanted_at: Duration,
    /// The server is made ready by what comes with it.
    pub(crate) is_readied: bool,
}

impl Sent {
    pub(crate) fn is_change(&self) -> bool {
        matches!(
            self.request,
            Some(Request::Change(_) | Request::ChangeMap(_))
        )
    }
}

impl Session {
    pub(crate) fn is_with(&self, pid: u32) -> bool {
        self.process.as_ref().is_some_and(|(of, _)| *of == pid)
    }
}

impl World {
    /// Nobody is connected: tries to be.
    pub(crate) fn connect(&mut self) {
        if self.sidecar.is_none() || self.session.process.is_some() {
            return;
        }
        if self.sabotage == Some(Sabotage::NoSecondStart) && self.last_pid > FIRST_PID {
            return;
        }
        let greeted = !self.random.chance(self.faults.connect_fails);
        let now = self.now;
        let answers = greeted && now >= self.stalled_until;
        let Some((pid, process)) = self.current().filter(|_| answers) else {
            return self.after(FIRST_RETRY, Event::Connect(self.generation));
        };
        process.count_connection();
        let text = process.execute(now, "show info");
        let Ok(Response::Info(info)) = reply::read(&Request::Info, text.as_bytes()) else {
            panic!("show info is read");
        };
        self.last_connection += 1;
        let number = self.last_connection;
        self.session = Session {
            number,
            process: Some((pid, info.clone())),
            last_line: self.now,
            last_answer: self.now,
            progress: self.now,
            ..Session::default()
        };
        self.book.trouble = self.now;
        self.trace(|| format!("connected to pid {pid}"));
        self.after(POLL, Event::Poll(number));
        self.input(Input::Connected(info));
    }

    pub(crate) fn push(&mut self, batch: Batch) {
        if self.session.process.is_none() {
            return self.after(Duration::ZERO, Event::Refused(self.generation, batch.id));
        }
        self.session.jobs.push_back(Job {
            responses: Vec::new(),
            written: 0,
            wanted_at: self.now,
            batch,
        });
        self.fill();
    }

    pub(crate) fn poll(&mut self) {
        if self.now.saturating_sub(self.session.progress) >= REPLY_DEADLINE
            && self.session.unanswered_bytes > 0
        {
            return self.cut("no answer for 5 s", None);
        }
        let number = self.session.number;
        self.after(POLL, Event::Poll(number));
        self.look();
    }

    fn look(&mut self) {
        let line = Sent {
            text: print(&Request::Info),
            request: None,
            wanted_at: self.now,
            is_readied: false,
        };
        self.write(vec![line]);
    }

    fn fill(&mut self) {
        let session = &mut self.session;
        let mut runs = Vec::new();
        let mut unanswered = session.unanswered_bytes;
        while let Some(job) = session.jobs.get_mut(session.written_jobs) {
            let run = next_run(&job.batch.requests[job.written..], job.wanted_at);
            if run.is_empty() {
                session.written_jobs += 1;
                continue;
            }
            let bytes: usize = run.iter().map(|line| line.text.len()).sum();
            let must_wait = job.batch.lock_step && job.responses.len() != job.written;
            if must_wait || (unanswered > 0 && unanswered + bytes > WINDOW) {
                break;
            }
            job.written += run.len();
            unanswered += bytes;
            runs.push(run);
        }
        for run in runs {
            self.write(run);
        }
    }

    fn write(&mut self, run: Vec<Sent>) {
        let latency = self.random.latency();
        let session = &mut self.session;
        if session.unanswered_bytes == 0 {
            session.progress = self.now;
        }
        session.unanswered_bytes += run.iter().map(|line| line.text.len()).sum::<usize>();
        session.written.push_back(run);
        session.last_line = session.last_line.max(self.now + latency);
        let (at, number) = (session.last_line, session.number);
        self.at(at, Event::Line(number));
    }

    /// HAProxy reads a run of lines and carries it out.
    pub(crate) fn carry_out(&mut self) {
        if self.now < self.stalled_until {
            let number = self.session.number;
            return self.at(self.stalled_until, Event::Line(number));
        }
        let Some(pid) = self.session.process.as_ref().map(|(pid, _)| *pid) else {
            return;
        };
        if !self.processes.contains_key(&pid) {
            return;
        }
        let Some(run) = self.session.written.pop_front() else {
            return;
        };
        let mut done = Vec::new();
        for line in run {
            let reply = self.execute(pid, &line);
            if self.session.process.is_none() {
                // The line was the last one.
                return;
            }
            done.push((line, reply));
            if self.random.chance(self.faults.cut_after_line) && done.len() > 1 {
                return self.cut("after a line", None);
            }
        }
        self.session.replies.push_back(done);
        let latency = self.random.latency();
        let session = &mut self.session;
        session.last_answer = session.last_answer.max(self.now + latency);
        let (at, number) = (session.last_answer, session.number);
        self.at(at, Event::Answer(number));
    }

    /// The answers to a run of lines arrive.
    pub(crate) fn answer(&mut self) {
        if self.random.chance(self.faults.answer_lost) {
            return self.cut("an answer is lost", None);
        }
        let Some(replies) = self.session.replies.pop_front() else {
            return;
        };
        self.session.progress = self.now;
        let number = self.session.number;
        for (line, reply) in replies {
            self.session.unanswered_bytes -= line.text.len();
            let Some(request) = line.request else {
                if let Err(why) = self.check_process(&reply) {
                    return self.cut(why, None);
                }
                continue;
            };
            let is_garbled = self.random.chance(self.faults.nonsense) || self.is_garbled(&request);
            let reply = if is_garbled {
                garbled(&reply, self.random.below(3))
            } else {
                reply.into_bytes()
            };
            let response = match self.understand(&request, &reply) {
                Ok(_) if is_garbled => {
                    let how = format!("{}{}", line.text, String::from_utf8_lossy(&reply));
                    return self.violated(UNDERSTOOD, &how);
                }
                Ok(response) => response,
                Err(error) => {
                    if !is_garbled {
                        self.violated(UNDERSTOOD, &format!("{}{error}", line.text));
                    }
                    self.note_failure(&request);
                    return self.cut("nonsense", Some(error.to_string()));
                }
            };
            if reply::may_be_stopping(&reply) {
                self.look();
            }
            self.note_answer(&request, &response);
            let Some(job) = self.session.jobs.front_mut() else {
                return;
            };
            job.responses.push(response);
            if job.responses.len() == job.batch.requests.len() {
                let job = self.session.jobs.pop_front().unwrap();
                self.session.written_jobs = self.session.written_jobs.saturating_sub(1);
                self.input(Input::Answered(job.batch.id, job.responses));
                self.knows_since.get_or_insert(self.now);
                if self.session.number != number || self.session.process.is_none() {
                    return;
                }
            }
        }
        self.fill();
    }

    /// Whether what HAProxy says to this comes otherwise than it said it.
    fn is_garbled(&mut self, request: &Request) -> bool {
        if let Request::Change(command) = request
            && self.faults.refusing.as_deref() == Some(command.backend().as_str())
        {
            return true;
        }
        let is_garbled = self.faults.garbled > 0;
        self.faults.garbled -= u64::from(is_garbled);
        is_garbled
    }

    /// Whether `show info` still tells of the process that was connected.
    fn check_process(&self, text: &str) -> Result<(), &'static str> {
        let (_, before) = self.session.process.as_ref().unwrap();
        let Ok(Response::Info(now)) = reply::read(&Request::Info, text.as_bytes()) else {
            panic!("show info is read");
        };
        if now.stopping {
            return Err("the process is stopping");
        }
        if !before.is_same_process(&now) {
            return Err("another process answers");
        }
        Ok(())
    }

    /// The connection ends. Of what was written HAProxy may yet carry out a beginning.
    pub(crate) fn cut(&mut self, why: &'static str, nonsense: Option<String>) {
        if self.is_stopped() {
            let number = self.session.number;
            return self.at(self.stopped_until, Event::Lost(number, why));
        }
        let Some((pid, _)) = self.session.process.take() else {
            return;
        };
        self.book.trouble = self.now;
        self.trace(|| format!("connection lost: {why}"));
        self.last_connection += 1;
        let none = Session {
            number: self.last_connection,
            ..Session::default()
        };
        let session = std::mem::replace(&mut self.session, none);
        let lines: Vec<Sent> = session.written.into_iter().flatten().collect();
        let carried_out = self.random.below(lines.len() + 1);
        for line in lines.into_iter().take(carried_out) {
            if self.processes.contains_key(&pid) {
                self.execute(pid, &line);
            }
        }
        if Some(pid) != self.current_pid && !self.is_spoken_to(pid) {
            self.processes.remove(&pid);
        }
        if self.sidecar.is_none() {
            return;
        }
        let mut nonsense = nonsense;
        let unfinished: Vec<BatchId> = session.jobs.iter().map(|job| job.batch.id).collect();
        for id in unfinished {
            let failure = nonsense
                .take()
                .map_or(Failure::ConnectionLost, Failure::NotUnderstood);
            self.input(Input::Failed(id, failure));
        }
        self.input(Input::Disconnected);
        let delay = self.random.millis(0, 60);
        self.after(delay, Event::Connect(self.generation));
    }

    /// A `No such server.` in answer to a plan means that it was made from something else than what HAProxy reports.
    fn note_answer(&mut self, request: &Request, response: &Response) {
        if let (Request::Change(command), Response::Changed(Outcome::RetryLater(text))) =
            (request, response)
            && text.starts_with("No such")
        {
            self.violated(
                FROM_WHAT_IT_REPORTS,
                &format!("what {command:?} is for is not there"),
            );
        }
    }
}

/// Other words, an end in the middle of a line, or bytes that are no text.
fn garbled(reply: &str, how: usize) -> Vec<u8> {
    match how {
        0 if reply.starts_with("1\n#") && reply.len() > 500 => {
            reply.as_bytes()[..reply.len() - 40].to_vec()
        }
        1 => b"\xff\xfe What a lovely day.\n".to_vec(),
        _ => b"What a lovely day.\n".to_vec(),
    }
}

/// Changes of one server that follow each other leave in one piece.
fn next_run(requests: &[Request], wanted_at: Duration) -> Vec<Sent> {
    let server = |request: &Request| match request {
        Request::Change(command) => command.server().cloned(),
        Request::Info
        | Request::Backends
        | Request::ServersState(_)
        | Request::Stat(..)
        | Request::Map(_)
        | Request::ChangeMap(_)
        | Request::Verdicts(..)
        | Request::BackendRows
        | Request::Guids => None,
    };
    let first = requests.first().map(server);
    let mut run = Vec::new();
    for request in requests {
        let goes_on = run.is_empty()
            || (first.as_ref().is_some_and(Option::is_some) && first == Some(server(request)));
        if !goes_on {
            break;
        }
        run.push(Sent {
            text: print(request),
            request: Some(request.clone()),
            wanted_at,
            is_readied: false,
        });
    }
    let mut is_readied = false;
    for line in run.iter_mut().rev() {
        is_readied |= matches!(line.request, Some(Request::Change(Command::Ready(_))));
        line.is_readied = is_readied;
    }
    run
}
