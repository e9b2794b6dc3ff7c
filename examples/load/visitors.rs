//! Clients that go away and come back. Each notes where it was, and checks that what it gets when it is
//! back is exactly what it missed: every event once, in order, and then `caught_up`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    Options,
    desk::count,
    fleet::Asking,
    histogram::Histogram,
    stream::{Reason, connect, message},
    wire::Reader,
};

/// Bytes read at once.
const READ_BUFFER: usize = 64 * 1024;

/// What the visitors of one visit share.
pub(crate) struct Lobby {
    server: SocketAddr,
    buffer: RefCell<Box<[u8]>>,
    /// Events that each is to get, and whether that is known to be all.
    missed: u64,
    here: Cell<usize>,
    left: Cell<usize>,
    /// From the start of connecting to `caught_up`, with everything that was missed.
    pub(crate) caught_up: RefCell<Histogram>,
    /// What was wrong, and how often.
    pub(crate) wrong: RefCell<BTreeMap<String, usize>>,
    changed: Notify,
}

/// Visitors on their way in.
pub(crate) struct Visit {
    pub(crate) lobby: Rc<Lobby>,
    visitors: usize,
    started: Instant,
    /// Each gives its number and its last id.
    tasks: JoinSet<(usize, Option<String>)>,
}

impl Visit {
    /// Users 1 to `ids.len()` come, each behind its id if it has one. Those who come back have missed
    /// `missed` events.
    pub(crate) fn begin(options: &Options, ids: &[Option<String>], missed: u64) -> Result<Self> {
        let lobby = Rc::new(Lobby {
            server: options.server,
            buffer: RefCell::new(vec![0; READ_BUFFER].into()),
            missed,
            here: Cell::new(0),
            left: Cell::new(0),
            caught_up: RefCell::new(Histogram::new()),
            wrong: RefCell::default(),
            changed: Notify::new(),
        });
        let asking = Asking::new(options);
        let requests: Vec<_> = (1..)
            .zip(ids)
            .map(|(user, id)| Ok(asking.ask(user, id.as_deref())?.bytes))
            .collect::<Result<_>>()?;
        let places = Arc::new(Semaphore::new(options.in_flight.max(1)));
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for (index, request) in requests.into_iter().enumerate() {
            let visitor = Visitor::new(Rc::clone(&lobby));
            let places = Arc::clone(&places);
            tasks.spawn_local(async move { (index, visitor.run(index, &request, &places).await) });
        }
        Ok(Self {
            lobby,
            visitors: ids.len(),
            started,
            tasks,
        })
    }

    /// Waits until all are here with everything that they missed; gives the time that it took since the
    /// first set out. Those who are not here by `patience` count as wrong.
    pub(crate) async fn arrival(&self, patience: Duration) -> Duration {
        self.lobby
            .wait(patience, self.visitors, &self.lobby.here)
            .await;
        self.started.elapsed()
    }

    /// Waits until all have left, who do so when they have got one event more than they had missed; gives
    /// their last ids, in the order of their users.
    pub(crate) async fn departure(mut self, patience: Duration) -> Vec<Option<String>> {
        let left = &self.lobby.left;
        self.lobby.wait(patience, self.visitors, left).await;
        let late = self.visitors - left.get() - self.lobby.failed();
        for _ in 0..late {
            count(&self.lobby.wrong, "not done in time".to_owned());
        }
        self.tasks.abort_all();
        let mut ids = vec![None; self.visitors];
        while let Some(left) = self.tasks.join_next().await {
            if let Ok((index, id)) = left {
                ids[index] = id;
            }
        }
        ids
    }
}

impl Lobby {
    async fn wait(&self, patience: Duration, all: usize, counter: &Cell<usize>) {
        while counter.get() + self.failed() < all {
            let before = counter.get();
            let changed = timeout(patience, self.changed.notified()).await;
            if changed.is_err() && counter.get() == before {
                return;
            }
        }
    }

    fn failed(&self) -> usize {
        self.wrong.borrow().values().sum()
    }

    fn one_more(&self, counter: &Cell<usize>) {
        counter.set(counter.get() + 1);
        self.changed.notify_one();
    }
}

/// One client.
struct Visitor {
    lobby: Rc<Lobby>,
    reader: Reader,
    last_event_id: Option<String>,
    confirmed: bool,
    caught_up: bool,
    /// Events that it has got.
    got: u64,
}

impl Visitor {
    fn new(lobby: Rc<Lobby>) -> Self {
        Self {
            lobby,
            reader: Reader::new(),
            last_event_id: None,
            confirmed: false,
            caught_up: false,
            got: 0,
        }
    }

    /// Comes, and stays until it has everything; gives its last id.
    async fn run(mut self, index: usize, request: &[u8], places: &Semaphore) -> Option<String> {
        let lobby = Rc::clone(&self.lobby);
        if let Err(reason) = self.visit(index, request, places).await {
            count(&lobby.wrong, reason);
            lobby.changed.notify_one();
            return None;
        }
        lobby.one_more(&lobby.left);
        self.last_event_id
    }

    async fn visit(
        &mut self,
        index: usize,
        request: &[u8],
        places: &Semaphore,
    ) -> Result<(), Reason> {
        let place = places.acquire().await.map_err(|error| error.to_string())?;
        let started = Instant::now();
        let lobby = Rc::clone(&self.lobby);
        let mut socket = connect(lobby.server, index)
            .await
            .map_err(|error| format!("connect: {error}"))?;
        let sent = socket.write_all(request).await;
        sent.map_err(|error| format!("request: {error}"))?;
        while !self.is_here() {
            self.read(&socket).await?;
        }
        drop(place);
        let took = started.elapsed().as_nanos() as u64;
        lobby.caught_up.borrow_mut().record(took);
        lobby.one_more(&lobby.here);
        // Who comes for the first time only wants to know where it is.
        while lobby.missed > 0 && self.got <= lobby.missed {
            self.read(&socket).await?;
        }
        Ok(())
    }

    fn is_here(&self) -> bool {
        let missed = self.lobby.missed;
        self.confirmed && (missed == 0 || (self.caught_up && self.got >= missed))
    }

    async fn read(&mut self, socket: &TcpStream) -> Result<(), Reason> {
        let lobby = Rc::clone(&self.lobby);
        socket.readable().await.map_err(|error| error.to_string())?;
        let mut buffer = lobby.buffer.borrow_mut();
        let count = match socket.try_read(&mut buffer) {
            Ok(0) => return Err("connection closed".to_owned()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.kind().to_string()),
        };
        let mut outcome = Ok(());
        let mut reader = std::mem::replace(&mut self.reader, Reader::new());
        let fed = reader.feed(&buffer[..count], |event| {
            if outcome.is_ok() {
                outcome = self.event(event);
            }
        });
        self.reader = reader;
        fed.map_err(|error| error.to_string()).and(outcome)
    }

    fn event(&mut self, event: &[u8]) -> Result<(), Reason> {
        let mut lines = event.split(|&byte| byte == b'\n');
        if let Some(id) = lines.find_map(|line| line.strip_prefix(b"id: ")) {
            let id = String::from_utf8_lossy(id);
            self.last_event_id = Some(id.into_owned());
        }
        if let Some((seq, _)) = message(event) {
            if seq != self.got {
                return Err("an event that is not the next".to_owned());
            }
            self.got += 1;
            return Ok(());
        }
        let mut lines = event.split(|&byte| byte == b'\n');
        match lines.find_map(|line| line.strip_prefix(b"data: ")) {
            Some(data) => self.notice(data),
            // Only `retry:`, or a comment.
            None => Ok(()),
        }
    }

    fn notice(&mut self, data: &[u8]) -> Result<(), Reason> {
        let event: Value = serde_json::from_slice(data).map_err(|_| "data that is no JSON")?;
        match event["type"].as_str() {
            Some("connection_confirmed") => {
                self.confirmed = true;
                let came_back = self.lobby.missed > 0;
                if event["recovered"] != came_back {
                    return Err(format!("recovered: {}", event["recovered"]));
                }
            }
            Some("caught_up") => self.caught_up = true,
            Some("ping" | "user_presence") => {}
            other => return Err(format!("{}: {}", other.unwrap_or("?"), event["reason"])),
        }
        Ok(())
    }
}
