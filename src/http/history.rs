//! `/api/messages`: messages that are kept. Writing one makes its event; the history has the same ids as
//! the stream, so that a page which opens the stream first and then reads the history has everything once.

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data, Query};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::credentials::{Authenticated, Publisher};
use super::error::{self, ApiError};
use super::openapi::{ForBody, ForRate, ForTables, ForToken};
use super::outgoing::{IdempotencyKey, IdempotencyKeyHeader};
use super::rate::PublishRate;
use super::stream::chats_of;
use crate::auth::Identity;
use crate::authorize::Authorizer;
use crate::event::decode::Rules;
use crate::event::{Channel, ChatId, Resource};
use crate::membership::Membership;
use crate::messages::{Conversation, Draft, MessageError, Messages};
use crate::source::outbox::Wake;

/// Messages of a page where the client does not say, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 200;

/// What is left in an event for all but the content, in bytes.
const BESIDES: usize = 4_096;

/// The longest name of a sender, in characters.
const MAX_NAME: usize = 200;

/// The longest name of a kind of sender or message, in bytes.
const MAX_KIND: usize = 32;

/// The kind of sender that anyone may be.
const USER: &str = "user";

/// What a message can have.
const FIELDS: [&str; 6] = [
    "sessionId",
    "chatId",
    "content",
    "senderType",
    "senderName",
    "messageType",
];

/// Which part of which history.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// The session whose history it is; either this or `chatId`. Other letters are good, too.
    #[serde(rename = "sessionId")]
    #[param(required = false, value_type = String, pattern = "^[A-Za-z0-9._~-]{1,100}$", example = "s-1")]
    session: Option<String>,
    /// The chat whose history it is.
    #[serde(rename = "chatId")]
    #[param(required = false, value_type = i64)]
    chat: Option<String>,
    /// The most messages of the page.
    #[param(required = false, value_type = u64, minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// The id of a message, behind which the page begins: what `next` was.
    #[param(required = false, value_type = String)]
    before: Option<String>,
}

#[derive(Serialize)]
struct Success<T> {
    success: bool,
    data: T,
}

#[derive(Serialize)]
struct History<'a> {
    messages: Vec<&'a RawValue>,
    /// What `before` has to be for the next page; `null` where there is none.
    next: Option<String>,
}

/// A message as a client writes it: for a session, a chat, or both.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({"sessionId": "s-1", "content": "hello", "senderName": "Ann"}))]
#[allow(dead_code, reason = "only its description is used")]
pub(super) struct NewMessage {
    #[schema(value_type = String, required = false, pattern = "^[A-Za-z0-9._~-]{1,100}$")]
    session_id: String,
    #[schema(value_type = i64, required = false)]
    chat_id: i64,
    #[schema(min_length = 1)]
    content: String,
    /// `user`, unless the token may publish to the chat or session.
    #[schema(value_type = String, required = false, default = "user", pattern = "^[A-Za-z0-9_.-]{1,32}$")]
    sender_type: String,
    #[schema(value_type = String, required = false, max_length = 200)]
    sender_name: String,
    /// `text`, `image`, `audio`, `video`, `file`, or another.
    #[schema(value_type = String, required = false, default = "text", pattern = "^[A-Za-z0-9_.-]{1,32}$")]
    message_type: String,
}

/// A message that is kept. What it does not have is left out.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its description is used")]
pub(super) struct KeptMessage {
    /// The same as `data.id` of its event.
    id: String,
    #[schema(value_type = String, required = false)]
    session_id: String,
    #[schema(value_type = i64, required = false)]
    chat_id: i64,
    content: String,
    sender_type: String,
    #[schema(value_type = String, required = false)]
    sender_id: String,
    #[schema(value_type = String, required = false)]
    sender_name: String,
    message_type: String,
    created_at: String,
}

/// The answer to a message.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used")]
struct WrittenMessage {
    success: bool,
    data: KeptMessage,
}

/// The answer with a page.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used")]
struct HistoryAnswer {
    success: bool,
    data: HistoryPage,
}

/// A part of a history.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used")]
struct HistoryPage {
    /// The newest first.
    messages: Vec<KeptMessage>,
    /// What `before` has to be for the next page; `null` where there is none.
    #[schema(required = true)]
    next: Option<String>,
}

/// Write a message
///
/// To a session, which takes a pattern of `notify.publish`, or to a chat, which takes that or being in it. The same
/// `Idempotency-Key` gives the same message.
#[utoipa::path(
    post,
    path = "/api/messages",
    operation_id = "write_message",
    tag = "Messages",
    params(IdempotencyKeyHeader),
    request_body(content = NewMessage, content_type = "application/json", description = "The media type does not matter."),
    responses(
        (status = 201, description = "It is kept, and its event is on its way.", body = WrittenMessage,
            example = json!({"success": true, "data": {"id": "7f1d3c52-3a0b-4c39-9a5a-0d5f3f0b6c11", "sessionId": "s-1", "content": "hello", "senderType": "user", "senderId": "2", "messageType": "text", "createdAt": "2026-02-10T03:47:37.931918+00:00"}})),
        ForToken, ForBody, ForRate, ForTables,
    ),
)]
pub(super) async fn write(
    Publisher(identity): Publisher,
    key: IdempotencyKey,
    body: Result<Bytes, actix_web::Error>,
    (messages, membership, wake): (Data<Messages>, Data<Membership>, Data<Wake>),
    (rules, rate): (Data<Rules>, Data<PublishRate>),
) -> Result<HttpResponse, ApiError> {
    let body = body.map_err(|error| error::body(&error, super::max_body(&rules)))?;
    rate.take(&identity.user, 1)?;
    let draft = draft(&rules, &identity, &body, &key)?;
    may_write(&identity, &draft, &membership).await?;
    let written = messages.write(draft).await?;
    // Where nothing else says so.
    wake.wake();
    Ok(HttpResponse::Created().json(Success {
        success: true,
        data: raw(&written)?,
    }))
}

/// Read a history
///
/// Page by page, the newest first. Who opens the stream first and then reads the history has everything once, by id.
#[utoipa::path(
    get,
    path = "/api/messages",
    operation_id = "read_messages",
    tag = "Messages",
    params(Parameters),
    responses(
        (status = 200, description = "A page of the history.", body = HistoryAnswer,
            example = json!({"success": true, "data": {"messages": [{"id": "m-1", "chatId": 5, "content": "hello", "senderType": "user", "senderId": "2", "senderName": "Ann", "messageType": "text", "createdAt": "2026-02-10T03:47:37.931918+00:00"}], "next": null}})),
        ForToken, ForTables,
    ),
)]
pub(super) async fn read(
    Authenticated(identity): Authenticated,
    parameters: Query<Parameters>,
    messages: Data<Messages>,
    (membership, authorizer): (Data<Membership>, Data<Authorizer>),
) -> Result<HttpResponse, ApiError> {
    let Parameters {
        session,
        chat,
        limit,
        before,
    } = parameters.into_inner();
    let limit = limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        let problem = format!("a page has 1 to {LARGEST_PAGE} messages");
        return Err(wrong("limit", problem));
    }
    let (channel, conversation) = match (session, chat) {
        (Some(session), None) => {
            let channel = session_channel(&session)?;
            (channel, Conversation::Session(session))
        }
        (None, Some(chat)) => {
            let chat = chat.parse().ok();
            let chat = chat.ok_or_else(|| wrong("chatId", "it is a whole number"))?;
            (Channel::chat(&ChatId::from(chat)), Conversation::Chat(chat))
        }
        _ => {
            return Err(wrong(
                "sessionId",
                "either sessionId or chatId says whose history",
            ));
        }
    };
    if before
        .as_deref()
        .is_some_and(|before| before.contains('\0'))
    {
        return Err(wrong("before", "no message has an id with U+0000"));
    }
    may_read(&identity, &channel, &membership, &authorizer).await?;
    let page = messages.page(conversation, before, limit).await?;
    let listed: Result<Vec<&RawValue>, ApiError> =
        page.messages.iter().map(|message| raw(message)).collect();
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "no-store"))
        .json(Success {
            success: true,
            data: History {
                messages: listed?,
                next: page.next,
            },
        }))
}

/// Reads a message as a client sends it.
fn draft(
    rules: &Rules,
    identity: &Identity,
    body: &[u8],
    key: &IdempotencyKey,
) -> Result<Draft, ApiError> {
    let members: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| wrong("body", error.to_string()))?;
    let unknown = members.keys().find(|name| !FIELDS.contains(&name.as_str()));
    if let Some(name) = unknown {
        let problem = format!("a message has {}", FIELDS.join(", "));
        return Err(wrong(name.clone(), problem));
    }
    let session = id(&members, "sessionId")?;
    if let Some(session) = &session {
        session_channel(session)?;
    }
    let chat = id(&members, "chatId")?.map(|chat| chat.parse::<i64>());
    let chat = chat
        .transpose()
        .map_err(|_| wrong("chatId", "it is a whole number"))?;
    if session.is_none() && chat.is_none() {
        return Err(wrong(
            "sessionId",
            "sessionId or chatId says where the message belongs",
        ));
    }
    let content = text(&members, "content")?.unwrap_or_default();
    if content.trim().is_empty() {
        return Err(wrong("content", "it is missing, or empty"));
    }
    let limit = rules.max_payload.saturating_sub(BESIDES);
    // As JSON, which is what clients get.
    let size = Value::from(content.as_str()).to_string().len();
    if size > limit {
        return Err(wrong(
            "content",
            format!("it has {size} bytes, of at most {limit}"),
        ));
    }
    let sender_name = text(&members, "senderName")?;
    if sender_name
        .as_ref()
        .is_some_and(|name| name.chars().count() > MAX_NAME)
    {
        return Err(wrong(
            "senderName",
            format!("it has at most {MAX_NAME} characters"),
        ));
    }
    Ok(Draft {
        session,
        chat,
        content,
        sender_type: kind(&members, "senderType", USER)?,
        sender: identity.user.clone(),
        sender_name,
        message_type: kind(&members, "messageType", "text")?,
        key: key.text().map(str::to_owned),
    })
}

/// Sessions take permission, chats permission or membership, and to be anything but a user takes
/// permission, too.
async fn may_write(
    identity: &Identity,
    draft: &Draft,
    membership: &Membership,
) -> Result<(), ApiError> {
    let allowed = |channel: &Channel| identity.grant.may_publish(channel);
    if let Some(session) = &draft.session {
        let channel = session_channel(session)?;
        if !allowed(&channel) {
            return Err(ApiError::not_writable(&channel.to_string()));
        }
    }
    if let Some(chat) = draft.chat {
        let chat = ChatId::from(chat);
        let channel = Channel::chat(&chat);
        if !allowed(&channel) {
            if !chats_of(identity, membership).await?.contains(&chat) {
                return Err(ApiError::not_writable(&channel.to_string()));
            }
            if draft.sender_type != USER {
                let why = "a senderType other than user takes the claim notify.publish";
                return Err(ApiError::Forbidden(why.into()));
            }
        }
    }
    Ok(())
}

async fn may_read(
    identity: &Identity,
    channel: &Channel,
    membership: &Membership,
    authorizer: &Authorizer,
) -> Result<(), ApiError> {
    if identity.may_subscribe(channel) || authorizer.may_subscribe(&identity.user, channel).await {
        return Ok(());
    }
    if *channel.resource() == Resource::Chat {
        let chats = chats_of(identity, membership).await?;
        if chats.iter().any(|chat| Channel::chat(chat) == *channel) {
            return Ok(());
        }
    }
    Err(ApiError::not_readable(&channel.to_string()))
}

/// The channel of a session.
pub(super) fn session_channel(session: &str) -> Result<Channel, ApiError> {
    Channel::parse(&format!("session:{session}"))
        .map_err(|error| wrong("sessionId", error.to_string()))
}

/// An id, which is text or a whole number.
fn id(members: &Map<String, Value>, field: &'static str) -> Result<Option<String>, ApiError> {
    match members.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id.clone())),
        Some(Value::Number(id)) if !id.is_f64() => Ok(Some(id.to_string())),
        Some(_) => Err(wrong(field, "it is a text or a whole number")),
    }
}

fn text(members: &Map<String, Value>, field: &'static str) -> Result<Option<String>, ApiError> {
    match members.get(field) {
        None | Some(Value::Null) => Ok(None),
        // Which PostgreSQL can't keep.
        Some(Value::String(text)) if text.contains('\0') => {
            Err(wrong(field, "it can't contain the character U+0000"))
        }
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(field, "it is a text")),
    }
}

/// A name of a kind, of which there may be others than this server knows.
fn kind(
    members: &Map<String, Value>,
    field: &'static str,
    usual: &str,
) -> Result<String, ApiError> {
    let Some(kind) = text(members, field)? else {
        return Ok(usual.to_owned());
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if kind.is_empty() || kind.len() > MAX_KIND || !kind.bytes().all(plain) {
        let problem =
            format!("it has 1 to {MAX_KIND} letters, digits or any of _ - ., e.g. {usual}");
        return Err(wrong(field, problem));
    }
    Ok(kind)
}

/// What the database has given as JSON.
fn raw(json: &str) -> Result<&RawValue, ApiError> {
    serde_json::from_str(json).map_err(|error| ApiError::Internal(error.into()))
}

fn wrong(field: impl Into<std::borrow::Cow<'static, str>>, problem: impl Into<String>) -> ApiError {
    ApiError::Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

impl From<MessageError> for ApiError {
    fn from(error: MessageError) -> Self {
        let says = error.to_string();
        match error {
            MessageError::NotInstalled(_) => Self::NotInstalled(error),
            MessageError::NoChat => wrong("chatId", says),
            MessageError::KeyTaken => wrong("Idempotency-Key", says),
            MessageError::NoSuchMessage => wrong("before", says),
            MessageError::Database(error) => Self::Database(error),
        }
    }
}
