//! The data directory as one daemon finds and keeps it: folders with their modes, the lock, the host key.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::layout::Layout;
use crate::crypto::{KEY_LEN, Key};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// A daemon that was killed while it started a program has its lock until that program runs.
const LAST_CHILD: Duration = Duration::from_secs(1);

/// Held while the daemon runs.
pub(crate) struct Home {
    _lock: File,
    pub host_key: Key,
}

impl Home {
    /// Makes what is missing, makes sure that no other daemon is at it, and reads or makes the host key.
    pub fn open(layout: &Layout) -> Result<Home> {
        let data = layout.data();
        disk::make_dirs(data, 0o755)
            .map_err(|e| e.hint("create it for the user of tako-server, or choose another with --data-dir"))?;
        check_owner(data)?;
        let lock = lock(&layout.lock(), data)?;
        disk::make_dirs(&layout.apps(), 0o750)?;
        disk::make_dirs(&layout.sdk(), 0o755)?;
        disk::make_dirs(&layout.runtimes(), 0o755)?;
        disk::private_dir(&layout.incoming())?;
        disk::private_dir(&layout.certs())?;
        disk::private_dir(&layout.cache())?;
        Ok(Home { _lock: lock, host_key: host_key(&layout.host_key())? })
    }
}

/// Whoever else can write here decides what we run.
fn check_owner(data: &Path) -> Result<()> {
    let meta = fs::metadata(data).context(|| format!("look at {}", data.display()))?;
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        let message = format!("{} belongs to user {}, and this is user {us}", data.display(), meta.uid());
        return Err(Error::new(Kind::Refused, message).hint("run tako-server as the owner, or change the owner"));
    }
    if meta.mode() & 0o022 != 0 {
        let message = format!("{} can be written by others", data.display());
        return Err(Error::new(Kind::Refused, message).hint(format!("run `chmod go-w {}`", data.display())));
    }
    Ok(())
}

/// The kernel lets go of it when we end, however we end.
fn lock(path: &Path, data: &Path) -> Result<File> {
    let taking = || format!("lock {}", data.display());
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path).context(taking)?;
    let begun = Instant::now();
    let mut locked = file.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && begun.elapsed() < LAST_CHILD {
        thread::sleep(LAST_CHILD / 50);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(Kind::Busy, format!("another tako-server runs on {}", data.display()))
                .hint("stop it first, or choose another folder with --data-dir"))
        }
        Err(TryLockError::Error(e)) => Err(e).context(taking),
    }
}

fn host_key(path: &Path) -> Result<Key> {
    let Some(bytes) = disk::read_if_there(path, 1024)?.map(Zeroizing::new) else {
        let key = Key::random()?;
        disk::write_atomic(path, key.as_bytes(), 0o600)?;
        log::info!("made a new host key at {}", path.display());
        return Ok(key);
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context(|| format!("protect {}", path.display()))?;
    // A new key in its place would make every sealed secret unreadable, so that is for a person to decide.
    Key::from_bytes(&bytes).ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} is not a key of {KEY_LEN} bytes", path.display()))
            .hint("restore it from a backup; if there is none, remove it and deploy every app again with its secrets")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("data"));
        (dir, layout)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn keeps_one_key_that_only_we_can_read() {
        let (_dir, layout) = layout();
        let one = *Home::open(&layout).unwrap().host_key.as_bytes();
        let two = *Home::open(&layout).unwrap().host_key.as_bytes();
        assert_eq!(one, two);
        assert_eq!(mode(&layout.host_key()), 0o600);
        assert_eq!(mode(&layout.incoming()), 0o700);
        assert_eq!(mode(&layout.certs()), 0o700);
    }

    #[test]
    fn two_daemons_cannot_have_one_folder() {
        let (_dir, layout) = layout();
        let _home = Home::open(&layout).unwrap();
        let e = Home::open(&layout).err().unwrap();
        assert_eq!(e.kind(), Kind::Busy);
        assert!(e.to_string().starts_with("another tako-server runs on "), "{e}");
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let (_dir, layout) = layout();
        drop(Home::open(&layout).unwrap());
        fs::write(layout.host_key(), "short").unwrap();
        assert_eq!(Home::open(&layout).err().unwrap().kind(), Kind::Refused);
        assert_eq!(fs::read(layout.host_key()).unwrap(), b"short");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let (_dir, layout) = layout();
        fs::create_dir(layout.data()).unwrap();
        fs::set_permissions(layout.data(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Home::open(&layout).err().unwrap().kind(), Kind::Refused);
    }
}
