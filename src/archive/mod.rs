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

pub(crate) mod bounds;
pub(crate) mod pack;
pub(crate) mod unpack;
mod tree;
mod ahead;
mod behind;
pub(crate) mod delta;
pub(crate) mod inflate;
#[cfg(any(test, feature = "lab"))]
pub mod lab;

use std::io::{self, Read, Write};
use std::path::Path;

use crate::crypto::Sha256;

/// A tar is made of blocks of this size.
const BLOCK: usize = 512;

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

/// What is in a tar: the one thing that both ends agree on, however it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// SHA-256, lower-case hex.
    pub sha256: String,
    pub bytes: u64,
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

    fn finish(self) -> (Content, T) {
        (Content { sha256: self.hash.finish(), bytes: self.count }, self.inner)
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
    bounds::check_name(path).is_ok() && link.is_none_or(|target| bounds::check_link(path, target).is_ok())
}

#[cfg(test)]
mod tests;
