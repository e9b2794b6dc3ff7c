//! `migrate`: creates the tables, only ever when it is asked to.

use std::process::ExitCode;

use notify_server::config::Config;
use notify_server::database::Database;

pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let url = match &config.database.url {
        Some(url) => url.clone(),
        None => {
            std::fs::create_dir_all(&config.data_dir)?;
            Database::file_url(&config.development_database())
        }
    };
    let database = Database::create(&url, &config.database)?;
    database.migrate().await?;
    println!("{} at {url} is up to date", database.kind());
    database.close().await;
    Ok(ExitCode::SUCCESS)
}
