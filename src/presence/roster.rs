//! Which users are online: those that some instance has, and those that one had a moment ago. Pure: it
//! knows no clock and no network.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::event::{Timestamp, UserId};

/// The most users that are known to be online.
pub(super) const MAX_USERS: usize = 1_000_000;

/// Users, and since when they are there.
pub(super) type Users = HashMap<UserId, Timestamp, RandomState>;

/// Now, by the clock that can't be set and by the one that people read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) at: Timestamp,
}

/// A user who came or went, as those who share a chat are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) user: UserId,
    /// When the user was last there; `None` for one who is.
    pub(super) last_seen: Option<Timestamp>,
}

/// All users of all instances.
#[derive(Debug)]
pub(super) struct Roster {
    grace: Duration,
    /// Whether transitions are to be told.
    tells: bool,
    instances: HashMap<Arc<str>, Users, RandomState>,
    users: HashMap<UserId, Standing, RandomState>,
    /// Those whom no instance has any more, in the order in which they go offline.
    leaving: BTreeSet<(Instant, UserId)>,
    /// Those of whom something may have to be told, once each.
    untold: VecDeque<UserId>,
}

#[derive(Debug)]
struct Standing {
    /// How many instances have the user.
    instances: u32,
    since: Timestamp,
    last_seen: Timestamp,
    /// When the user goes offline; set while no instance has the user.
    until: Option<Instant>,
    /// What was told last.
    told_online: bool,
    /// Whether the user stands in `untold`.
    queued: bool,
}

impl Roster {
    /// Nobody is online. Users stay so for `grace` after their last instance has lost them.
    pub(super) fn new(grace: Duration, tells: bool) -> Self {
        Self {
            grace,
            tells,
            instances: HashMap::default(),
            users: HashMap::default(),
            leaving: BTreeSet::new(),
            untold: VecDeque::new(),
        }
    }

    /// Who is on an instance.
    pub(super) fn of(&self, instance: &str) -> Option<&Users> {
        self.instances.get(instance)
    }

    /// An instance has a user; `false` where it was known to, or no more users can be known.
    pub(super) fn enter(&mut self, instance: &Arc<str>, user: &UserId, since: Timestamp) -> bool {
        if self.users.len() >= MAX_USERS && !self.users.contains_key(user) {
            return false;
        }
        let there = self.instances.entry_ref(instance).or_default();
        if there.contains_key(user) {
            return false;
        }
        there.insert(user.clone(), since);
        let standing = self.users.entry_ref(user).or_insert(Standing {
            instances: 0,
            since,
            last_seen: since,
            until: None,
            told_online: false,
            queued: false,
        });
        standing.instances += 1;
        standing.since = standing.since.min(since);
        if let Some(until) = standing.until.take() {
            self.leaving.remove(&(until, user.clone()));
        }
        self.settle(user);
        true
    }

    /// An instance has a user no more; `false` where it was not known to.
    pub(super) fn leave(&mut self, instance: &str, user: &UserId, moment: Moment) -> bool {
        let there = self.instances.get_mut(instance);
        let gone = there.is_some_and(|there| there.remove(user).is_some());
        if gone {
            self.lost(user, moment.now + self.grace, moment.at);
        }
        gone
    }

    /// An instance has these users and no others.
    pub(super) fn replace(&mut self, instance: &Arc<str>, users: &Users, moment: Moment) {
        let before = self.instances.get(instance).into_iter().flatten();
        let gone: Vec<UserId> = before
            .map(|(user, _)| user)
            .filter(|user| !users.contains_key(*user))
            .cloned()
            .collect();
        for user in gone {
            self.leave(instance, &user, moment);
        }
        for (user, since) in users {
            self.enter(instance, user, *since);
        }
    }

    /// An instance is gone, and was last heard of at some moment; its users may come back elsewhere for the
    /// time `within` from then on, and the grace.
    pub(super) fn remove(&mut self, instance: &str, heard: Moment, within: Duration) {
        let Some(users) = self.instances.remove(instance) else {
            return;
        };
        for user in users.into_keys() {
            self.lost(&user, heard.now + within + self.grace, heard.at);
        }
    }

    fn lost(&mut self, user: &UserId, until: Instant, at: Timestamp) {
        let Some(standing) = self.users.get_mut(user) else {
            return;
        };
        standing.instances -= 1;
        if standing.instances == 0 {
            standing.last_seen = at;
            standing.until = Some(until);
            self.leaving.insert((until, user.clone()));
        }
    }

    /// Those whose grace is over are offline.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.leaving.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, user)) = self.leaving.pop_first() else {
                return;
            };
            if let Some(standing) = self.users.get_mut(&user) {
                standing.until = None;
            }
            self.settle(&user);
        }
    }

    /// Queues a user of whom something else was told than is, and forgets one of whom nothing is left to
    /// tell.
    fn settle(&mut self, user: &UserId) {
        let Some(standing) = self.users.get_mut(user) else {
            return;
        };
        if !self.tells {
            standing.told_online = standing.is_online();
        }
        if standing.queued {
            return;
        }
        if standing.told_online != standing.is_online() {
            standing.queued = true;
            self.untold.push_back(user.clone());
        } else if !standing.is_online() {
            self.users.remove(user);
        }
    }

    /// The next transition to tell. Who has changed back meanwhile is not told.
    pub(super) fn next_transition(&mut self) -> Option<Transition> {
        while let Some(user) = self.untold.pop_front() {
            let Some(standing) = self.users.get_mut(&user) else {
                continue;
            };
            standing.queued = false;
            let (online, last_seen) = (standing.is_online(), standing.last_seen);
            let told = std::mem::replace(&mut standing.told_online, online);
            if !online {
                self.users.remove(&user);
            }
            if told != online {
                return Some(Transition {
                    user,
                    last_seen: (!online).then_some(last_seen),
                });
            }
        }
        None
    }

    /// Whether something waits to be told.
    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Since when a user is online.
    pub(super) fn online(&self, user: &UserId) -> Option<Timestamp> {
        let standing = self.users.get(user)?;
        standing.is_online().then_some(standing.since)
    }

    /// How many users are known, those included who went offline and of whom that is still to be told.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }
}

impl Standing {
    fn is_online(&self) -> bool {
        self.instances > 0 || self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn moment() -> Moment {
        Moment {
            now: Instant::now(),
            at: Timestamp::from_millis(1_000_000),
        }
    }

    fn later(moment: Moment, by: Duration) -> Moment {
        Moment {
            now: moment.now + by,
            at: moment.at.after(by),
        }
    }

    fn instances() -> [Arc<str>; 2] {
        [Arc::from("a"), Arc::from("b")]
    }

    fn came(user: i64) -> Option<Transition> {
        Some(Transition {
            user: user.into(),
            last_seen: None,
        })
    }

    #[test]
    fn a_user_is_online_until_the_grace_after_the_last_instance_has_passed() {
        let (mut roster, [a, b], start) = (Roster::new(GRACE, true), instances(), moment());
        let user = UserId::from(1);
        assert!(roster.enter(&a, &user, start.at));
        assert!(!roster.enter(&a, &user, start.at));
        assert!(roster.enter(&b, &user, start.at));
        assert_eq!(roster.next_transition(), came(1));
        let left = later(start, Duration::from_secs(1));
        assert!(roster.leave(&a, &user, left));
        roster.expire(left.now + GRACE * 2);
        assert_eq!(roster.online(&user), Some(start.at));
        assert!(roster.leave(&b, &user, left));
        roster.expire(left.now + GRACE - Duration::from_millis(1));
        assert_eq!(roster.online(&user), Some(start.at));
        assert_eq!(roster.next_transition(), None);
        roster.expire(left.now + GRACE);
        assert_eq!(roster.online(&user), None);
        let gone = Transition {
            user,
            last_seen: Some(left.at),
        };
        assert_eq!(roster.next_transition(), Some(gone));
        assert_eq!((roster.len(), roster.next_transition()), (0, None));
    }

    #[test]
    fn who_comes_back_within_the_grace_was_there_all_the_time() {
        let (mut roster, [a, b], start) = (Roster::new(GRACE, true), instances(), moment());
        let user = UserId::from(1);
        roster.enter(&a, &user, start.at);
        assert_eq!(roster.next_transition(), came(1));
        roster.leave(&a, &user, start);
        let back = later(start, GRACE / 2);
        roster.enter(&b, &user, back.at);
        roster.expire(start.now + GRACE * 3);
        assert_eq!(roster.online(&user), Some(start.at));
        assert_eq!(roster.next_transition(), None);
    }

    #[test]
    fn who_changes_back_before_it_is_told_is_not_told() {
        let (mut roster, [a, _], start) = (Roster::new(GRACE, true), instances(), moment());
        let user = UserId::from(1);
        for round in 0..3 {
            roster.enter(&a, &user, start.at);
            roster.leave(&a, &user, start);
            roster.expire(start.now + GRACE * (round + 1) * 2);
        }
        assert!(roster.has_untold());
        assert_eq!((roster.next_transition(), roster.len()), (None, 0));
    }

    #[test]
    fn users_of_an_instance_that_stops_have_more_time() {
        let (mut roster, [a, _], start) = (Roster::new(GRACE, true), instances(), moment());
        let user = UserId::from(1);
        roster.enter(&a, &user, start.at);
        assert_eq!(roster.next_transition(), came(1));
        roster.remove(&a, start, GRACE * 2);
        roster.expire(start.now + GRACE * 3 - Duration::from_millis(1));
        assert_eq!(roster.next_transition(), None);
        roster.expire(start.now + GRACE * 3);
        assert!(roster.next_transition().is_some());
    }

    #[test]
    fn without_telling_nothing_is_kept() {
        let (mut roster, [a, _], start) = (Roster::new(GRACE, false), instances(), moment());
        let user = UserId::from(1);
        roster.enter(&a, &user, start.at);
        assert_eq!(roster.online(&user), Some(start.at));
        assert_eq!(roster.next_transition(), None);
        roster.leave(&a, &user, start);
        roster.expire(start.now + GRACE);
        assert_eq!((roster.online(&user), roster.len()), (None, 0));
    }
}
