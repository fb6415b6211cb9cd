//! One mistake hides no other, and each has the line of its tag or name.

use super::*;

const HIDDEN: &str = "tests/lint/jobs/hidden.nomad.hcl";

#[test]
fn what_is_wrong_behind_something_else_is_named_with_its_own_line() {
    insta::assert_snapshot!("hidden", text(&lint(&[HIDDEN])));
}

#[test]
fn what_the_policy_forbids_has_the_line_of_its_tag() {
    let output = lint(&[HIDDEN, "--policy-file", "tests/lint/jobs/policy.toml"]);
    insta::assert_snapshot!("policy", text(&output));
}

#[test]
fn a_bad_value_is_told_from_what_is_forbidden() {
    let rules = |arguments: &[&str]| {
        let output = lint(&[&[HIDDEN, "--json"], arguments].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let rules = findings.iter().map(|finding| {
            let line = finding["line"].as_u64().unwrap();
            (line, finding["rule"].as_str().unwrap().to_owned())
        });
        rules.collect::<Vec<_>>()
    };
    let policy = |rules: Vec<(u64, String)>| {
        let mut policy = rules;
        policy.retain(|(_, rule)| rule == "policy");
        policy.into_iter().map(|(line, _)| line).collect::<Vec<_>>()
    };
    // The name with a dot.
    assert_eq!(policy(rules(&[])), [30]);
    let file = ["--policy-file", "tests/lint/jobs/policy.toml"];
    assert_eq!(policy(rules(&file)), [17, 23, 30, 58, 59, 60]);
}

/// What `--from connector` says of a tag is what the finding says.
#[test]
fn the_tags_of_the_go_connector_that_nobody_reads_are_among_them() {
    let job = "tests/lint/jobs/connector-misread.nomad.hcl";
    let output = text(&lint(&[job, "--from", "connector"]));
    insta::assert_snapshot!("connector_misread", output);
}

#[test]
fn a_job_without_a_group_is_a_finding_with_and_without_nomad() {
    for job in ["job \"x\" {}", "{\"ID\": \"x\", \"TaskGroups\": null}"] {
        let mut command = command(&["-", "--offline"], "http://127.0.0.1:1");
        assert_eq!(
            text(&from_stdin(&mut command, job)),
            "<stdin>: finding: job \"x\": Nomad refuses the job: it has no group\n\
             1 finding; 0 of 0 services are for the sidecar\nexit code 2\n"
        );
    }
}
