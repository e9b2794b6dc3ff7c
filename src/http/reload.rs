//! `POST /api/v1/reload`: this instance's configuration read again, as a signal has it read. For tokens with
//! the claim `notify.admin`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::credentials::Admin;
use super::error::ApiError;
use super::openapi::{ForBody, ForToken};
use crate::peers::Peers;

/// Has the configuration read again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<oneshot::Sender<Reloaded>>);

/// Those who have asked for it, and wait.
pub type Asked = mpsc::Receiver<oneshot::Sender<Reloaded>>;

/// What has come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// It is as it says now, but for what needs a restart.
    Done {
        /// The keys that have changed and are in force.
        changed: Vec<String>,
        /// The keys that differ from what the server was started with.
        restart_needed: Vec<String>,
    },
    /// It can't be used, and nothing has changed. Why, secrets masked.
    Refused(String),
}

/// What is in force now.
#[derive(Serialize, ToSchema)]
struct InForce {
    /// The keys that have changed and are in force; those of files whose content has changed, too.
    changed: Vec<String>,
    /// The keys that differ from what this instance was started with, and count when it is started again.
    restart_needed: Vec<String>,
    /// Which instance that is; the others have to be asked, too.
    instance: String,
}

impl Reloads {
    /// Those who ask, and who is asked.
    #[must_use]
    pub fn new() -> (Self, Asked) {
        let (sender, asked) = mpsc::channel(1);
        (Self(sender), asked)
    }

    async fn ask(&self) -> Option<Reloaded> {
        let (sender, answer) = oneshot::channel();
        // Somebody else waits already.
        self.0.try_send(sender).ok()?;
        answer.await.ok()
    }
}

/// Read the configuration again
///
/// Of the instance that answers, as SIGHUP and a changed file have it read. A configuration that can't be used changes
/// nothing.
#[utoipa::path(
    post,
    path = "/api/v1/reload",
    operation_id = "reload",
    tag = "Operations",
    responses(
        (status = 200, description = "It is in force.", body = InForce,
            example = json!({"changed": ["logging.level"], "restart_needed": ["server.port"], "instance": "notify-0"})),
        ForToken, ForBody,
    ),
)]
pub(super) async fn reload(
    _: Admin,
    reloads: Data<Reloads>,
    peers: Data<Peers>,
) -> Result<HttpResponse, ApiError> {
    match reloads.ask().await.ok_or(ApiError::Busy)? {
        Reloaded::Done {
            changed,
            restart_needed,
        } => Ok(HttpResponse::Ok().json(InForce {
            changed,
            restart_needed,
            instance: peers.instance().to_owned(),
        })),
        Reloaded::Refused(problem) => Err(ApiError::Invalid {
            field: "configuration".into(),
            problem,
        }),
    }
}
