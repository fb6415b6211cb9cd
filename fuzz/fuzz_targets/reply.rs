//! Whatever HAProxy says to a change, it is understood or an error.
#![no_main]

use std::num::NonZeroU16;

use haproxy_nomad_sidecar::{
    haproxy::reply,
    model::{Address, BackendName, Command, Request, ServerName, ServerRef},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, words) = input;
    let server = ServerRef {
        backend: BackendName::new("web").expect("a name"),
        server: ServerName::new("nomad1").expect("a name"),
    };
    let address = Address {
        ip: [127, 0, 0, 1].into(),
        port: NonZeroU16::MIN,
    };
    let request = Request::Change(match kind % 4 {
        0 => Command::SetAddress(server, address),
        1 => Command::AddServer(server, address, Vec::new()),
        2 => Command::DeleteServer(server),
        _ => Command::Ready(server),
    });
    let _ = reply::read(&request, words);
});
