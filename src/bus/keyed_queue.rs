//! A first-in-first-out queue from which entries are also taken by key. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Entries in the order in which they came. Every operation takes constant time on average, and
/// none allocates per entry.
#[derive(Debug)]
pub(super) struct KeyedQueue<T> {
    /// Places of entries that were taken by key stay empty until they are at the front.
    entries: VecDeque<Option<Entry<T>>>,
    /// The number of the first place.
    base: u64,
    /// For each key the numbers of its first and its last entry; entries of the same key are linked.
    chains: HashMap<u64, Chain, RandomState>,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    key: u64,
    at: Instant,
    value: T,
    next: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Chain {
    first: u64,
    last: u64,
}

impl<T> Default for KeyedQueue<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            base: 0,
            chains: HashMap::default(),
            len: 0,
        }
    }
}

impl<T> KeyedQueue<T> {
    /// Adds an entry that came at `at`, which must not be before that of any other.
    pub(super) fn push(&mut self, key: u64, at: Instant, value: T) {
        let number = self.base + self.entries.len() as u64;
        self.entries.push_back(Some(Entry {
            key,
            at,
            value,
            next: None,
        }));
        self.len += 1;
        let before = self.chains.get(&key).copied();
        if let Some(before) = before
            && let Some(last) = self.entry(before.last)
        {
            last.next = Some(number);
        }
        let first = before.map_or(number, |chain| chain.first);
        let last = number;
        self.chains.insert(key, Chain { first, last });
    }

    /// Takes the oldest entry of a key.
    pub(super) fn take(&mut self, key: u64) -> Option<T> {
        let chain = self.chains.get(&key).copied()?;
        let index = usize::try_from(chain.first.checked_sub(self.base)?).ok()?;
        let entry = self.entries.get_mut(index)?.take()?;
        match entry.next {
            Some(first) => {
                self.chains.insert(key, Chain { first, ..chain });
            }
            None => {
                self.chains.remove(&key);
            }
        }
        self.len -= 1;
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.base += 1;
        }
        Some(entry.value)
    }

    /// Takes the oldest entry of all.
    pub(super) fn pop(&mut self) -> Option<T> {
        let key = self.front()?.key;
        self.take(key)
    }

    /// Takes the oldest entry, if it came at `deadline` or before.
    pub(super) fn pop_until(&mut self, deadline: Instant) -> Option<T> {
        if self.oldest()? > deadline {
            return None;
        }
        self.pop()
    }

    /// When the oldest entry came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.front().map(|entry| entry.at)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The oldest entry of a key.
    pub(super) fn get(&self, key: u64) -> Option<&T> {
        let first = self.chains.get(&key)?.first;
        let index = usize::try_from(first.checked_sub(self.base)?).ok()?;
        self.entries.get(index)?.as_ref().map(|entry| &entry.value)
    }

    /// The front place is never empty.
    fn front(&self) -> Option<&Entry<T>> {
        self.entries.front()?.as_ref()
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry<T>> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.entries.get_mut(index)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Take(u64),
        Pop,
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_list(
            steps in proptest::collection::vec(prop_oneof![
                (0..4u64).prop_map(Step::Push),
                (0..4u64).prop_map(Step::Take),
                Just(Step::Pop),
            ], 0..200)
        ) {
            let mut queue = KeyedQueue::default();
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(key) => {
                        queue.push(key, Instant::now(), number);
                        model.push((key, number));
                    }
                    Step::Take(key) => {
                        let at = model.iter().position(|(other, _)| *other == key);
                        let expected = at.map(|at| model.remove(at).1);
                        prop_assert_eq!(queue.take(key), expected);
                    }
                    Step::Pop => {
                        let expected = (!model.is_empty()).then(|| model.remove(0).1);
                        prop_assert_eq!(queue.pop(), expected);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                for key in 0..4 {
                    let first = model.iter().find(|(other, _)| *other == key);
                    prop_assert_eq!(queue.get(key), first.map(|(_, number)| number));
                }
            }
        }
    }
}
