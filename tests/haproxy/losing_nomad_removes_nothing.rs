//! Whatever becomes of Nomad, HAProxy goes on as it is, the log says what happened and what to do, and when Nomad is back
//! HAProxy follows it again.

use std::time::Duration;

use crate::support::{
    fake_nomad::{Mode, Recorded, Token, Which},
    sidecar::soon,
    toy::Toy,
    world::{BOTH, Nomad, World, on_every_line},
};

const TOKEN: &str = "11111111-2222-3333-4444-555555555555";

/// `begin` is the trouble, `end` its end; of the trouble a line with all of `words` must be logged.
fn nothing_happens(begin: impl Fn(&Nomad) + Sync, words: &[&str], end: impl Fn(&Nomad) + Sync) {
    let is_about_rights = words.iter().any(|words| words.contains("read-job"));
    on_every_line(|bin| {
        let world = World::start(bin);
        world
            .nomad
            .issue(TOKEN, Token::Client(vec!["default".to_owned()]));
        let leaves = Toy::start("leaves");
        let keys = BOTH.map(|service| world.register(service, &leaves));
        let stay = BOTH.map(|service| world.serve(service, 1));
        let sidecar = world.sidecar_with(&[("NOMAD_TOKEN", TOKEN)]);
        sidecar.until_ready();
        let before = || {
            for (service, stays) in BOTH.iter().zip(&stay) {
                world.until_served_by(service, &[&leaves, &stays[0]]);
            }
            BOTH.map(|backend| world.servers(backend))
        };
        let servers = before();
        world.tap.forget();

        begin(&world.nomad);
        let line = sidecar.logged_within(Duration::from_secs(25), words);
        assert!(line.contains("HAProxy stays as it is"), "{line}");
        eprintln!("{}: {line}", world.version());
        let joins = Toy::start("joins");
        for (service, key) in BOTH.iter().zip(&keys) {
            world.deregister(key);
            world.register(service, &joins);
        }
        assert_eq!(world.tap.changes(), [""; 0]);
        world.until_asked_again();
        assert_eq!(world.tap.changes(), [""; 0]);
        assert_eq!(before(), servers);

        end(&world.nomad);
        for (service, stays) in BOTH.iter().zip(&stay) {
            // Nomad is asked again at the latest 30 s after the last attempt.
            let patience = Duration::from_secs(40);
            world.until_served_within(patience, service, &[&stays[0], &joins]);
        }
        sidecar.logged(&["Nomad can be read again"]);
        let blamed = sidecar.count("policy");
        assert_eq!(blamed > 0, is_about_rights, "{}", sidecar.log());
    });
}

fn answer_with(mode: Mode) -> impl Fn(&Nomad) {
    move |nomad| {
        nomad.mode(Which::Every, mode);
        nomad.cut();
    }
}

/// Streams are not answered at all.
fn answer_lists_with(answer: Recorded) -> impl Fn(&Nomad) {
    move |nomad| {
        nomad.mode(Which::Every, Mode::Answer(answer));
        nomad.mode(Which::Streams, Mode::Hang);
        nomad.cut();
    }
}

fn answer_as_ever(nomad: &Nomad) {
    nomad.mode(Which::Every, Mode::Normal);
    nomad.cut();
}

#[test]
fn a_token_that_loses_its_rights_changes_nothing_in_haproxy() {
    nothing_happens(
        |nomad| {
            nomad.issue(TOKEN, Token::Client(vec!["other".to_owned()]));
            nomad.cut();
        },
        &[
            "denied (403: Permission denied)",
            "the token may not read services in namespace default, or nomad does not know it",
            r#"it needs the policy `namespace "default" { capabilities = ["read-job"] }`"#,
        ],
        |nomad| nomad.issue(TOKEN, Token::Client(vec!["default".to_owned()])),
    );
}

#[test]
fn a_list_with_index_0_is_not_believed() {
    nothing_happens(
        answer_lists_with(Recorded::NoRightAnywhere),
        &[
            "the answer cannot be believed: its index is 0",
            "it answered with index 0, which is no answer, so nothing of it is believed",
            "the token lacks read-job in namespace default",
            "or the agent is shutting down",
        ],
        answer_as_ever,
    );
}

#[test]
fn the_false_empty_of_an_agent_that_shuts_down_is_not_believed() {
    nothing_happens(
        answer_lists_with(Recorded::ShuttingDown),
        &[
            "the answer cannot be believed",
            "nothing of it is believed",
            "the token lacks read-job in namespace default",
            "or the agent is shutting down",
        ],
        answer_as_ever,
    );
}

#[test]
fn a_nomad_that_answers_500_changes_nothing_in_haproxy() {
    nothing_happens(
        answer_with(Mode::Answer(Recorded::ConnectionRefused)),
        &[
            "nomad at http://127.0.0.1:",
            "status 500: rpc error: failed to get conn",
        ],
        answer_as_ever,
    );
}

#[test]
fn a_nomad_that_hangs_changes_nothing_in_haproxy() {
    nothing_happens(
        answer_with(Mode::Hang),
        &[
            "no answer within 15 s",
            "the agent or its servers hang, or are overloaded",
        ],
        answer_as_ever,
    );
}

#[test]
fn a_nomad_that_is_gone_changes_nothing_in_haproxy() {
    nothing_happens(
        Nomad::stop,
        &[
            "nomad at http://127.0.0.1:",
            "is the agent running? set NOMAD_ADDR to where it answers",
        ],
        Nomad::resume,
    );
}

#[test]
fn a_stream_that_is_denied_by_silence_is_said_and_replaced_by_blocking_queries() {
    on_every_line(|bin| {
        let world = World::start(bin);
        world.nomad.issue(TOKEN, Token::Workload(Vec::new()));
        let first = Toy::start("first");
        let keys = BOTH.map(|service| world.register(service, &first));
        let sidecar = world.sidecar_with(&[("NOMAD_TOKEN", TOKEN)]);
        sidecar.until_ready();
        let line = sidecar.logged(&[
            "following namespace default by blocking queries, because there is no event stream",
            "the event stream stayed silent for 5 s: denied, or the event broker is disabled",
            r#"give the token the policy `namespace "default" { capabilities = ["read-job"] }`"#,
        ]);
        eprintln!("{}: {line}", world.version());
        let second = Toy::start("second");
        for (service, key) in BOTH.iter().zip(&keys) {
            world.register(service, &second);
            world.until_served_by(service, &[&first, &second]);
            world.deregister(key);
            world.until_served_by(service, &[&second]);
        }
    });
}

#[test]
fn a_stream_that_falls_silent_is_opened_again_and_what_it_hid_is_read() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let first = Toy::start("first");
        let keys = BOTH.map(|service| world.register(service, &first));
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for service in BOTH {
            world.until_served_by(service, &[&first]);
        }
        sidecar.logged(&["following namespace default by its event stream"]);

        world.nomad.silence_streams();
        let second = Toy::start("second");
        for (service, key) in BOTH.iter().zip(&keys) {
            world.register(service, &second);
            world.deregister(key);
        }
        sidecar.logged_within(
            Duration::from_mins(1),
            &[
                "the event stream ended; reading again",
                "the event stream was silent for 40 s",
            ],
        );
        for service in BOTH {
            world.until_served_by(service, &[&second]);
        }
    });
}

#[test]
fn that_nomad_was_restored_is_in_the_status_and_counted() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let sidecar = world.sidecar();
        sidecar.until_ready();
        sidecar.until_metric(r#"index_went_back_total{namespace="default"}"#, 0);
        let went_back = || sidecar.json("/status")["nomad"]["namespaces"][0]["went_back"].take();
        assert!(went_back().is_null());

        // A held query would end late.
        sidecar.logged(&["following namespace default by its event stream"]);
        let snapshot = world.nomad.snapshot();
        let forgotten = Toy::start("forgotten");
        world.register("dynamic", &forgotten);
        world.until_served_by("dynamic", &[&toys[1][0], &forgotten]);
        world.nomad.restore(snapshot);
        world.nomad.cut_streams();
        sidecar.logged_within(Duration::from_secs(30), &["Nomad's index went back"]);
        sidecar.until_metric(r#"index_went_back_total{namespace="default"}"#, 1);
        let went_back = went_back();
        assert_eq!(went_back["times"], 1);
        assert!(went_back["last_ms"].as_u64() < Some(60_000), "{went_back}");
        soon("the lines say so", || {
            let (_, lines) = sidecar.get("/status");
            let text = "; its index went back once, last ";
            lines.contains(text).then_some(())
        });
    });
}
