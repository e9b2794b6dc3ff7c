//! The tables that `migrate` makes, and takes back: users, chats, memberships and messages, and the
//! outbox, which can stand alone beside the tables of somebody else.

use sqlx::migrate::{AppliedMigration, Migrate as _, Migration, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::{Postgres, Sqlite};

use super::{Database, DatabaseError, Pool};

/// Where it is noted what was made. Not the migration library's own name for it, since the database may
/// be one that somebody else migrates with that library.
const TABLE: &str = "notify_migrations";

/// What the migration library calls that table by itself, as earlier versions of this server did.
const FORMER_TABLE: &str = "_sqlx_migrations";

/// What the names of the migrations begin with that stand alone.
const OUTBOX: &str = "outbox";

/// How much of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Everything,
    /// The outbox and what fills it.
    Outbox,
}

/// What [`Database::migrate`] has done. Migrations by number and name, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Those that were there before.
    pub before: Vec<String>,
    /// Those that were applied now.
    pub now: Vec<String>,
}

/// The connection that a migration runs on.
enum Session {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Database {
    /// Creates or updates the schema.
    ///
    /// # Errors
    /// The database failed, or holds tables of these names that these migrations did not make.
    pub async fn migrate(&self, part: Part) -> Result<Migrated, DatabaseError> {
        let mut session = self.session().await?;
        session.adopt(self.migrator(Part::Everything)).await?;
        let applied = session.applied().await?;
        let migrator = self.migrator(part);
        match &mut session {
            Session::Postgres(connection) => migrator.run(&mut **connection).await?,
            Session::Sqlite(connection) => migrator.run(&mut **connection).await?,
        }
        let mut migrated = Migrated::default();
        for one in migrator
            .iter()
            .filter(|one| !one.migration_type.is_down_migration())
        {
            let name = format!("{} {}", one.version, one.description);
            let was_there = applied.iter().any(|before| before.version == one.version);
            match was_there {
                true => migrated.before.push(name),
                false => migrated.now.push(name),
            }
        }
        Ok(migrated)
    }

    /// Drops what [`Database::migrate`] has made, with all that is in it.
    ///
    /// # Errors
    /// The database failed, or something else depends on what is to be dropped.
    pub async fn uninstall(&self, part: Part) -> Result<(), DatabaseError> {
        let mut session = self.session().await?;
        session.adopt(self.migrator(Part::Everything)).await?;
        let applied = session.applied().await?;
        let migrator = self.migrator(part);
        match &mut session {
            Session::Postgres(connection) => migrator.undo(&mut **connection, 0).await?,
            Session::Sqlite(connection) => migrator.undo(&mut **connection, 0).await?,
        }
        let left = applied
            .iter()
            .any(|one| !migrator.version_exists(one.version));
        if !left {
            session
                .execute(&format!("DROP TABLE IF EXISTS {TABLE}"))
                .await?;
        }
        Ok(())
    }

    /// The statements that [`Database::migrate`] would run now, or [`Database::uninstall`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending(&self, part: Part, uninstall: bool) -> Result<String, DatabaseError> {
        let applied = match self.session().await {
            Ok(mut session) => session.applied().await?,
            // A file that is not there yet has nothing.
            Err(_) if matches!(self.pool(), Pool::Sqlite(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_applied = |version| applied.iter().any(|one| one.version == version);
        let migrator = self.migrator(part);
        let mut statements: Vec<&Migration> = migrator
            .iter()
            .filter(|one| one.migration_type.is_down_migration() == uninstall)
            .filter(|one| is_applied(one.version) == uninstall)
            .collect();
        if uninstall {
            statements.reverse();
        }
        let texts = statements.iter().map(|one| {
            let (version, name, sql) = (one.version, &one.description, one.sql.as_str());
            format!("-- {version} {name}\n{sql}")
        });
        Ok(texts.collect::<Vec<_>>().join("\n"))
    }

    async fn session(&self) -> Result<Session, DatabaseError> {
        Ok(match self.pool() {
            Pool::Postgres(pool) => Session::Postgres(pool.acquire().await?),
            Pool::Sqlite(pool) => Session::Sqlite(pool.acquire().await?),
        })
    }

    fn migrator(&self, part: Part) -> Migrator {
        let all = match self.pool() {
            Pool::Postgres(_) => sqlx::migrate!("migrations/postgres"),
            Pool::Sqlite(_) => sqlx::migrate!("migrations/sqlite"),
        };
        let wanted = |one: &&Migration| match part {
            Part::Everything => true,
            Part::Outbox => one.description.starts_with(OUTBOX),
        };
        let mut migrator = Migrator::with_migrations(all.iter().filter(wanted).cloned().collect());
        migrator.dangerous_set_table_name(TABLE);
        // Those of the other part are no mistake.
        migrator.set_ignore_missing(part != Part::Everything);
        migrator
    }
}

impl Session {
    /// What was made here before.
    async fn applied(&mut self) -> Result<Vec<AppliedMigration>, DatabaseError> {
        if !self.has(TABLE).await? {
            return Ok(Vec::new());
        }
        self.list(TABLE).await
    }

    async fn list(&mut self, table: &str) -> Result<Vec<AppliedMigration>, DatabaseError> {
        Ok(match self {
            Self::Postgres(connection) => connection.list_applied_migrations(table).await?,
            Self::Sqlite(connection) => connection.list_applied_migrations(table).await?,
        })
    }

    /// Takes over what an earlier version of this server has noted, if it was one.
    async fn adopt(&mut self, migrator: Migrator) -> Result<(), DatabaseError> {
        if self.has(TABLE).await? || !self.has(FORMER_TABLE).await? {
            return Ok(());
        }
        let ours = |one: &AppliedMigration| {
            let same =
                |known: &Migration| known.version == one.version && known.checksum == one.checksum;
            migrator.iter().any(same)
        };
        let former = self.list(FORMER_TABLE).await?;
        if !former.is_empty() && former.iter().all(ours) {
            self.execute(&format!("ALTER TABLE {FORMER_TABLE} RENAME TO {TABLE}"))
                .await?;
        }
        Ok(())
    }

    async fn has(&mut self, table: &str) -> Result<bool, DatabaseError> {
        Ok(match self {
            Self::Postgres(connection) => {
                sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
                    .bind(table)
                    .fetch_one(&mut **connection)
                    .await?
            }
            Self::Sqlite(connection) => {
                sqlx::query_scalar("SELECT count(*) > 0 FROM sqlite_master WHERE name = $1")
                    .bind(table)
                    .fetch_one(&mut **connection)
                    .await?
            }
        })
    }

    async fn execute(&mut self, sql: &str) -> Result<(), DatabaseError> {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Postgres(connection) => sql.execute(&mut **connection).await.map(drop)?,
            Self::Sqlite(connection) => sql.execute(&mut **connection).await.map(drop)?,
        }
        Ok(())
    }
}
