//! The scenario of coming back: all clients are away while events pass, then all come back at once. What
//! that costs others is measured on a few streams that stay.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use thread_priority::ThreadPriority;
use tokio::sync::oneshot;

use crate::{
    Options,
    fleet::Fleet,
    histogram::Histogram,
    process::{CpuClock, Process},
    publisher::Publisher,
    report::Report,
    scenario::{MICRO, QUANTILES, report_others, report_times, settled_rss},
    visitors::Visit,
};

/// Streams that stay.
pub(crate) const PROBES: usize = 10;

/// The most events that one storm can take on these, for the books: ten minutes at 1,000 a second.
const MOST: u64 = 600_000;

/// Bytes of text in each message.
const CONTENT: usize = 32;

/// Users 1 to `--streams` are the clients, in as many chats behind `--chat` as there are groups: user U
/// in chat `--chat` + 1 + U modulo `--groups`. The ten users behind them stay, in a chat of their own
/// behind the groups' chats. All are in `--chat`, too, to which nothing is sent.
#[derive(Args, Clone, Copy)]
pub(crate) struct Resume {
    /// Groups that the clients are spread over
    #[arg(long, default_value_t = 1)]
    groups: u64,
    /// Events that each group's clients miss
    #[arg(long, default_value_t = 100)]
    missed: u64,
    /// Events per second to the streams that stay
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds for which those are measured before
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How often all go and come back: the rarest latencies of one storm are those of a few events
    #[arg(long, default_value_t = 1)]
    storms: u32,
}

impl Resume {
    pub(crate) async fn run(
        self,
        options: &Options,
        server: Option<Process>,
        report: &mut Report,
    ) -> Result<()> {
        ensure!(self.missed > 0, "--missed must be at least 1");
        let (clients, rate) = (options.streams, self.rate.max(1));
        let groups = options.chat + 1..options.chat + 1 + self.groups.max(1);
        let publisher = Publisher::connect(&options.nats, groups.end, CONTENT).await?;
        let (probes, _) = Fleet::open(options, clients + 1, PROBES).await?;

        let visit = Visit::begin(options, &vec![None; clients], 0)?;
        let opened = visit.arrival(options.patience).await;
        let lobby = Rc::clone(&visit.lobby);
        let mut ids = visit.departure(options.patience).await;
        report_wrong(report, &lobby.wrong.borrow());
        report.figure("clients", clients as f64, "");
        report.figure("first_visit_seconds", opened.as_secs_f64(), "s");

        // Ten thousand that leave at once keep the server busy, too, but are not what is measured.
        settled_rss(server).await?;
        let quiet = u64::from(rate) * u64::from(self.seconds);
        probes.expect(quiet);
        publisher.steady(quiet, rate).await?;
        probes.wait(options.patience).await;
        report_live(report, "live_before", &probes);

        let mut all = Storms::default();
        for _ in 0..self.storms.max(1) {
            settled_rss(server).await?;
            for seq in 0..self.missed {
                publisher.each(groups.clone(), seq).await?;
            }
            // When the streams that stay have this, the server has all that came before.
            probes.expect(1);
            publisher.burst(1).await?;
            probes.wait(options.patience).await;

            let clock = CpuClock::start(server)?;
            probes.expect(MOST);
            let storm = Storm::begin(options.clone(), ids, self.missed)?;
            let back = Cell::new(None);
            let arrival = async { back.set(storm.arrived.await.ok()) };
            let (published, ()) = tokio::join!(
                publisher.steady_until(rate, || back.get().is_some()),
                arrival
            );
            probes.desk.tally.borrow_mut().shorten(published?);
            probes.wait(options.patience).await;
            all.cpu = all.cpu.zip(clock.elapsed()?).map(|(sum, one)| sum + one);
            all.longest = all.longest.max(back.get().unwrap_or(Duration::ZERO));
            all.live.add(&probes);

            // What each gets next must be this, and not something that it has already.
            publisher.each(groups.clone(), self.missed).await?;
            let _ = storm.go.send(());
            let books = storm
                .books
                .await
                .context("the thread of those who come back")?;
            all.caught_up.absorb(&books.caught_up);
            report_wrong(report, &books.wrong);
            ids = books.ids;
        }
        report.figure("storms", f64::from(self.storms.max(1)), "");
        report.figure("missed_by_each", self.missed as f64, "");
        report_times(report, "caught_up", &all.caught_up, &QUANTILES);
        report.figure("resume_seconds", all.longest.as_secs_f64(), "s");
        if let Some(cpu) = all.cpu {
            let resumes = clients as f64 * f64::from(self.storms.max(1));
            report.figure("cpu_us_per_resume", cpu * MICRO / resumes, "µs");
        }
        all.live.report(report, "live_during");
        report_others(report, &probes);
        Ok(())
    }
}

/// What was measured in all storms.
struct Storms {
    live: Live,
    caught_up: Histogram,
    /// How long the longest took.
    longest: Duration,
    cpu: Option<f64>,
}

impl Default for Storms {
    fn default() -> Self {
        Self {
            live: Live::default(),
            caught_up: Histogram::default(),
            longest: Duration::ZERO,
            cpu: Some(0.0),
        }
    }
}

/// What streams that stay have got, in one stretch of time or several.
#[derive(Default)]
struct Live {
    latency: Histogram,
    samples: u64,
    wrong: u64,
}

impl Live {
    fn add(&mut self, probes: &Fleet) {
        let tally = probes.desk.tally.borrow();
        self.latency.absorb(&tally.latency);
        self.samples += tally.delivered;
        self.wrong += tally.missing + tally.doubled + tally.out_of_order + tally.stray;
    }

    fn report(&self, report: &mut Report, name: &str) {
        report.figure(&format!("{name}_samples"), self.samples as f64, "");
        report_times(report, name, &self.latency, &QUANTILES);
        report.must_be_zero(&format!("{name}_wrong"), self.wrong);
    }
}

/// Those who come back, on a thread of their own: what they read must not keep this program from
/// noticing when the streams that stay get something.
struct Storm {
    /// How long it took until all were back.
    arrived: oneshot::Receiver<Duration>,
    /// Lets them go, once they have what they get last.
    go: oneshot::Sender<()>,
    books: oneshot::Receiver<Books>,
}

/// What is known when all have left.
struct Books {
    /// How long each took.
    caught_up: Histogram,
    wrong: BTreeMap<String, usize>,
    /// The last id of each.
    ids: Vec<Option<String>>,
}

impl Storm {
    fn begin(options: Options, ids: Vec<Option<String>>, missed: u64) -> Result<Self> {
        let (arrived_sender, arrived) = oneshot::channel();
        let (go, going) = oneshot::channel();
        let (books_sender, books) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            // NATS and the streams that stay share a core with this thread, and are what is measured.
            let lowest = thread_priority::set_current_thread_priority(ThreadPriority::Min);
            let visit = async move {
                let visit = Visit::begin(&options, &ids, missed)?;
                let took = visit.arrival(options.patience).await;
                // Whoever waits for these may have given up.
                let _ = arrived_sender.send(took);
                let _ = going.await;
                let lobby = Rc::clone(&visit.lobby);
                let ids = visit.departure(options.patience).await;
                let books = Books {
                    caught_up: lobby.caught_up.replace(Histogram::new()),
                    wrong: lobby.wrong.take(),
                    ids,
                };
                let _ = books_sender.send(books);
                anyhow::Ok(())
            };
            lowest.map_err(|error| anyhow!("lowering a thread's priority: {error}"))?;
            tokio::task::LocalSet::new().block_on(&runtime, visit)
        });
        Ok(Self { arrived, go, books })
    }
}

pub(crate) fn report_live(report: &mut Report, name: &str, probes: &Fleet) {
    let mut live = Live::default();
    live.add(probes);
    live.report(report, name);
}

fn report_wrong(report: &mut Report, wrong: &BTreeMap<String, usize>) {
    let sum: usize = wrong.values().sum();
    if sum > 0 {
        report.must_be_zero("clients_wrong", sum as u64);
    }
    for (reason, count) in wrong {
        report.failure(format!("{count} clients: {reason}"));
    }
}
