//! The outbox in PostgreSQL: one connection, whose advisory lock says that this instance has it.
//!
//! Who loses the connection loses the lock. Both ends notice within seconds when the network between them
//! is cut: this one by the time that queries may take, the server by what is set here.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{Executor as _, PgConnection, PgPool, Postgres, Row as _};
use tokio::time::timeout;

use super::row::{Key, Row};
use super::store::{BATCH_BYTES, Noted, Settled, State};
use crate::database::DatabaseError;
use crate::event::Timestamp;

/// What the lock of an outbox begins with, which ends with the table's number: any number that is unlikely to
/// be somebody else's ("noti").
const LOCK: i64 = 0x6e6f_7469 << 32;

/// The server finds out within 5 s that this end is gone. That a deletion is not on the disk at once does
/// no harm: what comes back after a crash of the server is found in the log.
const SETTINGS: &str = "SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1;
    SET tcp_keepalives_count = 3; SET tcp_user_timeout = 5000; SET synchronous_commit = off";

/// What has become of taking the lock.
enum Claim {
    Ours,
    Taken,
    Missing,
}

#[derive(Debug)]
pub(super) struct PostgresStore(PoolConnection<Postgres>);

impl PostgresStore {
    /// `None` without an outbox, `Some(None)` if another instance has it.
    pub(super) async fn open(
        pool: &PgPool,
        limit: Duration,
    ) -> Result<Option<Option<Self>>, DatabaseError> {
        let mut connection = pool.acquire().await?;
        let claimed = timeout(limit, Self::claim(&mut connection)).await;
        match claimed {
            Ok(Ok(Claim::Ours)) => {
                // In the pool it would keep the lock.
                connection.close_on_drop();
                Ok(Some(Some(Self(connection))))
            }
            Ok(Ok(Claim::Taken)) => Ok(Some(None)),
            Ok(Ok(Claim::Missing)) => Ok(None),
            // Nor must one go back into the pool that may have the lock, or does not answer.
            Ok(Err(error)) => {
                connection.close_on_drop();
                Err(error.into())
            }
            Err(_) => {
                connection.close_on_drop();
                Err(DatabaseError::Timeout(limit))
            }
        }
    }

    async fn claim(connection: &mut PgConnection) -> sqlx::Result<Claim> {
        let table: Option<i64> =
            sqlx::query_scalar("SELECT to_regclass('notify_outbox')::oid::bigint")
                .fetch_one(&mut *connection)
                .await?;
        let Some(table) = table else {
            return Ok(Claim::Missing);
        };
        let ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK | table)
            .fetch_one(&mut *connection)
            .await?;
        if !ours {
            return Ok(Claim::Taken);
        }
        connection.execute(SETTINGS).await?;
        Ok(Claim::Ours)
    }

    /// Rows that were copied in while triggers were off get a place, and transactions that left no row
    /// are forgotten.
    pub(super) async fn tidy(&mut self) -> sqlx::Result<()> {
        let orphans = "INSERT INTO notify_outbox_commits (xid, locks)
            SELECT DISTINCT o.xid, -1::bigint FROM notify_outbox o
            WHERE NOT EXISTS (SELECT FROM notify_outbox_commits c WHERE c.xid = o.xid)
            ON CONFLICT DO NOTHING";
        let empty = "DELETE FROM notify_outbox_commits c WHERE c.place IS NOT NULL
            AND NOT EXISTS (SELECT FROM notify_outbox o WHERE o.xid = c.xid)";
        self.0.execute(orphans).await?;
        self.0.execute(empty).await?;
        Ok(())
    }

    pub(super) async fn state(&mut self) -> sqlx::Result<State> {
        let sql = "SELECT source::text, log_epoch, log_position FROM notify_outbox_state";
        let row = sqlx::query(sql).fetch_one(&mut *self.0).await?;
        Ok(State {
            source: row.try_get(0)?,
            noted: Noted::from_numbers(row.try_get(1)?, row.try_get(2)?),
        })
    }

    pub(super) async fn next(&mut self, most: i32, largest: i64) -> sqlx::Result<Vec<Row>> {
        let sql = "SELECT xid, id, channel, type, payload, size, millis \
            FROM notify_outbox_next($1, $2, $3)";
        let rows = sqlx::query(sql)
            .bind(most)
            .bind(BATCH_BYTES)
            .bind(largest)
            .fetch_all(&mut *self.0)
            .await?;
        rows.iter().map(row).collect()
    }

    pub(super) async fn settle(&mut self, settled: &Settled) -> sqlx::Result<()> {
        let keys = settled.taken.iter();
        let (mut transactions, ids) = split(keys);
        if !settled.dead.is_empty() {
            transactions.extend(self.bury(&settled.dead).await?);
        }
        let delete = "WITH noted AS (
                UPDATE notify_outbox_state SET log_epoch = $3, log_position = $4 WHERE $3 IS NOT NULL
            )
            DELETE FROM notify_outbox o USING unnest($1::text[], $2::bigint[]) AS gone (xid, id)
            WHERE o.xid = gone.xid::xid8 AND o.id = gone.id";
        let noted = settled.noted.map(Noted::as_numbers);
        sqlx::query(delete)
            .bind(&transactions[..ids.len()])
            .bind(&ids)
            .bind(noted.map(|(epoch, _)| epoch))
            .bind(noted.map(|(_, position)| position))
            .execute(&mut *self.0)
            .await?;
        transactions.dedup();
        let forget = "DELETE FROM notify_outbox_commits c WHERE c.xid = ANY($1::text[]::xid8[])
            AND NOT EXISTS (SELECT FROM notify_outbox o WHERE o.xid = c.xid)";
        sqlx::query(forget)
            .bind(&transactions)
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Puts rows aside; gives their transactions.
    async fn bury(&mut self, dead: &[(Key, String)]) -> sqlx::Result<Vec<String>> {
        let (transactions, ids) = split(dead.iter().map(|(key, _)| key));
        let reasons: Vec<&str> = dead.iter().map(|(_, reason)| reason.as_str()).collect();
        let sql = "WITH gone AS (
                DELETE FROM notify_outbox o
                USING unnest($1::text[], $2::bigint[], $3::text[]) AS dead (xid, id, reason)
                WHERE o.xid = dead.xid::xid8 AND o.id = dead.id
                RETURNING o.id, o.channel, o.type, o.payload, o.created_at, dead.reason
            )
            INSERT INTO notify_outbox_dead (id, channel, type, payload, created_at, reason)
            SELECT * FROM gone";
        sqlx::query(sql)
            .bind(&transactions)
            .bind(&ids)
            .bind(&reasons)
            .execute(&mut *self.0)
            .await?;
        Ok(transactions)
    }
}

fn split<'a>(keys: impl Iterator<Item = &'a Key>) -> (Vec<String>, Vec<i64>) {
    keys.map(|key| (key.transaction.clone(), key.id)).unzip()
}

fn row(row: &PgRow) -> sqlx::Result<Row> {
    let (size, millis): (i64, i64) = (row.try_get(5)?, row.try_get(6)?);
    Ok(Row {
        key: Key {
            transaction: row.try_get(0)?,
            id: row.try_get(1)?,
        },
        channel: row.try_get(2)?,
        kind: row.try_get(3)?,
        payload: row.try_get(4)?,
        size: usize::try_from(size).unwrap_or(usize::MAX),
        created_at: Timestamp::from_millis(u64::try_from(millis).unwrap_or_default()),
    })
}
