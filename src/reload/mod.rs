//! Change without restart: the configuration is read again at SIGHUP, when a file has changed, and when an
//! administrator asks for it.
//!
//! What is read is checked as at the start, and everything that can fail is made from it, before anything is put
//! in place. What can't be put in place is said. `apply.rs` has what can; `metrics.rs` what is counted.

mod apply;
mod metrics;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info, warn};

pub use apply::{Parts, SetLimits};
pub use metrics::Metrics;

use crate::auth::KeyConfig;
use crate::config::{Config, ConfigError, Reading};
use crate::event::Timestamp;
use crate::http::{Asked, Configuration, Health, Reloaded};
use crate::telemetry::Levels;
use crate::watch::Glance;
use apply::{Prepared, in_force};

/// A file that changes is read when it has not changed for so long, or after so many looks: by then whoever
/// writes it is likely to be done.
const SETTLED: Duration = Duration::from_millis(100);
const LOOKS: u32 = 50;

/// Where the configuration comes from.
pub struct Origin {
    /// Reads and checks it.
    pub read: Arc<dyn Fn() -> Result<Reading, ConfigError> + Send + Sync>,
    /// The file, to see when it changes.
    pub file: PathBuf,
    /// What its files were like when it was read first.
    pub seen: Glance,
    /// The signals that ask for it to be read; taken once.
    pub hangups: Option<Signal>,
    /// What is logged.
    pub levels: Levels,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({})", self.file.display())
    }
}

/// Reads the configuration again when it is told to.
#[derive(Debug)]
pub struct ReloadTask {
    origin: Origin,
    /// What the server was started with, and what it was given last.
    started: Reading,
    current: Reading,
    /// The keys in force, as they were configured.
    keys: Vec<KeyConfig>,
    parts: Parts,
    asked: Asked,
    health: Health,
    metrics: Metrics,
    /// Why it could not be read last, if it could not.
    refused: Option<String>,
}

/// What the files of a configuration are like now.
#[must_use]
pub fn glance(config: &Config, file: &Path) -> Glance {
    let mut files = config.watched_files();
    files.push(file.to_owned());
    Glance::at(files)
}

impl ReloadTask {
    /// A server that was started with a configuration.
    #[must_use]
    pub fn new(
        origin: Origin,
        started: Reading,
        parts: Parts,
        asked: Asked,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        metrics.started(Timestamp::now());
        Self {
            origin,
            current: started.clone(),
            keys: started.config.auth.keys.clone(),
            started,
            parts,
            asked,
            health,
            metrics,
            refused: None,
        }
    }

    /// Runs until the server stops.
    pub async fn run(mut self) {
        let mut hangups = self.origin.hangups.take();
        let every = self.current.config.reload.interval.0;
        let mut looks = (!every.is_zero()).then(|| {
            let mut looks = interval(every);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            looks
        });
        let mut seen = self.origin.seen.clone();
        loop {
            let waiting = tokio::select! {
                () = hangup(&mut hangups) => {
                    info!(signal = "SIGHUP", "told to read the configuration again");
                    None
                }
                Some(waiting) = self.asked.recv() => {
                    info!("asked to read the configuration again");
                    Some(waiting)
                }
                () = look(&mut looks) => {
                    let now = self.glance().await;
                    if now != seen {
                        info!("the configuration, or a file that it names, has changed");
                        self.settle(now).await;
                    } else if self.refused.is_none() {
                        continue;
                    }
                    // What was refused may name files that nobody looks at yet, or keys that could not be fetched.
                    None
                }
            };
            // What changes from here on is seen at the next look. So are files that are named only now, once too
            // often.
            seen = self.glance().await;
            let reloaded = self.reload().await;
            if let Some(waiting) = waiting {
                // Whoever asked may have gone.
                let _ = waiting.send(reloaded);
            }
        }
    }

    /// Whether it would be a developer's machine now, or no longer. Which keys it has then counts from the
    /// next start on.
    fn flips(&self, reading: &Reading) -> bool {
        self.started.config.is_development() != reading.config.is_development()
    }

    /// What the configuration's files are like now.
    async fn glance(&self) -> Glance {
        let (config, file) = (self.current.config.clone(), self.origin.file.clone());
        let glance = tokio::task::spawn_blocking(move || glance(&config, &file)).await;
        glance.unwrap_or_else(|_| Glance::at([]))
    }

    /// Waits until whoever writes a file is likely to be done.
    async fn settle(&self, mut before: Glance) {
        for _ in 0..LOOKS {
            tokio::time::sleep(SETTLED).await;
            let now = self.glance().await;
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Reads the configuration, and puts it in place if all of it can be used.
    async fn reload(&mut self) -> Reloaded {
        match self.prepare().await {
            Ok((reading, prepared)) => {
                self.refused = None;
                self.put_in_place(reading, prepared)
            }
            Err(problem) => {
                // It is tried again at each look.
                if self.refused.as_ref() != Some(&problem) {
                    error!(
                        problem,
                        "the configuration can't be used, and the one before stays in force"
                    );
                    self.refused = Some(problem.clone());
                }
                self.metrics.refused();
                self.health.configured(|about| about.refused = true);
                Reloaded::Refused(problem)
            }
        }
    }

    /// Everything that can fail, with nothing changed yet. What is wrong is said as at the start.
    async fn prepare(&self) -> Result<(Reading, Prepared), String> {
        let read = Arc::clone(&self.origin.read);
        let read = tokio::task::spawn_blocking(move || read()).await;
        let read = read.map_err(|error| error.to_string())?;
        let reading = read.map_err(|error| error.to_string().replace('\n', "; "))?;
        let mut config = reading.config.clone();
        if self.flips(&reading) {
            config.auth.keys.clone_from(&self.keys);
        }
        let prepared = self.parts.prepare(config).await?;
        Ok((reading, prepared))
    }

    fn put_in_place(&mut self, reading: Reading, prepared: Prepared) -> Reloaded {
        let flips = self.flips(&reading);
        let counts = |key: &String| in_force(key) && !(flips && key == "auth.keys");
        let mut changed = self.current.changes(&reading);
        changed.retain(&counts);
        let mut restart_needed = self.started.changes(&reading);
        restart_needed.retain(|key| !counts(key));
        self.parts.put(prepared, &self.origin.levels, &mut changed);
        if !flips {
            self.keys.clone_from(&reading.config.auth.keys);
        }
        self.current = reading;
        let keys = changed.join(", ");
        if changed.is_empty() {
            info!("the configuration was read again, and nothing that counts at once has changed");
        } else {
            info!(changed = keys, "the configuration was read again");
        }
        if !restart_needed.is_empty() {
            let keys = restart_needed.join(", ");
            warn!(
                keys,
                "settings have changed that count from the next start on"
            );
        }
        let now = Timestamp::now();
        self.metrics.done(now, changed.len(), restart_needed.len());
        self.health.configured(|about| {
            *about = Configuration {
                read_at: now,
                refused: false,
                restart_needed: restart_needed.clone(),
            };
        });
        Reloaded::Done {
            changed,
            restart_needed,
        }
    }
}

/// The next signal; never where none can come.
async fn hangup(hangups: &mut Option<Signal>) {
    let heard = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The next look at the files; never where nobody looks.
async fn look(looks: &mut Option<Interval>) {
    match looks {
        Some(looks) => looks.tick().await,
        None => std::future::pending().await,
    };
}
