//! What is revoked now. Pure: the time comes in from outside.

use std::collections::BTreeSet;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::entry::{Revocation, user_mark};
use crate::credential::{Credential, Mark};
use crate::event::UserId;

/// The most that is remembered. When it is full, what is new is refused: nothing that is revoked may come
/// back to life because something else was revoked.
pub const CAPACITY: usize = 100_000;

/// Revocations by what they are found by.
#[derive(Debug)]
pub(super) struct RevocationSet {
    held: HashMap<Mark, Held, RandomState>,
    /// By the time at which each is over.
    ends: BTreeSet<(u64, Mark)>,
    unstored: usize,
    /// How many of them were taken back, which is to be known as well.
    lifted: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Held {
    revocation: Revocation,
    /// Whether it is where all instances find it.
    stored: bool,
}

/// What has become of a revocation that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It counts from now on.
    New,
    /// It was known, or one that counts more.
    Known,
    /// There are as many as there may be.
    Full,
}

impl RevocationSet {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            held: HashMap::default(),
            ends: BTreeSet::new(),
            unstored: 0,
            lifted: 0,
            capacity,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// How many are in force: known, and not taken back.
    pub(super) fn in_force(&self) -> usize {
        self.held.len() - self.lifted
    }

    /// How many are not stored yet.
    pub(super) fn unstored_count(&self) -> usize {
        self.unstored
    }

    /// Takes one in, together with what is here of the same tokens.
    pub(super) fn put(&mut self, revocation: Revocation, stored: bool, now: u64) -> Put {
        let mark = revocation.whose.mark();
        if revocation.is_over(now) {
            return Put::Known;
        }
        let room = self.held.len() < self.capacity;
        let (revocation, stored) = match self.held.get_mut(&mark) {
            Some(held) if held.revocation == revocation => {
                if stored && !held.stored {
                    held.stored = true;
                    self.unstored -= 1;
                }
                return Put::Known;
            }
            // Another instance has stored what this one has heard, too.
            Some(held) if stored && !held.stored && revocation.includes(&held.revocation) => {
                (revocation, stored)
            }
            Some(held) => {
                let both = held.revocation.clone().with(revocation.clone());
                if both == held.revocation {
                    return Put::Known;
                }
                // What is more than either has said is to be found by all, too.
                let stored = stored && both == revocation;
                (both, stored)
            }
            None if !room => return Put::Full,
            None => (revocation, stored),
        };
        self.remove(mark);
        self.ends.insert((revocation.expires_at, mark));
        self.unstored += usize::from(!stored);
        self.lifted += usize::from(revocation.lifted);
        self.held.insert(mark, Held { revocation, stored });
        Put::New
    }

    pub(super) fn get(&self, mark: Mark) -> Option<&Revocation> {
        self.held.get(&mark).map(|held| &held.revocation)
    }

    /// Whether a token is revoked.
    pub(super) fn revokes(&self, user: &UserId, credential: &Credential, now: u64) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let covers = |mark: Mark| {
            let revocation = self.get(mark);
            revocation.is_some_and(|revocation| revocation.covers(credential, now))
        };
        covers(credential.hash) || credential.id.is_some_and(covers) || covers(user_mark(user))
    }

    /// What was stored is gone.
    pub(super) fn unstore(&mut self) {
        self.held.values_mut().for_each(|held| held.stored = false);
        self.unstored = self.held.len();
    }

    /// Those that are not stored yet.
    pub(super) fn unstored(&self, most: usize) -> Vec<Revocation> {
        let unstored = self.held.values().filter(|held| !held.stored);
        let unstored = unstored.map(|held| held.revocation.clone());
        unstored.take(most).collect()
    }

    /// A page of those that count, in the order of their marks.
    pub(super) fn page(
        &self,
        after: Option<Mark>,
        limit: usize,
        wanted: impl Fn(&Revocation) -> bool,
    ) -> Vec<(Mark, Revocation)> {
        let behind = |mark: &Mark| after.is_none_or(|after| *mark > after);
        let held = self.held.iter().filter(|(mark, held)| {
            behind(mark) && !held.revocation.lifted && wanted(&held.revocation)
        });
        let mut marks: Vec<Mark> = held.map(|(mark, _)| *mark).collect();
        marks.sort_unstable();
        marks.truncate(limit);
        let found = marks.into_iter();
        found
            .filter_map(|mark| Some((mark, self.get(mark)?.clone())))
            .collect()
    }

    /// Forgets what is over, and says what that was.
    pub(super) fn forget(&mut self, now: u64) -> Vec<Mark> {
        let mut over = Vec::new();
        while let Some((end, mark)) = self.ends.first().copied()
            && end <= now
        {
            self.remove(mark);
            over.push(mark);
        }
        over
    }

    fn remove(&mut self, mark: Mark) {
        if let Some(held) = self.held.remove(&mark) {
            self.ends.remove(&(held.revocation.expires_at, mark));
            self.unstored -= usize::from(!held.stored);
            self.lifted -= usize::from(held.revocation.lifted);
        }
    }
}

#[cfg(test)]
mod tests;
