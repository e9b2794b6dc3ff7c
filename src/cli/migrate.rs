//! `migrate`: creates the tables, only ever when it is asked to, or takes them back.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use notify_server::config::Config;
use notify_server::database::{Database, DatabaseConfig, Part};
use notify_server::membership;
use notify_server::secret::SecretUrl;

/// What to do where the role may not make tables.
const FORBIDDEN: &str = "the role of database.url may not make tables here; run this once as a role \
    that may (--database postgres://OWNER:PASSWORD@HOST/DATABASE), then grant the server's own what it needs \
    (docs/deployment.md), or GRANT CREATE ON SCHEMA public to it; without the outbox, and with chats in tables of your \
    own, there is nothing to migrate";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only the outbox and what fills it, beside tables of your own
    #[arg(long)]
    outbox_only: bool,
    /// Print the statements and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Drop what this command has created, with all that is in it
    #[arg(long)]
    uninstall: bool,
}

pub(super) async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let file = config.development_database();
    let url = match &config.database.url {
        Some(url) => url.clone(),
        None if arguments.dry_run => SecretUrl::new(format!("sqlite://{}", file.display())),
        None => {
            std::fs::create_dir_all(&config.data_dir)?;
            Database::file_url(&file)
        }
    };
    let database = if arguments.dry_run {
        Database::open(&url, &config.database)?
    } else {
        Database::create(&url, &config.database)?
    };
    let part = if arguments.outbox_only {
        Part::Outbox
    } else {
        Part::Everything
    };
    if arguments.dry_run {
        let statements = database.pending(part, arguments.uninstall).await?;
        print!("{statements}");
    } else if arguments.uninstall {
        database.uninstall(part).await?;
        println!(
            "{} at {url} has nothing of this server any more",
            database.kind()
        );
    } else {
        let migrated = match database.migrate(part).await {
            Err(error) if error.is_forbidden() => bail!("{}: {FORBIDDEN}", error.reason()),
            migrated => migrated?,
        };
        println!("{} at {url} is up to date", database.kind());
        println!("applied now: {}", listed(&migrated.now));
        println!("there before: {}", listed(&migrated.before));
        println!("{}", chats(&database, &config.database).await);
        println!(
            "Tables of a chat backend's own were not touched: they are the backend's to make and to change"
        );
    }
    database.close().await;
    Ok(ExitCode::SUCCESS)
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    }
}

/// Whether a server finds users' chats in this database.
async fn chats(database: &Database, config: &DatabaseConfig) -> String {
    if config.membership_query.is_empty() {
        return "chats: none, since database.membership_query is empty".to_owned();
    }
    match membership::attempt(database, config).await {
        Ok(()) => format!(
            "chats: database.membership_query works here: {}",
            config.membership_query
        ),
        Err(error) => format!(
            "chats: database.membership_query does not work here, so that streams of a user's chats would be \
             refused: {}; {}",
            error.reason(),
            membership::problem(error.fault())
        ),
    }
}
