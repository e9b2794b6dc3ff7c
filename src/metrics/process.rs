//! The process as the kernel sees it, under the names that all Prometheus clients use.

use std::fmt;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::memory;

/// The unit of times in `/proc/self/stat`: what user space sees on Linux is always 100 in a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// When the metrics were made, which is as good as when the process was.
static STARTED: LazyLock<f64> = LazyLock::new(|| {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
});

/// Reads `/proc` at each scrape.
#[derive(Debug)]
pub(super) struct Process;

impl Process {
    /// Notes the time.
    pub(super) fn new() -> Self {
        LazyLock::force(&STARTED);
        Self
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge(
            "process_start_time_seconds",
            "When the process began, in seconds since 1970",
            Some(*STARTED),
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Memory that the process holds",
            memory::resident().map(|bytes| bytes as f64),
        )?;
        gauge(
            "process_open_fds",
            "Open files, sockets among them",
            open_files(),
        )?;
        gauge(
            "process_max_fds",
            "How many files may be open",
            rlimit::getrlimit(rlimit::Resource::NOFILE)
                .ok()
                .map(|(soft, _)| soft as f64),
        )?;
        if let Some(cpu) = cpu_seconds() {
            let counter = ConstCounter::new(cpu);
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                "Processor time taken",
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

fn open_files() -> Option<f64> {
    // The folder that is read is one of them.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as f64)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}
