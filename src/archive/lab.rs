//! Lab: doors into the archive for the benchmark and the fuzzer. Only with the feature `lab` and in tests; what is
//! shipped has none of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BLOCK, pack, unpack};
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

/// The same for bytes that chance has made, with the checksums of a tar put right: hardly one would get behind them.
///
/// # Panics
/// As [`unpack_foreign`].
pub fn unpack_mended(bytes: &[u8]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    let name = format!("tako-lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = base.join(name);
    fs::create_dir(&dir).expect("a name that nobody else has");
    unpack_foreign(&mended(bytes), &dir);
    fs::remove_dir(&dir).expect("nothing is left in it");
}

/// Writes the right checksum into every block that is a head, or would be one to a reader who believes the sizes.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    let mut at = 0;
    while let Some(head) = tar.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<BLOCK>()) {
        at += BLOCK;
        if head.iter().all(|byte| *byte == 0) {
            continue;
        }
        // POSIX.1-1988: the sum of all bytes, those of the checksum itself taken for blanks.
        let sum: u32 = head[..148].iter().chain(&head[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let octal = head[124..136].iter().copied().skip_while(|b| *b == b' ').take_while(|b| (b'0'..=b'7').contains(b));
        let size = octal.fold(0usize, |size, digit| size << 3 | usize::from(digit - b'0'));
        at = at.saturating_add(size.next_multiple_of(BLOCK));
    }
    tar
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
