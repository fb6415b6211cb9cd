//! The order to stop after everything was drained.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// The order to drain everything, and the answer to it.
#[derive(Clone)]
pub(super) struct Stop {
    told: watch::Receiver<bool>,
    pub(super) drained: Arc<Notify>,
}

impl Stop {
    pub(super) fn new() -> (watch::Sender<bool>, Self) {
        let (to_stop, told) = watch::channel(false);
        let drained = Arc::default();
        (to_stop, Self { told, drained })
    }

    /// Waits for the order. Cancel-safe.
    pub(super) async fn told(&mut self) {
        if self.told.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
