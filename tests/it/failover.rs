//! Instances that stop, die and come back behind a load balancer: the clients move over, and get
//! every event once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::support::payload::{self, chat_subject};
use crate::support::{
    Backend, EventStream, Nats, Proxy, Request, Server, Settings, eventually, tokens, within,
};

const CLIENTS: i64 = 500;

/// A chat of everybody, and each client is in one of as many others.
const EVERYBODY: i64 = 100;
const GROUPS: i64 = 10;

/// The pause after a connection that came to nothing: what a browser does, only sooner.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);

/// Between two events: with every eleventh for everybody some 4,500 deliveries a second.
const PACE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let nats = Nats::start().await;
    let mut site = Site::open(&nats).await;
    let publisher = Publisher::start(nats.backend().await);
    for _ in 0..2 {
        site.replace_oldest(async |old| {
            old.stop().await;
        })
        .await;
    }
    publisher.stop().await;
    for journey in site.journeys().await {
        assert!(journey.reconnects >= 1, "a client that was never moved");
        assert_eq!(journey.breaks, 0, "a stream that ended without `closing`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_costs_its_clients_nothing() {
    let nats = Nats::start().await;
    let mut site = Site::open(&nats).await;
    let publisher = Publisher::start(nats.backend().await);
    let mut killed = 0.0;
    site.replace_oldest(async |old| {
        killed = old.metric("notify_connections", "").await;
        old.process().signal("KILL");
        old.process().exited().await;
    })
    .await;
    publisher.stop().await;
    let journeys = site.journeys().await;
    let breaks: usize = journeys.iter().map(|journey| journey.breaks).sum();
    assert_eq!(breaks as f64, killed);
    assert!(breaks > CLIENTS as usize / 4, "{breaks} clients were on it");
}

/// Two instances behind a proxy, and the clients of both.
struct Site {
    settings: Settings,
    proxy: Proxy,
    servers: Vec<Server>,
    clients: JoinSet<Journey>,
}

/// One client has been confirmed for the first time.
type Confirmed = mpsc::UnboundedSender<()>;

impl Site {
    /// Opens with all clients connected.
    async fn open(nats: &Nats) -> Self {
        // Each client costs a socket here, one at its server and two at the proxy.
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        let mut settings = Settings::new()
            .nats(nats)
            .set("logging.level", "info")
            .set("stream.retry", "250ms")
            // An event that goes on without a position may be seen again after a reconnect. On a
            // machine that is busy with other tests the log may need its time.
            .set("jetstream.park", "15s")
            .chat(EVERYBODY, &(1..=CLIENTS).collect::<Vec<_>>());
        for group in 0..GROUPS {
            let users: Vec<_> = (1..=CLIENTS).filter(|u| group_of(*u) == group).collect();
            settings = settings.chat(group, &users);
        }
        let servers = vec![
            Server::start(settings.clone()).await,
            Server::start(settings.clone()).await,
        ];
        let proxy = Proxy::start(&[servers[0].address(), servers[1].address()]).await;
        let mut clients = JoinSet::new();
        let (confirmed, mut confirmations) = mpsc::unbounded_channel();
        for user in 1..=CLIENTS {
            clients.spawn(Client::new(user, proxy.address(), confirmed.clone()).run());
        }
        // A stream that is being opened counts as a connection. What is published meanwhile is not
        // promised to it.
        within("all clients to be confirmed", async {
            for _ in 0..CLIENTS {
                confirmations.recv().await.expect("clients hold the sender");
            }
        })
        .await;
        Self {
            settings,
            proxy,
            servers,
            clients,
        }
    }

    /// Has the oldest instance end as `end` has it, starts another, and waits until all clients are
    /// served again.
    async fn replace_oldest(&mut self, end: impl AsyncFnOnce(Server)) {
        let old = self.servers.remove(0);
        let address = old.address();
        end(old).await;
        // Only now: what the balancer has not noticed yet is for it and the clients to get over.
        self.proxy.remove(address);
        let new = Server::start(self.settings.clone()).await;
        self.proxy.add(new.address());
        self.servers.push(new);
        self.all_are_connected().await;
    }

    async fn all_are_connected(&self) {
        eventually("all clients to be connected", || async {
            let mut connected = 0.0;
            for server in &self.servers {
                connected += server.metric("notify_connections", "").await;
            }
            (connected == CLIENTS as f64).then_some(())
        })
        .await;
    }

    /// Waits until every client has everything.
    async fn journeys(self) -> Vec<Journey> {
        within("all clients to have all events", self.clients.join_all()).await
    }
}

fn group_of(user: i64) -> i64 {
    user % GROUPS
}

/// Publishes to all chats in turn, numbered within each chat, until it is stopped.
struct Publisher {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Publisher {
    fn start(backend: Backend) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(publish(backend, stop.clone()));
        Self { stop, task }
    }

    /// Stops, with a last event in each chat that says how many there were.
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn publish(backend: Backend, stop: CancellationToken) {
    let chats: Vec<i64> = (0..GROUPS).chain([EVERYBODY]).collect();
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = 0;
    while !stop.is_cancelled() {
        for &chat in &chats {
            ticks.tick().await;
            let payload = payload::chat_message(chat, &rounds.to_string());
            backend.publish(&chat_subject(chat), &payload).await;
        }
        rounds += 1;
    }
    for chat in chats {
        let payload = payload::chat_message(chat, &format!("end {rounds}"));
        backend.publish(&chat_subject(chat), &payload).await;
    }
}

/// A client as an `EventSource` is one: it comes back behind its last id, after the time that it
/// was told.
struct Client {
    user: i64,
    token: String,
    proxy: SocketAddr,
    last_event_id: String,
    /// For each of its chats, the number of the next event.
    next: HashMap<i64, u64>,
    confirmed: Option<Confirmed>,
    journey: Journey,
}

/// What a client went through until it had everything.
#[derive(Debug, Default)]
struct Journey {
    reconnects: usize,
    /// Streams that ended without `closing`.
    breaks: usize,
}

impl Client {
    fn new(user: i64, proxy: SocketAddr, confirmed: Confirmed) -> Self {
        Self {
            user,
            token: tokens::of_user(user),
            proxy,
            last_event_id: String::new(),
            next: HashMap::from([(EVERYBODY, 0), (group_of(user), 0)]),
            confirmed: Some(confirmed),
            journey: Journey::default(),
        }
    }

    async fn run(mut self) -> Journey {
        loop {
            let mut stream = within("a stream", self.connect()).await;
            let mut said_goodbye = false;
            while let Some(event) = stream.next_if_any().await {
                self.last_event_id = stream.last_event_id().to_owned();
                match event.kind() {
                    "new_message" => self.message(&event.data["message"]),
                    "connection_confirmed" => {
                        let came_back = self.journey.reconnects > 0;
                        assert_eq!(event.data["recovered"], came_back, "{}", self.user);
                        if let Some(confirmed) = self.confirmed.take() {
                            confirmed.send(()).unwrap();
                        }
                    }
                    "caught_up" => {}
                    "closing" => {
                        assert_eq!(event.data["reason"], "draining");
                        said_goodbye = true;
                    }
                    other => panic!("user {}: {other}: {}", self.user, event.data),
                }
                if self.next.is_empty() {
                    return self.journey;
                }
            }
            self.journey.reconnects += 1;
            self.journey.breaks += usize::from(!said_goodbye);
            let retry = stream.retry().expect("every stream begins with `retry:`");
            drop(stream);
            tokio::time::sleep(Duration::from_millis(retry)).await;
        }
    }

    async fn connect(&self) -> EventStream {
        let mut request = Request::get("/events").bearer(&self.token);
        if !self.last_event_id.is_empty() {
            request = request.header("last-event-id", &self.last_event_id);
        }
        loop {
            match request.try_send(self.proxy).await {
                Ok(response) if response.status == 200 => return EventStream::new(response),
                // An instance that stops may still answer, with 503, or break off.
                Ok(response) => assert_eq!(response.status, 503),
                Err(_) => {}
            }
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
    }

    fn message(&mut self, message: &Value) {
        let chat = message["chat_id"].as_i64().unwrap();
        let content = message["content"].as_str().unwrap();
        let user = self.user;
        let next = self.next.get_mut(&chat);
        let next = next.unwrap_or_else(|| panic!("user {user}, chat {chat}: {content} again"));
        match content.strip_prefix("end ") {
            None => {
                assert_eq!(content, next.to_string(), "user {user}, chat {chat}");
                *next += 1;
            }
            Some(events) => {
                assert_eq!(events, next.to_string(), "user {user}, chat {chat}");
                self.next.remove(&chat);
            }
        }
    }
}
