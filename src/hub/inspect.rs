//! Questions about the sessions of a hub, and ending them. Questions and findings can be sent to
//! other instances and merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::census::Census;
use crate::event::{Channel, Timestamp, UserId};

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Server-Sent Events.
    Sse,
    /// Long poll.
    Poll,
}

impl Transport {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Sse, Self::Poll];

    /// The transport's name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Poll => "poll",
        }
    }
}

/// What is known about whom a session serves.
#[derive(Debug, Clone)]
pub struct Client {
    /// How it is connected.
    pub transport: Transport,
    /// Where it connects from.
    pub remote: Option<Box<str>>,
    /// What it says that it is.
    pub user_agent: Box<str>,
    /// Ends its connection, where that is shared with others, as those of HTTP/2 are. That its stream
    /// was given up is then only noticed when something is written, and a stream that is not read can't
    /// be ended by itself.
    pub shared: Option<CancellationToken>,
    /// Which of its user's devices it says that it is.
    pub device: Option<Box<str>>,
}

/// What to find out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Who is connected.
    Connections(Filter),
    /// How many are connected to what, and with which keys; with the channels' marks, so that what several have
    /// can be put together.
    Stats,
    /// How many are connected to what, without marks and keys, which take time and room: of channels that several
    /// have, only the listeners can be summed. Instances of earlier versions do not know it, and are asked for
    /// all numbers: whoever asks says besides that it is brief, and reads over what is too much.
    #[serde(rename(serialize = "stats"), skip_deserializing)]
    BriefStats,
    /// Which channels have listeners, in the order of their names.
    Channels {
        /// Behind this one.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// End sessions.
    End(Target),
}

/// Which connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Of this user only.
    pub user: Option<UserId>,
    /// Listening on this channel only.
    pub channel: Option<Channel>,
    /// Behind this connection id, in their order.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Whose sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The one of this connection.
    Connection(String),
    /// All of this user.
    User(UserId),
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Connections in the order of their ids.
    Connections(Vec<Connection>),
    /// Numbers.
    Stats(Stats),
    /// Channels in the order of their names, with the number of listeners.
    Channels(BTreeMap<String, usize>),
    /// How many sessions were ended.
    Ended(usize),
}

/// Somebody who is connected.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// The connection's name.
    pub connection_id: String,
    /// Whose it is.
    pub user_id: UserId,
    /// What it listens on; the first twenty, so that a page fits into one message between instances.
    pub channels: Vec<Channel>,
    /// How many that are in all.
    pub channel_count: usize,
    /// How it is connected.
    pub transport: Transport,
    /// Where it connects from.
    pub remote: Option<String>,
    /// What the client says that it is.
    pub user_agent: String,
    /// Which of its user's devices the client says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The `kid` of the key by which its token was verified; left out where that has none, or is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub kid: Option<String>,
    /// Which key that is, as 32 hexadecimal digits that say nothing about it; left out without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub key: Option<String>,
    /// Since when.
    pub connected_at: Timestamp,
    /// Events that were written to it.
    pub sent: u64,
}

/// Sessions and channels in numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Connections.
    pub connections: usize,
    /// By resource: how many channels have listeners, and how many listeners they have.
    pub resources: BTreeMap<String, Census>,
    /// By the mark of a key, as text: connections whose token is by it.
    #[serde(default)]
    pub keys: BTreeMap<String, usize>,
}

/// The most marks of channels that an instance tells others of, which are 208 KiB of Base64.
const MOST_MARKS: usize = 20_000;

impl Stats {
    /// Puts together what shards, or instances, have found. May take milliseconds where there are very many
    /// channels.
    #[must_use]
    pub fn of(all: Vec<Self>) -> Self {
        let connections = all.iter().map(|stats| stats.connections).sum();
        let mut parts: BTreeMap<String, Vec<Census>> = BTreeMap::new();
        let mut keys: BTreeMap<String, usize> = BTreeMap::new();
        for stats in all {
            for (resource, census) in stats.resources {
                parts.entry(resource).or_default().push(census);
            }
            for (key, connections) in stats.keys {
                *keys.entry(key).or_default() += connections;
            }
        }
        let together = parts.into_iter();
        Self {
            connections,
            resources: together.map(|(name, of)| (name, Census::of(of))).collect(),
            keys,
        }
    }

    /// Leaves the marks of the most numerous channels out, so that it fits into one message.
    #[must_use]
    pub fn to_be_sent(mut self) -> Self {
        let mut censuses: Vec<&mut Census> = self.resources.values_mut().collect();
        censuses.sort_unstable_by_key(|census| census.channels());
        let mut marks = 0;
        for census in censuses {
            marks += census.channels();
            if marks > MOST_MARKS {
                census.unmark();
            }
        }
        self
    }
}

impl Finding {
    /// Puts two findings of the same question together; `limit` is the question's.
    #[must_use]
    pub fn merge(self, other: Self, limit: usize) -> Self {
        match (self, other) {
            (Self::Connections(mut all), Self::Connections(more)) => {
                all.extend(more);
                all.sort_by(|a, b| a.connection_id.cmp(&b.connection_id));
                all.truncate(limit);
                Self::Connections(all)
            }
            (Self::Stats(all), Self::Stats(more)) => Self::Stats(Stats::of(vec![all, more])),
            (Self::Channels(mut all), Self::Channels(more)) => {
                for (channel, listeners) in more {
                    *all.entry(channel).or_default() += listeners;
                }
                while all.len() > limit {
                    all.pop_last();
                }
                Self::Channels(all)
            }
            (Self::Ended(one), Self::Ended(other)) => Self::Ended(one + other),
            (first, _) => first,
        }
    }
}

impl Finding {
    /// As it is told to another instance, in one message.
    #[must_use]
    pub fn to_be_sent(self) -> Self {
        match self {
            Self::Stats(stats) => Self::Stats(stats.to_be_sent()),
            other => other,
        }
    }
}

impl Question {
    /// What nobody has found anything about.
    #[must_use]
    pub fn nothing(&self) -> Finding {
        match self {
            Self::Connections(_) => Finding::Connections(Vec::new()),
            Self::Stats | Self::BriefStats => Finding::Stats(Stats::default()),
            Self::Channels { .. } => Finding::Channels(BTreeMap::new()),
            Self::End(_) => Finding::Ended(0),
        }
    }

    /// The most that is asked for.
    #[must_use]
    pub fn limit(&self) -> usize {
        match self {
            Self::Connections(filter) => filter.limit,
            Self::Channels { limit, .. } => *limit,
            Self::Stats | Self::BriefStats | Self::End(_) => usize::MAX,
        }
    }

    /// Whether the answer of another instance may leave out what it leaves out here; said beside the question.
    #[must_use]
    pub fn is_brief(&self) -> bool {
        *self == Self::BriefStats
    }

    /// The question of another instance that says that it is brief.
    #[must_use]
    pub fn in_brief(self) -> Self {
        match self {
            Self::Stats => Self::BriefStats,
            other => other,
        }
    }
}
