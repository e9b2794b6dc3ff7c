//! What is wrong with a database or a query, from a closed list: for those who may not be told the database's own
//! words, and for deciding what to do about it. Pure.

use std::fmt;

use sqlx::Error;
use sqlx::error::DatabaseError as Refusal;

use super::{DatabaseError, is_broken_connection};
use crate::causes::Causes;

/// The most characters of the database's own words.
const LONGEST: usize = 300;

/// Where no connection was had in time, which is also how a closed port shows itself.
const NO_CONNECTION: &str = "no connection was had in time: nothing answers at the database's address, it is \
    starting or takes no more connections, or all connections of the pool are in use";

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no connection to be had.
    Away,
    /// It takes too long.
    Slow,
    /// Too many wait already.
    Busy,
    /// A table does not exist.
    Table,
    /// A column does not exist.
    Column,
    /// The role may not.
    Permission,
    /// A type is none that ids have.
    Type,
    /// More rows than can be meant.
    TooMany,
    /// Anything else that the database has against the query.
    Refused,
    /// The database does not answer for this value, or at this moment.
    Once,
}

impl Fault {
    /// Whether it stays until somebody changes the query or the database, whoever asks.
    #[must_use]
    pub fn is_of_query(self) -> bool {
        matches!(
            self,
            Self::Table | Self::Column | Self::Permission | Self::Type | Self::Refused
        )
    }

    /// Whether the database has said nothing at all.
    #[must_use]
    pub fn is_silence(self) -> bool {
        matches!(self, Self::Away | Self::Slow | Self::Busy)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Away => "the database is not available",
            Self::Slow => "the database gives no answer in time",
            Self::Busy => "too many queries wait for the database",
            Self::Table => "a table that the query reads does not exist",
            Self::Column => "a column that the query names does not exist",
            Self::Permission => "the server's role may not read what the query reads",
            Self::Type => "the query takes or gives something that is no integer, text or UUID",
            Self::TooMany => "the query gives more rows than one user can have",
            Self::Refused => "the database refuses the query",
            Self::Once => "the database refuses the query for this user or at this moment",
        })
    }
}

impl DatabaseError {
    /// What is wrong, without the database's own words.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Url { .. } | Self::Stopping | Self::Migrate(_) => Fault::Away,
            Self::Timeout(_) => Fault::Slow,
            Self::Busy => Fault::Busy,
            Self::TooMany(_) => Fault::TooMany,
            Self::Parameter(_) | Self::Column(_) => Fault::Type,
            Self::Failed(error) if is_broken_connection(error) => Fault::Away,
            Self::Failed(error) => match error {
                Error::Database(refusal) => of_refusal(&**refusal),
                Error::PoolTimedOut => Fault::Slow,
                Error::ColumnDecode { .. } | Error::Decode(_) => Fault::Type,
                Error::Configuration(_) | Error::Tls(_) | Error::PoolClosed => Fault::Away,
                _ => Fault::Refused,
            },
        }
    }

    /// The database's own words where it has said something, for operators alone: there may be names of tables in
    /// them, and never a password.
    #[must_use]
    pub fn reason(&self) -> String {
        let words = match (self, self.refusal()) {
            (_, Some(refusal)) => refusal.message().to_owned(),
            (Self::Failed(Error::PoolTimedOut), None) => NO_CONNECTION.to_owned(),
            (_, None) => Causes(self).to_string(),
        };
        words.chars().take(LONGEST).collect()
    }

    /// Whether the role may not do what was asked of it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.refusal()
            .is_some_and(|refusal| of_refusal(refusal) == Fault::Permission)
    }

    /// What the database itself has said, to a query or to a migration's.
    fn refusal(&self) -> Option<&dyn Refusal> {
        let outermost: &(dyn std::error::Error + 'static) = self;
        std::iter::successors(Some(outermost), |error| error.source())
            .filter_map(|error| error.downcast_ref::<Error>())
            .find_map(Error::as_database_error)
    }
}

fn of_refusal(refusal: &dyn Refusal) -> Fault {
    let code = refusal.code().unwrap_or_default();
    let of_postgres = refusal.try_downcast_ref::<sqlx::postgres::PgDatabaseError>();
    match of_postgres {
        Some(_) => of_sqlstate(&code),
        None => of_sqlite(&code, refusal.message()),
    }
}

fn of_sqlstate(code: &str) -> Fault {
    match code {
        "42P01" | "3F000" => Fault::Table,
        "42703" => Fault::Column,
        "42501" => Fault::Permission,
        "57014" => Fault::Slow,
        // Who we say that we are, which database, and whether it has room.
        _ => match code.get(..2).unwrap_or("") {
            "28" | "3D" | "53" | "58" => Fault::Away,
            // A value that is none, a conflict, what is locked, and what a function raises by itself.
            "22" | "40" | "55" | "P0" => Fault::Once,
            _ => Fault::Refused,
        },
    }
}

fn of_sqlite(code: &str, message: &str) -> Fault {
    // The first byte is the kind, those above say more about it.
    match code.parse().unwrap_or(1_u32) & 0xff {
        1 if message.starts_with("no such table") => Fault::Table,
        1 if message.starts_with("no such column") => Fault::Column,
        5 | 6 => Fault::Slow,
        3 | 23 => Fault::Permission,
        10 | 11 | 14 | 26 => Fault::Away,
        _ => Fault::Refused,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::migrate::MigrateError;

    use super::*;

    #[test]
    fn states_are_told_apart() {
        for (code, fault) in [
            ("42P01", Fault::Table),
            ("42703", Fault::Column),
            ("42501", Fault::Permission),
            ("28P01", Fault::Away),
            ("3D000", Fault::Away),
            ("3F000", Fault::Table),
            ("53300", Fault::Away),
            ("42883", Fault::Refused),
            ("", Fault::Refused),
            ("é", Fault::Refused),
        ] {
            assert_eq!(of_sqlstate(code), fault, "{code}");
        }
        assert_eq!(of_sqlite("1", "no such table: x"), Fault::Table);
        assert_eq!(of_sqlite("1", "no such column: x"), Fault::Column);
        assert_eq!(of_sqlite("1", "near \"x\": syntax error"), Fault::Refused);
        assert_eq!(of_sqlite("517", "database is locked"), Fault::Slow);
        assert_eq!(of_sqlite("14", "unable to open"), Fault::Away);
    }

    #[test]
    fn a_closed_port_is_not_told_as_a_full_pool_alone() {
        let reason = DatabaseError::Failed(Error::PoolTimedOut).reason();
        assert!(reason.contains("nothing answers"), "{reason}");
        let migration = MigrateError::Execute(Error::PoolTimedOut);
        assert!(!DatabaseError::Migrate(migration).is_forbidden());
    }

    #[test]
    fn only_what_somebody_has_to_change_is_of_the_query() {
        for (fault, lasting) in [
            (Fault::Table, true),
            (Fault::Permission, true),
            (Fault::Away, false),
            (Fault::Slow, false),
            (Fault::TooMany, false),
            (of_sqlstate("P0001"), false),
            (of_sqlstate("22004"), false),
            (of_sqlstate("40001"), false),
        ] {
            assert_eq!(fault.is_of_query(), lasting, "{fault}");
        }
    }
}
