//! The outbox in SQLite, whose writers take turns: ids are in the order of commits. A file belongs to one
//! instance.

use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};

use super::row::{Key, Row};
use super::store::{BATCH_BYTES, Noted, Settled, State};
use crate::event::Timestamp;

#[derive(Debug)]
pub(super) struct SqliteStore(SqlitePool);

impl SqliteStore {
    /// `None` without an outbox.
    pub(super) async fn open(pool: &SqlitePool) -> sqlx::Result<Option<Self>> {
        let sql = "SELECT count(*) > 0 FROM sqlite_master WHERE name = 'notify_outbox'";
        let exists: bool = sqlx::query_scalar(sql).fetch_one(pool).await?;
        Ok(exists.then(|| Self(pool.clone())))
    }

    pub(super) async fn state(&self) -> sqlx::Result<State> {
        let sql = "SELECT source, log_epoch, log_position FROM notify_outbox_state";
        let row = sqlx::query(sql).fetch_one(&self.0).await?;
        Ok(State {
            source: row.try_get(0)?,
            noted: Noted::from_numbers(row.try_get(1)?, row.try_get(2)?),
        })
    }

    pub(super) async fn next(&self, most: i32, largest: i64) -> sqlx::Result<Vec<Row>> {
        let sql = "SELECT id, channel, type, \
                CASE WHEN length(CAST(payload AS BLOB)) <= $2 THEN payload END, \
                length(CAST(payload AS BLOB)), \
                CAST(round((julianday(created_at) - 2440587.5) * 86400000) AS INTEGER) \
            FROM notify_outbox ORDER BY id LIMIT $1";
        let mut found = sqlx::query(sql).bind(most).bind(largest).fetch(&self.0);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(next) = found.try_next().await? {
            let next = row(&next)?;
            bytes += next.payload.as_ref().map_or(0, String::len);
            if bytes as i64 > BATCH_BYTES && !rows.is_empty() {
                break;
            }
            rows.push(next);
        }
        Ok(rows)
    }

    pub(super) async fn settle(&self, settled: &Settled) -> sqlx::Result<()> {
        let mut transaction = self.0.begin().await?;
        for (key, reason) in &settled.dead {
            let sql = "INSERT INTO notify_outbox_dead (id, channel, type, payload, created_at, reason) \
                SELECT id, channel, type, payload, created_at, $2 FROM notify_outbox WHERE id = $1";
            sqlx::query(sql)
                .bind(key.id)
                .bind(reason)
                .execute(&mut *transaction)
                .await?;
        }
        let dead = settled.dead.iter().map(|(key, _)| key.id);
        let ids: Vec<i64> = settled.taken.iter().map(|key| key.id).chain(dead).collect();
        let ids = serde_json::to_string(&ids).map_err(|e| sqlx::Error::Encode(e.into()))?;
        sqlx::query("DELETE FROM notify_outbox WHERE id IN (SELECT value FROM json_each($1))")
            .bind(ids)
            .execute(&mut *transaction)
            .await?;
        if let Some((epoch, position)) = settled.noted.map(Noted::as_numbers) {
            sqlx::query("UPDATE notify_outbox_state SET log_epoch = $1, log_position = $2")
                .bind(epoch)
                .bind(position)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }
}

fn row(row: &SqliteRow) -> sqlx::Result<Row> {
    let (size, millis): (i64, Option<i64>) = (row.try_get(4)?, row.try_get(5)?);
    Ok(Row {
        key: Key {
            transaction: String::new(),
            id: row.try_get(0)?,
        },
        channel: row.try_get(1)?,
        kind: row.try_get(2)?,
        payload: row.try_get(3)?,
        size: usize::try_from(size).unwrap_or(usize::MAX),
        created_at: Timestamp::from_millis(
            millis
                .and_then(|millis| u64::try_from(millis).ok())
                .unwrap_or_default(),
        ),
    })
}
