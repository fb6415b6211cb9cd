//! What a state file brings back.

use std::{fs, net::SocketAddr, time::Duration};

use crate::{
    haproxy::{HaproxyBin, binaries},
    haproxy_model::{Backend, Check, Conduct, Config},
    pair::Pair,
};

const READS: &str = "  server-state-file @DIR@/state\n";

fn agree_after_a_reload(mut pair: Pair, bin: &HaproxyBin) {
    let file = pair.prompt.send(&["show servers state"]).remove(0);
    fs::write(pair.real.directory().join("state"), &file).expect("the directory is ours");
    pair.real.reload();
    pair.prompt = pair.real.prompt();
    drop(pair.model.reload(pair.time, 2));
    pair.model.load_state(&file);
    pair.agree_on_state(&format!("{}: after a reload", bin.version));
}

/// Each in another state, with a literal address, with a host, and without a check.
#[test]
fn what_a_state_file_brings_back_agrees() {
    let placeholder = SocketAddr::from(([127, 0, 0, 1], 1));
    // Late enough to change nothing; but the first of a process is at once, so nobody is in its slot.
    let check = Some(Check::every(Duration::from_secs(1_000)));
    let config = Config {
        backends: vec![
            Backend::new("named")
                .template("n", 10, placeholder, check)
                .named(),
            Backend::new("literal").template("n", 10, placeholder, check),
            Backend::new("plain")
                .template("n", 10, placeholder, None)
                .named(),
        ],
    };
    let states = [
        "2 addr 127.0.0.2 port 80",
        "2 state ready",
        "2 weight 7",
        "3 addr 127.0.0.3 port 81",
        "3 state drain",
        "4 addr 127.0.0.4 port 82",
        "4 state ready",
        "4 state maint",
        "5 weight 0",
        "5 addr 127.0.0.5 port 83",
        "6 addr ::1 port 84",
        "6 state ready",
        "6 weight 0",
        "7 weight 0",
        "8 addr 127.0.0.6 port 85",
        "8 state drain",
        "8 health down",
        "8 state ready",
        "9 addr 127.0.0.7 port 86",
        "9 state drain",
        "9 health down",
    ];
    for bin in binaries() {
        let mut pair = Pair::start_with(&bin, &config, [READS, ""], |_, _| Conduct::Refuses);
        for backend in ["named", "literal", "plain"] {
            let states = states.iter();
            // Without a check it would stay down.
            let states = states.filter(|state| backend != "plain" || !state.ends_with("down"));
            for state in states {
                pair.agree_on(&[&format!("set server {backend}/n{state}")]);
            }
        }
        pair.agree_on(&["set maxconn server named/n2 5"]);
        agree_after_a_reload(pair, &bin);
    }
}

/// Enabled from the beginning, whatever the state of a slot is, and then as the file has it.
#[test]
fn agents_of_slots_agree_and_so_does_what_a_state_file_brings_back_of_them() {
    let placeholder = SocketAddr::from(([127, 0, 0, 1], 1));
    let check = Some(Check::every(Duration::from_secs(1_000)));
    let config = Config {
        backends: vec![
            Backend::new("asked")
                .template("n", 4, placeholder, check)
                .named()
                .agents(79),
            Backend::new("not-asked")
                .template("n", 1, placeholder, check)
                .named(),
        ],
    };
    for bin in binaries() {
        let mut pair = Pair::start_with(&bin, &config, [READS, ""], |_, _| Conduct::Refuses);
        pair.agree_on_state("at the start");
        for line in [
            "disable agent asked/n1",
            "set server asked/n1 weight 0",
            "set server asked/n1 addr 127.0.0.2 port 80",
            "set server asked/n1 state drain",
            "disable agent asked/n2",
            "disable agent asked/n2",
            "set server asked/n2 addr 127.0.0.3 port 80",
            "set server asked/n2 state ready",
            "enable agent asked/n2",
            "enable agent asked/n2",
            "disable agent asked/n3",
            "disable agent not-asked/n1",
            "enable agent not-asked/n1",
        ] {
            pair.agree_on(&[line]);
        }
        agree_after_a_reload(pair, &bin);
    }
}
