//! The scenario of publishing over HTTP: how many messages a server takes, one by one or in batches, and how
//! soon they are on the streams. An answer counts when it says that the log has the message.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Write as _,
    rc::Rc,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;
use memchr::memmem;
use tokio::{task::LocalSet, time::Instant};

use crate::{
    Options,
    caller::Caller,
    desk::count,
    fleet::{Asking, Fleet},
    histogram::Histogram,
    process::{CpuClock, Process},
    report::Report,
    scenario::{MICRO, QUANTILES, report_others, report_times},
    stream::now_ns,
};

/// The server has to be configured to take so many messages of one user (`server.publish_rate`).
#[derive(Args, Clone, Copy)]
pub(crate) struct Publish {
    /// Messages of a request; 1: each is sent by itself
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// Connections, each of which sends the next request when the last one is answered
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Messages in all
    #[arg(long, default_value_t = 50_000)]
    messages: u64,
    /// Messages per second, evenly spaced; without it as fast as they are answered
    #[arg(long)]
    rate: Option<u32>,
    /// Bytes of text in each message
    #[arg(long, default_value_t = 32)]
    content: usize,
}

/// What the connections share.
struct Counter {
    publish: Publish,
    chat: u64,
    content: String,
    began: Instant,
    next: Cell<u64>,
    accepted: Cell<u64>,
    /// When the last answer came.
    ended: Cell<Instant>,
    requests: RefCell<Histogram>,
    late: Cell<Duration>,
    /// Why messages were not accepted.
    wrong: RefCell<BTreeMap<String, usize>>,
}

impl Publish {
    pub(crate) async fn run(
        self,
        options: &Options,
        server: Option<Process>,
        report: &mut Report,
    ) -> Result<()> {
        ensure!(self.batch > 0, "--batch must be at least 1");
        let (fleet, opening) = Fleet::open(options, 1, options.streams).await?;
        let asking = Asking::new(options);
        let mut callers = Vec::new();
        for _ in 0..self.connections.max(1) {
            callers.push(Caller::connect(options.server, &asking).await?);
        }
        // What the first request ever costs is not what a request costs.
        let counter = Counter::new(self, options.chat, self.batch);
        fleet.expect(self.batch);
        Rc::clone(&counter).work(callers.remove(0)).await?;
        fleet.wait(options.patience).await;
        callers.push(Caller::connect(options.server, &asking).await?);

        let counter = Counter::new(self, options.chat, self.messages);
        fleet.expect(self.messages);
        let (clock, load) = (
            CpuClock::start(server)?,
            CpuClock::start(Some(Process::own()))?,
        );
        let work = LocalSet::new();
        let tasks: Vec<_> = callers
            .into_iter()
            .map(|caller| work.spawn_local(Rc::clone(&counter).work(caller)))
            .collect();
        work.run_until(async {
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })
        .await?;
        fleet.wait(options.patience).await;

        report.figure("streams", opening.confirmed as f64, "");
        counter.report(report);
        let cpu = [("cpu", clock.elapsed()?), ("load_cpu", load.elapsed()?)];
        for (name, cpu) in cpu {
            let Some(cpu) = cpu else { continue };
            let each = cpu * MICRO / self.messages as f64;
            report.figure(&format!("{name}_us_per_message"), each, "µs");
            let seconds = counter.seconds();
            report.figure(&format!("{name}_percent"), cpu * 100.0 / seconds, "%");
        }
        let tally = fleet.desk.tally.borrow();
        report_times(report, "latency", &tally.latency, &QUANTILES);
        report.must_be_zero("lost", tally.missing);
        report.must_be_zero("doubled", tally.doubled);
        report.must_be_zero("stray", tally.stray);
        drop(tally);
        report_others(report, &fleet);
        Ok(())
    }
}

impl Counter {
    fn new(publish: Publish, chat: u64, messages: u64) -> Rc<Self> {
        let text = "the quick brown fox jumps over ".chars().cycle();
        let now = Instant::now();
        Rc::new(Self {
            publish: Publish {
                messages,
                ..publish
            },
            chat,
            content: text.take(publish.content).collect(),
            began: now,
            next: Cell::new(0),
            accepted: Cell::new(0),
            ended: Cell::new(now),
            requests: RefCell::new(Histogram::new()),
            late: Cell::new(Duration::ZERO),
            wrong: RefCell::default(),
        })
    }

    /// Sends one request after the other, until there are no more.
    async fn work(self: Rc<Self>, mut caller: Caller) -> Result<()> {
        let Publish {
            batch,
            messages,
            rate,
            ..
        } = self.publish;
        loop {
            let first = self.next.get();
            let last = (first + batch).min(messages);
            if first >= last {
                return Ok(());
            }
            self.next.set(last);
            if let Some(rate) = rate {
                let due = self.began + Duration::from_secs_f64(first as f64 / f64::from(rate));
                tokio::time::sleep_until(due).await;
                self.late.set(self.late.get().max(due.elapsed()));
            }
            let began = Instant::now();
            let answer = if batch == 1 {
                let body = self.message(first);
                caller.post("/api/v1/messages/send", &body).await?
            } else {
                let all: Vec<String> = (first..last).map(|seq| self.message(seq)).collect();
                let body = format!("{{\"messages\":[{}]}}", all.join(","));
                caller.post("/api/v1/messages/batch", &body).await?
            };
            let all = batch == 1 || memmem::find(answer.body, b"\"rejected\":0").is_some();
            if answer.status == 202 && all {
                self.accepted.set(self.accepted.get() + last - first);
            } else {
                let text = String::from_utf8_lossy(answer.body);
                let some: String = text.chars().take(200).collect();
                count(&self.wrong, format!("{}: {some}", answer.status));
            }
            let took = began.elapsed();
            self.requests.borrow_mut().record(took.as_nanos() as u64);
            self.ended.set(Instant::now());
        }
    }

    fn message(&self, seq: u64) -> String {
        let (chat, content, sent) = (self.chat, &self.content, now_ns());
        let mut text = String::with_capacity(128 + content.len());
        // Writing to a text does not fail.
        let _ = write!(
            text,
            "{{\"type\":\"load.message\",\"channel\":\"chat:{chat}\",\
             \"data\":{{\"content\":\"{content}\",\"sent_ns\":{sent},\"seq\":{seq}}}}}"
        );
        text
    }

    fn seconds(&self) -> f64 {
        (self.ended.get() - self.began).as_secs_f64().max(1e-9)
    }

    fn report(&self, report: &mut Report) {
        let (accepted, seconds) = (self.accepted.get(), self.seconds());
        report.figure("accepted", accepted as f64, "");
        report.figure("publish_seconds", seconds, "s");
        report.figure("published_per_second", accepted as f64 / seconds, "/s");
        report_times(report, "request", &self.requests.borrow(), &QUANTILES);
        if self.publish.rate.is_some() {
            let late = self.late.get().as_secs_f64() * 1e3;
            report.figure("publisher_late_max_ms", late, "ms");
        }
        report.must_be_zero("not_accepted", self.publish.messages - accepted);
        for (reason, count) in &*self.wrong.borrow() {
            report.failure(format!("{count} requests: {reason}"));
        }
    }
}
