//! Any bytes are a job that can be judged, or refused.
#![no_main]

use haproxy_nomad_sidecar::{lint, reconcile::Policy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let job = match str::from_utf8(file) {
        Ok(text) if !lint::is_json(file) => lint::read_hcl(text),
        Ok(_) | Err(_) => lint::read_json(file),
    };
    if let Ok(job) = job {
        lint::check(&job, &Policy::default(), "default");
        lint::connector::readings(&job, &Policy::default(), "default");
    }
});
