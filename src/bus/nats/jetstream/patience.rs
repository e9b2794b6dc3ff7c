//! How long JetStream is waited for.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::timeout;

/// How long it may take for one answer, or from one message of a range to the next.
pub(in crate::bus) const PATIENCE: Duration = Duration::from_secs(4);

/// Why there is no answer that helps.
#[derive(Debug, thiserror::Error)]
pub(in crate::bus) enum Unanswered {
    /// None came in time.
    #[error("JetStream does not answer")]
    Silent,
    /// It was an error.
    #[error("{0}")]
    Refused(String),
}

/// Waits for an answer, and no longer than it may take.
pub(in crate::bus) async fn timely<T, E: Display>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Unanswered> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| Unanswered::Refused(error.to_string())),
        Err(_) => Err(Unanswered::Silent),
    }
}
