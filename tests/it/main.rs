//! Integration tests: the real binary against a real nats-server and a real PostgreSQL, its
//! streams read by a strict reader and by curl.

// Every test drives real processes; what can't go on ends the test with a panic that says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acknowledgements;
mod architecture;
mod asyncapi;
mod auth;
mod auth_refusals;
mod channels;
mod cli;
mod cluster;
mod configuration;
mod connections;
mod cors;
mod decoding;
mod development;
mod discovery;
mod doctor;
mod event_stream;
mod failover;
mod forwarded;
mod health;
mod history;
mod inbox;
mod limits;
mod log;
mod log_changes;
mod log_copies;
mod log_faults;
mod log_resume;
mod logs;
mod membership;
mod messages;
mod metrics;
mod migrate;
mod migrating;
mod model;
mod nats;
mod nats_security;
mod notify;
mod openapi;
mod operations;
mod outbox;
mod outbox_faults;
mod pages;
mod poll;
mod presence;
mod proxies;
mod publishing;
mod reload;
mod reload_keys;
mod resume;
mod revocation;
mod revocation_faults;
mod routing;
mod seam;
mod shutdown;
mod slow;
mod slow_requests;
mod stream;
mod support;
mod tls;
