//! Copies that share nothing with what they were made from: clones of the file system where it has them, else the bytes.
//! Never a hard link, because a build may write to what it gets.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use crate::cli::build::bundle::{Contents, Entry, What, changed, read_exactly};
use crate::cli::interrupt::Interrupt;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// Folders of a package deeper than this are a loop.
const MAX_DEPTH: usize = 128;

pub(super) struct Copier<'a> {
    /// Heard between two files: packages are many.
    interrupt: &'a Interrupt,
    /// Until the file system says that it cannot.
    clones: AtomicBool,
}

impl Copier<'_> {
    pub fn new(interrupt: &Interrupt) -> Copier<'_> {
        Copier { interrupt, clones: AtomicBool::new(true) }
    }

    /// Copies an entry of the source at `root` into `tree`, where its folder is.
    ///
    /// # Errors
    /// Refused when it is not any more what it was when the source was read.
    pub fn entry(&self, root: &Path, tree: &Path, entry: &Entry) -> Result<()> {
        let (from, to) = (root.join(&entry.path), tree.join(&entry.path));
        let copied = match &entry.what {
            What::Link { to: target } => symlink(target, &to).context(|| "link it".into()),
            What::File { executable, contents } => {
                self.file(&from, &to, *executable).and_then(|copied| match copied == *contents {
                    true => Ok(()),
                    false => Err(changed()),
                })
            }
        };
        copied.context(|| format!("copy {}", from.display()))
    }

    /// Copies a folder with all that is in it, links as they are. Of what lies directly in it, only what is `wanted`.
    pub fn folder(&self, from: &Path, to: &Path, wanted: fn(&str) -> bool) -> Result<()> {
        self.level(from, to, 0, wanted)
    }

    fn level(&self, from: &Path, to: &Path, depth: usize, wanted: fn(&str) -> bool) -> Result<()> {
        let doing = || format!("copy {}", from.display());
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Config, format!("{} lies too deep", from.display())));
        }
        disk::make_dirs(to, 0o755)?;
        for entry in fs::read_dir(from).context(doing)? {
            let entry = entry.context(doing)?;
            self.interrupt.check()?;
            if !entry.file_name().to_str().is_none_or(wanted) {
                continue;
            }
            let (path, to) = (entry.path(), to.join(entry.file_name()));
            let found = entry.metadata().context(doing)?;
            if found.is_dir() {
                self.level(&path, &to, depth + 1, |_| true)?;
            } else if found.is_symlink() {
                let target = fs::read_link(&path).context(doing)?;
                symlink(target, &to).context(|| format!("link {}", to.display()))?;
            } else if found.is_file() {
                self.file(&path, &to, found.mode() & 0o100 != 0).context(|| format!("copy {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// What was copied to the new file `to`.
    pub fn file(&self, from: &Path, to: &Path, executable: bool) -> Result<Contents> {
        let careful = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let source = OpenOptions::new().read(true).custom_flags(careful).open(from).context(|| "open it".into())?;
        let found = source.metadata().context(|| "look at it".into())?;
        if !found.is_file() {
            return Err(changed());
        }
        let made = OpenOptions::new().read(true).write(true).create_new(true).open(to);
        let mut copy = made.context(|| format!("write {}", to.display()))?;
        let contents = match self.clone(&source, &copy) {
            true => read_exactly(&copy, found.len(), &mut |_| Ok(())),
            false => read_exactly(&source, found.len(), &mut |bytes| copy.write_all(bytes)),
        }?;
        let mode = if executable { 0o755 } else { 0o644 };
        copy.set_permissions(Permissions::from_mode(mode)).context(|| format!("write {}", to.display()))?;
        Ok(contents)
    }

    #[cfg(target_os = "linux")]
    fn clone(&self, from: &File, to: &File) -> bool {
        if !self.clones.load(Ordering::Relaxed) {
            return false;
        }
        // Another file system, or one that has none: the next file would hear the same.
        let cloned = rustix::fs::ioctl_ficlone(to, from).is_ok();
        self.clones.store(cloned, Ordering::Relaxed);
        cloned
    }

    #[cfg(not(target_os = "linux"))]
    fn clone(&self, _: &File, _: &File) -> bool {
        self.clones.store(false, Ordering::Relaxed);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dir: &Path, name: &str, text: &str) -> Entry {
        fs::write(dir.join(name), text).unwrap();
        let contents = read_exactly(text.as_bytes(), text.len() as u64, &mut |_| Ok(())).unwrap();
        Entry { path: name.into(), what: What::File { executable: false, contents } }
    }

    #[test]
    fn what_changed_since_it_was_read_is_not_copied_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
        let changes: [fn(&Path); 4] = [
            |path| fs::write(path, "others").unwrap(),
            |path| fs::write(path, "changed, and longer").unwrap(),
            |path| fs::remove_file(path).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                symlink("elsewhere", path).unwrap();
            },
        ];
        for (n, change) in changes.iter().enumerate() {
            let _ = fs::remove_dir_all(dir.path().join("tree"));
            [&root, &tree].iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
            let _ = fs::remove_file(root.join("a.js"));
            let entry = entry(&root, "a.js", "source");
            change(&root.join("a.js"));
            let e = Copier::new(&Interrupt::never()).entry(&root, &tree, &entry).unwrap_err();
            assert!(e.to_string().contains("root/a.js"), "change {n}: {e}");
        }
    }

    #[test]
    fn a_copy_is_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
        [&root, &tree].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let entry = entry(&root, "a", "source");
        fs::set_permissions(root.join("a"), Permissions::from_mode(0o600)).unwrap();
        Copier::new(&Interrupt::never()).entry(&root, &tree, &entry).unwrap();
        let (from, to) = (root.join("a").metadata().unwrap(), tree.join("a").metadata().unwrap());
        assert!(from.ino() != to.ino() && to.nlink() == 1 && to.mode() & 0o777 == 0o644);
        fs::write(tree.join("a"), "built").unwrap();
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "source");
    }
}
