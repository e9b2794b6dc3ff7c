//! What the kernel says of a process. Linux only.

use std::fs;

use anyhow::{Context as _, Result};

/// A number of `/proc/PID/status`: of `VmRSS` in KiB, of `Threads` how many there are.
///
/// # Errors
/// There is no such process, or nothing of that name is said of it.
pub(crate) fn number(pid: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path)
        .with_context(|| format!("reading {path}: is the server running?"))?;
    let value = status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.split_whitespace().next()?.parse().ok()
    });
    value.with_context(|| format!("no {name} in {path}"))
}
