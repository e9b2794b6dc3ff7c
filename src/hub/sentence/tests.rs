//! Sentences against sessions of a real shard, in turns with deliveries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::task::LocalSet;
use uuid::Uuid;

use super::Sentence;
use crate::credential::{Credential, Mark};
use crate::event::decode::{Rules, decode};
use crate::event::{Channel, ChatId, Epoch, Event, EventId, MembershipChange, Timestamp, UserId};
use crate::hub::admission::{Admission, Quota};
use crate::hub::{
    Client, Delivery, End, ExplainConfig, HistoryConfig, Hub, LocalHub, Metrics, NamedChannels,
    Opening, PendingSession, Resume, Scope, SessionStream, Sought, Standing, StreamConfig,
    Transport,
};
use crate::memory::Memory;

/// What a session was opened with.
#[derive(Debug, Clone)]
struct Opened {
    user: i64,
    /// It listens on channels by name.
    named: bool,
    credential: Option<Credential>,
}

fn mark(number: u32) -> Mark {
    // Two of three have the same first bytes.
    Mark::parse(&format!("{:08x}{number:024x}", number / 3)).unwrap()
}

fn token(key: u32, id: Option<u32>, hash: u32) -> Option<Credential> {
    Some(Credential {
        key: mark(key),
        id: id.map(mark),
        hash: mark(hash),
        issued_at: 0,
    })
}

fn own(user: i64, credential: Option<Credential>) -> Opened {
    Opened {
        user,
        named: false,
        credential,
    }
}

/// A hub of one shard, with room for so many sessions.
fn hub_for(sessions: usize) -> (Hub, LocalHub) {
    let quota = Quota {
        total: sessions,
        per_user: sessions,
        per_address: 0,
        rate: 0,
        rate_per_address: 0,
    };
    let hub = Hub::new(
        StreamConfig::default(),
        (HistoryConfig::default(), ExplainConfig::default()),
        Admission::new(quota, Memory::default()),
        Metrics::default(),
        EventId::origin(Epoch(1)),
        true,
    );
    let (shard, task) = hub.open_shard();
    tokio::task::spawn_local(task.run());
    (hub, shard)
}

/// A session that waits for its chats.
fn registered(hub: &Hub, shard: &LocalHub, number: usize, session: &Opened) -> PendingSession {
    let user = UserId::from(session.user);
    let channels = NamedChannels {
        granted: vec![Channel::parse("job:1").unwrap()],
        as_member: Vec::new(),
    };
    let opening = Opening {
        named: session.named,
        scope: match session.named {
            true => Scope::Named(channels),
            false => Scope::Own,
        },
        client: Client {
            transport: Transport::Sse,
            remote: None,
            user_agent: "".into(),
            shared: None,
            device: None,
        },
        expires_at: None,
        credential: session.credential.clone(),
        connection_id: Uuid::from_u128(number as u128),
        permit: hub.admit(&user, None).unwrap(),
    };
    shard.register(&user, opening)
}

/// Makes a session live of which the memory has all that it missed.
async fn live(
    pending: PendingSession,
    chats: &[ChatId],
    resume: Resume,
) -> (SessionStream, Vec<ChatId>) {
    match pending.activate(chats.to_vec(), resume.into()).await {
        Ok(live) => live,
        Err(_) => panic!("the memory has let go of something"),
    }
}

/// A hub of one shard with these sessions, live and read.
async fn hub_of(sessions: &[Opened]) -> (Hub, Vec<SessionStream>) {
    let (hub, shard) = hub_for(sessions.len());
    let mut streams = Vec::new();
    for (number, session) in sessions.iter().enumerate() {
        let pending = registered(&hub, &shard, number, session);
        let (mut stream, _) = live(pending, &[], Resume::Fresh).await;
        assert!(!read(&mut stream).1);
        streams.push(stream);
    }
    (hub, streams)
}

/// A note to a user, at the first place of the log.
fn note(user: i64) -> Event {
    let payload = format!(r#"{{"type": "note", "channel": "user:{user}", "data": {{}}}}"#);
    let now = Timestamp::now();
    let rules = Rules::default();
    let decoded = decode(&rules, "fechatter.realtime.x", payload.as_bytes(), now);
    let id = EventId::new(Epoch(1), 1, payload.as_bytes());
    Event::new(Some(id), decoded.unwrap())
}

/// What waits for a stream, and whether it is over.
fn read(stream: &mut SessionStream) -> (String, bool) {
    let mut context = Context::from_waker(Waker::noop());
    let mut text = String::new();
    loop {
        match stream.poll_next(&mut context) {
            Poll::Ready(Some(piece)) => text.push_str(&String::from_utf8_lossy(&piece)),
            Poll::Ready(None) => return (text, true),
            Poll::Pending => return (text, false),
        }
    }
}

fn ended(streams: &mut [SessionStream]) -> BTreeSet<usize> {
    let all = streams.iter_mut().enumerate();
    let over = all.filter_map(|(number, stream)| read(stream).1.then_some(number));
    over.collect()
}

fn sentence(refuses: impl Fn(&UserId, &Credential) -> bool + Send + Sync + 'static) -> Sentence {
    Sentence::new(End::TokenRevoked, Duration::ZERO, refuses)
}

/// Which it is to be by a plain look at all.
fn meant(sessions: &[Opened], goes: impl Fn(&Opened) -> bool) -> BTreeSet<usize> {
    let all = sessions.iter().enumerate();
    all.filter_map(|(number, session)| goes(session).then_some(number))
        .collect()
}

#[tokio::test]
async fn everybody_is_looked_at_in_parts_and_deliveries_come_in_between() {
    const ALL: usize = 3_300;
    let sessions: Vec<Opened> = (0..ALL)
        .map(|number| own(number as i64, token(number as u32 % 3, None, number as u32)))
        .collect();
    let local = LocalSet::new();
    local
        .run_until(async {
            let (hub, mut streams) = hub_of(&sessions).await;
            // Empty places are no end.
            for number in (100..1_400).rev() {
                streams.remove(number);
            }
            let seen = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&seen);
            let gone = mark(1);
            let sentence = sentence(move |_, of| {
                counted.fetch_add(1, Ordering::Relaxed);
                of.key == gone
            });
            let event = note(0);
            let first = &mut streams[0];
            let (ends, looks) = tokio::join!(hub.sentence(sentence), async {
                hub.deliver(event, Delivery::Live).await;
                while !read(first).0.contains("note") {
                    tokio::task::yield_now().await;
                }
                seen.load(Ordering::Relaxed)
            });
            let left = ALL - 1_300;
            assert_eq!(seen.load(Ordering::Relaxed), left);
            assert!(looks < left / 2, "{looks}");
            let kept: Vec<usize> = (0..100).chain(1_400..ALL).collect();
            let of_key: BTreeSet<usize> = (0..left).filter(|at| kept[*at] % 3 == 1).collect();
            assert_eq!(ends, of_key.len());
            assert_eq!(ended(&mut streams), of_key);
        })
        .await;
}

#[tokio::test]
async fn who_is_ended_before_it_is_live_gets_nothing_and_keeps_its_place() {
    let place = EventId::origin(Epoch(1));
    let local = LocalSet::new();
    local
        .run_until(async {
            for end in [None, Some(End::TokenRevoked), Some(End::Draining)] {
                let (hub, shard) = hub_for(2);
                let watching = registered(&hub, &shard, 0, &own(1, None));
                let (mut witness, _) = live(watching, &[], Resume::Fresh).await;
                let pending = registered(&hub, &shard, 1, &own(1, token(1, None, 1)));
                hub.deliver(note(1), Delivery::Live).await;
                while !read(&mut witness).0.contains("note") {
                    tokio::task::yield_now().await;
                }
                if let Some(end) = end {
                    let sentence = Sentence::new(end, Duration::ZERO, |_, _| true);
                    assert_eq!(hub.sentence(sentence).await, 1);
                }
                let (mut stream, _) = live(pending, &[], Resume::After(place)).await;
                let (text, is_over) = read(&mut stream);
                assert_eq!(text.contains("note"), end.is_none(), "{text}");
                assert_eq!(is_over, end.is_some());
                // Whatever else it is told: it can come back for what it has not had.
                let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
                let keeps = ids.next_back() == Some(&place.to_string());
                assert_eq!(keeps, end.is_some(), "{text}");
                assert!(text.contains(r#""recovered":true"#), "{text}");
                // And whoever asks why it has not had it is told that it was over, then and later.
                let standing = match end {
                    None => Standing::Replayed { from_log: false },
                    Some(_) => Standing::Over,
                };
                assert_eq!(standings(&hub, 1, &note(1)).await, [(1, standing.clone())]);
                drop(stream);
                assert_eq!(standings(&hub, 1, &note(1)).await, [(1, standing)]);
            }
        })
        .await;
}

/// How an event stands to a user's sessions, by their numbers, except the first.
async fn standings(hub: &Hub, user: i64, event: &Event) -> Vec<(u128, Standing)> {
    let sought = Sought {
        user: user.into(),
        event: event.id.unwrap().to_string(),
        known: None,
    };
    let sessions = hub.account(&sought).await.sessions.into_iter();
    let numbered = sessions.map(|session| {
        let number = Uuid::parse_str(&session.connection_id).unwrap().as_u128();
        (number, session.standing)
    });
    numbered.filter(|(number, _)| *number > 0).collect()
}

/// As after a gap in which joins and leaves may have been.
#[tokio::test]
async fn who_waits_while_memberships_are_looked_up_again_gets_those() {
    let chats = |ids: &[i64]| ids.iter().map(|id| ChatId::from(*id)).collect::<Vec<_>>();
    let user = UserId::from(1);
    let local = LocalSet::new();
    local
        .run_until(async {
            let (hub, shard) = hub_for(2);
            let [before, during] = [0, 1].map(|at| registered(&hub, &shard, at, &own(1, None)));
            let joined = MembershipChange::Joined(user.clone(), ChatId::from(7));
            {
                let mut shard = shard.shard.borrow_mut();
                assert_eq!(shard.begin_refresh(), std::slice::from_ref(&user));
                shard.change_membership(&user, &joined, Instant::now());
            }
            let (_live, listened) = live(during, &chats(&[5, 6]), Resume::Fresh).await;
            assert_eq!(listened, chats(&[5, 6, 7]));
            let left = MembershipChange::Left(user.clone(), ChatId::from(7));
            {
                let mut shard = shard.shard.borrow_mut();
                shard.finish_refresh(&user, &chats(&[6]), Instant::now());
                let mut listens = shard.chats_of(&user).unwrap();
                listens.sort();
                assert_eq!(listens, chats(&[6, 7]));
                shard.change_membership(&user, &left, Instant::now());
            }
            let (_stream, listened) = live(before, &chats(&[5, 6]), Resume::Fresh).await;
            assert_eq!(listened, chats(&[6]));
        })
        .await;
}

fn opened() -> impl Strategy<Value = Opened> {
    let id = prop::option::of(0..6_u32);
    let credential = prop::option::weighted(0.9, (0..2_u32, id, 0..6_u32));
    (0..4_i64, any::<bool>(), credential).prop_map(|(user, named, credential)| Opened {
        user,
        named,
        credential: credential.and_then(|(key, id, hash)| token(key, id, hash)),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// By tokens, by users and by a look at all: those that are meant end, each once, and nobody else does, whoever has
    /// gone before.
    #[test]
    fn ends_whom_a_plain_look_at_all_finds(
        before in prop::collection::vec(opened(), 0..6),
        sessions in prop::collection::vec(opened(), 1..24),
        marks in prop::collection::btree_set(0..6_u32, 0..4),
        users in prop::collection::btree_set(0..4_i64, 0..3),
        good in prop::collection::btree_set(0..6_u32, 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let all = [before.clone(), sessions.clone()].concat();
            let (hub, mut streams) = hub_of(&all).await;
            streams.drain(..before.len());
            let kept = good.clone();
            let sentence = sentence(move |_, of| !kept.iter().any(|hash| mark(*hash) == of.hash));
            let refused = |session: &Opened| {
                let credential = session.credential.as_ref();
                credential.is_some_and(|of| !good.iter().any(|hash| mark(*hash) == of.hash))
            };
            let tokens: Vec<Mark> = marks.iter().map(|number| mark(*number)).collect();
            let by_token = meant(&sessions, |session| {
                let credential = session.credential.as_ref();
                let named = credential.is_some_and(|of| tokens.iter().any(|mark| of.goes_by(*mark)));
                named && refused(session)
            });
            let count = hub.sentence(sentence.clone().of_tokens(tokens)).await;
            prop_assert_eq!(count, by_token.len());
            prop_assert_eq!(ended(&mut streams), by_token.clone());

            let of_users = users.iter().map(|user| UserId::from(*user)).collect();
            let by_user = meant(&sessions, |session| users.contains(&session.user) && refused(session));
            let count = hub.sentence(sentence.clone().of(of_users)).await;
            prop_assert_eq!(count, by_user.difference(&by_token).count());
            let both: BTreeSet<usize> = by_user.union(&by_token).copied().collect();
            prop_assert_eq!(ended(&mut streams), both.clone());

            let everybody = meant(&sessions, refused);
            let count = hub.sentence(sentence).await;
            prop_assert_eq!(count, everybody.difference(&both).count());
            prop_assert_eq!(ended(&mut streams), everybody);
            Ok(())
        })?;
    }
}
