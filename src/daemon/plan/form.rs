//! How a plan is written: by server, with `+`, `~` and `-`; or as commands; or as JSON.

use std::{collections::BTreeMap, io::Write};

use serde::Serialize;

use super::remarks::Remarks;

use crate::{
    daemon::Error,
    haproxy::command::print,
    model::{BackendName, Command, MapChange, Request},
    picture::{VERSION, ms},
    reconcile::{
        Fact, Guard, HoldBegun,
        plan::{Step, Why},
        routes::RouteFact,
    },
};

/// The changes, by backend, and the commands for maps.
pub(super) struct Changes {
    backends: Vec<Backend>,
    maps: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Backend {
    name: String,
    changes: Vec<Change>,
}

/// What is done to one server.
#[derive(Debug, Serialize)]
struct Change {
    what: What,
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    why: Vec<String>,
    /// For so long at most it is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    commands: Vec<Planned>,
}

impl Change {
    /// A server in rotation that nobody asks for: it leaves when its hold is over.
    fn held(hold: &HoldBegun) -> Self {
        Self {
            what: What::Remove,
            server: hold.server.to_string(),
            address: Some(hold.address.to_string()),
            why: vec![format!(
                "{}; held for {:?} at most, until {} of its service are UP",
                Why::Deregistered,
                hold.at_most,
                hold.min_ready
            )],
            held_ms: Some(ms(hold.at_most)),
            commands: Vec::new(),
        }
    }
}

/// What stands in the place of a server's name when the backend itself is meant: no server can be called so.
const ITSELF: &str = "(backend)";

#[derive(Debug, Serialize)]
struct Planned {
    command: String,
    why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Add,
    Change,
    Remove,
}

impl What {
    const fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
        }
    }

    const fn of(why: Why) -> Self {
        match why {
            Why::Registered
            | Why::Resumed
            | Why::NoBackend
            | Why::FirstUp
            | Why::PutBack
            | Why::Returned => Self::Add,
            Why::Weight | Why::Maxconn => Self::Change,
            Why::Deregistered
            | Why::Idle
            | Why::Deadline
            | Why::OtherRegistration
            | Why::SlotNeeded
            | Why::Lingered
            | Why::Stopping => Self::Remove,
        }
    }
}

impl Changes {
    pub(super) fn of(facts: &[Fact]) -> Self {
        let mut backends: BTreeMap<&BackendName, Vec<Change>> = BTreeMap::new();
        for fact in facts {
            if let Fact::WouldSend { backend, steps, .. } = fact {
                backends.entry(backend).or_default().extend(changes(steps));
            } else if let Fact::Held(backend, hold) = fact
                && hold.guard != Some(Guard::Frozen)
            {
                let held = Change::held(hold);
                backends.entry(backend).or_default().push(held);
            }
        }
        let maps = facts.iter().filter_map(|fact| {
            let Fact::Routes(RouteFact::WouldSend(changes)) = fact else {
                return None;
            };
            Some(changes)
        });
        let command = |change: &MapChange| print(&Request::ChangeMap(change.clone()));
        Self {
            backends: backends
                .into_iter()
                .map(|(name, changes)| Backend {
                    name: name.to_string(),
                    changes,
                })
                .collect(),
            maps: maps
                .flatten()
                .map(|change| command(change).trim_end().to_owned())
                .collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.all().next().is_none()
    }

    fn all(&self) -> impl Iterator<Item = &Change> {
        self.backends.iter().flat_map(|backend| &backend.changes)
    }

    /// `stays` counts what is not as it should be, and not changed either.
    pub(super) fn write(
        &self,
        with_commands: bool,
        stays: &str,
        out: &mut impl Write,
    ) -> Result<(), Error> {
        if self.is_empty() {
            if stays.is_empty() {
                writeln!(out, "nothing to do")?;
            } else {
                writeln!(out, "nothing to do now; {stays}: see above")?;
            }
            return Ok(());
        }
        for backend in &self.backends {
            writeln!(out, "backend {}", backend.name)?;
            for change in &backend.changes {
                if with_commands && change.held_ms.is_none() {
                    for planned in &change.commands {
                        writeln!(out, "  {:<70} # {}", planned.command, planned.why)?;
                    }
                    continue;
                }
                let address = change
                    .address
                    .iter()
                    .map(|address| format!(" at {address}"));
                let server = format!("{}{}", change.server, address.collect::<String>());
                let (sign, why) = (change.what.sign(), change.why.join("; then "));
                writeln!(out, "  {sign} {server:<46} {why}")?;
            }
        }
        if !self.maps.is_empty() {
            writeln!(out, "maps")?;
            for command in &self.maps {
                writeln!(out, "  {command}")?;
            }
        }
        let count = |what| self.all().filter(|change| change.what == what).count();
        let commands: usize = self.all().map(|change| change.commands.len()).sum();
        let commands = commands + self.maps.len();
        let maps = if self.maps.is_empty() {
            ""
        } else {
            " and in maps"
        };
        let held = self.all().filter(|change| change.held_ms.is_some()).count();
        let held = match held {
            0 => String::new(),
            held => format!(", {held} of them later"),
        };
        let stays = match stays {
            "" => String::new(),
            stays => format!("; {stays}: see above"),
        };
        writeln!(
            out,
            "{} to add, {} to change, {} to remove{held}: {commands} commands in {} backends{maps}; nothing was written{stays}",
            count(What::Add),
            count(What::Change),
            count(What::Remove),
            self.backends.len()
        )?;
        Ok(())
    }

    pub(super) fn write_json(&self, remarks: &Remarks, out: &mut impl Write) -> Result<(), Error> {
        let document = serde_json::json!({
            "version": VERSION,
            "backends": &self.backends,
            "maps": &self.maps,
            "remarks": &remarks.lines,
        });
        writeln!(out, "{document}")?;
        Ok(())
    }
}

/// The steps, those of one server together while they do the same to it, in their order.
fn changes(steps: &[Step]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for step in steps {
        let server = step.command.server();
        let server = server.map_or(ITSELF, |server| server.server.as_str());
        let what = What::of(step.why);
        let planned = Planned {
            command: print(&Request::Change(step.command.clone()))
                .trim_end()
                .to_owned(),
            why: step.why.to_string(),
        };
        let change = match changes.iter().rposition(|one| is_of(one, server)) {
            Some(place) if changes[place].what == what => &mut changes[place],
            Some(_) | None => {
                changes.push(Change {
                    what,
                    server: server.to_string(),
                    address: None,
                    why: Vec::new(),
                    held_ms: None,
                    commands: Vec::new(),
                });
                changes.last_mut().expect("one was just put there")
            }
        };
        if let (What::Add, Command::AddServer(_, address, _) | Command::SetAddress(_, address)) =
            (what, &step.command)
        {
            change.address = Some(address.to_string());
        }
        if !change.why.contains(&planned.why) {
            change.why.push(planned.why.clone());
        }
        change.commands.push(planned);
    }
    changes
}

fn is_of(change: &Change, server: &str) -> bool {
    change.server == server
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{Address, ServerName, ServerRef},
        reconcile::Overview,
    };

    fn facts() -> [Fact; 1] {
        let server = |name: &str| ServerRef {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new(name).unwrap(),
        };
        let address = Address {
            ip: "10.0.0.1".parse().unwrap(),
            port: 80.try_into().unwrap(),
        };
        let step = |command, why| Step { command, why };
        let steps = vec![
            step(Command::Drain(server("nomad1")), Why::Deregistered),
            step(Command::SetWeight(server("nomad2"), 7), Why::Weight),
            step(Command::Maintenance(server("nomad1")), Why::Idle),
            step(
                Command::SetAddress(server("nomad1"), address),
                Why::Registered,
            ),
            step(Command::Ready(server("nomad1")), Why::Registered),
        ];
        [Fact::WouldSend {
            backend: BackendName::new("web").unwrap(),
            steps,
            new: Vec::new(),
        }]
    }

    #[test]
    fn by_server_with_a_sign_and_the_reasons() {
        let mut text = Vec::new();
        Changes::of(&facts()).write(false, "", &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "backend web\n\
             \x20 - nomad1                                         no longer registered in Nomad; then drained, nothing left on it\n\
             \x20 ~ nomad2                                         its weight changed\n\
             \x20 + nomad1 at 10.0.0.1:80                          registered in Nomad, not in HAProxy\n\
             1 to add, 1 to change, 1 to remove: 5 commands in 1 backends; nothing was written\n"
        );
    }

    #[test]
    fn what_is_held_is_a_removal_to_come_and_the_last_line_counts_what_stays() {
        let hold = |guard, at_most| HoldBegun {
            server: ServerName::new("nomad-1").unwrap(),
            address: Address {
                ip: "10.0.0.1".parse().unwrap(),
                port: 80.try_into().unwrap(),
            },
            registration: "gone".into(),
            up: 0,
            min_ready: 1,
            at_most,
            guard,
        };
        let text = |hold| {
            let facts = [Fact::Held(BackendName::new("web").unwrap(), hold)];
            let remarks = Remarks::of(&BTreeMap::new(), &facts, &Overview::default());
            let (changes, mut text) = (Changes::of(&facts), remarks.lines.join("\n").into_bytes());
            changes.write(true, &remarks.summary(), &mut text).unwrap();
            (changes.is_empty(), String::from_utf8(text).unwrap())
        };
        assert_eq!(
            text(hold(None, Duration::from_secs(30))),
            (
                false,
                "backend web\n\
                 \x20 - nomad-1 at 10.0.0.1:80                         \
                 no longer registered in Nomad; held for 30s at most, until 1 of its service are UP\n\
                 0 to add, 0 to change, 1 to remove, 1 of them later: 0 commands in 1 backends; nothing was written\n"
                    .to_owned()
            )
        );
        assert_eq!(
            text(hold(Some(Guard::Frozen), Duration::MAX)),
            (
                true,
                "frozen in web: gone: removals are stopped\
                 nothing to do now; 1 held: see above\n"
                    .to_owned()
            )
        );
    }

    #[test]
    fn as_json_with_every_command() {
        let mut text = Vec::new();
        let mut remarks = Remarks::default();
        remarks.lines = ["a", "b"].map(str::to_owned).into();
        Changes::of(&facts())
            .write_json(&remarks, &mut text)
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["remarks"], serde_json::json!(["a", "b"]));
        let added = &json["backends"][0]["changes"][2];
        assert_eq!(
            (&added["what"], &added["address"]),
            (&"add".into(), &"10.0.0.1:80".into())
        );
        assert_eq!(
            added["commands"][1]["command"],
            "set server web/nomad1 state ready"
        );
    }

    #[test]
    fn a_plan_without_changes_says_so() {
        let mut text = Vec::new();
        let none = Changes::of(&[]);
        assert!(none.is_empty());
        none.write(true, "", &mut text).unwrap();
        assert_eq!(text, b"nothing to do\n");
    }
}
