//! A configuration: lines `NOTIFY_SERVER__KEY=VALUE` are the environment, the rest is the file.
//!
//! One that is refused is refused in words, without the secrets of the environment. One that is accepted is shown without
//! any.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use notify_server::config::load;
use tempfile::TempDir;

const SECRET: &str = "Zq8-correct-horse-battery-staple-Zq8";

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    // In memory, where there is such a folder.
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .expect("a folder")
});

fuzz_target!(|text: &str| {
    let (environment, file): (Vec<&str>, Vec<&str>) = text
        .lines()
        .partition(|line| line.starts_with("NOTIFY_SERVER__"));
    let environment = environment.iter().filter_map(|line| line.split_once('='));
    let mut environment: Vec<(String, String)> = environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    environment.push(("JWT_SECRET".to_owned(), SECRET.to_owned()));
    let path: PathBuf = FOLDER.path().join("config.yml");
    fs::write(&path, file.join("\n")).expect("room for a file");
    match load(&path, true, environment.into_iter(), &Vec::new()) {
        Ok(config) => {
            let shown = config.to_yaml().expect("what was read can be written");
            assert!(!shown.contains(SECRET), "a secret is shown");
            assert!(!format!("{config:?}").contains(SECRET), "a secret is shown");
        }
        Err(error) => {
            assert!(!error.0.is_empty());
            let told = error.to_string();
            // Where it stands in a place for something else, it is quoted like any other text there.
            assert!(
                text.contains(SECRET) || !told.contains(SECRET),
                "a secret is told"
            );
            for problem in error.0 {
                assert!(!problem.problem.is_empty());
                assert!(
                    problem.problem.len() < 4_000 + text.len(),
                    "{}",
                    problem.problem.len()
                );
            }
        }
    }
});
