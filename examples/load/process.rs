//! What the kernel says of a process: CPU time and resident memory. Linux only, as is the bench.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use crate::status;

/// Unit of the times in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// How often memory is looked at until it has settled.
const SETTLE_EVERY: Duration = Duration::from_millis(250);
/// Memory has settled when it changed by no more than this…
const SETTLED_KIB: u64 = 64;
/// … this many times in a row.
const SETTLED_TIMES: u32 = 4;
/// Looked at no more often than this (10 s): a server that never settles is measured as it is.
const SETTLE_LOOKS: u32 = 40;

/// A process.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// This one.
    pub(crate) fn own() -> Self {
        Self::new(std::process::id())
    }

    /// User and system time so far, of all threads.
    fn cpu(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = fs::read_to_string(&path)
            .with_context(|| format!("reading {path}: is the server running?"))?;
        // The name before it is in parentheses, and may itself hold spaces and parentheses.
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let ticks = |index| fields.split_whitespace().nth(index)?.parse::<u32>().ok();
        // Fields 14 and 15 of proc_pid_stat(5), counted from the third.
        let (user, system) = ticks(11)
            .zip(ticks(12))
            .context("no times in /proc/PID/stat")?;
        Ok(TICK * (user + system))
    }

    /// Resident memory in KiB, once it has stopped changing.
    pub(crate) async fn settled_rss_kib(self) -> Result<u64> {
        let mut last = self.rss_kib()?;
        let mut same = 0;
        for _ in 0..SETTLE_LOOKS {
            tokio::time::sleep(SETTLE_EVERY).await;
            let now = self.rss_kib()?;
            same = if now.abs_diff(last) <= SETTLED_KIB {
                same + 1
            } else {
                0
            };
            last = now;
            if same == SETTLED_TIMES {
                break;
            }
        }
        Ok(last)
    }

    fn rss_kib(self) -> Result<u64> {
        status::number(self.pid, "VmRSS")
    }
}

/// The CPU time of a process since a moment, if there is a process to look at.
pub(crate) struct CpuClock {
    started: Option<(Process, Duration)>,
}

impl CpuClock {
    pub(crate) fn start(process: Option<Process>) -> Result<Self> {
        let started = match process {
            Some(process) => Some((process, process.cpu()?)),
            None => None,
        };
        Ok(Self { started })
    }

    /// In seconds.
    pub(crate) fn elapsed(&self) -> Result<Option<f64>> {
        let Some((process, before)) = self.started else {
            return Ok(None);
        };
        Ok(Some((process.cpu()? - before).as_secs_f64()))
    }
}
