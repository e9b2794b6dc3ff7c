//! The scenarios: what is opened, published and waited for, and which figures come of it.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::{
    Options, Scenario,
    fleet::{Fleet, Opening},
    histogram::Histogram,
    process::{CpuClock, Process},
    publisher::Publisher,
    report::Report,
    stream::now_ns,
};

pub(crate) const MICRO: f64 = 1e6;

/// Runs the scenario that the options name.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let server = options.server_pid.map(Process::new);
    let mut report = Report::new();
    match options.scenario {
        Scenario::Resume(resume) => {
            resume.run(options, server, &mut report).await?;
            return Ok(report);
        }
        Scenario::Publish(publish) => {
            publish.run(options, server, &mut report).await?;
            return Ok(report);
        }
        Scenario::List(list) => {
            list.run(options, server, &mut report).await?;
            return Ok(report);
        }
        _ => {}
    }
    // What the first stream ever costs (code paged in, threads, caches) is not what a stream costs.
    drop(Fleet::open(options, 1, 1).await?);
    let memory_before = settled_rss(server).await?;

    let clock = CpuClock::start(server)?;
    let (fleet, opening) = Fleet::open(options, 1, options.streams).await?;
    report_opening(&mut report, &fleet, &opening, clock.elapsed()?);

    match options.scenario {
        Scenario::Open => {
            let after = settled_rss(server).await?;
            report_memory(&mut report, memory_before, after, opening.confirmed);
        }
        Scenario::Idle { seconds } => {
            idle(&mut report, server, Duration::from_secs(seconds.into())).await?;
            let after = settled_rss(server).await?;
            report_memory(&mut report, memory_before, after, opening.confirmed);
        }
        Scenario::Steady {
            rate,
            seconds,
            content,
        } => {
            let publisher = Publisher::connect(&options.nats, options.chat, content).await?;
            let rate = rate.max(1);
            let run = Run::start(&fleet, server, u64::from(rate) * u64::from(seconds))?;
            let late = publisher.steady(run.events, rate).await?;
            fleet.wait(options.patience).await;
            run.report(&mut report)?;
            report.figure("publisher_late_max_ms", late.as_secs_f64() * 1e3, "ms");
        }
        Scenario::Resume(_) | Scenario::Publish(_) | Scenario::List(_) => {}
        Scenario::Burst { events, content } => {
            let publisher = Publisher::connect(&options.nats, options.chat, content).await?;
            let run = Run::start(&fleet, server, events as u64)?;
            publisher.burst(run.events).await?;
            fleet.wait(options.patience).await;
            run.report(&mut report)?;
        }
    }
    report_others(&mut report, &fleet);
    Ok(report)
}

/// Events being published and delivered.
struct Run<'a> {
    fleet: &'a Fleet,
    events: u64,
    started_ns: u64,
    server: CpuClock,
    load: CpuClock,
}

impl<'a> Run<'a> {
    fn start(fleet: &'a Fleet, server: Option<Process>, events: u64) -> Result<Self> {
        fleet.expect(events);
        Ok(Self {
            fleet,
            events,
            server: CpuClock::start(server)?,
            load: CpuClock::start(Some(Process::own()))?,
            started_ns: now_ns(),
        })
    }

    fn report(self, report: &mut Report) -> Result<()> {
        let tally = self.fleet.desk.tally.borrow();
        let delivered = tally.delivered as f64;
        // To the last delivery: what comes after is patience.
        let seconds = tally.last_ns.saturating_sub(self.started_ns).max(1) as f64 / 1e9;
        report.figure("events", self.events as f64, "");
        report.figure("deliveries", delivered, "");
        report.figure("deliver_seconds", seconds, "s");
        report.figure("deliveries_per_second", delivered / seconds, "/s");
        report_times(report, "latency", &tally.latency, &QUANTILES);
        if let Some(cpu) = self.server.elapsed()? {
            report.figure(
                "cpu_us_per_delivery",
                cpu * MICRO / delivered.max(1.0),
                "µs",
            );
            report.figure("cpu_percent", cpu * 100.0 / seconds, "%");
        }
        if let Some(cpu) = self.load.elapsed()? {
            report.figure("load_cpu_percent", cpu * 100.0 / seconds, "%");
        }
        report.must_be_zero("lost", tally.missing);
        report.must_be_zero("doubled", tally.doubled);
        report.must_be_zero("out_of_order", tally.out_of_order);
        report.must_be_zero("stray", tally.stray);
        Ok(())
    }
}

pub(crate) const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p999", 0.999),
    ("max", 1.0),
];

pub(crate) fn report_times(
    report: &mut Report,
    name: &str,
    times: &Histogram,
    quantiles: &[(&str, f64)],
) {
    for (quantile, share) in quantiles {
        let milliseconds = times.quantile(*share) as f64 / 1e6;
        report.figure(&format!("{name}_{quantile}_ms"), milliseconds, "ms");
    }
}

fn report_opening(report: &mut Report, fleet: &Fleet, opening: &Opening, cpu: Option<f64>) {
    let streams = opening.confirmed as f64;
    let seconds = opening.took.as_secs_f64();
    report.figure("streams", streams, "");
    report.figure("open_seconds", seconds, "s");
    report.figure("connections_per_second", streams / seconds, "/s");
    let first_event = fleet.desk.first_event.borrow();
    report_times(report, "first_event", &first_event, &QUANTILES);
    if let Some(cpu) = cpu {
        report.figure(
            "cpu_us_per_connection",
            cpu * MICRO / streams.max(1.0),
            "µs",
        );
    }
    let refused: usize = opening.refused.values().sum();
    report.must_be_zero("refused", refused as u64);
    for (reason, count) in &opening.refused {
        report.failure(format!("{count} streams refused: {reason}"));
    }
}

async fn idle(report: &mut Report, server: Option<Process>, time: Duration) -> Result<()> {
    let clock = CpuClock::start(server)?;
    let started = Instant::now();
    tokio::time::sleep(time).await;
    if let Some(cpu) = clock.elapsed()? {
        let share = cpu / started.elapsed().as_secs_f64();
        report.figure("idle_cpu_percent", share * 100.0, "%");
    }
    Ok(())
}

pub(crate) async fn settled_rss(server: Option<Process>) -> Result<Option<u64>> {
    match server {
        Some(server) => server.settled_rss_kib().await.map(Some),
        None => Ok(None),
    }
}

fn report_memory(report: &mut Report, before: Option<u64>, after: Option<u64>, streams: usize) {
    let Some((before, after)) = before.zip(after) else {
        return;
    };
    report.figure("rss_before_kib", before as f64, "KiB");
    report.figure("rss_after_kib", after as f64, "KiB");
    let grown = after.saturating_sub(before) as f64;
    report.figure("rss_per_stream_kib", grown / streams.max(1) as f64, "KiB");
}

pub(crate) fn report_others(report: &mut Report, fleet: &Fleet) {
    for (reason, count) in &*fleet.desk.ended.borrow() {
        report.failure(format!("{count} streams ended: {reason}"));
    }
    for (kind, count) in &*fleet.desk.others.borrow() {
        report.note(format!("{count} events of type {kind}"));
    }
}
