//! Which sessions there are and what they listen on: the part of a shard that changes with its
//! clients, their joins and their leaves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng as _;

use super::Shard;
use crate::credential::Mark;
use crate::event::{Channel, ChatId, Frame, MembershipChange, Resource, Timestamp, UserId};
use crate::hub::listening::Passed;
use crate::hub::notice::{self, Confirmation, End};
use crate::hub::registry::SessionKey;
use crate::hub::replay::{self, Comeback, Replay};
use crate::hub::schedule::Due;
use crate::hub::scope::{Interest, Scope};
use crate::hub::sentence::{Sentence, Whose};
use crate::hub::session::{Opening, Pending, Phase, Session};
use crate::hub::witness::{CameBack, Start, Who};

/// How many places of sessions a sentence for everybody looks at before deliveries have a turn.
const SENTENCED_AT_ONCE: usize = 1_000;

impl Shard {
    /// Adds a session that receives nothing until it is activated, but misses no join or leave.
    pub(in crate::hub) fn register(
        &mut self,
        user: &UserId,
        opening: Opening,
        now: Instant,
    ) -> SessionKey {
        // Spread over the whole interval, so that clients that came together are not pinged
        // together for ever.
        let first_ping = self
            .timing
            .ping_interval
            .mul_f64(rand::rng().random_range(0.1..=1.0));
        self.serial = self.serial.wrapping_add(1);
        self.metrics.opened(opening.client.transport);
        let waiting = self.meter.waiting();
        let session = Session::new(opening, self.serial, now, first_ping, waiting);
        let own = session.named_channels.is_none();
        let key = self.registry.add(user.clone(), session);
        let session = self.registry.get(key);
        if let Some(credential) = session.and_then(|session| session.credential.as_ref()) {
            self.bearers.add(key, credential);
        }
        if own {
            self.registry.join(key, &Channel::user(user));
        } else {
            self.watchers.entry(user.clone()).or_default().push(key);
        }
        key
    }

    /// Makes a registered session live: it listens on its channels, `chats` among them, from the
    /// current position on, and the confirmation is the first thing in its outbox. Gives back the chats
    /// it listens on; or, where the history has let go of what was found to be there, those given, and the
    /// session waits on.
    pub(in crate::hub) fn activate(
        &mut self,
        key: SessionKey,
        mut chats: Vec<ChatId>,
        comeback: Comeback,
        now: Instant,
    ) -> Result<Vec<ChatId>, Vec<ChatId>> {
        let history = Arc::clone(&self.history);
        // What was found to be in the history has to stay there until the replay is planned. For others whoever takes
        // events in need not wait.
        let kept = comeback.lasting.then(|| history.read());
        if kept.as_ref().is_some_and(|kept| comeback.is_outrun(kept)) {
            return Err(chats);
        }
        let (timing, unlogged) = (self.timing, self.unlogged);
        let user = self.registry.user_of(key).cloned();
        let (Some(user), Some(session)) = (user, self.registry.get_mut(key)) else {
            return Ok(Vec::new());
        };
        match std::mem::replace(&mut session.phase, Phase::Live) {
            Phase::Pending(Pending { changes, anew }) => {
                chats = after_changes(anew.map_or(chats, Vec::from), &changes);
            }
            Phase::Live => {}
            // Ended while its chats were looked up: the goodbye already waits.
            ending @ Phase::Ending(_) => session.phase = ending,
        }
        let is_live = session.is_live();
        if is_live {
            session.attending = Some(self.attendance.enter(&user));
        }
        session.after_unlogged = unlogged;
        let (serial, at) = (session.serial, session.next_due(now, &timing));
        let scope = session.scope();
        chats.retain(|chat| session.follows(chat));
        self.schedule.add(Due { at, key, serial });
        let mut channels: Vec<Channel> = chats.iter().map(Channel::chat).collect();
        if let Scope::Named(named) = &scope {
            channels.extend(named.granted.iter().cloned());
        }
        self.registry.join_all(key, channels.iter());
        let interest = scope.interest(&user, chats.clone());
        let channels = matches!(scope, Scope::Named(_)).then_some(&channels[..]);
        let head = self.head;
        let replay = if is_live {
            let kept = kept.unwrap_or_else(|| history.read());
            replay::plan(&kept, interest.clone(), comeback, head, Timestamp::now())
        } else {
            // What was missed is not for whoever has lost the right to it, and others come back for it.
            drop(kept);
            replay::none(comeback.resume, head)
        };
        self.confirm(key, &interest, channels, replay, now);
        // It may have lost its last channel meanwhile.
        self.end_if_idle(key, now);
        Ok(chats)
    }

    /// Puts at the head of the outbox: the confirmation, what can't be replayed, what can.
    fn confirm(
        &mut self,
        key: SessionKey,
        interest: &Interest,
        channels: Option<&[Channel]>,
        replay: Replay,
        now: Instant,
    ) {
        let retry = Frame::retry(self.retry_ms());
        let (ping_interval, head) = (self.settings.ping_interval, self.head);
        let moment = Timestamp::now();
        self.metrics.resumed(&replay);
        let Some(session) = self.registry.get_mut(key) else {
            return;
        };
        let replayed = replay.frames.len() as u64;
        let confirmation = notice::confirmation(
            &Confirmation {
                user: &interest.user,
                chats: &interest.chats,
                channels,
                connection_id: &session.connection_id.simple().to_string(),
                recovered: replay.resumed && replay.gap.is_none(),
                replayed,
                ping_interval_ms: ping_interval.as_millis(),
            },
            // Not the head: a client that breaks off within the replay continues it.
            &replay.from,
            moment,
        );
        let mut lead = Vec::with_capacity(replay.frames.len() + 4);
        lead.extend([retry, confirmation]);
        lead.extend(replay.gap.as_ref().map(notice::gap));
        lead.extend(replay.frames);
        if replayed > 0 {
            lead.push(notice::caught_up(replayed, &head));
        }
        session.has_up_to = replay.from.position();
        let is_of_this_log = replay.from.epoch() == head.epoch();
        let comeback = (replay.resumed && is_of_this_log).then(|| CameBack {
            from: replay.from.position(),
            gap: replay.gap,
            log_up_to: replay.read_up_to,
            changes: CameBack::few(replay.changes),
        });
        let up_to = match session.is_live() || !is_of_this_log {
            true => head,
            // It gets nothing of what came later.
            false => replay.from,
        };
        session.over_at = session.over_at.and(Some(up_to.position()));
        session.start = Start {
            live_from: up_to.position(),
            comeback: comeback.map(Box::new),
        };
        session.outbox.lead_with(lead);
        session.wake(now);
    }

    pub(in crate::hub) fn change_membership(
        &mut self,
        user: &UserId,
        change: &MembershipChange,
        now: Instant,
    ) {
        let (MembershipChange::Joined(_, chat) | MembershipChange::Left(_, chat)) = change;
        for key in self.sessions_of(user) {
            let Some(session) = self.registry.get_mut(key) else {
                continue;
            };
            if !session.follows(chat) {
                continue;
            }
            if let Some(changes) = &mut session.refresh {
                changes.push(change.clone());
            }
            match &mut session.phase {
                Phase::Pending(pending) => pending.changes.push(change.clone()),
                Phase::Live | Phase::Ending(_) => self.apply(key, change, now),
            }
        }
    }

    /// Begins to look the chats of all sessions up again that have not ended: from now on their joins and
    /// leaves are kept, too. Gives their users.
    pub(in crate::hub) fn begin_refresh(&mut self) -> Vec<UserId> {
        let mut users = Vec::new();
        for key in self.registry.keys() {
            let Some(session) = self.registry.get_mut(key) else {
                continue;
            };
            // Those that are not live yet may have their chats from before.
            if !session.is_ending() {
                session.refresh = Some(Vec::new());
                users.extend(self.registry.user_of(key).cloned());
            }
        }
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Has a user's sessions listen on the chats that were looked up, changed by what happened
    /// since that began.
    pub(in crate::hub) fn finish_refresh(&mut self, user: &UserId, chats: &[ChatId], now: Instant) {
        for key in self.sessions_of(user) {
            let Some(session) = self.registry.get_mut(key) else {
                continue;
            };
            let Some(changes) = session.refresh.take() else {
                continue;
            };
            let mut chats = after_changes(chats.to_vec(), &changes);
            chats.retain(|chat| session.follows(chat));
            if let Phase::Pending(pending) = &mut session.phase {
                pending.changes.clear();
                pending.anew = Some(chats.into());
                continue;
            }
            let granted = match session.scope() {
                Scope::Own => Vec::new(),
                Scope::Named(named) => named.granted,
            };
            let wanted: HashSet<Channel> = chats.iter().map(Channel::chat).collect();
            for channel in self.registry.channels_of(key) {
                let kept = wanted.contains(&channel) || granted.contains(&channel);
                if *channel.resource() == Resource::Chat && !kept {
                    self.turn(key, &channel, false);
                }
            }
            for channel in &wanted {
                self.turn(key, channel, true);
            }
            self.end_if_idle(key, now);
        }
    }

    /// Ends sessions by their tokens, beginning with the place `from`; gives how many, and where to go on if that is
    /// not all. A sentence for everybody is carried out on so many places at a time, since each takes a look; a session
    /// that comes to a place behind has to see to it itself that its token is good.
    pub(in crate::hub) fn sentence(
        &mut self,
        sentence: &Sentence,
        from: usize,
        now: Instant,
    ) -> (usize, Option<usize>) {
        let (keys, next) = match sentence.whose() {
            Whose::Users(users) => {
                let keys = users.iter().flat_map(|user| self.sessions_of(user));
                (keys.collect(), None)
            }
            Whose::Tokens(marks) => (self.sessions_by(marks), None),
            Whose::Everybody => self.registry.keys_from(from, SENTENCED_AT_ONCE),
        };
        (self.end_those(keys, sentence, now), next)
    }

    /// Of the sessions those whose tokens go by one of these marks, each once.
    fn sessions_by(&self, marks: &[Mark]) -> Vec<SessionKey> {
        let goes_by = |key: SessionKey, mark: Mark| {
            let credential = self.registry.get(key)?.credential.as_ref()?;
            credential.goes_by(mark).then_some(key)
        };
        let of = |mark: &Mark| {
            let mark = *mark;
            self.bearers
                .of(mark)
                .filter_map(move |key| goes_by(key, mark))
        };
        // It may go by its hash and by its `jti`.
        let mut keys: Vec<SessionKey> = marks.iter().flat_map(of).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn end_those(&mut self, keys: Vec<SessionKey>, sentence: &Sentence, now: Instant) -> usize {
        let mut ended = 0;
        for key in keys {
            let user = self.registry.user_of(key).cloned();
            let (Some(user), Some(session)) = (user, self.registry.get_mut(key)) else {
                continue;
            };
            let concerned = sentence.concerns(&user, session.credential.as_ref());
            if session.is_ending() || !concerned {
                continue;
            }
            if sentence.spread().is_zero() {
                self.end(key, sentence.end(), now);
                ended += 1;
                continue;
            }
            let at = now
                + sentence
                    .spread()
                    .mul_f64(rand::rng().random_range(0.0..1.0));
            if session.end_at(at, sentence.end()) {
                let serial = session.serial;
                self.schedule.add(Due { at, key, serial });
                ended += 1;
            }
        }
        ended
    }

    /// A user's sessions that joins and leaves concern.
    pub(super) fn sessions_of(&self, user: &UserId) -> Vec<SessionKey> {
        let mut keys = self.registry.sessions_of(user);
        if let Some(watching) = self.watchers.get(user) {
            // One that watches the user's own channel is among them already.
            keys.retain(|key| !watching.contains(key));
            keys.extend(watching);
        }
        keys
    }

    /// A session whose channels were all taken away has nothing to wait for.
    fn end_if_idle(&mut self, key: SessionKey, now: Instant) {
        let session = self.registry.get_mut(key);
        let named = session.is_some_and(|session| session.named_channels.is_some());
        if named && self.registry.channels_of(key).is_empty() {
            self.end(key, End::Disconnected, now);
        }
    }

    /// Forgets a session that watches channels by name.
    pub(super) fn unwatch(&mut self, user: &UserId, key: SessionKey) {
        if let Some(watching) = self.watchers.get_mut(user) {
            watching.retain(|other| *other != key);
            if watching.is_empty() {
                self.watchers.remove(user);
            }
        }
    }

    fn apply(&mut self, key: SessionKey, change: &MembershipChange, now: Instant) {
        match change {
            MembershipChange::Joined(_, chat) => {
                self.turn(key, &Channel::chat(chat), true);
            }
            MembershipChange::Left(_, chat) => {
                if self.turn(key, &Channel::chat(chat), false) {
                    self.end_if_idle(key, now);
                }
            }
        }
    }

    /// Has a live session listen on a channel from now on (`begins`), or no longer; says whether that is new,
    /// which is then remembered.
    fn turn(&mut self, key: SessionKey, channel: &Channel, begins: bool) -> bool {
        let new = match begins {
            true => self.registry.join(key, channel),
            false => self.registry.leave(key, channel),
        };
        let passed = Passed {
            position: self.head.position(),
            number: self.unlogged,
        };
        if let (true, Some(session)) = (new, self.registry.get_mut(key)) {
            session.turns = session.turns.saturating_add(1);
            let serial = session.serial;
            if let Some(witness) = &mut self.witness {
                let who = Who { key, serial };
                witness.turns.note(who, channel, begins, passed);
            }
        }
        new
    }
}

/// The looked-up chats with the joins and leaves that happened since, sorted.
fn after_changes(mut chats: Vec<ChatId>, changes: &[MembershipChange]) -> Vec<ChatId> {
    for change in changes {
        match change {
            MembershipChange::Joined(_, chat) => chats.push(chat.clone()),
            MembershipChange::Left(_, chat) => chats.retain(|other| other != chat),
        }
    }
    chats.sort_unstable();
    chats.dedup();
    chats
}
