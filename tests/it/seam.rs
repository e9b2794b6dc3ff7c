//! The seam between what is replayed and what comes live, and between log and memory, under load:
//! clients that break off, stay away for a while and come back to any instance get every event once,
//! in order.
//!
//! Nothing here goes by the clock. A client stays away for so many events, and the publisher is ahead
//! of the slowest client by so many at most: a busy machine makes a test longer, and no harder.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::payload::{self, chat_subject};
use crate::support::{Backend, EventStream, Nats, Request, Server, Settings, tokens, within};

const CLIENTS: i64 = 40;

/// Each client is in two of them.
const CHATS: i64 = 8;

/// How often clients come back, in all.
const RECONNECTS: usize = 3_000;

/// The most events that a client takes before it breaks off again, within its replay as a rule.
const STAY: i64 = 4;

/// One visit in so many is longer: through all that was missed, out of the log, out of the memory, and
/// on into what comes live.
const LONG: u32 = 4;

/// How many events there are in the meantime.
#[derive(Clone, Copy)]
struct Pace {
    /// The most that are published while a client is away.
    away: i64,
    /// The most by which the publisher is ahead of any client.
    ahead: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_reconnects_lose_and_double_nothing() {
    let nats = Nats::start().await;
    let pace = Pace {
        away: 20,
        ahead: 50,
    };
    come_and_go(&nats, settings(&nats), pace).await;
}

/// Much of what a client has missed is no longer in memory but in the log, and the memory moves on
/// while that is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absences_longer_than_the_memory_lose_and_double_nothing() {
    const MEMORY: i64 = 50;
    let nats = Nats::start().await;
    let settings = settings(&nats).set("history.max_events", MEMORY);
    let pace = Pace {
        away: MEMORY * 2,
        ahead: MEMORY * 5 / 2,
    };
    let servers = come_and_go(&nats, settings, pace).await;
    for server in servers.iter() {
        assert!(server.metric("notify_archive_reads_total", "").await > 0.0);
    }
}

fn settings(nats: &Nats) -> Settings {
    let mut settings = Settings::new()
        .nats(nats)
        .set("server.workers", 2)
        .set("logging.level", "info")
        // An event that goes on without a position may be seen again after a reconnect. On a machine
        // that is busy with other tests the log may need its time.
        .set("jetstream.park", "15s");
    for chat in 0..CHATS {
        let users: Vec<_> = (1..=CLIENTS).filter(|u| is_for(chat, *u)).collect();
        settings = settings.chat(chat, &users);
    }
    settings
}

/// Whether an event, which goes to the chat of its number's remainder, is for a user.
fn is_for(event: i64, user: i64) -> bool {
    const OF_EACH: i64 = CHATS / 2;
    event % OF_EACH == user % OF_EACH
}

/// Runs all clients on two instances, to the last event.
async fn come_and_go(nats: &Nats, settings: Settings, pace: Pace) -> Arc<[Server; 2]> {
    let first = Server::start(settings.clone()).await;
    let servers = Arc::new([first, Server::start(settings).await]);
    let (published, progress) = watch::channel(0);
    let reconnects = Arc::new(AtomicUsize::new(0));
    let mut positions = Vec::new();
    let mut clients = JoinSet::new();
    for user in 1..=CLIENTS {
        let stream = servers[0].connect(user).await;
        let (next, position) = watch::channel(0);
        positions.push(position);
        let client = Client {
            user,
            away: pace.away,
            servers: Arc::clone(&servers),
            published: progress.clone(),
            reconnects: Arc::clone(&reconnects),
            // The same in every run, as far as a test with such timing can be the same.
            random: StdRng::seed_from_u64(user.unsigned_abs()),
            next,
            total: None,
        };
        clients.spawn(client.run(stream));
    }
    let publisher = Publisher {
        backend: nats.backend().await,
        ahead: pace.ahead,
        published,
        positions,
    };
    publisher.run(&reconnects).await;
    clients.join_all().await;
    servers
}

/// Publishes to all chats in turn, and says how many events there are.
struct Publisher {
    backend: Backend,
    ahead: i64,
    published: watch::Sender<i64>,
    /// The next event of each client.
    positions: Vec<watch::Receiver<i64>>,
}

impl Publisher {
    async fn run(mut self, reconnects: &AtomicUsize) {
        let mut round = 0;
        while reconnects.load(Ordering::Relaxed) < RECONNECTS {
            if !self.publish(round, "").await {
                return;
            }
            round += 1;
        }
        let last = format!(" of {}", (round + 1) * CHATS);
        self.publish(round, &last).await;
    }

    /// Publishes an event to each chat; `false` when a client has failed, which is for whoever waits for
    /// the clients to find.
    async fn publish(&mut self, round: i64, note: &str) -> bool {
        let (from, to) = (round * CHATS, (round + 1) * CHATS);
        for position in &mut self.positions {
            let slowest = to - self.ahead;
            let waiting = position.wait_for(|&next| next >= slowest);
            if within("the slowest client", waiting).await.is_err() {
                return false;
            }
        }
        for event in from..to {
            let chat = event % CHATS;
            let payload = payload::chat_message(chat, &format!("{event}{note}"));
            let bytes = payload.to_string().into_bytes();
            self.backend.send(&chat_subject(chat), bytes).await;
        }
        self.backend.flush().await;
        self.published.send_replace(to);
        true
    }
}

struct Client {
    user: i64,
    away: i64,
    servers: Arc<[Server; 2]>,
    published: watch::Receiver<i64>,
    reconnects: Arc<AtomicUsize>,
    random: StdRng,
    /// The next event that is for this client.
    next: watch::Sender<i64>,
    /// How many events there are in all, once that is known.
    total: Option<i64>,
}

impl Client {
    /// Reads until the last event.
    async fn run(mut self, mut stream: EventStream) {
        self.go_on_to(0);
        loop {
            let stay = self.stay();
            self.read(&mut stream, stay).await;
            if self.total.is_some_and(|total| self.next() >= total) {
                return;
            }
            let last_event_id = stream.last_event_id().to_owned();
            drop(stream);
            if self.total.is_none() {
                self.stay_away().await;
            }
            stream = self.come_back(&last_event_id).await;
            self.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events to take.
    fn stay(&mut self) -> i64 {
        let longest = if self.random.random_ratio(1, LONG) {
            // Twice what it can have missed, of which a quarter is its own.
            2 * self.away / (CHATS / 2)
        } else {
            STAY
        };
        self.random.random_range(1..=longest.max(STAY))
    }

    /// Reads so many events, as far as there are any more.
    async fn read(&mut self, stream: &mut EventStream, events: i64) {
        let mut left = events;
        while left > 0 && self.total.is_none_or(|total| self.next() < total) {
            let event = stream.next().await;
            match event.kind() {
                "new_message" => {
                    self.message(event.data["message"]["content"].as_str().unwrap());
                    left -= 1;
                }
                "connection_confirmed" => {
                    assert_eq!(event.data["recovered"], true, "user {}", self.user);
                }
                "caught_up" => {}
                other => panic!("user {}: {other}: {}", self.user, event.data),
            }
        }
    }

    fn message(&mut self, content: &str) {
        let (event, total) = match content.split_once(" of ") {
            Some((event, total)) => (event, Some(total.parse().unwrap())),
            None => (content, None),
        };
        assert_eq!(event, self.next().to_string(), "user {}", self.user);
        self.total = total;
        self.go_on_to(self.next() + 1);
    }

    fn next(&self) -> i64 {
        *self.next.borrow()
    }

    /// Goes on to the first of this client's events from `event` on.
    fn go_on_to(&mut self, event: i64) {
        let next = (event..).find(|&event| is_for(event, self.user));
        self.next.send_replace(next.unwrap());
    }

    /// Waits until some more events are published than the client has.
    async fn stay_away(&mut self) {
        let until = self.next() + self.random.random_range(0..=self.away);
        let waiting = self.published.wait_for(|&published| published >= until);
        // When there is nothing more to be published, it comes back at once.
        let _ = within("events to be published", waiting).await;
    }

    async fn come_back(&mut self, last_event_id: &str) -> EventStream {
        let instance = self.random.random_range(0..self.servers.len());
        let request = Request::get("/events")
            .bearer(&tokens::of_user(self.user))
            .header("last-event-id", last_event_id);
        EventStream::new(self.servers[instance].send(request).await)
    }
}
