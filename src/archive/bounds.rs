//! Bounds: what may stand in an archive: its names, where its links lead, how many and how much. All of it is pure.
//!
//! Packing asks what unpacking will ask, so that nobody learns on a server what could be said at home. The measure is a
//! large web app: 60,000 files below `node_modules`, 1 GB, 6 MB of names, folders nested forty deep.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Longest path, as the kernel has it (PATH_MAX, with its final zero).
pub(super) const MAX_PATH: usize = 4096;
/// Longest name of one file (NAME_MAX).
const MAX_NAME: usize = 255;
/// Folders within folders. Whoever removes or hands over a tree holds a descriptor for each, and may have 1,024.
pub(super) const MAX_DEPTH: usize = 128;
/// Files, links and folders, those included that only a path names: each is an inode of the server's disk.
pub(super) const MAX_ENTRIES: usize = 500_000;
/// Their names together, which are in memory while it is unpacked.
pub(super) const MAX_NAMES: usize = 32 << 20;
/// Largest tar. Beyond it, what is shipped is data and belongs elsewhere.
pub(super) const MAX_UNPACKED: u64 = 8 << 30;
/// An archive that is this many times smaller than its tar is a bomb: programs and assets shrink to a third, generated
/// text to a hundredth.
const MAX_RATIO: u64 = 1000;
/// Up to this size a bomb is a nuisance, and a small file of zeros is no bomb.
const HARMLESS: u64 = 256 << 20;

/// What one archive may still hold.
pub(super) struct Bounds {
    pub entries: usize,
    /// Bytes of names and link targets.
    pub names: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { entries: MAX_ENTRIES, names: MAX_NAMES }
    }
}

impl Bounds {
    /// A file, a link or a folder.
    pub fn add(&mut self, path: &[u8]) -> Result<(), String> {
        let left = self.entries.checked_sub(1);
        self.entries = left.ok_or_else(|| {
            format!("it is one more than the {MAX_ENTRIES} files, links and folders that are allowed")
        })?;
        self.add_text(path)
    }

    /// Its name, or where it leads.
    pub fn add_text(&mut self, text: &[u8]) -> Result<(), String> {
        let left = self.names.checked_sub(text.len());
        self.names =
            left.ok_or_else(|| format!("with it the names take more than the {MAX_NAMES} bytes that are allowed"))?;
        Ok(())
    }
}

/// How large the tar is.
pub(super) fn check_size(unpacked: u64) -> Result<(), String> {
    match unpacked > MAX_UNPACKED {
        true => Err(format!("it takes {unpacked} bytes unpacked, the limit is {MAX_UNPACKED}")),
        false => Ok(()),
    }
}

/// How much smaller than the tar an archive of so many bytes is.
pub(super) fn check_ratio(bytes: u64, unpacked: u64) -> Result<(), String> {
    match unpacked > HARMLESS && unpacked / MAX_RATIO > bytes {
        true => Err(format!("{bytes} bytes would become {unpacked}, more than {MAX_RATIO} times as many")),
        false => Ok(()),
    }
}

/// Relative, made of plain names, without control characters, not longer than the kernel takes.
pub(crate) fn check_name(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() >= MAX_PATH {
        return Err("its name is empty or longer than 4095 bytes".into());
    }
    if bytes.iter().any(u8::is_ascii_control) {
        return Err("its name has control characters".into());
    }
    let mut parts = bytes.split(|&b| b == b'/');
    if !parts.clone().all(|part| (1..=MAX_NAME).contains(&part.len()) && part != b"." && part != b"..") {
        return Err("its name is absolute, has `.` or `..` in it, or a part longer than 255 bytes".into());
    }
    match parts.nth(MAX_DEPTH) {
        Some(_) => Err(format!("it lies more than {MAX_DEPTH} folders deep")),
        None => Ok(()),
    }
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
            Component::RootDir => {
                let shown = target.display().to_string();
                return Err(format!("it links to `{}`, which is an absolute path", shown.escape_debug()));
            }
            Component::ParentDir | Component::Prefix(_) => climbs = usize::MAX,
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
mod tests {
    use super::*;

    #[test]
    fn a_large_web_app_fits() {
        let mut bounds = Bounds::default();
        let name = [b'a'; 100];
        assert!((0..60_000).all(|_| bounds.add(&name).is_ok()));
        assert!(check_size(1 << 30).is_ok() && check_ratio(300 << 20, 1 << 30).is_ok());
    }

    #[test]
    fn counts_what_is_too_much() {
        let add = |count: usize, len: usize| {
            let (mut bounds, name) = (Bounds::default(), vec![b'a'; len]);
            (0..count).try_for_each(|_| bounds.add(&name)).is_ok()
        };
        assert!(add(MAX_ENTRIES, 10) && !add(MAX_ENTRIES + 1, 10));
        assert!(add(MAX_NAMES / 4096, 4096) && !add(MAX_NAMES / 4096 + 1, 4096));
        assert!(check_size(MAX_UNPACKED).is_ok() && check_size(MAX_UNPACKED + 1).is_err());
        for (bytes, unpacked, fits) in [
            (0, HARMLESS, true),
            (1, HARMLESS + 1, false),
            (1 << 20, 1000 << 20, true),
            (1 << 20, (1000 << 20) + 1000, false),
            (u64::MAX, u64::MAX, true),
        ] {
            assert_eq!(check_ratio(bytes, unpacked).is_ok(), fits, "{bytes} for {unpacked}");
        }
    }

    #[test]
    fn a_name_is_as_long_and_as_deep_as_can_be_handled() {
        for (name, fits) in [
            ("a".repeat(255), true),
            ("a".repeat(256), false),
            (vec!["a"; MAX_DEPTH].join("/"), true),
            (vec!["a"; MAX_DEPTH + 1].join("/"), false),
            (vec!["a".repeat(255); 15].join("/") + "/" + &"b".repeat(255), true),
            (vec!["a".repeat(255); 16].join("/") + "/b", false),
            ("a/".into(), false),
        ] {
            assert_eq!(check_name(Path::new(&name)).is_ok(), fits, "{} bytes of {name}", name.len());
        }
    }
}
