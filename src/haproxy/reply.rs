//! What HAProxy's words mean. Every text was met in HAProxy 2.6 to 3.4 or stands in their source; one that is not known
//! is an error, never a guess.
//!
//! The final line feed is not told apart: 2.6 leaves it out after some answers. Source: management guide, section 9.3,
//! and `src/server.c`, `src/cli.c` of HAProxy.

use super::parse::{self, ParseError};
use crate::model::{Command, MapChange, Outcome, Request, Response};

/// An answer that does not tell what became of the request. What it asked for may or may not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownReply {
    /// The socket is not of `level admin`.
    #[error("HAProxy denies {0}: the stats socket is not of `level admin`")]
    Denied(&'static str),
    /// A text that is not known.
    #[error("the answer to {request} is not understood: {text:?}")]
    Text {
        /// The kind of request.
        request: &'static str,
        /// The beginning of the answer.
        text: String,
    },
    /// A dump that cannot be read.
    #[error("the answer to {request} cannot be read")]
    Dump {
        /// The kind of request.
        request: &'static str,
        /// Why.
        source: ParseError,
    },
}

/// Reads the whole answer to `request`, without the prompt that ends it.
pub fn read(request: &Request, reply: &[u8]) -> Result<Response, UnknownReply> {
    let unreadable = |source| UnknownReply::Dump {
        request: kind(request),
        source,
    };
    let words = reply.trim_ascii_end();
    match request {
        Request::Info => parse::info(reply).map(Response::Info).map_err(unreadable),
        Request::Backends => parse::backends(reply)
            .map(Response::Backends)
            .map_err(unreadable),
        Request::ServersState(Some(_)) if words == b"Can't find backend." => {
            Ok(Response::NoSuchBackend)
        }
        Request::ServersState(_) => parse::servers_state(reply)
            .map(Response::Servers)
            .map_err(unreadable),
        Request::Stat(..) | Request::Verdicts(..) if words == b"No such proxy." => {
            Ok(Response::NoSuchBackend)
        }
        Request::Stat(backend, _) => parse::stat(reply, backend)
            .map(|stat| stat.map_or(Response::NoSuchBackend, Response::Stat))
            .map_err(unreadable),
        Request::BackendRows => parse::backend_rows(reply)
            .map(Response::BackendRows)
            .map_err(unreadable),
        Request::Guids => parse::guids(reply).map(Response::Guids).map_err(unreadable),
        Request::Verdicts(backend, _) => parse::verdicts(reply, backend)
            .map(Response::Verdicts)
            .map_err(unreadable),
        Request::Change(_) | Request::Map(_) | Request::ChangeMap(_)
            if words == b"Permission denied" =>
        {
            Err(UnknownReply::Denied(kind(request)))
        }
        Request::Map(_) if words == NO_SUCH_MAP.as_bytes() => Ok(Response::NoSuchMap),
        Request::Map(_) => parse::map(reply).map(Response::Map).map_err(unreadable),
        Request::ChangeMap(change) => map_change(change, &String::from_utf8_lossy(words))
            .ok_or_else(|| UnknownReply::Text {
                request: kind(request),
                text: parse::shown(words),
            }),
        Request::Change(command) => outcome(command, &String::from_utf8_lossy(words))
            .map(Response::Changed)
            .ok_or_else(|| UnknownReply::Text {
                request: kind(request),
                text: parse::shown(words),
            }),
    }
}

/// Whether the answer is what a process on its way out says to most changes. A backend that the configuration disables
/// says it too, so only `show info` can tell.
#[must_use]
pub fn may_be_stopping(reply: &[u8]) -> bool {
    reply.trim_ascii_end() == DISABLED.as_bytes()
}

const DISABLED: &str = "Proxy is disabled.";

const NO_SUCH_MAP: &str = "Unknown map identifier. Please use #<id> or <file>.";

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Info => "show info",
        Request::Backends => "show backend",
        Request::ServersState(_) => "show servers state",
        Request::Stat(..) | Request::Verdicts(..) | Request::BackendRows => "show stat",
        Request::Guids => "dump stats-file",
        Request::Map(_) => "show map",
        Request::ChangeMap(change) => change.verb(),
        Request::Change(command) => match command {
            Command::SetAddress(..) => "set server addr",
            Command::Ready(_) | Command::Drain(_) | Command::Maintenance(_) => "set server state",
            Command::HealthDown(_) => "set server health",
            Command::EnableHealth(_) => "enable health",
            Command::EnableAgent(_) => "enable agent",
            Command::DisableAgent(_) => "disable agent",
            Command::SetWeight(..) => "set server weight",
            Command::SetMaxconn(..) => "set maxconn server",
            Command::AddServer(..) => "add server",
            Command::DeleteServer(_) => "del server",
            Command::ShutdownSessions(_) => "shutdown sessions server",
            Command::AddBackend(..) => "add backend",
            Command::PublishBackend(_) => "publish backend",
            Command::UnpublishBackend(_) => "unpublish backend",
            Command::DeleteBackend(_) => "del backend",
        },
    }
}

fn outcome(command: &Command, text: &str) -> Option<Outcome> {
    let retry = || Some(Outcome::RetryLater(text.to_owned()));
    let refused = || Some(Outcome::Refused(text.to_owned()));
    // Somebody else changed HAProxy, or replaces it: what is there must be read again.
    if ["No such backend.", "No such server.", DISABLED].contains(&text) {
        return retry();
    }
    match command {
        Command::SetAddress(..) => address_outcome(text),
        Command::AddServer(..) => match text {
            "Already exists a server with the same name in backend." => retry(),
            _ if is_refused_server(text) => refused(),
            _ => last_line_says(text, "New server registered."),
        },
        Command::DeleteServer(_) => match text {
            "Only servers in maintenance mode can be deleted."
            | "Server still has connections attached to it, cannot remove it." => retry(),
            "This server cannot be removed at runtime due to other configuration elements pointing to it."
            | EXPERIMENTAL => refused(),
            _ => last_line_says(text, "Server deleted."),
        },
        Command::AddBackend(..) if text == "New backend registered." => Some(Outcome::Done),
        // It is there, but takes no servers.
        Command::AddBackend(..) if text.starts_with("New backend registered (") => {
            Some(Outcome::Notice(text.to_owned()))
        }
        Command::AddBackend(..) if is_refused_backend(text) => refused(),
        Command::AddBackend(..) => None,
        Command::PublishBackend(_) | Command::UnpublishBackend(_) => match text {
            "Backend published." | "Backend unpublished." => Some(Outcome::Done),
            "No effect on a disabled backend." => refused(),
            _ => None,
        },
        Command::DeleteBackend(_) => match text {
            "Backend must be unpublished prior to its deletion."
            | "Only a backend without server can be deleted."
            | "Backend still has attached streams on it." => retry(),
            "This proxy cannot be removed at runtime due to other configuration elements pointing to it."
            | "Only TCP or HTTP proxies can be removed at runtime." => refused(),
            _ => last_line_says(text, "Backend deleted."),
        },
        Command::Ready(_)
        | Command::Drain(_)
        | Command::Maintenance(_)
        | Command::HealthDown(_)
        | Command::EnableHealth(_)
        | Command::EnableAgent(_)
        | Command::DisableAgent(_)
        | Command::SetWeight(..)
        | Command::SetMaxconn(..)
        | Command::ShutdownSessions(_) => match text {
            "" => Some(Outcome::Done),
            "cannot change health on a tracking server."
            | "Health check was not configured on this server, cannot enable."
            | "Agent was not configured on this server, cannot enable."
            | "Absolute weight can only be between 0 and 256 inclusive."
            | "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'." => {
                refused()
            }
            _ => None,
        },
    }
}

/// What became of the change of a map. Whatever is gone was taken away by somebody else: it must be read again.
fn map_change(change: &MapChange, text: &str) -> Option<Response> {
    let changed = |outcome| Some(Response::Changed(outcome));
    match (change, text) {
        (MapChange::Prepare(_), _) if text != NO_SUCH_MAP => {
            let version = text.strip_prefix("New version created: ")?;
            version.parse().ok().map(Response::MapVersion)
        }
        (_, "") => changed(Outcome::Done),
        (_, NO_SUCH_MAP)
        | (MapChange::Set(..), "entry not found." | "key or pattern not found.")
        | (MapChange::Delete(..), "Key not found." | "key or pattern not found.")
        | (
            MapChange::AddTo(..),
            "Version number in the future, please use 'prepare map' before."
            | "Version number out of range.",
        )
        | (MapChange::Commit(..), "Version number out of range.") => {
            changed(Outcome::RetryLater(text.to_owned()))
        }
        // Such a word cannot stand in such a map: `regex '…' is invalid (error=…)`.
        (MapChange::Add(..) | MapChange::AddTo(..), _)
            if text.starts_with("regex '") && text.contains("' is invalid (error=") =>
        {
            changed(Outcome::Refused(text.to_owned()))
        }
        (_, _) => None,
    }
}

/// Up to 2.5, where dynamic servers were experimental.
const EXPERIMENTAL: &str = "This command is restricted to experimental mode only.";

/// Whether `add server` said why such a server cannot be in such a backend.
fn is_refused_server(text: &str) -> bool {
    text == EXPERIMENTAL
        || [
            "Backend must use a dynamic load balancing to support dynamic servers.",
            "Backend does not support dynamic servers",
            "verify is enabled by default but no CA file specified.",
            "unknown keyword '",
            "weight of server ",
            "MUX protocol is not usable for server",
            "unable to ",
            "error detected while parsing ",
        ]
        .iter()
        .any(|beginning| text.starts_with(beginning))
        || is_refused_keyword(text)
        || is_missing_section(text)
        || text.ends_with("' option is not accepted for dynamic server.")
        || text.ends_with("' option is not accepted for dynamic server")
}

/// Whether `add backend` said why there can be no such backend.
fn is_refused_backend(text: &str) -> bool {
    [
        "Cannot find default proxy '",
        "Mode is required as '",
        "Error during backend creation : ",
        "Dynamic backends only support TCP or HTTP mode, ",
    ]
    .iter()
    .any(|beginning| text.starts_with(beginning))
}

/// `'ca-file' : unable to load /x.`, and what else is said of a keyword's value.
fn is_refused_keyword(text: &str) -> bool {
    let said = text
        .strip_prefix('\'')
        .and_then(|rest| rest.split_once('\''));
    said.is_some_and(|(keyword, said)| {
        keyword
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && said.starts_with(" : ")
    })
}

/// `parsing [(null):0]: healthcheck section '*healthcheck-x' not found for server 's'.`
fn is_missing_section(text: &str) -> bool {
    text.starts_with("parsing [") && text.contains("]: healthcheck section '")
}

/// The answers that follow what the process has to say besides: it is in the last line whether the change was made.
fn last_line_says(text: &str, done: &str) -> Option<Outcome> {
    let remarks = text.strip_suffix(done)?;
    match remarks.trim() {
        "" => Some(Outcome::Done),
        // Not the end of another sentence.
        remark if remarks.ends_with('\n') => Some(Outcome::Notice(remark.to_owned())),
        _ => None,
    }
}

/// `IP changed from '…' to '…', no need to change the port by 'stats socket command'` and its kin.
fn address_outcome(text: &str) -> Option<Outcome> {
    if text.starts_with("Update for the current server address family is only supported")
        || text.starts_with("Invalid addr '")
    {
        return Some(Outcome::Refused(text.to_owned()));
    }
    let changes = text
        .strip_suffix(" by 'stats socket command'")
        .unwrap_or(text);
    let (mut done, mut refused) = (true, false);
    for change in changes.split(", ") {
        done &= change.starts_with("IP changed from '")
            || change.starts_with("port changed from '")
            || [
                "no need to change the addr",
                "no need to change the port",
                "nothing changed",
            ]
            .contains(&change);
        refused |= change.starts_with("problem converting port")
            || change.starts_with("can't change <port> to port map");
    }
    match (done, refused) {
        (true, _) => Some(Outcome::Done),
        (false, true) => Some(Outcome::Refused(text.to_owned())),
        (false, false) => None,
    }
}

#[cfg(test)]
mod recorded;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::model::{
        Address, BackendName, Keyword, MapContent, MapName, MapWord, ServerName, ServerRef,
    };

    #[test]
    fn what_is_said_of_maps_is_known_word_by_word() {
        let map = || MapName::new("virt@hosts").unwrap();
        let word = || MapWord::new("x").unwrap();
        let add = Request::ChangeMap(MapChange::Add(map(), word(), word()));
        let add_to = Request::ChangeMap(MapChange::AddTo(1, map(), word(), word()));
        let set = Request::ChangeMap(MapChange::Set(map(), word(), word()));
        let delete = Request::ChangeMap(MapChange::Delete(map(), word()));
        let prepare = Request::ChangeMap(MapChange::Prepare(map()));
        let commit = Request::ChangeMap(MapChange::Commit(1, map()));
        let done = || Response::Changed(Outcome::Done);
        let later = |text: &str| Response::Changed(Outcome::RetryLater(text.to_owned()));
        let bad = "regex '^v([' is invalid (error=missing terminating ] for character class, erroffset=4).";
        let future = "Version number in the future, please use 'prepare map' before.";
        let range = "Version number out of range.";
        for (request, text, response) in [
            (&add, "", done()),
            (&add_to, "", done()),
            (&set, "", done()),
            (&delete, "", done()),
            (&commit, "", done()),
            (
                &prepare,
                "New version created: 12",
                Response::MapVersion(12),
            ),
            (
                &Request::Map(map()),
                "",
                Response::Map(MapContent::default()),
            ),
            (&Request::Map(map()), NO_SUCH_MAP, Response::NoSuchMap),
            (&add, NO_SUCH_MAP, later(NO_SUCH_MAP)),
            (&prepare, NO_SUCH_MAP, later(NO_SUCH_MAP)),
            (
                &add,
                bad,
                Response::Changed(Outcome::Refused(bad.to_owned())),
            ),
            (&add_to, future, later(future)),
            (&commit, range, later(range)),
            (&set, "entry not found.", later("entry not found.")),
            (&delete, "Key not found.", later("Key not found.")),
        ] {
            let reply = if text.is_empty() {
                String::new()
            } else {
                format!("{text}\n")
            };
            assert_eq!(read(request, reply.as_bytes()), Ok(response), "{text}");
        }
        for (request, text) in [
            (&add, "Key not found."),
            (&set, bad),
            (&prepare, ""),
            (&commit, "New version created: 1"),
            (&Request::Map(map()), "What a lovely day."),
            (&add, "What a lovely day."),
        ] {
            assert!(read(request, text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(
            read(&add, b"Permission denied\n").unwrap_err(),
            UnknownReply::Denied("add map")
        );
    }

    #[test]
    fn what_haproxy_adds_to_a_success_is_kept() {
        let remark = "Ignoring cookie as HTTP mode is disabled.\nNew server registered.\n";
        assert_eq!(
            read(&add("web/d", &[]), remark.as_bytes()),
            Ok(Response::Changed(Outcome::Notice(
                "Ignoring cookie as HTTP mode is disabled.".to_owned()
            )))
        );
    }

    #[test]
    fn a_half_made_address_is_no_success() {
        let request = Request::Change(Command::SetAddress(
            server("web/s"),
            address("10.0.0.1", 80),
        ));
        for (text, refused) in [
            (
                "IP changed from '1.2.3.4' to '10.0.0.1', problem converting port 'x' to an int by 'stats socket command'",
                true,
            ),
            ("Invalid addr '10.0.0.1'", true),
            ("", false),
            ("IP changed", false),
            ("nothing changed, but the weather", false),
        ] {
            match read(&request, text.as_bytes()) {
                Ok(Response::Changed(Outcome::Refused(_))) => assert!(refused, "{text}"),
                Err(UnknownReply::Text { .. }) => assert!(!refused, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_server_that_cannot_be_is_refused_in_these_words() {
        for text in [
            "'cookie' option is not accepted for dynamic server",
            "MUX protocol is not usable for server.",
            "'ca-file' : unable to load /nope.pem.",
            "unable to stat SSL certificate '/nope'.",
            "unknown keyword 'healthcheck'.",
            "parsing [(null):0]: healthcheck section '*healthcheck-nope' not found for server 'm'.",
            "error detected while parsing sni expression : unknown fetch method 'bogus'",
        ] {
            let read = read(&add("web/d", &[]), format!("{text}\n").as_bytes());
            let refused = Response::Changed(Outcome::Refused(text.to_owned()));
            assert_eq!(read, Ok(refused));
        }
        let enable = Request::Change(Command::EnableAgent(server("web/d")));
        let text = "Agent was not configured on this server, cannot enable.";
        let refused = Response::Changed(Outcome::Refused(text.to_owned()));
        assert_eq!(read(&enable, text.as_bytes()), Ok(refused));
        assert_eq!(read(&enable, b""), Ok(Response::Changed(Outcome::Done)));
    }

    #[test]
    fn unknown_words_are_an_error_that_can_be_shown() {
        let long = format!("\u{1b}[31mno \u{fffd}{}", "x".repeat(5000));
        let error = read(&add("web/d", &[]), long.as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
        assert!(
            error
                .to_string()
                .starts_with(r#"the answer to add server is not understood: "\u{1b}[31mno"#),
            "{error}"
        );
        for text in ["Server deleted.", "Not New server registered.", ""] {
            assert!(read(&add("web/d", &[]), text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(
            read(&Request::Info, b"Permission denied\n")
                .unwrap_err()
                .to_string(),
            "the answer to show info cannot be read"
        );
        assert_eq!(
            UnknownReply::Denied("add server").to_string(),
            "HAProxy denies add server: the stats socket is not of `level admin`"
        );
    }

    #[test]
    fn a_disabled_proxy_makes_the_process_suspect() {
        assert!(may_be_stopping(b"Proxy is disabled.\n"));
        assert!(!may_be_stopping(b"No such server.\n"));
    }

    pub(super) fn server(name: &str) -> ServerRef {
        let (backend, server) = name.split_once('/').unwrap();
        ServerRef {
            backend: BackendName::new(backend).unwrap(),
            server: ServerName::new(server).unwrap(),
        }
    }

    pub(super) fn address(ip: &str, port: u16) -> Address {
        Address {
            ip: ip.parse().unwrap(),
            port: NonZeroU16::new(port).unwrap(),
        }
    }

    pub(super) fn add(name: &str, keywords: &[Keyword]) -> Request {
        Request::Change(Command::AddServer(
            server(name),
            address("127.0.0.1", 81),
            keywords.to_vec(),
        ))
    }
}
