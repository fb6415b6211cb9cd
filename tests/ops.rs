//! What operators load into Prometheus and Grafana names only metrics that there are, and does what it says.

#[path = "support/promtool.rs"]
mod promtool;

use std::{collections::BTreeSet, fs, path::Path, time::Instant};

use haproxy_nomad_sidecar::admin::{Metrics, Status, to_text_format};
use promtool::{assert_takes, promtool};
use serde_json::Value;

const PREFIX: &str = "haproxy_nomad_sidecar_";

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics of the documentation, which another test holds to what is exposed, under every name that a query may use.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for line in file("docs/metrics.md").lines() {
        let Some((name, kind)) = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split_once("` | "))
        else {
            continue;
        };
        known.insert(name.to_owned());
        if kind.starts_with("histogram") {
            known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    known
}

fn assert_known(text: &str, known: &BTreeSet<String>) {
    let mut number = 0;
    for (at, _) in text.match_indices(PREFIX) {
        let rest = &text[at + PREFIX.len()..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = rest
            .split(|c| !is_part(c))
            .next()
            .expect("a split has a part");
        assert!(known.contains(name), "there is no metric {PREFIX}{name}");
        number += 1;
    }
    assert!(number > 5, "the text is about metrics");
}

#[test]
fn the_alerts_and_the_board_name_metrics_that_there_are() {
    let known = known();
    assert_known(&file("ops/alerts.yaml"), &known);
    assert_known(&file("ops/grafana.json"), &known);
}

#[test]
fn the_board_can_be_loaded_and_its_panels_ask_for_something() {
    let board: Value = serde_json::from_str(&file("ops/grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] != "row" {
            let targets = panel["targets"].as_array().unwrap();
            assert!(targets.iter().all(|target| target["expr"].is_string()));
            assert!(!targets.is_empty(), "{panel}");
        }
    }
    assert!(panels.len() > 15);
}

#[test]
fn every_alert_has_its_paragraph() {
    let runbook = file("docs/runbook.md");
    let headings: BTreeSet<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let alerts = file("ops/alerts.yaml");
    let links: Vec<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook_url: docs/runbook.md#"))
        .collect();
    let names = alerts.lines().filter(|line| line.contains("- alert: "));
    assert_eq!(links.len(), names.count());
    for link in links {
        assert!(headings.contains(link), "{link}");
    }
}

#[test]
fn prometheus_takes_the_alerts_and_they_fire_when_they_should() {
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts-test.yaml"],
    ] {
        let Some(output) = promtool(&arguments, "") else {
            return;
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    assert_takes(&exposed());
}

/// What a sidecar that has just started exposes.
#[expect(clippy::disallowed_methods, reason = "only a starting point")]
fn exposed() -> String {
    let now = Instant::now();
    to_text_format(
        &Metrics::new()
            .render(&Status::starting(now), now)
            .expect("metrics are text"),
    )
}
