//! `show stat` of any bytes is an answer or an error.
#![no_main]

use haproxy_nomad_sidecar::{haproxy::parse, model::BackendName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| {
    let web = BackendName::new("web").expect("a name");
    let _ = parse::stat(answer, &web);
    let _ = parse::cookies(answer);
    let _ = parse::verdicts(answer, &web);
});
