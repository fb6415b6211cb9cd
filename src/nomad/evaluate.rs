//! Asks Nomad to evaluate a job's HCL: its variables, functions and `dynamic` blocks. Nomad keeps nothing of it
//! (`/v1/jobs/parse`).

use std::sync::Arc;

use super::{advice, client::Client, settings::Settings};

/// The job in JSON.
///
/// # Errors
///
/// Why Nomad does not evaluate it, and what to do: words for whoever wrote the job.
pub async fn evaluate(settings: Settings, namespace: &str, hcl: &str) -> Result<Vec<u8>, String> {
    let settings = Arc::new(settings);
    let mut client = Client::new(Arc::clone(&settings));
    let evaluated = client.evaluate(namespace, hcl).await;
    evaluated.map_err(|failed| advice::on_no_evaluation(&failed, &settings, namespace))
}
