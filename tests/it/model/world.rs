//! Two instances, nats-server, the backend and the clients, and what happens to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{self, Client, END, Order, Shared, Sight};
use super::reference::Published;
use crate::support::payload::{self, chat_subject};
use crate::support::{
    Backend, EventStream, Nats, Server, Settings, eventually, sqlite, tokens, within,
};

const USERS: RangeInclusive<i64> = 1..=8;
const CHATS: RangeInclusive<i64> = 1..=3;

/// How long instances may take to be back on a nats-server that is there again.
const RETURN: Duration = Duration::from_secs(3);

/// Asks where an instance is; member of nothing.
const SCOUT: i64 = 99;

/// The real thing, and what of it the reference has to know.
pub(super) struct World {
    random: StdRng,
    nats: Nats,
    /// While nats-server runs.
    backend: Option<Backend>,
    settings: Settings,
    instances: Vec<Option<Server>>,
    shared: Arc<Shared>,
    orders: Vec<mpsc::Sender<Order>>,
    members: BTreeSet<(i64, i64)>,
    pub(super) published: HashMap<u64, Published>,
    number: u64,
    /// The last position of the log.
    end: u64,
    /// Numbers that the log may not have, because nats-server was killed.
    pub(super) at_risk: BTreeSet<u64>,
    /// Since when nats-server is down, or was until the second moment, and the longest time that it was.
    outage: Option<(Instant, Instant)>,
    pub(super) longest_outage: Duration,
    /// Why instances could not read from the log what clients had missed.
    pub(super) unread: Vec<String>,
    /// All that those instances said.
    pub(super) logs: Vec<String>,
    /// How often what happened, and how long it took in all.
    pub(super) steps: BTreeMap<&'static str, (usize, Duration)>,
}

impl World {
    /// Everything runs, and every client is connected.
    pub(super) async fn new(seed: u64) -> (Self, JoinSet<(i64, Vec<Sight>)>, BTreeSet<(i64, i64)>) {
        let mut random = StdRng::seed_from_u64(seed);
        let nats = Nats::start().await;
        // Little memory and small outboxes: clients that were away need the log, clients that
        // stall are sent away.
        let mut settings = Settings::new()
            .nats(&nats)
            .set("server.workers", 1)
            .set("server.drain_timeout", "2s")
            .set("stream.outbox_events", 64)
            .set("stream.outbox_bytes", "64 KiB")
            .set("stream.write_timeout", "3s")
            .set("history.max_events", 150)
            // A burst is more than waits for the server: the rest is dropped, and read from the log.
            .set("nats.pending_limit", 100);
        let mut members = BTreeSet::new();
        for chat in CHATS {
            let mut users: Vec<i64> = USERS.collect();
            users.shuffle(&mut random);
            users.truncate(random.random_range(2..=6));
            settings = settings.chat(chat, &users);
            members.extend(users.into_iter().map(|user| (chat, user)));
        }
        let mut world = Self {
            random,
            backend: Some(nats.backend().await),
            nats,
            settings,
            instances: vec![None, None],
            shared: Arc::default(),
            orders: Vec::new(),
            members: members.clone(),
            published: HashMap::new(),
            number: 0,
            end: 0,
            at_risk: BTreeSet::new(),
            outage: None,
            unread: Vec::new(),
            logs: Vec::new(),
            longest_outage: Duration::ZERO,
            steps: BTreeMap::new(),
        };
        world.shared.instances.lock().unwrap().resize(2, None);
        for index in 0..2 {
            world.start_instance(index).await;
        }
        world.all_are_ready().await;
        let clients = world.start_clients(seed).await;
        (world, clients, members)
    }

    async fn start_clients(&mut self, seed: u64) -> JoinSet<(i64, Vec<Sight>)> {
        let mut clients = JoinSet::new();
        let (confirmed, mut confirmations) = mpsc::channel(1);
        for user in USERS {
            let (orders, received) = mpsc::channel(1);
            self.orders.push(orders);
            let seed = seed.wrapping_add(user.unsigned_abs());
            let shared = Arc::clone(&self.shared);
            let client = Client::new(user, seed, shared, received, confirmed.clone());
            clients.spawn(async move { (user, client.run().await) });
        }
        drop(confirmed);
        // Each lets go of its end when it is connected.
        within("the clients to connect", confirmations.recv()).await;
        clients
    }

    pub(super) async fn step(&mut self) {
        let begun = Instant::now();
        let name = match self.random.random_range(0..100) {
            0..30 => self.publish_some(1..8, 100).await,
            30..32 => self.publish_some(150..400, 600).await,
            32 => self.overwhelm().await,
            33..45 => self.change_membership().await,
            45..70 => self.order_to_leave(),
            70..80 => self.order_to_stall(),
            80..83 => self.kill_instance(),
            83..85 => self.terminate_instance().await,
            85..95 => self.start_stopped_instance().await,
            95..97 => self.kill_nats().await,
            _ => self.start_nats().await,
        };
        let (count, time) = self.steps.entry(name).or_default();
        *count += 1;
        *time += begun.elapsed();
    }

    /// Publishes messages to chats and to lists of users. What is published while nats-server is
    /// down fails, and the backend knows it.
    async fn publish_some(&mut self, count: Range<usize>, size: usize) -> &'static str {
        let count = self.random.random_range(count);
        if self.backend.is_none() {
            return "could not publish";
        }
        for _ in 0..count {
            self.send_message(size).await;
        }
        self.logged(count).await;
        "published"
    }

    /// Publishes more than the outboxes and sockets of clients that stall can hold.
    async fn overwhelm(&mut self) -> &'static str {
        for _ in 0..3 {
            self.order(Order::Stall(Duration::from_secs(4)));
        }
        self.publish_some(300..500, 25_000).await;
        "overwhelmed clients"
    }

    /// Sends a message, and does not wait until anybody has it.
    async fn send_message(&mut self, size: usize) {
        let chat = self.random.random_range(CHATS);
        let to_users = self.random.random_bool(0.3);
        let size = self.random.random_range(0..size);
        let number = self.next_number();
        let content = format!("{number} {}", "x".repeat(size));
        let (published, payload) = if to_users {
            let mut users: Vec<i64> = USERS.collect();
            users.shuffle(&mut self.random);
            users.truncate(3);
            let payload = payload::message(chat, &content, &users);
            (Published::ToUsers(users), payload)
        } else {
            let payload = payload::chat_message(chat, &content);
            (Published::ToChat(chat), payload)
        };
        self.send(number, published, chat, &payload).await;
    }

    async fn send(&mut self, number: u64, published: Published, chat: i64, payload: &Value) {
        self.published.insert(number, published);
        let bytes = payload.to_string().into_bytes();
        let backend = self.backend.as_ref().unwrap();
        backend.send(&chat_subject(chat), bytes).await;
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Waits until the log has so many more.
    async fn logged(&mut self, count: usize) {
        self.backend.as_ref().unwrap().flush().await;
        self.end += count as u64;
        let end = self.end;
        eventually("the log to take what was published", || async {
            (self.log_end().await? >= end).then_some(())
        })
        .await;
    }

    async fn log_end(&self) -> Option<u64> {
        let stream = self.backend.as_ref()?.stream_if_any().await?;
        stream
            .get_info()
            .await
            .ok()
            .map(|info| info.state.last_sequence)
    }

    /// The database first, then the event, as a backend would; and only when all have seen it may
    /// clients connect again.
    async fn change_membership(&mut self) -> &'static str {
        if self.backend.is_none() {
            return "could not change a membership";
        }
        let shared = Arc::clone(&self.shared);
        let _closed = shared.gate.write().await;
        let (chat, user) = (
            self.random.random_range(CHATS),
            self.random.random_range(USERS),
        );
        let leaves = self.members.remove(&(chat, user));
        let (kind, published, sql) = if leaves {
            let sql = format!(
                "UPDATE chat_members SET left_at = CURRENT_TIMESTAMP
                 WHERE chat_id = {chat} AND user_id = {user}"
            );
            ("member_removed", Published::Left(chat, user), sql)
        } else {
            self.members.insert((chat, user));
            let sql = sqlite::insert_members(&[(chat, &[user])]);
            ("member_added", Published::Joined(chat, user), sql)
        };
        sqlite::execute(&self.settings.database_file(), &sql).await;
        let number = self.next_number();
        let mut event = payload::event(kind, chat, user);
        event["number"] = json!(number);
        self.send(number, published, chat, &event).await;
        self.logged(1).await;
        for server in self.instances.iter().flatten() {
            self.is_up_to_date(server).await;
        }
        "changed a membership"
    }

    /// Waits until an instance has come to the end of the log.
    async fn is_up_to_date(&self, server: &Server) {
        let token = tokens::of_user(SCOUT);
        eventually("an instance to come to the end of the log", || async {
            let response = server.events(&token).await;
            if response.status != 200 {
                return None;
            }
            let mut stream = EventStream::new(response);
            stream.expect_type("connection_confirmed").await;
            let mut id = stream.last_event_id().split('-').skip(1);
            let position: u64 = id.next()?.parse().ok()?;
            (position >= self.end).then_some(())
        })
        .await;
    }

    fn order_to_leave(&mut self) -> &'static str {
        let millis = *[0, 20, 200, 2_000].choose(&mut self.random).unwrap();
        self.order(Order::Leave(Duration::from_millis(millis)));
        "let a client leave"
    }

    fn order_to_stall(&mut self) -> &'static str {
        let millis = self.random.random_range(50..2_000);
        self.order(Order::Stall(Duration::from_millis(millis)));
        "let a client stall"
    }

    fn order(&mut self, order: Order) {
        let client = self.orders.choose(&mut self.random).unwrap();
        // One that has not followed the last order yet is not asked for more.
        let _ = client.try_send(order);
    }

    fn kill_instance(&mut self) -> &'static str {
        let index = self.random.random_range(0..2);
        self.shared.instances.lock().unwrap()[index] = None;
        self.note_unread(index);
        match self.instances[index].take() {
            Some(_) => "killed an instance",
            None => "found no instance to kill",
        }
    }

    async fn terminate_instance(&mut self) -> &'static str {
        let index = self.random.random_range(0..2);
        self.shared.instances.lock().unwrap()[index] = None;
        self.note_unread(index);
        match self.instances[index].take() {
            Some(server) => {
                server.stop().await;
                "stopped an instance"
            }
            None => "found no instance to stop",
        }
    }

    /// Before an instance is gone.
    fn note_unread(&mut self, index: usize) {
        let Some(server) = &self.instances[index] else {
            return;
        };
        let lines = server.log().into_iter();
        let unread = lines.filter(|line| line.message().contains("past could not be read"));
        let unread: Vec<String> = unread.map(|line| line.text("error").to_owned()).collect();
        if !unread.is_empty() {
            self.logs.push(server.process().stderr());
        }
        self.unread.extend(unread);
    }

    async fn start_stopped_instance(&mut self) -> &'static str {
        let stopped = self.instances.iter().position(Option::is_none);
        match stopped {
            Some(index) => {
                self.start_instance(index).await;
                "started an instance"
            }
            None => "found no instance to start",
        }
    }

    async fn start_instance(&mut self, index: usize) {
        let server = Server::start_unready(self.settings.clone()).await;
        self.shared.instances.lock().unwrap()[index] = Some(server.address());
        self.instances[index] = Some(server);
    }

    /// Kills nats-server, with messages on their way to it.
    async fn kill_nats(&mut self) -> &'static str {
        if self.backend.is_none() {
            return "found no NATS to kill";
        }
        for _ in 0..self.random.random_range(0..50) {
            self.send_message(100).await;
            self.at_risk.insert(self.number);
        }
        self.nats.kill();
        let now = Instant::now();
        let begun = match self.outage {
            // Instances may not have been connected in between.
            Some((begun, ended)) if now - ended < RETURN => begun,
            _ => now,
        };
        self.outage = Some((begun, now));
        self.backend = None;
        "killed NATS"
    }

    async fn start_nats(&mut self) -> &'static str {
        if self.backend.is_some() {
            return "found NATS running";
        }
        self.nats.start_again().await;
        self.backend = Some(self.nats.backend().await);
        self.end = eventually("the log to answer", || self.log_end()).await;
        if let Some((begun, ended)) = &mut self.outage {
            *ended = Instant::now();
            self.longest_outage = self.longest_outage.max(*ended - *begun);
        }
        "started NATS"
    }

    async fn all_are_ready(&self) {
        for server in self.instances.iter().flatten() {
            server.ready().await;
        }
    }

    /// Brings everything up, tells every client that this is the end, and waits until it knows.
    pub(super) async fn end(
        &mut self,
        mut clients: JoinSet<(i64, Vec<Sight>)>,
    ) -> Vec<(i64, Vec<Sight>)> {
        self.start_nats().await;
        for _ in 0..2 {
            self.start_stopped_instance().await;
        }
        self.all_are_ready().await;
        let users: Vec<i64> = USERS.collect();
        let payload = payload::message(1, &END.to_string(), &users);
        self.send(END, Published::ToUsers(users), 1, &payload).await;
        self.logged(1).await;
        let mut seen = Vec::new();
        while let Some(client) = within("the clients to see the end", clients.join_next()).await {
            seen.push(client.unwrap());
        }
        for index in 0..self.instances.len() {
            self.note_unread(index);
        }
        seen
    }

    /// What the log has.
    pub(super) async fn log(&self) -> BTreeMap<u64, u64> {
        let stream = self
            .backend
            .as_ref()
            .unwrap()
            .stream_if_any()
            .await
            .unwrap();
        let mut log = BTreeMap::new();
        for position in 1..=self.end {
            let message = stream.get_raw_message(position).await.unwrap();
            let data: Value = serde_json::from_slice(&message.payload).unwrap();
            log.insert(position, client::number(&data).unwrap());
        }
        log
    }
}
