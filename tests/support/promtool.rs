//! Prometheus's own opinion.

use std::{
    env,
    io::Write as _,
    process::{Command, Output, Stdio},
};

/// Runs `promtool` in `ops`; nothing, said aloud, without one. `PROMTOOL_REQUIRED=1` makes that a failure.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Option<Output> {
    let child = Command::new("promtool")
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/ops"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let is_required = env::var("PROMTOOL_REQUIRED").is_ok_and(|text| text == "1");
            assert!(
                !is_required,
                "promtool cannot be run ({error}): apt-get install prometheus"
            );
            eprintln!(
                "NO PROMTOOL on PATH ({error}): {arguments:?} is not asked; Debian has it in the package prometheus"
            );
            return None;
        }
    };
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    Some(child.wait_with_output().expect("it ends"))
}

/// What it complains of in an exposition; nothing when it could not be asked.
pub(crate) fn complaints(exposition: &str) -> Option<String> {
    let output = promtool(&["check", "metrics"], exposition)?;
    let mut said = [output.stdout, output.stderr].concat();
    if !output.status.success() {
        said.extend(output.status.to_string().bytes());
    }
    Some(String::from_utf8_lossy(&said).into_owned())
}

/// Fails when it complains.
pub(crate) fn assert_takes(exposition: &str) {
    assert_eq!(complaints(exposition).unwrap_or_default(), "");
}
