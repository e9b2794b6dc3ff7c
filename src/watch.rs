//! Whether files are still those that they were: by what the file system says of them, wherever links lead.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::Period;

/// The `reload` section of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadConfig {
    /// How often the configuration and the files that it names are looked at; 0 for never.
    pub interval: Period,
}

impl Default for ReloadConfig {
    fn default() -> Self {
        Self {
            interval: Period::secs(10),
        }
    }
}

/// What files were like at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance(Vec<(PathBuf, Option<Stamp>)>);

/// What changes with a file: when it is written, replaced, or when a link on the way to it leads elsewhere, as
/// Kubernetes has it for the files of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Also moves when the time of modification is set back.
    changed: (i64, i64),
}

impl Glance {
    /// What these files are like now; one that is not there is told from every one that is.
    #[must_use]
    pub fn at(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamped = files.into_iter().map(|file| {
            let stamp = fs::metadata(&file).ok().map(|metadata| Stamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                length: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            });
            (file, stamp)
        });
        Self(stamped.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_happens_to_a_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        for data in [&one, &two] {
            fs::create_dir(data).unwrap();
            fs::write(data.join("config.yml"), "a: 1").unwrap();
        }
        // As Kubernetes does it: the file is a link through a link to a folder.
        let (data, file) = (folder.path().join("data"), folder.path().join("config.yml"));
        symlink("1", &data).unwrap();
        symlink("data/config.yml", &file).unwrap();
        let glance = || Glance::at([file.clone()]);
        let first = glance();
        assert_eq!(first, glance());
        let other = folder.path().join("other");
        symlink("2", &other).unwrap();
        fs::rename(&other, &data).unwrap();
        let swapped = glance();
        assert_ne!(first, swapped);
        fs::write(two.join("config.yml"), "a: 22").unwrap();
        let written = glance();
        assert_ne!(swapped, written);
        fs::remove_file(two.join("config.yml")).unwrap();
        assert_ne!(written, glance());
        assert_ne!(first, glance());
    }
}
