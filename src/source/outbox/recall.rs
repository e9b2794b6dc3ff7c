//! What the log has of an outbox behind the place up to which nothing is left of what was published.

use std::collections::HashMap;

use super::row;
use super::store::State;
use crate::bus::{Extent, LogError, LogReader};
use crate::event::EventId;

/// Messages by their ids, with their places. One batch, or a few where several failed in a row: rows are
/// deleted before others are published.
pub(super) type Recalled = HashMap<String, EventId>;

/// Reads the log to its end.
pub(super) async fn read(
    log: &LogReader,
    extent: Extent,
    state: &State,
) -> Result<Recalled, LogError> {
    let prefix = row::prefix(&state.source);
    let noted = state.noted.filter(|noted| noted.epoch == extent.epoch);
    // Another log than before: what there is of the outbox was published since it began.
    let mut next = noted
        .map_or(0, |noted| noted.position + 1)
        .max(extent.first);
    let mut recalled = Recalled::new();
    while next <= extent.last {
        let batch = log.read(extent.epoch, next, extent.last).await?;
        for message in batch.messages {
            if let Some(id) = message.message_id.filter(|id| id.starts_with(&prefix)) {
                recalled.insert(id, message.id);
            }
        }
        next = batch.next;
    }
    Ok(recalled)
}
