//! How a session's frames reach a client.

pub mod poll;
pub mod sse;
