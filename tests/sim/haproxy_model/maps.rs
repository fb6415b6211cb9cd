//! Maps: what `show`, `add`, `set`, `del`, `prepare` and `commit map` answer, and what a lookup finds.

use std::collections::BTreeMap;

use super::{Line, Model};

const UNKNOWN: &str = "Unknown map identifier. Please use #<id> or <file>.\n";

/// Keys and values in HAProxy's order. A key may be there twice.
type Entries = Vec<(String, String)>;

#[derive(Clone, Default)]
pub(super) struct Map {
    /// As the file has it; a virtual map is empty.
    at_start: Entries,
    entries: Entries,
    version: u32,
    /// The last version that was prepared, with those that were not committed.
    next_version: u32,
    pending: BTreeMap<u32, Entries>,
}

impl Map {
    /// As it is in the next process.
    pub(super) fn of_the_next_process(&self) -> Self {
        Self {
            at_start: self.at_start.clone(),
            entries: self.at_start.clone(),
            ..Self::default()
        }
    }
}

impl Model {
    /// With a map that a frontend looks up.
    pub(crate) fn declare_map(&mut self, name: &str, file: &[(&str, &str)]) {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let entries: Entries = file.iter().map(own).collect();
        let map = Map {
            at_start: entries.clone(),
            entries,
            ..Map::default()
        };
        self.maps.insert(name.to_owned(), map);
    }

    /// `show map <name>`
    pub(crate) fn show_map(&self, name: &str) -> String {
        let Some(map) = self.maps.get(name) else {
            return UNKNOWN.to_owned();
        };
        let entries = map.entries.iter().enumerate();
        let lines = entries.map(|(place, (key, value))| {
            let reference = 0x1000 + 64 * place;
            format!("0x{reference:x} {key} {value}\n")
        });
        lines.collect::<Vec<_>>().concat()
    }

    pub(super) fn add_map(&mut self, words: &[&str]) -> String {
        let (version, words) = version_of(words);
        let [name, rest @ ..] = words else {
            return EXPECTS.to_owned();
        };
        // Without a value it may be the beginning of a payload.
        let [key, value, ..] = rest else {
            return EXPECTS.to_owned();
        };
        let Some(map) = self.maps.get_mut(*name) else {
            return UNKNOWN.to_owned();
        };
        let entry = (unescaped(key), unescaped(value));
        match version {
            None => map.entries.push(entry),
            Some(version) if version > map.next_version => {
                return "Version number in the future, please use 'prepare map' before.\n"
                    .to_owned();
            }
            Some(version) => map.pending.entry(version).or_default().push(entry),
        }
        String::new()
    }

    pub(super) fn set_map(&mut self, words: &[&str]) -> String {
        let [name, key, value, ..] = words else {
            panic!("nobody sets half an entry");
        };
        let Some(map) = self.maps.get_mut(*name) else {
            return UNKNOWN.to_owned();
        };
        let key = unescaped(key);
        let mut found = false;
        for entry in map.entries.iter_mut().filter(|entry| entry.0 == key) {
            entry.1 = unescaped(value);
            found = true;
        }
        if found {
            String::new()
        } else {
            "entry not found.\n".to_owned()
        }
    }

    /// 3.4 deletes one entry of a key, those before it all.
    pub(super) fn del_map(&mut self, words: &[&str]) -> String {
        let [name, key, ..] = words else {
            panic!("nobody deletes nothing");
        };
        let line = self.line;
        let Some(map) = self.maps.get_mut(*name) else {
            return UNKNOWN.to_owned();
        };
        let key = unescaped(key);
        let Some(first) = map.entries.iter().position(|entry| entry.0 == key) else {
            return "Key not found.\n".to_owned();
        };
        if line < Line(3, 4) {
            map.entries.retain(|entry| entry.0 != key);
        } else {
            map.entries.remove(first);
        }
        String::new()
    }

    pub(super) fn prepare_map(&mut self, name: &str) -> String {
        let Some(map) = self.maps.get_mut(name) else {
            return UNKNOWN.to_owned();
        };
        map.next_version += 1;
        map.pending.insert(map.next_version, Vec::new());
        format!("New version created: {}\n", map.next_version)
    }

    pub(super) fn commit_map(&mut self, words: &[&str]) -> String {
        let (Some(version), [name]) = version_of(words) else {
            panic!("nobody commits without a version");
        };
        let Some(map) = self.maps.get_mut(*name) else {
            return UNKNOWN.to_owned();
        };
        if version <= map.version || version > map.next_version {
            return "Version number out of range.\n".to_owned();
        }
        map.entries = map.pending.remove(&version).unwrap_or_default();
        map.version = version;
        map.next_version = version;
        map.pending.clear();
        String::new()
    }
}

const EXPECTS: &str = "'add map' expects three parameters (map identifier, key and value) or one parameter (map identifier) and a \
    payload\n";

fn version_of<'a, 'b>(words: &'a [&'b str]) -> (Option<u32>, &'a [&'b str]) {
    match words {
        [first, rest @ ..] if first.starts_with('@') => (first[1..].parse().ok(), rest),
        _ => (None, words),
    }
}

fn unescaped(word: &str) -> String {
    let mut plain = String::new();
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    plain
}
