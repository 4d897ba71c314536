//! Bases: the archives that the last releases of an app were laid out from, kept so that the next one can be sent as a
//! delta against one of them.
//!
//! They lie in a folder of the app's that the app cannot look into, and each says by its name what it is. All of it is a
//! cache: what is missing, damaged or in the way is removed, and the client sends the whole archive instead.
//!
//! **Invariant**: nothing here makes a deploy fail. A base is known by its own app alone, and what is rebuilt from it is
//! what was announced, by its SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use super::{SPARE_BYTES, check_space, crash, entries, remove_any};
use crate::archive::delta::{self, Whole};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Artifact, Base};
use crate::proto::name::AppId;
use crate::proto::version::Version;
use crate::server::layout::Layout;

/// The last one, and the one before it: who deploys from two machines in turn has one of them on each.
const KEPT: usize = 2;
const ARCHIVE: &str = ".tar.zst";
/// What is being rebuilt. One at a time lays out releases of an app, and at a start it goes.
const REBUILT: &str = ".rebuilt.tmp";
/// Far more than the kernel writes there.
const MAX_MEMINFO: u64 = 64 << 10;

/// However many apps are deployed at once, the memory is that of one delta.
static TURN: Mutex<()> = Mutex::new(());

struct Stored {
    base: Base,
    unpacked: u64,
    file: PathBuf,
    /// Of two the older one goes first; a clock that went back costs a larger upload at most.
    at: SystemTime,
}

/// What a delta for this app may be against, newest first.
pub(crate) fn kept(layout: &Layout, id: &AppId) -> Vec<Base> {
    stored(layout, id).into_iter().map(|stored| stored.base).collect()
}

/// The whole archive that `delta` and the base `wanted` make; the caller [`keep`]s or removes it.
///
/// # Errors
/// Refused or NotFound when they do not make what is announced, or when there is no memory to find out; Io.
pub(super) fn rebuild(layout: &Layout, id: &AppId, wanted: &str, artifact: &Artifact, delta: &Path) -> Result<PathBuf> {
    let base = stored(layout, id).into_iter().find(|stored| stored.base.sha256 == wanted).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("what the delta is against is not kept for {id} (any more)"))
    })?;
    // The archive beside the release, at worst as large as its tar.
    check_space(layout, artifact.unpacked.saturating_mul(2))?;
    let file = layout.bases(id).join(REBUILT);
    let begun = Instant::now();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    check_memory(delta::memory(base.unpacked, artifact.unpacked), available())?;
    let old = Whole { file: &base.file, sha256: &base.base.sha256, unpacked: base.unpacked };
    let new = Whole { file: &file, sha256: &artifact.sha256, unpacked: artifact.unpacked };
    let applied = delta::apply(old, delta, new).context(|| format!("rebuild the archive from {}", base.base.version));
    drop(turn);
    match applied {
        Ok(()) => {
            crash::point("unpack: rebuilt by a delta");
            let ms = begun.elapsed().as_millis();
            log::info!("app={id} rebuilt from={} delta={} ms={ms}", base.base.version, artifact.bytes);
            Ok(file)
        }
        Err(e) => {
            // Which of the two was wrong is not worth finding out; a disk that is full says nothing about either.
            if e.kind() == Kind::Refused {
                log::warn!("app={id} base={} is in doubt and goes: {e}", base.base.version);
                remove(&base.file);
            }
            Err(e)
        }
    }
}

/// Keeps the `archive` that a release was laid out from, in place of the oldest; or removes it, where it is of no use.
pub(super) fn keep(layout: &Layout, id: &AppId, version: &Version, artifact: &Artifact, archive: &Path) {
    crash::point("unpack: to be kept as a base");
    match store(layout, id, version, artifact, archive) {
        Ok(true) => {}
        Ok(false) => remove(archive),
        Err(e) => {
            log::warn!("app={id} release={version} is not kept for deltas: {e}");
            remove(archive);
        }
    }
}

/// Whether it is kept. It is not waited for the disk: after a power cut a damaged one is as good as none.
fn store(layout: &Layout, id: &AppId, version: &Version, artifact: &Artifact, archive: &Path) -> Result<bool> {
    if disk::free_bytes(layout.data())? < SPARE_BYTES {
        drop_all(layout, id);
        return Ok(false);
    }
    if !delta::fits(0, artifact.unpacked) {
        return Ok(false);
    }
    let Artifact { sha256, unpacked, .. } = artifact;
    let dir = layout.bases(id);
    disk::private_dir(&dir)?;
    let file = dir.join(format!("{sha256}.{unpacked}.{version}{ARCHIVE}"));
    fs::rename(archive, &file).context(|| format!("rename {} to {}", archive.display(), file.display()))?;
    let mut places = KEPT - 1;
    for old in stored(layout, id).iter().filter(|old| old.file != file) {
        if old.base.sha256 == *sha256 || places == 0 {
            remove(&old.file);
        } else {
            places -= 1;
        }
    }
    Ok(true)
}

/// Makes room.
pub(super) fn drop_all(layout: &Layout, id: &AppId) {
    for entry in entries(&layout.bases(id)) {
        log::info!("app={id} {} goes, there is little room on the disk", entry.display());
        remove(&entry);
    }
}

/// Newest first. What is called otherwise is not ours to count.
fn stored(layout: &Layout, id: &AppId) -> Vec<Stored> {
    let mut found: Vec<Stored> = entries(&layout.bases(id))
        .into_iter()
        .filter_map(|file| {
            let (base, unpacked) = parse(file.file_name()?.to_str()?)?;
            let at = fs::symlink_metadata(&file).ok().filter(fs::Metadata::is_file)?.modified().ok()?;
            Some(Stored { base, unpacked, file, at })
        })
        .collect();
    found.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.file.cmp(&b.file)));
    found
}

fn parse(name: &str) -> Option<(Base, u64)> {
    let (sha256, rest) = name.strip_suffix(ARCHIVE)?.split_once('.')?;
    let (unpacked, version) = rest.split_once('.')?;
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    let base = Base { sha256: sha256.into(), version: Version::parse(version).ok().filter(|_| is_hash)? };
    Some((base, unpacked.parse().ok()?))
}

/// The other half is for what runs here.
fn check_memory(needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if needed > available / 2 => Err(Error::new(
            Kind::Refused,
            format!("a delta would take {needed} bytes of memory, and {available} are available"),
        )),
        _ => Ok(()),
    }
}

/// As the kernel estimates it; `None` where it does not.
fn available() -> Option<u64> {
    let bytes = disk::read_if_there(Path::new("/proc/meminfo"), MAX_MEMINFO).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn remove(path: &Path) {
    if let Err(e) = remove_any(path) {
        log::warn!("{e}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(layout: &Layout, id: &AppId) -> Vec<String> {
        kept(layout, id).into_iter().map(|base| base.version.to_string()).collect()
    }

    #[test]
    fn a_name_says_all_of_it_or_nothing() {
        let hash = "ab".repeat(32);
        let good = |version: &str| {
            let (base, unpacked) = parse(&format!("{hash}.14000000.{version}.tar.zst")).unwrap();
            assert_eq!((base.sha256, base.version.as_str(), unpacked), (hash.clone(), version, 14_000_000));
        };
        good("4f2c9ab_00112233");
        good("1.2.3");
        good("v1.tar.zst");
        let short = &hash[1..];
        for bad in [
            REBUILT.to_owned(),
            format!("{hash}.14.tar.zst"),
            format!("{hash}.x.v1.tar.zst"),
            format!("{short}.14.v1.tar.zst"),
            format!("{short}/.14.v1.tar.zst"),
            format!("{hash}.14...tar.zst"),
            format!("{hash}.99999999999999999999.v1.tar.zst"),
            format!("{hash}.14.v1.tar"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn keeps_the_last_two_that_differ_and_none_of_the_other_app() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        let (id, other) = (AppId::parse("shop").unwrap(), AppId::parse("docs").unwrap());
        let mut time = SystemTime::UNIX_EPOCH;
        let mut store = |version: &str, hash: &str, unpacked: u64| {
            let archive = dir.path().join("up");
            fs::write(&archive, "x").unwrap();
            time += Duration::from_secs(9);
            fs::File::options().append(true).open(&archive).unwrap().set_modified(time).unwrap();
            let artifact = Artifact { file: "up".into(), sha256: hash.repeat(64), bytes: 1, unpacked, base: None };
            fs::create_dir_all(layout.app(&id)).unwrap();
            keep(&layout, &id, &Version::parse(version).unwrap(), &artifact, &archive);
            assert!(!archive.exists(), "{version}");
        };
        store("v1", "1", 5);
        store("v2", "2", 5);
        assert_eq!(names(&layout, &id), ["v2", "v1"]);
        store("v3", "3", 5);
        assert_eq!(names(&layout, &id), ["v3", "v2"]);
        // The same tar by another name takes the place of its twin.
        store("v4", "3", 5);
        assert_eq!(names(&layout, &id), ["v4", "v2"]);
        // What no delta can be against is not kept.
        store("v5", "5", delta::MAX_TAR + 1);
        assert_eq!(names(&layout, &id), ["v4", "v2"]);
        assert!(names(&layout, &other).is_empty());
        drop_all(&layout, &id);
        assert!(entries(&layout.bases(&id)).is_empty());
    }

    #[test]
    fn half_of_the_memory_is_for_what_runs() {
        assert!(check_memory(100, None).is_ok() && check_memory(100, Some(200)).is_ok());
        assert_eq!(check_memory(101, Some(200)).unwrap_err().kind(), Kind::Refused);
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
