//! `lint` as it is started: whole outputs, exit codes, and Nomad's recorded answers. What was recorded are the answers of a
//! real agent (`tests/fixtures/nomad-2.0.5`) to the jobs in `tests/lint/jobs`.

#![cfg(feature = "hcl")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use serde_json::Value;

mod any_bytes;
mod hidden;
mod refused;

const WRONG: &str = "tests/lint/jobs/wrong.nomad.hcl";
const EXPRESSIONS: &str = "tests/lint/jobs/expressions.nomad.hcl";

fn command(arguments: &[&str], nomad: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"));
    command
        .arg("lint")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("NOMAD_ADDR", nomad)
        .env("NOMAD_TOKEN", "s3cr3t");
    command
}

/// Without Nomad.
fn lint(arguments: &[&str]) -> Output {
    let offline = [arguments, &["--offline"]].concat();
    command(&offline, "http://127.0.0.1:1").output().unwrap()
}

fn text(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let code = output.status.code().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    format!("{text}exit code {code}\n")
}

/// What was found, without lines.
fn findings(output: &Output) -> Vec<Value> {
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array_mut().unwrap();
    findings.retain(|finding| finding["kind"] == "finding");
    for finding in &mut *findings {
        finding["line"].take();
    }
    findings.sort_by_key(ToString::to_string);
    findings.clone()
}

#[test]
fn everything_that_is_wrong_is_named_with_its_line_and_what_to_do() {
    insta::assert_snapshot!("wrong", text(&lint(&[WRONG])));
}

#[test]
fn machines_read_the_same() {
    insta::assert_snapshot!("wrong_json", text(&lint(&[WRONG, "--json"])));
}

#[test]
fn what_nomad_prints_of_a_job_has_the_same_findings_as_its_source() {
    let hcl = findings(&lint(&[WRONG, "--json"]));
    let json = findings(&lint(&["tests/lint/jobs/wrong.json", "--json"]));
    assert!(hcl.len() > 8);
    assert_eq!(hcl, json);
}

#[test]
fn what_cannot_be_evaluated_is_said_and_not_guessed() {
    insta::assert_snapshot!("expressions", text(&lint(&[EXPRESSIONS])));
}

/// What Nomad makes of each of these ports was seen: see the file.
#[test]
fn ports_that_nomad_makes_no_address_of_are_found_in_hcl_and_in_json() {
    let job = "tests/lint/jobs/ports.nomad.hcl";
    insta::assert_snapshot!("ports", text(&lint(&[job])));
    let json = findings(&lint(&["tests/lint/jobs/ports.json", "--json"]));
    assert_eq!(findings(&lint(&[job, "--json"])), json);
}

#[test]
fn a_service_whose_tag_that_opts_in_is_misspelt_is_judged_as_it_was_meant() {
    let job = "tests/lint/jobs/enable.nomad.hcl";
    insta::assert_snapshot!("enable", text(&lint(&[job])));
    // It takes part then, and its other findings are the same.
    let output = text(&lint(&[job, "--expose-by-default"]));
    assert!(!output.contains("it is not served"), "{output}");
    assert!(
        output.contains("\n10 findings; 3 of 4 services"),
        "{output}"
    );
}

#[test]
fn the_tags_of_the_go_connector_that_cannot_be_read_are_told_from_those_that_are_wrong() {
    let job = "tests/lint/jobs/connector-expressions.nomad.hcl";
    let output = text(&lint(&[job, "--from", "connector"]));
    insta::assert_snapshot!("connector_expressions", output);
}

#[test]
fn the_tags_of_the_go_connector_are_read_beside_ours() {
    let job = "tests/lint/jobs/connector.nomad.hcl";
    insta::assert_snapshot!("connector", text(&lint(&[job, "--from", "connector"])));
    let output = lint(&[job, "--from", "connector", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["connector"][0]["items"][0]["connector"],
        "the service takes part"
    );
}

#[test]
fn the_shipped_jobs_are_right() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("nomad-jobs")).unwrap() {
        let path = entry.unwrap().path();
        let path = path.to_str().unwrap();
        if path.ends_with(".nomad.hcl") {
            let output = lint(&[path]);
            assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        }
    }
    let output = lint(&["nomad-jobs/example-app.nomad.hcl"]);
    assert_eq!(
        text(&output),
        "nothing to report; 1 of 1 services are for the sidecar\nexit code 0\n"
    );
}

#[test]
fn a_prefix_of_ones_own_and_services_that_need_no_tag_are_known() {
    let output = lint(&[WRONG, "--tag-prefix", "lb"]);
    assert_eq!(
        text(&output),
        "nothing to report; 0 of 6 services are for the sidecar\nexit code 0\n"
    );
    let output = text(&lint(&[WRONG, "--expose-by-default"]));
    assert!(
        output.contains("6 of 6 services are for the sidecar"),
        "{output}"
    );
    assert!(!output.contains("is not among them"), "{output}");
}

#[test]
fn another_namespace_may_not_choose_its_backend() {
    let mut command = command(&["-", "--nomad-namespace", "lb"], "http://127.0.0.1:1");
    let job = r#"{"Job": {"ID": "x", "Namespace": "shop", "TaskGroups": [{"Name": "g", "ShutdownDelay": 60000000000,
        "Services": [{"Name": "web", "PortLabel": "http", "Provider": "nomad",
        "Tags": ["haproxy.enable=true", "haproxy.backend.name=other"]}]}]}}"#;
    let output = from_stdin(&mut command, job);
    let output = text(&output);
    assert!(
        output.starts_with("<stdin>: finding: job \"x\", group \"g\", service \"web\": "),
        "{output}"
    );
    assert!(output.ends_with("exit code 2\n"));
}

fn from_stdin(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn what_is_no_job_ends_with_1_and_says_why() {
    let refusal = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        refusal(lint(&["nowhere.hcl"])),
        "error: read nowhere.hcl: No such file or directory (os error 2)\n"
    );
    assert_eq!(
        refusal(lint(&["nomad-jobs/compose.vars.hcl"])),
        "error: nomad-jobs/compose.vars.hcl: there is no job in it: give a job file in HCL, or what `nomad job run -output` \
         prints\n"
    );
    for (json, kind) in [
        ("[{\"Job\": {}}]", "a list"),
        (" \"web\"", "a text"),
        ("-1", "a number"),
        ("null\n", "a single word"),
    ] {
        let output = from_stdin(&mut command(&["-"], "http://127.0.0.1:1"), json);
        let expected = format!(
            "error: <stdin>: it is {kind} in JSON, and a job is an object: give what `nomad job run -output <job file>` prints, \
             {{\"Job\": …}}\n"
        );
        assert_eq!(refusal(output), expected);
    }
    assert_eq!(
        refusal(from_stdin(
            &mut command(&["-"], "http://127.0.0.1:1"),
            "{\"Job\": 3}"
        )),
        "error: <stdin>: it is no job in JSON: invalid type: integer `3`, expected a job at line 1 column 9\n"
    );
    // What has no job in it needs no Nomad.
    assert_eq!(
        refusal(from_stdin(&mut command(&["-"], "http://127.0.0.1:1"), "")),
        "error: <stdin>: there is no job in it: give a job file in HCL, or what `nomad job run -output` prints\n"
    );
    assert_eq!(
        refusal(lint(&["nomad-jobs"])),
        "error: read nomad-jobs (give one job file at a time): Is a directory (os error 21)\n"
    );
    let offline = || command(&["-", "--offline"], "http://127.0.0.1:1");
    assert_eq!(
        refusal(from_stdin(&mut offline(), "job \"a\" {}\njob \"b\" {}\n")),
        "error: <stdin>: there are 2 jobs in it, and Nomad takes one a file: give each its own\n"
    );
    // Nomad's reasons come behind our own.
    let spoilt = "job \"x\" {";
    let output = refusal(from_stdin(
        &mut command(&["-"], "http://127.0.0.1:1"),
        spoilt,
    ));
    let expected = "error: <stdin>: it is no job in HCL: line 1, column 10: ";
    assert!(output.starts_with(expected), "{output}");
    assert!(
        output.contains(" (Nomad was asked, too: nomad at http://127.0.0.1:1: "),
        "{output}"
    );
    assert_eq!(
        refusal(from_stdin(&mut offline(), "job \"x\" {\n  a = = 1\n}\n")),
        "error: <stdin>: it is no job in HCL: line 2, column 7: invalid expression; expected `\"`, `[`, `{`, `-`, `!`, `(`, `_`, `<`, letter or \
         digit\n"
    );
    let long = " ".repeat(3 * 1024 * 1024);
    let output = offline()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            // It stops reading before the end.
            drop(child.stdin.take().unwrap().write_all(long.as_bytes()));
            child.wait_with_output()
        });
    assert_eq!(
        refusal(output.unwrap()),
        "error: <stdin>: it is longer than 2 MiB, which no job is\n"
    );
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    for job in [
        "job \"x\" {\n group \"g\" {}\n}",
        "{\"ID\": \"x\", \"TaskGroups\": [{}]}",
    ] {
        let mut command = command(&["-", "--offline"], "http://127.0.0.1:1");
        let output = from_stdin(&mut command, &format!("\u{feff}{job}"));
        assert_eq!(
            text(&output),
            "nothing to report; 0 of 0 services are for the sidecar\nexit code 0\n"
        );
    }
}

#[test]
fn without_a_file_or_with_an_unknown_program_it_ends_with_64() {
    for arguments in [&[][..], &[WRONG, "--from", "traefik"]] {
        assert_eq!(lint(arguments).status.code(), Some(64));
    }
}

/// Answers one request with a recording. What it was asked is the result.
fn nomad(recording: &str) -> (String, JoinHandle<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nomad-2.0.5/http");
    let answer = fs::read(path.join(recording)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = request(&mut stream);
        stream.write_all(&answer).unwrap();
        request
    });
    (address, asked)
}

/// A request with its body.
fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let head = String::from_utf8(request).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.expect("the body has a length")];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[test]
fn nomad_evaluates_the_job_and_the_lines_are_those_of_the_source() {
    let (address, asked) = nomad("job-parse-expressions.http");
    let output = command(&[EXPRESSIONS], &address).output().unwrap();
    assert_eq!(
        text(&output),
        "tests/lint/jobs/expressions.nomad.hcl: finding: job \"expressions\", group \"app\", service \"joined\": tag \
         \"haproxy.weight=500\": expected a whole number from 0 to 256\n\
         1 finding; 4 of 4 services are for the sidecar\nexit code 2\n"
    );
    let asked = asked.join().unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/jobs/parse?namespace=default HTTP/1.1\r\n"));
    assert!(head.contains("\r\nx-nomad-token: s3cr3t\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["JobHCL"], fs::read_to_string(EXPRESSIONS).unwrap());

    let (address, asked) = nomad("job-parse-wrong.http");
    let output = command(&[WRONG, "--json"], &address).output().unwrap();
    asked.join().unwrap();
    assert_eq!(findings(&output), findings(&lint(&[WRONG, "--json"])));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut lines = report["findings"].as_array().unwrap().iter();
    assert!(lines.all(|finding| finding["line"].is_u64()), "{report}");
}

#[test]
fn when_nomad_is_of_no_help_it_says_why_and_reads_by_itself() {
    let remark = |output: &Output| text(output).lines().next().unwrap().to_owned();
    let (address, asked) = nomad("job-parse-denied-403.http");
    let output = command(&[EXPRESSIONS], &address).output().unwrap();
    asked.join().unwrap();
    assert_eq!(
        remark(&output),
        format!(
            "{EXPRESSIONS}: note: read without Nomad, so that no expression is judged: nomad at {address}: denied (403: Permission \
             denied): the token needs the policy `namespace \"default\" {{ capabilities = [\"parse-job\"] }}`"
        )
    );
    let job = "nomad-jobs/haproxy.nomad.hcl";
    let (address, asked) = nomad("job-parse-no-file-400.http");
    let output = command(&[job], &address).output().unwrap();
    asked.join().unwrap();
    let expected = "Call to function \"file\" failed: filesystem function disabled.";
    assert!(remark(&output).contains(expected), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
    let output = command(&[WRONG], "http://127.0.0.1:1").output().unwrap();
    assert!(remark(&output).contains("is the agent running? set NOMAD_ADDR to where it answers"));
    assert_eq!(output.status.code(), Some(2));
}
