//! What is known of one followed namespace, and how events and reads are merged by index.
//!
//! Three rules make the merge exact. A line of the stream whose index was seen before is the past (a restarted server
//! replays it). An event applies to a service only above the index at which that service was read. Events are kept in a
//! journal until lists prove that every later read includes them, so a read that is older than an event that was
//! already applied cannot undo it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::{Failure, Line, ListedService, Listing, Reading, Wanted},
    model::{NomadEvent, Registration, ServiceKey},
};

/// No more events than this are kept between two syncs.
const JOURNAL_EVENTS: usize = 4096;
/// Nor more than this, in bytes.
const JOURNAL_WEIGHT: usize = 4 * 1024 * 1024;

/// What is known of one followed namespace (or of all, for `*`).
#[derive(Clone, Debug)]
pub(super) struct View {
    namespace: Arc<str>,
    wanted: Wanted,
    services: BTreeMap<ServiceKey, Entry>,
    /// What all registrations take in memory, in bytes, and what they may.
    weight: usize,
    most: usize,
    /// Services that are there and could not be read, never or not since the index went back: an event tells of one
    /// registration, not of the others, and may be of any past.
    unread: BTreeSet<ServiceKey>,
    journal: Journal,
    /// Events up to this index fell out of the journal: an older read cannot be completed.
    forgotten: u64,
    /// The index of the last list that was believed: the base of every service that has none.
    floor: u64,
    /// The highest index that came over a stream.
    seen: u64,
    /// The highest index of a read.
    read_to: u64,
    /// Everything up to this index is known: the table is unchanged while its index is this one.
    complete: u64,
    /// Whether the stream has been open without a break since before the last adopted list.
    unbroken: bool,
    /// Whether events are applied at once. Not before the first sync, and not after the index went back.
    live: bool,
}

/// Events by their indexes, the oldest first.
#[derive(Clone, Debug, Default)]
struct Journal {
    events: VecDeque<(u64, NomadEvent)>,
    weight: usize,
}

impl Journal {
    fn push(&mut self, index: u64, event: NomadEvent) {
        self.weight += event.registration().weight();
        self.events.push_back((index, event));
    }

    /// Lets go of the oldest; gives its index.
    fn forget(&mut self) -> Option<u64> {
        let (index, event) = self.events.pop_front()?;
        self.weight -= event.registration().weight();
        Some(index)
    }
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// The index of the read that this began with.
    base: u64,
    /// When that was.
    read_at: Duration,
    registrations: BTreeMap<Arc<str>, Registration>,
    /// What these take in memory.
    weight: usize,
}

impl View {
    pub(super) fn new(namespace: Arc<str>, wanted: Wanted) -> Self {
        Self {
            namespace,
            wanted,
            services: BTreeMap::new(),
            weight: 0,
            most: usize::MAX,
            unread: BTreeSet::new(),
            journal: Journal::default(),
            forgotten: 0,
            floor: 0,
            seen: 0,
            read_to: 0,
            complete: 0,
            unbroken: false,
            live: false,
        }
    }

    /// Whether a sync was adopted, so that what is not here is known to be absent or unwanted.
    pub(super) const fn is_live(&self) -> bool {
        self.live
    }

    /// The highest index that is known in any way: a list below it is from another past.
    pub(super) fn latest(&self) -> u64 {
        self.floor.max(self.seen).max(self.read_to)
    }

    /// The index of the last list that was believed.
    pub(super) const fn list_index(&self) -> u64 {
        self.floor
    }

    /// Whether a table with this index has nothing that is not known.
    pub(super) const fn is_complete_at(&self, index: u64) -> bool {
        self.live && self.complete == index
    }

    /// The oldest index that a read of a service may have.
    pub(super) fn oldest_readable(&self, key: &ServiceKey) -> u64 {
        self.forgotten.max(self.base(key))
    }

    /// The index at which a service was read last; 0 if it never was.
    pub(super) fn base(&self, key: &ServiceKey) -> u64 {
        self.services.get(key).map_or(0, |entry| entry.base)
    }

    /// The stream is gone, or a new one came: lines may have been missed.
    pub(super) const fn stream_broke(&mut self) {
        self.unbroken = false;
    }

    /// The stream was open without a break since before the list that found nothing missed.
    pub(super) const fn stream_is_unbroken(&mut self) {
        self.unbroken = true;
    }

    /// From now on no more than this is taken, in bytes.
    pub(super) const fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// Takes only what there is room for, beside `more` that is to come or go.
    pub(super) fn admit(
        &self,
        key: &ServiceKey,
        reading: Reading,
        more: &mut isize,
    ) -> Result<Reading, Failure> {
        let bytes = |weight: usize| isize::try_from(weight).unwrap_or(isize::MAX);
        let before = self.services.get(key).map_or(0, |entry| entry.weight);
        let change = bytes(reading.weight()) - bytes(before);
        let after = bytes(self.weight)
            .saturating_add(*more)
            .saturating_add(change);
        if change > 0 && after > bytes(self.most) {
            return Err(Failure::no_room(key, self.most));
        }
        *more += change;
        Ok(reading)
    }

    /// The services that have registrations.
    pub(super) fn known(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services
            .iter()
            .filter(|(_, entry)| !entry.registrations.is_empty())
            .map(|(key, _)| key)
    }

    /// Of the services that pass, the one that was read longest ago.
    pub(super) fn least_recently_read(
        &self,
        passes: impl Fn(&ServiceKey) -> bool,
    ) -> Option<&ServiceKey> {
        self.services
            .iter()
            .filter(|(key, entry)| !entry.registrations.is_empty() && passes(key))
            .min_by_key(|(_, entry)| entry.read_at)
            .map(|(key, _)| key)
    }

    /// How many services there are, or were a moment ago.
    pub(super) fn services_read(&self) -> usize {
        self.services.len()
    }

    /// Takes a list while everything is known; gives what it has that is not known, and what is known that it lacks.
    pub(super) fn compare(&mut self, listing: Listing) -> BTreeSet<ServiceKey> {
        let before = std::mem::replace(&mut self.floor, listing.index);
        // No read is under way that is older than the list before this one.
        while self
            .journal
            .events
            .front()
            .is_some_and(|(index, _)| *index <= before)
        {
            self.forgotten = self.journal.forget().unwrap_or(self.forgotten);
        }
        self.forget_the_gone();
        let mut gone: BTreeSet<_> = self.known().cloned().collect();
        let mut differing = BTreeSet::new();
        for service in listing.services {
            let is_known = gone.remove(&service.key);
            let is_wanted = self.follows(&service.key) && self.wanted.wants(&service.tags);
            if is_known != is_wanted {
                differing.insert(service.key);
            }
        }
        // An event tells of one registration of them only.
        let unknown = differing.iter().filter(|key| !self.knows(key)).cloned();
        let unknown: Vec<_> = unknown.collect();
        self.unread.extend(unknown);
        differing.extend(gone);
        differing
    }

    /// The services that must be read after this list: the wanted, and the known, whatever the list says of those.
    pub(super) fn to_read(&self, listed: Vec<ListedService>) -> BTreeSet<ServiceKey> {
        let known = self.known().cloned();
        listed
            .into_iter()
            .filter(|service| self.follows(&service.key) && self.wanted.wants(&service.tags))
            .map(|service| service.key)
            .chain(known)
            .collect()
    }

    /// Takes a line of the stream; gives the services that it changed, and those that it could not for want of room.
    /// `waiting` is the index of a read of a service that is yet to be adopted: up to there its events are the past.
    pub(super) fn take(
        &mut self,
        line: Line,
        waiting: impl Fn(&ServiceKey) -> Option<u64>,
    ) -> (BTreeSet<ServiceKey>, BTreeSet<ServiceKey>) {
        let (mut changed, mut without_room) = (BTreeSet::new(), BTreeSet::new());
        if line.index <= self.seen {
            return (changed, without_room);
        }
        self.seen = line.index;
        if self.unbroken {
            self.complete = self.complete.max(line.index);
        }
        for event in line.events {
            let key = &event.registration().service;
            if !self.follows(key) {
                continue;
            }
            let was_unread = self.unread.contains(key);
            let is_past = waiting(key).is_some_and(|read_at| line.index <= read_at);
            if self.live && !is_past && self.apply(line.index, &event) {
                changed.insert(key.clone());
            } else if !was_unread && self.unread.contains(key) {
                without_room.insert(key.clone());
            }
            self.journal.push(line.index, event);
        }
        while self.journal.events.len() > JOURNAL_EVENTS || self.journal.weight > JOURNAL_WEIGHT {
            self.forgotten = self.journal.forget().unwrap_or(self.forgotten);
        }
        (changed, without_room)
    }

    /// Adopts what was read after a list of this index. `failed`: what could not be read. `unbroken`: the stream was open
    /// from before the list until now.
    pub(super) fn adopt<'a>(
        &mut self,
        now: Duration,
        list_index: u64,
        readings: BTreeMap<ServiceKey, Reading>,
        failed: impl Iterator<Item = &'a ServiceKey>,
        unbroken: bool,
    ) {
        let read: Vec<_> = readings.keys().cloned().collect();
        for (key, reading) in readings {
            self.read_to = self.read_to.max(reading.index);
            let entry = Entry::from_reading(&key, reading, now);
            self.put(&key, entry);
        }
        self.unread = failed.filter(|key| self.base(key) == 0).cloned().collect();
        self.floor = list_index;
        self.live = true;
        for (index, event) in std::mem::take(&mut self.journal).events {
            if index > list_index {
                self.apply(index, &event);
                self.journal.push(index, event);
            }
        }
        self.unbroken = unbroken;
        self.complete = if unbroken {
            list_index.max(self.seen)
        } else {
            list_index
        };
        self.forget_unwanted(read.iter());
        self.forget_the_gone();
    }

    /// Adopts one read beside all that is known; true if the service is not as it was before.
    pub(super) fn adopt_one(&mut self, now: Duration, key: &ServiceKey, reading: Reading) -> bool {
        let index = reading.index;
        self.read_to = self.read_to.max(index);
        let entry = Entry::from_reading(key, reading, now);
        let old = self.put(key, entry);
        self.unread.remove(key);
        let later: Vec<_> = self
            .journal
            .events
            .iter()
            .filter(|(at, event)| *at > index && event.registration().service == *key)
            .cloned()
            .collect();
        for (at, event) in later {
            self.apply(at, &event);
        }
        self.forget_unwanted([key].into_iter());
        let new = self.services.get(key);
        let is_same = match (old, new) {
            (Some(old), Some(new)) => old.registrations == new.registrations,
            (old, new) => old
                .iter()
                .chain(new)
                .all(|entry| entry.registrations.is_empty()),
        };
        !is_same
    }

    /// The catalog's index went back: no index of before means anything now. What is known stays, unproven.
    pub(super) fn reset_indexes(&mut self) {
        self.journal = Journal::default();
        self.forgotten = 0;
        self.floor = 0;
        self.seen = 0;
        self.read_to = 0;
        self.complete = 0;
        self.unbroken = false;
        self.live = false;
        for entry in self.services.values_mut() {
            entry.base = 0;
        }
    }

    /// Services that are there and were not read yet.
    pub(super) fn unread(&self) -> impl Iterator<Item = &ServiceKey> {
        self.unread.iter()
    }

    /// Whether anything is known of a service, be it that it has no instance.
    pub(super) fn knows(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// All registrations of a service, sorted by ID.
    pub(super) fn registrations(&self, key: &ServiceKey) -> Vec<Registration> {
        self.services
            .get(key)
            .map(|entry| entry.registrations.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Every service that has registrations.
    pub(super) fn services(&self) -> impl Iterator<Item = (ServiceKey, Vec<Registration>)> {
        self.services
            .iter()
            .filter(|(_, entry)| !entry.registrations.is_empty())
            .map(|(key, _)| (key.clone(), self.registrations(key)))
    }

    fn put(&mut self, key: &ServiceKey, entry: Entry) -> Option<Entry> {
        self.weight += entry.weight;
        let old = self.services.insert(key.clone(), entry);
        self.weight -= old.as_ref().map_or(0, |old| old.weight);
        old
    }

    fn follows(&self, key: &ServiceKey) -> bool {
        &*self.namespace == "*" || key.namespace == self.namespace
    }

    fn apply(&mut self, index: u64, event: &NomadEvent) -> bool {
        let registration = event.registration();
        let base = self
            .services
            .get(&registration.service)
            .map(|entry| entry.base);
        if index <= base.unwrap_or(self.floor) || self.unread.contains(&registration.service) {
            return false;
        }
        match event {
            NomadEvent::Registered(new) => {
                if base.is_none() && !self.wanted.wants(&new.tags) {
                    return false;
                }
                if self.weight.saturating_add(new.weight()) > self.most {
                    // It is read, and tried again, until there is room.
                    self.unread.insert(new.service.clone());
                    return false;
                }
                let floor = self.floor;
                let entry = self
                    .services
                    .entry(new.service.clone())
                    .or_insert_with(|| Entry {
                        base: floor,
                        ..Entry::default()
                    });
                let before = entry.registrations.insert(Arc::clone(&new.id), new.clone());
                let gone = before.as_ref().map_or(0, Registration::weight);
                entry.weight = entry.weight + new.weight() - gone;
                self.weight = self.weight + new.weight() - gone;
                before.as_ref() != Some(new)
            }
            NomadEvent::Deregistered(old) => {
                let Some(entry) = self.services.get_mut(&old.service) else {
                    return false;
                };
                let Some(gone) = entry.registrations.remove(&old.id) else {
                    return false;
                };
                entry.weight -= gone.weight();
                self.weight -= gone.weight();
                true
            }
        }
    }

    /// Drops what was read and turned out not to be wanted.
    fn forget_unwanted<'a>(&mut self, read: impl Iterator<Item = &'a ServiceKey>) {
        for key in read {
            if let Some(entry) = self.services.get_mut(key)
                && !entry
                    .registrations
                    .values()
                    .any(|one| self.wanted.wants(&one.tags))
            {
                entry.registrations.clear();
                self.weight -= std::mem::take(&mut entry.weight);
            }
        }
    }

    /// An entry without registrations stays while its base is above the list's index: late events below it are the past
    /// of what was read.
    fn forget_the_gone(&mut self) {
        let floor = self.floor;
        self.services
            .retain(|_, entry| !entry.registrations.is_empty() || entry.base > floor);
    }
}

impl Entry {
    /// Only what carries the name that was asked for: nothing else was asked, so nothing else is proven.
    fn from_reading(key: &ServiceKey, reading: Reading, now: Duration) -> Self {
        let registrations: BTreeMap<_, _> = reading
            .registrations
            .into_iter()
            .filter(|registration| registration.service == *key)
            .map(|registration| (Arc::clone(&registration.id), registration))
            .collect();
        Self {
            weight: registrations.values().map(Registration::weight).sum(),
            base: reading.index,
            read_at: now,
            registrations,
        }
    }
}
