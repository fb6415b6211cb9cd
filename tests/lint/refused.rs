//! What Nomad refuses is a failure; what it cannot evaluate is read as it is written.

use super::*;

const REFUSED: &str = "tests/lint/jobs/refused.nomad.hcl";
const UNSET: &str = "tests/lint/jobs/unset.nomad.hcl";

#[test]
fn a_job_that_nomad_refuses_is_a_failure_in_nomads_words() {
    let (address, asked) = nomad("job-parse-refused-400.http");
    let output = command(&[REFUSED], &address).output().unwrap();
    asked.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    insta::assert_snapshot!("refused", String::from_utf8(output.stderr).unwrap());
}

#[test]
fn what_a_service_does_not_have_is_found_without_nomad() {
    insta::assert_snapshot!("refused_offline", text(&lint(&[REFUSED])));
}

#[test]
fn a_job_that_takes_values_of_the_caller_is_read_as_it_is_written() {
    let (address, asked) = nomad("job-parse-unset-400.http");
    let output = command(&[UNSET], &address).output().unwrap();
    asked.join().unwrap();
    insta::assert_snapshot!("unset", text(&output).replace(&address, "ADDRESS"));
}
