//! What is written is read back, and whatever is wrong with it has its name.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{
        BackendName, Protocol, ProxyHeader, Registration, SectionName, ServerName,
        ServerProfileName,
    },
    reconcile::{
        HeldServer,
        desired::DesiredServer,
        tags::{Cookie, FixedTags, LeavingTags},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::from_hours(500_000);

fn source() -> Source {
    Source {
        addresses: vec!["unix".to_owned(), "http://nomad:4646".to_owned()],
        region: None,
        namespaces: vec!["default".to_owned(), "shop".to_owned()],
        own_namespace: "default".to_owned(),
        tag_prefix: "haproxy".to_owned(),
        expose_by_default: false,
    }
}

fn registration(namespace: &str, service: &str, tags: &[&str]) -> Registration {
    Registration {
        id: format!("_nomad-{service}").into(),
        service: ServiceKey::new(namespace, service),
        alloc_id: "0a1b2c3d".into(),
        job_id: "job".into(),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        address: "10.0.0.1".to_owned(),
        port: 8080,
        create_index: 7,
        modify_index: 8,
    }
}

fn held() -> HeldServer {
    let service = ServiceKey::new("default", "api");
    HeldServer {
        backend: BackendName::new("api").unwrap(),
        server: DesiredServer {
            registration: "_nomad-api".into(),
            service: service.clone(),
            address: desired_address(),
            name: ServerName::new("nomad-0a1b2c3d-00aa11bb").unwrap(),
            weight: Some(7),
            maxconn: Some(100),
            canary: true,
            fixed: FixedTags {
                backup: true,
                check_disabled: true,
                check_port: Some(9000),
                inter: Some(2_000),
                fast_inter: Some(250),
                down_inter: Some(251),
                rise: Some(2),
                fall: Some(3),
                check_profile: SectionName::new("api").ok(),
                maxqueue: Some(5),
                slowstart: Some(10_000),
                cookie: Some(Cookie::Auto),
                send_proxy: Some(ProxyHeader::V2),
                proto: Some(Protocol::H2),
                agent_port: Some(9001),
                agent_inter: Some(1_000),
                tls_profile: ServerProfileName::new("tls").ok(),
                tls_keywords: None,
            },
            leaving: LeavingTags {
                hold: None,
                min_ready: Some(2),
                drain_timeout: Some(Duration::ZERO),
                close_sessions: true,
            },
            create_index: 5,
        },
        service: Some(service),
        left: 20 * SECOND,
    }
}

fn desired_address() -> crate::model::Address {
    crate::reconcile::desired::address(&registration("default", "api", &[])).unwrap()
}

fn snapshot() -> Snapshot {
    let hostile = ["haproxy.enable=true", "x\nshutdown frontend in;\0\u{1b}[2J"];
    let all = [
        registration("default", "web", &["haproxy.enable=true"]),
        registration("shop", "odd\nname", &hostile),
    ];
    Snapshot {
        source: source(),
        index: 41,
        current: [("default", NOW), ("shop", NOW.saturating_sub(60 * SECOND))]
            .map(|(name, at)| (name.to_owned(), at))
            .into(),
        written: NOW,
        remembered: Remembered {
            services: all
                .map(|one| (one.service.clone(), vec![one]))
                .into_iter()
                .collect(),
            holds: vec![held()],
        },
    }
}

fn refused(bytes: &[u8]) -> String {
    decode(bytes, &source(), NOW).unwrap_err().to_string()
}

/// The snapshot's JSON, changed.
fn with_body(change: impl FnOnce(String) -> String) -> Vec<u8> {
    let body = Body::of(&snapshot()).to_json();
    sign(change(String::from_utf8(body).unwrap()).as_bytes())
}

#[test]
fn what_is_written_is_read_back_with_the_time_that_is_left() {
    let bytes = encode(&snapshot());
    let head = bytes.split(|byte| *byte == b'\n').next().unwrap();
    let head = std::str::from_utf8(head).unwrap();
    assert!(
        head.starts_with("haproxy-nomad-sidecar-snapshot 1 "),
        "{head}"
    );
    let usable = decode(&bytes, &source(), NOW + 5 * SECOND).unwrap();
    let mut expected = snapshot().remembered;
    expected.holds[0].left = 15 * SECOND;
    assert_eq!(
        usable,
        Usable {
            age: 65 * SECOND,
            index: 41,
            too_old: Vec::new(),
            remembered: expected,
        }
    );
    // A hold that is over is not begun again.
    let later = decode(&bytes, &source(), NOW + 21 * SECOND).unwrap();
    assert_eq!(later.remembered.holds, []);
}

#[test]
fn one_of_ten_minutes_is_too_old_and_each_namespace_has_its_own_age() {
    let bytes = encode(&snapshot());
    let at = |seconds: u32| decode(&bytes, &source(), NOW + seconds * SECOND);
    assert_eq!(at(539).unwrap().age, 599 * SECOND);
    let younger = at(540).unwrap();
    assert_eq!(
        (younger.age, &*younger.too_old),
        (540 * SECOND, &["shop".to_owned()][..])
    );
    let services: Vec<_> = younger.remembered.services.keys().collect();
    assert_eq!(services, [&ServiceKey::new("default", "web")]);
    assert_eq!(
        at(600).unwrap_err().to_string(),
        "it is 600 s old, and addresses outlive their owners: after 600 s they are not used any more"
    );
}

#[test]
fn one_of_all_namespaces_has_one_age() {
    let star = Source {
        namespaces: vec!["*".to_owned()],
        ..source()
    };
    let snapshot = Snapshot {
        source: star.clone(),
        current: [("*".to_owned(), NOW)].into(),
        ..snapshot()
    };
    let usable = decode(&encode(&snapshot), &star, NOW).unwrap();
    assert_eq!(usable.remembered.services.len(), 2);
}

#[test]
fn one_from_the_future_is_refused_but_for_a_few_seconds() {
    let bytes = encode(&snapshot());
    let at = |seconds: u32| decode(&bytes, &source(), NOW.saturating_sub(seconds * SECOND));
    assert_eq!(at(5).unwrap().age, 55 * SECOND);
    assert_eq!(
        at(6).unwrap_err().to_string(),
        "it is from 6 s after now: look at this machine's clock"
    );
}

#[test]
fn what_is_not_as_it_was_written_is_damaged_or_cut() {
    let bytes = encode(&snapshot());
    let truncated = "its end is missing, so it was not written to the end or was cut; the next good sync replaces it";
    for length in [0, 1, 20, 40, 100, 200, bytes.len() - 1] {
        assert_eq!(refused(&bytes[..length]), truncated, "{length}");
    }
    let damaged = |what: &str| {
        format!(
            "it is damaged ({what}): the disk or another program did that; the next good sync replaces it"
        )
    };
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&flipped), damaged("its checksum is another"));
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(refused(&longer), damaged("something follows on its end"));
    for other in [
        "x",
        "{}\n",
        "haproxy-nomad-sidecar-snapshot\n",
        "haproxy-nomad-sidecar-snapshot 1 2\n{}",
    ] {
        assert_eq!(
            refused(other.as_bytes()),
            damaged("it does not begin like a snapshot"),
            "{other}"
        );
    }
    assert_eq!(
        refused(&sign(b"{}")),
        damaged("missing field `source` at line 1 column 2")
    );
    let twice = with_body(|body| {
        body.replace("odd\\nname", "web")
            .replace("\"shop\",\"name\"", "\"default\",\"name\"")
    });
    assert_eq!(refused(&twice), damaged("a service is in it twice"));
    let nowhere =
        with_body(|body| body.replace("\"current\":{", "\"current\":{\"x\":1},\"old\":{"));
    assert_eq!(refused(&nowhere), damaged("it has no namespace"));
}

#[test]
fn another_version_and_too_many_bytes_are_refused_as_such() {
    let bytes = encode(&snapshot());
    let text = String::from_utf8(bytes).unwrap().replacen(" 1 ", " 2 ", 1);
    assert_eq!(
        refused(text.as_bytes()),
        "its format is version 2, which this program does not know: another version of it wrote that; the next good sync \
         replaces it"
    );
    assert_eq!(
        refused(&vec![b' '; MAX_LENGTH + 1]),
        "it has 16777217 bytes, more than the 16777216 that a snapshot may have"
    );
}

#[test]
fn no_other_blank_stands_for_the_first() {
    let mut bytes = encode(&snapshot());
    let blank = bytes.iter().position(|byte| *byte == b' ').unwrap();
    bytes[blank] = 11;
    let refusal = refused(&bytes);
    assert!(
        refusal.contains("it does not begin like a snapshot"),
        "{refusal}"
    );
}

type Change = fn(&mut Source);

#[test]
fn one_of_another_catalog_is_foreign() {
    let bytes = encode(&snapshot());
    let changes: [(Change, &str); 6] = [
        (
            |here| here.addresses = vec!["https://other:4646".to_owned()],
            "address of Nomad is unix,http://nomad:4646, here it is https://other:4646",
        ),
        (
            |here| here.region = Some("eu".to_owned()),
            "region is (none), here it is eu",
        ),
        (
            |here| here.namespaces = vec!["default".to_owned()],
            "--namespaces is default,shop, here it is default",
        ),
        (
            |here| here.own_namespace = "shop".to_owned(),
            "namespace is default, here it is shop",
        ),
        (
            |here| here.tag_prefix = "lb".to_owned(),
            "--tag-prefix is haproxy, here it is lb",
        ),
        (
            |here| here.expose_by_default = true,
            "--expose-by-default is false, here it is true",
        ),
    ];
    for (change, text) in changes {
        let mut here = source();
        change(&mut here);
        assert_eq!(
            decode(&bytes, &here, NOW).unwrap_err().to_string(),
            format!(
                "it is of another catalog: its {text}; give each sidecar a --snapshot-file of its own"
            )
        );
    }
    let mut here = source();
    here.addresses = vec!["http://another:4646".to_owned(), "unix".to_owned()];
    here.namespaces.reverse();
    assert!(decode(&bytes, &here, NOW).is_ok());
}

#[test]
fn a_hold_that_is_not_valid_is_left_out_alone() {
    for (from, to) in [
        ("\"backend\":\"api\"", "\"backend\":\"api\\nshutdown\""),
        ("nomad-0a1b2c3d-00aa11bb", "web1"),
        ("nomad-0a1b2c3d-00aa11bb", "nomad-0a1b2c3d-00aa11bb backup"),
        ("haproxy.weight=7", "haproxy.weight=7 backup"),
        ("haproxy.check.port=9000", "haproxy.check.port=0"),
        (
            "\"port\":8080,\"tags\":[\"haproxy.weight",
            "\"port\":0,\"tags\":[\"haproxy.weight",
        ),
        (
            "\"address\":\"10.0.0.1\",\"port\":8080,\"tags\":[\"haproxy.weight",
            "\"address\":\"0.0.0.0\",\"port\":8080,\"tags\":[\"haproxy.weight",
        ),
    ] {
        let bytes = with_body(|body| {
            assert!(body.contains(from), "{from} in {body}");
            body.replace(from, to)
        });
        let usable = decode(&bytes, &source(), NOW).unwrap();
        assert_eq!(usable.remembered.holds, [], "{to}");
        assert_eq!(usable.remembered.services.len(), 2);
    }
    // However long somebody wants it.
    let bytes = with_body(|body| body.replace("\"until\":18", "\"until\":98"));
    let holds = decode(&bytes, &source(), NOW).unwrap().remembered.holds;
    assert_eq!(holds[0].left, Duration::from_hours(24));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes, &source(), NOW);
    }

    #[test]
    fn no_single_byte_can_be_another(at in any::<proptest::sample::Index>(), to in any::<u8>()) {
        let bytes = encode(&snapshot());
        let mut other = bytes.clone();
        other[at.index(bytes.len())] = to;
        if other != bytes {
            prop_assert!(decode(&other, &source(), NOW).is_err());
        }
    }

    #[test]
    fn no_json_with_a_right_checksum_makes_it_panic(
        number in any::<u64>(), text in any::<String>(), time in any::<u64>(),
    ) {
        let text = serde_json::to_string(&text).unwrap();
        let bytes = with_body(|body| {
            body.replace("\"haproxy.enable=true\"", &text)
                .replace("\"10.0.0.1\"", &text)
                .replace("\"until\":1", &format!("\"until\":{number},\"x\":1"))
                .replace("\"created\":7", &format!("\"created\":{number}"))
        });
        let _ = decode(&bytes, &source(), Duration::from_millis(time));
    }
}
