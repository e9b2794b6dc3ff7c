//! JetStream as the log that instances share.
//!
//! The stream captures what is published with core NATS and republishes it with its position. Every
//! instance follows it for itself: `task` does the talking, `follower` decides, from the copies that
//! arrive (`pairing`) and from how far it has come (`cursor`). `stream` makes or adopts the stream;
//! `reader` reads its past, for holes and for clients that come back from long ago.

mod config;
mod cursor;
mod follower;
mod metrics;
mod pairing;
mod patience;
mod reader;
mod stream;
mod task;

pub use config::{JetStreamConfig, LogKind, Storage};
pub use metrics::LogMetrics;
pub(in crate::bus) use patience::{PATIENCE, Unanswered, timely};
pub(super) use reader::message_id;
pub use reader::{Batch, LogReader, Logged};
pub use stream::{Extent, LogError};
pub(super) use task::{LogTask, Parts};
