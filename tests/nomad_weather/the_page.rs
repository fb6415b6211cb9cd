//! `docs/nomad-weather.md` cannot rot: each of its rows names a test of this program, with a text that this test expects,
//! and each test is in a row.

use std::{collections::BTreeSet, fs, path::Path};

/// The modules of this program that have tests.
const MODULES: &[&str] = &[
    "what_ends_a_stream",
    "which_changes_produce_service_events",
    "facts_that_bite",
    "what_answers_come",
    "without_a_stream",
];
/// What stands for no text.
const NOTHING: &str = "nothing";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it is there")
}

fn module(name: &str) -> String {
    read(&format!("tests/nomad_weather/{name}.rs"))
}

/// The names of the tests in a module.
fn tests(source: &str) -> impl Iterator<Item = &str> {
    let after_attribute = source.split("#[tokio::test(start_paused = true)]").skip(1);
    after_attribute.map(|text| {
        let (_, name) = text.split_once("async fn ").expect("a test is a function");
        name.split('(').next().expect("a split has a part")
    })
}

/// The code of a function, and every text that it names by a constant, as they are when they are compiled.
fn texts(source: &str, name: &str) -> String {
    let (_, body) = source
        .split_once(&format!("async fn {name}("))
        .expect("the name is of this module");
    let body = body.split("\n}\n").next().expect("a split has a part");
    let mut texts = body.to_owned();
    for constant in module("weather").split("pub(crate) const ").skip(1) {
        let (name, text) = constant.split_once(": &str =").unwrap_or_default();
        if !name.is_empty() && body.contains(name) {
            texts.push_str(text.split("\";").next().expect("a split has a part"));
        }
    }
    texts.replace("\\\"", "\"")
}

/// The cells of each row below the heading that begins so, without the head of the table.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = page.lines().skip_while(|line| !line.starts_with(heading));
    let section = lines.skip(1).take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|row| {
            let cells = row.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

#[test]
fn every_row_has_its_test_and_every_test_its_row() {
    let page = read("docs/nomad-weather.md");
    for name in MODULES {
        let source = module(name);
        let tests: BTreeSet<&str> = tests(&source).collect();
        let mut named = BTreeSet::new();
        for row in rows(&page, &format!("## `{name}`")) {
            let [what, says, test] = row.as_slice() else {
                panic!("three cells: {row:?}");
            };
            let test = test.trim_matches('`');
            assert!(tests.contains(test), "{what}: {name} has no test {test}");
            named.insert(test.to_owned());
            let known = texts(&source, test);
            if says == NOTHING {
                // Both expect that nothing was said.
                let silent = [r#"[""; 0]"#, "told_by_event("];
                assert!(
                    silent.iter().any(|silent| known.contains(silent)),
                    "{what}: {test} does not say so"
                );
            } else {
                let expected = says.trim_matches('`').trim();
                assert!(
                    known.contains(expected),
                    "{what}: {test} does not have {expected:?}"
                );
            }
        }
        let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
        assert_eq!(tests, named, "{name}");
    }
}

#[test]
fn the_tables_are_whole() {
    let page = read("docs/nomad-weather.md");
    let numbers = |heading: &str| -> BTreeSet<u32> {
        let rows = rows(&page, heading);
        let numbers = rows.iter().filter_map(|row| row[0].split_once(". "));
        numbers
            .map(|(number, _)| number.parse().expect("a number"))
            .collect()
    };
    assert_eq!(numbers("## `what_ends_a_stream`"), (1..=11).collect());
    assert_eq!(
        numbers("## `which_changes_produce_service_events`"),
        (1..=11).collect()
    );
    assert_eq!(numbers("## `facts_that_bite`"), (1..=13).collect());
}
