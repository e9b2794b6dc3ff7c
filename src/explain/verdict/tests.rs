use super::*;
use crate::event::ChatId;
use crate::hub::Transport;
use proptest::prelude::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn chat() -> Channel {
    Channel::chat(&ChatId::from(5))
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
            channels: vec![chat()],
            others: Vec::new(),
            total: 1,
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
        now: Some(true),
        listened: None,
    }]
}

/// What a session heard that was there or was not, and then listened on the chat.
fn heard(standing: &Standing) -> Heard {
    match standing {
        Standing::Over | Standing::Fresh | Standing::Had | Standing::Gap(_) | Standing::Unknown => {
            Heard::Absent
        }
        _ => Heard::There {
            reached: true,
            channels: vec![chat()],
        },
    }
}

fn deaf() -> Heard {
    Heard::There {
        reached: false,
        channels: Vec::new(),
    }
}

fn session(standing: Standing) -> SessionAccount {
    SessionAccount {
        heard: heard(&standing),
        connection_id: "c".to_owned(),
        transport: Transport::Sse,
        opened_at: at(50),
        ended: None,
        named: None,
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
    fn judge<T>(&self, judge: impl Fn(&Facts<'_>) -> T) -> T {
        let user = UserId::from(2);
        judge(&Facts {
            user: &user,
            event: &self.event,
            stays: &self.stays,
            accounts: vec![("a", &self.account)],
            missing: self.missing,
            inbox: self.inbox,
        })
    }

    fn reason(&self) -> Reason {
        self.judge(|facts| facts.reason(&facts.sessions()))
    }

    fn basis(&self) -> Option<Basis> {
        self.judge(|facts| facts.basis())
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
    let gone = |ended: u64, because: &str| SessionAccount {
        ended: Some((at(ended), because.to_owned())),
        ..session(Standing::Over)
    };
    let cases = [
        (session(Standing::Over), Reason::NotConnected),
        // Given up by the hub before the event came, and still open to its client.
        (gone(101, "slow_consumer"), Reason::SlowConsumer),
        (gone(99, "slow_consumer"), Reason::NotConnected),
        (gone(101, "client_gone"), Reason::NotConnected),
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
    let written_to_others = SessionAccount {
        heard: deaf(),
        ..session(Standing::Written(None))
    };
    let mut outside = case(vec![written_to_others.clone()]);
    outside.stays = stay(Some(false));
    assert_eq!(outside.reason(), Reason::NotAMember);
    let mut others = case(vec![written_to_others.clone()]);
    others.event.audience.channels.clear();
    others.stays.clear();
    assert_eq!(others.reason(), Reason::NotInAudience);
    let mut typing = case(vec![session(Standing::Written(None))]);
    typing.event.audience.excluded = true;
    assert_eq!(typing.reason(), Reason::Excluded);
    let mut elsewhere = case(vec![SessionAccount {
        named: Some(vec![Channel::parse("job:1").unwrap()]),
        ..written_to_others
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
    for then in [None, Some(true), Some(false)] {
        let mut unsure = case(vec![SessionAccount {
            heard: Heard::Forgotten,
            ..session(Standing::Written(None))
        }]);
        unsure.stays = stay(then);
        assert_eq!(unsure.reason(), Reason::NotRemembered, "{then:?}");
    }
    // A stream that is not remembered may have listened, whatever the database says.
    let mut outside = case(Vec::new());
    outside.stays = stay(Some(false));
    assert_eq!(outside.reason(), Reason::NotAMember);
    outside.account.sessions_since = at(101);
    assert_eq!(outside.reason(), Reason::NotRemembered);
}

#[test]
fn a_stream_knows_better_than_the_database() {
    for then in [None, Some(true), Some(false)] {
        let mut listened = case(vec![session(Standing::Written(None))]);
        listened.stays = stay(then);
        assert_eq!(listened.reason(), Reason::Written, "{then:?}");
        assert_eq!(listened.basis(), Some(Basis::Streams));
        let mut waits = case(vec![session(Standing::Queued)]);
        waits.stays = stay(then);
        assert_eq!(waits.reason(), Reason::Queued, "{then:?}");
        let mut not = case(vec![SessionAccount {
            heard: deaf(),
            ..session(Standing::Written(None))
        }]);
        not.stays = stay(then);
        let expected = match then {
            Some(false) => Reason::NotAMember,
            _ => Reason::NotListening,
        };
        assert_eq!(not.reason(), expected, "{then:?}");
        assert_eq!(not.basis(), Some(Basis::Streams));
    }
    // Without a stream there is nothing but the database.
    for standing in [Standing::Over, Standing::Fresh] {
        let mut later = case(vec![session(standing)]);
        later.stays = stay(Some(false));
        assert_eq!(later.reason(), Reason::NotAMember);
        assert_eq!(later.basis(), Some(Basis::Database));
        // Nor that, where it does not answer.
        later.stays = stay(None);
        assert_eq!(later.basis(), None);
    }
}

fn hints(case: &Case) -> Vec<String> {
    let reason = case.reason();
    case.judge(|facts| super::super::hints::of(facts, reason))
}

fn listened(case: &Case) -> Option<bool> {
    case.judge(|facts| {
        let mut stays = facts.stays.to_vec();
        super::super::hints::note_listening(&mut stays, facts);
        stays
    })
    .pop()
    .and_then(|stay| stay.listened)
}

#[test]
fn where_stream_and_database_differ_the_answer_says_so() {
    let mut removed = case(vec![session(Standing::Written(None))]);
    removed.stays = stay(Some(false));
    assert_eq!(listened(&removed), Some(true));
    let told = hints(&removed);
    assert!(
        told.len() == 1
            && told[0].contains("does not have the user in it")
            && told[0].contains("member_removed"),
        "{told:?}"
    );
    let added = SessionAccount {
        heard: deaf(),
        ..session(Standing::Written(None))
    };
    let mut added = case(vec![added]);
    assert_eq!(listened(&added), Some(false));
    let told = hints(&added);
    assert!(
        told.len() == 1
            && told[0].contains("did not listen on it when the event came")
            && told[0].contains("reconnects"),
        "{told:?}"
    );
    added.account.sessions[0].ended = Some((at(200), "client_gone".to_owned()));
    assert!(hints(&added)[0].contains("opened since"));
    // Those who agree are not mentioned, nor those who were not there.
    let agree = case(vec![
        session(Standing::Written(None)),
        session(Standing::Over),
    ]);
    assert_eq!((listened(&agree), hints(&agree)), (Some(true), Vec::new()));
    let absent = case(vec![session(Standing::Fresh)]);
    assert_eq!((listened(&absent), hints(&absent)), (None, Vec::new()));
    // What a token allows by name, no membership does.
    let mut granted = case(vec![SessionAccount {
        named: Some(vec![chat()]),
        ..session(Standing::Written(None))
    }]);
    granted.stays = stay(Some(false));
    assert_eq!(hints(&granted), Vec::<String>::new());
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
    /// What the streams heard decides, whatever the database says, and the order of sessions does not matter.
    #[test]
    fn answers_are_consistent(
        mut standings in proptest::collection::vec((standing(), any::<bool>()), 0..6),
        then in proptest::option::of(any::<bool>()),
        excluded: bool,
        missing: bool,
    ) {
        let build = |standings: &[(Standing, bool)]| {
            let session = |(standing, hears): &(Standing, bool)| {
                let mut session = session(standing.clone());
                if !hears && session.heard != Heard::Absent {
                    session.heard = deaf();
                }
                session
            };
            let mut case = case(standings.iter().map(session).collect());
            case.stays = stay(then);
            case.event.audience.excluded = excluded;
            case.missing = missing;
            case.reason()
        };
        let reason = build(&standings);
        let written = standings.contains(&(Standing::Written(None), true));
        let replayed = |(standing, hears): &(Standing, bool)| {
            matches!(standing, Standing::Replayed { .. }) && *hears
        };
        // A client that says that it had it is believed, if the database has its user in the chat.
        let says_so = standings.iter().any(|(standing, _)| *standing == Standing::Had);
        if excluded {
            prop_assert_eq!(reason.delivered(), Some(false));
        } else if written {
            prop_assert_eq!(reason, Reason::Written);
        } else if !(standings.iter().any(replayed) || says_so && then == Some(true)) {
            prop_assert_ne!(reason.delivered(), Some(true));
        }
        if missing && !excluded {
            prop_assert_ne!(reason, Reason::NotAMember);
        }
        standings.reverse();
        prop_assert_eq!(build(&standings), reason);
    }
}
