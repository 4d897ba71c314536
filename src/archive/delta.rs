//! Delta: an archive told in the words of an earlier one that both sides have. It is the new tar compressed by zstd with
//! the earlier tar as its prefix, as `zstd --patch-from` does it; both halves together, because they are tested against
//! each other.
//!
//! It never says which files it is about, and knows nothing of releases: two tars go in, one comes out.
//!
//! **Invariant**: what [`apply`] leaves is an archive of exactly the announced tar, by its SHA-256, or nothing; and neither
//! half takes more than [`MEMORY`].

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::Hashing;
use crate::error::{Context, Error, Kind, Result};

/// The whole of the earlier tar and as much of the new one are in memory on either side, and on a server that is beside
/// the apps. Measured with 128 MiB each: 270 MiB to make a delta, 260 to apply it.
const MEMORY: u64 = 256 << 20;
/// A larger window would be more than that by itself.
const WINDOW_LOG: u32 = 27;
/// Of a larger tar no delta is made.
pub(crate) const MAX_TAR: u64 = 1 << WINDOW_LOG;
/// zstd takes no smaller window.
const MIN_WINDOW_LOG: u32 = 10;
/// With what is found in the prefix a higher level finds nothing more: 2,882 bytes for one line in 20 MB, 3,340 at level 9
/// in five times the time.
const LEVEL: i32 = 3;
/// What is made of a delta is read twice and seldom more: a third faster than level 3, and a tenth larger.
const REPACK_LEVEL: i32 = 1;
/// The window that archives are packed with is far smaller than this; see `unpack`.
const ARCHIVE_WINDOW_LOG: u32 = 23;
const CHUNK: usize = 128 << 10;

/// An archive (`tar.zst`) on this disk, and which tar it is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole<'a> {
    pub file: &'a Path,
    /// Of the tar, lower-case hex.
    pub sha256: &'a str,
    /// Bytes of the tar.
    pub unpacked: u64,
}

/// Whether a delta between tars of these sizes is within bounds.
pub(crate) fn fits(base: u64, new: u64) -> bool {
    base.max(new) <= MAX_TAR && memory(base, new) <= MEMORY
}

/// Bytes of memory that either half takes, about.
pub(crate) fn memory(base: u64, new: u64) -> u64 {
    /// The tables of both directions, buffers, and the archive's own window.
    const TABLES: u64 = 24 << 20;
    base.saturating_add(new).saturating_add(TABLES)
}

/// Writes to `out` what makes `new` of `base`, and returns its size.
///
/// # Errors
/// Refused when `base` is not what it says, or one of them is larger than [`MAX_TAR`]; Io. Nothing is left at `out` then.
pub(crate) fn make(base: Whole<'_>, new: Whole<'_>, out: &Path) -> Result<u64> {
    let prefix = load(base, new)?;
    write_new(out, |file| {
        let doing = || format!("write {}", out.display());
        let mut zstd = zstd::stream::write::Encoder::with_ref_prefix(file, LEVEL, &prefix).context(doing)?;
        // The ordinary search sees the end of a long prefix only.
        zstd.long_distance_matching(true).context(doing)?;
        zstd.window_log(window_log(base.unpacked.max(new.unpacked))).context(doing)?;
        // With the size in its head the far side takes that much memory, and not the whole window's.
        zstd.set_pledged_src_size(Some(new.unpacked)).context(doing)?;
        copy(&mut tar_of(new.file)?, &mut zstd, doing)?;
        zstd.finish().context(doing)
    })
}

/// Writes the archive `new` from `base` and the delta between them.
///
/// # Errors
/// Refused when one of them is damaged, larger than [`MAX_TAR`], or anything else than what it is said to be; Io. Nothing
/// is left at `new.file` then.
pub(crate) fn apply(base: Whole<'_>, delta: &Path, new: Whole<'_>) -> Result<()> {
    let prefix = load(base, new)?;
    let doing = || format!("write {}", new.file.display());
    let delta = File::open(delta).context(|| format!("read {}", delta.display()))?;
    let mut decoder =
        zstd::Decoder::with_ref_prefix(BufReader::new(delta), &prefix[..]).context(|| "start zstd".into())?;
    decoder.window_log_max(WINDOW_LOG).context(|| "start zstd".into())?;
    let mut tar = Hashing::new(decoder.take(new.unpacked + 1));
    write_new(new.file, |file| {
        let mut zstd = zstd::Encoder::new(file, REPACK_LEVEL).context(doing)?;
        zstd.include_checksum(true).context(doing)?;
        copy(&mut tar, &mut zstd, doing)?;
        let file = zstd.finish().context(doing)?;
        let (content, _) = tar.finish();
        match content.sha256 == new.sha256 && content.bytes == new.unpacked {
            true => Ok(file),
            false => Err(refused("the delta does not lead to what was announced (wrong checksum)")),
        }
    })?;
    Ok(())
}

/// The tar of `base`, in memory.
fn load(base: Whole<'_>, new: Whole<'_>) -> Result<Vec<u8>> {
    if !fits(base.unpacked, new.unpacked) {
        return Err(refused(format!("a delta that takes more than {MEMORY} bytes of memory is never made")));
    }
    let doing = || format!("read {}", base.file.display());
    // One byte more than announced, so that a longer tar is seen and not cut.
    let mut tar = Hashing::new(tar_of(base.file)?.take(base.unpacked + 1));
    let mut bytes = Vec::with_capacity(usize::try_from(base.unpacked).unwrap_or_default() + 1);
    tar.read_to_end(&mut bytes).map_err(damaged).context(doing)?;
    let (content, _) = tar.finish();
    match content.sha256 == base.sha256 && content.bytes == base.unpacked {
        true => Ok(bytes),
        false => Err(refused("it is another archive than it says (wrong checksum)")).context(doing),
    }
}

fn tar_of(archive: &Path) -> Result<impl Read> {
    let doing = || format!("read {}", archive.display());
    let mut zstd = zstd::Decoder::new(File::open(archive).context(doing)?).context(doing)?;
    zstd.window_log_max(ARCHIVE_WINDOW_LOG).context(doing)?;
    Ok(zstd)
}

/// Writes a new file, which is gone again if that fails; returns its size.
fn write_new(path: &Path, write: impl FnOnce(BufWriter<File>) -> Result<BufWriter<File>>) -> Result<u64> {
    let doing = || format!("write {}", path.display());
    let written = File::create(path).context(doing).and_then(|file| {
        let file = write(BufWriter::with_capacity(CHUNK, file))?;
        let file = file.into_inner().map_err(|e| e.into_error()).context(doing)?;
        Ok(file.metadata().context(doing)?.len())
    });
    if written.is_err() {
        // What cannot be written may well be removed; if not, the first error says why.
        let _ = fs::remove_file(path);
    }
    written
}

/// As `io::copy`, with an error that tells which side it was.
fn copy(from: &mut impl Read, to: &mut impl Write, writing: impl Fn() -> String) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&chunk[..n]).context(&writing)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(damaged(e)),
        }
    }
}

/// The smallest window that reaches back over so many bytes.
fn window_log(bytes: u64) -> u32 {
    let log = u64::BITS - bytes.saturating_sub(1).leading_zeros();
    log.clamp(MIN_WINDOW_LOG, WINDOW_LOG)
}

fn damaged(e: io::Error) -> Error {
    refused("it is damaged, or of another archive").because(e)
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, why)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::crypto::Sha256;

    struct Archive {
        file: PathBuf,
        sha256: String,
        unpacked: u64,
    }

    impl Archive {
        fn whole(&self) -> Whole<'_> {
            Whole { file: &self.file, sha256: &self.sha256, unpacked: self.unpacked }
        }
    }

    /// To a delta a tar is bytes.
    fn archive(dir: &TempDir, name: &str, tar: &[u8]) -> Archive {
        let file = dir.path().join(name);
        fs::write(&file, zstd::encode_all(tar, 3).unwrap()).unwrap();
        let mut hash = Sha256::new();
        hash.update(tar);
        Archive { file, sha256: hash.finish(), unpacked: tar.len() as u64 }
    }

    /// Nothing that compresses.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// Its size, after it was made and applied.
    fn round(base: &[u8], new: &[u8]) -> u64 {
        let dir = TempDir::new().unwrap();
        let (base, there) = (archive(&dir, "base", base), archive(&dir, "new", new));
        let delta = dir.path().join("delta");
        let size = make(base.whole(), there.whole(), &delta).unwrap();
        assert_eq!(fs::metadata(&delta).unwrap().len(), size);
        let made = dir.path().join("made");
        apply(base.whole(), &delta, Whole { file: &made, ..there.whole() }).unwrap();
        assert_eq!(zstd::decode_all(File::open(made).unwrap()).unwrap(), new);
        size
    }

    #[test]
    fn costs_what_has_changed_wherever_it_is() {
        // A block of 128 KiB that is all there takes some twenty bytes.
        const UNCHANGED: u64 = 1000;
        let base = noise(1, 3 << 20);
        let mut new = base.clone();
        new[100] ^= 1;
        assert!(round(&base, &new) < UNCHANGED);
        // Something new in front moves all the rest.
        let moved = [&noise(2, 1000)[..], &base].concat();
        assert!((1000..1000 + UNCHANGED).contains(&round(&base, &moved)));
        let shorter = [&base[..1 << 20], &base[2 << 20..]].concat();
        assert!(round(&base, &shorter) < UNCHANGED);
        let swapped = [&base[1 << 20..], &base[..1 << 20]].concat();
        assert!(round(&base, &swapped) < UNCHANGED);
        assert!(round(&base, &base) < UNCHANGED);
    }

    #[test]
    fn reaches_over_the_whole_of_a_base_and_of_what_is_new() {
        // A power of two, where a window that is one too small would show.
        let base = noise(3, 1 << 20);
        assert!(round(&base, &base) < 2000);
        let grown = [&base[..], &noise(4, 1 << 20), &base].concat();
        assert!(round(&base, &grown) < (1 << 20) + 5000);
        assert!(round(&grown, &base) < 2000);
        round(b"", b"");
        round(b"", b"x");
        round(b"x", b"");
    }

    #[test]
    fn a_window_holds_all_of_it() {
        for (bytes, expected) in [
            (0, 10),
            (1, 10),
            (1024, 10),
            (1025, 11),
            (4 << 20, 22),
            ((4 << 20) + 1, 23),
            (MAX_TAR, 27),
            (u64::MAX, 27),
        ] {
            assert_eq!(window_log(bytes), expected, "{bytes}");
        }
        assert!(fits(100 << 20, 120 << 20) && fits(MAX_TAR, 1) && !fits(MAX_TAR, MAX_TAR));
        assert!(!fits(MAX_TAR + 1, 1) && !fits(1, MAX_TAR + 1) && !fits(u64::MAX, u64::MAX));
    }

    /// What applying says, after a look that nothing is left of it.
    fn fails(base: Whole<'_>, delta: &[u8], new: Whole<'_>) -> Error {
        let dir = TempDir::new().unwrap();
        let (file, out) = (dir.path().join("delta"), dir.path().join("out"));
        fs::write(&file, delta).unwrap();
        let e = apply(base, &file, Whole { file: &out, ..new }).unwrap_err();
        assert!(!out.exists(), "{e}");
        e
    }

    #[test]
    fn whatever_is_not_as_announced_is_refused_and_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        let old = noise(5, 200_000);
        let base = archive(&dir, "base", &old);
        let new = archive(&dir, "new", &[&old[..150_000], b"changed", &old[150_000..]].concat());
        let other = archive(&dir, "other", &noise(6, 200_000));
        let file = dir.path().join("delta");
        make(base.whole(), new.whole(), &file).unwrap();
        let delta = fs::read(&file).unwrap();
        let check = |base: Whole<'_>, delta: &[u8], new: Whole<'_>, words: &str| {
            let e = fails(base, delta, new);
            assert!(e.kind() == Kind::Refused && e.to_string().contains(words), "{e}");
        };
        let (good, right) = (base.whole(), new.whole());
        check(other.whole(), &delta, right, "");
        check(Whole { sha256: &other.sha256, ..good }, &delta, right, "another archive");
        check(Whole { unpacked: 199_999, ..good }, &delta, right, "another archive");
        check(Whole { unpacked: 200_001, ..good }, &delta, right, "another archive");
        check(Whole { file: &file, ..good }, &delta, right, "");
        check(good, &delta, Whole { sha256: &other.sha256, ..right }, "wrong checksum");
        check(good, &delta, Whole { unpacked: right.unpacked - 1, ..right }, "wrong checksum");
        check(good, &delta, Whole { unpacked: right.unpacked + 1, ..right }, "wrong checksum");
        check(good, &delta[..delta.len() - 1], right, "");
        check(good, b"", right, "damaged");
        check(good, b"some other format", right, "damaged");
        check(good, &fs::read(&other.file).unwrap(), right, "wrong checksum");
        check(Whole { unpacked: MAX_TAR + 1, ..good }, &delta, right, "never made");
        check(good, &delta, Whole { unpacked: MAX_TAR + 1, ..right }, "never made");
        for at in 0..delta.len() {
            let mut bad = delta.clone();
            bad[at] ^= 0x40;
            // Some bits of a head mean nothing; what comes out is the right thing then.
            let out = dir.path().join("out");
            fs::write(&file, &bad).unwrap();
            if let Err(e) = apply(good, &file, Whole { file: &out, ..right }) {
                assert!(e.kind() == Kind::Refused && !out.exists(), "byte {at}: {e}");
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_announced_size() {
        let dir = TempDir::new().unwrap();
        let (base, new) = (archive(&dir, "base", b"base"), archive(&dir, "new", b"new"));
        let zeros = zstd::encode_all(io::repeat(0).take(1 << 30), 1).unwrap();
        let e = fails(base.whole(), &zeros, new.whole());
        assert!(e.to_string().contains("wrong checksum"), "{e}");
        // And a window of two gigabytes is not even begun.
        let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
        wide.window_log(28).unwrap();
        wide.write_all(b"new").unwrap();
        let e = fails(base.whole(), &wide.finish().unwrap(), new.whole());
        assert_eq!(e.kind(), Kind::Refused, "{e}");
    }

    #[test]
    fn a_disk_that_says_no_is_no_damage() {
        let dir = TempDir::new().unwrap();
        let (base, new) = (archive(&dir, "base", b"base"), archive(&dir, "new", b"new"));
        let nowhere = dir.path().join("no/such/folder");
        assert_eq!(make(base.whole(), new.whole(), &nowhere).unwrap_err().kind(), Kind::NotFound);
        let gone = Whole { file: &nowhere, ..base.whole() };
        assert_eq!(make(gone, new.whole(), &dir.path().join("x")).unwrap_err().kind(), Kind::NotFound);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_was_made_is_what_comes_out(
            seed in any::<u64>(),
            parts in proptest::collection::vec((0usize..60_000, 0usize..5_000, any::<bool>()), 0..8),
        ) {
            let base = noise(seed, 60_000);
            let mut new = Vec::new();
            for (at, len, old) in parts {
                match old {
                    true => new.extend(&base[at..(at + len).min(base.len())]),
                    false => new.extend(noise(at as u64, len)),
                }
            }
            round(&base, &new);
        }
    }
}
