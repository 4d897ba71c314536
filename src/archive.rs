//! Pack and unpack `tar.zst`: sorted, confined, checksummed. Both halves together, because they are tested against each
//! other.

use std::path::{Path, PathBuf};

use crate::error::Result;

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

/// Packs `files` (relative paths under `root`; regular files, symlinks, empty folders; sorted here) into `out`.
/// The same input gives the same bytes on any machine: fixed times and owners, modes 0644 or 0755.
///
/// # Errors
/// Io or NotFound naming the file; Refused when a file changes while it is read or a link leaves the tree.
pub(crate) fn pack(_root: &Path, _files: &[PathBuf], _out: &Path) -> Result<Packed> {
    unimplemented!()
}

/// Unpacks `archive` into the fresh folder `into` (created here, 0755), confined to it.
///
/// # Errors
/// Refused for anything hostile or damaged, or when the tar is not `sha256` and `unpacked` bytes; `into` is removed then.
pub(crate) fn unpack(_archive: &Path, _into: &Path, _sha256: &str, _unpacked: u64) -> Result<()> {
    unimplemented!()
}
