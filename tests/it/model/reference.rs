//! What every client should have seen, from what the log has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::client::{Place, Sight};

/// What was published under a number.
#[derive(Debug, Clone)]
pub(super) enum Published {
    /// To whoever is in the chat.
    ToChat(i64),
    /// To these users.
    ToUsers(Vec<i64>),
    Joined(i64, i64),
    Left(i64, i64),
}

/// All that happened, in the order of the log.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) members: BTreeSet<(i64, i64)>,
    pub(super) published: HashMap<u64, Published>,
    /// The numbers by their positions.
    pub(super) log: BTreeMap<u64, u64>,
}

/// What was remarkable, in numbers.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) events: usize,
    pub(super) connections: usize,
    pub(super) gaps: usize,
    pub(super) without_id: usize,
    /// Seen without an id, and once more after a reconnect with one.
    pub(super) told_again: usize,
    pub(super) slow: usize,
}

impl Truth {
    /// The positions, and numbers, that a user should have.
    fn of_user(&self, user: i64) -> BTreeMap<u64, u64> {
        let mut members = self.members.clone();
        let mut expected = BTreeMap::new();
        for (position, number) in &self.log {
            let published = &self.published[number];
            if let Published::Joined(chat, who) = published {
                members.insert((*chat, *who));
            }
            let is_for_user = match published {
                Published::ToChat(chat) => members.contains(&(*chat, user)),
                Published::ToUsers(users) => users.contains(&user),
                Published::Joined(chat, who) | Published::Left(chat, who) => {
                    *who == user || members.contains(&(*chat, user))
                }
            };
            if is_for_user {
                expected.insert(*position, *number);
            }
            if let Published::Left(chat, who) = published {
                members.remove(&(*chat, *who));
            }
        }
        expected
    }

    /// Compares what a user has seen with what the log has.
    pub(super) fn compare(&self, user: i64, seen: &[Sight], report: &mut Report) -> Vec<String> {
        let Some(Sight::Confirmed(begin, _)) = seen.first() else {
            return vec![format!("user {user} begins with {:?}", seen.first())];
        };
        let expected = self.of_user(user);
        let mut review = Review::from(*begin);
        for sight in seen {
            review.sight(sight, &expected, report);
        }
        report.events += review.with_id.len();
        let mut wrong = review.wrong;
        for (position, number) in expected.range(begin.position + 1..) {
            let told = review.with_id.contains(number) || review.without_id.contains_key(number);
            let covered = review
                .gaps
                .iter()
                .any(|(from, to)| from.position < *position && *position <= to.position);
            if !told && !covered {
                let published = &self.published[number];
                wrong.push(format!(
                    "{number} at {position}, {published:?}, never comes"
                ));
            }
        }
        let mark = |what| format!("user {user}: {what}");
        wrong.into_iter().map(mark).collect()
    }
}

/// What one client has seen, as far as it was looked at.
#[derive(Debug)]
struct Review {
    last: Place,
    connections: usize,
    with_id: BTreeSet<u64>,
    /// In which connection each came.
    without_id: HashMap<u64, usize>,
    /// From, excluded, and to.
    gaps: Vec<(Place, Place)>,
    wrong: Vec<String>,
}

impl Review {
    fn from(begin: Place) -> Self {
        Self {
            last: begin,
            connections: 0,
            with_id: BTreeSet::new(),
            without_id: HashMap::new(),
            gaps: Vec::new(),
            wrong: Vec::new(),
        }
    }

    fn sight(&mut self, sight: &Sight, expected: &BTreeMap<u64, u64>, report: &mut Report) {
        match sight {
            Sight::Confirmed(..) => {
                self.connections += 1;
                report.connections += 1;
            }
            Sight::Closing(reason) => report.slow += usize::from(reason == "slow_consumer"),
            Sight::Gap { reason, from, to } => {
                println!("gap {reason} {from:?} {to:?}");
                report.gaps += 1;
                self.gap(*from, *to);
            }
            Sight::Event(number, None) => {
                report.without_id += 1;
                let before = self.without_id.insert(*number, self.connections);
                if before.is_some() || self.with_id.contains(number) {
                    self.wrong
                        .push(format!("{number} comes again, without an id"));
                }
            }
            Sight::Event(number, Some(place)) => {
                if expected.get(&place.position) != Some(number) {
                    self.wrong
                        .push(format!("{number} at {place:?} is not for this user"));
                }
                self.event(*number, *place, report);
            }
        }
    }

    /// Where positions begin anew, a gap says so; one that names no beginning covers all before.
    fn gap(&mut self, from: Option<Place>, to: Option<Place>) {
        let to = to.unwrap_or(self.last);
        let from = from.filter(|from| from.epoch == to.epoch);
        self.gaps
            .push((from.unwrap_or(Place { position: 0, ..to }), to));
        self.last = to;
    }

    fn event(&mut self, number: u64, place: Place, report: &mut Report) {
        let last = std::mem::replace(&mut self.last, place);
        if place <= last {
            self.wrong
                .push(format!("{number} at {place:?} comes behind {last:?}"));
        }
        if !self.with_id.insert(number) {
            self.wrong.push(format!("{number} comes twice"));
        }
        match self.without_id.get(&number) {
            // Its place came when this client was away, so it could not say that it has it.
            Some(before) if *before < self.connections => report.told_again += 1,
            Some(_) => self
                .wrong
                .push(format!("{number} comes twice in one stream")),
            None => {}
        }
    }
}
