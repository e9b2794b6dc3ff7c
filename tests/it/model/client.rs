//! A client that keeps its Last-Event-ID and always comes back, to whatever instance there is.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::sync::{RwLock, mpsc};

use crate::support::{Event, Parser, Request, Response, tokens};

/// The last thing that every client sees.
pub(super) const END: u64 = u64::MAX;

/// What all clients know of the world.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Where instances are, as far as they run.
    pub(super) instances: Mutex<Vec<Option<SocketAddr>>>,
    /// Nobody connects while a membership changes: the database and the log say it one after the
    /// other.
    pub(super) gate: RwLock<()>,
}

/// What a client is told to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Break off, and stay away for so long.
    Leave(Duration),
    /// Read nothing for so long.
    Stall(Duration),
}

/// A place in the log, out of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) epoch: u64,
    pub(super) position: u64,
}

/// What a client has seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Sight {
    /// A connection, from this place on.
    Confirmed(Place, bool),
    /// A numbered event.
    Event(u64, Option<Place>),
    /// What it can't have.
    Gap {
        reason: String,
        from: Option<Place>,
        to: Option<Place>,
    },
    /// The server ended the stream.
    Closing(String),
}

pub(super) struct Client {
    user: i64,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    confirmed: Option<mpsc::Sender<()>>,
    random: StdRng,
    last_event_id: Option<String>,
    seen: Vec<Sight>,
}

impl Client {
    /// A client of `user`, that says on `confirmed` when it is connected for the first time.
    pub(super) fn new(
        user: i64,
        seed: u64,
        shared: Arc<Shared>,
        orders: mpsc::Receiver<Order>,
        confirmed: mpsc::Sender<()>,
    ) -> Self {
        Self {
            user,
            shared,
            orders,
            confirmed: Some(confirmed),
            random: StdRng::seed_from_u64(seed),
            last_event_id: None,
            seen: Vec::new(),
        }
    }

    /// Reads until the end, and tells what it has seen.
    pub(super) async fn run(mut self) -> Vec<Sight> {
        loop {
            let Some((response, parser)) = self.connect().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.confirmed = None;
            let away = self.read(response, parser).await;
            if self.is_at_end() {
                return self.seen;
            }
            tokio::time::sleep(away).await;
        }
    }

    /// Connects to an instance by chance, up to the confirmation.
    async fn connect(&mut self) -> Option<(Response, Parser)> {
        let shared = Arc::clone(&self.shared);
        let _open = shared.gate.read().await;
        let running: Vec<SocketAddr> = shared
            .instances
            .lock()
            .unwrap()
            .iter()
            .flatten()
            .copied()
            .collect();
        let address = *running.choose(&mut self.random)?;
        let mut request = Request::get("/events").bearer(&tokens::of_user(self.user));
        if let Some(id) = &self.last_event_id {
            request = request.header("last-event-id", id);
        }
        if self.random.random_bool(0.5) {
            request = request.receive_buffer(32 * 1024);
        }
        let mut response = request.try_send(address).await.ok()?;
        if response.status != 200 {
            assert_eq!(response.status, 503, "user {}", self.user);
            return None;
        }
        let mut parser = Parser::default();
        let count = self.seen.len();
        while self.seen.len() == count {
            let bytes = response.chunk().await.ok()??;
            parser.feed(&bytes).unwrap();
            self.take(&mut parser);
        }
        Some((response, parser))
    }

    /// Reads until the stream breaks off or an order says so; gives how long to stay away.
    async fn read(&mut self, mut response: Response, mut parser: Parser) -> Duration {
        // The end may have come together with the confirmation.
        while !self.is_at_end() {
            let bytes = {
                let mut chunk = pin!(response.chunk());
                loop {
                    tokio::select! {
                        bytes = &mut chunk => break bytes,
                        order = self.orders.recv() => match order {
                            Some(Order::Leave(away)) => return away,
                            Some(Order::Stall(time)) => tokio::time::sleep(time).await,
                            None => return Duration::ZERO,
                        }
                    }
                }
            };
            let Ok(Some(bytes)) = bytes else {
                return Duration::ZERO;
            };
            parser.feed(&bytes).unwrap();
            self.take(&mut parser);
        }
        Duration::ZERO
    }

    fn is_at_end(&self) -> bool {
        matches!(self.seen.last(), Some(Sight::Event(END, _)))
    }

    fn take(&mut self, parser: &mut Parser) {
        while let Some(event) = parser.pop() {
            if let Some(id) = &event.id {
                self.last_event_id = Some(id.clone());
            }
            self.seen.extend(sight(&event));
        }
        // An id may come without an event: the place of one that came without.
        if !parser.last_event_id.is_empty() {
            self.last_event_id = Some(parser.last_event_id.clone());
        }
    }
}

fn sight(event: &Event) -> Option<Sight> {
    let id = event.id.as_deref().map(|id| place(id).unwrap());
    let text = |name: &str| event.data[name].as_str().unwrap_or("").to_owned();
    match event.kind() {
        "ping" | "caught_up" => None,
        "connection_confirmed" => {
            let recovered = event.data["recovered"] == true;
            Some(Sight::Confirmed(id.expect("an id"), recovered))
        }
        "closing" => Some(Sight::Closing(text("reason"))),
        "gap" => Some(Sight::Gap {
            reason: text("reason"),
            from: place(&text("from")),
            to: place(&text("to")),
        }),
        _ => Some(Sight::Event(number(&event.data).expect("a number"), id)),
    }
}

/// The number in an event, as it was published or as it came.
pub(super) fn number(data: &Value) -> Option<u64> {
    let body = data.get("MessageReceived").unwrap_or(data);
    if let Some(number) = body["number"].as_u64() {
        return Some(number);
    }
    let content = body["message"]["content"].as_str()?;
    content.split(' ').next()?.parse().ok()
}

/// What an id says. Only a test may know how it is made.
fn place(id: &str) -> Option<Place> {
    let mut parts = id.split('-').map(str::parse);
    Some(Place {
        epoch: parts.next()?.ok()?,
        position: parts.next()?.ok()?,
    })
}
