//! Configuration files: those in `config/valid` are accepted, those in `config/invalid` are refused in the words of their
//! own first line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use haproxy_nomad_sidecar::{
    cli,
    config::{Config, Error, Sources},
};

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(directory);
    let entries = fs::read_dir(directory).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.sort();
    files
}

fn load(file: &Path) -> Result<Config, Error> {
    Config::load(Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    })
}

#[test]
fn valid_files_are_accepted() {
    for file in files("valid") {
        if let Err(error) = load(&file) {
            panic!("{error}");
        }
    }
}

#[test]
fn invalid_files_are_refused_with_line_column_and_advice() {
    for file in files("invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let words = text.lines().next().unwrap().strip_prefix("# ").unwrap();
        let expected = format!("{}, {words}", file.display());
        let error = load(&file).unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn the_file_knows_every_flag() {
    let everything = files("valid")
        .into_iter()
        .find(|file| file.ends_with("everything.toml"))
        .unwrap();
    let text = fs::read_to_string(everything).unwrap();
    for flag in cli::flags() {
        let line = format!("\n{} = ", flag.name);
        assert!(
            flag.name == "config" || text.contains(&line),
            "{}",
            flag.name
        );
    }
}

#[test]
fn valid_policies_are_accepted() {
    for file in files("policy/valid") {
        if let Err(error) = load_policy(&file) {
            panic!("{error}");
        }
    }
}

#[test]
fn invalid_policies_are_refused_with_line_column_and_advice() {
    for file in files("policy/invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let words = text.lines().next().unwrap().strip_prefix("# ").unwrap();
        let expected = format!("{}, {words}", file.display());
        let error = load_policy(&file).unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
}

/// A configuration that has nothing but this policy file.
fn load_policy(file: &Path) -> Result<Config, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sidecar.toml");
    fs::write(&path, format!("policy-file = {:?}", file.to_str().unwrap())).unwrap();
    load(&path)
}
