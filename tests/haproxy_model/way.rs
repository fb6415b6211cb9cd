//! Health checks that run: which states a server goes through by itself.

use std::time::Duration;

use crate::{
    haproxy::{HaproxyBin, binaries, now},
    haproxy_model::{Backend, Check, Conduct, Config},
    pair::{Pair, state_rows},
    placeholder,
    toy::Toy,
};

/// Op state, admin state, health, check state without its "running" bit.
type Stage = [String; 4];

fn stage(rows: &[Vec<String>], server: &str) -> Stage {
    let row = rows
        .iter()
        .find(|row| row.len() == 24 && format!("{}/{}", row[1], row[3]) == server)
        .unwrap_or_else(|| panic!("{server} is not in {rows:?}"));
    let check_state: u8 = row[12].parse().expect("srv_check_state is a number");
    [
        row[5].clone(),
        row[6].clone(),
        row[11].clone(),
        (check_state & !1).to_string(),
    ]
}

/// HAProxy changes the health a moment before the operational state, and another thread can read that.
fn is_between(way: &[Stage], seen: &Stage) -> bool {
    way.windows(2).any(|step| {
        let cells = step[0].iter().zip(&step[1]).zip(seen);
        cells
            .into_iter()
            .all(|((a, b), seen)| seen == a || seen == b)
    })
}

/// What to do with one server, and what its address does meanwhile.
struct Way {
    server: &'static str,
    conduct: Conduct,
    /// `@` is the server's name, `@@` the toy's address.
    lines: &'static [&'static str],
}

/// Writes the lines of all ways at once and follows their servers: HAProxy may be seen only in stages that the model
/// goes through, in its order, and ends in its last one.
fn agree_on_the_way(bin: &HaproxyBin, config: &Config, ways: &[Way]) {
    const WINDOW: Duration = Duration::from_millis(900);
    let toys = [
        Toy::start("serves"),
        Toy::start("fails"),
        Toy::start("refuses"),
    ];
    toys[1].fail();
    toys[2].refuse();
    let [serving, failing, _] = toys.each_ref().map(Toy::address);
    let mut pair = Pair::start_with(bin, config, ["", ""], move |address, _| {
        if address == serving {
            Conduct::Serves
        } else if address == failing {
            Conduct::Fails
        } else {
            Conduct::Refuses
        }
    });
    let mut together = Vec::new();
    for way in ways {
        let toy = match way.conduct {
            Conduct::Serves => &toys[0],
            Conduct::Fails => &toys[1],
            Conduct::Refuses => &toys[2],
        };
        let port = toy.address().port();
        for line in way.lines {
            let line = line
                .replace("@@", &toy.address().to_string())
                .replace('@', way.server);
            if line.ends_with(" addr") {
                // Changes of addresses are late: what follows waits for them.
                pair.agree_on(&[&format!("{line} 127.0.0.1 port {port}")]);
            } else {
                together.push(line);
            }
        }
    }
    let real_answers = pair.prompt.send(&together);
    for (line, answer) in together.iter().zip(&real_answers) {
        assert_eq!(
            answer,
            &pair.model.execute(pair.time, line),
            "{}: {line}",
            bin.version
        );
    }
    let end = pair.time + WINDOW;
    let mut stages: Vec<Vec<Stage>> = vec![Vec::new(); ways.len()];
    while pair.time <= end {
        let rows = state_rows(&pair.model.execute(pair.time, "show servers state"));
        for (way, stages) in ways.iter().zip(&mut stages) {
            stages.push(stage(&rows, way.server));
        }
        pair.time += Duration::from_millis(1);
    }
    stages.iter_mut().for_each(Vec::dedup);
    let mut remaining: Vec<&[Stage]> = stages.iter().map(Vec::as_slice).collect();
    let started = now();
    while started.elapsed() < WINDOW || remaining.iter().any(|stages| stages.len() > 1) {
        let rows = state_rows(&pair.prompt.send(&["show servers state"])[0]);
        for (way, remaining) in ways.iter().zip(&mut remaining) {
            let seen = stage(&rows, way.server);
            if let Some(at) = remaining.iter().position(|stage| *stage == seen) {
                *remaining = &remaining[at..];
                continue;
            }
            assert!(
                is_between(remaining, &seen),
                "{}: {} of {:?} is in {seen:?}, and {remaining:?} was to come after {:?}",
                bin.version,
                way.server,
                way.conduct,
                way.lines
            );
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{}: {remaining:?} was to come",
            bin.version
        );
    }
}

const ADD: &str = "add server @ @@ check inter 100ms rise 2 fall 3";
const DRAIN: &str = "set server @ state drain";
const ENABLE: &str = "enable health @";
const DOWN: &str = "set server @ health down";
const READY: &str = "set server @ state ready";
const ADDRESS: &str = "set server @ addr";

fn lively_config() -> Config {
    let check = Some(Check::every(Duration::from_millis(100)));
    Config {
        backends: vec![
            Backend::new("dyn"),
            Backend::new("slots").template("n", 12, placeholder(), check),
        ],
    }
}

macro_rules! ways {
    ($([$serves:literal, $fails:literal, $refuses:literal] $lines:expr;)*) => {
        vec![$(
            Way { server: $serves, conduct: Conduct::Serves, lines: &$lines },
            Way { server: $fails, conduct: Conduct::Fails, lines: &$lines },
            Way { server: $refuses, conduct: Conduct::Refuses, lines: &$lines },
        )*]
    };
}

#[test]
fn the_way_of_a_dynamic_server_agrees() {
    let ways = ways! {
        ["dyn/a1", "dyn/a2", "dyn/a3"] [ADD, DRAIN, ENABLE, DOWN, READY];
        ["dyn/b1", "dyn/b2", "dyn/b3"] [ADD, ENABLE, DRAIN, DOWN, READY];
        ["dyn/c1", "dyn/c2", "dyn/c3"] [ADD, DRAIN, ENABLE, READY];
        ["dyn/d1", "dyn/d2", "dyn/d3"] [ADD, DRAIN, ENABLE];
        ["dyn/e1", "dyn/e2", "dyn/e3"] [ADD, ENABLE, DRAIN];
        ["dyn/f1", "dyn/f2", "dyn/f3"] [ADD, ENABLE, READY];
        ["dyn/g1", "dyn/g2", "dyn/g3"] [ADD, READY, ENABLE];
        ["dyn/h1", "dyn/h2", "dyn/h3"] [ADD, ENABLE];
    };
    for bin in binaries() {
        agree_on_the_way(&bin, &lively_config(), &ways);
    }
}

#[test]
fn the_way_of_a_server_that_begins_fully_down_agrees() {
    const ADD: &str = "add server @ @@ init-state fully-down check inter 100ms rise 2 fall 3";
    let ways = ways! {
        ["dyn/a1", "dyn/a2", "dyn/a3"] [ADD, READY, ENABLE];
        ["dyn/b1", "dyn/b2", "dyn/b3"] [ADD, ENABLE, READY];
        ["dyn/c1", "dyn/c2", "dyn/c3"] [ADD, DRAIN, ENABLE];
        ["dyn/d1", "dyn/d2", "dyn/d3"] [ADD, DRAIN, ENABLE, READY];
    };
    for bin in binaries() {
        if !["2.6", "2.8", "3.0"].contains(&bin.line()) {
            agree_on_the_way(&bin, &lively_config(), &ways);
        }
    }
}

#[test]
fn the_way_of_a_slot_agrees() {
    let ways = ways! {
        ["slots/n1", "slots/n2", "slots/n3"] [ADDRESS, DRAIN, DOWN, READY];
        ["slots/n4", "slots/n5", "slots/n6"] [ADDRESS, DRAIN, READY];
        ["slots/n7", "slots/n8", "slots/n9"] [ADDRESS, DRAIN];
        ["slots/n10", "slots/n11", "slots/n12"] [ADDRESS, READY, DOWN];
    };
    for bin in binaries() {
        agree_on_the_way(&bin, &lively_config(), &ways);
    }
}

/// An interval of 1000 s is one that would hold the server where it is.
#[test]
fn the_three_intervals_agree() {
    let ways = ways! {
        ["dyn/a1", "dyn/a2", "dyn/a3"] [
            "add server @ @@ check inter 1000s fastinter 50ms downinter 50ms", DRAIN, ENABLE, DOWN, READY,
        ];
        ["dyn/b1", "dyn/b2", "dyn/b3"] [
            "add server @ @@ check inter 50ms fastinter 1000s downinter 50ms", DRAIN, ENABLE, DOWN, READY,
        ];
        ["dyn/c1", "dyn/c2", "dyn/c3"] [
            "add server @ @@ check inter 50ms fastinter 50ms downinter 1000s", DRAIN, ENABLE, DOWN, READY,
        ];
    };
    for bin in binaries() {
        agree_on_the_way(&bin, &lively_config(), &ways);
    }
}
