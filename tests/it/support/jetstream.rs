//! The log as a backend, or somebody who meddles with it, sees it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, context::ContextBuilder, stream};
use serde_json::Value;

use super::nats::Backend;
use super::payload::{chat_message, chat_subject};
use super::{eventually, within};

/// The stream's name, unless it is configured.
pub(crate) const STREAM: &str = "NOTIFY";

impl Backend {
    pub(crate) fn jetstream(&self) -> jetstream::Context {
        // A cluster that elects a leader does not answer; whoever asks then, asks again.
        ContextBuilder::new()
            .timeout(Duration::from_secs(2))
            .build(self.client().clone())
    }

    /// Says something to whoever is in a chat.
    pub(crate) async fn say(&self, chat: i64, text: &str) {
        self.publish(&chat_subject(chat), &chat_message(chat, text))
            .await;
    }

    /// Says all the numbers of a range, one after the other.
    pub(crate) async fn count(&self, chat: i64, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let payload = chat_message(chat, &number.to_string());
            let bytes = payload.to_string().into_bytes();
            self.send(&chat_subject(chat), bytes).await;
        }
        self.flush().await;
    }

    /// Publishes with headers.
    pub(crate) async fn publish_with(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &Value,
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let payload = payload.to_string().into_bytes().into();
        let published = self
            .client()
            .publish_with_headers(subject.to_owned(), map, payload);
        published.await.unwrap();
        self.flush().await;
    }

    /// What stands at a key of one of the server's buckets, as text; nothing where nothing does.
    pub(crate) async fn record(&self, bucket: &str, key: &str) -> String {
        let bucket = format!("{STREAM}_{bucket}");
        let Ok(store) = self.jetstream().get_key_value(bucket).await else {
            return String::new();
        };
        let record = store.get(key).await.unwrap().unwrap_or_default();
        String::from_utf8(record.to_vec()).unwrap()
    }

    /// The stream behind the log, if it is there and answers.
    pub(crate) async fn stream_if_any(&self) -> Option<stream::Stream> {
        self.jetstream().get_stream(STREAM).await.ok()
    }

    /// The stream behind the log, which must be there.
    pub(crate) async fn stream(&self) -> stream::Stream {
        let stream = self.jetstream().get_stream(STREAM).await;
        stream.unwrap_or_else(|error| panic!("the stream {STREAM}: {error}"))
    }

    /// What the stream's settings and its state are now.
    pub(crate) async fn stream_info(&self) -> stream::Info {
        within("the state of the stream", self.stream())
            .await
            .cached_info()
            .clone()
    }

    /// Waits until the log has positions up to `last`. What was flushed has reached the server, and
    /// perhaps not the stream yet.
    pub(crate) async fn logged(&self, last: u64) {
        eventually(&format!("the log to reach {last}"), || async {
            (self.stream_info().await.state.last_sequence >= last).then_some(())
        })
        .await;
    }

    /// Makes the stream take no messages of more than so many bytes; -1 for all.
    pub(crate) async fn take_at_most(&self, bytes: i32) {
        let mut config = self.stream_info().await.config;
        config.max_message_size = bytes;
        self.jetstream().update_stream(config).await.unwrap();
    }

    /// Makes the stream forget the ids of messages almost at once, instead of after two minutes.
    pub(crate) async fn forget_message_ids(&self) {
        let mut config = self.stream_info().await.config;
        config.duplicate_window = Duration::from_millis(100);
        self.jetstream().update_stream(config).await.unwrap();
    }

    /// Drops what the stream has before a position.
    pub(crate) async fn purge_before(&self, position: u64) {
        let stream = self.stream().await;
        stream.purge().sequence(position).await.unwrap();
    }
}
