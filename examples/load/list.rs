//! The scenario of listing: how long it takes to go through all connections, page by page, and what that
//! costs those who are waiting for events meanwhile.

use std::{cell::Cell, collections::HashSet, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::time::Instant;

use crate::{
    Options,
    caller::Caller,
    fleet::{Asking, Fleet},
    histogram::Histogram,
    process::{CpuClock, Process},
    publisher::Publisher,
    report::Report,
    resume::{PROBES, report_live},
    scenario::{MICRO, QUANTILES, report_times},
};

/// Bytes of text in each message.
const CONTENT: usize = 32;

/// The most events that one run can take, for the books.
const MOST: u64 = 600_000;

/// Users 1 to `--streams` are there to be listed. The ten behind them get the events, which go to a chat
/// that only they are in. All are in `--chat`.
#[derive(Args, Clone, Copy)]
pub(crate) struct List {
    /// The chat of those who get the events
    #[arg(long)]
    probes_chat: u64,
    /// Events per second to them
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds for which they are measured before
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How often everything is listed
    #[arg(long, default_value_t = 50)]
    times: u32,
    /// Entries of a page
    #[arg(long, default_value_t = 500)]
    page: usize,
    /// Between the end of one listing and the next
    #[arg(long, default_value = "50ms", value_parser = humantime::parse_duration)]
    pause: Duration,
}

/// What stands behind a mark, up to the next quote. Reading all of the JSON would keep this program from noticing
/// when an event arrives.
fn marked<'a>(body: &'a str, mark: &'static str) -> impl Iterator<Item = &'a str> {
    let places = body.match_indices(mark);
    places.filter_map(move |(at, _)| body[at + mark.len()..].split('"').next())
}

/// How long it took.
struct Books {
    lists: Histogram,
    pages: Histogram,
}

impl List {
    pub(crate) async fn run(
        self,
        options: &Options,
        server: Option<Process>,
        report: &mut Report,
    ) -> Result<()> {
        let rate = self.rate.max(1);
        let publisher = Publisher::connect(&options.nats, self.probes_chat, CONTENT).await?;
        let (listed, _) = Fleet::open(options, 1, options.streams).await?;
        let (probes, _) = Fleet::open(options, options.streams + 1, PROBES).await?;
        let there = listed.desk.open() + probes.desk.open();
        report.figure("connections", there as f64, "");

        let quiet = u64::from(rate) * u64::from(self.seconds);
        probes.expect(quiet);
        publisher.steady(quiet, rate).await?;
        probes.wait(options.patience).await;
        report_live(report, "live_before", &probes);

        // Not before: the server ends connections that ask nothing.
        let mut caller = Caller::connect(options.server, &Asking::new(options)).await?;
        let clock = CpuClock::start(server)?;
        probes.expect(MOST);
        let done = Cell::new(false);
        let listing = async {
            let books = self.list(&mut caller, there).await;
            done.set(true);
            books
        };
        let (published, books) = tokio::join!(publisher.steady_until(rate, || done.get()), listing);
        let books = books?;
        probes.desk.tally.borrow_mut().shorten(published?);
        probes.wait(options.patience).await;
        report_times(report, "list", &books.lists, &QUANTILES);
        report_times(report, "page", &books.pages, &QUANTILES);
        if let Some(cpu) = clock.elapsed()? {
            // With what the events cost, which is little.
            let each = cpu * MICRO / f64::from(self.times.max(1)) / 1e3;
            report.figure("cpu_ms_per_list", each, "ms");
        }
        report_live(report, "live_during", &probes);
        Ok(())
    }

    /// Lists everything, again and again; each time there must be as many as are `there`.
    async fn list(self, caller: &mut Caller, there: usize) -> Result<Books> {
        let mut books = Books {
            lists: Histogram::new(),
            pages: Histogram::new(),
        };
        for _ in 0..self.times {
            let began = Instant::now();
            let mut seen = HashSet::new();
            let mut after = None;
            loop {
                let page_began = Instant::now();
                let target = match &after {
                    None => format!("/api/v1/connections?limit={}", self.page),
                    Some(id) => format!("/api/v1/connections?limit={}&after={id}", self.page),
                };
                let page = caller.get(&target).await?;
                books.pages.record(page_began.elapsed().as_nanos() as u64);
                let body = page.text(200)?;
                seen.extend(marked(body, "\"connection_id\":\"").map(str::to_owned));
                match marked(body, "\"next\":\"").next() {
                    Some(id) => after = Some(id.to_owned()),
                    None => break,
                }
            }
            books.lists.record(began.elapsed().as_nanos() as u64);
            ensure!(
                seen.len() == there,
                "{} of {there} connections were listed",
                seen.len()
            );
            tokio::time::sleep(self.pause).await;
        }
        Ok(books)
    }
}
