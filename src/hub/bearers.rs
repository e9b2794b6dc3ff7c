//! Which sessions were opened with which tokens, so that those of one token are found without a look at all the
//! others. Pure.

use std::iter;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::registry::SessionKey;
use crate::credential::{Credential, Mark};

/// The first 4 bytes of a mark. Now and then two tokens of many have the same: whoever is found has to be asked.
type Name = u32;

/// Sessions by what their tokens go by: their hash and, where they have one, their `jti`. For each of these a session
/// takes 8 bytes and a bit of what a table has left over: 10 to 21 in all.
#[derive(Debug, Default)]
pub(super) struct Bearers {
    /// One session of each name.
    first: HashMap<Name, SessionKey, RandomState>,
    /// The others of that name, which few tokens have.
    more: HashMap<Name, Vec<SessionKey>, RandomState>,
}

impl Bearers {
    /// A session was opened with a token.
    pub(super) fn add(&mut self, key: SessionKey, credential: &Credential) {
        for name in names(credential) {
            match self.first.entry(name) {
                Entry::Vacant(vacant) => drop(vacant.insert(key)),
                Entry::Occupied(_) => self.more.entry(name).or_default().push(key),
            }
        }
    }

    /// A session that was opened with a token is over. That takes the longer the more others have the same token,
    /// of which few have any.
    pub(super) fn remove(&mut self, key: SessionKey, credential: &Credential) {
        for name in names(credential) {
            let Entry::Occupied(mut first) = self.first.entry(name) else {
                continue;
            };
            let Entry::Occupied(mut more) = self.more.entry(name) else {
                if *first.get() == key {
                    first.remove();
                }
                continue;
            };
            let others = more.get_mut();
            if *first.get() != key {
                // Polls come and go while streams stay.
                if let Some(place) = others.iter().rposition(|other| *other == key) {
                    others.swap_remove(place);
                }
            } else if let Some(next) = others.pop() {
                first.insert(next);
            }
            if others.is_empty() {
                more.remove();
            }
        }
    }

    /// Whether nothing is known of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.more.is_empty()
    }

    /// The sessions whose token may be this one, and hardly any other.
    pub(super) fn of(&self, mark: Mark) -> impl Iterator<Item = SessionKey> {
        let name = mark.short();
        let more = self.more.get(&name).into_iter().flatten();
        self.first.get(&name).into_iter().chain(more).copied()
    }
}

fn names(credential: &Credential) -> impl Iterator<Item = Name> + use<> {
    let id = credential.id.map(Mark::short);
    iter::once(credential.hash.short()).chain(id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::event::UserId;
    use crate::hub::registry::Registry;

    /// Few of many, so that tokens are used again, ids are shared, and names are those of several marks.
    fn mark() -> impl Strategy<Value = Mark> {
        (0..3_u32, 0..3_u32).prop_map(|(first, rest)| {
            let text = format!("{first:08x}{rest:024x}");
            Mark::parse(&text).unwrap()
        })
    }

    fn credential() -> impl Strategy<Value = Credential> {
        let id = prop_oneof![Just(None), mark().prop_map(Some)];
        (mark(), id).prop_map(|(hash, id)| Credential {
            key: hash,
            id,
            hash,
            issued_at: 0,
        })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Opens(Option<Credential>),
        /// One of those that there are.
        Closes(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let credential = prop_oneof![1 => Just(None), 9 => credential().prop_map(Some)];
        prop_oneof![
            3 => credential.prop_map(Step::Opens),
            2 => any::<prop::sample::Index>().prop_map(Step::Closes),
        ]
    }

    proptest! {
        /// A place in the registry is used again, by whoever comes next and with another token.
        #[test]
        fn finds_whom_a_look_at_all_finds(
            steps in prop::collection::vec(step(), 0..120),
            sought in prop::collection::vec(mark(), 1..4),
        ) {
            let mut registry: Registry<Option<Credential>> = Registry::default();
            let mut bearers = Bearers::default();
            for step in steps {
                match step {
                    Step::Opens(credential) => {
                        let key = registry.add(UserId::from(1), credential.clone());
                        if let Some(credential) = &credential {
                            bearers.add(key, credential);
                        }
                    }
                    Step::Closes(which) if !registry.is_empty() => {
                        let key = registry.keys()[which.index(registry.len())];
                        if let Some(credential) = registry.remove(key).unwrap() {
                            bearers.remove(key, &credential);
                        }
                    }
                    Step::Closes(_) => {}
                }
            }
            for mark in sought {
                let goes_by = |key: &SessionKey| {
                    let credential = registry.get(*key).and_then(Option::as_ref);
                    credential.is_some_and(|credential| credential.goes_by(mark))
                };
                let all: BTreeSet<SessionKey> = registry.keys().into_iter().filter(goes_by).collect();
                let found: BTreeSet<SessionKey> = bearers.of(mark).filter(goes_by).collect();
                prop_assert_eq!(found, all);
                // Nobody who has gone is left behind.
                prop_assert!(bearers.of(mark).all(|key| registry.get(key).is_some()));
            }
            let keys = registry.keys().into_iter();
            let credentials = keys.filter_map(|key| registry.get(key)?.as_ref());
            let all = credentials.flat_map(names).count();
            let held = bearers.first.len() + bearers.more.values().map(Vec::len).sum::<usize>();
            prop_assert_eq!(held, all);
            prop_assert!(bearers.more.values().all(|more| !more.is_empty()));
        }
    }
}
