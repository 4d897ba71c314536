//! What lies at each path of the source: its kind, and the hash of what a file holds.
//!
//! **Invariant**: a file is read whole and as it was at one moment, or not at all: one that changes meanwhile is an
//! error that names it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::known::{Known, Stamp};
use super::{Entry, What};
use crate::cli::build::many;
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};

/// Most sources are smaller, and so are read by one call.
const BUFFER: usize = 64 << 10;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pub length: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// The entries at `paths`, in this order, and the stamps of those that are files; what is not there or no part of a source
/// is left out. What is `known` and was not touched is not read.
pub(super) fn entries(root: &Path, paths: Vec<PathBuf>, known: &Known) -> Result<(Vec<Entry>, Vec<Option<Stamp>>)> {
    let found = many::each(&paths, |path| {
        let full = root.join(path);
        if let Some(found) = untouched(path, &full, known) {
            return Ok(Some(found));
        }
        let found = look(&full).context(|| format!("read {}", full.display()))?;
        // Cargo's folder, led elsewhere.
        let is_target = path.file_name().is_some_and(|n| n == "target");
        Ok(found.filter(|(what, _)| !is_target || !matches!(what, What::Link { .. })))
    })?;
    let found = paths.into_iter().zip(found).filter_map(|(path, found)| {
        let (what, stamp) = found?;
        Some((Entry { path, what }, stamp))
    });
    Ok(found.unzip())
}

fn untouched(path: &Path, full: &Path, known: &Known) -> Option<(What, Option<Stamp>)> {
    let (known, sha256) = known.get(path)?;
    let file = fs::symlink_metadata(full).ok().filter(|file| file.is_file() && Stamp::of(file) == *known)?;
    let contents = Contents { length: file.len(), sha256: sha256.clone() };
    Some((What::File { executable: is_executable(&file), contents }, Some(*known)))
}

pub(super) fn is_executable(file: &fs::Metadata) -> bool {
    file.mode() & 0o100 != 0
}

fn look(path: &Path) -> Result<Option<(What, Option<Stamp>)>> {
    // Neither a link nor a pipe that has taken the file's place is followed or waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => {
            return Ok(Some((What::Link { to: fs::read_link(path).context(|| "read the link".into())? }, None)));
        }
        // git still lists a file that was removed and not committed. The other one is a socket.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NXIO) => return Ok(None),
        Err(e) => return Err(e).context(|| "open it".into()),
    };
    let found = file.metadata().context(|| "look at it".into())?;
    if !found.is_file() {
        return Ok(None);
    }
    let contents = read_exactly(&file, found.len(), &mut |_| Ok(()))?;
    let after = file.metadata().context(|| "look at it".into())?;
    match Stamp::of(&found) {
        stamp if stamp == Stamp::of(&after) => {
            Ok(Some((What::File { executable: is_executable(&found), contents }, Some(stamp))))
        }
        _ => Err(changed()),
    }
}

/// Reads the `length` bytes that a file is said to have; `on` hears them.
///
/// # Errors
/// Refused when there are more or fewer of them.
pub(in crate::cli::build) fn read_exactly(
    mut file: impl Read,
    length: u64,
    on: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<Contents> {
    thread_local! {
        /// One for all files that a thread reads.
        static BUF: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    BUF.with_borrow_mut(|buf| {
        buf.resize(BUFFER, 0);
        let (mut hash, mut read) = (Sha256::new(), 0);
        loop {
            let n = match file.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                n => n.context(|| "read it".into())?,
            };
            read += n as u64;
            if read > length {
                return Err(changed());
            }
            hash.update(&buf[..n]);
            on(&buf[..n]).context(|| "copy it".into())?;
            // A call that could have returned more has met the end.
            if n == 0 || (read == length && n < buf.len()) {
                break;
            }
        }
        match read == length {
            true => Ok(Contents { length, sha256: hash.finish() }),
            false => Err(changed()),
        }
    })
}

pub(in crate::cli::build) fn changed() -> Error {
    Error::new(Kind::Refused, "it changed while it was read").hint(STILL_WRITING)
}

pub(super) fn changed_since(path: &Path) -> Error {
    Error::new(Kind::Refused, format!("{} changed while the sources were read", path.display())).hint(STILL_WRITING)
}

const STILL_WRITING: &str = "is something still building or writing there? what is written all the time, such as a log, \
                             is no source: name it in a .gitignore";

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;

    /// Lets another thread at the file after the first bytes have been read, and waits until it is done.
    struct Met<'a> {
        file: File,
        path: &'a Path,
        writer: Option<fn(&Path)>,
    }

    impl Read for Met<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.file.read(buf)?;
            if let Some(writer) = self.writer.take() {
                let path = self.path.to_path_buf();
                thread::spawn(move || writer(&path)).join().unwrap();
            }
            Ok(n)
        }
    }

    #[test]
    fn a_file_that_changes_its_length_while_it_is_read_is_refused() {
        let read = |size: usize, writer: Option<fn(&Path)>| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            fs::write(&path, vec![b'x'; size]).unwrap();
            let file = File::open(&path).unwrap();
            read_exactly(Met { file, path: &path, writer }, size as u64, &mut |_| Ok(()))
        };
        let grows: fn(&Path) = |path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
        let shrinks: fn(&Path) = |path| File::options().write(true).open(path).unwrap().set_len(1).unwrap();
        let replaced: fn(&Path) = |path| {
            fs::write(path.with_extension("new"), "new").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        };
        let vanishes: fn(&Path) = |path| fs::remove_file(path).unwrap();
        for size in [BUFFER, BUFFER + 1, 3 * BUFFER] {
            for writer in [grows, shrinks] {
                match (size, read(size, Some(writer))) {
                    // All of it was read before: that is the file as it was.
                    (BUFFER, Ok(contents)) => assert_eq!(contents.length, BUFFER as u64),
                    (size, read) => {
                        let e = read.unwrap_err();
                        assert_eq!(e.kind(), Kind::Refused, "{size}");
                        assert!(e.next_step().unwrap().contains("name it in a .gitignore"));
                    }
                }
            }
            // Whoever replaces or removes a file leaves us the old one, and it is whole.
            for writer in [replaced, vanishes] {
                assert_eq!(read(size, Some(writer)).unwrap(), read(size, None).unwrap());
            }
        }
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1] {
            assert_eq!(read(size, None).unwrap().length, size as u64);
        }
    }

    #[test]
    fn what_is_neither_a_file_nor_a_link_is_no_source_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink("pipe", at("link")).unwrap();
        for name in ["pipe", "socket", "folder", "nothing", "link/x"] {
            assert!(look(&at(name)).unwrap().is_none(), "{name}");
        }
        assert_eq!(look(&at("link")).unwrap(), Some((What::Link { to: "pipe".into() }, None)));
    }
}
