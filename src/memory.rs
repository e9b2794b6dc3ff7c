//! Whether memory is short: how much the process holds is looked at several times a second and compared with a
//! limit, which is configured or follows from the limit of the control group that the process is in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::units::Size;

/// How often memory is looked at. A look takes some 30 µs.
const LOOK: Duration = Duration::from_millis(250);

/// The part of the control group's limit from which on memory is short, in percent: what is above is for
/// requests under way, and for what the allocator has not given back.
const OF_GROUP: u64 = 85;

/// The part of the limit below which memory is no longer short, in percent. The distance keeps the server from
/// changing its mind with every look.
const ENOUGH: u64 = 95;

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Above how much resident memory new streams are refused: `auto`, `off`, or a size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// 85 % of the control group's limit; none where that has none.
    #[default]
    Auto,
    /// None.
    Off,
    /// So much.
    At(Size),
}

/// Knows whether memory is short. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// In bytes; 0 for none.
    limit: AtomicU64,
    resident: AtomicU64,
    short: AtomicBool,
    limit_gauge: Gauge,
    short_gauge: Gauge,
}

impl MemoryLimit {
    /// The limit in bytes, if there is one.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::Auto => {
                let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                let limit = group_limit(Path::new(GROUPS), &groups)?;
                Some(limit / 100 * OF_GROUP)
            }
            Self::Off => None,
            Self::At(size) => Some(size.0),
        }
    }
}

impl Memory {
    /// Compares with a limit from now on.
    pub fn set_limit(&self, limit: MemoryLimit) {
        let bytes = limit.bytes().unwrap_or(0);
        self.0.limit.store(bytes, Ordering::Relaxed);
        self.0
            .limit_gauge
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether memory is short.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.short.load(Ordering::Relaxed)
    }

    /// How memory is, in words.
    #[must_use]
    pub fn detail(&self) -> String {
        let resident = Size(self.0.resident.load(Ordering::Relaxed));
        match self.0.limit.load(Ordering::Relaxed) {
            0 => format!("{resident} resident, no limit"),
            limit if self.is_short() => format!(
                "{resident} resident, limit {}: new streams are refused",
                Size(limit)
            ),
            limit => format!("{resident} resident, limit {}", Size(limit)),
        }
    }

    /// Registers the metrics under their public names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "memory_limit_bytes",
            "Resident memory above which new streams are refused; 0 for no limit",
            self.0.limit_gauge.clone(),
        );
        registry.register(
            "memory_short",
            "Whether memory is short, so that new streams are refused: 1 or 0",
            self.0.short_gauge.clone(),
        );
    }

    /// Looks at the memory until the server stops.
    pub async fn run(self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Some(resident) = resident() {
                self.look(resident);
            }
        }
    }

    /// The process holds so many bytes.
    pub(crate) fn look(&self, resident: u64) {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let before = self.is_short();
        let short = judge(before, resident, limit);
        self.0.resident.store(resident, Ordering::Relaxed);
        if short == before {
            return;
        }
        self.0.short.store(short, Ordering::Relaxed);
        self.0.short_gauge.set(short.into());
        if short {
            warn!(
                resident,
                limit,
                "memory is short: new streams are refused, and typing and presence are not delivered"
            );
        } else {
            info!(resident, limit, "memory is no longer short");
        }
    }
}

/// Whether so much memory is too much, in bytes; `short` is whether it was before.
fn judge(short: bool, resident: u64, limit: u64) -> bool {
    let enough = limit / 100 * ENOUGH;
    limit > 0 && resident > if short { enough } else { limit }
}

/// How much memory this process holds, in bytes.
#[must_use]
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The least limit of the control groups that a process is in, in bytes; `groups` is its `/proc/self/cgroup`.
fn group_limit(root: &Path, groups: &str) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        // Version 2 has one group for all, version 1 one for each kind of thing.
        let (folder, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // Within a container the path may be one of outside, and then only the root is there.
        for limit in up_from(folder, path)
            .into_iter()
            .map(|group| group.join(file))
        {
            least = [least, read_limit(&limit)].into_iter().flatten().min();
        }
    }
    least
}

/// The folders of a group and of all above it.
fn up_from(root: PathBuf, path: &str) -> Vec<PathBuf> {
    let mut folders = vec![root.clone()];
    let mut folder = root;
    // No step leads out of the root.
    for step in path
        .split('/')
        .filter(|step| !matches!(*step, "" | "." | ".."))
    {
        folder.push(step);
        folders.push(folder.clone());
    }
    folders
}

fn read_limit(file: &Path) -> Option<u64> {
    /// What version 1 says for "no limit" is above this, rounded to pages.
    const NONE: u64 = 1 << 60;
    let text = std::fs::read_to_string(file).ok()?;
    // "max" is no number, and no limit.
    text.trim().parse().ok().filter(|limit| *limit < NONE)
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::At(size) => size.fmt(f),
        }
    }
}

impl Serialize for MemoryLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected auto, off, or a size such as 512 MiB")]
        enum Written {
            Size(Size),
            Word(String),
            // What YAML makes of `off`.
            Flag(bool),
        }
        let wrong = || serde::de::Error::custom("expected auto, off, or a size such as 512 MiB");
        match Written::deserialize(deserializer)? {
            Written::Size(size) => Ok(Self::At(size)),
            Written::Word(word) if word == "auto" => Ok(Self::Auto),
            Written::Word(word) if word == "off" => Ok(Self::Off),
            Written::Flag(false) => Ok(Self::Off),
            Written::Word(_) | Written::Flag(true) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_limit_is_a_word_or_a_size() {
        let read = |text: &str| serde_json::from_str::<MemoryLimit>(text).ok();
        assert_eq!(read("\"auto\""), Some(MemoryLimit::Auto));
        assert_eq!(read("\"off\""), Some(MemoryLimit::Off));
        assert_eq!(read("false"), Some(MemoryLimit::Off));
        assert_eq!(
            read("\"1 GiB\""),
            Some(MemoryLimit::At(Size(1_073_741_824)))
        );
        assert_eq!(read("1000"), Some(MemoryLimit::At(Size(1000))));
        assert_eq!(read("\"much\""), None);
        assert_eq!(read("true"), None);
        for limit in [
            MemoryLimit::Auto,
            MemoryLimit::Off,
            MemoryLimit::At(Size(1 << 29)),
        ] {
            let text = serde_json::to_string(&limit).unwrap();
            assert_eq!(read(&text), Some(limit));
        }
    }

    #[test]
    fn the_least_limit_of_the_group_and_those_above_it_counts() {
        let root = tempfile::TempDir::new().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let limit = |groups: &str| group_limit(root.path(), groups);
        assert_eq!(limit("0::/\n"), None);
        write("memory.max", "max\n");
        write("pods/memory.max", "4000\n");
        write("pods/one/memory.max", "3000\n");
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("0::/pods/one\n"), Some(3000));
        assert_eq!(limit("0::/pods/two\n"), Some(4000));
        // Of outside, seen from within a container.
        assert_eq!(limit("0::/../../elsewhere\n"), None);
        write("memory.max", "5000");
        assert_eq!(limit("0::/../../elsewhere\n"), Some(5000));
        write("memory/a/memory.limit_in_bytes", "2000\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("4:cpu,memory:/a\n3:cpu:/b\n"), Some(2000));
        assert_eq!(limit("4:memory:/b\nnonsense\n"), None);
    }

    #[test]
    fn what_this_process_holds_is_found_out() {
        assert!((1 << 20..1 << 40).contains(&resident().unwrap()));
    }

    #[test]
    fn short_is_short_until_there_is_clearly_enough() {
        let memory = Memory::default();
        memory.set_limit(MemoryLimit::At(Size(1000)));
        let looks = [1000, 1001, 960, 951, 950, 1000].map(|resident| {
            memory.look(resident);
            memory.is_short()
        });
        assert_eq!(looks, [false, true, true, true, false, false]);
        memory.look(2000);
        assert!(memory.detail().contains("refused"), "{}", memory.detail());
        // Another limit counts at the next look.
        memory.set_limit(MemoryLimit::Off);
        memory.look(2000);
        assert!(!memory.is_short());
    }

    proptest! {
        #[test]
        fn it_is_never_short_below_the_lower_mark_and_always_above_the_limit(
            short in any::<bool>(),
            resident in 0_u64..2_000,
            limit in 0_u64..1_500,
        ) {
            let judged = judge(short, resident, limit);
            prop_assert!(!judged || limit > 0);
            prop_assert!(limit == 0 || resident <= limit || judged);
            prop_assert!(resident > limit / 100 * ENOUGH || !judged);
        }
    }
}
