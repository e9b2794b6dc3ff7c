//! What every event passes through on its way: decode, encode, route. `cargo bench --bench hot_path`
//!
//! The figure to reach: a message with 50 recipients decoded and routed in under 5 µs.

use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use divan::{Bencher, counter::ItemsCount};
use notify_server::{
    event::{
        Audience, Channel, ChatId, Class, Epoch, Event, EventId, Frame, Timestamp, UserId,
        decode::{Decoded, Rules, decode},
    },
    hub::{
        Client, Delivery, ExplainConfig, HistoryConfig, Hub, Metrics, Opening, Resume, Scope,
        SessionStream, StreamConfig, Transport,
        admission::{Admission, Quota},
        registry::Registry,
    },
    memory::Memory,
};

/// Connected sessions: what a default server allows. One for each user.
const SESSIONS: i64 = 10_000;
/// Frames that wait before a session writes them.
const QUEUED: usize = 16;

const SUBJECT: &str = "fechatter.realtime.chat.5";

/// Enough samples that the first ones, with cold caches, do not weigh; `--sample-count` overrides it.
const SAMPLES: u32 = 1000;

fn main() {
    divan::Divan::default()
        .sample_count(SAMPLES)
        .config_with_args()
        .main();
}

#[divan::bench(args = [0, 50, 1000])]
fn decode_message(bencher: Bencher<'_, '_>, recipients: usize) {
    let payload = message(recipients);
    bencher.bench(|| decoded(black_box(&payload)));
}

#[divan::bench]
fn decode_typing(bencher: Bencher<'_, '_>) {
    let payload = r#"{"event_type":"typing_started","chat_id":5,"user_id":2,"user_name":"Bashir"}"#;
    bencher.bench(|| decoded(black_box(payload)));
}

#[divan::bench]
fn decode_push(bencher: Bencher<'_, '_>) {
    let payload = r#"{"id":"8d6a","timestamp":"2025-07-30T07:10:00Z","type":"progress","service":"billing",
        "source":"worker-3","target":{"user_id":"2","session_id":"abc-1"},"data":{"done":40,"of":100},
        "metadata":{"priority":"high","ttl":60,"retry_count":0}}"#;
    bencher.bench(|| decoded(black_box(payload)));
}

#[divan::bench]
fn encode_message(bencher: Bencher<'_, '_>) {
    let Decoded { kind, json, .. } = decoded(&message(0));
    let id = EventId::new(Epoch(1_753_859_400), 4182, &json);
    bencher.bench(|| {
        Frame::event(
            Some(&id),
            black_box(&kind),
            black_box(&json),
            Class::Durable,
            None,
        )
    });
}

#[divan::bench(args = [50, 1000])]
fn route_to_users(bencher: Bencher<'_, '_>, recipients: usize) {
    let event = Event::new(None, decoded(&message(recipients)));
    route(bencher, &event, recipients);
}

#[divan::bench(args = [50, 1000, 10_000])]
fn route_to_chat(bencher: Bencher<'_, '_>, members: usize) {
    let mut event = Event::new(None, decoded(&message(0)));
    event.audience = Audience::channel(chat(members));
    route(bencher, &event, members);
}

#[divan::bench]
fn decode_encode_and_route_to_50(bencher: Bencher<'_, '_>) {
    let payload = message(50);
    let mut sessions = Sessions::new();
    bencher.bench_local(|| {
        let decoded = decoded(black_box(&payload));
        let id = EventId::new(Epoch(1_753_859_400), 4182, &decoded.json);
        sessions.route(&Event::new(Some(id), decoded))
    });
}

/// From the hub to the bytes of every connection; with and without what is remembered for `explain`.
#[divan::bench(args = [(1, false), (1, true), (50, false), (50, true), (1000, false), (1000, true)])]
fn deliver_to_members(bencher: Bencher<'_, '_>, (members, explain): (usize, bool)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let Ok(runtime) = runtime else {
        unreachable!("a runtime without I/O can be made");
    };
    let local = tokio::task::LocalSet::new();
    let (hub, mut streams) = local.block_on(&runtime, open_streams(members, explain));
    let payload = message(0);
    let mut position = 0;
    bencher.counter(ItemsCount::new(members)).bench_local(|| {
        position += 1;
        let decoded = decoded(black_box(&payload));
        let id = EventId::new(Epoch(1), position, payload.as_bytes());
        let event = Event::new(Some(id), decoded).published_at(Instant::now());
        local.block_on(&runtime, async {
            hub.deliver(event, Delivery::Live).await;
            tokio::task::yield_now().await;
            written(&mut streams)
        })
    });
    let routed = hub.routed();
    assert_eq!(
        routed,
        position * members as u64,
        "a bench that measures what it says"
    );
}

/// Streams of so many members of chat 5, of which the confirmation is read.
async fn open_streams(members: usize, explain: bool) -> (Hub, Vec<SessionStream>) {
    let quota = Quota {
        total: members,
        per_user: 1,
        per_address: 0,
        rate: 0,
        rate_per_address: 0,
    };
    let explain = ExplainConfig {
        enabled: explain,
        ..ExplainConfig::default()
    };
    let hub = Hub::new(
        StreamConfig::default(),
        (HistoryConfig::default(), explain),
        Admission::new(quota, Memory::default()),
        Metrics::default(),
        EventId::origin(Epoch(1)),
        true,
    );
    let (shard, task) = hub.open_shard();
    tokio::task::spawn_local(task.run());
    let mut streams = Vec::with_capacity(members);
    for number in 0..members {
        let user = UserId::from(number as i64);
        let Ok(permit) = hub.admit(&user, None) else {
            unreachable!("there are as many places as members");
        };
        let opening = Opening {
            named: false,
            scope: Scope::Own,
            client: Client {
                transport: Transport::Sse,
                remote: None,
                user_agent: "".into(),
                shared: None,
                device: None,
            },
            expires_at: None,
            credential: None,
            connection_id: uuid::Uuid::from_u128(number as u128),
            permit,
        };
        let pending = shard.register(&user, opening);
        let chats = vec![ChatId::from(5)];
        let activated = pending.activate(chats, Resume::Fresh.into()).await;
        let Ok((stream, _)) = activated else {
            unreachable!("who is new waits for nothing")
        };
        streams.push(stream);
    }
    written(&mut streams);
    (hub, streams)
}

/// Takes what waits for each stream, as connections do; how many bytes that are.
fn written(streams: &mut [SessionStream]) -> usize {
    let mut context = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    for stream in streams {
        while let Poll::Ready(Some(piece)) = stream.poll_next(&mut context) {
            bytes += piece.len();
        }
    }
    bytes
}

fn route(bencher: Bencher<'_, '_>, event: &Event, recipients: usize) {
    let mut sessions = Sessions::new();
    assert_eq!(
        sessions.route(event),
        recipients,
        "a bench that measures what it says"
    );
    bencher
        .counter(ItemsCount::new(recipients))
        .bench_local(|| sessions.route(black_box(event)));
}

/// Sessions of users 1 to [`SESSIONS`], in chats of several sizes, each with a queue in place of its outbox.
struct Sessions(Registry<Vec<Frame>>);

impl Sessions {
    fn new() -> Self {
        let mut registry = Registry::default();
        for number in 1..=SESSIONS {
            let user = UserId::from(number);
            let key = registry.add(user.clone(), Vec::with_capacity(QUEUED));
            registry.join(key, &Channel::user(&user));
            for members in [50, 1000, 10_000] {
                // Spread over all sessions, as users do not connect chat by chat.
                if number % (SESSIONS / members) == 0 {
                    registry.join(key, &chat(members as usize));
                }
            }
        }
        Self(registry)
    }

    fn route(&mut self, event: &Event) -> usize {
        let mut reached = 0;
        self.0.route(&event.audience, |_, queue| {
            if queue.len() == QUEUED {
                queue.clear();
            }
            queue.push(event.frame.clone());
            reached += 1;
        });
        reached
    }
}

/// The chat with so many members connected.
fn chat(members: usize) -> Channel {
    Channel::chat(&ChatId::from(members as i64))
}

/// A chat message as the backend publishes it; without recipients it is for the chat.
fn message(recipients: usize) -> String {
    let recipients: Vec<_> = (1..=recipients).map(|n| (n * 7).to_string()).collect();
    let list = format!(r#","recipients":[{}]"#, recipients.join(","));
    format!(
        r#"{{"MessageReceived":{{"message":{{"id":"1002","chat_id":5,"sender_id":3,
        "content":"hi \"all\"\nsecond line","files":["/files/1/ab/cd.png"],"timestamp":1753859401}},
        "chat_id":5{}}}}}"#,
        if recipients.is_empty() { "" } else { &list }
    )
}

fn decoded(payload: &str) -> Decoded {
    let now = Timestamp::from_millis(1_753_859_400_000);
    match decode(&Rules::default(), SUBJECT, payload.as_bytes(), now) {
        Ok(decoded) => decoded,
        Err(rejection) => unreachable!("the benchmark's own payload is accepted: {rejection}"),
    }
}
