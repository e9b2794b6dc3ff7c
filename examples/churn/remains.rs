//! What a server has, and whether it is what it had.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::guest::Guest;
use crate::status;

/// What has to be back at nothing when nobody is connected.
const GAUGES: [&str; 4] = [
    "notify_connections",
    "notify_outbox_frames",
    "notify_outbox_bytes",
    "notify_presence_users",
];

/// How often it is looked whether everything has come to rest, and how many times at most: a minute and a half. The
/// longest that anything is remembered of who has left is half a minute.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: u32 = 180;

/// Memory is at rest when it changed by no more than this for so many looks.
const REST_KIB: u64 = 64;
const REST_LOOKS: u32 = 6;

/// What a server has.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) memory_kib: u64,
    pub(crate) sockets: usize,
    pub(crate) threads: usize,
    /// By name; the number of channels with listeners is one of them.
    pub(crate) gauges: BTreeMap<String, f64>,
}

impl Remains {
    /// Looks until nothing changes any more.
    pub(crate) async fn settled(guest: &Guest, pid: u32) -> Result<Self> {
        let mut last = Self::now(guest, pid).await?;
        let mut same = 0;
        // That of the request that asks may be among them, or just have been closed.
        let mut sockets = last.sockets;
        for _ in 0..LOOKS {
            sleep(LOOK).await;
            let next = Self::now(guest, pid).await?;
            let rests =
                next.gauges == last.gauges && next.memory_kib.abs_diff(last.memory_kib) <= REST_KIB;
            let empty = next.gauges.values().all(|value| *value == 0.0);
            (same, sockets) = match rests && empty {
                true => (same + 1, sockets.min(next.sockets)),
                false => (0, next.sockets),
            };
            last = next;
            if same == REST_LOOKS {
                break;
            }
        }
        last.sockets = sockets;
        Ok(last)
    }

    async fn now(guest: &Guest, pid: u32) -> Result<Self> {
        let (_, metrics) = guest.ask("GET /metrics", "", "").await?;
        let mut gauges: BTreeMap<String, f64> = BTreeMap::new();
        for name in GAUGES {
            let values = metrics.lines().filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                rest.starts_with([' ', '{'])
                    .then(|| line.rsplit_once(' ')?.1.parse::<f64>().ok())?
            });
            gauges.insert(name.to_owned(), values.sum());
        }
        let token = guest.token(0, json!({"admin": true}))?;
        let (status, channels) = guest.ask("GET /api/v1/channels", &token, "").await?;
        ensure!(status == 200, "{status}: {channels}");
        let channels: Value = serde_json::from_str(&channels)?;
        let listed = channels["channels"]
            .as_array()
            .context("no list of channels")?
            .len();
        gauges.insert("channels".to_owned(), listed as f64);
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("is the server running?")?;
        let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        Ok(Self {
            memory_kib: status::number(pid, "VmRSS")?,
            threads: status::number(pid, "Threads")? as usize,
            sockets: files
                .filter(|file| file.to_string_lossy().starts_with("socket:"))
                .count(),
            gauges,
        })
    }

    /// Whether nothing has stayed since `before`, and no socket since `first`.
    pub(crate) fn compare(&self, first: &Self, before: &Self, growth: u64) -> Result<()> {
        for (name, value) in &self.gauges {
            ensure!(*value == 0.0, "{name} is {value}, and nobody is there");
        }
        ensure!(
            self.sockets <= first.sockets,
            "{} sockets, and {} at first",
            self.sockets,
            first.sockets
        );
        let grown = self.memory_kib.saturating_sub(before.memory_kib);
        ensure!(
            grown <= growth,
            "the memory has grown by {grown} KiB, at most {growth} may be"
        );
        Ok(())
    }
}
