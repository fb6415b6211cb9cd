//! Any bytes are a snapshot or a reason; so is any JSON whose checksum is right.
#![no_main]

use std::time::Duration;

use haproxy_nomad_sidecar::snapshot::{Source, decode, sign};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let source = Source {
        addresses: vec!["unix".to_owned()],
        region: None,
        namespaces: vec!["default".to_owned()],
        own_namespace: "default".to_owned(),
        tag_prefix: "haproxy".to_owned(),
        expose_by_default: false,
    };
    let now = Duration::from_secs(1_800_000_000);
    let _ = decode(bytes, &source, now);
    let _ = decode(&sign(bytes), &source, now);
});
