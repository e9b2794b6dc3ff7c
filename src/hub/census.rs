//! How many channels have listeners, counted so that a channel of several shards, or instances, counts once: each
//! channel leaves a mark of 64 bits, and marks are put together. Pure.
//!
//! Two channels of a million have the same mark in one case of forty million.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::event::{Channel, Id};

/// The channels of one resource that somebody listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Census {
    listeners: usize,
    /// One for each channel; in order, and each once, when it was put together.
    marks: Vec<u64>,
    /// Channels without marks, because there are too many to tell others of.
    unmarked: usize,
    /// Whether channels without marks were added to others, which may have been the same.
    doubtful: bool,
}

/// The same between instances; those of earlier versions know no marks.
#[derive(Serialize, Deserialize)]
struct Wire {
    channels: usize,
    listeners: usize,
    /// 8 bytes each, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    marks: Option<String>,
}

impl Census {
    /// One more channel, which was not counted before.
    pub(super) fn add(&mut self, channel: &Channel, listeners: usize) {
        self.marks.push(mark(channel));
        self.listeners += listeners;
    }

    /// One more channel, which was not counted before; without its mark.
    pub(super) fn add_unmarked(&mut self, listeners: usize) {
        self.unmarked += 1;
        self.listeners += listeners;
    }

    /// How many channels there are; at most so many where that is not exact.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.marks.len() + self.unmarked
    }

    /// How many listen, once for each channel.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.listeners
    }

    /// Whether no channel was counted twice.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.doubtful
    }

    /// Puts together what several have counted.
    #[must_use]
    pub fn of(parts: Vec<Self>) -> Self {
        let counted = parts.iter().filter(|part| part.channels() > 0).count();
        let mut all = Self::default();
        for mut part in parts {
            all.listeners += part.listeners;
            all.unmarked += part.unmarked;
            all.doubtful |= part.doubtful;
            all.marks.append(&mut part.marks);
        }
        all.doubtful |= all.unmarked > 0 && counted > 1;
        all.marks.sort_unstable();
        all.marks.dedup();
        all
    }

    /// Leaves the marks out.
    pub(super) fn unmark(&mut self) {
        self.unmarked += std::mem::take(&mut self.marks).len();
    }
}

impl From<Wire> for Census {
    fn from(wire: Wire) -> Self {
        let bytes = wire
            .marks
            .and_then(|text| STANDARD_NO_PAD.decode(text).ok());
        let bytes = bytes.filter(|bytes| bytes.len() == 8 * wire.channels);
        let marks = bytes.as_deref().map(|bytes| {
            let (marks, _) = bytes.as_chunks::<8>();
            marks.iter().map(|mark| u64::from_le_bytes(*mark)).collect()
        });
        Self {
            listeners: wire.listeners,
            unmarked: if marks.is_some() { 0 } else { wire.channels },
            marks: marks.unwrap_or_default(),
            doubtful: false,
        }
    }
}

impl From<Census> for Wire {
    fn from(census: Census) -> Self {
        let bytes = || -> Vec<u8> {
            census
                .marks
                .iter()
                .flat_map(|mark| mark.to_le_bytes())
                .collect()
        };
        Self {
            channels: census.channels(),
            listeners: census.listeners,
            marks: (census.unmarked == 0).then(|| STANDARD_NO_PAD.encode(bytes())),
        }
    }
}

/// FNV-1a, which is the same on every instance and in every version.
fn mark(channel: &Channel) -> u64 {
    let mut mark = Mark(0xcbf2_9ce4_8422_2325);
    mark.take(channel.resource().as_str().as_bytes());
    // No resource has one, and no number is a text.
    mark.take(b":");
    match channel.id() {
        Id::Number(number) => mark.take(&number.to_le_bytes()),
        Id::Text(text) => {
            mark.take(b":");
            mark.take(text.as_bytes());
        }
    }
    mark.0
}

struct Mark(u64);

impl Mark {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::hub::Stats;
    use proptest::prelude::*;

    fn census(numbers: &BTreeSet<u16>) -> Census {
        let mut census = Census::default();
        for number in numbers {
            let name = match number % 2 {
                0 => format!("job:{number}"),
                _ => format!("job:n-{number}"),
            };
            census.add(&Channel::parse(&name).unwrap(), 2);
        }
        census
    }

    fn sent(census: &Census) -> Census {
        serde_json::from_slice(&serde_json::to_vec(census).unwrap()).unwrap()
    }

    #[test]
    fn an_instance_of_an_earlier_version_is_added() {
        let old: Census = serde_json::from_str(r#"{"channels": 3, "listeners": 4}"#).unwrap();
        assert_eq!(
            (old.channels(), old.listeners(), old.is_exact()),
            (3, 4, true)
        );
        let wrong = r#"{"channels": 3, "listeners": 4, "marks": "AAAA"}"#;
        assert_eq!(serde_json::from_str::<Census>(wrong).unwrap(), old);
        let both = Census::of(vec![old, census(&BTreeSet::from([1, 2]))]);
        assert_eq!(
            (both.channels(), both.listeners(), both.is_exact()),
            (5, 8, false)
        );
    }

    #[test]
    fn what_is_sent_fits_into_a_message() {
        let mut stats = Stats::default();
        for (resource, channels) in [("few", 100), ("more", 19_000), ("most", 19_001)] {
            let census = stats.resources.entry(resource.to_owned()).or_default();
            for number in 0..channels {
                let channel = Channel::parse(&format!("{resource}:{number}")).unwrap();
                census.add(&channel, 1);
            }
        }
        let json = serde_json::to_vec(&stats.clone().to_be_sent()).unwrap();
        assert!(json.len() < 220_000, "{}", json.len());
        let sent: Stats = serde_json::from_slice(&json).unwrap();
        let all = Stats::of(vec![stats, sent]);
        for (resource, channels, exact) in [
            ("few", 100, true),
            ("more", 19_000, true),
            ("most", 2 * 19_001, false),
        ] {
            let census = &all.resources[resource];
            assert_eq!((census.channels(), census.is_exact()), (channels, exact));
        }
    }

    proptest! {
        #[test]
        fn what_several_have_counts_once(
            parts in proptest::collection::vec(
                (proptest::collection::btree_set(0_u16..200, 0..60), any::<bool>(), any::<bool>()), 0..5,
            ),
        ) {
            let censuses: Vec<Census> = parts.iter().map(|(numbers, unmarked, over_the_wire)| {
                let mut census = census(numbers);
                if *unmarked {
                    census.unmark();
                }
                if *over_the_wire { sent(&census) } else { census }
            }).collect();
            let all = Census::of(censuses);
            let union: BTreeSet<u16> = parts.iter().flat_map(|(numbers, ..)| numbers.clone()).collect();
            let sum: usize = parts.iter().map(|(numbers, ..)| numbers.len()).sum();
            prop_assert_eq!(all.listeners(), 2 * sum);
            prop_assert!((union.len()..=sum).contains(&all.channels()));
            let counted = parts.iter().filter(|(numbers, ..)| !numbers.is_empty());
            let alone = counted.clone().count() < 2;
            let marked = counted.into_iter().all(|(_, unmarked, _)| !unmarked);
            prop_assert_eq!(all.is_exact(), alone || marked);
            if all.is_exact() {
                prop_assert_eq!(all.channels(), union.len());
            }
        }
    }
}
