//! What is known of another instance: whether it is there, and up to which of its changes its users are
//! known.

use std::time::{Duration, Instant};

use super::roster::{MAX_USERS, Moment, Users};
use super::word::{Part, known};

/// As many beats of our own come back without a word of another instance until it counts as gone: 8 to
/// 10 s, with room for a few lost words and for a process that is held up for a while.
const SILENT_BEATS: u32 = 5;

/// With so many it may still be there, and what it has may not be known.
const DOUBTFUL_BEATS: u32 = 3;

/// Between two times that an instance is asked for all its users.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Other {
    /// The last change that is known; `None` while not all of its users are.
    changes: Option<u64>,
    gathering: Option<Gathering>,
    heard: Moment,
    /// Beats of our own that came back since.
    silent: u32,
    /// When its users may be asked for again.
    ask_at: Instant,
}

/// Parts that have come, which is all parts up to the next.
#[derive(Debug)]
struct Gathering {
    changes: u64,
    next: usize,
    users: Users,
}

impl Other {
    /// One that has been heard of for the first time.
    pub(super) fn new(moment: Moment) -> Self {
        Self {
            changes: None,
            gathering: None,
            heard: moment,
            silent: 0,
            ask_at: moment.now,
        }
    }

    /// It has said something.
    pub(super) fn hear(&mut self, moment: Moment) {
        self.heard = moment;
        self.silent = 0;
    }

    /// When it was last heard.
    pub(super) fn heard(&self) -> Moment {
        self.heard
    }

    /// A beat of our own has come back; whether this one is still there.
    pub(super) fn beat_passes(&mut self) -> bool {
        self.silent += 1;
        self.silent < SILENT_BEATS
    }

    /// Whether all its users are known, as far as that can be told.
    pub(super) fn is_known(&self) -> bool {
        self.changes.is_some() && self.silent < DOUBTFUL_BEATS
    }

    /// It has said how many changes there were; `false` if some are missing.
    pub(super) fn compare(&mut self, changes: u64) -> bool {
        if changes == 0 && self.changes.is_none() {
            // It has only just begun: there is nothing to ask for.
            self.changes = Some(0);
        }
        if self.changes != Some(changes) {
            self.changes = None;
        }
        self.changes.is_some()
    }

    /// It has said this change; `false` if some before it are missing, and it is of no use.
    pub(super) fn change(&mut self, change: u64) -> bool {
        // Of one that has just begun, the first change is all.
        let next = self.changes.unwrap_or(0) + 1 == change;
        self.changes = next.then_some(change);
        next
    }

    /// It has said a part of its users; all of them, if it was the last one and all are new.
    pub(super) fn gather(&mut self, part: Part) -> Option<Users> {
        if self.changes == Some(part.changes) {
            // Somebody else has asked.
            return None;
        }
        let mut gathering = match (part.part, self.gathering.take()) {
            (0, _) => Gathering {
                changes: part.changes,
                next: 0,
                users: Users::default(),
            },
            (_, Some(begun)) if (begun.changes, begun.next) == (part.changes, part.part) => begun,
            // A part is missing: what comes next shows that something has to be asked for.
            _ => return None,
        };
        gathering.next += 1;
        gathering.users.extend(part.users.into_iter().map(known));
        if gathering.next == part.of {
            self.changes = Some(part.changes);
            return Some(gathering.users);
        }
        if gathering.users.len() < MAX_USERS {
            self.gathering = Some(gathering);
        }
        None
    }

    /// Whether it may be asked for its users now, and then not for a while.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        let may = now >= self.ask_at;
        if may {
            self.ask_at = now + PAUSE;
        }
        may
    }
}
