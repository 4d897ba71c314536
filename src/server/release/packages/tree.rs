//! Tree: what lies below a release's folder, and the ways to read and to add to it, none of which leads out of it.
//!
//! It knows nothing of packages. Everything is opened below a descriptor of the folder and through no link, so that a
//! name that an app chose, in its folder or in a record of it, reaches what is its own and nothing else.
//!
//! **Invariant**: nothing outside of the folder is opened, and nothing that is there is written over.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use serde::{Deserialize, Serialize};

use super::Doubt;

/// More is no application; each takes some hundred bytes of memory for as long as a release is prepared.
pub(super) const MAX_NODES: usize = 400_000;
/// As for whoever hands such a tree over (`owner`): each level costs a descriptor while it is walked.
const MAX_DEPTH: usize = 200;
/// Bits of a mode that an installer's files may have: not those that lend rights.
const MODE: u32 = 0o777;
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// Not blocking: where a file was, there may be a pipe by now.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// By path, relative and with `/` between names: a folder comes before what is in it.
pub(super) type Listing = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Node {
    #[serde(rename = "d")]
    Folder { mode: u32 },
    #[serde(rename = "f")]
    File(Stamp),
    /// What it says, whether anything is there or not.
    #[serde(rename = "l")]
    Link(String),
    /// A pipe, a socket, a device.
    #[serde(rename = "x")]
    Other,
}

/// By what it is seen that a file was written since: somebody who writes into it changes the time, somebody who replaces
/// it the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub mode: u32,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub written: (i64, i64),
    pub inode: u64,
}

/// An open folder.
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub fn open(dir: &Path) -> Result<Tree, Doubt> {
        let root = rustix::fs::open(dir, FOLDER, Mode::empty()).map_err(|e| Doubt::of(&dir.display(), e))?;
        Ok(Tree { root })
    }

    /// All that is in it, but for what lies in its root under one of these names.
    pub fn list(&self, but: &[&str]) -> Result<Listing, Doubt> {
        let mut listing = Listing::new();
        let root = rustix::fs::openat(&self.root, c".", FOLDER, Mode::empty()).map_err(|e| Doubt::of(&".", e))?;
        list(&root, "", 0, but, &mut listing)?;
        Ok(listing)
    }

    /// A file, open for reading, and what it is like.
    pub fn file(&self, path: &str) -> Result<(File, Stamp), Doubt> {
        let fd =
            rustix::fs::openat2(&self.root, path, READ, Mode::empty(), BENEATH).map_err(|e| Doubt::of(&path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| Doubt::of(&path, e))?;
        match FileType::from_raw_mode(stat.st_mode).is_file() {
            true => Ok((File::from(fd), stamp(&stat))),
            false => Err(Doubt(format!("{path} is not a file"))),
        }
    }

    /// The content of a file.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, Doubt> {
        let (file, stamp) = self.file(path)?;
        let mut bytes = Vec::with_capacity(usize::try_from(stamp.size.min(limit)).unwrap_or_default());
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Doubt::of(&path, e))?;
        match bytes.len() as u64 > limit {
            true => Err(Doubt(format!("{path} has more than {limit} bytes"))),
            false => Ok(bytes),
        }
    }

    /// What a link says.
    pub fn link(&self, path: &str) -> Result<String, Doubt> {
        let (folder, name) = self.parent(path)?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(|e| Doubt::of(&path, e))?;
        target.into_string().map_err(|_| Doubt(format!("{path} leads to a name that is no UTF-8")))
    }

    pub fn make_folder(&self, path: &str, mode: u32) -> Result<(), Doubt> {
        let (folder, name) = self.parent(path)?;
        rustix::fs::mkdirat(&folder, name, Mode::RWXU).map_err(|e| Doubt::of(&path, e))?;
        // The umask takes nothing away, and a folder that we cannot write into is of no use.
        let done = rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(mode & MODE | 0o700), AtFlags::empty());
        done.map_err(|e| {
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR);
            Doubt::of(&path, e)
        })
    }

    pub fn make_link(&self, path: &str, target: &str) -> Result<(), Doubt> {
        let (folder, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, &folder, name).map_err(|e| Doubt::of(&path, e))
    }

    /// A new file; what it is like afterwards. It is gone when it cannot be written.
    pub fn make_file(
        &self,
        path: &str,
        mode: u32,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Stamp, Doubt> {
        let (folder, name) = self.parent(path)?;
        let fd = rustix::fs::openat(&folder, name, NEW, Mode::RWXU).map_err(|e| Doubt::of(&path, e))?;
        let mut file = File::from(fd);
        let done = write(&mut file).and_then(|()| {
            file.flush()?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & MODE | 0o400))?;
            Ok(stamp(&rustix::fs::fstat(&file)?))
        });
        done.map_err(|e| {
            let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty());
            Doubt::of(&path, e)
        })
    }

    /// The folder that a name lies in, through no link, and the name.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Doubt> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        if matches!(name, "" | "." | "..") {
            return Err(Doubt(format!("`{}` is no name in a release", path.escape_debug())));
        }
        let folder = rustix::fs::openat2(&self.root, folder, FOLDER, Mode::empty(), BENEATH);
        Ok((folder.map_err(|e| Doubt::of(&path, e))?, name))
    }
}

fn list(folder: &OwnedFd, path: &str, depth: usize, but: &[&str], listing: &mut Listing) -> Result<(), Doubt> {
    if depth > MAX_DEPTH {
        return Err(Doubt(format!("folders are nested deeper than {MAX_DEPTH}")));
    }
    for entry in Dir::read_from(folder).map_err(|e| Doubt::of(&path, e))? {
        let entry = entry.map_err(|e| Doubt::of(&path, e))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let text = name.to_str().map_err(|_| Doubt(format!("there is a name in `{path}` that is no UTF-8")))?;
        if depth == 0 && but.contains(&text) {
            continue;
        }
        let below = if path.is_empty() { text.to_owned() } else { format!("{path}/{text}") };
        let (node, inner) = node(folder, name).map_err(|e| Doubt::of(&below, e))?;
        if listing.len() >= MAX_NODES {
            return Err(Doubt(format!("there are more than {MAX_NODES} files")));
        }
        listing.insert(below.clone(), node);
        if let Some(inner) = inner {
            list(&inner, &below, depth + 1, but, listing)?;
        }
    }
    Ok(())
}

/// What something is; of a folder a way into it.
fn node(folder: &OwnedFd, name: &CStr) -> io::Result<(Node, Option<OwnedFd>)> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let inner = rustix::fs::openat(folder.as_fd(), name, FOLDER, Mode::empty())?;
            (Node::Folder { mode: stat.st_mode & MODE }, Some(inner))
        }
        FileType::RegularFile => (Node::File(stamp(&stat)), None),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            (Node::Link(target.into_string().map_err(io::Error::other)?), None)
        }
        _ => (Node::Other, None),
    })
}

fn stamp(stat: &Stat) -> Stamp {
    // Their types differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    let written = (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
    #[allow(clippy::unnecessary_cast)]
    let size = stat.st_size as u64;
    Stamp { mode: stat.st_mode & MODE, size, written, inode: stat.st_ino }
}
