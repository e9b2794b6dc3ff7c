//! The set against a list that is searched from end to end.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::auth::identity::token_id;
use crate::auth::revocation::{Order, Terms, Whose};
use crate::event::Timestamp;

/// Everything within a few seconds of here.
const NOW: u64 = 1_000_000;
const CAPACITY: usize = 4;

fn user(number: u8) -> UserId {
    UserId::from(i64::from(number))
}

fn whose(kind: u8, number: u8) -> Whose {
    match kind {
        0 => Whose::User(user(number)),
        1 => Whose::TokenId(format!("jti-{number}")),
        _ => Whose::TokenHash(format!("{number:0<64}")),
    }
}

fn credential(id: u8, hash: u8, issued_at: u64) -> Credential {
    Credential {
        key: Mark::of("key", b""),
        id: Some(token_id(&format!("jti-{id}"))),
        hash: Mark::of_sha256(&format!("{hash:0<64}")).unwrap(),
        issued_at,
    }
}

fn revocation() -> impl Strategy<Value = Revocation> {
    let parts = (0..3u8, 0..3u8, 0..6u64, 0..8u64, 0..6u64, any::<bool>());
    parts.prop_map(|(kind, number, before, end, at, lifted)| Revocation {
        whose: whose(kind, number),
        issued_before: (kind == 0).then_some(NOW + before),
        expires_at: NOW + end,
        changed_at: Timestamp::from_millis(NOW * 1000 + at),
        by: None,
        lifted,
    })
}

#[derive(Debug, Clone)]
enum Step {
    Put(Revocation, bool),
    Forget,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (revocation(), any::<bool>()).prop_map(|(one, stored)| Step::Put(one, stored)),
        1 => Just(Step::Forget),
        1 => Just(Step::Wait),
    ]
}

/// What counts of two revocations of the same tokens.
fn together(one: &Revocation, other: &Revocation) -> Revocation {
    let mut last = if one.outranks(other) { one } else { other }.clone();
    if !one.lifted && !other.lifted {
        last.expires_at = one.expires_at.max(other.expires_at);
        last.issued_before = one.issued_before.max(other.issued_before);
    }
    last
}

/// What is revoked, found by looking at all of it.
#[derive(Default)]
struct Model(Vec<(Revocation, bool)>);

impl Model {
    fn put(&mut self, one: &Revocation, stored: bool, now: u64) -> Put {
        if one.expires_at <= now {
            return Put::Known;
        }
        let room = self.0.len() < CAPACITY;
        let same = |(held, _): &&mut (Revocation, bool)| held.whose == one.whose;
        match self.0.iter_mut().find(same) {
            Some((held, was_stored)) if held == one => {
                *was_stored |= stored;
                Put::Known
            }
            Some((held, was_stored)) if stored && !*was_stored && one.includes(held) => {
                (*held, *was_stored) = (one.clone(), true);
                Put::New
            }
            Some((held, was_stored)) => {
                let both = together(held, one);
                let stored = stored && both == *one;
                if both == *held {
                    return Put::Known;
                }
                (*held, *was_stored) = (both, stored);
                Put::New
            }
            None if !room => Put::Full,
            None => {
                self.0.push((one.clone(), stored));
                Put::New
            }
        }
    }

    fn revokes(&self, of: u8, id: u8, hash: u8, issued_at: u64, now: u64) -> bool {
        let meant = [whose(0, of), whose(1, id), whose(2, hash)];
        self.0.iter().any(|(held, _)| {
            let old = held.issued_before.is_none_or(|before| issued_at < before);
            meant.contains(&held.whose) && !held.lifted && now < held.expires_at && old
        })
    }
}

proptest! {
    #[test]
    fn the_set_revokes_what_a_list_would(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut set, mut model, mut now) = (RevocationSet::new(CAPACITY), Model::default(), NOW);
        for step in steps {
            match step {
                Step::Put(one, stored) => {
                    let expected = model.put(&one, stored, now);
                    prop_assert_eq!(set.put(one, stored, now), expected);
                }
                Step::Forget => {
                    let before = model.0.len();
                    model.0.retain(|(held, _)| now < held.expires_at);
                    prop_assert_eq!(set.forget(now).len(), before - model.0.len());
                }
                Step::Wait => now += 1,
            }
            prop_assert_eq!(set.len(), model.0.len());
            let unstored = model.0.iter().filter(|(_, stored)| !stored).count();
            prop_assert_eq!(set.unstored_count(), unstored);
            prop_assert_eq!(set.unstored(usize::MAX).len(), unstored);
            for (of, id, hash) in [(0, 0, 0), (1, 2, 9), (9, 1, 2), (2, 9, 1), (9, 9, 9)] {
                for issued_at in [0, NOW + 1, NOW + 4] {
                    let credential = credential(id, hash, issued_at);
                    let found = set.revokes(&user(of), &credential, now);
                    prop_assert_eq!(found, model.revokes(of, id, hash, issued_at, now));
                }
            }
            let counted = model.0.iter().filter(|(held, _)| !held.lifted).count();
            prop_assert_eq!(set.page(None, usize::MAX, |_| true).len(), counted);
            prop_assert_eq!(set.in_force(), counted);
        }
    }

    #[test]
    fn the_order_in_which_instances_hear_makes_no_difference(
        all in proptest::collection::vec(revocation(), 1..8),
        turn in 0..8usize,
    ) {
        let heard = |all: &[Revocation]| {
            let mut set = RevocationSet::new(100);
            for one in all {
                set.put(one.clone(), false, NOW - 1);
            }
            set.page(None, usize::MAX, |_| true)
        };
        let turned = |all: &[Revocation]| {
            let mut other = all.to_vec();
            other.rotate_left(turn % all.len());
            other.reverse();
            other
        };
        // Whether it is revoked, and since when: of what was said before it was taken back, one that hears
        // that late may count more, and never less than was said last.
        let words = |all: &[Revocation]| {
            let heard = heard(all).into_iter();
            heard.map(|(mark, one)| (mark, one.changed_at)).collect::<Vec<_>>()
        };
        prop_assert_eq!(words(&all), words(&turned(&all)));
        for (mark, one) in heard(&turned(&all)) {
            let last = all.iter().filter(|said| said.whose.mark() == mark && !said.lifted);
            let last = last.max_by_key(|said| said.changed_at).unwrap();
            prop_assert!(one.issued_before >= last.issued_before && one.expires_at >= last.expires_at);
        }
        // While nobody takes anything back, everything is the same, and as much as anybody has said.
        let by = |(number, one): (usize, &Revocation)| Revocation {
            by: Some(user(u8::try_from(number % 3).unwrap())),
            lifted: false,
            ..one.clone()
        };
        let all: Vec<Revocation> = all.iter().enumerate().map(by).collect();
        let found = heard(&all);
        prop_assert_eq!(&found, &heard(&turned(&all)));
        for one in &all {
            let (_, both) = found.iter().find(|(mark, _)| *mark == one.whose.mark()).unwrap();
            prop_assert!(both.issued_before >= one.issued_before);
            prop_assert!(both.expires_at >= one.expires_at && both.changed_at >= one.changed_at);
        }
    }

    #[test]
    fn what_is_said_on_top_revokes_no_less(before in revocation(), after in revocation()) {
        let after = Revocation { whose: before.whose.clone(), lifted: false, ..after };
        let both = after.clone().on_top_of(Some(&before));
        prop_assert!(both.outranks(&before));
        prop_assert!(both.includes(&after));
        prop_assert!(before.lifted || both.includes(&before));
        prop_assert!(!before.includes(&before.lifted(None, before.changed_at)));
        let lifted = both.lifted(None, Timestamp::from_millis(0));
        prop_assert!(lifted.outranks(&both) && !lifted.includes(&both));
    }
}

fn terms() -> Terms {
    Terms {
        now: Timestamp::from_millis(NOW * 1000 + 500),
        age: Duration::from_secs(3600),
        leeway_secs: 60,
    }
}

#[test]
fn an_order_is_read_with_what_it_leaves_open() {
    let order: Order = serde_json::from_str(r#"{"user_id": "42"}"#).unwrap();
    let read = order.read(Some(user(1)), terms()).unwrap();
    assert_eq!(read.whose, Whose::User(UserId::from(42)));
    assert_eq!(read.issued_before, Some(NOW + 1));
    assert_eq!(read.expires_at, NOW + 3660);
    let json = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<Revocation>(&json).unwrap(), read);
    let text = format!(
        r#"{{"token_hash": "{}", "expires_at": {NOW}}}"#,
        "aB".repeat(32)
    );
    let order: Order = serde_json::from_str(&text).unwrap();
    let read = order.read(None, terms()).unwrap();
    assert_eq!(read.whose, Whose::TokenHash("ab".repeat(32)));
    assert_eq!((read.issued_before, read.expires_at), (None, NOW + 60));
}

#[test]
fn an_order_that_can_not_be_meant_is_refused() {
    let cases = [
        ("{}", "user_id"),
        ("[]", "user_id"),
        (r#"{"user_id": 1, "token_id": "a"}"#, "user_id"),
        (
            r#"{"user_id": 1, "issued_before": 1000100}"#,
            "issued_before",
        ),
        (r#"{"token_id": "a", "issued_before": 1}"#, "issued_before"),
        (r#"{"user_id": 1, "expires_at": 999940}"#, "expires_at"),
        (
            r#"{"user_id": 1, "expires_at": 1753859400123}"#,
            "expires_at",
        ),
        (r#"{"token_id": ""}"#, "token_id"),
        (r#"{"token_id": "a\nb"}"#, "token_id"),
        (r#"{"token_hash": "abc"}"#, "token_hash"),
        (r#"{"token_hash": "*"}"#, "token_hash"),
    ];
    for (text, field) in cases {
        let order: Order = serde_json::from_str(text).unwrap();
        assert_eq!(
            order.read(None, terms()).unwrap_err().field,
            field,
            "{text}"
        );
    }
    let long = format!(r#"{{"token_id": "{}"}}"#, "x".repeat(513));
    let order: Order = serde_json::from_str(&long).unwrap();
    assert_eq!(order.read(None, terms()).unwrap_err().field, "token_id");
    for text in [
        r#"{"user_id": "*.>"}"#,
        r#"{"user_id": ["1"]}"#,
        r#"{"user": 1}"#,
    ] {
        let read = serde_json::from_str::<Order>(text);
        assert!(read.is_err(), "{text}: {read:?}");
    }
}

/// One instance is told after the other, and before it has heard what the other one was told.
#[test]
fn what_two_instances_are_told_adds_up() {
    let said = |expires_at: u64, issued_before: u64, at: u64| Revocation {
        whose: whose(0, 1),
        issued_before: Some(issued_before),
        expires_at,
        changed_at: Timestamp::from_millis(at),
        by: None,
        lifted: false,
    };
    let (month, hour) = (said(NOW + 2_592_000, NOW, 1), said(NOW + 3_600, NOW + 9, 2));
    let both = said(NOW + 2_592_000, NOW + 9, 2);
    for (first, then) in [(&month, &hour), (&hour, &month)] {
        let mut set = RevocationSet::new(CAPACITY);
        set.put(first.clone(), true, NOW);
        assert_eq!(set.put(then.clone(), true, NOW), Put::New);
        assert_eq!(set.get(whose(0, 1).mark()), Some(&both));
        // Neither has stored all of it.
        assert_eq!(set.unstored(9), std::slice::from_ref(&both));
        assert_eq!(set.put(then.clone(), true, NOW), Put::Known);
        assert_eq!(set.put(both.clone(), true, NOW), Put::Known);
        assert_eq!(set.unstored_count(), 0);
    }
}
