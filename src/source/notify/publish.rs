//! Publishes what was heard, in order, until the bus has it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::warn;

use super::message::{Numbering, Outgoing, outgoing};
use super::{Metrics, Names};
use crate::bus::{Bus, PublishError, Submitted};
use crate::event::Timestamp;
use crate::event::decode::Rules;

/// Notifications that are published before the first of them is waited for.
const AT_ONCE: usize = 100;

/// The pause before the bus is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two log lines about notifications that are no event.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A notification.
#[derive(Debug)]
pub(super) struct Heard {
    /// Which process of PostgreSQL it is from.
    pub(super) process: u32,
    pub(super) name: String,
    pub(super) payload: String,
}

/// Publishes notifications, for as long as they come.
#[derive(Debug)]
pub struct PublishTask {
    heard: mpsc::Receiver<Heard>,
    bus: Bus,
    rules: Rules,
    names: Names,
    metrics: Metrics,
    numbering: Numbering,
    logged: Option<Instant>,
}

impl PublishTask {
    pub(super) fn new(
        heard: mpsc::Receiver<Heard>,
        bus: Bus,
        rules: Rules,
        names: Names,
        metrics: Metrics,
    ) -> Self {
        Self {
            heard,
            bus,
            rules,
            names,
            metrics,
            numbering: Numbering::default(),
            logged: None,
        }
    }

    /// Runs until nothing can be heard any more.
    pub async fn run(mut self) {
        let mut some = Vec::with_capacity(AT_ONCE);
        while self.heard.recv_many(&mut some, AT_ONCE).await > 0 {
            let mut messages: Vec<(Outgoing, String)> = Vec::with_capacity(some.len());
            for heard in some.drain(..) {
                messages.extend(self.message(&heard));
            }
            while !messages.is_empty() {
                messages = self.publish(messages).await;
                if !messages.is_empty() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The message with its id.
    fn message(&mut self, heard: &Heard) -> Option<(Outgoing, String)> {
        let Heard {
            process,
            name,
            payload,
        } = heard;
        match outgoing(&self.rules, &self.names, name, payload, Timestamp::now()) {
            Ok(outgoing) => {
                let id = self.numbering.id(*process, name, payload, Instant::now());
                Some((outgoing, id))
            }
            Err(problem) => {
                self.metrics.rejected.inc();
                if self.logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
                    self.logged = Some(Instant::now());
                    warn!(name, problem, "a notification of PostgreSQL is no event");
                }
                None
            }
        }
    }

    /// Gives what the log did not take, which has to be published again.
    async fn publish(&self, messages: Vec<(Outgoing, String)>) -> Vec<(Outgoing, String)> {
        let mut under_way: Vec<Result<Submitted, PublishError>> = Vec::new();
        for (message, id) in &messages {
            let payload = message.payload.clone();
            under_way.push(self.bus.store(&message.subject, payload, id).await);
        }
        let mut left = Vec::new();
        for (message, submitted) in messages.into_iter().zip(under_way) {
            let taken = match submitted {
                Ok(submitted) => submitted.taken().await,
                Err(error) => Err(error),
            };
            match taken {
                Ok(_) => {}
                // Which it always will be.
                Err(PublishError::TooLarge(_) | PublishError::Subject(_)) => {
                    self.metrics.rejected.inc();
                }
                Err(_) => left.push(message),
            }
        }
        left
    }
}
