//! The program as it is started: help, version, and refusals with exit code 64.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

fn sidecar(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// The exit code and the standard error.
fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = sidecar(arguments, environment);
    assert_eq!(output.stdout, b"");
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn help_is_as_reviewed() {
    let output = sidecar(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!("help", String::from_utf8(output.stdout).unwrap());
}

#[test]
fn the_help_of_each_command_is_as_reviewed() {
    for command in COMMANDS {
        let output = sidecar(&[command, "--help"], &[]);
        assert_eq!(output.status.code(), Some(0));
        let name = format!("help_{command}");
        insta::assert_snapshot!(name, String::from_utf8(output.stdout).unwrap());
    }
}

const COMMANDS: [&str; 7] = [
    "run",
    "plan",
    "status",
    "explain",
    "lint",
    "completions",
    "man",
];

/// What is generated knows every command and every flag, and nothing of the environment, which may be wrong.
#[test]
fn completions_and_the_man_page_have_everything_and_need_no_configuration() {
    let environment = [("NOMAD_TOKEN", "s3cret"), ("SIDECAR_CONFIG", "/nowhere")];
    for (arguments, dashes) in [
        (&["completions", "bash"][..], "--"),
        (&["completions", "zsh"], "--"),
        (&["completions", "fish"], "-l "),
        (&["man"], "\\-\\-"),
    ] {
        let output = sidecar(arguments, &environment);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("s3cret"), "{arguments:?}");
        for command in COMMANDS {
            assert!(text.contains(command), "{arguments:?}: {command}");
        }
        for flag in haproxy_nomad_sidecar::cli::flags() {
            let escape = |name: &str| name.replace('-', "\\-");
            let is_man = arguments == ["man"];
            let name = if is_man {
                escape(&flag.name)
            } else {
                flag.name
            };
            assert!(
                text.contains(&format!("{dashes}{name}")),
                "{arguments:?}: {name}"
            );
            assert!(!is_man || text.contains(&flag.variable), "{name}");
        }
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = String::from_utf8(sidecar(&["completions", "bash"], &[]).stdout).unwrap();
    let (function, _) = script.split_once("() {").unwrap();
    let complete = |typed: &str| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             {function} haproxy-nomad-sidecar \"${{COMP_WORDS[$COMP_CWORD]}}\" ''\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("haproxy-nomad-sidecar exp"), "explain\n");
    assert_eq!(
        complete("haproxy-nomad-sidecar --free"),
        "--freeze\n--freeze-file\n"
    );
    assert_eq!(
        complete("haproxy-nomad-sidecar plan --comm"),
        "--commands\n"
    );
    assert_eq!(complete("haproxy-nomad-sidecar completions z"), "zsh\n");
}

#[test]
fn help_shows_no_secret_of_the_environment() {
    let secrets = [("NOMAD_TOKEN", "s3cret"), ("NOMAD_HTTP_AUTH", "u:s3cret")];
    let output = sidecar(&["--help"], &secrets);
    assert!(!String::from_utf8(output.stdout).unwrap().contains("s3cret"));
}

#[test]
fn version_is_that_of_the_package() {
    let output = sidecar(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!("haproxy-nomad-sidecar ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_wrong_flag_ends_with_64() {
    let (code, text) = refusal(&["--nomad-adr", "http://nomad:4646"], &[]);
    assert_eq!(code, Some(64));
    assert!(
        text.starts_with("error: unexpected argument '--nomad-adr' found\n"),
        "{text}"
    );
}

#[test]
fn what_was_perhaps_meant_is_named() {
    for (arguments, tip) in [
        (&["stauts"][..], "a similar subcommand exists: 'status'"),
        (&["lnit", "web.hcl"], "a similar subcommand exists: 'lint'"),
        (
            &["--drain-timout", "5s"],
            "a similar argument exists: '--drain-timeout'",
        ),
        (&["plan", "--jsn"], "a similar argument exists: '--json'"),
        (
            &["plan", "--nomad-adr", "x"],
            "a similar argument exists: '--nomad-addr'",
        ),
        (&["completions", "bsh"], "a similar value exists: 'bash'"),
        (
            &["--freeze", "true"],
            "a switch takes its value behind =, as in --freeze=true",
        ),
        (
            &["plan", "--freeze", "false"],
            "a switch takes its value behind =, as in --freeze=true",
        ),
    ] {
        let (code, text) = refusal(arguments, &[]);
        assert_eq!(code, Some(64));
        assert!(text.contains(&format!("\n  tip: {tip}\n")), "{text}");
        assert!(
            text.contains("OPTIONS") || !text.contains("Usage: "),
            "{text}"
        );
    }
}

#[test]
fn what_is_missing_is_named_with_the_usage() {
    for (command, value) in [("explain", "WHAT"), ("lint", "FILE")] {
        let expected = format!(
            "error: the following required arguments were not provided:\n  <{value}>\n\n\
             Usage: haproxy-nomad-sidecar {command} [OPTIONS] <{value}>\n\nFor more information, try '--help'.\n"
        );
        assert_eq!(refusal(&[command], &[]), (Some(64), expected));
    }
    let (code, text) = refusal(&["explain", " "], &[]);
    assert_eq!(code, Some(64));
    let expected = "it is empty; name a service, an allocation, an address, a backend or a server";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_value_that_begins_with_a_minus_is_told_from_a_flag() {
    let example = "write for example 10s or 1m30s";
    for (arguments, problem) in [
        (
            &["--drain-timeout", "-5s"][..],
            format!("\"-5s\" is negative; {example}"),
        ),
        (
            &["plan", "--drain-timeout", "-5s"],
            format!("\"-5s\" is negative; {example}"),
        ),
        (
            &["--drain-timeout=-5s"],
            format!("\"-5s\" is negative; {example}"),
        ),
        (
            &["--drain-timeout", "--observe"],
            format!("\"--observe\" is not a duration; {example}"),
        ),
    ] {
        let expected = format!("error: --drain-timeout: {problem}\n");
        assert_eq!(refusal(arguments, &[]), (Some(64), expected));
    }
    let (code, text) = refusal(&["--max-removals-per-second", "-5"], &[]);
    assert_eq!(code, Some(64));
    assert!(text.contains("\"-5\" is not a number of servers"), "{text}");
}

/// As `lint web.hcl | head -1` is once head has read enough: no word, and the code that a shell gives to SIGPIPE.
#[test]
fn an_output_that_nobody_reads_ends_the_program_quietly() {
    for arguments in [
        &["--help"][..],
        &["lint", "--help"],
        &["--version"],
        &["man"],
        &["completions", "bash"],
        &["lint", "--offline", "tests/lint/jobs/ports.json"],
        &["lint", "--offline", "--json", "tests/lint/jobs/ports.json"],
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["explain", "web"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_clear()
            .env("NOMAD_ADDR", "http://127.0.0.1:1")
            .env("HAPROXY_SOCKET", "/nowhere/haproxy.sock")
            .env("SIDECAR_ADMIN_LISTEN", "off")
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), &*words),
            (Some(141), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn an_output_that_cannot_be_written_is_said() {
    for (arguments, what) in [
        (&["man"][..], "write to the standard output"),
        (&["--help"], "write to the standard output"),
        (
            &["lint", "--offline", "tests/lint/jobs/ports.json"],
            "write the findings",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_clear()
            .stdout(File::create("/dev/full").unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let expected = format!("error: {what}: No space left on device (os error 28)\n");
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), words), (Some(1), expected));
    }
}

#[test]
fn a_wrong_value_ends_with_64_and_names_the_flag_before_or_after_the_command() {
    let expected = "error: --admin-listen: \"9417\" is not an IP address with a port; write for example 127.0.0.1:9417, [::]:9417, unix:///alloc/sidecar.sock, or off\n";
    for arguments in [
        ["--admin-listen", "9417", "plan"],
        ["plan", "--admin-listen", "9417"],
    ] {
        let (code, text) = refusal(&arguments, &[("SIDECAR_ADMIN_LISTEN", "off")]);
        assert_eq!((code, text.as_str()), (Some(64), expected));
    }
}

#[test]
fn a_wrong_variable_ends_with_64_and_is_named() {
    assert_eq!(
        refusal(&["plan"], &[("NOMAD_SKIP_VERIFY", "yes")]),
        (
            Some(64),
            "error: NOMAD_SKIP_VERIFY in the environment: \"yes\" is neither true nor false\n"
                .to_owned()
        )
    );
}

#[test]
fn a_switch_needs_no_value() {
    let (code, text) = refusal(
        &["--nomad-skip-verify", "--observe=false", "--log-format=xml"],
        &[],
    );
    assert_eq!(
        (code, text.as_str()),
        (
            Some(64),
            "error: --log-format: \"xml\" is neither plain nor json\n"
        )
    );
}

#[test]
fn a_missing_file_ends_with_64_and_says_why() {
    assert_eq!(
        refusal(&[], &[("SIDECAR_CONFIG", "/nowhere/sidecar.toml")]),
        (
            Some(64),
            "error: read the configuration file /nowhere/sidecar.toml: No such file or directory (os error 2)\n"
                .to_owned()
        )
    );
}

#[test]
fn an_empty_name_of_the_file_counts_as_none() {
    // It has findings.
    let lint = ["lint", "--offline", "tests/lint/jobs/ports.json"];
    let output = sidecar(&lint, &[("SIDECAR_CONFIG", "")]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = sidecar(&[&lint[..], &["--config", ""]].concat(), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_file_that_hangs_keeps_nobody_from_stopping_it() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let made = Command::new("mkfifo").arg(&token).status().unwrap();
    assert!(made.success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
        .env_clear()
        .env("NOMAD_TOKEN_FILE", &token)
        .env("SIDECAR_ADMIN_LISTEN", "off")
        .env("HAPROXY_SOCKET", directory.path().join("haproxy.sock"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut lines = log.lines().map(Result::unwrap);
    // It is said when the file was tried in vain; by then it is tried again.
    let line = lines.find(|line| line.contains("not read within 5 s"));
    assert!(line.is_some());
    let killed = Command::new("/bin/sh")
        .args(["-c", &format!("kill -s TERM {}", child.id())])
        .status();
    assert!(killed.unwrap().success());
    let (ended, end) = mpsc::channel();
    let pid = child.id();
    thread::spawn(move || ended.send(child.wait()));
    let status = end.recv_timeout(Duration::from_secs(3));
    if status.is_err() {
        let stop = format!("kill -s KILL {pid}");
        Command::new("/bin/sh")
            .args(["-c", &stop])
            .status()
            .unwrap();
    }
    assert!(status.unwrap().unwrap().success());
}
