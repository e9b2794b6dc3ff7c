//! What an instance says to the others about who is there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::roster::Users;
use crate::event::{Timestamp, UserId};

/// The most users in one word: at 200 bytes each, a quarter of what NATS carries by default.
const USERS: usize = 1_000;

/// What an instance says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) from: Arc<str>,
    pub(super) says: Word,
}

/// A user and since when, in Unix milliseconds.
pub(super) type Entry = (UserId, u64);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It is there, and has said so many changes.
    Beat { changes: u64 },
    /// Users came and went. Changes are numbered from 1.
    Change {
        change: u64,
        came: Vec<Entry>,
        went: Vec<UserId>,
    },
    /// A part of all its users, as they are after so many changes.
    Part(Part),
    /// That instance should say all its users.
    Ask { whom: Arc<str> },
    /// It stops, and says no more. Its users come back to other instances within this time.
    Leaving { return_ms: u64 },
}

/// One of the parts in which all users of an instance are said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) changes: u64,
    pub(super) part: usize,
    pub(super) of: usize,
    pub(super) users: Vec<Entry>,
}

/// Who came and who went, in words of a bounded size, numbered behind `changes`, which counts them.
pub(super) fn changes(came: Vec<Entry>, went: Vec<UserId>, changes: &mut u64) -> Vec<Word> {
    let (mut came, mut went) = (came.into_iter(), went.into_iter());
    let mut words = Vec::new();
    while came.len() > 0 || went.len() > 0 {
        *changes += 1;
        // Who came and went at once comes first.
        let came: Vec<Entry> = came.by_ref().take(USERS).collect();
        let rest = USERS - came.len();
        words.push(Word::Change {
            change: *changes,
            went: went.by_ref().take(rest).collect(),
            came,
        });
    }
    words
}

/// All users, as they are after so many changes.
pub(super) fn all(users: Option<&Users>, changes: u64) -> Vec<Word> {
    let users = users.into_iter().flatten();
    let users: Vec<Entry> = users
        .map(|(user, since)| (user.clone(), since.as_millis()))
        .collect();
    let of = users.len().div_ceil(USERS).max(1);
    let mut users = users.into_iter();
    let part = |part| {
        Word::Part(Part {
            changes,
            part,
            of,
            users: users.by_ref().take(USERS).collect(),
        })
    };
    (0..of).map(part).collect()
}

/// An entry as it is known.
pub(super) fn known((user, since): Entry) -> (UserId, Timestamp) {
    (user, Timestamp::from_millis(since))
}
