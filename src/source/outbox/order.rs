//! In which order rows may be published: of those that share a channel, each once the one before it is in
//! the log, and all others at the same time. Pure.
//!
//! A message that is on its way can be lost while one behind it arrives, so that only what is known to
//! be in the log is certain to stand before what is published next.

use std::collections::HashMap;

use crate::event::Channel;

/// What waits for what.
#[derive(Debug)]
pub(super) struct Order {
    /// For each row, those that wait for it.
    followers: Vec<Vec<usize>>,
    /// For each row, how many it waits for.
    waits_for: Vec<usize>,
}

impl Order {
    /// The order of rows with these channels, given in the order in which they were committed.
    pub(super) fn new<'a>(rows: impl IntoIterator<Item = &'a [Channel]>) -> Self {
        let mut last: HashMap<&Channel, usize> = HashMap::new();
        let (mut followers, mut waits_for) = (Vec::new(), Vec::new());
        for (row, channels) in rows.into_iter().enumerate() {
            let mut before: Vec<usize> = channels
                .iter()
                .filter_map(|channel| last.insert(channel, row))
                // The same channel twice.
                .filter(|before| *before != row)
                .collect();
            before.sort_unstable();
            before.dedup();
            followers.push(Vec::new());
            waits_for.push(before.len());
            for before in before {
                followers[before].push(row);
            }
        }
        Self {
            followers,
            waits_for,
        }
    }

    /// The rows that wait for none.
    pub(super) fn first(&self) -> Vec<usize> {
        let free = |row: &usize| self.waits_for[*row] == 0;
        (0..self.waits_for.len()).filter(free).collect()
    }

    /// A row is done; gives those that waited for it and now for none.
    pub(super) fn done(&mut self, row: usize) -> Vec<usize> {
        let mut free = std::mem::take(&mut self.followers[row]);
        free.retain(|follower| {
            self.waits_for[*follower] -= 1;
            self.waits_for[*follower] == 0
        });
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn channels(numbers: &[u8]) -> Vec<Channel> {
        let name = |number| Channel::parse(&format!("chat:{number}")).unwrap();
        numbers.iter().map(name).collect()
    }

    #[test]
    fn channels_do_not_wait_for_each_other() {
        let rows = [
            channels(&[1]),
            channels(&[2]),
            channels(&[1, 2]),
            channels(&[2]),
        ];
        let mut order = Order::new(rows.iter().map(Vec::as_slice));
        assert_eq!(order.first(), [0, 1]);
        assert!(order.done(1).is_empty());
        assert_eq!(order.done(0), [2]);
        assert_eq!(order.done(2), [3]);
        assert!(order.done(3).is_empty());
    }

    proptest! {
        /// Whichever row is done first.
        #[test]
        fn every_row_has_its_turn_behind_those_of_its_channels(
            rows in proptest::collection::vec(proptest::collection::vec(0..4_u8, 1..4), 0..40),
            picks: [Index; 40],
        ) {
            let rows: Vec<Vec<Channel>> = rows.iter().map(|numbers| channels(numbers)).collect();
            let mut order = Order::new(rows.iter().map(Vec::as_slice));
            let (mut ready, mut done) = (order.first(), Vec::new());
            for pick in picks {
                if ready.is_empty() {
                    break;
                }
                let row = ready.remove(pick.index(ready.len()));
                for earlier in 0..row {
                    let shared = rows[earlier].iter().any(|channel| rows[row].contains(channel));
                    prop_assert!(!shared || done.contains(&earlier), "{row} before {earlier}");
                }
                done.push(row);
                ready.extend(order.done(row));
            }
            prop_assert_eq!(done.len(), rows.len());
        }
    }
}
