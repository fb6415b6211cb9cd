//! Asks Nomad to evaluate a job's HCL: its variables, functions and `dynamic` blocks. Nomad keeps nothing of it
//! (`/v1/jobs/parse`).

use std::sync::Arc;

use super::{advice, answer::Error, client::Client, settings::Settings};

/// Nomad did not evaluate a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotEvaluated {
    /// Why, and what to do: words for whoever wrote the job.
    pub why: String,
    /// What Nomad says of the job, if it read it.
    pub words: Option<String>,
}

/// The job in JSON.
///
/// # Errors
///
/// When Nomad does not evaluate it.
pub async fn evaluate(
    settings: Settings,
    namespace: &str,
    hcl: &str,
) -> Result<Vec<u8>, NotEvaluated> {
    let settings = Arc::new(settings);
    let mut client = Client::new(Arc::clone(&settings));
    let evaluated = client.evaluate(namespace, hcl).await;
    evaluated.map_err(|failed| {
        let why = advice::on_no_evaluation(&failed, &settings, namespace);
        let last = failed.into_last();
        let words = if let Error::ServerError { status: 400, body } = last {
            Some(body)
        } else {
            None
        };
        NotEvaluated { why, words }
    })
}
