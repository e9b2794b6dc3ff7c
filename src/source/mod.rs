//! Where events come from besides the bus: rows of a database. What is found is published to the bus,
//! as any backend's events are, so that every instance and the log have it.

mod config;
pub mod notify;
pub mod outbox;

pub use config::SourceConfig;
