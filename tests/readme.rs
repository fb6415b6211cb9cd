//! What README.md and the tables of `docs` say, held against the program: flags, metrics, tags, targets, links, and the job
//! where `nomad` is there.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use haproxy_nomad_sidecar::{
    admin::{BackendCount, Metrics, Namespace, ServersOwned, Status},
    model::{self, BackendName, Outcome, ServerName, ServerRef},
    reconcile::tags,
};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between the first `begin` and the next `end`.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("no {begin}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end}")).0
}

/// Every word in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_table_of_settings_is_that_of_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, options) = help.split_once("Options:\n").unwrap();
    let mut table = "| flag | variable | meaning |\n|---|---|---|\n".to_owned();
    for option in options
        .split("\n      --")
        .map(|it| it.trim_start_matches("      --"))
    {
        let (name, rest) = option.split_once([' ', '=', '[']).unwrap();
        let Some((text, variable)) = rest.split_once("[env: ") else {
            continue;
        };
        let variable = variable.split(['=', ']']).next().unwrap();
        let (_, text) = text.split_once('\n').unwrap();
        let meaning = text.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(table, "| `--{name}` | `{variable}` | {meaning} |").unwrap();
    }
    assert!(
        file("docs/configuration.md").contains(&table),
        "it should be\n{table}"
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "only a starting point")]
fn the_table_of_metrics_is_what_is_exposed() {
    // A metric without a sample is not exposed.
    let metrics = Metrics::new();
    metrics.first_sync(Duration::ZERO, 0);
    metrics.servers_owned(ServersOwned::default());
    metrics.backends_made(0, 0, 0);
    let server = ServerRef {
        backend: BackendName::new("web").unwrap(),
        server: ServerName::new("nomad1").unwrap(),
    };
    let command = model::Command::Ready(server);
    metrics.haproxy().answered(&command, &Outcome::Done);
    metrics.backends().admissions(0, 0, 0);
    metrics.backends().drain_ended("idle");
    metrics.backends().blocked(&[("no_free_slot", 1)].into());
    let counted = BackendCount {
        missing: 0,
        slots: 1,
        slots_used: 0,
    };
    metrics
        .backends()
        .backends(&[("web".to_owned(), counted)].into());
    metrics.hold_ended("replaced");
    metrics.operators().servers_by_hand(0, 0, 0);
    metrics.operators().observed(&command);
    metrics.routes().routes([("active", 0); 5]);
    let map = model::MapName::new("virt@hosts").unwrap();
    let change = model::MapChange::Prepare(map);
    metrics.routes().changed(&change, None);
    metrics.snapshot().refused("too_old");
    metrics.guards().servers_guarded("mass", 0);
    metrics.guards().second_opinion(&model::Allocation::Unknown);
    metrics.panicked("core");
    metrics.nomad().requests("list", "ok", 1);
    metrics.nomad().received_bytes("list", 1);
    metrics.nomad().reread("audit", 1);
    let now = Instant::now();
    let mut status = Status::starting(now);
    let mut namespace = Namespace::new("default", now);
    namespace.index = Some(1);
    status.namespaces = vec![namespace];
    let text = metrics.render(&status, now).unwrap();

    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(help) = line.strip_prefix("# HELP haproxy_nomad_sidecar_") else {
            continue;
        };
        let (name, meaning) = help.split_once(' ').unwrap();
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let meaning = meaning.trim_end_matches('.');
        writeln!(table, "| `{name}{end}` | {kind} | {meaning} |").unwrap();
    }
    assert!(
        file("docs/metrics.md").contains(&table),
        "it should be\n{table}"
    );
}

#[test]
fn the_tags_are_supported_or_not_as_it_says() {
    let page = file("docs/tags.md");
    let noted = |tag: &str| {
        let read = tags::read("haproxy", &[tag.to_owned()]).unwrap();
        read.notes
            .iter()
            .map(|note| note.problem.clone())
            .collect::<Vec<_>>()
    };
    let supported = between(&page, "| tag | meaning", "\n\n");
    let mut count = 0;
    for tag in quoted(supported).filter(|it| it.starts_with("haproxy.")) {
        assert_eq!(noted(tag), [""; 0], "{tag}");
        count += 1;
    }
    assert!(count > 10, "{count} tags");
    let missing = between(&page, "**not supported yet**:", ".\n\n");
    for tag in quoted(missing) {
        assert_eq!(noted(tag), ["not supported yet, it has no effect"], "{tag}");
    }
}

#[test]
fn every_target_that_is_named_is_in_the_makefile() {
    let makefile = file("Makefile");
    for name in ["README.md", "CONTRIBUTING.md"] {
        let text = file(name);
        let named: BTreeSet<&str> = quoted(&text)
            .chain(text.lines())
            .filter_map(|it| it.strip_prefix("make ")?.split_whitespace().next())
            .collect();
        assert!(named.contains("test"), "{name}: {named:?}");
        for target in named {
            assert!(
                makefile.contains(&format!("\n{target}:")),
                "{name}: make {target}"
            );
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"].map(PathBuf::from).into();
    for directory in ["docs", "docs/verified"] {
        let entries = fs::read_dir(root.join(directory)).unwrap();
        let names = entries.map(|entry| Path::new(directory).join(entry.unwrap().file_name()));
        pages.extend(names.filter(|name| name.extension().is_some_and(|it| it == "md")));
    }
    for page in pages {
        let text = file(page.to_str().unwrap());
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next());
        for target in targets.filter(|target| !target.starts_with("https://")) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => root.join(&page),
                path => root.join(&page).parent().unwrap().join(path),
            };
            assert!(to.exists(), "{}: {target}", page.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&to).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let is_there = headings.any(|line| anchor(line) == heading);
                assert!(is_there, "{}: {target}", page.display());
            }
        }
    }
}

/// How a heading is linked to.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
        _ => None,
    });
    kept.collect()
}

#[test]
fn the_readme_is_one_screen_that_leads_to_every_page() {
    let readme = file("README.md");
    assert!(readme.lines().count() <= 60);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let architecture = file("docs/architecture.md");
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_linked = |text: &str| text.contains(&format!("{name})"));
        // That one is for who changes the program.
        let is_there = is_linked(&readme) || is_linked(&file("docs/operations.md"));
        assert!(
            is_there || name == "verified" || architecture.contains(&name),
            "{name}"
        );
    }
}

#[test]
fn the_job_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("nomad-jobs/minimal.nomad.hcl");
    assert!(file("README.md").contains("nomad-jobs/minimal.nomad.hcl"));
    let validated = Command::new("nomad")
        .args(["job", "validate"])
        .arg(&path)
        .output();
    match validated {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Past the capture of the test harness.
            let text = b"NO NOMAD on PATH: minimal.nomad.hcl is not validated
";
            io::Write::write_all(&mut io::stderr(), text).unwrap();
        }
        Err(error) => panic!("{error}"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
}
