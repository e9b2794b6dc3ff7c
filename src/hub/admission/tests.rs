use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::memory::MemoryLimit;
use crate::units::Size;

const QUOTA: Quota = Quota {
    total: 3,
    per_user: 2,
    per_address: 0,
    rate: 0,
    rate_per_address: 0,
};

fn network(last: u8) -> Option<Network> {
    Some(Network::of(IpAddr::from([192, 0, 2, last]), 64))
}

fn admit(admission: &Admission, user: i64, address: u8) -> Result<Permit, Refusal> {
    admission.admit(&UserId::from(user), network(address), Instant::now())
}

#[test]
fn limits_hold_and_room_is_given_back() {
    let admission = Admission::new(QUOTA, Memory::default());
    let one_byte = MemoryLimit::At(Size(1));
    admission.memory().set_limit(one_byte);
    let first = admit(&admission, 1, 1).unwrap();
    let _second = admit(&admission, 1, 1).unwrap();
    assert_eq!(admit(&admission, 1, 1).unwrap_err(), Refusal::UserFull(2));
    let third = admit(&admission, 2, 1).unwrap();
    assert_eq!(admit(&admission, 2, 1).unwrap_err(), Refusal::Full(3));
    drop(first);
    assert_eq!(admission.total(), 2);
    admission.memory().look(2);
    assert_eq!(admit(&admission, 1, 1).unwrap_err(), Refusal::Memory);
    admission.memory().look(0);
    let _again = admit(&admission, 1, 1).unwrap();
    admission.stop();
    drop(third);
    assert_eq!(admit(&admission, 1, 1).unwrap_err(), Refusal::Stopping);
}

#[test]
fn an_address_has_its_share_and_what_has_none_is_not_limited() {
    let quota = Quota {
        total: 100,
        per_user: 100,
        per_address: 2,
        ..QUOTA
    };
    let admission = Admission::new(quota, Memory::default());
    let first = admit(&admission, 1, 1).unwrap();
    let _second = admit(&admission, 2, 1).unwrap();
    assert_eq!(
        admit(&admission, 3, 1).unwrap_err(),
        Refusal::AddressFull(2)
    );
    let _other = admit(&admission, 3, 2).unwrap();
    let none: Vec<_> = (0..5)
        .map(|user| admission.admit(&UserId::from(user), None, Instant::now()))
        .collect();
    assert!(none.iter().all(Result::is_ok));
    drop(first);
    let _again = admit(&admission, 3, 1).unwrap();
}

#[test]
fn newcomers_beyond_the_pace_are_told_when_to_come_and_use_nothing_up() {
    let quota = Quota {
        total: 100,
        per_user: 100,
        rate: 4,
        rate_per_address: 2,
        ..QUOTA
    };
    let admission = Admission::new(quota, Memory::default());
    let user = UserId::from(1);
    let begin = Instant::now();
    let admit = |address, after| {
        let now = begin + Duration::from_millis(after);
        let admitted = admission.admit(&user, network(address), now);
        admitted.map(std::mem::forget).map_err(Refusal::reason)
    };
    assert_eq!(admit(1, 0), Ok(()));
    assert_eq!(admit(1, 0), Ok(()));
    assert_eq!(admit(1, 0), Err("address_too_fast"));
    assert_eq!(admit(2, 0), Ok(()));
    assert_eq!(admit(2, 0), Ok(()));
    assert_eq!(admit(3, 0), Err("too_fast"));
    assert_eq!(admit(3, 249), Err("too_fast"));
    assert_eq!(admit(3, 250), Ok(()));
    assert_eq!(admit(1, 500), Ok(()));
}

#[test]
fn another_quota_is_for_newcomers() {
    let admission = Admission::new(QUOTA, Memory::default());
    let living = [1, 2, 3].map(|user| admit(&admission, user, 1).unwrap());
    let quota = Quota {
        total: 2,
        per_address: 1,
        ..QUOTA
    };
    admission.set_quota(quota);
    assert_eq!((admission.total(), admission.limit()), (3, 2));
    assert_eq!(admit(&admission, 4, 2).unwrap_err(), Refusal::Full(2));
    admission.set_quota(Quota { total: 9, ..quota });
    assert_eq!(
        admit(&admission, 4, 1).unwrap_err(),
        Refusal::AddressFull(1)
    );
    let _other = admit(&admission, 4, 2).unwrap();
    drop(living);
    assert_eq!(admission.total(), 1);
}

#[test]
fn addresses_of_which_nothing_is_left_are_forgotten() {
    let quota = Quota {
        total: 10,
        per_user: 10,
        rate_per_address: 5,
        ..QUOTA
    };
    let admission = Admission::new(quota, Memory::default());
    let user = UserId::from(1);
    let begin = Instant::now();
    for number in 0..50_000_u32 {
        let address = Some(Network::of(IpAddr::from(number.to_be_bytes()), 64));
        let now = begin + Duration::from_millis(u64::from(number));
        drop(admission.admit(&user, address, now).unwrap());
        // Those of the last fifth of a second can't be.
        assert!(admission.counts.lock().by_address.len() <= FEW_ADDRESSES);
    }
}

proptest! {
    #[test]
    fn counts_are_right_whatever_comes_and_goes(
        steps in proptest::collection::vec((any::<bool>(), 0_i64..3, 0_u8..3), 0..100),
    ) {
        let quota = Quota { total: 5, per_user: 3, per_address: 2, rate: 0, rate_per_address: 0 };
        let admission = Admission::new(quota, Memory::default());
        let mut open: Vec<(i64, u8, Permit)> = Vec::new();
        for (comes, user, address) in steps {
            if !comes {
                open.pop();
            } else {
                let of_user = open.iter().filter(|(other, ..)| *other == user).count();
                let of_address = open.iter().filter(|(_, other, _)| *other == address).count();
                let expected = match (open.len(), of_user, of_address) {
                    (5, ..) => Err(Refusal::Full(5)),
                    (_, 3, _) => Err(Refusal::UserFull(3)),
                    (.., 2) => Err(Refusal::AddressFull(2)),
                    _ => Ok(()),
                };
                match admit(&admission, user, address) {
                    Ok(permit) => {
                        prop_assert_eq!(expected, Ok(()));
                        open.push((user, address, permit));
                    }
                    Err(refusal) => prop_assert_eq!(expected, Err(refusal)),
                }
            }
            prop_assert_eq!(admission.total(), open.len());
        }
        drop(open);
        let counts = admission.counts.lock();
        prop_assert!(counts.by_user.is_empty() && counts.by_address.is_empty());
    }
}
