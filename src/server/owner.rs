//! Owner: whose the folders of an app are, so that it can read its release, write its own data, and see nothing else.
//!
//! ```text
//! {data}, {data}/apps                  0711 ours       may be passed through, not listed
//! {data}/apps/<id>, releases, shared   0710 ours:app   the same, for the app alone
//! releases/<version> and below         0750/0640 ours:app   read and run, never written
//! shared/data, home, tmp               0700 app:app    the app's own
//! all else                             0600/0700 ours
//! ```
//! An installer runs as the app's user and writes into the release: [`lend`] hands the folder over and [`take_back`]
//! makes it ours again. What ran in between is not trusted: nothing is followed (every step is an `openat` without
//! links below a descriptor that we hold), and a file of somebody else, which only a hard link can have brought, is
//! refused rather than given away.
//!
//! **Invariant**: after `take_back` nothing below the folder can be written by the app, nor is anything there but
//! folders, files and symlinks.

use std::ffi::{CStr, CString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

use super::layout::Layout;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::name::AppId;
use crate::sys::User;

/// Folders within folders; each costs a descriptor and some stack while it is walked. The deepest `node_modules` that
/// we have seen has 40.
const MAX_DEPTH: usize = 200;

/// Passed through by others, listed by nobody but us.
const PASSAGE: u32 = 0o711;
/// The same for the group alone.
const GROUP_PASSAGE: u32 = 0o710;

/// The folders that all apps pass through; to be called at boot, before an app starts. They may be from a server that
/// ran apps as itself.
pub(crate) fn open_passages(layout: &Layout) -> Result<()> {
    for dir in [layout.data().to_owned(), layout.apps()] {
        chmod(&dir, PASSAGE)?;
    }
    // Their content is the same everywhere, and no secret.
    for dir in [layout.sdk(), layout.runtimes()] {
        chmod(&dir, 0o755)?;
    }
    for entry in fs::read_dir(layout.sdk()).context(|| format!("read {}", layout.sdk().display()))?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            chmod(&entry.path(), 0o755)?;
        }
    }
    Ok(())
}

/// The app's folders with their owners and modes. Without a user they are ours, and private all the same.
pub(crate) fn arrange(layout: &Layout, id: &AppId, user: Option<User>) -> Result<()> {
    for dir in [layout.app(id), layout.releases(id), layout.shared(id)] {
        disk::make_dirs(&dir, 0o750)?;
        if let Some(User { gid, .. }) = user {
            own(&dir, us(), gid)?;
            chmod(&dir, GROUP_PASSAGE)?;
        }
    }
    disk::private_dir(&layout.logs(id))?;
    for dir in [layout.app_data(id), layout.app_home(id), layout.app_tmp(id)] {
        give_private(&dir, user)?;
    }
    Ok(())
}

/// Puts the releases of a server right that ran apps as itself; those that are right cost a look each.
pub(crate) fn put_right(layout: &Layout, id: &AppId, user: Option<User>) -> Result<()> {
    let Some(User { gid, .. }) = user else { return Ok(()) };
    for entry in fs::read_dir(layout.releases(id)).context(|| format!("read the releases of {id}"))?.flatten() {
        // A symlink is not followed here.
        let meta = entry.metadata().context(|| format!("look at {}", entry.path().display()))?;
        if meta.is_dir() && (meta.gid() != gid || meta.uid() != us() || meta.mode() & 0o7777 != 0o750) {
            take_back(&entry.path(), user)?;
        }
    }
    Ok(())
}

/// Empties the app's temporary folder; nothing of the app may run.
pub(crate) fn empty_tmp(layout: &Layout, id: &AppId, user: Option<User>) -> Result<()> {
    let tmp = layout.app_tmp(id);
    disk::remove_tree(&tmp)?;
    give_private(&tmp, user)
}

/// Hands a release over to the app's user, for its installer to write into. Nothing to do without a user.
///
/// # Errors
/// Refused when something in it is neither ours nor the app's.
pub(crate) fn lend(dir: &Path, user: Option<User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    Walk { user, to: Side::App }.tree(dir).context(|| format!("hand {} to user {}", dir.display(), user.uid))
}

/// Makes a release ours, readable for the app and writable for nobody. Whatever wrote into it must have ended.
///
/// # Errors
/// Refused when something in it is neither ours nor the app's.
pub(crate) fn take_back(dir: &Path, user: Option<User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    Walk { user, to: Side::Us }.tree(dir).context(|| format!("take {} back from user {}", dir.display(), user.uid))
}

/// Who on the way from the root to `path` keeps `user` out: the folder, or the file itself when it may not be run;
/// `None` when nobody does. Access lists are not looked at, so this is for telling and not for deciding.
pub(crate) fn who_bars(path: &Path, user: User) -> Option<String> {
    // The way as it is written, and the one that its links lead to.
    let real = fs::canonicalize(path).ok()?;
    let steps = [path, &real].into_iter().flat_map(|way| way.ancestors().collect::<Vec<_>>().into_iter().rev());
    for step in steps {
        let meta = fs::metadata(step).ok()?;
        let mode = match () {
            () if meta.uid() == user.uid => meta.mode() >> 6,
            () if meta.gid() == user.gid => meta.mode() >> 3,
            () => meta.mode(),
        };
        if mode & 1 == 0 {
            return Some(format!("{} (mode {:04o})", step.display(), meta.mode() & 0o7777));
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    App,
    Us,
}

struct Walk {
    user: User,
    to: Side,
}

impl Walk {
    fn tree(&self, dir: &Path) -> Result<()> {
        // The way to it is ours; the folder itself must be no link.
        let root =
            rustix::fs::open(dir, folder_flags(), Mode::empty()).context(|| format!("open {}", dir.display()))?;
        let stat = rustix::fs::fstat(&root).context(|| format!("look at {}", dir.display()))?;
        self.check(&stat, dir.as_os_str().as_encoded_bytes())?;
        self.folder(root, 0)
    }

    /// Towards us, the folder is taken before what is in it: then nobody can put anything in behind our back.
    fn folder(&self, folder: OwnedFd, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Refused, format!("folders are nested deeper than {MAX_DEPTH}")));
        }
        self.hand(folder.as_fd(), 0o750)?;
        let entries = Dir::read_from(&folder).context(|| "read a folder".into())?;
        for entry in entries {
            let entry = entry.context(|| "read a folder".into())?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entry(&folder, name, depth).context(|| format!("`{}`", shown(name)))?;
            }
        }
        Ok(())
    }

    fn entry(&self, folder: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            // What an earlier walk left, and this one has removed since it was listed.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            other => other.context(|| "look at it".into())?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = self.open(folder, name, folder_flags())?;
                self.folder(inner, depth + 1)
            }
            FileType::RegularFile => self.file(folder, name),
            FileType::Symlink => {
                self.check(&stat, name.to_bytes())?;
                let (uid, gid) = self.owner();
                rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .context(|| "change the owner of a link".into())
            }
            // Pipes and sockets: who opens one waits for somebody, and a release has no use for them.
            _ => rustix::fs::unlinkat(folder, name, AtFlags::empty()).context(|| "remove a pipe or socket".into()),
        }
    }

    fn file(&self, folder: &OwnedFd, name: &CStr) -> Result<()> {
        // Not blocking: it may have become a pipe since we looked.
        let file = self.open(folder, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        let stat = rustix::fs::fstat(&file).context(|| "look at it".into())?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::new(Kind::Refused, "it changed while it was looked at"));
        }
        let mode = if stat.st_mode & 0o100 == 0 { 0o640 } else { 0o750 };
        match stat.st_nlink {
            1 => self.hand(file.as_fd(), mode),
            // An installer that links files from its cache: the cache stays the app's, the release gets a file of its
            // own.
            _ => self.copy(folder, name, &file, mode),
        }
    }

    /// Opens what is there and checks whose it is.
    fn open(&self, folder: &OwnedFd, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
        let there = rustix::fs::openat(folder, name, flags, Mode::empty()).context(|| "open it".into())?;
        let stat = rustix::fs::fstat(&there).context(|| "look at it".into())?;
        self.check(&stat, name.to_bytes())?;
        Ok(there)
    }

    /// A file of ours with a second name is one that was linked here: it would be given away.
    fn check(&self, stat: &Stat, name: &[u8]) -> Result<()> {
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if stat.st_uid == self.user.uid || (stat.st_uid == us() && !(is_file && stat.st_nlink > 1)) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(name);
        Err(Error::new(Kind::Refused, format!("`{}` belongs to user {}", name.escape_debug(), stat.st_uid)))
    }

    fn copy(&self, folder: &OwnedFd, name: &CStr, file: &OwnedFd, mode: u32) -> Result<()> {
        let copying = || "copy a file that has other names".to_string();
        let temp = CString::new([b".", name.to_bytes().get(..64).unwrap_or(name.to_bytes()), b".tako-copy"].concat())
            .expect("a file name holds no zero");
        // Left by a walk that was cut short; or in the way on purpose, and then the next line says so.
        let _ = rustix::fs::unlinkat(folder, &temp, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = rustix::fs::openat(folder, &temp, flags, Mode::RUSR | Mode::WUSR).context(copying)?;
        let mut new = File::from(new);
        let mut from = File::from(file.try_clone().context(copying)?);
        let copied = io::copy(&mut from, &mut new)
            .context(copying)
            .and_then(|_| self.hand(new.as_fd(), mode))
            .and_then(|()| rustix::fs::renameat(folder, &temp, folder, name).context(copying));
        if copied.is_err() {
            let _ = rustix::fs::unlinkat(folder, &temp, AtFlags::empty());
        }
        copied
    }

    fn hand(&self, what: BorrowedFd<'_>, mode: u32) -> Result<()> {
        let (uid, gid) = self.owner();
        rustix::fs::fchown(what, Some(uid), Some(gid)).context(|| "change its owner".into())?;
        // After the owner: changing that takes mode bits away.
        rustix::fs::fchmod(what, Mode::from_raw_mode(mode)).context(|| "change its mode".into())
    }

    fn owner(&self) -> (Uid, Gid) {
        let uid = match self.to {
            Side::App => self.user.uid,
            Side::Us => us(),
        };
        (Uid::from_raw(uid), Gid::from_raw(self.user.gid))
    }
}

/// A folder of the app's own. One that was ours, with what is in it, becomes the app's.
fn give_private(dir: &Path, user: Option<User>) -> Result<()> {
    disk::make_dirs(dir, 0o700)?;
    if let Some(user) = user
        && fs::symlink_metadata(dir).context(|| format!("look at {}", dir.display()))?.uid() != user.uid
    {
        give_tree(dir, user)?;
    }
    chmod(dir, 0o700)
}

/// As [`lend`], but the modes stay, and what is not a file stays as well.
fn give_tree(dir: &Path, user: User) -> Result<()> {
    fn give(folder: &OwnedFd, user: User, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Refused, format!("folders are nested deeper than {MAX_DEPTH}")));
        }
        let (uid, gid) = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
        for entry in Dir::read_from(folder).context(|| "read a folder".into())? {
            let entry = entry.context(|| "read a folder".into())?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "look at it".into())?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                let inner =
                    rustix::fs::openat(folder, name, folder_flags(), Mode::empty()).context(|| "open it".into())?;
                give(&inner, user, depth + 1)?;
            } else if stat.st_uid == us() && stat.st_nlink == 1 {
                rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .context(|| format!("change the owner of `{}`", shown(name)))?;
            }
        }
        // Last, so that a walk that was cut short is begun again.
        rustix::fs::fchown(folder, uid, gid).context(|| "change the owner of a folder".into())
    }
    let root = rustix::fs::open(dir, folder_flags(), Mode::empty()).context(|| format!("open {}", dir.display()))?;
    give(&root, user, 0).context(|| format!("give {} to user {}", dir.display(), user.uid))
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn own(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).context(|| format!("change the owner of {}", path.display()))
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).context(|| format!("change the mode of {}", path.display()))
}

fn shown(name: &CStr) -> String {
    name.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};
    use std::path::PathBuf;

    use super::*;

    const USER: User = User { uid: 71_001, gid: 71_001 };

    fn may() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Owner, group and mode.
    fn look(path: &Path) -> (u32, u32, u32) {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    }

    fn release() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("v1");
        fs::create_dir_all(release.join("bin/deep")).unwrap();
        fs::write(release.join("bin/run"), "#!").unwrap();
        chmod(&release.join("bin/run"), 0o4755).unwrap();
        fs::write(release.join("bin/deep/data"), "x").unwrap();
        symlink("/etc/hostname", release.join("link")).unwrap();
        (dir, release)
    }

    #[test]
    fn a_release_goes_to_its_app_and_comes_back_readable_and_nothing_else() {
        if !may() {
            return; // only root may
        }
        let (_dir, release) = release();
        let outside = look(Path::new("/etc/hostname"));
        lend(&release, Some(USER)).unwrap();
        for (path, mode) in [("", 0o750), ("bin/deep", 0o750), ("bin/run", 0o750), ("bin/deep/data", 0o640)] {
            assert_eq!(look(&release.join(path)), (USER.uid, USER.gid, mode), "{path}");
        }
        // What an installer may leave: its own modes, pipes, and files that have another name in its cache.
        chmod(&release.join("bin/run"), 0o6777).unwrap();
        chmod(&release.join("bin"), 0o2777).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, release.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let cache = release.with_file_name("cache");
        fs::write(&cache, "cached").unwrap();
        lchown(&cache, Some(USER.uid), Some(USER.gid)).unwrap();
        fs::hard_link(&cache, release.join("bin/linked")).unwrap();

        take_back(&release, Some(USER)).unwrap();
        let ours = us();
        for (path, mode) in [("", 0o750), ("bin", 0o750), ("bin/run", 0o750), ("bin/linked", 0o640)] {
            assert_eq!(look(&release.join(path)), (ours, USER.gid, mode), "{path}");
        }
        assert_eq!(look(&release.join("link")).0, ours);
        assert!(!release.join("pipe").exists());
        assert_eq!(fs::read(release.join("bin/linked")).unwrap(), b"cached");
        assert_eq!(look(&cache).0, USER.uid);
        assert_eq!(look(Path::new("/etc/hostname")), outside);
        let names: Vec<_> = fs::read_dir(release.join("bin")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn what_belongs_to_others_is_never_given_away() {
        if !may() {
            return; // only root may
        }
        for side in [lend, take_back] {
            // A second name of a file of ours, as of a secret that lies on the same disk.
            let (dir, release) = release();
            let secret = dir.path().join("secret");
            fs::write(&secret, "s").unwrap();
            chmod(&secret, 0o600).unwrap();
            fs::hard_link(&secret, release.join("bin/deep/mine")).unwrap();
            let e = side(&release, Some(USER)).unwrap_err();
            assert_eq!((e.kind(), look(&secret)), (Kind::Refused, (us(), 0, 0o600)), "{e}");
            assert!(e.to_string().contains("`mine` belongs to user 0"), "{e}");
            // A file of another app.
            let (dir, release) = self::release();
            let other = dir.path().join("other");
            fs::write(&other, "o").unwrap();
            lchown(&other, Some(71_002), Some(71_002)).unwrap();
            fs::hard_link(&other, release.join("mine")).unwrap();
            assert_eq!(side(&release, Some(USER)).unwrap_err().kind(), Kind::Refused);
            assert_eq!(look(&other).0, 71_002);
            // A link in the place of the folder itself.
            let (dir, release) = self::release();
            let link = dir.path().join("to");
            symlink(&release, &link).unwrap();
            assert!(side(&link, Some(USER)).is_err());
            assert_eq!(look(&release).0, us());
        }
    }

    #[test]
    fn a_bottomless_tree_is_refused_and_not_walked() {
        if !may() {
            return; // only root may
        }
        let (_dir, release) = release();
        let mut at = rustix::fs::open(&release, folder_flags(), Mode::empty()).unwrap();
        for _ in 0..=MAX_DEPTH {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", folder_flags(), Mode::empty()).unwrap();
        }
        assert_eq!(take_back(&release, Some(USER)).unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn the_folders_of_an_app_are_its_own_and_those_of_an_older_server_become_so() {
        if !may() {
            return; // only root may
        }
        let dir = tempfile::tempdir().unwrap();
        let (layout, id) = (Layout::new(dir.path().into()), AppId::parse("shop").unwrap());
        fs::create_dir_all(layout.app_data(&id).join("db")).unwrap();
        fs::write(layout.app_data(&id).join("db/rows"), "1").unwrap();
        fs::create_dir_all(layout.releases(&id).join("v1")).unwrap();
        fs::write(layout.releases(&id).join("v1/main"), "x").unwrap();
        for _ in 0..2 {
            arrange(&layout, &id, Some(USER)).unwrap();
            put_right(&layout, &id, Some(USER)).unwrap();
        }
        assert_eq!(look(&layout.app(&id)), (us(), USER.gid, 0o710));
        assert_eq!(look(&layout.shared(&id)), (us(), USER.gid, 0o710));
        assert_eq!(look(&layout.logs(&id)), (us(), rustix::process::getegid().as_raw(), 0o700));
        for own in [layout.app_data(&id), layout.app_home(&id), layout.app_tmp(&id)] {
            assert_eq!(look(&own), (USER.uid, USER.gid, 0o700));
        }
        assert_eq!(look(&layout.app_data(&id).join("db/rows")).0, USER.uid);
        assert_eq!(look(&layout.releases(&id).join("v1/main")), (us(), USER.gid, 0o640));
        fs::write(layout.app_tmp(&id).join("x"), "x").unwrap();
        empty_tmp(&layout, &id, Some(USER)).unwrap();
        assert_eq!(fs::read_dir(layout.app_tmp(&id)).unwrap().count(), 0);
        assert_eq!(look(&layout.app_tmp(&id)), (USER.uid, USER.gid, 0o700));
    }

    #[test]
    fn names_the_folder_that_keeps_an_app_out() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("closed/program");
        fs::create_dir(dir.path().join("closed")).unwrap();
        fs::write(&program, "").unwrap();
        chmod(dir.path(), 0o711).unwrap();
        chmod(&dir.path().join("closed"), 0o700).unwrap();
        let bars = who_bars(&program, USER).unwrap();
        assert!(bars.ends_with("/closed (mode 0700)"), "{bars}");
        chmod(&dir.path().join("closed"), 0o711).unwrap();
        assert!(who_bars(&program, USER).unwrap().contains("/closed/program (mode "));
        chmod(&program, 0o755).unwrap();
        assert_eq!(who_bars(&program, USER), None);
    }
}
