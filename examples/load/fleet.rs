//! All streams of a run: opens them together, and waits for what they are to get.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    Options,
    desk::Desk,
    stream::{Stream, now_ns},
    tally::Tally,
    way::{Shared, Way},
};

/// Validity of the tokens: longer than any run.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// The streams. One task each, all on one thread. Dropping the fleet closes them.
pub(crate) struct Fleet {
    pub(crate) desk: Rc<Desk>,
    streams: usize,
    _tasks: JoinSet<()>,
    _way: Shared,
}

/// How opening went.
pub(crate) struct Opening {
    pub(crate) took: Duration,
    pub(crate) confirmed: usize,
    /// Why streams were refused, and how many.
    pub(crate) refused: BTreeMap<String, usize>,
}

impl Fleet {
    /// Opens `streams` streams, of `first_user` and those behind, and returns when each is confirmed or
    /// refused.
    pub(crate) async fn open(
        options: &Options,
        first_user: usize,
        streams: usize,
    ) -> Result<(Self, Opening)> {
        let users = options.users.unwrap_or(streams).max(1);
        let asking = Asking::new(options);
        let requests = (first_user..first_user + users).map(|user| asking.ask(user, None));
        let requests: Vec<_> = requests.collect::<Result<_>>()?;
        let desk = Rc::new(Desk::new(options.chat));
        let spread = (streams, options.share);
        let authority = options.authority.as_ref();
        let way = Way::prepare(options.transport, options.server, authority, spread).await?;
        let way: Shared = Rc::new(way);
        let places = Arc::new(Semaphore::new(options.in_flight.max(1)));
        let mut tasks = JoinSet::new();
        let started = Instant::now();
        for index in 0..streams {
            let place = Arc::clone(&places).acquire_owned().await?;
            let request = requests[index % requests.len()].clone();
            let stream = Stream::new(Rc::clone(&desk), index);
            let way = Rc::clone(&way);
            tasks.spawn_local(stream.run(way, options.server, request, options.patience, place));
        }
        // Each stream gives up by itself after that time, so all are decided in the end.
        desk.wait(options.patience * 2, || desk.decided() >= streams)
            .await;
        let opening = Opening {
            took: started.elapsed(),
            confirmed: desk.confirmed(),
            refused: desk.refused.borrow().clone(),
        };
        let fleet = Self {
            desk,
            streams,
            _tasks: tasks,
            _way: way,
        };
        Ok((fleet, opening))
    }

    /// Forgets what was counted, and expects `events` events on each open stream.
    pub(crate) fn expect(&self, events: u64) {
        let tally = Tally::new(self.streams, self.desk.open(), events);
        self.desk.tally.replace(tally);
    }

    /// Waits until every event is there, or nothing more has come for the time of `patience`.
    pub(crate) async fn wait(&self, patience: Duration) {
        let desk = &self.desk;
        let complete = || desk.tally.borrow().missing == 0;
        desk.wait(patience, complete).await;
    }
}

/// A request for a stream.
#[derive(Clone)]
pub(crate) struct Request {
    /// As it is sent in HTTP/1.1.
    pub(crate) bytes: Rc<[u8]>,
    pub(crate) token: Rc<str>,
}

/// Makes the requests, with tokens that it signs.
pub(crate) struct Asking {
    server: SocketAddr,
    key: EncodingKey,
    expires: u64,
}

impl Asking {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            server: options.server,
            key: EncodingKey::from_secret(options.secret.as_bytes()),
            expires: now_ns() / 1_000_000_000 + TOKEN_SECONDS,
        }
    }

    /// The token of a user who may do everything.
    pub(crate) fn administrator(&self) -> Result<String> {
        let rights = json!({ "admin": true, "publish": ["*"] });
        let claims = json!({ "user_id": "load", "exp": self.expires, "notify": rights });
        Ok(jsonwebtoken::encode(
            &Header::default(),
            &claims,
            &self.key,
        )?)
    }

    /// The request of a user, who may have been here before.
    pub(crate) fn ask(&self, user: usize, last_event_id: Option<&str>) -> Result<Request> {
        let claims = json!({ "user_id": user, "exp": self.expires });
        let token = jsonwebtoken::encode(&Header::default(), &claims, &self.key)?;
        let mut request = format!(
            "GET /events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\
             Authorization: Bearer {token}\r\n",
            self.server
        );
        if let Some(id) = last_event_id {
            request.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        request.push_str("\r\n");
        Ok(Request {
            bytes: request.into_bytes().into(),
            token: token.into(),
        })
    }
}
