//! The files that this process may have open, sockets among them.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use tracing::{info, warn};

/// The limit where it can't be found out.
const USUAL: usize = 1_024;

/// Raises the limit as far as the process may: each connection takes a file, and the usual soft limit of 1,024 is for
/// programs that use `select`. Gives the limit.
pub fn raise_limit() -> usize {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => {
            info!(files, "open files limit");
            usize::try_from(files).unwrap_or(usize::MAX)
        }
        Err(error) => {
            warn!(
                error = error.to_string(),
                "the open files limit could not be raised"
            );
            USUAL
        }
    }
}

/// Has the kernel's table of open files hold so many from now on, for some 8 bytes each.
///
/// Left alone the table doubles whenever it is full, and in a process with threads each time whoever opens a file
/// waits for a grace period of the kernel, 5 to 15 ms. A thread that accepts a connection would deliver nothing
/// meanwhile. Where the table can't be made larger now, it is left alone.
pub fn make_room(files: usize) {
    if let Err(error) = try_make_room(files) {
        warn!(
            files,
            error = error.to_string(),
            "the table of open files could not be made larger ahead of time"
        );
    }
}

fn try_make_room(files: usize) -> io::Result<()> {
    let last = RawFd::try_from(files.saturating_sub(1)).map_err(io::Error::other)?;
    // The first free number from there on; it is closed again at once, while the table never shrinks.
    rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null")?, last)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_more_files_than_a_process_may_have_is_an_error() {
        assert!(try_make_room(usize::MAX).is_err());
        let (_, most) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        assert!(try_make_room(usize::try_from(most).unwrap() + 1).is_err());
        try_make_room(0).unwrap();
    }
}
