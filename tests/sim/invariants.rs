//! The invariants as laws, by number, and those of them that are judged at the lines and answers of the session: 11, 12, 13.

use haproxy_nomad_sidecar::{
    haproxy::reply::{self, UnknownReply},
    model::{Outcome, Request, Response},
};

use crate::{sabotage::Sabotage, session::Sent, world::World};

pub(crate) const FROM_WHAT_IT_REPORTS: &str = "(1) plans are made from what HAProxy reports";
pub(crate) const FOREIGN: &str = "(2) foreign servers are never touched";
pub(crate) const OPERATORS: &str = "(2) what an operator did stays";
pub(crate) const NOTHING_REMOVED: &str = "(3) losing Nomad removes nothing";
pub(crate) const NOTHING_TO_DO: &str = "(4) nothing is written when nothing is to do";
pub(crate) const RIGHT_AGAIN: &str = "(5) everything becomes right again";
pub(crate) const VALIDATED: &str = "(11) no byte of the catalog reaches the socket unvalidated";
pub(crate) const UNDERSTOOD: &str = "(12) every answer is understood or is a failure";
pub(crate) const ONE_IN_CHARGE: &str = "(13) one sidecar is in charge";
pub(crate) const OTHERS_GO_ON: &str = "(13) one backend cannot hurt another";

/// A word of a line: a name, a number, an address.
fn is_word(word: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-/[]@".contains(c);
    !word.is_empty() && word.chars().all(is_allowed)
}

/// What a sidecar may ever say, word by word; `*` is one word, and `…` any number of them.
const FORMS: [&str; 23] = [
    "show …",
    "set server * addr * port *",
    "set server * state ready",
    "set server * state drain",
    "set server * state maint",
    "set server * health down",
    "set server * weight *",
    "set maxconn server * *",
    "enable health *",
    "add server * * …",
    "del server *",
    "shutdown sessions server *",
    "dump stats-file",
    "add backend * from * guid *",
    "publish backend *",
    "unpublish backend *",
    "del backend *",
    "add map * * *",
    "add map * * * *",
    "set map * * *",
    "del map * *",
    "prepare map *",
    "commit map * *",
];

/// Whether it is one line of a known form, of harmless words.
fn is_harmless(line: &str) -> bool {
    let Some(text) = line.strip_suffix('\n') else {
        return false;
    };
    let all = text.split(' ');
    all.clone().all(is_word)
        && FORMS.iter().any(|form| {
            let mut words = all.clone();
            for expected in form.split(' ') {
                if expected == "…" {
                    return true;
                }
                let Some(word) = words.next() else {
                    return false;
                };
                if expected != "*" && expected != word {
                    return false;
                }
            }
            words.next().is_none()
        })
}

impl World {
    /// A line reaches HAProxy.
    pub(crate) fn judge_line(&mut self, line: &Sent) {
        if self.sidecar.is_some() && !self.is_in_charge() && line.is_change() {
            self.violated(ONE_IN_CHARGE, &line.text);
        }
        if !is_harmless(&line.text) {
            self.violated(VALIDATED, &format!("{:?}", line.text));
        }
        self.judge_arrival(line);
        match &line.request {
            Some(Request::Change(command)) => {
                let backend = command.backend().as_str();
                let since = self.book.not_understood.get(backend);
                if since.is_some_and(|since| line.wanted_at > *since) {
                    let how = format!("{:?}, and what became of another is not known", line.text);
                    self.violated(UNDERSTOOD, &how);
                }
            }
            Some(Request::ServersState(None)) => self.book.not_understood.clear(),
            Some(Request::ServersState(Some(backend))) => {
                self.book.not_understood.remove(backend.as_str());
            }
            Some(
                Request::Info
                | Request::Backends
                | Request::Stat(..)
                | Request::BackendRows
                | Request::Guids
                | Request::Verdicts(..)
                | Request::Map(_)
                | Request::ChangeMap(_),
            )
            | None => {}
        }
    }

    /// A client is answered 503, for want of a server.
    pub(crate) fn judge_refusal(&mut self, backend: &str) {
        if self.matrix.is_whole {
            self.violated(RIGHT_AGAIN, &format!("nobody serves {backend}"));
        }
    }

    /// The product's reading of an answer, or the sabotage's.
    pub(crate) fn understand(
        &self,
        request: &Request,
        reply: &[u8],
    ) -> Result<Response, UnknownReply> {
        match (reply::read(request, reply), request) {
            (Err(_), Request::Change(_)) if self.sabotage == Some(Sabotage::AllIsUnderstood) => {
                Ok(Response::Changed(Outcome::Done))
            }
            (response, _) => response,
        }
    }

    /// What became of a change is not known, until its backend is read.
    pub(crate) fn note_failure(&mut self, request: &Request) {
        if let Request::Change(command) = request {
            let backend = command.backend().to_string();
            self.book.not_understood.insert(backend, self.now);
        }
    }
}

#[test]
fn a_line_of_bad_words_is_told_from_a_good_one() {
    for good in [
        "show servers state web\n",
        "show stat -1 2 -1\n",
        "dump stats-file\n",
        "add backend web from nomad guid nomad:web\n",
        "set server web/nomad1 addr 10.0.0.1 port 80\n",
        "add server shop/nomad-0-0 [::1]:80 check inter 2000ms\n",
    ] {
        assert!(is_harmless(good), "{good}");
    }
    for bad in [
        "set server web/nomad1 state maint; shutdown frontend fe\n",
        "set server web/nomad1 weight 1\nshutdown frontend fe\n",
        "set server web/nomad1 state ready now\n",
        "shutdown frontend fe\n",
        "set server web/nomad1 fqdn evil\n",
        "add server shop/<< 10.0.0.1:80\n",
        "show info",
    ] {
        assert!(!is_harmless(bad), "{bad}");
    }
}
