//! The routes that services ask for, an operator's entries among them, and the laws of both.

use std::{collections::BTreeSet, time::Duration};

use haproxy_nomad_sidecar::model::{MapChange, Registration};

use crate::{
    haproxy_model::{Model, Rotation},
    session::Sent,
    world::World,
};

pub(crate) const ROUTES: &str =
    "(routes) a route leads where requests are answered, and stays while anybody asks for it";
pub(crate) const OTHERS_ROUTES: &str = "(2) foreign entries of maps are never touched";

/// What each service asks for; `shop-b` goes to the backend of `shop`, and claims its host, too.
const WANTED: [(&str, &[&str]); 6] = [
    ("web", &["haproxy.domain=web.example,*.web.example"]),
    ("api", &["haproxy.domain=*.api.web.example"]),
    ("shop", &["haproxy.domain=shop.example"]),
    (
        "shop-b",
        &["haproxy.domain=shop.example", "haproxy.route.keep=false"],
    ),
    ("photo-books", &["haproxy.path=/photos"]),
    (
        "nowhere",
        &["haproxy.domain=nowhere.example", "haproxy.path=/a,/b"],
    ),
];
/// Of these nobody else asks for any.
const OF_ONE: [(&str, &str, &str); 5] = [
    ("web", "virt@hosts", "web.example"),
    ("web", "virt@suffixes", ".web.example"),
    ("api", "virt@suffixes", ".api.web.example"),
    ("photo-books", "virt@paths", "/photos"),
    ("nowhere", "virt@paths", "nowhere.example/a"),
];
/// The maps, and what an operator has in them.
const MAPS: [(&str, &[(&str, &str)]); 3] = [
    (
        "virt@hosts",
        &[("static.example", "operators"), ("old.example", "nomad")],
    ),
    ("virt@suffixes", &[(".static.example", "operators")]),
    ("virt@paths", &[("/static", "operators")]),
];
/// A reading of a backend is no older.
const READ_WITHIN: Duration = Duration::from_secs(35);

/// The tags of a service's routes.
pub(crate) fn tags_of(namespace: &str, service: &str) -> &'static [&'static str] {
    let wanted = WANTED.iter().find(|(name, _)| *name == service);
    wanted
        .filter(|_| namespace == "default")
        .map_or(&[], |(_, tags)| tags)
}

fn asks(registration: &Registration, service: &str) -> bool {
    let mut tags = registration.tags.iter();
    let asked = tags_of("default", service);
    asked.iter().all(|tag| tags.any(|one| one == tag))
}

/// Maps that the frontends of a process look up.
pub(crate) fn declare(process: &mut Model) {
    for (map, entries) in MAPS {
        process.declare_map(map, entries);
    }
}

/// What a map has, in its order.
fn entries(process: &Model, map: &str) -> Vec<(String, String)> {
    let shown = process.show_map(map);
    let entry = |line: &str| {
        let (_, words) = line.split_once(' ')?;
        let (key, value) = words.split_once(' ')?;
        Some((key.to_owned(), value.to_owned()))
    };
    shown.lines().filter_map(entry).collect()
}

impl World {
    /// A map was changed.
    pub(crate) fn judge_map(&mut self, change: &MapChange, line: &Sent) {
        let Some(process) = self.current_pid.map(|pid| &self.processes[&pid]) else {
            return;
        };
        let text = line.text.trim_end();
        for (map, foreign) in MAPS {
            let entries = entries(process, map);
            let is_there = |(key, value): &&(&str, &str)| {
                entries
                    .iter()
                    .any(|entry| entry.0 == *key && entry.1 == *value)
            };
            if let Some((key, _)) = foreign.iter().find(|entry| !is_there(entry)) {
                return self.violated(OTHERS_ROUTES, &format!("{text}: {key} is lost"));
            }
            let mut keys = BTreeSet::new();
            if let Some((key, _)) = entries.iter().find(|(key, _)| !keys.insert(key)) {
                return self.violated(ROUTES, &format!("{text}: {key} is there twice"));
            }
        }
        match change {
            MapChange::Add(_, _, backend) | MapChange::Set(_, _, backend) => {
                let lately = self.now.saturating_sub(READ_WITHIN);
                let servers = process.servers();
                let mut here = servers
                    .iter()
                    .filter(|view| view.backend == backend.as_str());
                let answers = here.any(|view| match view.rotation {
                    Rotation::In { .. } => true,
                    Rotation::Out { since } => since.is_some_and(|since| since >= lately),
                });
                if !answers {
                    self.violated(ROUTES, &format!("{text}: nobody answers there"));
                }
            }
            MapChange::Delete(map, key) => {
                let of_one = OF_ONE
                    .iter()
                    .find(|(_, name, own)| map.to_string() == *name && key.as_str() == *own);
                if let Some((service, ..)) = of_one
                    && self
                        .ledger
                        .is_asked_for("default", service, line.wanted_at, |one| asks(one, service))
                {
                    self.violated(ROUTES, &format!("{text}: {service} asks for it"));
                }
            }
            MapChange::Prepare(_) | MapChange::AddTo(..) | MapChange::Commit(..) => {}
        }
    }

    /// A route that should be there, and is not.
    pub(crate) fn missing_route(&self) -> Option<String> {
        let process = self.current_pid.map(|pid| &self.processes[&pid])?;
        let servers = process.servers();
        for (service, map, key) in OF_ONE {
            let all = self.nomad.table().values();
            let of_it = all.filter(|one| {
                *one.service.name == *service && *one.service.namespace == *"default"
            });
            let all: Vec<_> = of_it
                .filter_map(|one| Some((one, self.ledger.resolve(one)?)))
                .collect();
            let Some((_, (backend, _))) = all.first() else {
                continue;
            };
            let is_served = servers
                .iter()
                .any(|view| view.backend == backend.as_str() && view.in_rotation);
            let leads = entries(process, map)
                .iter()
                .any(|entry| entry.0 == key && entry.1 == backend.as_str());
            if is_served && !leads && all.iter().all(|(one, _)| asks(one, service)) {
                return Some(format!("{key} does not lead to {backend}"));
            }
        }
        None
    }
}
