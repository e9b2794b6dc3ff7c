//! Questions from one instance to the others, and what it tells them, where there are others to be
//! reached.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _, select_all};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

/// What the subjects for answers begin with.
const INBOX: &str = "_INBOX.";

/// How long the NATS client may take to take what is told.
const TELLING: Duration = Duration::from_secs(1);

/// Asks other instances and is asked by them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Calls(Option<Line>);

#[derive(Debug, Clone)]
struct Line {
    client: Client,
    prefix: String,
}

/// A question that has come.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub payload: Bytes,
    reply: Option<Subject>,
    client: Client,
}

/// The answers of others, as they come.
#[derive(Debug)]
pub struct Answers(Option<(Subscriber, Instant)>);

impl Calls {
    /// Nobody else can be reached.
    pub(super) fn alone() -> Self {
        Self(None)
    }

    /// Through NATS, on subjects below `prefix`.
    pub(super) fn through(client: Client, prefix: &str) -> Self {
        Self(Some(Line {
            client,
            prefix: prefix.to_owned(),
        }))
    }

    /// What others ask all instances, or the one of this name. Never ends.
    pub async fn listen(&self, instance: &str) -> BoxStream<'static, Call> {
        let mut calls: SelectAll<Subscriber> = select_all([]);
        let Some(line) = &self.0 else {
            return futures_util::stream::pending().boxed();
        };
        for subject in [line.to_all(), line.to_one(instance)] {
            // Refused only once the client has stopped, and the server with it.
            if let Ok(subscriber) = line.client.subscribe(subject).await {
                calls.push(subscriber);
            }
        }
        let client = line.client.clone();
        let calls = calls.map(move |message| Call {
            payload: message.payload,
            reply: message.reply,
            client: client.clone(),
        });
        calls.chain(futures_util::stream::pending()).boxed()
    }

    /// What others ask all instances on a topic. Never ends.
    pub async fn asked(&self, topic: &str) -> BoxStream<'static, Call> {
        let Some(line) = &self.0 else {
            return futures_util::stream::pending().boxed();
        };
        let client = line.client.clone();
        let asked = match client.subscribe(line.topic(topic)).await {
            Ok(subscriber) => subscriber
                .map(move |message| Call {
                    payload: message.payload,
                    reply: message.reply,
                    client: client.clone(),
                })
                .boxed(),
            // Refused only once the client has stopped, and the server with it.
            Err(_) => futures_util::stream::empty().boxed(),
        };
        asked.chain(futures_util::stream::pending()).boxed()
    }

    /// Whether others can be reached.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// Tells all instances something, this one too.
    pub async fn tell_all(&self, payload: Bytes) {
        if let Some(line) = &self.0 {
            // Lost when NATS is not there, as everything that is published once.
            let _ = line.client.publish(line.to_all(), payload).await;
        }
    }

    /// What is told on a topic, by this instance too, in the order in which each instance said it. Never
    /// ends.
    pub async fn hear(&self, topic: &str) -> BoxStream<'static, Bytes> {
        let Some(line) = &self.0 else {
            return futures_util::stream::pending().boxed();
        };
        let heard = match line.client.subscribe(line.topic(topic)).await {
            Ok(subscriber) => subscriber.map(|message| message.payload).boxed(),
            // Refused only once the client has stopped, and the server with it.
            Err(_) => futures_util::stream::empty().boxed(),
        };
        heard.chain(futures_util::stream::pending()).boxed()
    }

    /// Tells all instances something on a topic, this one too; `false` where NATS is not there or does
    /// not take it in time. It is not kept for later.
    pub async fn tell(&self, topic: &str, payload: Bytes) -> bool {
        let Some(line) = &self.0 else {
            return false;
        };
        if line.client.connection_state() != State::Connected {
            return false;
        }
        let told = line.client.publish(line.topic(topic), payload);
        matches!(timeout(TELLING, told).await, Ok(Ok(())))
    }

    /// Asks all instances, this one too; the answers come until the deadline.
    pub async fn ask_all(&self, payload: Bytes, within: Duration) -> Answers {
        let Some(line) = &self.0 else {
            return Answers(None);
        };
        let inbox = line.client.new_inbox();
        let Ok(answers) = line.client.subscribe(inbox.clone()).await else {
            return Answers(None);
        };
        let asked = line
            .client
            .publish_with_reply(line.to_all(), inbox, payload);
        if asked.await.is_err() {
            return Answers(None);
        }
        Answers(Some((answers, Instant::now() + within)))
    }

    /// Asks the instance of a name; `None` when it does not answer in time.
    pub async fn ask_one(&self, instance: &str, payload: Bytes, within: Duration) -> Option<Bytes> {
        let subject = self.0.as_ref()?.to_one(instance);
        self.request(&subject, payload, within).await
    }

    /// Asks whoever answers on a subject; `None` when nobody does in time.
    pub async fn request(&self, subject: &str, payload: Bytes, within: Duration) -> Option<Bytes> {
        let line = self.0.as_ref()?;
        let asked = line.client.request(subject.to_owned(), payload);
        let answer = tokio::time::timeout(within, asked).await.ok()?.ok()?;
        Some(answer.payload)
    }
}

impl Line {
    fn to_all(&self) -> String {
        format!("{}.all", self.prefix)
    }

    fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.prefix)
    }

    fn to_one(&self, instance: &str) -> String {
        format!("{}.one.{instance}", self.prefix)
    }
}

impl Call {
    /// Whether the answer goes to somebody's inbox. Whoever may ask on a subject must not have this instance
    /// publish on any other one.
    #[must_use]
    pub fn is_from_inbox(&self) -> bool {
        let reply = self.reply.as_ref();
        reply.is_some_and(|reply| reply.starts_with(INBOX))
    }

    /// Answers, if an answer is waited for.
    pub async fn answer(self, payload: Bytes) {
        if let Some(reply) = self.reply {
            // Whoever asked waits for a time only, and names this instance as missing.
            if let Err(error) = self.client.publish(reply, payload).await {
                debug!(error = error.to_string(), "an answer could not be sent");
            }
        }
    }
}

impl Answers {
    /// The next answer; `None` when the time is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        let (answers, deadline) = self.0.as_mut()?;
        let answer = timeout_at(*deadline, answers.next()).await.ok()??;
        Some(answer.payload)
    }
}
