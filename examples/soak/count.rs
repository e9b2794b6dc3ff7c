//! What was published, what has arrived where, and what was wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The ways in which messages are published, each on a channel of its own.
pub(crate) const CHANNELS: [&str; 2] = ["job:http", "job:rows"];

/// Shared by all tasks of the one thread.
#[derive(Default)]
pub(crate) struct Count {
    /// Messages that were taken, by channel; they are numbered from 1.
    pub(crate) published: [Cell<u64>; CHANNELS.len()],
    /// Times that publishing was refused, and tried again.
    pub(crate) again: Cell<u64>,
    /// The longest that one message took to be taken.
    pub(crate) longest: Cell<Duration>,
    /// Streams that were confirmed, and those of them that resumed.
    pub(crate) confirmed: Cell<u64>,
    pub(crate) resumed: Cell<u64>,
    /// Times that there was no stream to be had.
    pub(crate) unavailable: Cell<u64>,
    /// Clients that came and went.
    pub(crate) passed_by: Cell<u64>,
    pub(crate) received: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) doubled: Cell<u64>,
    pub(crate) gaps: Cell<u64>,
    /// Answers and events that should not be there.
    pub(crate) strange: RefCell<BTreeMap<String, u64>>,
    /// The last number of each channel that each witness has.
    last: RefCell<BTreeMap<usize, [u64; CHANNELS.len()]>>,
}

pub(crate) fn add(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Count {
    /// A witness has got a number.
    pub(crate) fn note(&self, witness: usize, channel: usize, number: u64) {
        let mut last = self.last.borrow_mut();
        let last = &mut last.entry(witness).or_default()[channel];
        match number {
            _ if number == *last + 1 => {}
            _ if number <= *last => return add(&self.doubled),
            _ => self.lost.set(self.lost.get() + number - *last - 1),
        }
        *last = number;
        add(&self.received);
    }

    pub(crate) fn strange(&self, what: String) {
        *self.strange.borrow_mut().entry(what).or_default() += 1;
    }

    /// Whether every witness has everything.
    pub(crate) fn is_complete(&self, witnesses: usize) -> bool {
        let last = self.last.borrow();
        let all = self.published.each_ref().map(Cell::get);
        last.len() == witnesses && last.values().all(|last| *last == all)
    }

    /// What some witness does not have.
    pub(crate) fn missing(&self) -> String {
        let all = self.published.each_ref().map(Cell::get);
        let last = self.last.borrow();
        let behind = last.iter().filter(|(_, last)| **last != all);
        let behind: Vec<String> = behind
            .take(5)
            .map(|(witness, last)| format!("witness {witness} has {last:?} of {all:?}"))
            .collect();
        behind.join(", ")
    }

    /// Everything that may not be.
    pub(crate) fn wrong(&self) -> u64 {
        let strange: u64 = self.strange.borrow().values().sum();
        self.lost.get() + self.doubled.get() + self.gaps.get() + strange
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (channel, published) in CHANNELS.iter().zip(&self.published) {
            writeln!(f, "  published on {channel:<16} {:>10}", published.get())?;
        }
        for (name, value) in [
            ("tried again", &self.again),
            ("streams", &self.confirmed),
            ("resumed", &self.resumed),
            ("no stream to be had", &self.unavailable),
            ("passers-by", &self.passed_by),
            ("received", &self.received),
            ("lost or out of order", &self.lost),
            ("doubled", &self.doubled),
            ("gaps", &self.gaps),
        ] {
            writeln!(f, "  {name:<29} {:>10}", value.get())?;
        }
        let longest = self.longest.get().as_secs_f64();
        writeln!(
            f,
            "  {:<29} {longest:>10.1} s",
            "longest until one was taken"
        )?;
        for (what, times) in &*self.strange.borrow() {
            writeln!(f, "  {what}: {times} times")?;
        }
        Ok(())
    }
}
