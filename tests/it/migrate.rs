//! `migrate`: the schema, all of it or the outbox alone, shown before, and taken back.

use crate::support::{Outcome, Postgres, Settings, sqlite};

const TABLES: &str = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
const FUNCTIONS: &str = "SELECT proname::text FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace ORDER BY 1";

const OUTBOX: [&str; 4] = [
    "notify_outbox",
    "notify_outbox_commits",
    "notify_outbox_dead",
    "notify_outbox_state",
];

async fn migrate(settings: &Settings, options: &[&str]) -> Outcome {
    let outcome = settings.run(&[&["migrate"], options].concat()).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome
}

fn at(postgres: &Postgres) -> Settings {
    Settings::new().set("database.url", postgres.url())
}

#[tokio::test]
async fn everything_is_made_once_and_taken_back() {
    let postgres = Postgres::start().await;
    postgres
        .execute("CREATE TABLE somebody_elses (id int)")
        .await;
    let settings = at(&postgres);
    for _ in 0..2 {
        migrate(&settings, &[]).await;
    }
    let tables = postgres.texts(TABLES).await;
    let own = ["users", "chats", "chat_members", "messages"];
    for table in own.iter().chain(&OUTBOX) {
        assert!(tables.iter().any(|t| t == table), "{table} in {tables:?}");
    }
    migrate(&settings, &["--uninstall"]).await;
    assert_eq!(postgres.texts(TABLES).await, ["somebody_elses"]);
    assert!(postgres.texts(FUNCTIONS).await.is_empty());
    // And it can be made again.
    migrate(&settings, &[]).await;
    assert_eq!(postgres.texts(TABLES).await, tables);
}

#[tokio::test]
async fn the_outbox_stands_alone_beside_tables_of_ones_own() {
    let postgres = Postgres::start().await;
    let own =
        "CREATE TABLE messages (id bigint PRIMARY KEY, chat_id int, sender_id bigint, content text,
        files text[], created_at timestamptz DEFAULT '2025-07-30T15:10:00Z');
        CREATE TABLE users (email text);
        CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
            installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL,
            checksum bytea NOT NULL, execution_time bigint NOT NULL);
        INSERT INTO _sqlx_migrations VALUES (1, 'mine', now(), true, '\\x00', 1)";
    postgres.execute(own).await;
    let before = postgres.texts(TABLES).await;
    let settings = at(&postgres);
    migrate(&settings, &["--outbox-only"]).await;
    // What one writes in one's own migrations, and who may write no more than messages.
    let trigger = "CREATE TRIGGER trigger_notify_new_message AFTER INSERT ON messages
        FOR EACH ROW EXECUTE FUNCTION notify_new_message();
        CREATE ROLE app; GRANT INSERT ON messages TO app;
        SET ROLE app;
        INSERT INTO messages (id, chat_id, sender_id, content) VALUES (7, 5, 2, 'hello')";
    postgres.execute(trigger).await;
    let rows = "SELECT channel || ' ' || type || ' ' || payload FROM notify_outbox";
    let payload = r#"{"id":7,"chatId":5,"content":"hello","senderId":2,"createdAt":"2025-07-30T15:10:00+00:00"}"#;
    assert_eq!(
        postgres.texts(rows).await,
        [format!("chat:5 message {payload}")]
    );
    // The rest can't be made beside it, and says so.
    let outcome = settings.run(&["migrate"]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("users"), "{outcome:?}");
    migrate(&settings, &["--outbox-only", "--uninstall"]).await;
    assert_eq!(postgres.texts(TABLES).await, before);
    assert!(postgres.texts(FUNCTIONS).await.is_empty());
    postgres
        .execute("INSERT INTO messages (id, chat_id) VALUES (8, 5)")
        .await;
}

#[tokio::test]
async fn a_dry_run_prints_the_statements_and_changes_nothing() {
    let postgres = Postgres::start().await;
    let settings = at(&postgres);
    let dry = migrate(&settings, &["--dry-run"]).await.stdout;
    for statement in [
        "CREATE TABLE users",
        "CREATE TABLE messages",
        "CREATE FUNCTION notify_new_message",
    ] {
        assert!(dry.contains(statement), "{statement} in {dry}");
    }
    assert!(postgres.texts(TABLES).await.is_empty());
    let outbox = migrate(&settings, &["--dry-run", "--outbox-only"])
        .await
        .stdout;
    assert!(
        outbox.contains("CREATE TABLE notify_outbox") && !outbox.contains("CREATE TABLE messages")
    );
    // What is printed is what is run.
    postgres.execute(&dry).await;
    let by_hand = postgres.texts(FUNCTIONS).await;
    postgres
        .execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await;
    migrate(&settings, &[]).await;
    assert_eq!(postgres.texts(FUNCTIONS).await, by_hand);
    assert_eq!(migrate(&settings, &["--dry-run"]).await.stdout, "");
    let back = migrate(&settings, &["--dry-run", "--uninstall"])
        .await
        .stdout;
    assert!(back.contains("DROP TABLE messages"), "{back}");
    assert!(
        postgres
            .texts(TABLES)
            .await
            .contains(&"messages".to_owned())
    );
}

#[tokio::test]
async fn sqlite_has_the_same_commands() {
    let directory = Settings::new();
    let file = directory.directory().join("own.db");
    let settings = Settings::new().set("database.url", format!("sqlite://{}", file.display()));
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let dry = migrate(&settings, &["--dry-run"]).await.stdout;
    assert!(dry.contains("CREATE TABLE messages"), "{dry}");
    assert!(!file.exists());
    migrate(&settings, &["--outbox-only"]).await;
    assert_eq!(
        sqlite::texts(&file, tables).await,
        [
            "notify_migrations",
            "notify_outbox",
            "notify_outbox_state",
            "notify_outbox_dead"
        ]
    );
    migrate(&settings, &[]).await;
    sqlite::execute(
        &file,
        "INSERT INTO messages (session_id, content) VALUES ('s-1', 'hi')",
    )
    .await;
    let rows = "SELECT channel || ' ' || json_extract(payload, '$.content') FROM notify_outbox";
    assert_eq!(sqlite::texts(&file, rows).await, ["session:s-1 hi"]);
    migrate(&settings, &["--uninstall"]).await;
    assert!(sqlite::texts(&file, tables).await.is_empty());
}

/// The migrations of earlier versions were noted in another table.
#[tokio::test]
async fn a_schema_that_was_made_before_is_taken_over() {
    let postgres = Postgres::start().await;
    let settings = at(&postgres);
    migrate(&settings, &[]).await;
    let before = "DROP TABLE messages; ALTER TABLE notify_migrations RENAME TO _sqlx_migrations;
        DELETE FROM _sqlx_migrations WHERE version = 3";
    postgres.execute(before).await;
    migrate(&settings, &[]).await;
    let tables = postgres.texts(TABLES).await;
    assert!(tables.contains(&"messages".to_owned()), "{tables:?}");
}

#[tokio::test]
async fn a_role_that_may_make_no_tables_is_told_what_to_do() {
    let postgres = Postgres::start().await;
    postgres
        .execute("CREATE ROLE limited LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await;
    let url = postgres.url().replace("tester@", "limited@");
    let settings = Settings::new().set("database.url", url);
    for options in [&["migrate"][..], &["migrate", "--outbox-only"]] {
        let outcome = settings.run(options).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let told = &outcome.stderr;
        let words = "permission denied for schema public";
        assert_eq!(told.matches(words).count(), 1, "{told}");
        assert!(told.contains("GRANT CREATE ON SCHEMA public"), "{told}");
    }
    assert!(postgres.texts(TABLES).await.is_empty());
}
