//! Kept: connections that outlive the command which opened them by a minute, for the commands after it to use.
//!
//! `ssh` itself keeps them (ControlPersist); here is decided whether one is there and alive, who opens it when several
//! commands begin at once, and how many may use it. Whatever is wrong with one, a command does without.
//!
//! **Invariant**: nothing here makes a command fail, and nothing that is left behind by a killed one is ever in the way.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::select;

use super::MAX_CONTROL_PATH;
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::crypto::Sha256;
use crate::error::Result;

/// How long `ssh` keeps a connection that nobody uses: from one command to the next, not to the next day.
pub(super) const PERSIST: Duration = Duration::from_secs(60);
/// Commands that use one connection at the same time. Each has two channels, its own and that of an upload, and sshd
/// allows ten (MaxSessions): six leave room for what else the user does there.
const SLOTS: usize = 3;
/// A master answers a new client at once, unless it hangs.
const GREETING: Duration = Duration::from_secs(2);
/// How long we wait for another command to open the connection. It may be asking somebody a question; then we go alone.
const OPENING: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Older files of a session that begins are those of a command that was killed.
const ABANDONED: Duration = Duration::from_secs(120);
/// More files than this in our folder are not looked at, for a command must not wait for that.
const MAX_SWEPT: usize = 1_000;

/// A place on a kept connection, ours until it is dropped.
pub(super) struct Kept {
    pub path: PathBuf,
    _slot: Lock,
    /// Held by who opens the connection, until it stands.
    opening: Option<Lock>,
}

impl Kept {
    /// `key` is whatever decides where a connection leads and how. `None` when there is no room on it, or its path
    /// would be too long for a socket.
    ///
    /// # Errors
    /// Interrupted.
    pub fn find(dir: &Path, key: &[String], interrupt: &Interrupt) -> Result<Option<Kept>> {
        let path = dir.join(name_of(key));
        if path.as_os_str().len() > MAX_CONTROL_PATH {
            return Ok(None);
        }
        let Some(slot) = (1..=SLOTS).find_map(|n| Lock::take(&path.with_extension(n.to_string()))) else {
            return Ok(None);
        };
        let until = Instant::now() + OPENING;
        loop {
            if is_alive(&path) {
                return Ok(Some(Kept { path, _slot: slot, opening: None }));
            }
            if let Some(opening) = Lock::take(&path.with_extension("lock")) {
                // Whoever had the lock may have opened it in between.
                if is_alive(&path) {
                    return Ok(Some(Kept { path, _slot: slot, opening: None }));
                }
                remove_socket(&path);
                return Ok(Some(Kept { path, _slot: slot, opening: Some(opening) }));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            let [signal, sibling] = interrupt.bells();
            select! {
                recv(signal) -> _ => return Err(interrupted()),
                recv(sibling) -> _ => return Err(interrupted()),
                default(LOOK) => {}
            }
        }
    }

    /// Whether it was there before us.
    pub fn is_reused(&self) -> bool {
        self.opening.is_none()
    }

    /// It stands: others may use it.
    pub fn opened(&mut self) {
        self.opening = None;
    }

    /// It turned out to be of no use: the next one opens another.
    pub fn discard(&self) {
        remove_socket(&self.path);
    }
}

/// Removes what killed commands left in our folder.
pub(super) fn sweep(dir: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().take(MAX_SWEPT) {
        let path = entry.path();
        let is_old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED));
        match path.extension().and_then(|e| e.to_str()) {
            _ if !is_old => {}
            // A lock that nobody holds goes with our hold on it.
            Some("lock" | "1" | "2" | "3") => drop(Lock::take(&path)),
            Some("log") => {
                let _ = fs::remove_file(&path);
            }
            // A socket may be in use for days; one that nobody listens on is of no use to anybody.
            _ if UnixStream::connect(&path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) => {
                remove_socket(&path);
            }
            _ => {}
        }
    }
}

/// Sixteen hexadecimal digits: two connections that differ in anything never meet.
fn name_of(key: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in key {
        // With its length, so that no two lists are one text.
        hash.update(format!("{}:{part}", part.len()).as_bytes());
    }
    hash.finish()[..16].to_string()
}

/// Whether somebody listens there and is not asleep. A master greets whoever connects with a message of its own
/// (OpenSSH, PROTOCOL.mux: MUX_MSG_HELLO).
fn is_alive(path: &Path) -> bool {
    let greeted = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(GREETING))?;
        stream.read_exact(&mut [0; 8]).map(|()| true)
    };
    greeted().unwrap_or(false)
}

/// A socket only: whatever else has the name is none of ours.
fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
}

/// A file that one process holds, gone when it lets go. The hold of one that was killed is gone too.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(path: &Path) -> Option<Lock> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).ok()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
        }
        // It may have been removed between our opening and our lock; then it keeps nobody out.
        let (ours, there) = (file.metadata().ok()?, fs::symlink_metadata(path).ok()?);
        (ours.ino() == there.ino()).then(|| Lock { path: path.into(), _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn find(dir: &Path, key: &str) -> Option<Kept> {
        Kept::find(dir, &[key.into()], &Interrupt::never()).unwrap()
    }

    /// Greets as a master does, until the listener's socket is removed and connected to no more.
    fn master(path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut s| s.write_all(&[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 4]));
            }
        });
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn one_opens_and_the_others_use_what_it_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = find(dir.path(), "a").unwrap();
        assert!(!first.is_reused());
        let other = thread::spawn({
            let dir = dir.path().to_path_buf();
            move || find(&dir, "a").map(|kept| kept.is_reused())
        });
        master(&first.path);
        first.opened();
        assert_eq!(other.join().unwrap(), Some(true));
        assert!(!find(dir.path(), "b").unwrap().is_reused(), "another place is another connection");
    }

    #[test]
    fn there_is_room_for_so_many_commands_and_then_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = find(dir.path(), "a").unwrap();
        master(&first.path);
        first.opened();
        let rest: Vec<Kept> = (1..SLOTS).map(|_| find(dir.path(), "a").unwrap()).collect();
        assert!(find(dir.path(), "a").is_none());
        drop(rest);
        assert!(find(dir.path(), "a").is_some());
        let socket = first.path.clone();
        drop(first);
        assert_eq!(files(dir.path()), [socket.file_name().unwrap().to_str().unwrap()], "no lock is left behind");
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = find(dir.path(), "a").unwrap().path.clone();
        drop(UnixListener::bind(&path).unwrap());
        assert!(!find(dir.path(), "a").unwrap().is_reused());
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_done_without() {
        assert!(find(Path::new(&format!("/{}", "a".repeat(80))), "a").is_none());
    }

    #[test]
    fn sweeps_what_is_old_and_held_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["x.log", "x.lock", "x.1", "other"] {
            File::create(at(name)).unwrap();
        }
        drop(UnixListener::bind(at("stale")).unwrap());
        let _alive = UnixListener::bind(at("alive")).unwrap();
        let _held = Lock::take(&at("y.2")).unwrap();
        sweep(dir.path(), SystemTime::now());
        assert_eq!(files(dir.path()).len(), 7, "all are young");
        sweep(dir.path(), SystemTime::now() + ABANDONED * 2);
        assert_eq!(files(dir.path()), ["alive", "other", "y.2"]);
    }
}
