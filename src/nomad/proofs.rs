//! Reads a service that no list has, until Nomad has said whether it has an instance: somebody left servers of it behind
//! in HAProxy, and absence is proven, never inferred from a list.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    model::ServiceKey,
    nomad::{client::Client, settings::Settings, transport::Dial},
};

/// Between two tries.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// What a read of a service has shown.
pub(super) enum Proof {
    /// At this index it has no instance that is wanted.
    Absent(u64),
    /// It has one. The mirror will know it soon, or it will be gone.
    Present,
}

/// Reads `service` after `delay`, until that succeeds.
pub(super) async fn prove(
    service: ServiceKey,
    settings: Arc<Settings>,
    dial: Arc<dyn Dial>,
    delay: Duration,
) -> (ServiceKey, Proof) {
    let mut client = Client::with_dial(Arc::clone(&settings), dial);
    sleep(delay).await;
    loop {
        if let Ok(answer) = client.read(&service, None).await {
            let wanted = settings.wanted();
            return if answer.value.iter().any(|one| wanted.wants(&one.tags)) {
                (service, Proof::Present)
            } else {
                (service, Proof::Absent(answer.index))
            };
        }
        sleep(RETRY).await;
    }
}
