//! What does not fit together in an answer, what is not known and why, and what to do about it, in words. Pure.

use super::answer::{Reason, Stay};
use super::verdict::Facts;
use crate::event::{Channel, EventId, Timestamp};
use crate::hub::{MOST_HEARD, SessionAccount, Standing};

/// Where the log would have to be asked.
pub(super) const LOG_IS_SILENT: &str =
    "the log does not answer; ask again when /ready does not complain of it";

/// Where the database is all that there is.
const STREAMS_FORGOTTEN: &str = "which streams the user had when it came is not all remembered (see remembered_since and \
    missing), so that it can't be told what they listened on; memberships says what the database has";

/// Where this instance hears of nothing; `detail` is the bus's own word.
pub(super) fn deaf_bus(detail: &str) -> String {
    format!(
        "no event reaches this instance at the moment, nor whoever is connected to it: {detail}; mend that first (/health)"
    )
}

/// Where memberships are not known.
pub(super) fn silent_database(why: &str) -> String {
    format!(
        "the database can't say in which chats the user is: {why}; what streams listened on tells all the same \
         (/health says how the database is)"
    )
}

/// From where to where the log reaches.
pub(super) struct Reach {
    pub(super) first: EventId,
    pub(super) last: EventId,
    /// When the first came.
    pub(super) since: Option<Timestamp>,
}

/// About an id that a publisher gave, and that nobody knows.
pub(super) fn publishers_id(since: Option<Timestamp>) -> String {
    match since {
        Some(since) => format!(
            "ids that publishers gave are remembered of what came since {since}, and nothing of this id has come since: it was not \
             published, or on a subject that nats.subjects does not cover; of what came before, ask by the id that it has on streams (epoch-position-check)"
        ),
        None => "recent events are not remembered (explain.enabled is false); ask by the id that it has on streams \
                 (epoch-position-check)"
            .to_owned(),
    }
}

/// What there is to be asked for by position.
pub(super) fn log_reaches(reach: &Reach) -> String {
    let Reach { first, last, since } = reach;
    let since = since.map_or(String::new(), |since| format!(", which came at {since},"));
    match first.position() > last.position() {
        true => "the log has nothing at the moment".to_owned(),
        false => format!("the log has what stands from {first}{since} to {last}"),
    }
}

/// Notes in each chat whether a stream of the user's listened on it.
pub(super) fn note_listening(stays: &mut [Stay], facts: &Facts<'_>) {
    for stay in stays {
        let chat = Channel::chat(&stay.chat_id);
        let there = facts
            .there()
            .filter(|(_, session, ..)| facts.listens_on(session, &chat));
        let told = there.map(|(.., channels)| listened(channels, &chat));
        stay.listened = told
            .reduce(|one, other| match (one, other) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            })
            .flatten();
    }
}

/// Where the streams and the database do not say the same, and what is missing to judge.
pub(super) fn of(facts: &Facts<'_>, reason: Reason) -> Vec<String> {
    let mut hints = Vec::new();
    for stay in facts.stays {
        let chat = Channel::chat(&stay.chat_id);
        let there = || {
            facts
                .there()
                .filter(|(_, session, ..)| facts.listens_on(session, &chat))
        };
        let differs = |did: bool| {
            let mut differing = there().filter(|(_, session, _, channels)| {
                let came_back = matches!(session.standing, Standing::Replayed { .. });
                listened(channels, &chat) == Some(did)
                    // What was replayed is by published joins and leaves, and by what a token allows.
                    && !(did && (came_back || session.named.is_some()))
            });
            let first = differing.next();
            first.map(|(instance, session, ..)| (instance, session, differing.count()))
        };
        match stay.then {
            Some(true) => hints.extend(differs(false).map(|found| deaf(stay, found))),
            Some(false) => hints.extend(differs(true).map(|found| hearing(stay, found))),
            None => {}
        }
    }
    let unsure = reason == Reason::NotRemembered && !facts.is_complete();
    if unsure && !facts.stays.is_empty() {
        hints.push(STREAMS_FORGOTTEN.to_owned());
    }
    hints
}

fn listened(channels: &[Channel], chat: &Channel) -> Option<bool> {
    match channels.contains(chat) {
        true => Some(true),
        // There may be more than are told.
        false if channels.len() >= MOST_HEARD => None,
        false => Some(false),
    }
}

type Differing<'a> = (&'a str, &'a SessionAccount, usize);

fn deaf(stay: &Stay, differing: Differing<'_>) -> String {
    let (chat, stream) = (&stay.chat_id, stream(differing));
    let when = match differing.1.standing {
        Standing::Replayed { .. } => "when its client came back",
        _ => "when the event came",
    };
    let effect = match differing.1.ended {
        Some(_) => "Streams that were opened since then listen on it",
        None => "It takes effect when the client reconnects, or when a member_added is published",
    };
    format!(
        "chat {chat}: the database has the user in it, but {stream} did not listen on it {when}: it was changed without a \
         member_added event, or later than that. {effect}"
    )
}

fn hearing(stay: &Stay, differing: Differing<'_>) -> String {
    let (chat, stream) = (&stay.chat_id, stream(differing));
    let effect = match differing.1.ended {
        Some(_) => "Streams that were opened since then don't listen on it",
        None => {
            "The stream goes on listening until its client reconnects, or a member_removed is published"
        }
    };
    format!(
        "chat {chat}: the database does not have the user in it, but {stream} listened on it when the event came: it was \
         changed without a member_removed event, or a member_added was published without a row in the database. {effect}"
    )
}

fn stream((instance, session, more): Differing<'_>) -> String {
    let more = match more {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    format!("stream {} on {instance}{more}", session.connection_id)
}
