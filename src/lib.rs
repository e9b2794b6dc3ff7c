//! notify-server pushes events from NATS to browsers over Server-Sent Events.
//!
//! The flow has one direction:
//!
//! ```text
//! publisher ─▶ bus ─▶ ingest (decode) ─▶ hub ─▶ outbox ─▶ session ─▶ transport (SSE)
//! ```
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`event`] | channels, audiences, decoding of payloads, encoding of frames; pure |
//! | [`bus`] | carries payloads to this instance: NATS, or within the process |
//! | [`acknowledgements`] | who has acknowledged which message |
//! | [`archive`] | what is older than the hub's memory, read from the log |
//! | [`ingest`], [`refresh`], [`rejections`] | one task from bus to hub; memberships anew after a gap; what was no event |
//! | [`hub`] | which sessions listen on which channel; their outboxes; routing |
//! | [`transport`] | a session as the body of a response |
//! | [`peers`] | the other instances: who is there, and asking all of them |
//! | [`explain`] | why a user did or did not get an event |
//! | [`presence`] | who is online, over all instances, and telling it |
//! | [`credential`], [`revocation`] | which token somebody was let in with; tokens that are good no longer |
//! | [`reload`], [`watch`] | change without restart |
//! | [`discovery`] | this instance in the directory of NATS services |
//! | [`auth`] | from a token to an identity |
//! | [`authorize`] | permissions that the backend is asked for |
//! | [`source`] | events that come from the database: the outbox, NOTIFY |
//! | [`messages`] | messages that are kept, and their history |
//! | [`database`], [`membership`], [`members`] | the pool, and who is in which chat |
//! | [`listener`] | accepts connections, in turn with what else a thread has to do |
//! | [`bounds`] | the limits, each with its owner, and changing them |
//! | [`limits`], [`pace`], [`address`], [`memory`] | limits that were met; how often something may happen; from where clients come; whether memory is short |
//! | [`http`] | routes, extractors, errors |
//! | [`config`], [`telemetry`], [`metrics`], [`histogram`] | settings, logs, counters |
//! | [`trace`] | spans of requests and events, and sending them |
//! | [`app`] | builds, spawns, watches and stops all of it |
//!
//! Imports point one way: `http` and `transport` know `hub`, `hub` knows `event`, and `event`
//! knows nobody. A test reads the imports and keeps it so.

pub mod acknowledgements;
pub mod address;
pub mod app;
pub mod archive;
pub mod auth;
pub mod authorize;
pub mod bounds;
pub mod bus;
pub mod causes;
pub mod config;
pub mod credential;
pub mod database;
pub mod discovery;
pub mod event;
pub mod explain;
pub mod files;
pub mod histogram;
pub mod http;
pub mod hub;
pub mod inbox;
pub mod ingest;
pub mod limits;
pub mod listener;
pub mod members;
pub mod membership;
pub mod memory;
pub mod messages;
pub mod metrics;
pub mod pace;
pub mod peers;
pub mod presence;
pub mod refresh;
pub mod rejections;
pub mod reload;
pub mod revocation;
pub mod secret;
pub mod source;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod transport;
pub mod units;
pub mod watch;
