//! The shape of the code, held by reading it: who may import whom, what the pure modules may not touch, how long a file
//! may be, and that every invariant of `docs/architecture.md` and every threat of `docs/threats.md` names a test that
//! exists.
//!
//! It reads text, not syntax: comments are left out, paths are taken as rustfmt writes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

/// For each module at the top, those that it may import.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("redacted", &[]),
    ("spelling", &[]),
    ("picture", &["spelling"]),
    ("catalog", &["model", "redacted"]),
    ("reconcile", &["model", "redacted", "picture"]),
    ("haproxy", &["model", "redacted"]),
    ("nomad", &["model", "redacted", "catalog"]),
    ("admin", &["model", "redacted", "picture"]),
    ("snapshot", &["model", "redacted", "reconcile"]),
    (
        "config",
        &[
            "model",
            "redacted",
            "admin",
            "nomad",
            "haproxy",
            "reconcile",
            "spelling",
        ],
    ),
    ("lint", &["model", "redacted", "reconcile", "spelling"]),
    ("telemetry", &["config"]),
    ("cli", &["config", "lint"]),
    (
        "daemon",
        &[
            "model",
            "redacted",
            "picture",
            "catalog",
            "reconcile",
            "haproxy",
            "nomad",
            "admin",
            "snapshot",
            "lint",
            "config",
            "telemetry",
        ],
    ),
    ("main", &["cli", "config", "daemon", "telemetry"]),
    ("lib", &[]),
];

/// Modules that take everything as an input: no runtime, clock, socket, file or randomness of their own.
const PURE: &[&str] = &[
    "model",
    "spelling",
    "picture",
    "catalog",
    "reconcile",
    "haproxy/command",
    "haproxy/reply",
    "haproxy/parse",
    "nomad/types",
    "snapshot",
    "lint",
];

/// What a pure module may not name, in any of the ways in which rustfmt writes a path.
const IMPURE: &[&str] = &[
    "tokio::",
    "tokio_",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::io::std",
    "rand::",
    "fastrand::",
];

const MAX_LINES: usize = 600;

/// A file of Rust code.
struct Source {
    /// Without the directory `src` or `tests`, and without `.rs`: `haproxy/command`, `nomad/mod`.
    name: String,
    text: String,
}

impl Source {
    /// Every `.rs` file below `directory` of the package.
    fn all(directory: &str) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut pending = vec![root.clone()];
        let mut sources = Vec::new();
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                pending.extend(entries.map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                sources.push(Self {
                    name: name.to_str().unwrap().to_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
        assert!(!sources.is_empty());
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        sources
    }

    /// The module at the top that the file belongs to.
    fn top(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    /// The path of the file's module.
    fn module(&self) -> Vec<&str> {
        let mut path: Vec<_> = self.name.split('/').collect();
        path.pop_if(|last| *last == "mod");
        path
    }

    /// Whether the file is compiled for tests only: its parent declares it so.
    fn is_of_tests(&self, sources: &[Self]) -> bool {
        let module = self.module();
        let Some((name, parent)) = module.split_last() else {
            return false;
        };
        let declaration = format!("#[cfg(test)]\nmod {name};");
        let mut parents = sources.iter().filter(|source| source.module() == parent);
        parents.any(|source| source.text.contains(&declaration))
    }

    /// Whether the file is `module`, or below it.
    fn is_in(&self, module: &str) -> bool {
        let below = self.name.strip_prefix(module);
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The code, without comments.
    fn code(&self) -> String {
        let lines = self.text.lines().map(|line| match line.find("//") {
            // A URL in a text is no comment.
            Some(start) if !line[..start].ends_with(':') => &line[..start],
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The code outside of `mod tests`, which is last in a file.
    fn production_code(&self) -> String {
        let code = self.code();
        match code.find("#[cfg(test)]\nmod tests") {
            Some(tests) => code[..tests].to_owned(),
            None => code,
        }
    }

    /// The modules at the top that the code names, by `crate::…`, by the crate's name, or by enough `super::`.
    fn imports(&self) -> BTreeSet<String> {
        let depth = self.module().len();
        paths(&self.code())
            .into_iter()
            .filter_map(|path| {
                let path: Vec<_> = path.split("::").collect();
                let up = path.iter().take_while(|part| **part == "super").count();
                match path[0] {
                    "crate" | "haproxy_nomad_sidecar" => path.get(1).copied(),
                    _ if up > 0 && up >= depth => path.get(up).copied(),
                    _ => None,
                }
                .map(str::to_owned)
            })
            .filter(|name| ARROWS.iter().any(|(module, _)| module == name))
            .collect()
    }
}

/// Every path with `::` in the code, groups in braces expanded: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut prefixes: Vec<Option<String>> = Vec::new();
    let mut path = String::new();
    for c in code.chars().chain([' ']) {
        match c {
            c if c.is_alphanumeric() || c == '_' || c == ':' => {
                path.push(c);
                continue;
            }
            '{' => {
                // Only a group of imports has its brace right behind `::`.
                let group = path.ends_with("::").then(|| join(&prefixes, &path));
                prefixes.push(group);
            }
            _ => {
                if path.contains("::") || matches!(prefixes.last(), Some(Some(_))) {
                    found.insert(join(&prefixes, &path));
                }
                if c == '}' {
                    prefixes.pop();
                }
            }
        }
        path.clear();
    }
    found
}

fn join(prefixes: &[Option<String>], path: &str) -> String {
    let prefix = prefixes.last().cloned().flatten().unwrap_or_default();
    prefix + path
}

#[test]
fn paths_are_read_out_of_groups() {
    let code = "use crate::{\n    model::{Address, BackendName},\n    redacted::Redacted,\n};\nfn f() { super::super::x(std::fs::read(\"\")) }";
    let expected = [
        "crate::model::Address",
        "crate::model::BackendName",
        "crate::redacted::Redacted",
        "std::fs::read",
        "super::super::x",
    ];
    let mut paths = paths(code);
    paths.retain(|path| !path.ends_with("::"));
    assert_eq!(paths, BTreeSet::from(expected.map(str::to_owned)));
}

#[test]
fn imports_are_seen_however_they_are_written() {
    let source = Source {
        name: "haproxy/session".to_owned(),
        text: "use crate::{admin::Status, model};\nuse super::command; // crate::cli\nfn f() { super::super::nomad::x(\"https://a\", crate::daemon::b) }".to_owned(),
    };
    let expected = ["admin", "daemon", "model", "nomad"];
    assert_eq!(
        source.imports(),
        BTreeSet::from(expected.map(str::to_owned))
    );
}

#[test]
fn modules_import_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for source in Source::all("src") {
        let top = source.top();
        let Some((_, allowed)) = ARROWS.iter().find(|(module, _)| *module == top) else {
            wrong.push(format!(
                "src/{}.rs: {top} has no row in ARROWS",
                source.name
            ));
            continue;
        };
        for import in source.imports() {
            if import != top && !allowed.contains(&import.as_str()) {
                wrong.push(format!("src/{}.rs imports {import}", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_take_everything_as_an_input() {
    let mut wrong = Vec::new();
    let sources = Source::all("src");
    for source in &sources {
        if !PURE.iter().any(|module| source.is_in(module)) || source.is_of_tests(&sources) {
            continue;
        }
        for path in paths(&source.production_code()) {
            if let Some(impure) = IMPURE.iter().find(|impure| path.starts_with(**impure)) {
                wrong.push(format!("src/{}.rs has {path} ({impure})", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_pure_module_exists() {
    let sources = Source::all("src");
    for module in PURE {
        assert!(
            sources.iter().any(|source| source.is_in(module)),
            "{module}"
        );
    }
}

#[test]
fn no_file_is_longer_than_600_lines() {
    for directory in ["src", "tests"] {
        for source in Source::all(directory) {
            let lines = source.text.lines().count();
            assert!(
                lines <= MAX_LINES,
                "{directory}/{}.rs has {lines} lines",
                source.name
            );
        }
    }
}

/// The numbered invariants of a document: each item of the list below the heading "Invariants", with all its lines.
fn invariants(document: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let section = document
        .lines()
        .skip_while(|line| !(line.starts_with('#') && line.contains("Invariants")))
        .skip(1)
        .take_while(|line| !line.starts_with('#'));
    for line in section {
        let number = line.split_once(". ").map(|(number, _)| number);
        if number.is_some_and(|number| number.parse::<usize>().is_ok()) {
            items.push(line.to_owned());
        } else if let Some(item) = items.last_mut() {
            item.push('\n');
            item.push_str(line);
        }
    }
    items
}

/// What stands between backticks and has `::` in it.
fn named_tests(item: &str) -> Vec<&str> {
    let quoted = item.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains("::")).collect()
}

/// Whether `name`, `module::test_name` or longer, is a test: a function of that name in a file whose path has the module.
fn is_test(name: &str, sources: &[Source]) -> bool {
    let parts: Vec<_> = name.split("::").filter(|part| *part != "tests").collect();
    let Some((function, modules)) = parts.split_last() else {
        return false;
    };
    let signature = format!("fn {function}(");
    sources.iter().any(|source| {
        let module = source.module();
        modules.iter().all(|part| module.contains(part)) && source.code().contains(&signature)
    })
}

#[test]
fn invariants_are_read_out_of_the_document() {
    let document = "# Architecture\n1. not one\n## Invariants\ntext\n1. **One.** `plan::tests::it_holds`\n   and `sim::too`\n2. **Two.** `Type`, not yet\n## More\n3. not one";
    let items = invariants(document);
    assert_eq!(items.len(), 2);
    assert_eq!(
        named_tests(&items[0]),
        ["plan::tests::it_holds", "sim::too"]
    );
    assert_eq!(named_tests(&items[1]), Vec::<&str>::new());
}

#[test]
fn every_invariant_names_a_test_that_exists_or_says_not_yet() {
    let items = invariants(&document("architecture.md"));
    assert_eq!(items.len(), 13, "the design has thirteen invariants");
    for item in items {
        assert!(
            names_tests(&item) || item.contains("not yet"),
            "no test: {item}"
        );
    }
}

#[test]
fn every_threat_names_a_test_that_exists() {
    let document = document("threats.md");
    let threats = document
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| threat |"));
    for threat in threats {
        assert!(names_tests(threat), "no test: {threat}");
    }
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(path).expect("the page is there")
}

/// Whether there are tests named; those that are have to exist.
fn names_tests(item: &str) -> bool {
    let mut sources = Source::all("src");
    sources.extend(Source::all("tests"));
    let tests = named_tests(item);
    for test in &tests {
        assert!(is_test(test, &sources), "{test} is no test: {item}");
    }
    !tests.is_empty()
}

#[test]
fn a_panic_unwinds_in_every_build() {
    // Otherwise it would end the process, and with it the task group.
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest = manifest.unwrap();
    assert!(manifest.contains("[profile.release]"));
    assert!(!manifest.contains("panic ="), "{manifest}");
}
