//! Running a program on one thread.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

/// Runs to the end, with tasks that stay on this thread; says what went wrong.
pub(crate) fn run(program: impl Future<Output = Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let tasks = tokio::task::LocalSet::new();
    let done = runtime
        .context("a runtime")
        .and_then(|runtime| tasks.block_on(&runtime, program));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
