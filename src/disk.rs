//! Files that must be there in full or not at all.
//!
//! Every write is a temporary file, an fsync, a rename and an fsync of the folder, so that a crash at any point
//! leaves the old content or the new. Symlinks are swapped the same way. Nothing here knows what the files mean.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};

/// A new file; the umask takes nothing away from `mode`.
///
/// # Errors
/// Also when there is one of that name.
pub(crate) fn create_new(path: &Path, mode: u32) -> Result<File> {
    open_new(path, mode).context(|| format!("write {}", path.display()))
}

/// Writes all of `bytes` to `file`, which is at `path`.
pub(crate) fn write_all(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).context(|| format!("write {}", path.display()))
}

/// Replaces `path` by `bytes` in one step; the file gets `mode`.
///
/// # Errors
/// Any failure leaves the old file as it was and no temporary file behind.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    stage(path, bytes, mode)?.put()
}

/// What `path` will hold, on disk under a name that nobody reads. Dropped, it is gone.
pub struct Staged {
    temp: PathBuf,
    path: PathBuf,
}

/// The slow part of [`write_atomic`], for who wants the last step to be short.
pub fn stage(path: &Path, bytes: &[u8], mode: u32) -> Result<Staged> {
    let staged = Staged { temp: beside(path), path: path.into() };
    write_new(&staged.temp, bytes, mode, true).context(|| format!("write {}", path.display()))?;
    Ok(staged)
}

impl Staged {
    /// The rest of [`write_atomic`]: a rename and an fsync of the folder, which is that of all renames in it before.
    pub fn put(self) -> Result<()> {
        fs::rename(&self.temp, &self.path).context(|| format!("write {}", self.path.display()))?;
        sync_dir(parent(&self.path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It is not there any more once it was put.
        let _ = fs::remove_file(&self.temp);
    }
}

/// As [`write_atomic`] for what need not survive a power cut: readers see the old or the new, and no disk is waited for.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temp = beside(path);
    let written = write_new(&temp, bytes, mode, false).and_then(|()| fs::rename(&temp, path));
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written.context(|| format!("write {}", path.display()))
}

/// Points the symlink `link` at `target` in one step; there is never a moment without it. It survives a power cut once
/// its folder is synced.
pub fn swap_symlink(link: &Path, target: &Path) -> Result<()> {
    let temp = beside(link);
    let swapped = symlink(target, &temp).and_then(|()| fs::rename(&temp, link));
    if swapped.is_err() {
        let _ = fs::remove_file(&temp);
    }
    swapped.context(|| format!("point {} at {}", link.display(), target.display()))
}

/// Renames within one file system, so that it survives a power cut; `to` must not be a folder with something in it.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).context(|| format!("rename {} to {}", from.display(), to.display()))?;
    sync_dir(parent(to))
}

/// Makes `path` and its parents; what is new gets `mode`.
pub fn make_dirs(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path).context(|| format!("create {}", path.display()))
}

/// Makes `path` if it is not there, and makes sure that nobody else can look inside.
pub fn private_dir(path: &Path) -> Result<()> {
    make_dirs(path, 0o700)?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).context(|| format!("make {} private", path.display()))
}

/// Reads a file that may be absent.
///
/// # Errors
/// Refused when it holds more than `limit` bytes.
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context(|| format!("read {}", path.display())),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes)
        .context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Refused, format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(Some(bytes))
}

/// Removes a folder and all below it; not being there is fine. Symlinks are removed, never followed. However deep
/// folders lie in folders, it takes little stack and few descriptors: an app may have made them.
pub fn remove_tree(path: &Path) -> Result<()> {
    match remove_folder(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let root = rustix::fs::open(path, FOLDER, Mode::empty())?;
    for _ in 0..MAX_ROUNDS {
        if empty(&root, &root, 0)? {
            return fs::remove_dir(path);
        }
    }
    Err(io::Error::other("it fills up while it is emptied"))
}

/// Removes what is in `folder`, or moves it up into `root` where it lies too deep; true when nothing was there.
fn empty(root: &OwnedFd, folder: &OwnedFd, depth: usize) -> io::Result<bool> {
    let names = names(folder)?;
    for name in &names {
        if depth == MAX_DEPTH {
            lift(root, folder, name)?;
        } else if !unlink(folder, name)? {
            empty(root, &open(folder, name)?, depth + 1)?;
            match rustix::fs::unlinkat(folder, &**name, AtFlags::REMOVEDIR) {
                // There was more in it than we take at a time: the next round finds it.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                other => other?,
            }
        }
    }
    Ok(names.is_empty())
}

fn open(folder: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        // A folder that is closed to its owner, who we are: others are told something else, and root is not asked.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            Ok(rustix::fs::openat(folder, name, FOLDER, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

fn lift(root: &OwnedFd, folder: &OwnedFd, name: &CStr) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let up = format!(".gone-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        match rustix::fs::renameat_with(folder, name, root, up, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            other => return Ok(other?),
        }
    }
}

/// Up to a thousand of what is in a folder: of more the rest is left for the next round.
fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)?.filter(|e| !e.as_ref().is_ok_and(|e| is_dots(e.file_name()))).take(1000) {
        names.push(entry?.file_name().to_owned());
    }
    Ok(names)
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

/// False when it is a folder.
fn unlink(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Linux says ISDIR, POSIX and some file systems PERM.
        Err(Errno::ISDIR) => Ok(false),
        Err(Errno::PERM) if is_folder(folder, name) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn is_folder(folder: &OwnedFd, name: &CStr) -> bool {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Folders within folders that are gone into; each takes a descriptor and some stack.
const MAX_DEPTH: usize = 100;
/// A round takes away so many levels of folders, or a thousand files of each: beyond this somebody is still writing.
const MAX_ROUNDS: u32 = 1 << 20;

/// Makes a rename inside `dir` survive a power cut.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).context(|| format!("sync {}", dir.display()))
}

/// Bytes that an unprivileged writer may still use on the file system of `dir`.
pub(crate) fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir).context(|| format!("ask for free space of {}", dir.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether there is next to no room on the file system of `dir`, for bytes or for files: what a program says that failed
/// for want of it seldom names it.
pub(crate) fn is_full(dir: &Path) -> bool {
    /// As a file system that some of our writes still fit on.
    const FEW_BYTES: u64 = 1 << 20;
    const FEW_FILES: u64 = 16;
    rustix::fs::statvfs(dir).is_ok_and(|stat| {
        // Some file systems do not count files, and say that there are none at all.
        let files = stat.f_files > 0 && stat.f_favail < FEW_FILES;
        files || stat.f_bavail.saturating_mul(stat.f_frsize) < FEW_BYTES
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<()> {
    let mut file = open_new(path, mode)?;
    file.write_all(bytes)?;
    if sync { file.sync_all() } else { Ok(()) }
}

fn open_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask may have taken bits away that the caller asked for.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// A name in the same folder that nobody else uses: rename must not cross file systems.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // In a container every run has the same number, and one that was killed may have left its files.
    static RUN: LazyLock<u128> =
        LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}-{:x}-{n}.tmp", std::process::id(), *RUN))
}

/// Whether it is one of our temporary files.
pub fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(b".tmp")
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_in_one_step_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn keeps_the_old_file_when_the_new_one_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/state.json");
        let e = write_atomic(&path, b"x", 0o600).unwrap_err();
        assert!(e.to_string().contains("state.json"), "{e}");
    }

    #[test]
    fn swaps_a_symlink_over_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        swap_symlink(&link, Path::new("releases/a")).unwrap();
        swap_symlink(&link, Path::new("releases/b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("releases/b"));
    }

    #[test]
    fn removes_what_is_deeper_than_any_stack_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, tree.join("link")).unwrap();
        fs::create_dir(tree.join(".gone-0")).unwrap();
        fs::write(tree.join(".gone-0/x"), "x").unwrap();
        (0..2500).for_each(|n| fs::write(tree.join(n.to_string()), "x").unwrap());
        let mut at = rustix::fs::open(&tree, FOLDER, Mode::empty()).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", FOLDER, Mode::empty()).unwrap();
            rustix::fs::symlinkat("/", &at, "up").unwrap();
        }
        // A thread with a small stack, and the limit of descriptors that a shell has.
        let remove = move || remove_tree(&tree).map(|()| tree.exists());
        let gone = std::thread::Builder::new().stack_size(256 << 10).spawn(remove).unwrap().join().unwrap();
        assert!(!gone.unwrap());
        assert_eq!(fs::read(kept.join("file")).unwrap(), b"x");
        remove_tree(&dir.path().join("nothing")).unwrap();
    }

    #[test]
    fn refuses_a_file_over_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(read_if_there(&path, 2).unwrap().is_none());
        fs::write(&path, "123").unwrap();
        assert_eq!(read_if_there(&path, 3).unwrap().unwrap(), b"123");
        assert_eq!(read_if_there(&path, 2).unwrap_err().kind(), Kind::Refused);
    }
}
