//! Requests and long sessions on their way through a process: which server is given one, over which connection, and what
//! of it shows in the counters. Time does not pass in here: the caller says when one begins and when it ends.

use std::{net::SocketAddr, time::Duration};

use super::{
    Line, Model,
    server::{STOPPED, Server},
};

/// A request, or a TCP session, of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// Tells it from all others.
    pub(crate) id: u64,
    /// The backend that its frontend chose.
    pub(crate) backend: &'a str,
    /// The persistence cookie that comes with it.
    pub(crate) cookie: Option<&'a str>,
    /// Its connection can be used again afterwards: not that of a TCP session, an upgrade, `Connection: close`.
    pub(crate) keeps_connection: bool,
    /// It may go over an idle connection, as the first request of a client may not with `http-reuse safe`.
    pub(crate) reuses: bool,
    /// Which of the servers that could have it, modulo their number.
    pub(crate) turn: usize,
}

/// Where a wish went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dispatch {
    /// The server.
    pub(crate) server: String,
    /// The cookie that its clients get.
    pub(crate) cookie: Option<String>,
    /// Where the connection leads.
    pub(crate) to: SocketAddr,
    /// Where the server is.
    pub(crate) address: SocketAddr,
    /// The server is drained: its cookie brought the request here.
    pub(crate) is_drained: bool,
    /// The server has no check, or it has passed, or the server is the file's own.
    pub(crate) is_admitted: bool,
}

/// What is under way on a server.
#[derive(Clone, Debug)]
pub(super) struct Session {
    id: u64,
    pub(super) since: Duration,
    to: SocketAddr,
    keeps_connection: bool,
}

/// A session that `shutdown sessions server` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Which.
    pub(crate) id: u64,
    /// When it had begun.
    pub(crate) since: Duration,
}

impl Model {
    /// A client's request arrives. None is a 503.
    pub(crate) fn open(&mut self, now: Duration, wish: &Wish<'_>) -> Option<Dispatch> {
        self.advance(now);
        self.connections += 1;
        let line = self.line;
        let mut backends = self.backends.iter_mut();
        let (_, servers) =
            backends.find(|(config, _)| config.name == wish.backend && !config.is_unpublished())?;
        let by_cookie = wish.cookie.and_then(|cookie| {
            servers.iter().position(|server| {
                server.cookie.as_deref() == Some(cookie) && server.serves_its_cookie()
            })
        });
        let at = by_cookie.or_else(|| by_turn(servers, wish.turn))?;
        let server = &mut servers[at];
        let idle = wish.reuses.then(|| server.take_idle(line)).flatten();
        let to = idle.unwrap_or(server.address);
        server.sessions.push(Session {
            id: wish.id,
            since: now,
            to,
            keeps_connection: wish.keeps_connection,
        });
        server.total_sessions += 1;
        Some(Dispatch {
            server: server.name.clone(),
            cookie: server.cookie.clone(),
            to,
            address: server.address,
            is_drained: server.in_drain(),
            is_admitted: server.check.is_none() || server.has_passed || server.is_operators(),
        })
    }

    /// It ends. False if it was ended before.
    pub(crate) fn close(&mut self, now: Duration, id: u64) -> bool {
        self.advance(now);
        let line = self.line;
        let servers = self.backends.iter_mut().flat_map(|(_, servers)| servers);
        for server in servers {
            let Some(at) = server.sessions.iter().position(|session| session.id == id) else {
                continue;
            };
            let session = server.sessions.remove(at);
            // Also when the server is somewhere else by now; and up to 3.2 when it is in maintenance.
            let stays = !server.in_maintenance() || line < Line(3, 4);
            if session.keeps_connection && stays {
                server.idle.push(session.to);
            }
            return true;
        }
        false
    }

    /// A request has come and gone: nothing is left of it but `stot`.
    pub(crate) fn count_session(&mut self, backend: &str, server: &str) {
        let (_, servers) = self
            .backends
            .iter_mut()
            .find(|(config, _)| config.name == backend)
            .expect("the backend exists");
        let server = servers.iter_mut().find(|one| one.name == server);
        server.expect("the server exists").total_sessions += 1;
    }

    /// What `shutdown sessions server` ended since this was asked last.
    pub(crate) fn take_cuts(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.cuts)
    }

    pub(super) fn shutdown_sessions(&mut self, backend: usize, server: usize) -> String {
        let server = &mut self.backends[backend].1[server];
        let ended = server.sessions.drain(..).map(|session| Cut {
            id: session.id,
            since: session.since,
        });
        self.cuts.extend(ended);
        String::new()
    }
}

impl Server {
    /// A client that has its cookie is sent to it: drain and weight 0 do not matter.
    pub(super) fn serves_its_cookie(&self) -> bool {
        self.cookie.is_some() && !self.in_maintenance() && self.oper != STOPPED
    }

    /// An idle connection: from 2.8 on only one that leads to where the server is, while one that does not is closed.
    fn take_idle(&mut self, line: Line) -> Option<SocketAddr> {
        let fits = |to: &SocketAddr| line < Line(2, 8) || *to == self.address;
        let Some(at) = self.idle.iter().position(fits) else {
            self.idle.pop();
            return None;
        };
        Some(self.idle.remove(at))
    }
}

/// Of the servers in rotation, backups only when there are no others.
fn by_turn(servers: &[Server], turn: usize) -> Option<usize> {
    let able = |backup: bool| -> Vec<usize> {
        let servers = servers.iter().enumerate();
        let able = servers.filter(|(_, one)| one.in_rotation() && one.backup == backup);
        able.map(|(at, _)| at).collect()
    };
    let mut from = able(false);
    if from.is_empty() {
        from = able(true);
        // Without `option allbackups` the first one has it all.
        from.truncate(1);
    }
    (!from.is_empty()).then(|| from[turn % from.len()])
}
