//! What README.md says, held against the program: flags, metrics, tags, targets, links, and the job where `nomad` is there.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    path::Path,
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
    assert!(file("README.md").contains(&table), "it should be\n{table}");
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
    assert!(file("README.md").contains(&table), "it should be\n{table}");
}

#[test]
fn the_tags_are_supported_or_not_as_it_says() {
    let readme = file("README.md");
    let noted = |tag: &str| {
        let read = tags::read("haproxy", &[tag.to_owned()]).unwrap();
        read.notes
            .iter()
            .map(|note| note.problem.clone())
            .collect::<Vec<_>>()
    };
    let supported = between(&readme, "| tag | meaning", "\n\n");
    let mut count = 0;
    for tag in quoted(supported).filter(|it| it.starts_with("haproxy.")) {
        assert_eq!(noted(tag), [""; 0], "{tag}");
        count += 1;
    }
    assert!(count > 10, "{count} tags");
    let missing = between(&readme, "**not supported yet**:", ".\n\n");
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
fn every_link_to_a_file_has_its_file() {
    let text = file("README.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|it| it.split(')').next());
    for target in targets.filter(|target| !target.starts_with("https://")) {
        assert!(root.join(target).is_file(), "{target}");
    }
}

#[test]
fn the_job_is_valid() {
    let readme = file("README.md");
    let job = between(&readme, "```hcl\n", "```\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.nomad.hcl");
    fs::write(&path, job).unwrap();
    let validated = Command::new("nomad")
        .args(["job", "validate"])
        .arg(&path)
        .output();
    match validated {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Past the capture of the test harness.
            let text = b"NO NOMAD on PATH: the job of README.md is not validated
";
            io::Write::write_all(&mut io::stderr(), text).unwrap();
        }
        Err(error) => panic!("{error}"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
}
