//! `show backend` of any bytes is an answer or an error.
#![no_main]

use haproxy_nomad_sidecar::haproxy::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| {
    let _ = parse::backends(answer);
});
