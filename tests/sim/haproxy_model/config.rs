//! What a configuration file says, as far as the model cares, and that file's text for a real HAProxy.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

/// All backends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    /// In the order of the file. Frontends come first in it, which only shows in `be_id`.
    pub(crate) backends: Vec<Backend>,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// Its name.
    pub(crate) name: String,
    /// `balance source`, map-based: no dynamic servers, no weights. Otherwise `roundrobin`.
    pub(crate) is_static: bool,
    /// `option httpchk GET /health`: else a check only connects.
    pub(crate) httpchk: bool,
    /// The `server` and `server-template` lines.
    pub(crate) servers: Vec<ServerLine>,
}

/// One server of the file.
#[derive(Clone, Debug)]
pub(crate) struct ServerLine {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// `disabled`
    pub(crate) disabled: bool,
    /// `check …`
    pub(crate) check: Option<Check>,
    /// `weight`
    pub(crate) weight: u16,
    /// `maxconn`; 0 is none.
    pub(crate) maxconn: u32,
    /// `backup`
    pub(crate) backup: bool,
    /// A `use-server` line names it, so it cannot be deleted.
    pub(crate) is_referenced: bool,
}

/// A health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// `inter`
    pub(crate) inter: Duration,
    /// `fastinter`, for servers between UP and DOWN.
    pub(crate) fastinter: Option<Duration>,
    /// `downinter`, for servers that are DOWN.
    pub(crate) downinter: Option<Duration>,
    /// `rise`
    pub(crate) rise: u16,
    /// `fall`
    pub(crate) fall: u16,
    /// `port`; 0 is the server's.
    pub(crate) port: u16,
}

impl Check {
    /// HAProxy's defaults: `inter 2s rise 2 fall 3`.
    pub(crate) const DEFAULT: Self = Self {
        inter: Duration::from_secs(2),
        fastinter: None,
        downinter: None,
        rise: 2,
        fall: 3,
        port: 0,
    };

    /// `check inter <inter> rise 2 fall 3`
    pub(crate) fn every(inter: Duration) -> Self {
        Self {
            inter,
            ..Self::DEFAULT
        }
    }

    fn keywords(&self) -> String {
        let mut text = format!(
            "check inter {}ms rise {} fall {}",
            self.inter.as_millis(),
            self.rise,
            self.fall
        );
        for (keyword, interval) in [("fastinter", self.fastinter), ("downinter", self.downinter)] {
            if let Some(interval) = interval {
                write!(text, " {keyword} {}ms", interval.as_millis()).unwrap();
            }
        }
        if self.port != 0 {
            write!(text, " port {}", self.port).unwrap();
        }
        text
    }
}

impl Backend {
    /// A backend with `balance roundrobin`, `option httpchk` and no servers.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_static: false,
            httpchk: true,
            servers: Vec::new(),
        }
    }

    /// With one more server.
    pub(crate) fn server(mut self, line: ServerLine) -> Self {
        self.servers.push(line);
        self
    }

    /// With `server-template <prefix> 1-<count> <placeholder> disabled [check …]`.
    pub(crate) fn template(
        mut self,
        prefix: &str,
        count: usize,
        placeholder: SocketAddr,
        check: Option<Check>,
    ) -> Self {
        for number in 1..=count {
            self.servers.push(ServerLine {
                disabled: true,
                check,
                ..ServerLine::new(&format!("{prefix}{number}"), placeholder)
            });
        }
        self
    }
}

impl ServerLine {
    /// `server <name> <address>`
    pub(crate) fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            disabled: false,
            check: None,
            weight: 1,
            maxconn: 0,
            backup: false,
            is_referenced: false,
        }
    }
}

impl Config {
    /// The `backend` sections for a real HAProxy. What the model has of a `server-template` line reads the same when it
    /// is written as `server` lines.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for backend in &self.backends {
            let balance = if backend.is_static {
                "source"
            } else {
                "roundrobin"
            };
            write!(text, "backend {}\n  balance {balance}\n", backend.name).unwrap();
            if backend.httpchk {
                text.push_str("  option httpchk GET /health\n");
            }
            for line in &backend.servers {
                let flag = |is_set: bool, word: &'static str| if is_set { word } else { "" };
                writeln!(
                    text,
                    "  server {} {} weight {} maxconn {}{}{} {}",
                    line.name,
                    line.address,
                    line.weight,
                    line.maxconn,
                    flag(line.disabled, " disabled"),
                    flag(line.backup, " backup"),
                    line.check.map(|check| check.keywords()).unwrap_or_default(),
                )
                .unwrap();
                if line.is_referenced {
                    writeln!(text, "  use-server {} if FALSE", line.name).unwrap();
                }
            }
        }
        text
    }
}
