//! Whatever is in a file, it is judged or refused, without a panic.

use std::path::PathBuf;

use haproxy_nomad_sidecar::{
    lint::{self, connector::readings, job::Job},
    reconcile::Policy,
};
use proptest::{collection::vec, prelude::*};

/// Everything that is done with a job.
fn judge(job: &Job) {
    let policy = Policy::default();
    let report = lint::check(job, &policy, "default");
    let readings = readings(job, &policy, "default");
    let mut out = Vec::new();
    lint::print("job", &report, None, Some(&readings), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    // What a job's author writes moves no cursor and colours nothing.
    let is_hostile = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(is_hostile), "{text:?}");
    lint::print_json("job", &report, None, Some(&readings), &mut Vec::new()).unwrap();
}

fn file(name: &str) -> Vec<u8> {
    let jobs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/lint/jobs");
    std::fs::read(jobs.join(name)).unwrap()
}

/// The file with some bytes replaced, and the end cut off.
fn spoilt(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    (changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        move |(changes, end, is_cut)| {
            let mut file = file(name);
            for (place, byte) in changes {
                *place.get_mut(&mut file) = byte;
            }
            if is_cut {
                file.truncate(end.index(file.len()));
            }
            file
        },
    )
}

/// A text as somebody hostile writes it.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("haproxy.enable=true".to_owned()),
        "haproxy\\.[a-z.]{0,12}=.{0,8}",
        ".{0,20}",
        "\\PC{0,5}\\$\\{\\PC{0,5}",
    ]
}

proptest! {
    #[test]
    fn spoilt_hcl_is_judged_or_refused(file in spoilt("wrong.nomad.hcl")) {
        if let Ok(text) = str::from_utf8(&file)
            && let Ok(job) = lint::read_hcl(text)
        {
            judge(&job);
        }
    }

    #[test]
    fn spoilt_json_is_judged_or_refused(file in spoilt("wrong.json")) {
        if let Ok(job) = lint::read_json(&file) {
            judge(&job);
        }
    }

    #[test]
    fn hostile_texts_are_judged(
        names in vec(word(), 4),
        tags in vec(word(), 0..6),
        canary_tags in vec(word(), 0..3),
        delay in any::<i64>(),
        labels in vec(word(), 0..3),
        port in prop_oneof![word(), any::<i64>().prop_map(|port| port.to_string())],
    ) {
        let ports: Vec<_> = labels.iter().map(|label| serde_json::json!({"Label": label})).collect();
        let job = serde_json::json!({"ID": names[0], "TaskGroups": [{"Name": names[1], "ShutdownDelay": delay,
            "Networks": [{"DynamicPorts": ports}], "Services": [
            {"Name": names[2], "Provider": names[3], "Address": names[0], "PortLabel": port, "Tags": tags,
            "CanaryTags": canary_tags}]}]});
        judge(&lint::read_json(job.to_string().as_bytes()).unwrap());
    }
}
