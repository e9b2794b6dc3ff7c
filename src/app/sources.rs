//! The tasks that publish what comes from the database.

use tokio::sync::mpsc;

use super::{BuildError, Tasks};
use crate::bus::Bus;
use crate::config::Config;
use crate::database::Database;
use crate::event::decode::Rules;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::refresh::Refresh;
use crate::source::notify::{Missed, Notifications, NotifyTask};
use crate::source::outbox::{OutboxTask, Wake};

/// What is published from the database.
pub(super) struct Sources<'a> {
    pub(super) database: &'a Database,
    pub(super) bus: &'a Bus,
    pub(super) rules: &'a Rules,
    pub(super) wake: &'a Wake,
}

impl Sources<'_> {
    pub(super) fn spawn(
        &self,
        config: &Config,
        metrics: &Metrics,
        hub: &Hub,
        refresh: Refresh,
        tasks: &mut Tasks,
    ) -> Result<Notifications, BuildError> {
        let (notifications, listen, publish, missed) = NotifyTask::new(
            self.database.clone(),
            self.bus.clone(),
            self.rules.clone(),
            config.source.names()?,
            self.wake.clone(),
            metrics.notify.clone(),
        );
        tasks.spawn("the listening task", listen.run());
        tasks.spawn("the notifications task", publish.run());
        tasks.spawn("the task for gaps", tell(missed, hub.clone(), refresh));
        if config.source.outbox {
            let outbox = OutboxTask::new(
                self.database.clone(),
                self.bus.clone(),
                self.rules.clone(),
                &config.source,
                (self.wake.clone(), notifications.clone()),
                metrics.outbox.clone(),
            );
            tasks.spawn("the outbox task", outbox.run());
        }
        Ok(notifications)
    }
}

/// Tells sessions what was missed. Among what concerns everybody may have been joins and leaves.
async fn tell(mut missed: mpsc::Receiver<Missed>, hub: Hub, refresh: Refresh) {
    while let Some(missed) = missed.recv().await {
        if missed.everybody {
            hub.missed(None).await;
            refresh.request();
        } else {
            hub.missed(Some(missed.resources)).await;
        }
    }
}
