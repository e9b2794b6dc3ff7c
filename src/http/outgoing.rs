//! A message on its way to the bus: checked, allowed, with an id.

use actix_web::dev::Payload;
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::future::{Ready, ready};
use utoipa::IntoParams;
use uuid::Uuid;

use super::error::ApiError;
use crate::auth::Identity;
use crate::event::decode::{Decoded, Rejection, Rules, decode};
use crate::event::{Channel, Recipients, Timestamp, UserId, subject};

/// The longest message id and idempotency key, in characters.
const MAX_ID: usize = 200;

/// The last token of the subject of push messages, whose targets can be many.
const PUSH: &str = "push";

/// The last token of the subject of broadcasts.
const BROADCAST: &str = "broadcast";

/// What only the server says on a stream.
const RESERVED: [&str; 6] = [
    "connection_confirmed",
    "ping",
    "gap",
    "caught_up",
    "token_expiring",
    "closing",
];

/// The `Idempotency-Key` header: what makes two requests one.
#[derive(Debug, Clone)]
pub(super) struct IdempotencyKey(Option<String>);

/// Describes [`IdempotencyKey`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) struct IdempotencyKeyHeader {
    /// Two requests of a user with the same one are one, within two minutes: the second gets the first's answer.
    #[param(rename = "Idempotency-Key", value_type = String, required = false, min_length = 1, max_length = 200, pattern = "^[ -~]+$", example = "invoice-17-paid")]
    key: Option<String>,
}

/// A message that can be published.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Its own id, given or made.
    pub(super) id: String,
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// What the bus recognises the same message by.
    pub(super) deduplicated_by: String,
    /// The users that it is for by name.
    pub(super) users: Vec<UserId>,
    /// By whom it asks to be acknowledged, if it does.
    pub(super) asks: Option<Asks>,
    /// Whether it waits for those of its users who are away, and if so, until when.
    pub(super) waits: Option<Option<Timestamp>>,
}

/// By whom a message asks to be acknowledged.
#[derive(Debug)]
pub(super) struct Asks {
    /// The channels that it is for; none for everybody.
    pub(super) channels: Vec<Channel>,
    /// Whether by each device of theirs.
    pub(super) per_device: bool,
}

impl FromRequest for IdempotencyKey {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let header = request.headers().get("idempotency-key");
        ready(match header.map(|value| value.to_str()) {
            None => Ok(Self(None)),
            Some(Ok(key)) if (1..=MAX_ID).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            Some(_) => Err(ApiError::Invalid {
                field: "Idempotency-Key".into(),
                problem: format!("it has 1 to {MAX_ID} printable ASCII characters"),
            }),
        })
    }
}

impl IdempotencyKey {
    /// The key, if there is one.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The key of one message of a batch.
    pub(super) fn of_item(&self, index: usize) -> Self {
        Self(self.0.as_ref().map(|key| format!("{key}[{index}]")))
    }
}

impl Outgoing {
    /// A push message or channel event. `path` is where it stands in the body.
    pub(super) fn addressed(
        rules: &Rules,
        identity: &Identity,
        message: &RawValue,
        path: &str,
        key: &IdempotencyKey,
    ) -> Result<Self, ApiError> {
        let draft = Draft::read(message, path, identity, key)?;
        let addressed = ["channel", "target", "service"];
        if !addressed.iter().any(|name| draft.has(name)) {
            return Err(draft.wrong(
                "target",
                "a message has a channel, a target or a service that says whom it is for",
            ));
        }
        draft.finish(rules, identity, PUSH)
    }

    /// A message for everybody.
    pub(super) fn to_everybody(
        rules: &Rules,
        identity: &Identity,
        message: &RawValue,
        key: &IdempotencyKey,
    ) -> Result<Self, ApiError> {
        let mut draft = Draft::read(message, "", identity, key)?;
        // A service may say who it is; it is not only for those who listen on it.
        for name in ["channel", "target"] {
            if draft.has(name) {
                return Err(draft.wrong(name, "a broadcast is for everybody"));
            }
        }
        draft.add("broadcast", &Value::Bool(true));
        draft.finish(rules, identity, BROADCAST)
    }
}

/// A message in the making: the text as it came, with what is added before it.
struct Draft<'a> {
    path: &'a str,
    members: Map<String, Value>,
    id: String,
    deduplicated_by: String,
    added: String,
    text: &'a str,
}

impl<'a> Draft<'a> {
    fn read(
        message: &'a RawValue,
        path: &'a str,
        identity: &Identity,
        key: &IdempotencyKey,
    ) -> Result<Self, ApiError> {
        let members: Map<String, Value> =
            serde_json::from_str(message.get()).map_err(|error| at(path, "", error.to_string()))?;
        let Some(kind) = members.get("type").and_then(Value::as_str) else {
            return Err(at(path, "type", "it is missing, or no text".to_owned()));
        };
        if RESERVED.contains(&kind) {
            let problem = "it is what the server itself says on streams".to_owned();
            return Err(at(path, "type", problem));
        }
        let given = match members.get("id") {
            None => None,
            Some(Value::String(id)) if is_usable(id) => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            Some(_) => {
                let problem = format!("an id has 1 to {MAX_ID} characters, none of them control");
                return Err(at(path, "id", problem));
            }
        };
        // Somebody else's key, or id, is not the same because it looks the same.
        let own = |text: &str| {
            let name = format!("{}\n{text}", identity.user);
            Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
        };
        let deduplicated_by = match (&key.0, &given) {
            (Some(key), _) => own(&format!("key\n{key}")),
            (None, Some(id)) => own(&format!("id\n{id}")),
            (None, None) => Uuid::new_v4().to_string(),
        };
        let mut draft = Self {
            path,
            // The same request gets the same id.
            id: given.clone().unwrap_or_else(|| deduplicated_by.clone()),
            members,
            deduplicated_by,
            added: String::new(),
            text: message.get(),
        };
        if given.is_none() {
            let id = Value::String(draft.id.clone());
            draft.add("id", &id);
        }
        if !draft.members.contains_key("timestamp") {
            let now = Value::String(Timestamp::now().to_string());
            draft.add("timestamp", &now);
        }
        Ok(draft)
    }

    fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| !value.is_null())
    }

    /// Adds a member; of two with the same name the last counts, which is the message's own where
    /// that is not null.
    fn add(&mut self, name: &str, value: &Value) {
        self.members.remove(name);
        self.added.push_str(&format!("\"{name}\":{value},"));
    }

    fn wrong(&self, field: &str, problem: &str) -> ApiError {
        at(self.path, field, problem.to_owned())
    }

    fn finish(
        self,
        rules: &Rules,
        identity: &Identity,
        subject: &str,
    ) -> Result<Outgoing, ApiError> {
        let rest = self.text[1..].trim_start();
        let payload = format!("{{{}{rest}", self.added);
        let prefix = &rules.channel_prefix;
        let subject = format!("{prefix}.{subject}");
        let now = Timestamp::now();
        let decoded = decode(rules, &subject, payload.as_bytes(), now)
            .map_err(|rejection| rejected(self.path, rejection))?;
        // What the chat backend says of its chats is not for clients to say: it moves people in and out.
        let realtime = self.members.get("type").and_then(Value::as_str) != Some(&decoded.kind);
        if realtime || decoded.membership.is_some() {
            return Err(self.wrong("type", "it is one of the chat backend's own, for NATS only"));
        }
        permit(identity, &decoded)?;
        let subject = match &decoded.audience.to {
            Recipients::Channels(channels) if channels.len() == 1 && self.has("channel") => {
                format!("{prefix}.{}", subject::tokens_of(&channels[0]))
            }
            _ => subject,
        };
        let users = decoded.audience.users();
        let durable = match self.members.get("durable") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err(self.wrong("durable", "it is true or false")),
        };
        if durable && (!decoded.waits || users.is_empty()) {
            let problem = "only a message that names a user, by target.user_id or the channel user:…, and is \
                           not of low priority, can wait for who is away";
            return Err(self.wrong("durable", problem));
        }
        Ok(Outgoing {
            users,
            asks: self.asks(&decoded)?,
            waits: decoded.waits.then_some(decoded.expires_at),
            id: self.id,
            subject,
            payload: payload.into(),
            deduplicated_by: self.deduplicated_by,
        })
    }
}

impl Draft<'_> {
    fn asks(&self, decoded: &Decoded) -> Result<Option<Asks>, ApiError> {
        let per_device = match self.members.get("ack") {
            None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
            Some(Value::Bool(true)) => false,
            Some(Value::String(whom)) if whom == "device" => true,
            Some(_) => return Err(self.wrong("ack", "it is true, false or \"device\"")),
        };
        Ok(Some(Asks {
            channels: match &decoded.audience.to {
                Recipients::Channels(channels) => channels.clone(),
                Recipients::Everybody | Recipients::SharingChatWith(_) => Vec::new(),
            },
            per_device,
        }))
    }
}

/// Whether the token may publish to whom the message is for.
fn permit(identity: &Identity, decoded: &Decoded) -> Result<(), ApiError> {
    let grant = &identity.grant;
    match &decoded.audience.to {
        Recipients::Channels(channels) => {
            let forbidden = channels.iter().find(|channel| !grant.may_publish(channel));
            forbidden.map_or(Ok(()), |channel| {
                Err(ApiError::not_writable(&channel.to_string()))
            })
        }
        Recipients::Everybody | Recipients::SharingChatWith(_) => {
            if grant.may_publish_everything() {
                Ok(())
            } else {
                Err(ApiError::not_writable("everybody"))
            }
        }
    }
}

fn rejected(path: &str, rejection: Rejection) -> ApiError {
    match &rejection {
        Rejection::Malformed { field, problem, .. } => at(path, field, problem.clone()),
        Rejection::TooLarge { .. } => ApiError::Rejected(rejection),
        Rejection::NotJson(_) | Rejection::NoAudience => at(path, "", rejection.to_string()),
    }
}

/// What is wrong at a place of the body.
fn at(path: &str, field: &str, problem: String) -> ApiError {
    let field = match (path, field) {
        ("", "") => "body".to_owned(),
        ("", field) => field.to_owned(),
        (path, "") => path.to_owned(),
        (path, field) => format!("{path}.{field}"),
    };
    ApiError::Invalid {
        field: field.into(),
        problem,
    }
}

fn is_usable(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.chars().count()) && !id.chars().any(char::is_control)
}

/// A body that a client wants to publish: what goes out is an event of an id and a subject that NATS takes; a
/// refusal names a field.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(message) = serde_json::from_str::<&RawValue>(text) else {
        return;
    };
    if !message.get().starts_with('{') {
        return;
    }
    let rules = Rules::default();
    let identity = Identity::unverified(UserId::from(7));
    let key = IdempotencyKey(None);
    for made in [
        Outgoing::addressed(&rules, &identity, message, "messages[3]", &key),
        Outgoing::to_everybody(&rules, &identity, message, &key),
    ] {
        match made {
            Ok(made) => {
                assert!(
                    crate::bus::subject::check_publish(&made.subject).is_ok(),
                    "{}",
                    made.subject
                );
                assert!(!made.deduplicated_by.is_empty() && is_usable(&made.id));
                let now = Timestamp::now();
                let decoded = decode(&rules, &made.subject, &made.payload, now);
                assert!(decoded.is_ok(), "{decoded:?}");
                assert!(decoded.is_ok_and(|decoded| decoded.membership.is_none()));
            }
            Err(error) => {
                assert!(error.status().is_client_error(), "{error}");
                let field = error.field().unwrap_or_default();
                assert!(!field.is_empty() && field.len() < 2_000, "{field}");
            }
        }
    }
}
