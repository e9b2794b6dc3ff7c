//! Whether the query for a user's chats works, found out before anybody needs it: it is tried at the start, again
//! and again while it does not work, now and then while it does, and at once when a look-up says otherwise.
//!
//! A server whose query does not work is ready all the same, since not everybody has chats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::database::{DatabaseError, Fault};

/// Between two trials of a query that works, and of one that does not.
const CALM: Duration = Duration::from_secs(30);
const DOUBTFUL: Duration = Duration::from_secs(3);

/// The least time between two trials, however many look-ups fail.
const LEAST: Duration = Duration::from_secs(1);

/// What is known of the query. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Trial(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    found: Mutex<Found>,
    /// A user's look-up has worked since one was refused: better proof than a trial for nobody.
    proven: AtomicBool,
    /// A look-up had another outcome than the last trial.
    doubt: Notify,
}

/// What the last trial has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Found {
    #[default]
    Nothing,
    Works,
    /// The query has to be changed, or the database.
    Fails(Fault),
    /// The database could not be asked, and what was found before need not be so any more.
    Unknown(Fault),
}

/// What the last trial has found, for all to see.
#[derive(Debug, Clone, Default)]
pub(super) struct Signs {
    /// 1 while the query can't work.
    pub(super) refused: Gauge<u64, AtomicU64>,
    /// 1 while the database answers at all.
    pub(super) answers: Gauge<u64, AtomicU64>,
}

impl Trial {
    /// What is wrong with the query and what to do, in words; `None` where nothing is known to be.
    pub(super) fn problem(&self) -> Option<String> {
        match *self.0.found.lock() {
            Found::Fails(fault) => Some(problem(fault)),
            Found::Nothing | Found::Works | Found::Unknown(_) => None,
        }
    }

    /// What is known, in words.
    pub(super) fn detail(&self) -> &'static str {
        match *self.0.found.lock() {
            Found::Works => "database.membership_query works",
            Found::Fails(_) => "database.membership_query can't work",
            Found::Nothing | Found::Unknown(_) => "database.membership_query could not be tried",
        }
    }

    /// Somebody's chats were looked up: one more reason to try, or none.
    pub(super) fn saw<T>(&self, result: &Result<T, DatabaseError>) {
        let works = match result {
            Ok(_) => true,
            Err(error) if error.fault().is_of_query() => false,
            Err(error) => {
                // The database itself may be away.
                if error.fault().is_silence() && *self.0.found.lock() == Found::Works {
                    self.0.doubt.notify_one();
                }
                return;
            }
        };
        self.0.proven.store(works, Ordering::Relaxed);
        if (*self.0.found.lock() == Found::Works) != works {
            self.0.doubt.notify_one();
        }
    }

    /// Tries again and again, by `attempt`. Never ends.
    pub(super) async fn run<F>(&self, signs: &Signs, mut attempt: impl FnMut() -> F)
    where
        F: Future<Output = Result<(), DatabaseError>>,
    {
        loop {
            let found = self.judge(attempt().await);
            let refused = matches!(found, Found::Fails(_));
            let answers = !matches!(found, Found::Unknown(fault) if fault.is_silence());
            signs.refused.set(u64::from(refused));
            signs.answers.set(u64::from(answers));
            tokio::time::sleep(LEAST).await;
            let pause = if found == Found::Works {
                CALM
            } else {
                DOUBTFUL
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.0.doubt.notified() => {}
            }
        }
    }

    /// Takes in the outcome of a trial. What is new has a line in the log.
    fn judge(&self, result: Result<(), DatabaseError>) -> Found {
        let found = match &result {
            Ok(()) | Err(DatabaseError::TooMany(_)) => Found::Works,
            Err(error) if error.fault().is_of_query() && self.0.proven.load(Ordering::Relaxed) => {
                Found::Works
            }
            Err(error) if error.fault().is_of_query() => Found::Fails(error.fault()),
            Err(error) => Found::Unknown(error.fault()),
        };
        let before = std::mem::replace(&mut *self.0.found.lock(), found);
        if before == found {
            return found;
        }
        match (found, result) {
            (Found::Fails(fault), Err(error)) => warn!(
                reason = error.reason(),
                advice = advice(fault),
                "the chats of users can't be looked up, and every stream of a user's chats is refused"
            ),
            (Found::Unknown(_), Err(error)) => warn!(
                reason = error.reason(),
                "the look-up of chats can't be tried at the moment"
            ),
            _ if before != Found::Nothing => info!("the chats of users can be looked up again"),
            _ => {}
        }
        found
    }
}

/// What is wrong with looking up chats, and what would be right where somebody has to change something.
pub(super) fn problem(fault: Fault) -> String {
    match fault.is_of_query() {
        true => format!("{fault}; {}", advice(fault)),
        false => fault.to_string(),
    }
}

fn advice(fault: Fault) -> &'static str {
    match fault {
        Fault::Table => {
            "have database.membership_query read a table of this database, or have `notify-server migrate` make \
             the default one"
        }
        Fault::Column => "have database.membership_query name columns of the tables that it reads",
        Fault::Permission => "grant the role of database.url SELECT on it",
        Fault::Type => {
            "have database.membership_query compare $1 with the user's id, and give chat ids in its first column"
        }
        _ => {
            "run the query of database.membership_query, or the default one, by hand with the role of database.url"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: sqlx::Error) -> Result<(), DatabaseError> {
        Err(error.into())
    }

    #[tokio::test]
    async fn only_a_query_that_can_not_work_is_a_problem() {
        let trial = Trial::default();
        assert_eq!(trial.problem(), None);
        trial.judge(failed(sqlx::Error::PoolTimedOut));
        assert_eq!(trial.problem(), None);
        trial.judge(Err(DatabaseError::Column("NUMERIC".to_owned())));
        let says = trial.problem().unwrap();
        assert!(says.contains("no integer") && says.contains("database.membership_query"));
        // What can't be asked is not known to be wrong.
        trial.judge(failed(sqlx::Error::PoolClosed));
        assert_eq!(trial.problem(), None);
        trial.judge(Ok(()));
        assert_eq!(trial.detail(), "database.membership_query works");
    }

    #[tokio::test]
    async fn a_look_up_that_works_is_better_proof_than_a_trial_for_nobody() {
        let trial = Trial::default();
        let refused = || Err(DatabaseError::Column("NUMERIC".to_owned()));
        trial.judge(refused());
        assert!(trial.problem().is_some());
        trial.saw(&Ok(()));
        assert_eq!(trial.judge(refused()), Found::Works);
        assert_eq!(trial.problem(), None);
        // Until one is refused.
        trial.saw::<()>(&refused());
        trial.judge(refused());
        assert!(trial.problem().is_some());
        // Nobody has too many chats.
        assert_eq!(
            trial.judge(Err(DatabaseError::TooMany(20_000))),
            Found::Works
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_says_otherwise_has_it_tried_at_once() {
        let trial = Trial::default();
        let (signs, tried) = (Signs::default(), std::cell::Cell::new(0));
        let attempts = trial.run(&signs, || {
            tried.set(tried.get() + 1);
            async { Ok(()) }
        });
        tokio::select! {
            () = attempts => unreachable!("it never ends"),
            () = async {
                tokio::time::sleep(Duration::from_secs(10)).await;
                trial.saw(&Ok(()));
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert_eq!(tried.get(), 1);
                // However often it is said.
                for _ in 0..1_000 {
                    trial.saw::<()>(&Err(DatabaseError::Parameter("BOOL".to_owned())));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            } => {}
        }
        assert!((2..=4).contains(&tried.get()), "{}", tried.get());
    }
}
