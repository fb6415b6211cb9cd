//! What is known through the mirror, and what may not be: kept by the weather's own world, not by the forks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{Tell, Wanted},
    model::{Registration, ServiceKey},
};

use crate::{nomad_model::Table, weather::haproxy::address};

type Known = BTreeMap<ServiceKey, Vec<Registration>>;

#[derive(Clone, Default)]
pub(crate) struct Book {
    known: Known,
    /// The ports of registrations that a restore brought back: that they were gone may still be told. A registration has
    /// a port of its own each time it is written.
    revived: BTreeSet<i64>,
    /// What was known of a namespace when it could not be read any more.
    remembered: Option<(&'static str, Known)>,
    pub(crate) violation: Option<String>,
    /// What the mirror said since somebody asked.
    said: Vec<Tell>,
}

impl Book {
    /// The mirror says something.
    pub(crate) fn told(&mut self, now: Duration, tell: &Tell, table: &Table) {
        if matches!(tell, Tell::Synced(_) | Tell::Changed { .. }) {
            self.said.push(tell.clone());
        }
        match tell {
            Tell::Changed {
                key, registrations, ..
            } => {
                let before = self.known.insert(key.clone(), registrations.clone());
                self.judge(now, before.unwrap_or_default(), table);
            }
            Tell::Synced(synced) => {
                let before = std::mem::replace(&mut self.known, synced.services.clone());
                self.judge(now, before.into_values().flatten().collect(), table);
            }
            Tell::Current { .. }
            | Tell::Following { .. }
            | Tell::Rereads { .. }
            | Tell::StreamLost { .. }
            | Tell::IndexWentBack { .. }
            | Tell::Trouble { .. }
            | Tell::Recovered { .. } => {}
        }
    }

    /// What was known and is not any more must not be in the catalog as it was known.
    fn judge(&mut self, now: Duration, before: Vec<Registration>, table: &Table) {
        for old in before {
            let key = (old.service.clone(), old.id.clone());
            let lives = table.get(&key) == Some(&old);
            let still = self.known.get(&old.service).into_iter().flatten();
            if lives
                && is_wanted(&old)
                && !self.revived.contains(&old.port)
                && !still.into_iter().any(|one| *one == old)
            {
                let how = format!("at {now:?} the mirror drops {old:?}, which lives");
                self.violated(how);
            }
        }
    }

    pub(crate) fn violated(&mut self, how: String) {
        self.violation.get_or_insert(how);
    }

    /// The catalog becomes another one.
    pub(crate) fn restored(&mut self, before: &Table, after: &Table) {
        let revived = after
            .iter()
            .filter(|(key, new)| before.get(*key) != Some(*new));
        self.revived.extend(revived.map(|(_, new)| new.port));
    }

    pub(crate) fn take_said(&mut self) -> Vec<Tell> {
        std::mem::take(&mut self.said)
    }

    /// Of the wanted registrations that are known, where HAProxy has a backend for them.
    pub(crate) fn addresses(&self) -> BTreeSet<SocketAddr> {
        let known = self.known.values().flatten().filter(|one| is_wanted(one));
        known.filter_map(address).collect()
    }

    /// From now on nothing of this namespace can be known.
    pub(crate) fn remember(&mut self, namespace: &'static str) {
        self.remembered = Some((namespace, self.known_of(namespace)));
    }

    fn known_of(&self, namespace: &str) -> Known {
        let mut known = self.known.clone();
        known.retain(|key, _| *key.namespace == *namespace);
        known
    }

    /// In the end: what may be read is known, the rest is as it was known last.
    pub(crate) fn expect_truth(&mut self, table: &Table, follows: impl Fn(&str) -> bool) {
        let forbidden = self.remembered.as_ref().map(|(namespace, _)| *namespace);
        let is_readable = |one: &&Registration| Some(&*one.service.namespace) != forbidden;
        let truth = table.values().filter(|one| follows(&one.service.namespace));
        let truth = shown(truth.filter(is_readable));
        let known = shown(self.known.values().flatten().filter(is_readable));
        if known != truth {
            let missing: Vec<_> = truth.difference(&known).collect();
            let too_much: Vec<_> = known.difference(&truth).collect();
            self.violated(format!(
                "after quiet the mirror misses {missing:#?} and has {too_much:#?} too much"
            ));
        }
        if let Some((namespace, before)) = &self.remembered
            && *before != self.known_of(namespace)
        {
            let how = format!("what was known of {namespace}, which may not be read, is lost");
            self.violated(how);
        }
    }
}

fn is_wanted(one: &Registration) -> bool {
    Wanted::new("haproxy", false).wants(&one.tags)
}

/// The wanted ones, each with everything that it says.
fn shown<'a>(all: impl Iterator<Item = &'a Registration>) -> BTreeSet<String> {
    all.filter(|one| is_wanted(one))
        .map(|one| format!("{one:?}"))
        .collect()
}
