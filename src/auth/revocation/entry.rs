//! What is revoked, until when, and on whose word. Pure.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::identity::token_id;
use crate::credential::{Credential, Mark};
use crate::event::{Timestamp, UserId};

/// The longest text of a claim `jti`, in bytes.
const LONGEST_ID: usize = 512;

/// How long something can stay revoked: longer than any token should live.
pub const LONGEST_AGE: Duration = Duration::from_secs(400 * 24 * 3600);

/// How far the clock of whoever revokes may be ahead, in seconds.
const AHEAD: u64 = 60;

/// What somebody wants revoked. Exactly one of `user_id`, `token_id` and `token_hash` says whose.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Order {
    /// All tokens of this user that were issued so far, or before `issued_before`.
    #[schema(required = false, value_type = UserId, example = 42)]
    pub user_id: Option<UserId>,
    /// The token with this claim `jti`.
    #[schema(required = false, value_type = String, min_length = 1, max_length = 512)]
    pub token_id: Option<String>,
    /// The token whose first two parts, with the dot in between, have this SHA-256, in hexadecimal digits.
    #[schema(required = false, value_type = String, pattern = "^[0-9A-Fa-f]{64}$")]
    pub token_hash: Option<String>,
    /// With `user_id`: only tokens whose claim `iat` is before this time, in seconds since 1970. A token without
    /// `iat` always is.
    #[schema(required = false, value_type = u64, example = 1_795_000_000_u64)]
    pub issued_before: Option<u64>,
    /// When the last of these tokens expires, in seconds since 1970; `auth.revocation_age` from now on where it is
    /// not given.
    #[schema(required = false, value_type = u64, example = 1_795_003_600_u64)]
    pub expires_at: Option<u64>,
}

/// Why an order can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct OrderError {
    /// Which part of it.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: Cow<'static, str>,
}

/// Something that is revoked, or was and no longer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Whose tokens, or which one.
    #[serde(flatten)]
    pub whose: Whose,
    /// Of a user's tokens those issued before this time, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<u64>,
    /// Until when it has to be remembered, in Unix seconds.
    pub expires_at: u64,
    /// When it was said.
    pub changed_at: Timestamp,
    /// By which administrator; nobody's name for what came over NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// Whether it was taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lifted: bool,
}

/// Which tokens are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whose {
    /// A user's.
    #[serde(rename = "user_id")]
    User(UserId),
    /// The one of this `jti`.
    #[serde(rename = "token_id")]
    TokenId(String),
    /// The one whose signed part has this SHA-256.
    #[serde(rename = "token_hash")]
    TokenHash(String),
}

/// What an order leaves open.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The time now.
    pub now: Timestamp,
    /// How long something stays revoked where nobody says.
    pub age: Duration,
    /// How long after its `exp` a token is still taken, in seconds.
    pub leeway_secs: u64,
}

impl Order {
    /// What is to be revoked.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn read(self, by: Option<UserId>, terms: Terms) -> Result<Revocation, OrderError> {
        let now = terms.now.as_millis() / 1000;
        let whose = self.whose()?;
        let issued_before = match (&whose, self.issued_before) {
            (Whose::User(_), Some(at)) if at > now + AHEAD => {
                return Err(wrong("issued_before", "it is in the future"));
            }
            (Whose::User(_), Some(at)) => Some(at),
            // `iat` has whole seconds: those of this one are old, too.
            (Whose::User(_), None) => Some(now + 1),
            (_, None) => None,
            (_, Some(_)) => {
                return Err(wrong("issued_before", "it goes with user_id only"));
            }
        };
        let latest = now + LONGEST_AGE.as_secs();
        let expires_at = match self.expires_at {
            None => now.saturating_add(terms.age.as_secs()).min(latest),
            Some(at) if at.saturating_add(terms.leeway_secs) <= now => {
                let problem = "it is over, and the token is refused anyway";
                return Err(wrong("expires_at", problem));
            }
            Some(at) if at > latest => {
                let days = LONGEST_AGE.as_secs() / 86_400;
                let problem =
                    format!("it is more than {days} days away; it is in seconds since 1970");
                return Err(wrong("expires_at", problem));
            }
            Some(at) => at,
        };
        Ok(Revocation {
            whose,
            issued_before,
            expires_at: expires_at.saturating_add(terms.leeway_secs),
            changed_at: terms.now,
            by,
            lifted: false,
        })
    }

    fn whose(&self) -> Result<Whose, OrderError> {
        match (&self.user_id, &self.token_id, &self.token_hash) {
            (Some(user), None, None) => Ok(Whose::User(user.clone())),
            (None, Some(id), None) => {
                let plain = !id.chars().any(char::is_control);
                if !(1..=LONGEST_ID).contains(&id.len()) || !plain {
                    let problem =
                        format!("it has 1 to {LONGEST_ID} bytes, none of them control characters");
                    return Err(wrong("token_id", problem));
                }
                Ok(Whose::TokenId(id.clone()))
            }
            (None, None, Some(hash)) => match Mark::of_sha256(hash) {
                Some(_) => Ok(Whose::TokenHash(hash.to_ascii_lowercase())),
                None => Err(wrong(
                    "token_hash",
                    "it is a SHA-256 of 64 hexadecimal digits, of the token up to its second dot",
                )),
            },
            _ => Err(wrong(
                "user_id",
                "exactly one of user_id, token_id and token_hash says what to revoke",
            )),
        }
    }
}

fn wrong(field: &'static str, problem: impl Into<Cow<'static, str>>) -> OrderError {
    let problem = problem.into();
    OrderError { field, problem }
}

impl Whose {
    /// What it is found by: the same for the same tokens.
    #[must_use]
    pub fn mark(&self) -> Mark {
        match self {
            Self::User(user) => user_mark(user),
            Self::TokenId(id) => token_id(id),
            // That of an order is one; what somebody else has written may not be, and is then nobody's.
            Self::TokenHash(hash) => {
                Mark::of_sha256(hash).unwrap_or_else(|| Mark::of("?", hash.as_bytes()))
            }
        }
    }

    /// What kind of name it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::TokenId(_) => "token_id",
            Self::TokenHash(_) => "token_hash",
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::User(user) => user.to_string(),
            Self::TokenId(name) | Self::TokenHash(name) => name.clone(),
        }
    }
}

/// What a user's tokens are found by.
pub(super) fn user_mark(user: &UserId) -> Mark {
    Mark::of("user", user.to_string().as_bytes())
}

impl Revocation {
    /// Whether it is of use at a time, in Unix seconds.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.expires_at
    }

    /// Whether it revokes a token that it is found by.
    pub(super) fn covers(&self, credential: &Credential, now: u64) -> bool {
        let old = self
            .issued_before
            .is_none_or(|at| credential.issued_at < at);
        old && !self.lifted && !self.is_over(now)
    }

    /// Whether it counts and not the other one, of the same tokens: what was said last does, and of two at
    /// the same time what revokes more.
    #[must_use]
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |one: &Self| {
            let name = one.by.as_ref().map(ToString::to_string);
            (
                one.changed_at,
                !one.lifted,
                one.expires_at,
                one.issued_before,
                name,
            )
        };
        rank(self) > rank(other)
    }

    /// Whether this says all that the other one does, give or take what the clocks of two instances differ
    /// when both hear the same order.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        const SKEW: u64 = 2;
        let within = |own: Option<u64>, asked: Option<u64>| match (own, asked) {
            (Some(own), Some(asked)) => own + SKEW >= asked,
            _ => true,
        };
        !self.lifted
            && !other.lifted
            && self.expires_at + SKEW >= other.expires_at
            && within(self.issued_before, other.issued_before)
    }

    /// What is said on top of what was said before about the same tokens: at least as much is revoked for
    /// at least as long, and it is newer.
    #[must_use]
    pub fn on_top_of(mut self, before: Option<&Self>) -> Self {
        let Some(before) = before else {
            return self;
        };
        if !before.lifted {
            self.expires_at = self.expires_at.max(before.expires_at);
            self.issued_before = self.issued_before.max(before.issued_before);
        }
        self.changed_at = self.changed_at.max(just_after(before.changed_at));
        self
    }

    /// What two instances have said about the same tokens, put together. While neither has taken it back, as
    /// much is revoked for as long as either says, whichever is heard first; otherwise what was said last
    /// counts.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        if self.lifted || other.lifted {
            return if other.outranks(&self) { other } else { self };
        }
        // Not by what they revoke, which is put together: then it would depend on the order.
        let said = |one: &Self| (one.changed_at, one.by.as_ref().map(ToString::to_string));
        let expires_at = self.expires_at.max(other.expires_at);
        let issued_before = self.issued_before.max(other.issued_before);
        let last = if said(&other) > said(&self) {
            other
        } else {
            self
        };
        Self {
            expires_at,
            issued_before,
            ..last
        }
    }

    /// The same, taken back.
    #[must_use]
    pub fn lifted(&self, by: Option<UserId>, now: Timestamp) -> Self {
        Self {
            lifted: true,
            by,
            changed_at: now.max(just_after(self.changed_at)),
            ..self.clone()
        }
    }
}

fn just_after(at: Timestamp) -> Timestamp {
    at.after(Duration::from_millis(1))
}
