//! Alone: one process at a time changes a file that people keep, such as the vault, so that reading, changing and writing
//! it are one step. It knows no file, only the folder that it lies in.
//!
//! **Invariant**: the lock is the kernel's, on the folder itself: it ends with its process and leaves nothing behind.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};

/// A change takes milliseconds: who has it for longer was stopped, or its disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often we look whether it is our turn.
const LOOK: Duration = Duration::from_millis(20);

/// Held while files of the folder are changed. Never while somebody is asked something.
#[derive(Debug)]
pub(crate) struct Alone {
    _dir: File,
}

/// Waits for it a little while. `dir` must be there.
///
/// # Errors
/// Busy when another process does not let go of it.
pub(crate) fn alone_in(dir: &Path) -> Result<Alone> {
    within(dir, PATIENCE)
}

fn within(dir: &Path, patience: Duration) -> Result<Alone> {
    let doing = || format!("lock {}", dir.display());
    let file = File::open(dir).context(doing)?;
    let start = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            // Some network file systems lock no folders. There it is as it was without this: the last one wins.
            Err(Errno::BADF | Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if start.elapsed() < patience => thread::sleep(LOOK),
            Err(Errno::WOULDBLOCK) => {
                let message = format!("another tako has been changing {} for {} s", dir.display(), patience.as_secs());
                return Err(Error::new(Kind::Busy, message)
                    .hint("nothing was changed; is one stopped in another shell? end it and try again"));
            }
            Err(e) => return Err(e).context(doing),
        }
    }
    Ok(Alone { _dir: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_for_the_first_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let first = alone_in(dir.path()).unwrap();
        let error = within(dir.path(), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains("another tako"), "{error}");
        let path = dir.path().to_path_buf();
        let second = thread::spawn(move || alone_in(&path));
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn nobody_loses_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("count");
        std::fs::write(&file, "0").unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _alone = alone_in(dir.path()).unwrap();
                        let count: u32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
                        std::fs::write(&file, (count + 1).to_string()).unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "160");
    }
}
