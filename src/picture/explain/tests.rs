use super::*;
use crate::picture::{
    Backend, By, Charge, Kind, Namespace, Place, Registration, Route, RouteState, Server, Service,
    Slots, Stage, Trouble, Unasked,
};

fn picture() -> Picture {
    let registration = Registration {
        id: "_nomad-task-1".into(),
        allocation: "1a2b3c4d-0000".into(),
        job: "shop".into(),
        address: "10.0.0.1:80".to_owned(),
        tags: vec!["haproxy.enable=true".to_owned()],
        create_index: 10,
        modify_index: 12,
        enabled: true,
        place: Some(Place {
            backend: "web".into(),
            by: By::Name,
            server: Some("nomad1".into()),
        }),
        stage: Stage::InRotation,
        ..Registration::default()
    };
    let server = Server {
        name: "nomad1".into(),
        registration: Some("_nomad-task-1".into()),
        address: "10.0.0.1:80".parse().ok(),
        up: true,
        checked: true,
        since_ms: 12_000,
        weight: 100,
        stage: Stage::InRotation,
        ..Server::default()
    };
    let mut picture = Picture {
        services: vec![Service {
            namespace: "default".into(),
            name: "web".into(),
            registrations: vec![registration],
        }],
        backends: vec![Backend {
            name: "web".into(),
            wanted: 1,
            in_rotation: 1,
            servers: vec![server],
            ..Backend::default()
        }],
        ..Picture::default()
    };
    picture.sidecar.charge = Charge::InCharge;
    picture.sidecar.tag_prefix = "haproxy".into();
    picture.nomad.known = true;
    picture.haproxy.connected = true;
    picture.haproxy.version = Some("3.2.26".to_owned());
    picture.haproxy.pid = Some(7);
    picture
}

fn troubled(name: &str, text: &str, ended_ms: Option<u64>) -> Namespace {
    Namespace {
        name: name.to_owned(),
        trouble: Some(Trouble {
            text: text.to_owned(),
            ended_ms,
            ..Trouble::default()
        }),
        ..Namespace::default()
    }
}

fn told(picture: Picture, what: &str) -> String {
    let evidence = Evidence {
        picture,
        ..Evidence::default()
    };
    explain(what, &evidence).to_string()
}

#[test]
fn the_whole_chain_of_what_gets_traffic() {
    let expected = "\
web (web/nomad1) gets traffic
  nomad    registration _nomad-task-1 of default/web, allocation 1a2b3c4d-0000, job shop, at 10.0.0.1:80; created at index 10, \
changed at 12; the catalog was read by this command
  tags     \"haproxy.enable=true\"; accepted
  backend  web: servers are added to it; 1 of 1 instances are in rotation; it has the service's name
  server   nomad1 at 10.0.0.1:80, READY and UP for 12 s, weight 100
  charge   this sidecar is in charge; HAProxy 3.2.26, pid 7
  next     nothing: everything is as it should be
";
    for what in [
        "web",
        "default/web",
        "1a2b3c4d",
        "10.0.0.1:80",
        "10.0.0.1",
        "shop",
        "_nomad-task-1",
        "nomad1",
        "web/nomad1",
    ] {
        assert_eq!(told(picture(), what), expected, "{what}");
    }
    let elsewhere = told(picture(), "shop/web");
    let parts = ["there is no such service", "; did you mean default/web?\n"];
    assert!(
        parts.iter().all(|part| elsewhere.contains(part)),
        "{elsewhere}"
    );
}

#[test]
fn an_address_of_ipv6_is_found_with_its_port_and_without() {
    for what in [
        "[fd00::1]:80",
        "[fd00::1]",
        "fd00::1",
        "10.0.0.1",
        "fd00::2",
    ] {
        let mut picture = picture();
        "[fd00::1]:80".clone_into(&mut picture.services[0].registrations[0].address);
        let mut other = picture.services[0].clone();
        other.name = "other".into();
        "[fd00::2]:80".clone_into(&mut other.registrations[0].address);
        picture.services.push(other);
        picture.backends.clear();
        let found = find(&picture, what);
        let is_web =
            matches!(found[..], [Subject::Registration(service, _)] if *service.name == *"web");
        assert_eq!(is_web, what.contains("fd00::1"), "{what}");
    }
}

#[test]
fn a_trouble_that_lasts_is_named_whichever_namespace_has_it() {
    let of = |name: &str, ended_ms| troubled(name, &format!("{name} is denied"), ended_ms);
    let mut picture = picture();
    picture.services.clear();
    picture.nomad.namespaces = vec![of("default", Some(1_000)), of("shop", None)];
    let text = told(picture, "nomad1");
    assert!(
        text.contains(
            "nothing is believed to be gone while Nomad cannot be read: shop is denied\n"
        ),
        "{text}"
    );
}

#[test]
fn texts_of_others_are_lines_and_nothing_that_a_terminal_obeys() {
    let hostile = "a\u{1b}[2J\nweb gets traffic\u{202e}";
    let mut picture = picture();
    let service = &mut picture.services[0];
    service.name = hostile.into();
    let registration = &mut service.registrations[0];
    registration.tags = vec![hostile.to_owned()];
    registration.job = hostile.into();
    registration.rejections = vec![hostile.to_owned()];
    let text = told(picture, "1a2b3c4d");
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    assert!(!text.contains('\u{202e}'));
    assert!(
        !text.lines().any(|line| line.starts_with("web gets")),
        "{text}"
    );
}

#[test]
fn what_was_never_read_may_be_served_from_before() {
    let mut picture = picture();
    let mut service = picture.services.pop().unwrap();
    service.namespace = "shop".into();
    picture.nomad.namespaces = vec![troubled("shop", "denied (403)", None)];
    let evidence = Evidence {
        picture,
        elsewhere: vec![service],
        ..Evidence::default()
    };
    let text = explain("shop/web", &evidence).to_string();
    let verdict = "web may get traffic or not: HAProxy keeps what it has of it, but nothing new comes, as Nomad cannot be read: denied (403)\n";
    assert!(text.starts_with(verdict), "{text}");
}

#[test]
fn a_tag_that_switches_off_is_told_from_one_that_is_missing() {
    let with = |tags: &[&str]| {
        let mut picture = picture();
        let registration = &mut picture.services[0].registrations[0];
        registration.enabled = false;
        registration.place = None;
        registration.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        told(picture, "web")
    };
    assert!(with(&[]).contains("it has no tag \"haproxy.enable=true\", so it is not followed"));
    let off = with(&["haproxy.enable=false"]);
    assert!(
        off.contains("its tag \"haproxy.enable=false\" switches it off"),
        "{off}"
    );
    for near in [
        "HAPROXY.enable=true",
        "haproxy.enabled=true",
        "haproxy.enable = true",
        "haproxy.enbale=true",
    ] {
        let text = with(&[near]);
        let verdict = format!("so it is not followed; its tag {near:?} was perhaps meant so\n");
        assert!(text.contains(&verdict), "{text}");
    }
}

#[test]
fn who_is_not_found_by_his_routes_gets_no_traffic() {
    let mut picture = picture();
    let route = |key: &str, state, why: Option<&str>| Route {
        kind: "host".into(),
        key: key.into(),
        map: Some("virt@hosts".into()),
        namespace: "default".into(),
        service: "web".into(),
        backend: "web".into(),
        state,
        why: why.map(str::to_owned),
        taken_by: None,
    };
    let taken = "host a.example belongs to the service default/old";
    picture.routes = vec![
        route("a.example", RouteState::Taken, Some(taken)),
        Route {
            service: "other".into(),
            ..route("c.example", RouteState::Active, None)
        },
    ];
    let text = told(picture.clone(), "web");
    assert!(
        text.starts_with(&format!(
            "web (web/nomad1) is in rotation, but no route leads to it: {taken}\n"
        )),
        "{text}"
    );
    let line = format!("  route    host a.example in virt@hosts to web: taken: {taken}\n");
    assert!(text.contains(&line), "{text}");
    assert!(!text.contains("c.example"), "{text}");
    assert_eq!(told(picture.clone(), "a.example"), text);

    picture
        .routes
        .push(route("b.example", RouteState::Active, None));
    let text = told(picture.clone(), "web");
    assert!(
        text.starts_with(&format!(
            "web (web/nomad1) gets traffic, but not by host a.example: {taken}\n"
        )),
        "{text}"
    );
    let active = "  route    host b.example in virt@hosts to web: active\n";
    assert!(text.contains(active), "{text}");
    // Whoever asks for the host asks for no other.
    let text = told(picture.clone(), "a.example");
    let verdict = format!(
        "web (web/nomad1) is in rotation, but host a.example does not lead to it: {taken}\n"
    );
    assert!(text.starts_with(&verdict), "{text}");
    assert!(
        told(picture, "b.example").contains(") gets traffic"),
        "{text}"
    );
}

#[test]
fn a_tag_that_makes_no_route_is_told() {
    let wrong = "tag \"haproxy.domain=bad host\": not a host";
    let mut picture = picture();
    picture.services[0].registrations[0].unrouted = vec![wrong.to_owned()];
    let text = told(picture.clone(), "web");
    let verdict = format!("web (web/nomad1) is in rotation, but no route leads to it: {wrong}\n");
    assert!(text.starts_with(&verdict), "{text}");
    assert!(
        text.contains(&format!("  route    none by {wrong}\n")),
        "{text}"
    );
    // Nor is there a rule for what is made at runtime, if nobody asks for one.
    picture.services[0].registrations[0].unrouted.clear();
    picture.backends[0].made_at_runtime = true;
    let text = told(picture, "web");
    let verdict = "web (web/nomad1) gets traffic, if a rule of haproxy.cfg names its backend: ";
    assert!(text.starts_with(verdict), "{text}");
}

#[test]
fn what_haproxy_says_now_counts_more_than_what_was_read_before() {
    let with = |stage, state: &str, status: &str| {
        let mut picture = picture();
        picture.services[0].registrations[0].stage = stage;
        let check = Check {
            state: state.to_owned(),
            status: status.to_owned(),
            ..Check::default()
        };
        let words = BTreeMap::from([("nomad1".to_owned(), check)]);
        let evidence = Evidence {
            picture,
            checks: [("web".to_owned(), words)].into(),
            ..Evidence::default()
        };
        explain("web", &evidence).to_string()
    };
    for state in ["MAINT", "DRAIN", "DOWN 1/2", "NOLB"] {
        let text = with(Stage::InRotation, state, "");
        let verdict = format!("does not get traffic: HAProxy has it {state} now\n");
        assert!(text.contains(&verdict), "{text}");
    }
    for stage in [Stage::ByHand, Stage::Down, Stage::Admitted] {
        let text = with(stage, "UP", "L7OK");
        assert!(text.contains(") gets traffic\n"), "{text}");
    }
    let text = with(Stage::InRotation, "UP 2/3", "L4CON");
    let next = "next     its last check failed (L4CON): HAProxy has it DOWN if more of them do\n";
    assert!(
        text.contains(") gets traffic\n") && text.contains(next),
        "{text}"
    );
}

#[test]
fn what_is_up_and_gets_nothing_is_told_so() {
    let mut picture = picture();
    picture.backends[0].unpublished = true;
    let text = told(picture.clone(), "web");
    let verdict = "does not get traffic: it is UP, and backend web is not published, so that no rule finds it\n";
    assert!(text.contains(verdict), "{text}");

    picture.backends[0].unpublished = false;
    picture.backends[0].servers[0].backup = true;
    assert!(told(picture.clone(), "web").contains(") gets traffic"));
    let other = Server {
        name: "other".into(),
        stage: Stage::Foreign,
        backup: false,
        ..picture.backends[0].servers[0].clone()
    };
    picture.backends[0].servers.push(other);
    let text = told(picture, "web");
    let verdict = "does not get traffic: it is a backup, and others of its backend are UP\n";
    assert!(text.contains(verdict), "{text}");
}

#[test]
fn a_document_of_a_later_version_is_read_as_far_as_it_is_known() {
    let json = serde_json::to_string(&picture()).unwrap();
    assert_eq!(serde_json::from_str::<Picture>(&json).unwrap(), picture());
    let later = json.replacen('{', "{\"new\":[1],", 1);
    assert_eq!(serde_json::from_str::<Picture>(&later).unwrap(), picture());
    assert_eq!(
        serde_json::from_str::<Picture>("{}").unwrap(),
        Picture::default()
    );
}

#[test]
fn what_has_traffic_while_nomad_cannot_be_read_is_not_said_to_be_all_well() {
    let mut picture = picture();
    picture.nomad.namespaces = vec![troubled("default", "permission denied", None)];
    let text = told(picture, "web");
    assert!(text.contains(") gets traffic\n"), "{text}");
    let next = "next     it keeps its traffic; Nomad cannot be read, or not all of it, so that changes may not be seen: permission denied\n";
    assert!(text.contains(next), "{text}");
}

#[test]
fn a_service_that_nobody_has_any_more_is_not_suggested_for_itself() {
    let mut picture = picture();
    picture.nomad.known = true;
    picture.services[0].registrations.clear();
    picture.backends[0].servers.clear();
    for what in ["web", "default/web"] {
        let text = told(picture.clone(), what);
        let why = "does not get traffic: nothing of it is registered in Nomad now, in ";
        assert!(text.contains(why), "{text}");
        assert!(!text.contains("did you mean"), "{text}");
    }
    assert!(told(picture, "wbe").contains("did you mean web?"));
}

#[test]
fn of_what_nobody_could_read_nothing_is_said_for_certain() {
    let mut picture = picture();
    picture.sidecar.charge = Charge::Nobody;
    picture.haproxy.connected = false;
    picture.haproxy.problem = Some("/run/haproxy/admin.sock does not exist".to_owned());
    for (text, is_there, next) in [
        (
            "no sidecar answered: nobody answers at 127.0.0.1:9417",
            false,
            "ask again with --admin-listen",
        ),
        (
            "the sidecar at 127.0.0.1:9417 is there and answers 503",
            true,
            "see the log of the sidecar",
        ),
    ] {
        picture.sidecar.unasked = Some(Unasked {
            text: text.to_owned(),
            is_there,
        });
        let evidence = Evidence {
            picture: picture.clone(),
            ..Evidence::default()
        };
        let explanation = explain("web", &evidence);
        assert_eq!(explanation.served(), Served::Unknown);
        let told = explanation.to_string();
        let verdict = format!(
            "may get traffic or not: {text}; and HAProxy cannot be used by this command: /run/haproxy/admin.sock does not exist\n"
        );
        assert!(told.contains(&verdict), "{told}");
        assert!(told.contains(&format!("next     {next}")), "{told}");
    }
    // What cannot be read of another service is not about this one.
    let mut other = picture.clone();
    other.nomad.namespaces = vec![troubled(
        "default",
        "service default/api cannot be read",
        None,
    )];
    other.nomad.unread = vec!["service default/api".to_owned()];
    let nothing = told(other.clone(), "nothing");
    assert!(
        nothing.contains("does not get traffic: there is no such service"),
        "{nothing}"
    );
    let api = told(other, "api");
    assert!(
        api.starts_with("api may get traffic or not: Nomad cannot be read: "),
        "{api}"
    );
    // Nor of what is not in a catalog that nobody could read.
    picture.nomad.known = false;
    let evidence = Evidence {
        picture,
        unread: Some("connection refused".to_owned()),
        ..Evidence::default()
    };
    let explanation = explain("api", &evidence);
    assert_eq!(explanation.served(), Served::Unknown);
    let told = explanation.to_string();
    let verdict = "api may get traffic or not: Nomad cannot be read: connection refused\n";
    assert!(told.starts_with(verdict), "{told}");
}

#[test]
fn of_many_the_one_that_is_asked_for_comes_first_and_some_are_told() {
    let mut picture = picture();
    let of = |name: &str, number: usize, rejected: bool| {
        let mut registration = self::picture().services[0].registrations[0].clone();
        registration.id = format!("_nomad-task-{name}-{number}").as_str().into();
        registration.address = format!("10.0.1.{number}:80");
        registration.place = Some(Place {
            server: None,
            ..registration.place.unwrap()
        });
        registration.rejections = if rejected {
            vec!["no".to_owned()]
        } else {
            Vec::new()
        };
        registration
    };
    let service = |name: &str, registrations| Service {
        namespace: "default".into(),
        name: name.into(),
        registrations,
    };
    let mut web = vec![of("web", 1, false), of("web", 2, true)];
    web.extend((3..=30).map(|number| of("web", number, true)));
    picture.services = vec![
        service("blue", vec![of("blue", 1, true)]),
        service("web", web),
    ];
    let text = told(picture, "web");
    assert!(
        text.starts_with("web: 1 of 32 get traffic\n\nweb (_nomad-task-web-1) does not"),
        "{text}"
    );
    assert!(
        text.ends_with("\n… and 12 more: ask for one by its address or allocation\n"),
        "{text}"
    );
    assert!(!text.contains("blue"), "{text}");
}

#[test]
fn a_free_slot_is_told_by_haproxy() {
    let mut picture = picture();
    picture.backends[0].kind = Kind::Slots;
    picture.backends[0].slots = Some(Slots {
        total: 4,
        used: 1,
        free: 3,
    });
    let check = Check {
        state: "MAINT".to_owned(),
        ..Check::default()
    };
    let words = BTreeMap::from([("nomad3".to_owned(), check)]);
    let evidence = Evidence {
        picture,
        checks: [("web".to_owned(), words)].into(),
        ..Evidence::default()
    };
    let text = explain("web/nomad3", &evidence).to_string();
    let verdict = "web/nomad3 does not get traffic: it is a free slot, MAINT in HAProxy: no registration has it; 3 of 4 slots of backend web are free\n";
    assert!(text.starts_with(verdict), "{text}");
    let text = explain("web/nomad9", &evidence).to_string();
    assert!(text.contains("there is no such service"), "{text}");
}

#[test]
fn a_backend_that_is_yet_to_be_made_takes_no_servers() {
    let mut picture = picture();
    picture.backends[0].to_be_made_from = Some("nomad".to_owned());
    let text = told(picture.clone(), "web");
    let line = "backend  web: not there yet, to be made from `defaults nomad`; ";
    assert!(text.contains(line), "{text}");
    picture.backends[0].to_be_made_from = None;
    picture.backends[0].made_at_runtime = true;
    let text = told(picture, "web");
    assert!(
        text.contains("web: made at runtime, servers are added to it; "),
        "{text}"
    );
}
