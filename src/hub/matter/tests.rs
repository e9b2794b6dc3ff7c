use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::event::{Audience, Channel, ChatId, Class, Epoch};
use crate::hub::listening::{Hashing, Seats};
use crate::hub::notice::{Gap, GapReason};
use crate::hub::registry::SessionKey;
use crate::hub::witness::CameBack;

fn id(position: u64) -> EventId {
    EventId::with_check(Epoch(1), position, 7)
}

fn event(position: u64, class: Class) -> Arc<Event> {
    Arc::new(Event {
        id: Some(id(position)),
        kind: "t".to_owned(),
        audience: Audience::channel(Channel::chat(&ChatId::from(5))),
        membership: None,
        frame: Frame::event(Some(&id(position)), "t", b"{}", class, None),
    })
}

fn who() -> Who {
    Who {
        key: SessionKey::default(),
        serial: 1,
    }
}

/// A session that was live from a position on, having come back from another, with a gap behind that.
fn start(live_from: u64, from: Option<u64>, gap_up_to: Option<u64>) -> Start {
    let comeback = from.map(|from| CameBack {
        from: gap_up_to.unwrap_or(from),
        gap: gap_up_to.map(|to| Gap {
            reason: GapReason::Expired,
            from: Some(id(from)),
            to: Some(id(to)),
        }),
        log_up_to: 0,
        changes: None,
    });
    Start {
        live_from,
        comeback: comeback.map(Box::new),
    }
}

fn nowhere() -> Seats {
    Seats {
        on: None,
        turns: 0,
        named: false,
    }
}

fn standing(position: u64, start: &Start, over: Option<(u64, Option<u64>)>, head: u64) -> Standing {
    let now = Instant::now();
    let event = event(position, Class::Durable);
    let matter = Matter {
        user: UserId::from(2),
        id: Some(id(position)),
        trail: Some(Trail::new(&event, Delivery::Live, now)),
        event: Some(event),
        gap: None,
        hearers: None,
        ephemeral: false,
        expires_at: None,
    };
    let later = now + Duration::from_secs(1);
    let subject = Subject {
        who: who(),
        start,
        seats: nowhere(),
        after_unlogged: 0,
        over: over.map(|(head, unwritten)| (later, head, unwritten)),
    };
    let witness = Witness::new(1, Hashing::default(), now);
    matter.standing(&subject, id(head), |_| false, &witness, now)
}

proptest! {
    /// The stretches of a session's life, one after the other: what its client had, what it missed, what was
    /// replayed, what came live, what was left unwritten, what came when it was over, what is yet to come.
    #[test]
    fn positions_tell_what_became_of_an_event(
        position in 1u64..30,
        live_from in 0u64..30,
        back in proptest::option::of((0u64..30, proptest::option::of(0u64..30))),
        ended in proptest::option::of((0u64..30, proptest::option::of(0u64..30))),
        head in 0u64..30,
    ) {
        let head = head.max(live_from);
        let back = back.map(|(from, to)| (from.min(live_from), to));
        let back = back.map(|(from, to)| (from, to.map(|to| to.clamp(from, live_from))));
        let ended = ended.map(|(end, unwritten)| {
            let end = end.clamp(live_from, head);
            (end, unwritten.map(|unwritten| unwritten.clamp(live_from + 1, end + 1)))
        });
        let start = start(live_from, back.map(|(from, _)| from), back.and_then(|(_, to)| to));
        let found = standing(position, &start, ended, head);
        let expected = match (back, ended) {
            (Some((from, _)), _) if position <= from => Standing::Had,
            (Some((_, Some(to))), _) if position <= to => Standing::Gap("expired".to_owned()),
            (Some(_), _) if position <= live_from => Standing::Replayed { from_log: false },
            (None, _) if position <= live_from => Standing::Fresh,
            (_, Some((end, _))) if position > end => Standing::Over,
            (_, None) if position > head => Standing::Coming,
            (_, Some((_, Some(unwritten)))) if position >= unwritten => Standing::Unwritten,
            _ => Standing::Written(None),
        };
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn what_was_shed_or_waits_was_not_written() {
    let now = Instant::now();
    let event = event(3, Class::Ephemeral);
    let mut matter = Matter {
        user: UserId::from(2),
        id: event.id,
        event: Some(Arc::clone(&event)),
        trail: Some(Trail::new(&event, Delivery::Live, now)),
        gap: None,
        hearers: None,
        ephemeral: true,
        expires_at: None,
    };
    let start = start(0, None, None);
    let subject = Subject {
        who: who(),
        start: &start,
        seats: nowhere(),
        after_unlogged: 0,
        over: None,
    };
    let mut witness = Witness::new(1, Hashing::default(), now);
    let waits = matter.standing(&subject, id(3), |is| is(&event.frame), &witness, now);
    assert_eq!(waits, Standing::Queued);
    witness.drained(who(), now + Duration::from_secs(1));
    let written = matter.standing(&subject, id(3), |_| false, &witness, now);
    assert!(matches!(written, Standing::Written(Some(_))), "{written:?}");
    witness.shed(who(), &event.frame, now);
    let shed = matter.standing(&subject, id(3), |_| false, &witness, now);
    assert_eq!(shed, Standing::Shed);
    // Without the trail it can't be told from one that was written.
    matter.trail = None;
    let unknown = matter.standing(&subject, id(3), |_| false, &witness, now);
    assert_eq!(unknown, Standing::Unknown);
}
