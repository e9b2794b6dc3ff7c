//! What waits for one user, as one record. Pure.

use serde::{Deserialize, Serialize};

use crate::event::Timestamp;

/// The most messages that wait for one user, and their most bytes. A record has to fit into one NATS
/// message. The oldest make room.
pub(super) const MESSAGES: usize = 100;
pub(super) const BYTES: usize = 512 * 1024;

/// The most devices of one user that are remembered to have acknowledged a message.
const DEVICES: usize = 32;

/// The most messages that are remembered after they were delivered.
const DONE: usize = 200;

/// How long that is, in milliseconds: longer than a message can be published again under its id.
const DONE_FOR: u64 = 5 * 60 * 1000;

/// A message that waits for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// What tells it from all others.
    pub(super) key: String,
    /// Its own id.
    pub(super) id: String,
    /// Its id in the log.
    pub(super) event: String,
    /// Where it was published.
    pub(super) subject: String,
    /// What was published.
    pub(super) payload: String,
    /// When it entered the log.
    pub(super) at: Timestamp,
    /// From then on nobody waits for it.
    pub(super) expires_at: Timestamp,
    /// Whether each of the user's devices gets it until that device has acknowledged it; else the user
    /// gets it once.
    pub(super) per_device: bool,
    /// The devices that have acknowledged it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) devices: Vec<String>,
    /// Whoever delivers it now, and until when that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<Claim>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    by: String,
    until: Timestamp,
}

/// All that waits for one user, in the order in which it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    waiting: Vec<Waiting>,
    /// What was delivered lately, so that it is not put in again.
    #[serde(default)]
    done: Vec<Done>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    key: String,
    until: Timestamp,
}

/// Who wants to deliver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant<'a> {
    /// The connection.
    pub(super) connection: &'a str,
    /// The device that it says it is on; those that say nothing are one.
    pub(super) device: &'a str,
}

/// What somebody may deliver.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) messages: Vec<Waiting>,
    /// When the claims of others on further messages end.
    pub(super) others_until: Option<Timestamp>,
}

impl Waiting {
    fn size(&self) -> usize {
        self.payload.len() + self.subject.len() + self.id.len() + self.key.len()
    }
}

impl Record {
    /// Reads a record; one that can't be read is empty.
    pub(super) fn read(bytes: Option<&[u8]>) -> Self {
        let record = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok());
        record.unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> bytes::Bytes {
        // Plain structs of text and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Puts a message in, unless it is there or was delivered lately. Gives how many made room, or `None`
    /// where nothing was put in.
    pub(super) fn put(&mut self, message: Waiting, now: Timestamp) -> Option<usize> {
        self.tidy(now);
        let known = self.waiting.iter().any(|other| other.key == message.key)
            || self.done.iter().any(|done| done.key == message.key);
        if known || message.expires_at <= now {
            return None;
        }
        self.waiting.push(message);
        let mut evicted = 0;
        // One that is larger than all may be together stays alone.
        while self.waiting.len() > MESSAGES || (self.waiting.len() > 1 && self.size() > BYTES) {
            self.waiting.remove(0);
            evicted += 1;
        }
        Some(evicted)
    }

    /// What may be delivered on a connection; others keep off it until `until`. Of `given`, which that
    /// connection has had already, nothing.
    pub(super) fn claim(
        &mut self,
        by: Claimant<'_>,
        given: &[String],
        now: Timestamp,
        until: Timestamp,
    ) -> Claimed {
        self.tidy(now);
        let mut claimed = Claimed::default();
        for message in &mut self.waiting {
            if given.contains(&message.key) {
                continue;
            }
            if message.per_device {
                if !message.devices.iter().any(|device| device == by.device) {
                    claimed.messages.push(message.clone());
                }
                continue;
            }
            match &message.claim {
                // Also where it is its own: somebody delivers it on that connection already.
                Some(claim) => {
                    let others = claimed.others_until.unwrap_or(claim.until);
                    claimed.others_until = Some(others.max(claim.until));
                }
                None => {
                    message.claim = Some(Claim {
                        by: by.connection.to_owned(),
                        until,
                    });
                    claimed.messages.push(message.clone());
                }
            }
        }
        claimed
    }

    /// Ends the claims of a connection: what it has delivered is done, the rest waits on. Gives how many
    /// are done.
    pub(super) fn settle(
        &mut self,
        connection: &str,
        delivered: &[String],
        now: Timestamp,
    ) -> usize {
        let before = self.waiting.len();
        let until = Timestamp::from_millis(now.as_millis().saturating_add(DONE_FOR));
        for message in &mut self.waiting {
            if message
                .claim
                .as_ref()
                .is_some_and(|claim| claim.by == connection)
            {
                message.claim = None;
            }
        }
        self.waiting.retain(|message| {
            let done = !message.per_device && delivered.contains(&message.key);
            if done {
                self.done.push(Done {
                    key: message.key.clone(),
                    until,
                });
            }
            !done
        });
        let done = before - self.waiting.len();
        self.tidy(now);
        done
    }

    /// A device has acknowledged a message; whether that changes anything.
    pub(super) fn acknowledge(&mut self, id: &str, device: &str) -> bool {
        let mut waiting = self.waiting.iter_mut();
        let Some(message) = waiting.find(|message| message.id == id && message.per_device) else {
            return false;
        };
        if message.devices.iter().any(|known| known == device) {
            return false;
        }
        if message.devices.len() >= DEVICES {
            message.devices.remove(0);
        }
        message.devices.push(device.to_owned());
        true
    }

    /// Whether a message waits.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.waiting.iter().any(|message| message.key == key)
    }

    /// Whether a message waits, `true`, or was delivered lately, `false`; `None` where it is not known.
    pub(super) fn about(&self, key: &str) -> Option<bool> {
        let done = || self.done.iter().any(|done| done.key == key);
        match self.holds(key) {
            true => Some(true),
            false => done().then_some(false),
        }
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn size(&self) -> usize {
        self.waiting.iter().map(Waiting::size).sum()
    }

    /// Forgets what is past its time.
    fn tidy(&mut self, now: Timestamp) {
        self.waiting.retain(|message| message.expires_at > now);
        for message in &mut self.waiting {
            if message
                .claim
                .as_ref()
                .is_some_and(|claim| claim.until <= now)
            {
                message.claim = None;
            }
        }
        self.done.retain(|done| done.until > now);
        let superfluous = self.done.len().saturating_sub(DONE);
        self.done.drain(..superfluous);
    }
}

/// Whatever stands in the bucket is read as a record that can be written, and used within its bounds.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let mut record = Record::read(Some(data));
    assert_eq!(Record::read(Some(&record.bytes())), record);
    let now = Timestamp::from_millis(1_753_859_400_000);
    let claimant = |connection| Claimant {
        connection,
        device: "phone",
    };
    let until = now.after(std::time::Duration::from_secs(40));
    let claimed = record.claim(claimant("one"), &[], now, until);
    let others = record.claim(claimant("two"), &[], now, until);
    let keys: Vec<String> = claimed.messages.iter().map(|m| m.key.clone()).collect();
    for message in &claimed.messages {
        assert!(message.expires_at > now, "nobody waits for it any more");
        let twice = others.messages.iter().any(|other| other == message);
        assert!(message.per_device || !twice, "two have it: {message:?}");
    }
    record.settle("one", &keys, now);
    let mut message = Waiting {
        key: "new".to_owned(),
        id: "new".to_owned(),
        event: String::new(),
        subject: "a.b".to_owned(),
        payload: String::from_utf8_lossy(data).into_owned(),
        at: now,
        expires_at: now.after(std::time::Duration::from_secs(60)),
        per_device: false,
        devices: Vec::new(),
        claim: None,
    };
    for number in 0..3 {
        message.key = format!("new-{number}");
        record.put(message.clone(), now);
        assert!(record.waiting.len() <= MESSAGES);
        assert!(record.waiting.len() == 1 || record.size() <= BYTES);
    }
    assert_eq!(Record::read(Some(&record.bytes())), record);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn message(number: u64, expires_at: u64, per_device: bool) -> Waiting {
        Waiting {
            key: number.to_string(),
            id: number.to_string(),
            event: "1-2-abcd".to_owned(),
            subject: "a.b".to_owned(),
            payload: "{}".to_owned(),
            at: at(0),
            expires_at: at(expires_at),
            per_device,
            devices: Vec::new(),
            claim: None,
        }
    }

    fn ids(claimed: &Claimed) -> Vec<String> {
        let ids = claimed.messages.iter().map(|message| message.key.clone());
        ids.collect()
    }

    fn on<'a>(connection: &'a str, device: &'a str) -> Claimant<'a> {
        Claimant { connection, device }
    }

    #[test]
    fn what_one_connection_delivers_no_other_does() {
        let mut record = Record::default();
        assert_eq!(record.put(message(1, 100, false), at(0)), Some(0));
        assert_eq!(record.put(message(1, 100, false), at(0)), None, "twice");
        let first = record.claim(on("a", ""), &[], at(1), at(50));
        assert_eq!(ids(&first), ["1"]);
        for connection in ["b", "a"] {
            let second = record.claim(on(connection, ""), &[], at(2), at(60));
            assert_eq!((ids(&second).len(), second.others_until), (0, Some(at(50))));
        }
        // It was not delivered, and may be by the other.
        assert_eq!(record.settle("a", &[], at(3)), 0);
        let second = record.claim(on("b", ""), &[], at(4), at(60));
        assert_eq!(ids(&second), ["1"]);
        assert_eq!(record.settle("b", &ids(&second), at(5)), 1);
        assert!(record.is_empty());
        assert_eq!(record.put(message(1, 100, false), at(6)), None, "again");
    }

    #[test]
    fn a_claim_ends_with_its_time() {
        let mut record = Record::default();
        record.put(message(1, 100, false), at(0));
        record.claim(on("a", ""), &[], at(1), at(50));
        let claimed = record.claim(on("b", ""), &[], at(50), at(70));
        assert_eq!(ids(&claimed), ["1"]);
    }

    #[test]
    fn each_device_gets_it_until_it_acknowledges_it() {
        let mut record = Record::default();
        record.put(message(1, 100, true), at(0));
        for connection in ["a", "b"] {
            let claimed = record.claim(on(connection, "phone"), &[], at(1), at(50));
            assert_eq!(ids(&claimed), ["1"]);
            assert_eq!(record.settle(connection, &ids(&claimed), at(2)), 0);
        }
        assert!(record.acknowledge("1", "phone"));
        assert!(!record.acknowledge("1", "phone"), "a second time");
        assert!(!record.acknowledge("2", "phone"), "another message");
        let phone = record.claim(on("c", "phone"), &[], at(3), at(50));
        let desk = record.claim(on("d", "desk"), &[], at(3), at(50));
        assert_eq!((ids(&phone).len(), ids(&desk).len()), (0, 1));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut record = Record::default();
        for number in 0..=MESSAGES as u64 {
            let evicted = record.put(message(number, 100, false), at(0));
            assert_eq!(evicted, Some(usize::from(number == MESSAGES as u64)));
        }
        let claimed = record.claim(on("a", ""), &[], at(1), at(50));
        assert_eq!(
            (ids(&claimed).len(), &ids(&claimed)[0][..]),
            (MESSAGES, "1")
        );
        let mut large = message(1_000, 100, false);
        large.payload = "x".repeat(BYTES);
        assert_eq!(record.put(large, at(1)), Some(MESSAGES));
        assert!(!record.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u64, u64),
        Claim(u8),
        Settle(u8, Vec<bool>),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..30_u64, 1..200_u64).prop_map(|(id, ttl)| Step::Put(id, ttl)),
            (0..3_u8).prop_map(Step::Claim),
            (0..3_u8, proptest::collection::vec(any::<bool>(), 30))
                .prop_map(|(by, delivered)| Step::Settle(by, delivered)),
            (1..40_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a plain model: nothing is delivered by two at a time or after it is done or over, and
        /// what is neither waits.
        #[test]
        fn every_message_is_delivered_once_or_waits(
            steps in proptest::collection::vec(step(), 0..80)
        ) {
            let mut record = Record::default();
            let mut now = 0;
            let mut waits: BTreeMap<String, u64> = BTreeMap::new();
            let mut done: BTreeSet<String> = BTreeSet::new();
            let mut claims: BTreeMap<String, (u8, u64)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(id, ttl) => {
                        let name = id.to_string();
                        let put = record.put(message(id, now + ttl, false), at(now));
                        let known = done.contains(&name)
                            || waits.get(&name).is_some_and(|until| *until > now);
                        prop_assert_eq!(put.is_some(), !known);
                        if put.is_some() {
                            waits.insert(name, now + ttl);
                        }
                    }
                    Step::Claim(by) => {
                        let name = by.to_string();
                        let claimed = record.claim(on(&name, ""), &[], at(now), at(now + 60));
                        let claimed: BTreeSet<String> = ids(&claimed).into_iter().collect();
                        let free: BTreeSet<String> = waits
                            .iter()
                            .filter(|(_, until)| **until > now)
                            .map(|(id, _)| id.clone())
                            .filter(|id| {
                                let claim = claims.get(id);
                                claim.is_none_or(|(_, until)| *until <= now)
                            })
                            .collect();
                        prop_assert_eq!(&claimed, &free);
                        claims.extend(claimed.into_iter().map(|id| (id, (by, now + 60))));
                    }
                    Step::Settle(by, delivered) => {
                        let mine: Vec<String> = claims
                            .iter()
                            .filter(|(_, (other, until))| *other == by && *until > now)
                            .map(|(id, _)| id.clone())
                            .collect();
                        claims.retain(|_, (other, _)| *other != by);
                        let delivered: Vec<String> = mine
                            .into_iter()
                            .filter(|id| delivered[id.parse::<usize>().unwrap()])
                            .collect();
                        record.settle(&by.to_string(), &delivered, at(now));
                        for id in delivered {
                            waits.remove(&id);
                            done.insert(id);
                        }
                    }
                    Step::Wait(millis) => now += millis,
                }
                waits.retain(|_, until| *until > now);
                claims.retain(|id, (_, until)| *until > now && waits.contains_key(id));
            }
        }
    }
}
