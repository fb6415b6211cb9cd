//! The commands that change something, with their answers.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Check, Line, Model, server::Server};

const REQUIRE_SERVER: &str = "Require 'backend/server'.\n";
const NO_BACKEND: &str = "No such backend.\n";
const NO_SERVER: &str = "No such server.\n";

impl Model {
    /// Runs one line and answers as in prompt mode, with what comes before the `\n> `.
    pub(crate) fn execute(&mut self, now: Duration, line: &str) -> String {
        self.advance(now);
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let reply = match words.as_slice() {
            ["prompt"] | ["set", "timeout", "cli", _] => String::new(),
            ["show", "cli", "level"] => "admin\n".to_owned(),
            ["show", "info"] => self.show_info(),
            ["show", "backend"] => self.show_backend(),
            ["show", "servers", "state"] => self.show_servers_state(None),
            ["show", "servers", "state", backend] => self.show_servers_state(Some(backend)),
            ["show", "stat", "-1", "2", "-1"] => self.show_stat_of_backends(),
            ["show", "stat", backend, "6", "-1"] => self.show_stat(backend),
            ["set", "server", rest @ ..] => self.on_server(rest, Self::set_server),
            ["set", "maxconn", "server", rest @ ..] => self.on_server(rest, Self::set_maxconn),
            ["enable", "health", rest @ ..] => self.on_server(rest, Self::enable_health),
            ["enable", "agent", rest @ ..] => self.on_server(rest, Self::enable_agent),
            ["disable", "agent", rest @ ..] => self.on_server(rest, Self::disable_agent),
            ["shutdown", "sessions", "server", rest @ ..] => self
                .on_server(rest, |model, backend, server, _| {
                    model.shutdown_sessions(backend, server)
                }),
            ["dump", "stats-file"] if self.line >= Line(3, 0) => self.dump_stats_file(),
            ["add", "backend", rest @ ..] if self.can_make_backends() => self.add_backend(rest),
            ["publish", "backend", name] if self.can_make_backends() => {
                self.publish_backend(name, true)
            }
            ["unpublish", "backend", name] if self.can_make_backends() => {
                self.publish_backend(name, false)
            }
            ["del", "backend", name] if self.can_make_backends() => self.del_backend(name),
            ["add", "server", rest @ ..] => self.add_server(rest),
            ["del", "server", rest @ ..] => self.del_server(rest),
            ["show", "map", name] => self.show_map(name),
            ["add", "map", rest @ ..] => self.add_map(rest),
            ["set", "map", rest @ ..] => self.set_map(rest),
            ["del", "map", rest @ ..] => self.del_map(rest),
            ["prepare", "map", name] => self.prepare_map(name),
            ["commit", "map", rest @ ..] => self.commit_map(rest),
            [] => panic!("an empty line is answered differently by each version"),
            [word, ..] => self.unknown_command(word),
        };
        if words.first() != Some(&"show") {
            self.quiet_until = None;
            self.note_leaks();
        }
        reply
    }

    fn unknown_command(&self, word: &str) -> String {
        // The list of commands that follows is of no interest to anybody.
        if self.line < Line(2, 8) {
            "Unknown command, but maybe one of the following ones is a better match:\n".to_owned()
        } else {
            format!(
                "Unknown command: '{word}', but maybe one of the following ones is a better match:\n"
            )
        }
    }

    /// 2.6 forgets the line feed of some messages.
    fn forgotten_line_feed(&self, text: &str) -> String {
        if self.line < Line(2, 8) {
            text.trim_end().to_owned()
        } else {
            text.to_owned()
        }
    }

    fn on_server(
        &mut self,
        words: &[&str],
        change: fn(&mut Self, usize, usize, &[&str]) -> String,
    ) -> String {
        let (backend, server) = match self.find(words) {
            Ok(found) => found,
            Err(text) => return text.to_owned(),
        };
        if self.stopping {
            return "Proxy is disabled.\n".to_owned();
        }
        let changed = |model: &Self| {
            let server = &model.backends[backend].1[server];
            (server.oper, server.admin)
        };
        let before = changed(self);
        let reply = change(self, backend, server, &words[1..]);
        if changed(self) != before {
            self.backends[backend].1[server].changed = self.now;
        }
        reply
    }

    fn find(&self, words: &[&str]) -> Result<(usize, usize), &'static str> {
        let (backend, name) = words
            .first()
            .and_then(|word| word.split_once('/'))
            .ok_or(REQUIRE_SERVER)?;
        let backend = self.find_backend(backend).ok_or(NO_BACKEND)?;
        let mut servers = self.backends[backend].1.iter();
        let server = servers
            .position(|server| server.name == name)
            .ok_or(NO_SERVER)?;
        Ok((backend, server))
    }

    fn find_backend(&self, name: &str) -> Option<usize> {
        self.backends
            .iter()
            .position(|(backend, _)| backend.name == name)
    }

    fn set_server(&mut self, backend: usize, server: usize, words: &[&str]) -> String {
        let now = self.now;
        match words {
            ["addr", rest @ ..] => return self.set_address(backend, server, rest),
            ["weight", rest @ ..] => return self.set_weight(backend, server, rest),
            _ => {}
        }
        let server = &mut self.backends[backend].1[server];
        match words {
            ["state", "ready"] => server.make_ready(),
            ["state", "drain"] => server.enter_drain(now),
            ["state", "maint"] => server.enter_maintenance(now),
            ["state", ..] => {
                return "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n"
                    .to_owned();
            }
            ["health", "down"] => server.force_down(),
            ["health", "up"] => server.force_up(),
            ["health", "stopping"] => panic!("the model has no NOLB"),
            ["health", ..] => {
                return "'set server <srv> health' expects 'up', 'stopping', or 'down'.\n"
                    .to_owned();
            }
            _ => {
                return "usage: set server <backend>/<server> addr | agent | agent-addr | agent-port | agent-send | \
                        check-addr | check-port | fqdn | health | ssl | state | weight\n"
                    .to_owned();
            }
        }
        String::new()
    }

    fn set_address(&mut self, backend: usize, server: usize, words: &[&str]) -> String {
        let by = " by 'stats socket command'\n";
        let is_old = self.line < Line(3, 0);
        let (address, port) = match words {
            [] => {
                return "set server <b>/<s> addr requires an address and optionally a port.\n"
                    .to_owned();
            }
            [address, "port", port, ..] => (address, Some(*port)),
            [address, "port"] => (address, Some("")),
            [address, ..] => (address, None),
        };
        let (now, lag) = (self.now, self.address_lag);
        let server = &mut self.backends[backend].1[server];
        // HAProxy compares with what is in force, not with what was asked for last.
        let before = server.address;
        let Ok(ip) = address.trim_matches(['[', ']']).parse::<IpAddr>() else {
            let suffix = if is_old { by } else { "\n" };
            return format!("Invalid addr '{address}'{suffix}");
        };
        let written = if is_old {
            (*address).to_owned()
        } else {
            ip.to_string()
        };
        let port_number = match port.map(str::parse::<u16>) {
            None => before.port(),
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                let port = port.unwrap_or_default();
                assert!(
                    port.parse::<u64>().is_err(),
                    "HAProxy cuts port {port} to 16 bits"
                );
                let problem = format!("problem converting port '{port}' to an int");
                if !is_old {
                    return format!("{problem}\n");
                }
                server.move_to(SocketAddr::new(ip, before.port()));
                return if ip == before.ip() {
                    format!("no need to change the addr, {problem}{by}")
                } else {
                    format!(
                        "IP changed from '{}' to '{written}', {problem}{by}",
                        before.ip()
                    )
                };
            }
        };
        let after = SocketAddr::new(ip, port_number);
        let ip_change = (before.ip() != ip)
            .then(|| format!("IP changed from '{}' to '{written}'", before.ip()));
        let port_change = (before.port() != port_number)
            .then(|| format!("port changed from '{}' to '{port_number}'", before.port()));
        if ip_change.is_none() && port_change.is_none() && !is_old {
            return "nothing changed\n".to_owned();
        }
        if lag.is_zero() {
            server.move_to(after);
        } else {
            server.pending.push((now + lag, after));
        }
        let parts = if is_old {
            let no_port_change = port.map(|_| "no need to change the port".to_owned());
            [
                Some(ip_change.unwrap_or_else(|| "no need to change the addr".to_owned())),
                port_change.or(no_port_change),
            ]
        } else {
            [ip_change, port_change]
        };
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join(", ") + by
    }

    fn set_weight(&mut self, backend: usize, server: usize, words: &[&str]) -> String {
        let Some(word) = words.first() else {
            return "Require <weight> or <weight%>.\n".to_owned();
        };
        let (digits, is_relative) = match word.strip_suffix('%') {
            Some(digits) => (digits, true),
            None => (*word, false),
        };
        let number_end = digits
            .find(|c: char| !c.is_ascii_digit() && c != '-')
            .unwrap_or(digits.len());
        if number_end == 0 {
            return self.forgotten_line_feed("Empty weight string empty or preceded by garbage\n");
        }
        if number_end != digits.len() {
            return self.forgotten_line_feed("Trailing garbage in weight string\n");
        }
        let number: i64 = digits.parse().expect("a number that HAProxy takes");
        let (backend, servers) = &mut self.backends[backend];
        let server = &mut servers[server];
        let weight = if is_relative {
            (i64::from(server.initial_weight) * number / 100).min(256)
        } else {
            number
        };
        let Some(weight) = u16::try_from(weight).ok().filter(|weight| *weight <= 256) else {
            return "Absolute weight can only be between 0 and 256 inclusive.\n".to_owned();
        };
        if backend.is_static && weight != 0 && weight != server.initial_weight {
            return "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'.\n".to_owned();
        }
        server.weight = weight;
        String::new()
    }

    fn set_maxconn(&mut self, backend: usize, server: usize, words: &[&str]) -> String {
        let Some(word) = words.first() else {
            return "Require <maxconn>.\n".to_owned();
        };
        let Ok(number) = word.parse() else {
            return self.forgotten_line_feed("maxconn string empty or preceded by garbage\n");
        };
        self.backends[backend].1[server].maxconn = number;
        String::new()
    }

    fn enable_health(&mut self, backend: usize, server: usize, _words: &[&str]) -> String {
        let server = &mut self.backends[backend].1[server];
        if server.check.is_none() {
            return "Health check was not configured on this server, cannot enable.\n".to_owned();
        }
        server.check_enabled = true;
        String::new()
    }

    fn enable_agent(&mut self, backend: usize, server: usize, _words: &[&str]) -> String {
        let server = &mut self.backends[backend].1[server];
        if server.agent.is_none() {
            return "Agent was not configured on this server, cannot enable.\n".to_owned();
        }
        server.agent_enabled = true;
        String::new()
    }

    fn disable_agent(&mut self, backend: usize, server: usize, _words: &[&str]) -> String {
        self.backends[backend].1[server].agent_enabled = false;
        String::new()
    }

    fn add_server(&mut self, words: &[&str]) -> String {
        let Some((backend, name)) = words.first().and_then(|word| word.split_once('/')) else {
            return self.forgotten_line_feed(REQUIRE_SERVER);
        };
        let Some(index) = self.find_backend(backend) else {
            return self.forgotten_line_feed(NO_BACKEND);
        };
        let (version, now) = (self.line, self.now);
        if self.backends[index].0.is_static {
            return if version >= Line(3, 4) {
                format!(
                    "Backend does not support dynamic servers : backend '{backend}' uses a non dynamic load balancing \
                     method.\n"
                )
            } else {
                self.forgotten_line_feed(
                    "Backend must use a dynamic load balancing to support dynamic servers.\n",
                )
            };
        }
        let servers = &mut self.backends[index].1;
        let id = (1..=u32::MAX)
            .find(|id| servers.iter().all(|server| server.id != *id))
            .expect("there are more numbers than servers");
        let server = match parse_server(version, now, id, name, &words[1..]) {
            Ok(server) => server,
            Err(text) => return text,
        };
        if servers.iter().any(|other| other.name == name) {
            return "Already exists a server with the same name in backend.\n".to_owned();
        }
        servers.push(server);
        "New server registered.\n".to_owned()
    }

    fn del_server(&mut self, words: &[&str]) -> String {
        let (backend, server) = match self.find(words) {
            Ok(found) => found,
            Err(text) => return self.forgotten_line_feed(text),
        };
        let servers = &mut self.backends[backend].1;
        let it = &servers[server];
        let keeps_connection =
            !it.sessions.is_empty() || (!it.idle.is_empty() && self.line < Line(3, 0));
        let reply = if it.referenced {
            "This server cannot be removed at runtime due to other configuration elements pointing to it.\n"
        } else if !it.in_maintenance() {
            "Only servers in maintenance mode can be deleted.\n"
        } else if keeps_connection {
            "Server still has connections attached to it, cannot remove it.\n"
        } else {
            servers.remove(server);
            "Server deleted.\n"
        };
        self.forgotten_line_feed(reply)
    }
}

/// The words after `add server <backend>/`.
fn parse_server(
    version: Line,
    now: Duration,
    id: u32,
    name: &str,
    words: &[&str],
) -> Result<Server, String> {
    let Some((address, mut words)) = words.split_first() else {
        return Err("'server' expects <name> and <addr>[:<port>] as arguments.\n".to_owned());
    };
    if let Some(bad) = name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"_.:-".contains(*c))
    {
        return Err(format!(
            "character '{bad}' is not permitted in server name '{name}'.\n"
        ));
    }
    if let Some((_, port)) = address.rsplit_once(':')
        && port.parse::<u32>().is_ok_and(|port| port > 65_535)
    {
        return Err(format!("invalid port '{port}'\n"));
    }
    let address: SocketAddr = address
        .parse()
        .unwrap_or_else(|_| panic!("HAProxy takes {address} for a host name"));
    let mut server = Server::added(id, name, address, now);
    let mut check = Check::DEFAULT;
    while let [keyword, rest @ ..] = words {
        let value = |rest: &[&str]| {
            rest.first()
                .copied()
                .unwrap_or_else(|| panic!("{keyword} needs a value"))
                .to_owned()
        };
        let number = |rest: &[&str]| -> u32 { value(rest).parse().expect("a number") };
        let mut taken = 1;
        match *keyword {
            "check" => {
                server.check = Some(check);
                taken = 0;
            }
            "backup" => {
                server.backup = true;
                taken = 0;
            }
            "inter" => check.inter = duration(&value(rest)),
            "fastinter" => check.fastinter = Some(duration(&value(rest))),
            "downinter" => check.downinter = Some(duration(&value(rest))),
            "rise" | "fall" if number(rest) == 0 => {
                return Err(format!("'{keyword}' has to be > 0..\n"));
            }
            "rise" => check.rise = number(rest).try_into().expect("rise is small"),
            "fall" => check.fall = number(rest).try_into().expect("fall is small"),
            "port" => check.port = number(rest).try_into().expect("a port"),
            "weight" if number(rest) > 256 => {
                return Err(format!(
                    "weight of server {name} is not within 0 and 256 ({})..\n",
                    number(rest)
                ));
            }
            "weight" => {
                server.weight = number(rest).try_into().expect("at most 256");
                server.initial_weight = server.weight;
            }
            "maxconn" => server.maxconn = number(rest),
            "maxqueue" | "slowstart" | "proto" | "agent-inter" => drop(value(rest)),
            "send-proxy" | "send-proxy-v2" | "check-send-proxy" | "agent-check" => taken = 0,
            "agent-port" => server.agent = number(rest).try_into().ok(),
            "cookie" if version >= Line(2, 8) => server.cookie = Some(value(rest)),
            "init-state" if version >= Line(3, 2) => match value(rest).as_str() {
                "fully-down" => server.fully_down = true,
                known @ ("none" | "fully-up" | "up" | "down") => {
                    panic!("the model has no init-state {known}")
                }
                other => {
                    return Err(format!(
                        "'init-state' expects one of 'none', 'fully-up', 'up', 'down', or 'fully-down' but got \
                         '{other}'.\n"
                    ));
                }
            },
            "pool-purge-delay" | "pool-max-conn" => {}
            other => return Err(format!("unknown keyword '{other}'.\n")),
        }
        words = &rest[taken..];
    }
    if server.check.is_some() {
        server.check = Some(check);
        server.next_check = Some(now + server.interval(&check));
    }
    Ok(server)
}

/// A time of the configuration language; milliseconds unless a unit follows.
fn duration(text: &str) -> Duration {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..end].parse().expect("a time begins with a number");
    match &text[end..] {
        "" | "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        unit => panic!("the model has no unit {unit}"),
    }
}
