//! Reads a service that no list has, until Nomad has said whether it has an instance: somebody left servers of it behind
//! in HAProxy, and absence is proven, never inferred from a list.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    model::ServiceKey,
    nomad::{client::Client, settings::Settings, transport::Dial},
};

/// Between two tries.
const RETRY: Duration = Duration::from_secs(5);

/// The index at which `service` is proven to have no instance that is wanted; none when it has one.
pub(super) async fn prove(
    service: ServiceKey,
    settings: Arc<Settings>,
    dial: Arc<dyn Dial>,
) -> Option<(ServiceKey, u64)> {
    let mut client = Client::with_dial(Arc::clone(&settings), dial);
    loop {
        if let Ok(answer) = client.read(&service).await {
            let wanted = settings.wanted();
            let absent = !answer.value.iter().any(|one| wanted.wants(&one.tags));
            return absent.then_some((service, answer.index));
        }
        sleep(RETRY).await;
    }
}
