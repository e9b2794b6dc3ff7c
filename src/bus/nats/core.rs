//! Following core NATS alone, where the log is each instance's memory: what arrives is numbered
//! here, and after a connection, or when messages were dropped, a new epoch says that the
//! positions before are not comparable.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::mpsc;
use tracing::info;

use super::connection::{Change, Connection};
use super::jetstream::message_id;
use super::trace_of;
use crate::bus::log::LocalLog;
use crate::bus::receipts::Receipts;
use crate::bus::{Arrival, Loss, Message, Passage, StatusCell};
use crate::event::Timestamp;

/// Reads NATS and fills the feed, until the feed is dropped.
#[derive(Debug)]
pub(super) struct CoreTask {
    pub(super) connection: Connection,
    pub(super) subscriptions: SelectAll<Subscriber>,
    pub(super) feed: mpsc::Sender<Arrival>,
    pub(super) log: LocalLog,
    pub(super) status: StatusCell,
    pub(super) receipts: Receipts,
    /// Whether anything is traced.
    pub(super) traced: bool,
    /// The last subject seen: backends publish many messages on few subjects.
    pub(super) subject: Arc<str>,
}

impl CoreTask {
    /// Runs until the feed's reader is gone, or the client gives up, which it is told not to.
    pub(super) async fn run(mut self) {
        loop {
            let alive = tokio::select! {
                // State first: what follows a reconnect must not be numbered as if nothing
                // had happened.
                biased;
                change = self.connection.next() => self.change(change).await,
                message = self.subscriptions.next() => match message {
                    Some(message) => self.message(message).await,
                    None => false,
                },
                () = self.feed.closed() => false,
            };
            if !alive {
                self.status.set(false, "the NATS client has stopped");
                return;
            }
        }
    }

    async fn message(&mut self, message: async_nats::Message) -> bool {
        if *self.subject != *message.subject.as_str() {
            self.subject = Arc::from(message.subject.as_str());
        }
        let message_id = message_id(&message);
        let known = message_id
            .as_deref()
            .and_then(|id| self.receipts.find_again(id, Instant::now()));
        if known.is_some() {
            // A shared log would not have taken it either.
            return true;
        }
        let id = self.log.append(&message.payload);
        if let Some(message_id) = message_id {
            self.receipts.taken(&message_id, id, Instant::now());
        }
        let arrival = Arrival::Message(Message {
            subject: Arc::clone(&self.subject),
            trace: self
                .traced
                .then(|| trace_of(message.headers.as_ref()))
                .flatten(),
            payload: message.payload,
            id: Some(id),
            at: Timestamp::now(),
            passage: Passage::Live,
        });
        self.feed.send(arrival).await.is_ok()
    }

    async fn change(&mut self, change: Change) -> bool {
        match change {
            Change::Connected => {
                self.status
                    .set(false, "connected to NATS, waiting for its subscriptions");
                // What was published while there was no connection is unknown, at the first
                // connection as at any later one: positions before and after must not look like one
                // row.
                return self.gap(Loss::Disconnected).await;
            }
            Change::Confirmed => {
                let log = "recent events are in this instance's memory only";
                self.status.set(true, format!("connected to NATS; {log}"));
                info!("connected to NATS");
            }
            Change::Disconnected => self
                .status
                .set(false, "disconnected from NATS, reconnecting"),
            Change::Dropped => return self.gap(Loss::Dropped).await,
            Change::Denied(error) if error.contains("for Subscription") => {
                self.status.set(false, format!("NATS reports: {error}"));
            }
            Change::Denied(_) => {}
            Change::Unreachable(error) => self
                .status
                .set(false, format!("not connected to NATS yet: {error}")),
            Change::Closed => return false,
        }
        true
    }

    async fn gap(&mut self, loss: Loss) -> bool {
        let (from, to) = self.log.renew(Timestamp::now());
        let gap = Arrival::Gap { loss, from, to };
        self.feed.send(gap).await.is_ok()
    }
}
