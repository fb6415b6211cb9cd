//! A way into the fake without a socket: both ends are in this process, so nothing but time is ever waited for.

use std::{io::ErrorKind, sync::Arc};

use haproxy_nomad_sidecar::nomad::{
    settings::Endpoint,
    transport::{Dial, DialError, Dialling},
};

use super::{
    Via,
    server::{Shared, until_cut},
};

/// So much is on its way at most: as much as a socket of the kernel holds.
const WINDOW: usize = 256 * 1024;

/// Dials the fake.
#[derive(Clone)]
pub(crate) struct MemoryDoor {
    shared: Arc<Shared>,
    via: Via,
}

impl MemoryDoor {
    pub(super) fn new(shared: Arc<Shared>, via: Via) -> Self {
        Self { shared, via }
    }
}

impl Dial for MemoryDoor {
    fn dial<'a>(&'a self, _: &'a Endpoint) -> Dialling<'a> {
        Box::pin(async {
            if *self.shared.refusing.borrow() {
                let error = match self.via {
                    Via::Agent => ErrorKind::ConnectionRefused,
                    // Its socket goes with its agent.
                    Via::TaskApi => ErrorKind::NotFound,
                };
                return Err(DialError::Connect(error.into()));
            }
            let (near, far) = tokio::io::duplex(WINDOW);
            tokio::spawn(until_cut(Arc::clone(&self.shared), far, self.via));
            Ok(Box::new(near) as _)
        })
    }
}
