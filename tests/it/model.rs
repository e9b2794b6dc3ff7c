//! The whole system by chance: two instances, one nats-server, clients that come and go. Every client
//! must see exactly what a simple reference says, or be told of a gap that covers the difference.
//!
//! `MODEL_SEED` repeats what happened, as far as timing lets it; `MODEL_SECONDS` says for how long;
//! `MODEL_TRACE` names a folder for what every client saw, and for what instances said that could not read what one had
//! missed.

mod client;
mod reference;
mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::client::Sight;
use self::reference::{Report, Truth};
use self::world::World;

/// How long things happen, unless `MODEL_SECONDS` says otherwise.
const SECONDS: u64 = 30;

/// Less than the time that a client waits for a log that is away, before it gets a gap.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_gets_exactly_what_is_its_own_or_a_gap() {
    let seed = variable("MODEL_SEED").unwrap_or_else(rand::random);
    println!("MODEL_SEED={seed}");
    let (mut world, clients, members) = World::new(seed).await;
    let until = Instant::now() + Duration::from_secs(variable("MODEL_SECONDS").unwrap_or(SECONDS));
    while Instant::now() < until {
        world.step().await;
    }
    let ending = Instant::now();
    let seen = world.end(clients).await;
    let ended = ending.elapsed();
    let truth = Truth {
        members,
        log: world.log().await,
        published: world.published,
    };
    let mut report = Report::default();
    let mut wrong = Vec::new();
    let logged: BTreeSet<u64> = truth.log.values().copied().collect();
    for number in truth.published.keys() {
        if !logged.contains(number) && !world.at_risk.contains(number) {
            wrong.push(format!("{number} was published and is not in the log"));
        }
    }
    for (user, seen) in &seen {
        wrong.extend(truth.compare(*user, seen, &mut report));
    }
    let (logged, steps) = (truth.log.len(), &world.steps);
    println!("{logged} logged, {report:?}, {steps:?}, ended in {ended:?}");
    if let Some(folder) = std::env::var_os("MODEL_TRACE") {
        write_down(&PathBuf::from(folder), &truth, &seen, &world.logs);
    }
    // The log has everything, so that nobody has to be told that it has not; unless it was away for
    // longer than a client waits for it.
    if report.gaps > 0 && world.longest_outage < PATIENCE {
        let (gaps, unread) = (report.gaps, &world.unread);
        wrong.push(format!("{gaps} gaps, and nothing was lost: {unread:?}"));
    }
    let count = wrong.len();
    wrong.truncate(20);
    assert!(
        wrong.is_empty(),
        "MODEL_SEED={seed}: {count} wrong: {wrong:#?}"
    );
}

/// What there is to look at when something is wrong.
fn write_down(folder: &Path, truth: &Truth, seen: &[(i64, Vec<Sight>)], logs: &[String]) {
    std::fs::write(folder.join("truth"), format!("{truth:#?}")).unwrap();
    for (user, seen) in seen {
        let lines: Vec<_> = seen.iter().map(|sight| format!("{sight:?}")).collect();
        std::fs::write(folder.join(format!("user-{user}")), lines.join("\n")).unwrap();
    }
    for (number, log) in logs.iter().enumerate() {
        std::fs::write(folder.join(format!("log-{number}")), log).unwrap();
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
