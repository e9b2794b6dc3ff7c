//! Publishes messages to a chat through NATS, as a chat backend does. Each carries its number and its time.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::stream::now_ns;

/// A publisher of messages to one chat.
pub(crate) struct Publisher {
    client: Client,
    subject: String,
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
            subject: format!("fechatter.realtime.chat.{chat}"),
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

    async fn publish(&self, seq: u64) -> Result<()> {
        Ok(self
            .client
            .publish(self.subject.clone(), self.payload(seq))
            .await?)
    }

    fn payload(&self, seq: u64) -> Bytes {
        let Self { chat, content, .. } = self;
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
