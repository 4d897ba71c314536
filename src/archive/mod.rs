//! Pack and unpack `tar.zst`: sorted, confined, checksummed. Both halves together, because they are tested against each
//! other.
//!
//! The tar holds regular files, symlinks and folders, in order of name, owned by nobody, dated at the epoch, with
//! modes 0644 and 0755: the same input gives the same bytes on any machine. Unpacking uses the `tar` crate to parse
//! and nothing else of it; every name is checked and every file is created by us.
//!
//! **Invariant**: nothing is written outside the fresh folder, whatever the archive says. While files are written the
//! folder holds no symlink, because links are made last; and a link's target climbs only at its start and never above
//! the root, so that following it, or any chain of them, stays inside.

pub(crate) mod inflate;
pub(crate) mod pack;
pub(crate) mod unpack;
pub(crate) mod delta;

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::crypto::Sha256;

/// Longest path, as the kernel has it (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Longest name of one file (NAME_MAX).
const MAX_NAME: usize = 255;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    /// SHA-256 of the tar before compression, lower-case hex. (Compressed bytes differ by library and threads.)
    pub sha256: String,
    /// Compressed bytes.
    pub bytes: u64,
    /// Bytes of the tar.
    pub unpacked: u64,
}

/// Counts and hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Hashing { inner, hash: Sha256::new(), count: 0 }
    }

    fn finish(self) -> (String, u64, T) {
        (self.hash.finish(), self.count, self.inner)
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.saw(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.saw(&buf[..n]);
        Ok(n)
    }
}

/// Whether an archive may hold a file at `path`, or a link there.
pub(crate) fn takes(path: &Path, link: Option<&Path>) -> bool {
    check_name(path).is_ok() && link.is_none_or(|target| check_link(path, target).is_ok())
}

/// Relative, made of plain names, without control characters, not longer than the kernel takes.
pub(crate) fn check_name(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_PATH {
        return Err("its name is empty or longer than 4096 bytes".into());
    }
    if bytes.iter().any(|b| b.is_ascii_control()) {
        return Err("its name has control characters".into());
    }
    // `components` hides `.` and doubled slashes, so the bytes are looked at too.
    let plain = path.components().all(|c| matches!(c, Component::Normal(n) if n.len() <= MAX_NAME));
    if !plain || bytes.split(|&b| b == b'/').any(|part| part.is_empty() || part == b".") {
        return Err("its name is absolute, climbs out with `..`, or has a part longer than 255 bytes".into());
    }
    Ok(())
}

/// A target must be relative, climb at its start alone, and not above the root.
pub(crate) fn check_link(path: &Path, target: &Path) -> Result<(), String> {
    let depth = path.components().count() - 1;
    let mut climbs = 0;
    let mut descended = false;
    for part in target.components() {
        match part {
            Component::ParentDir if !descended => climbs += 1,
            Component::Normal(_) => descended = true,
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => climbs = usize::MAX,
        }
        if climbs > depth {
            return Err(format!("it links to `{}`, which may be outside", target.display().to_string().escape_debug()));
        }
    }
    match target.as_os_str().as_bytes() {
        b if b.is_empty() || b.len() >= MAX_PATH || b.iter().any(u8::is_ascii_control) => {
            Err("its link target is malformed".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
