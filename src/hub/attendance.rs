//! Which users have live sessions on this instance, over all shards, and for whom that has changed.
//! A lock is taken when a session becomes live and when it is over, and never in between.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use crate::event::UserId;

/// The most users of whom it is noted that something has changed; with more, all are looked at.
const CHANGED: usize = 65_536;

/// Counts live sessions by user. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Attendance(Arc<Mutex<Present>>);

#[derive(Debug, Default)]
struct Present {
    sessions: HashMap<UserId, u32, RandomState>,
    changed: HashSet<UserId, RandomState>,
    too_many: bool,
}

/// What has happened since it was last asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// These users have been here since, and are now, or not.
    Of(Vec<(UserId, bool)>),
    /// Too much to have been noted: these users are here, and no others.
    Everybody(Vec<UserId>),
}

/// One live session; dropping it ends it.
#[derive(Debug)]
pub(super) struct Attending {
    attendance: Attendance,
    user: UserId,
}

impl Attendance {
    pub(super) fn enter(&self, user: &UserId) -> Attending {
        let mut present = self.0.lock();
        let sessions = present.sessions.entry_ref(user).or_insert(0);
        *sessions += 1;
        if *sessions == 1 {
            present.note(user);
        }
        Attending {
            attendance: self.clone(),
            user: user.clone(),
        }
    }

    /// Who has come or gone since this was last asked; at most so many, and the others next time.
    #[must_use]
    pub fn take_changes(&self, most: usize) -> Changes {
        let mut present = self.0.lock();
        if std::mem::take(&mut present.too_many) {
            present.changed.clear();
            return Changes::Everybody(present.sessions.keys().cloned().collect());
        }
        let changed = present.changed.extract_if(|_| true).take(most);
        let changed: Vec<UserId> = changed.collect();
        if present.changed.is_empty() {
            present.changed.shrink_to(0);
        }
        let here = |user: UserId| {
            let here = present.sessions.contains_key(&user);
            (user, here)
        };
        Changes::Of(changed.into_iter().map(here).collect())
    }
}

impl Present {
    fn note(&mut self, user: &UserId) {
        if self.changed.len() < CHANGED {
            self.changed.insert(user.clone());
        } else {
            self.too_many = true;
        }
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut present = self.attendance.0.lock();
        let Some(sessions) = present.sessions.get_mut(&self.user) else {
            return;
        };
        *sessions -= 1;
        if *sessions == 0 {
            present.sessions.remove(&self.user);
            present.note(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_and_the_last_session_of_a_user_count() {
        let attendance = Attendance::default();
        let user = UserId::from(1);
        let first = attendance.enter(&user);
        let second = attendance.enter(&user);
        assert_eq!(
            attendance.take_changes(10),
            Changes::Of(vec![(user.clone(), true)])
        );
        drop(first);
        assert_eq!(attendance.take_changes(10), Changes::Of(Vec::new()));
        drop(second);
        assert_eq!(
            attendance.take_changes(10),
            Changes::Of(vec![(user.clone(), false)])
        );
        drop(attendance.enter(&user));
        assert_eq!(
            attendance.take_changes(10),
            Changes::Of(vec![(user, false)])
        );
    }

    #[test]
    fn what_is_too_much_at_a_time_comes_the_next_time() {
        let attendance = Attendance::default();
        let here: Vec<_> = (0..15)
            .map(|number| attendance.enter(&UserId::from(number)))
            .collect();
        let mut seen = Vec::new();
        for count in [10, 5, 0] {
            let Changes::Of(changes) = attendance.take_changes(10) else {
                panic!("that is not everybody");
            };
            assert_eq!(changes.len(), count);
            seen.extend(changes);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), here.len());
    }

    #[test]
    fn too_many_changes_become_a_look_at_everybody() {
        let attendance = Attendance::default();
        for number in 0..CHANGED {
            drop(attendance.enter(&UserId::from(i64::try_from(number).unwrap())));
        }
        let last = UserId::from(-1);
        let _here = attendance.enter(&last);
        assert_eq!(attendance.take_changes(10), Changes::Everybody(vec![last]));
        assert_eq!(attendance.take_changes(10), Changes::Of(Vec::new()));
    }
}
