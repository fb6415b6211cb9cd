//! The pages of `docs` that say what the program says, held against its sources: every line of the log at WARN or above,
//! every label of a metric, and what works with which HAProxy.

#![expect(
    clippy::unwrap_used,
    reason = "a test; most of it is no function with the attribute"
)]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use haproxy_nomad_sidecar::model::{CAPABILITIES, Capability, DEFECTS, Defect, Version};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(name: impl AsRef<Path>) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below `directory`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The string literals of a piece of code, as the program has them.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut characters = code.chars();
    while characters.by_ref().any(|c| c == '"') {
        let mut text = String::new();
        while let Some(c) = characters.next().filter(|c| *c != '"') {
            match (c, c == '\\') {
                (_, true) => match characters.next() {
                    // The line goes on below.
                    Some('\n') => {
                        let rest = characters.as_str().trim_start();
                        characters = rest.chars();
                    }
                    Some(escaped) => text.push(escaped),
                    None => {}
                },
                (c, false) => text.push(c),
            }
        }
        found.push(text);
    }
    found
}

/// What stands between the parenthesis that `code` begins behind and its end.
fn arguments(code: &str) -> &str {
    let (mut depth, mut is_text, mut is_escaped) = (1, false, false);
    for (at, c) in code.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_text => is_escaped = true,
            '"' => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[..at];
        }
    }
    panic!("no end: {code}")
}

/// The messages of every `warn!` and `error!`, with their file.
fn warnings() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in sources(&root().join("src")) {
        let code = file(&path);
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        for (at, _) in code.match_indices("!(") {
            let is_one = ["warn", "error"].iter().any(|it| {
                code[..at].ends_with(it)
                    && !code[..at - it.len()].ends_with(|c: char| c == '_' || c.is_alphanumeric())
            });
            if is_one {
                let message = literals(arguments(&code[at + 2..])).pop();
                found.push((name.clone(), message.unwrap_or_default()));
            }
        }
    }
    found
}

/// The parts of a message that are always the same.
fn fixed(message: &str) -> Vec<&str> {
    let parts = message.split('{').enumerate().map(|(at, part)| match at {
        0 => part,
        _ => part.split_once('}').map_or("", |(_, rest)| rest),
    });
    parts
        .map(str::trim)
        .filter(|part| part.len() >= 7)
        .collect()
}

/// What a row of the page names: each text in backticks of the first column, without what varies.
fn named_lines(page: &str) -> Vec<(Vec<String>, String)> {
    let mut lines = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let (&advice, names) = columns.split_last().expect("a row has columns");
        for text in names
            .iter()
            .flat_map(|name| name.split('`').skip(1).step_by(2))
        {
            // Fields come behind the message.
            let is_field = |word: &&str| !word.contains('=');
            let message = text.split(' ').take_while(is_field).collect::<Vec<_>>();
            let message = message.join(" ");
            let parts = message.split('…').map(|part| part.trim().to_owned());
            lines.push((
                parts.filter(|part| part.len() >= 7).collect(),
                advice.to_owned(),
            ));
        }
    }
    lines
}

/// Messages that are text of another place altogether, and how the page names these.
const OF_OTHERS: [(&str, &[&str]); 4] = [
    (
        "src/daemon/charge/mod.rs",
        &[
            "the sidecar that was in charge of",
            "and follows something else",
        ],
    ),
    ("src/daemon/jobs.rs", &["an instance is stopped"]),
    ("src/daemon/report.rs", &["allocations may not be read"]),
    (
        "src/daemon/state_file.rs",
        &["the state file cannot be written"],
    ),
];

#[test]
fn every_line_at_warn_or_above_is_on_the_page_with_what_to_do() {
    let page = file("docs/operations.md");
    let lines = named_lines(&page);
    let warnings = warnings();
    assert!(warnings.len() > 35, "{} are found", warnings.len());
    let mut missing = String::new();
    for (name, message) in &warnings {
        let parts = fixed(message);
        let is_named = if parts.is_empty() {
            let of_others = OF_OTHERS.iter().find(|(file, _)| file == name);
            of_others.is_some_and(|(_, texts)| texts.iter().all(|text| page.contains(text)))
        } else {
            lines.iter().any(|(names, advice)| {
                let names_it = names.iter().any(|it| {
                    parts.iter().any(|part| {
                        part.starts_with(it.as_str())
                            || (message.starts_with('{') && it.ends_with(part))
                    })
                });
                names_it && advice.trim().len() > 2
            })
        };
        if !is_named {
            writeln!(missing, "{name}: {message}").unwrap();
        }
    }
    assert!(missing.is_empty(), "docs/operations.md lacks\n{missing}");
}

#[test]
fn the_page_has_no_line_that_nobody_writes() {
    let page = file("docs/operations.md");
    let (_, log) = page.split_once("## The log\n").unwrap();
    let (log, _) = log.split_once("\n## ").unwrap();
    let mut texts = String::new();
    for path in sources(&root().join("src")) {
        for literal in literals(&file(path)) {
            texts.push_str(&literal);
            texts.push('\n');
        }
    }
    for (names, _) in named_lines(log) {
        for part in names {
            // A time, or a name, stands for any.
            let part = part.split(" 12 s").next().unwrap();
            // Some begin with one text and go on with another.
            let rest = part.split_once(": ").map_or(part, |(_, rest)| rest);
            let is_written = texts.contains(part) || texts.contains(rest);
            assert!(is_written, "nobody writes {part:?}");
        }
    }
}

#[test]
fn every_label_of_a_metric_is_on_its_page() {
    let page = file("docs/metrics.md");
    let words: BTreeSet<&str> = page
        .split(|c: char| c != '_' && !c.is_ascii_alphanumeric())
        .collect();
    for (name, of) in [
        ("src/reconcile/obstacle.rs", "fn as_str"),
        ("src/reconcile/hold.rs", "fn as_str"),
        ("src/snapshot/refusal.rs", "fn as_str"),
        ("src/nomad/traffic.rs", "enum Kind"),
        ("src/catalog/exchange.rs", "enum Cause"),
    ] {
        let code = file(name);
        assert!(code.contains(of), "{name}: {of}");
        let labels: Vec<_> = code
            .lines()
            .filter_map(|line| line.split_once("=> \"")?.1.split('"').next())
            .collect();
        assert!(labels.len() > 3, "{name}");
        for label in labels.into_iter().filter(|label| !label.contains(' ')) {
            assert!(
                words.contains(label),
                "docs/metrics.md lacks {label} of {name}"
            );
        }
    }
}

/// The newest of each line that the tests run on.
const LINES: [Version; 5] = [
    Version::new(2, 6, 12),
    Version::new(2, 8, 25),
    Version::new(3, 0, 11),
    Version::new(3, 2, 26),
    Version::new(3, 4, 7),
];

fn row(what: &str, is_so: impl Fn(Version) -> bool, rest: &str) -> String {
    let cells = LINES.map(|version| if is_so(version) { " yes |" } else { " |" });
    format!("| {what} |{}{rest}\n", cells.concat())
}

#[test]
fn what_works_with_which_haproxy_is_as_the_program_knows_it() {
    let mut table = "| | 2.6 | 2.8 | 3.0 | 3.2 | 3.4 |\n|---|---|---|---|---|---|\n".to_owned();
    for (capability, _) in CAPABILITIES {
        let what = match capability {
            Capability::DynamicServers => "servers that are added and deleted at runtime",
            Capability::InitState => {
                "`init-state`: a new server is down until its checks have passed, without a trick"
            }
            Capability::DynamicBackends => {
                "backends that are made at runtime: nothing of a service in haproxy.cfg"
            }
            Capability::ServerCookie => "the tag `haproxy.cookie`",
            Capability::HealthcheckSections => {
                "the tag `haproxy.check.profile`: a check of its own for a service"
            }
        };
        table += &row(what, |version| version.can(*capability), "");
    }
    let page = file("docs/compatibility.md");
    assert!(page.contains(&table), "it should be\n{table}");

    let mut table =
        "| defect | 2.6 | 2.8 | 3.0 | 3.2 | 3.4 | instead |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for defect in DEFECTS {
        let what = match defect.defect {
            Defect::NoReuseByDynamicServers => {
                "servers that were added open a connection for each request"
            }
            Defect::IdleConnectionBlocksDelete => {
                "an idle connection keeps a server from being deleted"
            }
            Defect::AddressAnsweredEarly => {
                "a change of address is acknowledged before it is in force"
            }
            Defect::CrashInDisabledBackend => {
                "a server added to a disabled backend without `balance` ends the process"
            }
            Defect::SlowInBigBackends => {
                "commands take longer the more servers a backend has, and hold up traffic"
            }
        };
        let rest = format!(" {} |", defect.instead);
        table += &row(what, |version| version.has(defect.defect), &rest);
    }
    assert!(page.contains(&table), "it should be\n{table}");
}

#[test]
fn messages_are_read_out_of_the_code() {
    let code = "x %error, \"a {} (b) \\\n   c \\\"d\\\"\", f(1)) rest";
    assert_eq!(literals(arguments(code)), ["a {} (b) c \"d\""]);
    assert_eq!(
        fixed("blocked: {}, and then {x} this"),
        ["blocked:", ", and then"]
    );
}
