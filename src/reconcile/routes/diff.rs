//! What a map should be, against what HAProxy shows of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Route, RouteObstacle};
use crate::model::{BackendName, MapChange, MapContent, MapEntry, MapKind, MapName, MapWord};

/// What is to become of the routes of one map.
pub(super) struct Wanted<'a> {
    pub(super) kind: MapKind,
    pub(super) map: &'a MapName,
    /// Those that somebody has.
    pub(super) routes: &'a BTreeMap<&'a MapWord, Wish<'a>>,
    /// Whether an entry with this value may be changed.
    pub(super) is_ours: &'a dyn Fn(&BackendName) -> bool,
    /// Whether an entry that nobody wants may be removed.
    pub(super) may_go: &'a dyn Fn(&MapWord, &BackendName) -> bool,
    /// Keys that HAProxy refused, and its words.
    pub(super) refused: &'a BTreeMap<Route, String>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) backend: &'a BackendName,
    /// It may be added: a server of the backend is in rotation.
    pub(super) takes_traffic: bool,
    /// It is to go: nothing of its service is there, and it is not kept.
    pub(super) is_over: bool,
}

/// What a map needs.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) changes: Vec<MapChange>,
    /// The whole map must be replaced by this, for its order.
    pub(super) replacement: Option<Vec<(MapWord, MapWord)>>,
    pub(super) active: usize,
    /// The keys that wait for a server in rotation.
    pub(super) waiting: BTreeSet<MapWord>,
    pub(super) obstacles: BTreeSet<RouteObstacle>,
}

/// The changes that make of `content` what is wanted. Entries that are not the sidecar's stay.
pub(super) fn difference(wanted: &Wanted<'_>, content: &MapContent) -> Difference {
    let mut difference = Difference::default();
    // The first entry of a key counts.
    let mut first: BTreeMap<&MapWord, &MapEntry> = BTreeMap::new();
    let mut doubles: BTreeSet<&MapWord> = BTreeSet::new();
    for entry in &content.entries {
        if first.contains_key(&entry.key) {
            doubles.insert(&entry.key);
        } else {
            first.insert(&entry.key, entry);
        }
    }
    let ours = |entry: &MapEntry| {
        let backend = BackendName::new(entry.value.as_ref()?.as_str()).ok()?;
        (wanted.is_ours)(&backend).then_some(backend)
    };
    let map = || wanted.map.clone();
    for (&key, wish) in wanted.routes {
        let route = || Route {
            kind: wanted.kind,
            key: key.clone(),
        };
        let value = MapWord::from(wish.backend);
        match first.get(key) {
            _ if wish.is_over => {}
            Some(entry) if entry.value.as_ref() == Some(&value) => difference.active += 1,
            // HAProxy would set all entries of the key.
            Some(entry) if ours(entry).is_none() || doubles.contains(key) => {
                let obstacle =
                    RouteObstacle::Foreign(route(), wish.backend.clone(), entry.value.clone());
                difference.obstacles.insert(obstacle);
            }
            _ if !wish.takes_traffic => {
                difference.waiting.insert(key.clone());
            }
            Some(_) => difference
                .changes
                .push(MapChange::Set(map(), key.clone(), value)),
            None => match wanted.refused.get(&route()) {
                Some(text) => {
                    let obstacle = RouteObstacle::Refused(route(), text.clone());
                    difference.obstacles.insert(obstacle);
                }
                None => difference
                    .changes
                    .push(MapChange::Add(map(), key.clone(), value)),
            },
        }
    }
    // After what is added: whoever changes his host is found by one of both all the time.
    for (key, entry) in &first {
        let is_wanted = wanted.routes.get(key).is_some_and(|wish| !wish.is_over);
        // HAProxy before 3.4 would delete all entries of a key.
        if is_wanted || doubles.contains(key) {
            continue;
        }
        if ours(entry).is_some_and(|backend| (wanted.may_go)(key, &backend)) {
            let change = MapChange::Delete(map(), (*key).clone());
            difference.changes.push(change);
        }
    }
    if wanted.kind == MapKind::Suffix {
        put_in_order(wanted, content, &mut difference);
    }
    difference
}

/// `map_end` takes the first match of the map's order: a longer suffix must stand before a shorter one. HAProxy appends, so
/// then everything is written anew and takes the place of what is there at once. Foreign entries keep their order.
fn put_in_order(wanted: &Wanted<'_>, content: &MapContent, difference: &mut Difference) {
    let is_plain = content.others == 0 && content.entries.iter().all(|one| one.value.is_some());
    let present = content.entries.iter();
    let mut entries: Vec<(MapWord, MapWord)> = present
        .filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?)))
        .collect();
    for change in &difference.changes {
        match change {
            MapChange::Add(_, key, value) => entries.push((key.clone(), value.clone())),
            MapChange::Set(_, key, value) => {
                let mut entries = entries.iter_mut();
                if let Some(entry) = entries.find(|entry| entry.0 == *key) {
                    entry.1 = value.clone();
                }
            }
            MapChange::Delete(_, key) => entries.retain(|entry| entry.0 != *key),
            MapChange::Prepare(_) | MapChange::AddTo(..) | MapChange::Commit(..) => {}
        }
    }
    let is_ours = |(key, value): &(MapWord, MapWord)| {
        let wish = wanted.routes.get(key);
        wish.is_some_and(|wish| wish.backend.as_str() == value.as_str())
    };
    let wrong = misplaced(&entries, &is_ours);
    if wrong == 0 {
        return;
    }
    let ordered = ordered(&entries, &is_ours);
    if misplaced(&ordered, &is_ours) >= wrong {
        return;
    }
    if is_plain {
        difference.replacement = Some(ordered);
    } else {
        let obstacle = RouteObstacle::Order(wanted.map.clone());
        difference.obstacles.insert(obstacle);
    }
}

type Entry = (MapWord, MapWord);

/// The proper ends of a key.
fn ends(key: &MapWord) -> impl Iterator<Item = &str> {
    (1..key.as_str().len()).map(|at| &key.as_str()[at..])
}

/// How many entries stand behind one that is an end of theirs, where one of both is ours.
fn misplaced(entries: &[Entry], is_ours: &dyn Fn(&Entry) -> bool) -> usize {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, (key, _)) in entries.iter().enumerate() {
        places.entry(key.as_str()).or_insert(place);
    }
    let mut wrong = 0;
    for (place, entry) in entries.iter().enumerate() {
        wrong += ends(&entry.0)
            .filter_map(|end| places.get(end))
            .filter(|other| **other < place && (is_ours(entry) || is_ours(&entries[**other])))
            .count();
    }
    wrong
}

/// Ours, the longest first, each before the first foreign entry that is an end of it.
fn ordered(entries: &[Entry], is_ours: &dyn Fn(&Entry) -> bool) -> Vec<Entry> {
    let (mut ours, foreign): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(is_ours);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, (key, _)) in foreign.iter().enumerate() {
        places.entry(key.as_str()).or_insert(place);
    }
    let place = |key: &MapWord| {
        let places = ends(key).filter_map(|end| places.get(end).copied());
        places.min().unwrap_or(foreign.len())
    };
    ours.sort_by_cached_key(|(key, _)| (place(key), usize::MAX - key.as_str().len(), key.clone()));
    let mut ours = ours.into_iter().peekable();
    let mut ordered = Vec::with_capacity(entries.len());
    for at in 0..=foreign.len() {
        while let Some(entry) = ours.next_if(|entry| place(&entry.0) == at) {
            ordered.push(entry);
        }
        ordered.extend(foreign.get(at).cloned());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(text: &str) -> MapWord {
        MapWord::new(text).unwrap()
    }

    fn content(entries: &[(&str, &str)]) -> MapContent {
        let entry = |(key, value): &(&str, &str)| MapEntry {
            key: word(key),
            value: MapWord::new(value).ok(),
        };
        MapContent {
            entries: entries.iter().map(entry).collect(),
            others: 0,
        }
    }

    /// The difference of wishes to backends named `web…`, which take traffic but for `web-new`, against entries.
    fn compare(kind: MapKind, wishes: &[(&str, &str)], entries: &MapContent) -> Difference {
        let map = MapName::new("virt@m").unwrap();
        let words: Vec<_> = wishes
            .iter()
            .map(|(key, value)| (word(key), BackendName::new(value).unwrap()))
            .collect();
        let routes = words
            .iter()
            .map(|(key, backend)| {
                let wish = Wish {
                    backend,
                    takes_traffic: backend.as_str() != "web-new",
                    is_over: false,
                };
                (key, wish)
            })
            .collect();
        let wanted = Wanted {
            kind,
            map: &map,
            routes: &routes,
            is_ours: &|backend| backend.as_str().starts_with("web"),
            may_go: &|_, backend| backend.as_str() != "web-unknown",
            refused: &BTreeMap::new(),
        };
        difference(&wanted, entries)
    }

    fn changes(difference: &Difference) -> Vec<String> {
        let text = |change: &MapChange| match change {
            MapChange::Add(_, key, value) => format!("add {key} {value}"),
            MapChange::Set(_, key, value) => format!("set {key} {value}"),
            MapChange::Delete(_, key) => format!("del {key}"),
            other @ (MapChange::Prepare(_) | MapChange::AddTo(..) | MapChange::Commit(..)) => {
                panic!("{other:?}")
            }
        };
        difference.changes.iter().map(text).collect()
    }

    #[test]
    fn only_what_differs_is_written_and_foreign_entries_stay() {
        let present = content(&[
            ("a.example", "web"),
            ("b.example", "operators"),
            ("c.example", "web"),
            ("d.example", "web"),
            ("e.example", "web-unknown"),
            ("g.example", "two words"),
            ("h.example", "operators"),
        ]);
        let wishes = [
            ("a.example", "web"),
            ("c.example", "web2"),
            ("f.example", "web"),
            ("g.example", "web"),
            ("h.example", "web"),
            ("i.example", "web-new"),
        ];
        let difference = compare(MapKind::Host, &wishes, &present);
        assert_eq!(
            changes(&difference),
            ["set c.example web2", "add f.example web", "del d.example"]
        );
        assert_eq!((difference.active, difference.waiting.len()), (1, 1));
        let obstacles: Vec<_> = difference
            .obstacles
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            obstacles,
            [
                "host g.example is not routed to web: an entry that is not the sidecar's leads to something else; delete it (del map) \
                 or take the tag away",
                "host h.example is not routed to web: an entry that is not the sidecar's leads to operators; delete it (del map) or \
                 take the tag away"
            ]
        );
    }

    #[test]
    fn a_key_that_is_there_twice_is_neither_added_nor_deleted() {
        let present = content(&[
            ("a.example", "web"),
            ("a.example", "operators"),
            ("b.example", "web"),
            ("b.example", "web"),
        ]);
        let difference = compare(MapKind::Host, &[("b.example", "web")], &present);
        assert_eq!(changes(&difference), [""; 0]);
    }

    #[test]
    fn a_longer_suffix_is_put_before_a_shorter_one_with_everybodys_entries() {
        let present = content(&[
            (".a.example", "web"),
            (".z.example", "operators"),
            (".example", "operators"),
        ]);
        let wishes = [(".a.example", "web"), (".b.a.example", "web2")];
        let difference = compare(MapKind::Suffix, &wishes, &present);
        let replacement = difference.replacement.unwrap();
        let keys: Vec<_> = replacement.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [".z.example", ".b.a.example", ".a.example", ".example"]
        );
        // Nothing shorter is there: it is appended.
        let wishes = [(".a.example", "web"), (".b.example", "web")];
        let present = content(&[(".a.example", "web")]);
        let difference = compare(MapKind::Suffix, &wishes, &present);
        assert_eq!(changes(&difference), ["add .b.example web"]);
        assert!(difference.replacement.is_none());
    }

    #[test]
    fn entries_that_cannot_be_written_anew_keep_the_map_as_it_is() {
        let present = content(&[(".example", "web"), (".x", "two words")]);
        let wishes = [(".example", "web"), (".a.example", "web")];
        let difference = compare(MapKind::Suffix, &wishes, &present);
        assert!(difference.replacement.is_none());
        assert_eq!(difference.obstacles.len(), 1);
    }

    proptest! {
        #[test]
        fn a_second_pass_does_nothing_whatever_the_map_has(
            present in proptest::collection::vec(("(\\.[ab]){1,4}", 0..4_usize), 0..8),
            wishes in proptest::collection::btree_map("(\\.[ab]){1,4}", 0..2_usize, 0..8),
        ) {
            let values = ["web", "web2", "operators", "web-unknown"];
            let present: Vec<_> = present.iter().map(|(key, value)| (key.as_str(), values[*value])).collect();
            let wishes: Vec<_> = wishes.iter().map(|(key, value)| (key.as_str(), values[*value])).collect();
            let mut now = content(&present);
            let first = compare(MapKind::Suffix, &wishes, &now);
            let apply = |now: &mut MapContent, difference: Difference| {
                if let Some(entries) = difference.replacement {
                    now.entries = entries.into_iter().map(|(key, value)| MapEntry { key, value: Some(value) }).collect();
                    return;
                }
                for change in difference.changes {
                    match change {
                        MapChange::Add(_, key, value) => now.entries.push(MapEntry { key, value: Some(value) }),
                        MapChange::Set(_, key, value) => now.entries.iter_mut().filter(|entry| entry.key == key).for_each(|entry| entry.value = Some(value.clone())),
                        MapChange::Delete(_, key) => now.entries.retain(|entry| entry.key != key),
                        other @ (MapChange::Prepare(_) | MapChange::AddTo(..) | MapChange::Commit(..)) => panic!("{other:?}"),
                    }
                }
            };
            apply(&mut now, first);
            let second = compare(MapKind::Suffix, &wishes, &now);
            prop_assert!(second.changes.is_empty() && second.replacement.is_none(), "{:?} {second:?}", now.entries);
            // What was an operator's is there, in its order.
            let operators = |entries: &[(String, String)]| entries.iter().filter(|(_, value)| value == "operators").cloned().collect::<Vec<_>>();
            let before: Vec<_> = present.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            let after: Vec<_> = now.entries.iter().map(|entry| (entry.key.to_string(), entry.value.as_ref().unwrap().to_string())).collect();
            let set: BTreeSet<_> = wishes.iter().map(|(key, _)| (*key).to_owned()).collect();
            let untouched = |all: Vec<(String, String)>| all.into_iter().filter(|(key, _)| !set.contains(key)).collect::<Vec<_>>();
            prop_assert_eq!(untouched(operators(&before)), untouched(operators(&after)));
        }
    }
}
