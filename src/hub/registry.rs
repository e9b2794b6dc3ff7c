//! Which sessions listen on which channel. Pure: it knows no sockets, no clock, no runtime.
//!
//! Joining, leaving and removing cost the number of channels of one session, whatever else is
//! connected; routing costs the number of sessions reached. Nothing allocates per recipient.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use slab::Slab;

use crate::event::{Audience, Channel, Recipients, UserId};

/// A session's place in the registry, valid from `add` to `remove`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(u32);

/// Sessions, what they carry (`S`), and the channels that they listen on.
#[derive(Debug)]
pub struct Registry<S> {
    channels: HashMap<Channel, u32, RandomState>,
    listeners: Slab<Listeners>,
    sessions: Slab<Member<S>>,
    /// The number of the routing under way, to reach a session once through several channels.
    round: u64,
}

#[derive(Debug)]
struct Listeners {
    channel: Channel,
    sessions: Vec<SessionKey>,
}

#[derive(Debug)]
struct Member<S> {
    user: UserId,
    seats: Vec<Seat>,
    round: u64,
    session: S,
}

/// Where a session sits in a channel's list.
#[derive(Debug, Clone, Copy)]
struct Seat {
    listeners: u32,
    place: u32,
}

impl<S> Default for Registry<S> {
    fn default() -> Self {
        Self {
            channels: HashMap::default(),
            listeners: Slab::new(),
            sessions: Slab::new(),
            round: 0,
        }
    }
}

impl<S> Registry<S> {
    /// Adds a session that listens on nothing yet.
    pub fn add(&mut self, user: UserId, session: S) -> SessionKey {
        let index = self.sessions.insert(Member {
            user,
            seats: Vec::new(),
            round: 0,
            session,
        });
        SessionKey(narrow(index))
    }

    /// Takes a session off all its channels and gives back what it carried.
    pub fn remove(&mut self, key: SessionKey) -> Option<S> {
        let member = self.sessions.try_remove(key.index())?;
        for seat in member.seats {
            self.vacate(seat);
        }
        Some(member.session)
    }

    /// Makes a session listen on a channel; says whether that is new.
    pub fn join(&mut self, key: SessionKey, channel: &Channel) -> bool {
        if !self.sessions.contains(key.index()) || self.seat(key, channel).is_some() {
            return false;
        }
        self.take_seat(key, channel)
    }

    /// Makes a session listen on many channels, none of which it listens on yet: without looking
    /// for each of them among all the others.
    pub fn join_all<'a>(&mut self, key: SessionKey, channels: impl Iterator<Item = &'a Channel>) {
        for channel in channels {
            self.take_seat(key, channel);
        }
    }

    fn take_seat(&mut self, key: SessionKey, channel: &Channel) -> bool {
        let index = self.listeners_of(channel);
        let Some(listeners) = self.listeners.get_mut(index as usize) else {
            return false;
        };
        let place = narrow(listeners.sessions.len());
        listeners.sessions.push(key);
        if let Some(member) = self.sessions.get_mut(key.index()) {
            member.seats.push(Seat {
                listeners: index,
                place,
            });
        }
        true
    }

    /// Makes a session listen on a channel no longer; says whether it did.
    pub fn leave(&mut self, key: SessionKey, channel: &Channel) -> bool {
        let Some(number) = self.seat(key, channel) else {
            return false;
        };
        let Some(member) = self.sessions.get_mut(key.index()) else {
            return false;
        };
        let seat = member.seats.swap_remove(number);
        self.vacate(seat);
        true
    }

    /// Calls `reached` once for each session that the audience includes.
    pub fn route(&mut self, audience: &Audience, mut reached: impl FnMut(SessionKey, &mut S)) {
        let except = audience.except.as_ref();
        match &audience.to {
            Recipients::Everybody => {
                for (index, member) in &mut self.sessions {
                    if except != Some(&member.user) {
                        reached(SessionKey(narrow(index)), &mut member.session);
                    }
                }
            }
            Recipients::Channels(channels) => {
                self.round += 1;
                for channel in channels {
                    let Some(index) = self.channels.get(channel) else {
                        continue;
                    };
                    for key in &self.listeners[*index as usize].sessions {
                        let member = &mut self.sessions[key.index()];
                        if member.round != self.round && except != Some(&member.user) {
                            member.round = self.round;
                            reached(*key, &mut member.session);
                        }
                    }
                }
            }
            // Resolved into channels before it comes here; unresolved it reaches nobody.
            Recipients::SharingChatWith(_) => {}
        }
    }

    /// The user's own sessions: those that listen on the user's channel in the user's name.
    #[must_use]
    pub fn sessions_of(&self, user: &UserId) -> Vec<SessionKey> {
        let Some(index) = self.channels.get(&Channel::user(user)) else {
            return Vec::new();
        };
        let listening = self.listeners[*index as usize].sessions.iter();
        listening
            .filter(|key| self.sessions[key.index()].user == *user)
            .copied()
            .collect()
    }

    /// The channels that a session listens on.
    #[must_use]
    pub fn channels_of(&self, key: SessionKey) -> Vec<Channel> {
        self.each_channel_of(key).cloned().collect()
    }

    /// The channels that a session listens on, one by one.
    pub fn each_channel_of(&self, key: SessionKey) -> impl Iterator<Item = &Channel> {
        let seats = self.sessions.get(key.index()).map(|member| &member.seats);
        let listeners = seats
            .into_iter()
            .flatten()
            .map(|seat| seat.listeners as usize);
        listeners
            .filter_map(|index| self.listeners.get(index))
            .map(|listeners| &listeners.channel)
    }

    /// Whether a session listens on a channel.
    #[must_use]
    pub fn listens_on(&self, key: SessionKey, channel: &Channel) -> bool {
        self.seat(key, channel).is_some()
    }

    /// The sessions that listen on a channel.
    #[must_use]
    pub fn listeners_on(&self, channel: &Channel) -> Vec<SessionKey> {
        let index = self.channels.get(channel);
        index.map_or_else(Vec::new, |index| {
            self.listeners[*index as usize].sessions.clone()
        })
    }

    /// How many sessions listen on a channel.
    #[must_use]
    pub fn listener_count(&self, channel: &Channel) -> usize {
        let index = self.channels.get(channel);
        index.map_or(0, |index| self.listeners[*index as usize].sessions.len())
    }

    /// The channels that somebody listens on, with the number of listeners, in no order.
    pub fn channels(&self) -> impl Iterator<Item = (&Channel, usize)> {
        let listeners = self.listeners.iter();
        listeners.map(|(_, listeners)| (&listeners.channel, listeners.sessions.len()))
    }

    /// What a session carries.
    #[must_use]
    pub fn get(&self, key: SessionKey) -> Option<&S> {
        let member = self.sessions.get(key.index())?;
        Some(&member.session)
    }

    /// What a session carries, to be changed.
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut S> {
        let member = self.sessions.get_mut(key.index())?;
        Some(&mut member.session)
    }

    /// Whom a session belongs to.
    #[must_use]
    pub fn user_of(&self, key: SessionKey) -> Option<&UserId> {
        self.sessions.get(key.index()).map(|member| &member.user)
    }

    /// The keys of all sessions.
    #[must_use]
    pub fn keys(&self) -> Vec<SessionKey> {
        let indices = self.sessions.iter().map(|(index, _)| index);
        indices.map(|index| SessionKey(narrow(index))).collect()
    }

    /// The keys of the sessions at the next `most` places, beginning with `from`; and the place behind them, if there
    /// are more.
    #[must_use]
    pub fn keys_from(&self, from: usize, most: usize) -> (Vec<SessionKey>, Option<usize>) {
        let next = from.saturating_add(most);
        let places = self.sessions.capacity();
        let taken = (from..next.min(places)).filter(|place| self.sessions.contains(*place));
        let keys = taken.map(|place| SessionKey(narrow(place))).collect();
        (keys, (next < places).then_some(next))
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many channels have a listener.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    fn listeners_of(&mut self, channel: &Channel) -> u32 {
        if let Some(index) = self.channels.get(channel) {
            return *index;
        }
        let index = narrow(self.listeners.insert(Listeners {
            channel: channel.clone(),
            sessions: Vec::new(),
        }));
        self.channels.insert(channel.clone(), index);
        index
    }

    /// Which of the session's seats is in `channel`.
    fn seat(&self, key: SessionKey, channel: &Channel) -> Option<usize> {
        let index = *self.channels.get(channel)?;
        let member = self.sessions.get(key.index())?;
        member.seats.iter().position(|seat| seat.listeners == index)
    }

    /// Empties one place of a channel; the last listener moves into it.
    fn vacate(&mut self, seat: Seat) {
        let Some(listeners) = self.listeners.get_mut(seat.listeners as usize) else {
            return;
        };
        listeners.sessions.swap_remove(seat.place as usize);
        if let Some(moved) = listeners.sessions.get(seat.place as usize)
            && let Some(member) = self.sessions.get_mut(moved.index())
        {
            let own = member.seats.iter_mut();
            for other in own.filter(|other| other.listeners == seat.listeners) {
                other.place = seat.place;
            }
        }
        if listeners.sessions.is_empty() {
            let emptied = self.listeners.remove(seat.listeners as usize);
            self.channels.remove(&emptied.channel);
        } else if listeners.sessions.capacity() > 64
            && listeners.sessions.len() * 4 < listeners.sessions.capacity()
        {
            listeners.sessions.shrink_to(listeners.sessions.len() * 2);
        }
    }
}

impl SessionKey {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Slab indices as 32 bits: more sessions than that do not fit into one process's file table.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use proptest::prelude::*;

    fn user(number: i64) -> UserId {
        UserId::from(number)
    }

    fn channel(number: u8) -> Channel {
        Channel::parse(&format!("job:{number}")).unwrap()
    }

    fn reached(registry: &mut Registry<()>, audience: &Audience) -> Vec<SessionKey> {
        let mut keys = Vec::new();
        registry.route(audience, |key, ()| keys.push(key));
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_session_is_reached_once_through_several_channels() {
        let mut registry = Registry::default();
        let key = registry.add(user(1), ());
        for number in 0..3 {
            registry.join(key, &channel(number));
        }
        let audience = Audience::channels(vec![channel(0), channel(2), channel(0)]);
        assert_eq!(reached(&mut registry, &audience), [key]);
        assert!(reached(&mut registry, &audience.except(user(1))).is_empty());
    }

    #[test]
    fn sessions_of_a_user_are_the_users_own() {
        let mut registry = Registry::default();
        let own = registry.add(user(1), ());
        let watching = registry.add(user(2), ());
        for key in [own, watching] {
            registry.join(key, &Channel::user(&user(1)));
        }
        assert_eq!(registry.sessions_of(&user(1)), [own]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(i64),
        Remove(usize),
        Join(usize, u8),
        Leave(usize, u8),
        Route(Vec<u8>, Option<i64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4i64).prop_map(Step::Add),
            any::<usize>().prop_map(Step::Remove),
            (any::<usize>(), 0..6u8).prop_map(|(session, number)| Step::Join(session, number)),
            (any::<usize>(), 0..6u8).prop_map(|(session, number)| Step::Leave(session, number)),
            (
                proptest::collection::vec(0..6u8, 0..4),
                proptest::option::of(0..4i64)
            )
                .prop_map(|(channels, except)| Step::Route(channels, except)),
        ]
    }

    type Model = BTreeMap<SessionKey, (i64, BTreeSet<u8>)>;

    fn pick(model: &Model, number: usize) -> Option<SessionKey> {
        let keys: Vec<_> = model.keys().copied().collect();
        (!keys.is_empty()).then(|| keys[number % keys.len()])
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_model(steps in proptest::collection::vec(step(), 0..120)) {
            let mut registry = Registry::default();
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Add(number) => {
                        let key = registry.add(user(number), ());
                        prop_assert!(model.insert(key, (number, BTreeSet::new())).is_none());
                    }
                    Step::Remove(number) => if let Some(key) = pick(&model, number) {
                        prop_assert!(registry.remove(key).is_some());
                        model.remove(&key);
                    },
                    Step::Join(number, on) => if let Some(key) = pick(&model, number) {
                        let new = model.get_mut(&key).unwrap().1.insert(on);
                        prop_assert_eq!(registry.join(key, &channel(on)), new);
                    },
                    Step::Leave(number, on) => if let Some(key) = pick(&model, number) {
                        let was = model.get_mut(&key).unwrap().1.remove(&on);
                        prop_assert_eq!(registry.leave(key, &channel(on)), was);
                    },
                    Step::Route(channels, except) => {
                        let audience = Audience {
                            except: except.map(user),
                            ..Audience::channels(channels.iter().map(|c| channel(*c)).collect())
                        };
                        let expected: Vec<_> = model.iter()
                            .filter(|(_, (user, on))| {
                                Some(*user) != except && channels.iter().any(|c| on.contains(c))
                            })
                            .map(|(key, _)| *key)
                            .collect();
                        prop_assert_eq!(reached(&mut registry, &audience), expected);
                    }
                }
                let used: BTreeSet<_> = model.values().flat_map(|(_, on)| on).collect();
                prop_assert_eq!(registry.channel_count(), used.len());
                prop_assert_eq!(registry.len(), model.len());
            }
            let (mut keys, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                let (some, behind) = registry.keys_from(from, 3);
                keys.extend(some);
                next = behind;
            }
            prop_assert!(keys.iter().eq(model.keys()));
        }
    }
}
