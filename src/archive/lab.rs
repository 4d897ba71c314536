//! Lab: doors into the archive for the benchmark and the fuzzer. Only with the feature `lab` and in tests; what is
//! shipped has none of it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{pack, unpack};
use crate::crypto::Sha256;

/// Packs; the hash and the length of the tar.
///
/// # Errors
/// What a user would read.
pub fn pack(root: &Path, files: &[PathBuf], out: &Path) -> Result<(String, u64), String> {
    let packed = pack::pack(root, files, out).map_err(|e| e.to_string())?;
    Ok((packed.sha256, packed.unpacked))
}

/// Unpacks.
///
/// # Errors
/// What a user would read.
pub fn unpack(archive: &Path, into: &Path, sha256: &str, unpacked: u64) -> Result<(), String> {
    unpack::unpack(archive, into, sha256, unpacked).map_err(|e| e.to_string())
}

/// Lays the tar `bytes` out in a folder below `dir`, which must be empty, and removes it again.
///
/// # Panics
/// When anything is written beside the folder, leads out of it, takes more than the tar is long, or is left behind by
/// a tar that is refused.
pub fn unpack_foreign(bytes: &[u8], dir: &Path) {
    let mut hash = Sha256::new();
    hash.update(bytes);
    let into = dir.join("into");
    let done = unpack::lay_out(bytes, &into, &hash.finish(), bytes.len() as u64);
    let beside: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    match done {
        Err(_) => assert!(beside.is_empty(), "left behind: {beside:?}"),
        Ok(()) => {
            assert_eq!(beside, std::slice::from_ref(&into));
            let root = fs::canonicalize(&into).expect("it was made just now");
            let size = confined(&root, &root);
            assert!(size <= bytes.len() as u64, "{size} bytes of {}", bytes.len());
            let _ = fs::remove_dir_all(&into);
        }
    }
}

/// How many bytes lie below `dir`, when nothing of it is outside of `root`.
pub(super) fn confined(dir: &Path, root: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("a folder of ours").flatten();
    let size = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_symlink() {
            // A link to nothing, or to itself, leads nowhere.
            let end = fs::canonicalize(&path);
            assert!(end.as_ref().map_or(true, |end| end.starts_with(root)), "{path:?} leads to {end:?}");
            return 0;
        }
        assert!(meta.is_dir() || meta.is_file(), "{path:?} is neither file, link nor folder");
        if meta.is_dir() { confined(&path, root) } else { meta.len() }
    };
    entries.map(|entry| size(entry.path())).sum()
}
