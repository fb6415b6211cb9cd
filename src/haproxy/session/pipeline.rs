//! What is to be written, what was, and whose each answer is. No socket, no clock: bytes go in and out.
//!
//! Answers come in the order of the requests, each ended by a prompt. At most a window of bytes is unanswered, so that
//! neither HAProxy's buffer nor the kernel's ever fills up and HAProxy stays free for its traffic in between.

use std::{collections::VecDeque, mem};

use memchr::memchr2;
use tokio_util::bytes::{Buf, BytesMut};

use super::error::SessionError;
use crate::{
    haproxy::{command::print, parse::shown, reply},
    model::{Batch, BatchId, ProcessInfo, Request, Response},
};

/// What ends each answer.
pub(super) const PROMPT: &[u8] = b"\n> ";

/// The longest answer that is taken. `show servers state` of 10,000 servers has 0.7 MB.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Pipeline {
    /// The process that every `show info` must tell of.
    process: ProcessInfo,
    /// At most so many bytes are unanswered.
    window: usize,
    /// In the order they came, until answered.
    jobs: VecDeque<Job>,
    /// How many jobs, from the front, are written as a whole.
    written_jobs: usize,
    /// The lines that are written next, of the first job that is not written as a whole.
    next_run: Vec<String>,
    /// What is written and not answered.
    unanswered: VecDeque<Sent>,
    unanswered_bytes: usize,
    poll_wanted: bool,
    output: BytesMut,
    input: BytesMut,
    /// How much of `input` was looked through for a prompt.
    scanned: usize,
    /// Whether the scan is within quotes.
    quoted: bool,
}

#[derive(Debug)]
struct Job {
    batch: Batch,
    /// How many of its requests are written.
    written: usize,
    responses: Vec<Response>,
}

#[derive(Debug)]
struct Sent {
    /// The session's own `show info`, or the next request of the first job.
    is_poll: bool,
    bytes: usize,
}

/// A batch that is answered as a whole.
pub(super) type Answered = (BatchId, Vec<Response>);

/// A batch that will not be answered, with what was.
pub(super) type Unfinished = (BatchId, Vec<Response>, SessionError);

impl Pipeline {
    pub(super) fn new(process: ProcessInfo, window: usize) -> Self {
        Self {
            process,
            window,
            jobs: VecDeque::new(),
            written_jobs: 0,
            next_run: Vec::new(),
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            poll_wanted: false,
            output: BytesMut::new(),
            input: BytesMut::new(),
            scanned: 0,
            quoted: false,
        }
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.jobs.push_back(Job {
            responses: Vec::with_capacity(batch.requests.len()),
            written: 0,
            batch,
        });
    }

    /// Asks for the process's state before anything else is written. Asking again before the answer changes nothing.
    pub(super) fn poll(&mut self) {
        self.poll_wanted = true;
    }

    /// How many batches are not answered.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_answer_due(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// What the socket sent goes to its end.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// What is to be sent. Moves on whatever the window has room for.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        self.fill();
        &mut self.output
    }

    fn fill(&mut self) {
        let poll_is_due = self.poll_wanted && !self.unanswered.iter().any(|sent| sent.is_poll);
        if poll_is_due {
            let line = print(&Request::Info);
            if !self.has_room(line.len()) {
                return;
            }
            self.poll_wanted = false;
            self.send(true, &line);
        }
        while let Some(job) = self.jobs.get_mut(self.written_jobs) {
            if self.next_run.is_empty() {
                self.next_run = next_run(&job.batch.requests[job.written..], self.window);
            }
            if self.next_run.is_empty() {
                self.written_jobs += 1;
                continue;
            }
            let is_answered = job.responses.len() == job.written;
            let must_wait = job.batch.lock_step && !is_answered;
            if must_wait || !self.has_room(self.next_run.iter().map(String::len).sum()) {
                return;
            }
            let lines = mem::take(&mut self.next_run);
            self.jobs[self.written_jobs].written += lines.len();
            for line in lines {
                self.send(false, &line);
            }
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.unanswered.is_empty() || self.unanswered_bytes + bytes <= self.window
    }

    fn send(&mut self, is_poll: bool, line: &str) {
        let bytes = line.len();
        self.output.extend_from_slice(line.as_bytes());
        self.unanswered.push_back(Sent { is_poll, bytes });
        self.unanswered_bytes += bytes;
    }

    /// The next batch that what was received answers, if it suffices for one.
    pub(super) fn answer(&mut self) -> Result<Option<Answered>, SessionError> {
        loop {
            if self.jobs.front().is_some_and(Job::is_answered) {
                self.written_jobs = self.written_jobs.saturating_sub(1);
                return Ok(self
                    .jobs
                    .pop_front()
                    .map(|job| (job.batch.id, job.responses)));
            }
            let Some(sent) = self.unanswered.front() else {
                if self.input.is_empty() {
                    return Ok(None);
                }
                return Err(SessionError::Unasked(shown(&self.input)));
            };
            let request = match self.jobs.front() {
                Some(job) if !sent.is_poll => &job.batch.requests[job.responses.len()],
                _ => &Request::Info,
            };
            let has_quotes = matches!(request, Request::Stat(..) | Request::BackendRows);
            let Some(end) = find_prompt(
                &self.input,
                &mut self.scanned,
                has_quotes.then_some(&mut self.quoted),
            ) else {
                if self.input.len() > MAX_ANSWER {
                    return Err(SessionError::TooLong(MAX_ANSWER));
                }
                return Ok(None);
            };
            let reply = self.input.split_to(end);
            self.input.advance(PROMPT.len());
            self.scanned = 0;
            let response = reply::read(request, &reply)?;
            if reply::may_be_stopping(&reply) {
                self.poll_wanted = true;
            }
            if let Response::Info(info) = &response {
                check(&self.process, info)?;
                self.process = info.clone();
            }
            if let Some(sent) = self.unanswered.pop_front() {
                self.unanswered_bytes -= sent.bytes;
                if let Some(job) = self.jobs.front_mut().filter(|_| !sent.is_poll) {
                    job.responses.push(response);
                }
            }
        }
    }

    /// Gives up every batch. The one whose answer was due gets the error itself.
    pub(super) fn give_up(&mut self, error: &SessionError) -> Vec<Unfinished> {
        let mut culprit = self
            .unanswered
            .front()
            .filter(|sent| !sent.is_poll)
            .map(|_| error.clone());
        self.next_run.clear();
        mem::take(&mut self.jobs)
            .into_iter()
            .map(|job| {
                let error = culprit.take().unwrap_or(SessionError::Abandoned);
                (job.batch.id, job.responses, error)
            })
            .collect()
    }
}

impl Job {
    fn is_answered(&self) -> bool {
        self.responses.len() == self.batch.requests.len()
    }
}

/// The lines that must be written at once: changes of one server that follow each other. HAProxy then makes them without
/// a request in between. A run that is longer than the window is cut there.
fn next_run(requests: &[Request], window: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut bytes = 0;
    for request in requests {
        if !lines.is_empty() && !is_same_server(&requests[0], request) {
            break;
        }
        let line = print(request);
        bytes += line.len();
        if !lines.is_empty() && bytes > window {
            break;
        }
        lines.push(line);
    }
    lines
}

fn is_same_server(one: &Request, other: &Request) -> bool {
    matches!(
        (one, other),
        (Request::Change(one), Request::Change(other))
            if one.server().is_some() && one.server() == other.server()
    )
}

/// Where the first answer in `input` ends. With `quoted`, a prompt in quotes is no end: the words of a server's check can
/// stand there with their line feeds (see `parse::stat`).
fn find_prompt(input: &[u8], scanned: &mut usize, mut quoted: Option<&mut bool>) -> Option<usize> {
    loop {
        let rest = &input[*scanned..];
        let Some(next) = memchr2(b'\n', b'"', rest) else {
            *scanned = input.len();
            return None;
        };
        let rest = &rest[next..];
        *scanned += next;
        match (rest[0], &mut quoted) {
            (b'"', Some(quoted)) => **quoted = !**quoted,
            (b'"', None) => {}
            (_, Some(quoted)) if **quoted => {}
            (_, _) => {
                if rest.starts_with(PROMPT) {
                    return Some(*scanned);
                }
                if rest.len() < PROMPT.len() {
                    return None;
                }
            }
        }
        *scanned += 1;
    }
}

fn check(process: &ProcessInfo, now: &ProcessInfo) -> Result<(), SessionError> {
    if now.stopping {
        return Err(SessionError::Stopping);
    }
    if !process.is_same_process(now) {
        return Err(SessionError::Replaced);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{BackendName, Command, Outcome, ServerName, ServerRef, Version};

    const WINDOW: usize = 200;

    fn process() -> ProcessInfo {
        ProcessInfo {
            version: Version::new(3, 2, 0),
            version_text: "3.2.0".to_owned(),
            pid: 1,
            start_time: 1,
            uptime: 1,
            connections: 1,
            stopping: false,
        }
    }

    fn info(pid: u64, stopping: u8) -> String {
        format!(
            "Name: HAProxy\nVersion: 3.2.0\nPid: {pid}\nUptime_sec: 1\nCumConns: 1\nStopping: {stopping}\n\
             Start_time_sec: 1\n"
        )
    }

    fn pipeline() -> Pipeline {
        Pipeline::new(process(), WINDOW)
    }

    fn server(name: &str) -> ServerRef {
        ServerRef {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new(name).unwrap(),
        }
    }

    fn admit(name: &str) -> [Request; 3] {
        [Command::Drain, Command::HealthDown, Command::Ready]
            .map(|command| Request::Change(command(server(name))))
    }

    fn batch(id: u64, requests: impl Into<Arc<[Request]>>) -> Batch {
        Batch {
            id: BatchId(id),
            requests: requests.into(),
            lock_step: false,
        }
    }

    /// What is written now.
    fn written(pipeline: &mut Pipeline) -> String {
        String::from_utf8(pipeline.output().split().to_vec()).unwrap()
    }

    fn receive(
        pipeline: &mut Pipeline,
        text: impl AsRef<[u8]>,
    ) -> Result<Option<Answered>, SessionError> {
        pipeline.input().extend_from_slice(text.as_ref());
        pipeline.answer()
    }

    #[test]
    fn changes_of_one_server_leave_in_one_piece() {
        let mut pipeline = pipeline();
        pipeline.push(batch(1, [admit("a"), admit("b"), admit("c")].concat()));
        let first = written(&mut pipeline);
        assert_eq!(first.lines().count(), 6);
        assert!(first.ends_with("set server web/b state ready\n"));
        assert_eq!(written(&mut pipeline), "");
        assert!(receive(&mut pipeline, "\n> \n> ").unwrap().is_none());
        assert_eq!(written(&mut pipeline), "");
        assert!(receive(&mut pipeline, "\n> ").unwrap().is_none());
        assert_eq!(written(&mut pipeline).lines().count(), 3);
        let answers = receive(&mut pipeline, "\n> ".repeat(6)).unwrap();
        let done = Response::Changed(Outcome::Done);
        assert_eq!(answers, Some((BatchId(1), vec![done; 9])));
    }

    #[test]
    fn in_lock_step_a_server_is_finished_before_the_next() {
        let mut pipeline = pipeline();
        pipeline.push(Batch {
            lock_step: true,
            ..batch(1, [admit("a"), admit("b")].concat())
        });
        pipeline.push(batch(2, [Request::Info]));
        assert_eq!(written(&mut pipeline).lines().count(), 3);
        assert!(receive(&mut pipeline, "\n> \n> ").unwrap().is_none());
        assert_eq!(written(&mut pipeline), "");
        assert!(receive(&mut pipeline, "\n> ").unwrap().is_none());
        assert_eq!(
            written(&mut pipeline),
            "set server web/b state drain\nset server web/b health down\nset server web/b state ready\nshow info\n"
        );
    }

    #[test]
    fn a_poll_goes_first_and_is_nobodys_answer() {
        let mut pipeline = pipeline();
        pipeline.push(batch(1, admit("a")));
        pipeline.poll();
        assert!(written(&mut pipeline).starts_with("show info\nset server web/a state drain\n"));
        pipeline.poll();
        assert_eq!(written(&mut pipeline), "");
        let answers = info(1, 0) + "\n> \n> \n> \n> ";
        assert_eq!(receive(&mut pipeline, answers).unwrap().unwrap().1.len(), 3);
        assert_eq!(written(&mut pipeline), "show info\n");
        assert!(pipeline.is_answer_due());
    }

    #[test]
    fn a_process_that_stops_or_is_another_ends_it() {
        for (answer, text) in [
            (
                info(1, 1),
                "this HAProxy process is stopping (reloaded or shut down)",
            ),
            (info(2, 0), "another HAProxy process answers now"),
        ] {
            let mut pipeline = pipeline();
            pipeline.poll();
            pipeline.push(batch(1, admit("a")));
            written(&mut pipeline);
            let error = receive(&mut pipeline, answer + "\n> ").unwrap_err();
            assert_eq!(error.to_string(), text);
            let unfinished = pipeline.give_up(&error);
            assert!(matches!(
                &unfinished[..],
                [(BatchId(1), _, SessionError::Abandoned)]
            ));
        }
    }

    #[test]
    fn an_unknown_word_is_the_failure_of_its_batch_alone() {
        let mut pipeline = pipeline();
        pipeline.push(batch(1, admit("a")));
        pipeline.push(batch(2, admit("b")));
        written(&mut pipeline);
        let error = receive(&mut pipeline, "\n> what?\n\n> ").unwrap_err();
        let unfinished = pipeline.give_up(&error);
        assert!(matches!(
            &unfinished[..],
            [
                (BatchId(1), answered, SessionError::UnknownReply(_)),
                (BatchId(2), none, SessionError::Abandoned),
            ] if answered.len() == 1 && none.is_empty()
        ));
    }

    #[test]
    fn a_disabled_proxy_is_looked_into_at_once() {
        let mut pipeline = pipeline();
        pipeline.push(batch(1, [admit("a")[0].clone()]));
        written(&mut pipeline);
        let answered = receive(&mut pipeline, "Proxy is disabled.\n\n> ").unwrap();
        assert!(matches!(
            &answered.unwrap().1[..],
            [Response::Changed(Outcome::RetryLater(_))]
        ));
        assert_eq!(written(&mut pipeline), "show info\n");
    }

    #[test]
    fn a_prompt_in_the_words_of_a_check_ends_nothing() {
        let stat = "# pxname,svname,qcur,scur,slim,stot,last_chk,srv_icur,\nweb,a,0,0,,0,\"no\n> \"\"\n> \",0,\n";
        for piece in 1..9 {
            let mut pipeline = pipeline();
            pipeline.push(batch(
                1,
                [Request::Stat(BackendName::new("web").unwrap(), None)],
            ));
            written(&mut pipeline);
            let bytes = [stat, "\n> "].concat().into_bytes();
            let mut answered = None;
            for chunk in bytes.chunks(piece) {
                assert!(answered.is_none());
                answered = receive(&mut pipeline, chunk).unwrap();
            }
            assert!(matches!(&answered.unwrap().1[..], [Response::Stat(_)]));
        }
    }

    #[test]
    fn what_nobody_asked_for_ends_it() {
        let mut pipeline = pipeline();
        pipeline.push(batch(1, []));
        assert_eq!(pipeline.answer().unwrap(), Some((BatchId(1), vec![])));
        assert_eq!(
            receive(&mut pipeline, "\n> ").unwrap_err().to_string(),
            r#"HAProxy said "\n> " unasked"#
        );
    }

    proptest! {
        #[test]
        fn whatever_the_load_answers_are_told_apart_and_the_window_holds(
            // The servers that are changed, by batch; whether in lock step.
            batches in proptest::collection::vec((proptest::collection::vec(0..4_u8, 0..9), any::<bool>()), 0..6),
            chunks in proptest::collection::vec(1..9_usize, 1..20),
            polls: u8,
        ) {
            let mut pipeline = pipeline();
            for (id, (servers, lock_step)) in (0..).zip(&batches) {
                let requests = servers.iter().flat_map(|n| admit(&format!("s{n}"))).collect::<Vec<_>>();
                pipeline.push(Batch { lock_step: *lock_step, ..batch(id, requests) });
            }
            let (mut unanswered, mut answers) = (0, Vec::new());
            let mut finished = Vec::new();
            let mut sizes = chunks.iter().cycle();
            for step in 0_u32.. {
                if u32::from(polls) > step {
                    pipeline.poll();
                }
                let text = written(&mut pipeline);
                unanswered += text.len();
                prop_assert!(unanswered <= WINDOW);
                prop_assert!(text.is_empty() || text.ends_with("state ready\n") || text.ends_with("info\n"));
                for line in text.lines() {
                    let mut answer = if line == "show info" { info(1, 0) } else { String::new() };
                    answer.push_str("\n> ");
                    answers.push((answer, line.len() + 1));
                }
                if answers.is_empty() {
                    break;
                }
                for (answer, bytes) in answers.drain(..) {
                    unanswered -= bytes;
                    for chunk in answer.as_bytes().chunks(*sizes.next().unwrap()) {
                        if let Some((id, responses)) = receive(&mut pipeline, chunk).unwrap() {
                            finished.push((id.0, responses.len()));
                        }
                    }
                }
            }
            while let Some((id, responses)) = pipeline.answer().unwrap() {
                finished.push((id.0, responses.len()));
            }
            let expected: Vec<_> = (0..).zip(batches.iter().map(|(servers, _)| 3 * servers.len())).collect();
            prop_assert_eq!(finished, expected);
        }
    }
}
