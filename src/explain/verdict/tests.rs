use super::*;
use crate::event::ChatId;
use crate::hub::Transport;
use proptest::prelude::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// An event for chat 5 that came at 100.
fn event() -> Known {
    Known {
        id: Some("1-7-abcd".to_owned()),
        kind: "new_message".to_owned(),
        ephemeral: false,
        audience: For {
            everybody: false,
            user: false,
            excluded: false,
            channels: vec![Channel::chat(&ChatId::from(5))],
        },
        at: Some(at(100)),
        expires_at: None,
        durable: false,
        queued: None,
    }
}

fn stay(then: Option<bool>) -> Vec<Stay> {
    vec![Stay {
        chat_id: ChatId::from(5),
        then,
        now: true,
    }]
}

fn session(standing: Standing) -> SessionAccount {
    SessionAccount {
        connection_id: "c".to_owned(),
        transport: Transport::Sse,
        opened_at: at(50),
        ended: None,
        named: None,
        listens: Some(true),
        standing,
    }
}

fn account(sessions: Vec<SessionAccount>) -> Account {
    Account {
        enabled: true,
        event: None,
        at_known: true,
        contradicted: false,
        gap: None,
        sessions,
        events_since: at(0),
        sessions_since: at(0),
    }
}

struct Case {
    event: Known,
    stays: Vec<Stay>,
    account: Account,
    missing: bool,
    inbox: Option<bool>,
}

fn case(sessions: Vec<SessionAccount>) -> Case {
    Case {
        event: event(),
        stays: stay(Some(true)),
        account: account(sessions),
        missing: false,
        inbox: None,
    }
}

impl Case {
    fn reason(&self) -> Reason {
        let user = UserId::from(2);
        let facts = Facts {
            user: &user,
            event: &self.event,
            stays: &self.stays,
            accounts: vec![("a", &self.account)],
            missing: self.missing,
            inbox: self.inbox,
        };
        let sessions = facts.sessions();
        facts.reason(&sessions)
    }
}

#[test]
fn one_session_that_has_it_decides() {
    let standings = vec![
        session(Standing::Over),
        session(Standing::Written(None)),
        session(Standing::Fresh),
    ];
    let mut case = case(standings);
    case.missing = true;
    assert_eq!(case.reason(), Reason::Written);
}

#[test]
fn each_standing_has_its_reason() {
    let slow = SessionAccount {
        ended: Some((at(101), "slow_consumer".to_owned())),
        ..session(Standing::Unwritten)
    };
    let cases = [
        (session(Standing::Over), Reason::NotConnected),
        (session(Standing::Fresh), Reason::OpenedLater),
        (session(Standing::Had), Reason::HadAlready),
        (session(Standing::Gap("expired".to_owned())), Reason::Gap),
        (
            session(Standing::Replayed { from_log: true }),
            Reason::ReplayedFromLog,
        ),
        (
            session(Standing::Replayed { from_log: false }),
            Reason::ReplayedFromMemory,
        ),
        (session(Standing::Coming), Reason::OnItsWay),
        (session(Standing::Queued), Reason::Queued),
        (session(Standing::Shed), Reason::Shed),
        (session(Standing::Unwritten), Reason::EndedBefore),
        (slow, Reason::SlowConsumer),
        (session(Standing::Expired), Reason::Expired),
        (session(Standing::Unknown), Reason::NotRemembered),
    ];
    for (session, reason) in cases {
        assert_eq!(case(vec![session]).reason(), reason);
    }
    assert_eq!(case(Vec::new()).reason(), Reason::NotConnected);
}

#[test]
fn what_is_for_others_is_not_for_the_user() {
    let mut outside = case(vec![session(Standing::Written(None))]);
    outside.stays = stay(Some(false));
    assert_eq!(outside.reason(), Reason::NotAMember);
    let mut others = case(vec![session(Standing::Written(None))]);
    others.event.audience.channels.clear();
    others.stays.clear();
    assert_eq!(others.reason(), Reason::NotInAudience);
    let mut typing = case(vec![session(Standing::Written(None))]);
    typing.event.audience.excluded = true;
    assert_eq!(typing.reason(), Reason::Excluded);
    let mut elsewhere = case(vec![SessionAccount {
        named: Some(vec![Channel::parse("job:1").unwrap()]),
        ..session(Standing::Written(None))
    }]);
    elsewhere.stays = stay(Some(true));
    assert_eq!(elsewhere.reason(), Reason::NotListening);
}

#[test]
fn what_is_not_remembered_is_not_made_up() {
    let mut early = case(Vec::new());
    early.account.sessions_since = at(101);
    assert_eq!(early.reason(), Reason::NotRemembered);
    let mut missing = case(vec![session(Standing::Fresh)]);
    missing.missing = true;
    assert_eq!(missing.reason(), Reason::NotRemembered);
    let mut off = case(Vec::new());
    off.account.enabled = false;
    assert_eq!(off.reason(), Reason::NotRemembered);
    let mut unsure = case(vec![SessionAccount {
        listens: None,
        ..session(Standing::Written(None))
    }]);
    unsure.stays = stay(None);
    assert_eq!(unsure.reason(), Reason::NotRemembered);
}

#[test]
fn what_waits_for_the_user_does_so_whatever_streams_there_were() {
    let mut waits = case(vec![session(Standing::Over)]);
    waits.inbox = Some(true);
    assert_eq!(waits.reason(), Reason::WaitsInInbox);
    waits.inbox = Some(false);
    assert_eq!(waits.reason(), Reason::DeliveredFromInbox);
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Over),
        Just(Standing::Fresh),
        Just(Standing::Had),
        Just(Standing::Gap("epoch".to_owned())),
        any::<bool>().prop_map(|from_log| Standing::Replayed { from_log }),
        Just(Standing::Coming),
        Just(Standing::Queued),
        Just(Standing::Shed),
        Just(Standing::Unwritten),
        Just(Standing::Expired),
        Just(Standing::Written(None)),
        Just(Standing::Unknown),
    ]
}

proptest! {
    /// Nobody is said to have an event who was not in its audience, and the order of sessions does not matter.
    #[test]
    fn answers_are_consistent(
        mut standings in proptest::collection::vec(standing(), 0..6),
        then in proptest::option::of(any::<bool>()),
        excluded: bool,
        missing: bool,
    ) {
        let build = |standings: &[Standing]| {
            let mut case = case(standings.iter().cloned().map(session).collect());
            case.stays = stay(then);
            case.event.audience.excluded = excluded;
            case.missing = missing;
            case.reason()
        };
        let reason = build(&standings);
        if excluded || then == Some(false) {
            prop_assert_eq!(reason.delivered(), Some(false));
        }
        if !excluded && then == Some(true) && standings.contains(&Standing::Written(None)) {
            prop_assert_eq!(reason, Reason::Written);
        }
        standings.reverse();
        prop_assert_eq!(build(&standings), reason);
    }
}
