//! Publishes messages to a chat through NATS, as a chat backend does. Each carries its number and its time.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use async_nats::Client;
use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::stream::now_ns;

/// A publisher of messages, to one chat unless it is told otherwise.
pub(crate) struct Publisher {
    client: Client,
    chat: u64,
    content: String,
}

impl Publisher {
    /// Connects; the messages will have `content` bytes of text.
    pub(crate) async fn connect(url: &str, chat: u64, content: usize) -> Result<Self> {
        let client = async_nats::connect(url)
            .await
            .with_context(|| format!("connecting to {url}"))?;
        let content = "the quick brown fox jumps over "
            .chars()
            .cycle()
            .take(content)
            .collect();
        Ok(Self {
            client,
            chat,
            content,
        })
    }

    /// Publishes events 0 to `events`, `rate` per second, evenly spaced. Returns by how much one was late at most.
    pub(crate) async fn steady(&self, events: u64, rate: u32) -> Result<Duration> {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut latest = Duration::ZERO;
        for seq in 0..events {
            let due = ticks.tick().await;
            latest = latest.max(Instant::now() - due);
            self.publish(seq).await?;
            self.client.flush().await?;
        }
        Ok(latest)
    }

    /// Publishes events 0 to `events`, as fast as NATS takes them.
    pub(crate) async fn burst(&self, events: u64) -> Result<()> {
        for seq in 0..events {
            self.publish(seq).await?;
        }
        Ok(self.client.flush().await?)
    }

    /// Publishes evenly spaced events from 0 on, until `done`; returns how many there were.
    pub(crate) async fn steady_until(&self, rate: u32, done: impl Fn() -> bool) -> Result<u64> {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut seq = 0;
        while !done() {
            ticks.tick().await;
            self.publish(seq).await?;
            self.client.flush().await?;
            seq += 1;
        }
        Ok(seq)
    }

    /// Publishes event `seq` to each of `chats`.
    pub(crate) async fn each(&self, chats: Range<u64>, seq: u64) -> Result<()> {
        for chat in chats {
            self.publish_to(chat, seq).await?;
        }
        Ok(self.client.flush().await?)
    }

    async fn publish(&self, seq: u64) -> Result<()> {
        self.publish_to(self.chat, seq).await
    }

    async fn publish_to(&self, chat: u64, seq: u64) -> Result<()> {
        let subject = format!("fechatter.realtime.chat.{chat}");
        Ok(self
            .client
            .publish(subject, self.payload(chat, seq))
            .await?)
    }

    fn payload(&self, chat: u64, seq: u64) -> Bytes {
        let content = &self.content;
        let sent = now_ns();
        format!(
            "{{\"MessageReceived\":{{\"message\":{{\"id\":\"{seq}\",\"chat_id\":{chat},\"sender_id\":1,\
             \"content\":\"{content}\",\"files\":[],\"timestamp\":{},\"sent_ns\":{sent},\"seq\":{seq}}},\
             \"chat_id\":{chat}}}}}",
            sent / 1_000_000_000
        )
        .into()
    }
}
