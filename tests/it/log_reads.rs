//! Reading the log's past for clients that come back: what it costs JetStream, what happens when it
//! can't be done, and that the live feed does not wait for it.
//!
//! The memory holds a handful of events here, so that nearly everything comes from the log. What
//! JetStream does for the server, it says itself, in its advisories.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::ConnectOptions;
use async_nats::Message;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::nats_security::{accounts, as_notify};
use crate::support::{Backend, EventStream, Nats, STREAM, Server, Settings, eventually, within};

/// Positions that the server reads at once for those who come back.
const CHUNK: u64 = 1_024;

/// How many come back.
const CLIENTS: u64 = 16;

fn little_memory(nats: &Nats) -> Settings {
    Settings::new()
        .nats(nats)
        .set("server.workers", 1)
        .set("history.max_events", 5)
        .chat(5, &[1, 2])
}

/// What JetStream says about the consumers of the log, until it is told to say no more.
struct Advisories {
    /// Counts those that were made.
    made: watch::Receiver<usize>,
    listening: JoinHandle<Consumers>,
}

#[derive(Debug, Default)]
struct Consumers {
    made: usize,
    there: BTreeSet<String>,
    /// The most that were there at a time.
    most: usize,
}

/// Behind everything that JetStream has said so far.
const THAT_IS_ALL: &str = "consumers.that.is.all";

impl Advisories {
    /// Hears of each consumer that is made, and gone.
    async fn hear(backend: &Backend) -> Self {
        let client = backend.client();
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.*.{STREAM}.*");
        let consumers = client.subscribe(subject).await.unwrap();
        let end = client.subscribe(THAT_IS_ALL).await.unwrap();
        backend.flush().await;
        let (count, made) = watch::channel(0);
        let listening = tokio::spawn(async move {
            let mut heard = Consumers::default();
            let mut all = futures_util::stream::select(consumers, end);
            while let Some(message) = all.next().await
                && message.subject.as_str() != THAT_IS_ALL
            {
                heard.note(&message);
                count.send_if_modified(|made| std::mem::replace(made, heard.made) != heard.made);
            }
            heard
        });
        Self { made, listening }
    }

    /// Waits until nothing is being read any more.
    async fn end(self, backend: &Backend) -> Consumers {
        let stream = backend.stream().await;
        within("all consumers to be gone", async {
            while stream.get_info().await.unwrap().state.consumer_count > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        backend.send(THAT_IS_ALL, Vec::new()).await;
        within("the end of the advisories", self.listening)
            .await
            .unwrap()
    }
}

impl Consumers {
    fn note(&mut self, message: &Message) {
        let says: Value = serde_json::from_slice(&message.payload).unwrap();
        let name = says["consumer"].as_str().unwrap().to_owned();
        match says["action"].as_str() {
            Some("create") => {
                self.made += 1;
                self.there.insert(name);
            }
            Some("delete") => {
                self.there.remove(&name);
            }
            other => panic!("an advisory of a consumer that says {other:?}"),
        }
        self.most = self.most.max(self.there.len());
    }
}

/// A log of some chunks, which a server with little memory has seen, and a client that saw all of it.
struct Past {
    server: Server,
    backend: Backend,
    live: EventStream,
    ids: Vec<String>,
}

impl Past {
    const EVENTS: u64 = 6 * CHUNK;

    async fn new(nats: &Nats, archive: &str) -> Self {
        let backend = nats.backend().await;
        let settings = little_memory(nats)
            .set("server.max_connections_per_user", CLIENTS + 2)
            .set("history.archive_bytes", archive)
            .set("stream.outbox_events", 2 * CHUNK);
        let server = Server::start(settings).await;
        let mut live = server.connect(2).await;
        let mut ids = Vec::new();
        for first in (0..Self::EVENTS).step_by(CHUNK as usize) {
            backend.count(5, first..first + CHUNK).await;
            for number in first..first + CHUNK {
                ids.push(live.expect_message(&number.to_string()).await.id.unwrap());
            }
        }
        Self {
            server,
            backend,
            live,
            ids,
        }
    }

    /// Comes back as the one of many that has missed so much more than the one after it.
    /// To be run as a task of its own: of futures in one task, one that has much to read keeps the others from
    /// connecting for seconds.
    async fn come_back(self: Arc<Self>, client: u64) {
        let next = client * (Self::EVENTS / CLIENTS) + 1;
        let mut stream = self.server.come_back(1, &self.ids[next as usize - 1]).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        stream.expect_count(next..Self::EVENTS).await;
        stream.expect_type("caught_up").await;
    }
}

#[tokio::test]
async fn nobody_who_comes_back_has_a_consumer() {
    let nats = Nats::start().await;
    let past = Arc::new(Past::new(&nats, "32 MiB").await);
    let advisories = Advisories::hear(&past.backend).await;
    let clients: JoinSet<()> = (0..CLIENTS)
        .map(|client| Arc::clone(&past).come_back(client))
        .collect();
    within("all to have what they missed", clients.join_all()).await;
    let consumers = advisories.end(&past.backend).await;
    assert_eq!(consumers.there.len(), 0, "{consumers:?}");
    // One for each chunk, and for the last one perhaps another that reaches further.
    let made = consumers.made;
    assert!((6..=8).contains(&made), "{consumers:?}");
    past.backend.say(5, "live").await;
    let mut past = Arc::into_inner(past).unwrap();
    past.live.expect_message("live").await;
}

/// Each comes when the one before has begun to read, so that they are at different places, and what one
/// has read is not kept for the next.
#[tokio::test]
async fn however_many_come_back_few_read_at_once() {
    let nats = Nats::start().await;
    let past = Arc::new(Past::new(&nats, "1 KiB").await);
    let mut advisories = Advisories::hear(&past.backend).await;
    let all = async {
        let mut coming = JoinSet::new();
        for client in 0..CLIENTS {
            coming.spawn(Arc::clone(&past).come_back(client));
            tokio::select! {
                made = advisories.made.changed() => made.unwrap(),
                Some(came) = coming.join_next() => came.unwrap(),
            }
        }
        coming.join_all().await;
    };
    within("all to have what they missed", all).await;
    let consumers = advisories.end(&past.backend).await;
    assert!(consumers.made > CLIENTS as usize, "{consumers:?}");
    assert_eq!(consumers.most, 2, "{consumers:?}");
}

#[tokio::test]
async fn a_consumer_that_is_lost_in_the_middle_costs_nothing() {
    const EVENTS: u64 = 600;
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    // So few messages may wait in the client library that a chunk takes many consumers.
    let settings = little_memory(&nats).set("nats.pending_limit", 32);
    let server = Server::start(settings).await;
    let mut live = server.connect(2).await;
    let mut first = None;
    for number in 0..EVENTS {
        backend.say(5, &number.to_string()).await;
        let event = live.expect_message(&number.to_string()).await;
        first = first.or(event.id);
    }
    let lost = Arc::new(AtomicUsize::new(0));
    let meddling = meddle(nats.backend().await, Arc::clone(&lost)).await;
    let mut stream = server.come_back(1, &first.unwrap()).await;
    let confirmed = stream.expect_type("connection_confirmed").await;
    assert_eq!(confirmed.data["recovered"], true);
    stream.expect_count(1..EVENTS).await;
    stream.expect_type("caught_up").await;
    meddling.abort();
    assert!(lost.load(Ordering::Relaxed) > 0, "no consumer was lost");
    assert_eq!(
        server.metric("notify_archive_failures_total", "").await,
        0.0
    );
}

/// Deletes every third consumer as soon as it is there; `lost` counts those that still were.
async fn meddle(backend: Backend, lost: Arc<AtomicUsize>) -> JoinHandle<()> {
    let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.CREATED.{STREAM}.*");
    let mut made = backend.client().subscribe(subject).await.unwrap();
    backend.flush().await;
    tokio::spawn(async move {
        let stream = backend.stream().await;
        let mut turn = 0;
        while let Some(message) = made.next().await {
            turn += 1;
            let name = message.subject.as_str().rsplit('.').next().unwrap();
            if turn % 3 == 1 && stream.delete_consumer(name).await.is_ok() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

/// The memory is another one each time that the log was read: until there is a moment's rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_that_moves_on_faster_than_the_log_is_read_is_caught_up_with() {
    const BURST: u64 = 10_000;
    let nats = Nats::start().await;
    let backend = nats.backend().await;
    let server = Server::start(little_memory(&nats)).await;
    let mut live = server.connect(2).await;
    backend.count(5, 0..20).await;
    let first = live.expect_message("0").await.id.unwrap();
    live.expect_count(1..20).await;
    // Nobody listens, so that nobody slows it down.
    let other = nats.backend().await;
    let burst = tokio::spawn(async move { other.count(6, 0..BURST).await });
    eventually("the burst to begin", || async {
        let position = server.metric("notify_log_position", "").await;
        (position > 500.0).then_some(())
    })
    .await;
    let come_back = async || {
        let mut stream = server.come_back(1, &first).await;
        let confirmed = stream.expect_type("connection_confirmed").await;
        assert_eq!(confirmed.data["recovered"], true);
        stream.expect_count(1..20).await;
        stream.expect_type("caught_up").await;
        stream
    };
    while !burst.is_finished() {
        join_all((0..8).map(|_| come_back())).await;
    }
    burst.await.unwrap();
    let mut stream = come_back().await;
    backend.say(5, "live").await;
    for stream in [&mut stream, &mut live] {
        stream.expect_message("live").await;
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_a_gap_in_the_end_and_delays_nobody() {
    const LIVE: u64 = 100;
    let folder = TempDir::new().unwrap();
    let config = accounts(&folder, "publish: {deny: \"$JS.API.CONSUMER.>\"}");
    let nats = Nats::start_with(&["-c", &config]).await;
    let options =
        ConnectOptions::with_user_and_password("backend".into(), "backend-backend".into());
    let backend = nats.backend_with(options).await;
    let settings = as_notify(&nats)
        .set("server.workers", 1)
        .set("history.max_events", 5)
        .chat(5, &[1, 2]);
    let server = Server::start(settings).await;
    let mut live = server.connect(2).await;
    backend.count(5, 0..20).await;
    let first = live.expect_message("0").await.id.unwrap();
    live.expect_count(1..20).await;
    // Its past is asked for, and never comes.
    let coming_back = async {
        let mut stream = server.come_back(1, &first).await;
        stream.expect_type("connection_confirmed").await;
        stream
    };
    let going_on = async {
        server.metric_becomes("notify_connections", "", 2.0).await;
        for number in 20..20 + LIVE {
            backend.say(5, &number.to_string()).await;
            let event = live.expect_message(&number.to_string()).await;
            assert!(event.id.is_some(), "{number} has no place");
        }
    };
    let mut coming_back = std::pin::pin!(coming_back);
    tokio::select! {
        _ = &mut coming_back => panic!("it came back without its past"),
        () = going_on => {}
    }
    let mut stream = within("the server's patience to end", coming_back).await;
    let gap = stream.expect_gap("expired").await;
    assert_eq!(gap.data["from"], first.as_str());
    let last = 20 + LIVE;
    stream.expect_count(last - 5..last).await;
    stream.expect_type("caught_up").await;
    assert_eq!(
        server.metric("notify_archive_failures_total", "").await,
        1.0
    );
    backend.say(5, "live").await;
    for stream in [&mut stream, &mut live] {
        stream.expect_message("live").await;
    }
}
