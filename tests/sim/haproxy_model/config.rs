//! What a configuration file says, as far as the model cares, and that file's text for a real HAProxy.

use std::{net::SocketAddr, time::Duration};

use super::made::{Made, SECTION};

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
    /// `cookie …`: clients are sent back to the server that they had.
    pub(crate) is_sticky: bool,
    /// It is not of the file, but was made at runtime.
    pub(crate) made: Option<Made>,
    /// The `server` and `server-template` lines.
    pub(crate) servers: Vec<ServerLine>,
}

/// One server of the file.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are HAProxy's keywords, independent of each other"
)]
pub(crate) struct ServerLine {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// The line has `slot.invalid` for a host, and its address by `init-addr last,…`.
    pub(crate) is_named: bool,
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
    /// `cookie <value>`
    pub(crate) cookie: Option<String>,
    /// The port of its agent, which is hardly ever asked.
    pub(crate) agent: Option<u16>,
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
        let time = |keyword: &str, time: Duration| format!(" {keyword} {}ms", time.as_millis());
        let fastinter = self.fastinter.map(|it| time("fastinter", it));
        let downinter = self.downinter.map(|it| time("downinter", it));
        let port = (self.port != 0).then(|| format!(" port {}", self.port));
        [
            Some(" check".to_owned()),
            Some(time("inter", self.inter)),
            fastinter,
            downinter,
            Some(format!(" rise {} fall {}", self.rise, self.fall)),
            port,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Backend {
    /// A backend with `balance roundrobin`, `option httpchk` and no servers.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_static: false,
            httpchk: true,
            is_sticky: false,
            made: None,
            servers: Vec::new(),
        }
    }

    /// With one more server.
    pub(crate) fn server(mut self, line: ServerLine) -> Self {
        self.servers.push(line);
        self
    }

    /// With a host instead of the literal addresses of its servers so far: their addresses come back from a state file.
    pub(crate) fn named(mut self) -> Self {
        for line in &mut self.servers {
            line.is_named = true;
        }
        self
    }

    /// With `cookie id insert indirect nocache`, and its servers so far with a cookie each: their name.
    pub(crate) fn sticky(mut self) -> Self {
        self.is_sticky = true;
        for line in &mut self.servers {
            line.cookie = Some(line.name.clone());
        }
        self
    }

    /// With an agent at this port for its servers so far.
    pub(crate) fn agents(mut self, port: u16) -> Self {
        for line in &mut self.servers {
            line.agent = Some(port);
        }
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
            is_named: false,
            disabled: false,
            check: None,
            weight: 1,
            maxconn: 0,
            backup: false,
            cookie: None,
            agent: None,
            is_referenced: false,
        }
    }
}

impl Config {
    /// The `backend` sections for a real HAProxy. What the model has of a `server-template` line reads the same when it
    /// is written as `server` lines.
    pub(crate) fn text(&self) -> String {
        let backends = self.backends.iter().map(Backend::text);
        backends.chain([SECTION.to_owned()]).collect()
    }
}

impl Backend {
    fn text(&self) -> String {
        let head = [
            format!("backend {}", self.name),
            (if self.is_static {
                "  balance source"
            } else {
                "  balance roundrobin"
            })
            .to_owned(),
        ];
        let check = self
            .httpchk
            .then(|| "  option httpchk GET /health".to_owned());
        let cookie = self
            .is_sticky
            .then(|| "  cookie id insert indirect nocache".to_owned());
        let servers = self.servers.iter().map(ServerLine::text);
        let lines: Vec<String> = head
            .into_iter()
            .chain(check)
            .chain(cookie)
            .chain(servers)
            .collect();
        lines.join("\n") + "\n"
    }
}

impl ServerLine {
    fn text(&self) -> String {
        let flag = |is_set: bool, word: &'static str| if is_set { word } else { "" };
        let check = self.check.map(|check| check.keywords());
        let cookie = self.cookie.as_ref().map(|value| format!(" cookie {value}"));
        let agent = |port| format!(" agent-check agent-port {port} agent-inter 1000000ms");
        let address = if self.is_named {
            let (ip, port) = (self.address.ip(), self.address.port());
            format!("slot.invalid:{port} init-addr last,{ip}")
        } else {
            self.address.to_string()
        };
        let mut text = format!(
            "  server {} {address} weight {} maxconn {}{}{}{}{}{}",
            self.name,
            self.weight,
            self.maxconn,
            flag(self.disabled, " disabled"),
            flag(self.backup, " backup"),
            check.unwrap_or_default(),
            cookie.unwrap_or_default(),
            self.agent.map(agent).unwrap_or_default(),
        );
        if self.is_referenced {
            text = text + "\n  use-server " + &self.name + " if FALSE";
        }
        text
    }
}
