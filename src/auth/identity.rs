//! Whom a verified token speaks for and what it allows. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::credential::{Credential, Mark};
use crate::event::{Channel, Id, Resource, UserId};

/// Who a client is, as its token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// What the token allows besides the user's own channels and chats.
    pub grant: Grant,
    /// The token's `exp`, in Unix seconds; `None` without authentication.
    pub expires_at: Option<u64>,
    /// Which token it was; `None` without authentication.
    #[serde(default)]
    pub credential: Option<Credential>,
}

/// The optional claim `notify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Channel patterns that may be listened on.
    pub subscribe: Vec<String>,
    /// Channel patterns that may be published to.
    pub publish: Vec<String>,
    /// Whether connections may be listed and ended.
    pub admin: bool,
}

/// Whether a pattern of a grant covers a channel: `*` covers every one, `job:*` those that begin with
/// `job:`, and anything else the channel of that very name.
fn covers(pattern: &str, channel: &Channel) -> bool {
    let name = channel.to_string();
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => prefix.ends_with(':') && name.starts_with(prefix),
        None => name == pattern,
    }
}

/// Why claims name no user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("it names no user in any of the claims {0}")]
    NoUser(String),
    #[error("its claim {0} is not a user id")]
    User(String),
    #[error("its claim notify is not of the form {{subscribe: […], publish: […], admin: …}}")]
    Grant,
}

impl Grant {
    /// Whether anything may be published anywhere.
    #[must_use]
    pub fn may_publish_everything(&self) -> bool {
        self.admin || self.publish.iter().any(|pattern| pattern == "*")
    }

    /// Whether the channel may be published to.
    #[must_use]
    pub fn may_publish(&self, channel: &Channel) -> bool {
        self.admin || self.publish.iter().any(|pattern| covers(pattern, channel))
    }
}

impl Identity {
    /// Reads the claims of a verified token.
    pub(super) fn from_claims(
        claims: &Map<String, Value>,
        user_paths: &[String],
    ) -> Result<Self, ClaimError> {
        let (path, value) = user_paths
            .iter()
            .find_map(|path| at(claims, path).map(|value| (path, value)))
            .ok_or_else(|| ClaimError::NoUser(user_paths.join(", ")))?;
        let user = Id::deserialize(value).map_err(|_| ClaimError::User(path.clone()))?;
        let grant = match claims.get("notify") {
            None | Some(Value::Null) => Grant::default(),
            Some(grant) => Grant::deserialize(grant).map_err(|_| ClaimError::Grant)?,
        };
        Ok(Self {
            user: UserId::from(user),
            grant,
            expires_at: claims.get("exp").and_then(seconds),
            credential: None,
        })
    }

    /// The same, with the token that it was read from and the key that has signed that.
    pub(super) fn by(self, token: &str, claims: &Map<String, Value>, key: Mark) -> Self {
        let id = claims.get("jti").and_then(Value::as_str);
        Self {
            credential: Some(Credential {
                key,
                id: id.map(token_id),
                hash: Mark::of_token(token),
                issued_at: claims.get("iat").and_then(seconds).unwrap_or(0),
            }),
            ..self
        }
    }

    /// Whether the token allows listening on the channel, whatever chats its user is in: by a pattern, or
    /// because it is the user's own.
    #[must_use]
    pub fn may_subscribe(&self, channel: &Channel) -> bool {
        let patterns = &self.grant.subscribe;
        self.owns(channel) || patterns.iter().any(|pattern| covers(pattern, channel))
    }

    /// Whether the channel is `user:{id}` of the user, or one below.
    fn owns(&self, channel: &Channel) -> bool {
        if *channel.resource() != Resource::User {
            return false;
        }
        let (id, own) = (channel.id().to_string(), self.user.to_string());
        let below = id.strip_prefix(&own);
        below.is_some_and(|below| below.is_empty() || below.starts_with(':'))
    }

    /// An identity that no token vouches for, on a server that only its own machine can reach.
    #[must_use]
    pub fn unverified(user: UserId) -> Self {
        Self {
            user,
            grant: Grant {
                subscribe: vec!["*".to_owned()],
                publish: vec!["*".to_owned()],
                ..Grant::default()
            },
            expires_at: None,
            credential: None,
        }
    }
}

/// The mark of a claim `jti`.
pub(super) fn token_id(jti: &str) -> Mark {
    Mark::of("jti", jti.as_bytes())
}

/// The value at a path such as `user.id`. A claim whose name has dots, as URLs do, is found by
/// its whole name first.
fn at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let found = claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        at(claims.get(first)?.as_object()?, rest)
    });
    found.filter(|value| !value.is_null())
}

fn seconds(exp: &Value) -> Option<u64> {
    exp.as_u64()
        .or_else(|| exp.as_f64().map(|seconds| seconds.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(claims: Value) -> Result<Identity, ClaimError> {
        let paths = ["user.id", "user_id", "id", "sub"].map(str::to_owned);
        Identity::from_claims(claims.as_object().unwrap(), &paths)
    }

    #[test]
    fn the_first_claim_path_that_exists_names_the_user() {
        let cases = [
            (json!({"user": {"id": 7}, "sub": "9"}), UserId::from(7)),
            (
                json!({"user": {"name": "x"}, "user_id": "8"}),
                UserId::from(8),
            ),
            (json!({"user_id": null, "id": 4}), UserId::from(4)),
            (json!({"sub": "abc"}), UserId::parse("abc").unwrap()),
            (json!({"user.id": 3}), UserId::from(3)),
        ];
        for (claims, user) in cases {
            assert_eq!(read(claims.clone()).unwrap().user, user, "{claims}");
        }
    }

    #[test]
    fn claims_without_a_usable_user_are_refused() {
        let no_user = read(json!({"name": "x"})).unwrap_err();
        assert!(no_user.to_string().contains("user.id, user_id, id, sub"));
        for user in [json!("a:b"), json!(""), json!([1]), json!(true)] {
            let refused = read(json!({"id": user})).unwrap_err();
            assert_eq!(refused, ClaimError::User("id".to_owned()));
        }
    }

    #[test]
    fn patterns_cover_what_they_begin() {
        let cases = [
            ("*", "job:1", true),
            ("job:*", "job:1", true),
            ("job:*", "job:1:log", true),
            ("job:*", "jobs:1", false),
            ("user:456:*", "user:456:notes", true),
            ("user:456:*", "user:456", false),
            ("user:456:*", "user:4567:notes", false),
            ("job:1", "job:1", true),
            ("job:1", "job:12", false),
            ("jo*", "job:1", false),
            ("", "job:1", false),
        ];
        for (pattern, channel, expected) in cases {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(covers(pattern, &channel), expected, "{pattern} {channel}");
        }
    }

    #[test]
    fn ones_own_channels_can_be_read() {
        let identity = read(json!({"sub": "45"})).unwrap();
        for (channel, expected) in [
            ("user:45", true),
            ("user:45:notes", true),
            ("user:456", false),
            ("user:4", false),
            ("chat:45", false),
        ] {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(identity.may_subscribe(&channel), expected, "{channel}");
        }
    }

    #[test]
    fn the_grant_is_read_or_refused() {
        let claims = json!({"sub": "1", "exp": 5.4,
            "notify": {"publish": ["*"], "subscribe": ["job:*"]}});
        let identity = read(claims).unwrap();
        assert!(identity.grant.may_publish_everything());
        assert!(!identity.grant.admin);
        assert_eq!(identity.expires_at, Some(5));
        let refused = read(json!({"sub": "1", "notify": {"admin": "yes"}}));
        assert_eq!(refused, Err(ClaimError::Grant));
    }
}
