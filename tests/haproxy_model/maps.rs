//! Maps: of files and virtual ones, entry by entry, in every version's words.

use std::fs;

use crate::{
    haproxy::{HaproxyBin, binaries},
    haproxy_model::{Conduct, Config},
    pair::Pair,
};

const LINES: [&str; 34] = [
    "show map MAP",
    "add map MAP a.example web",
    "add map MAP .b.a.example web:1",
    "add map MAP a.example/api api",
    "add map MAP 5432 db more words",
    "add map MAP ^v[0-9]+\\\\.ex$ web",
    "show map MAP",
    "set map MAP a.example api",
    "set map MAP nobody api",
    "del map MAP 5432",
    "del map MAP 5432",
    "show map MAP",
    "add map MAP a.example twice",
    "set map MAP a.example both",
    "show map MAP",
    "del map MAP a.example",
    "show map MAP",
    "add map MAP",
    "add map MAP key",
    "show map nope",
    "add map nope key value",
    "set map nope key value",
    "del map nope key",
    "prepare map nope",
    "commit map @1 nope",
    "commit map @1 MAP",
    "add map @1 MAP early value",
    "prepare map MAP",
    "add map @1 MAP .b.example one",
    "add map @1 MAP .example two",
    "show map MAP",
    "commit map @1 MAP",
    "show map MAP",
    "commit map @1 MAP",
];

#[test]
fn maps_agree_line_by_line() {
    for bin in binaries() {
        let directory = tempfile::tempdir().expect("there is room");
        let file = directory.path().join("hosts.map");
        fs::write(&file, "# a comment\nfile.example web\n").expect("the file is ours");
        let file = file.to_str().expect("a path of ours is text");
        agree(&bin, file, &[("file.example", "web")]);
        if !bin.line().starts_with("2.") {
            agree(&bin, "virt@hosts", &[]);
        }
    }
}

fn agree(bin: &HaproxyBin, map: &str, content: &[(&str, &str)]) {
    let frontend = format!(
        "frontend fe\n  bind @DIR@/fe mode 600\n  use_backend %[req.hdr(host),map_str({map})]\n"
    );
    let config = Config::default();
    let mut pair = Pair::start_with(bin, &config, ["", &frontend], |_, _| Conduct::Refuses);
    pair.model.declare_map(map, content);
    for line in LINES {
        let line = line.replace("MAP", map);
        let real = pair.prompt.send(&[&line]).remove(0);
        let model = pair.model.execute(pair.time, &line);
        let place = format!("{}: {line}", bin.version);
        assert_eq!(
            without_references(&real),
            without_references(&model),
            "{place}"
        );
    }
    // Another process has what the file says.
    pair.real.reload();
    let line = format!("show map {map}");
    pair.prompt = pair.real.prompt();
    let real = pair.prompt.send(&[&line]).remove(0);
    drop(pair.model.reload(pair.time, 2));
    let model = pair.model.execute(pair.time, &line);
    assert_eq!(
        without_references(&real),
        without_references(&model),
        "{}",
        bin.version
    );
}

/// Entries are shown with where they are in memory.
fn without_references(text: &str) -> String {
    let lines = text.split('\n').map(|line| match line.split_once(' ') {
        Some((reference, rest)) if reference.starts_with("0x") => format!("0x… {rest}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
