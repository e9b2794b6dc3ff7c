//! In which chats a user was when an event came, by the database: what it says now, with the joins and leaves
//! undone that were published since.

use std::time::Instant;

use super::Explainer;
use super::answer::Stay;
use crate::database::DatabaseError;
use crate::event::{ChatId, EventId, Resource, UserId};
use crate::hub::{Known, Resume, Scope};

impl Explainer {
    /// Whether the user was in the chats of the audience, and, where the database can't say, why not.
    pub(super) async fn stays(&self, user: &UserId, event: &Known) -> (Vec<Stay>, Option<String>) {
        let channels = event.audience.channels.iter();
        let chats = channels.filter(|channel| *channel.resource() == Resource::Chat);
        let chats: Vec<ChatId> = chats.map(|chat| ChatId::from(chat.id().clone())).collect();
        if chats.is_empty() {
            return (Vec::new(), None);
        }
        let looked_up = self.0.membership.chats_of(user).await;
        let silence = looked_up.as_ref().err().map(DatabaseError::reason);
        let member_of = looked_up.ok();
        let id = event
            .id
            .as_deref()
            .and_then(|id| id.parse::<EventId>().ok());
        let (changes, complete) = match id {
            Some(id) => self.changes(user, id, member_of.as_deref()).await,
            None => (Vec::new(), true),
        };
        let stays = chats.into_iter().map(|chat| {
            let now = member_of.as_ref().map(|chats| chats.contains(&chat));
            Stay {
                then: then(&chat, id, &changes, complete, now),
                chat_id: chat,
                now,
                listened: None,
            }
        });
        (stays.collect(), silence)
    }

    /// The user's joins and leaves since an event: from memory, or else, where the chats are known, from the log. And
    /// whether that is all.
    async fn changes(
        &self,
        user: &UserId,
        id: EventId,
        member_of: Option<&[ChatId]>,
    ) -> (Vec<(u64, ChatId, bool)>, bool) {
        let (changes, complete) = self.0.hub.changes_since(user, id);
        let member_of = match member_of {
            Some(chats) if !complete => chats,
            _ => return (changes, complete),
        };
        let interest = Scope::Own.interest(user, member_of.to_vec());
        let archive = &self.0.archive;
        let found = archive.look_up(&interest, Resume::After(id), Instant::now());
        let comeback = found.await;
        match comeback.backlog {
            Some(backlog) if backlog.gap.is_none() => (backlog.search.into_changes(), true),
            _ => (changes, false),
        }
    }
}

/// Whether the user was in a chat when the event came: what came next says so, and else what is now.
fn then(
    chat: &ChatId,
    id: Option<EventId>,
    changes: &[(u64, ChatId, bool)],
    complete: bool,
    now: Option<bool>,
) -> Option<bool> {
    let position = id.map_or(u64::MAX, |id| id.position());
    let mut changes = changes.iter().filter(|(_, of, _)| of == chat);
    match changes.next() {
        // The event itself is the join or the leave, which the user gets in either case.
        Some((at, ..)) if *at == position => Some(true),
        Some((_, _, joined)) if complete => Some(!joined),
        None if complete => now,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;

    #[test]
    fn what_came_next_says_who_was_in_a_chat() {
        let (chat, other) = (ChatId::from(5), ChatId::from(6));
        let id = Some(EventId::unknown(Epoch(1), 10));
        let at = |changes: &[(u64, ChatId, bool)], complete, now: bool| {
            then(&chat, id, changes, complete, Some(now))
        };
        assert_eq!(at(&[], true, true), Some(true));
        assert_eq!(at(&[], true, false), Some(false));
        assert_eq!(at(&[(12, chat.clone(), true)], true, true), Some(false));
        assert_eq!(at(&[(12, chat.clone(), false)], true, false), Some(true));
        assert_eq!(at(&[(12, other, true)], true, true), Some(true));
        assert_eq!(at(&[(10, chat.clone(), false)], true, false), Some(true));
        assert_eq!(at(&[], false, true), None);
        // The database does not answer.
        assert_eq!(then(&chat, id, &[], true, None), None);
        let joined = [(12, chat.clone(), true)];
        assert_eq!(then(&chat, id, &joined, true, None), Some(false));
    }
}
