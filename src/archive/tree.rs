//! Tree: what an archive becomes on the disk, and nothing beside it.
//!
//! It knows nothing of tar. Each name is checked, each folder and file is made by us below a descriptor of the root,
//! and links come last, when nothing is written any more.
//!
//! **Invariant**: while files are written the folder holds no symlink.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::bounds::{Bounds, check_link, check_name};
use crate::error::{Context, Error, Kind, Result};

/// Written at once.
const PIECE: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    Leaf,
}

/// What has been laid out so far.
pub(super) struct Tree {
    root: OwnedFd,
    /// By their bytes; a `Path` takes its time to be hashed, part by part.
    nodes: HashMap<OsString, Node>,
    links: Vec<(PathBuf, PathBuf)>,
    bounds: Bounds,
    piece: Vec<u8>,
}

impl Tree {
    pub fn open(root: &Path, bounds: Bounds) -> Result<Tree> {
        let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("open {}", root.display()))?;
        Ok(Tree { root, nodes: HashMap::new(), links: Vec::new(), bounds, piece: vec![0; PIECE] })
    }

    /// A folder may be named again, and after files below it were.
    pub fn folder(&mut self, path: &Path) -> Result<()> {
        check_name(path).map_err(refused)?;
        self.make_folder(path.as_os_str())
    }

    /// A file of `size` bytes, which `content` must have.
    pub fn file(&mut self, path: &Path, content: &mut impl Read, size: u64, executable: bool) -> Result<()> {
        self.leaf(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::from_raw_mode(0o600), beneath)
            .context(|| "create it".into())?;
        let mut file = File::from(fd);
        if copy(content, &mut file, &mut self.piece)? != size {
            return Err(refused("it is cut short"));
        }
        let mode = if executable { 0o755 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode)).context(|| "set its mode".into())
    }

    /// A link, which is made when [`Tree::finish`] is called.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        // The name first: only of a good one the depth is known.
        check_name(path).and_then(|()| check_link(path, target)).map_err(refused)?;
        self.bounds.add_text(target.as_os_str().as_bytes()).map_err(refused)?;
        self.leaf(path)?;
        self.links.push((path.into(), target.into()));
        Ok(())
    }

    /// Makes the links; nothing can be added after that.
    pub fn finish(self) -> Result<OwnedFd> {
        for (path, target) in self.links {
            rustix::fs::symlinkat(&target, &self.root, &path)
                .context(|| format!("create the link {}", path.display()))?;
        }
        Ok(self.root)
    }

    /// For everybody, whatever our umask. There is no link yet that could be followed.
    pub fn open_folders(&self) -> Result<()> {
        for (path, _) in self.nodes.iter().filter(|(_, node)| **node == Node::Folder) {
            rustix::fs::chmodat(&self.root, path, Mode::from_raw_mode(0o755), AtFlags::empty())
                .context(|| format!("set the mode of {}", path.display()))?;
        }
        Ok(())
    }

    fn leaf(&mut self, path: &Path) -> Result<()> {
        check_name(path).map_err(refused)?;
        self.make_parent(path.as_os_str())?;
        self.bounds.add(path.as_os_str().as_bytes()).map_err(refused)?;
        match self.nodes.insert(path.into(), Node::Leaf) {
            None => Ok(()),
            Some(_) => Err(refused("it is there twice")),
        }
    }

    fn make_folder(&mut self, path: &OsStr) -> Result<()> {
        match self.nodes.get(path) {
            Some(Node::Folder) => Ok(()),
            Some(Node::Leaf) => Err(refused("it is there twice, or below something that is not a folder")),
            None => {
                self.make_parent(path)?;
                self.bounds.add(path.as_bytes()).map_err(refused)?;
                rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o755))
                    .context(|| "create the folder".into())?;
                self.nodes.insert(path.into(), Node::Folder);
                Ok(())
            }
        }
    }

    /// Of a checked name, so that what stands before its last `/` is the folder.
    fn make_parent(&mut self, path: &OsStr) -> Result<()> {
        match memchr::memrchr(b'/', path.as_bytes()) {
            Some(at) => self.make_folder(OsStr::from_bytes(&path.as_bytes()[..at])),
            None => Ok(()),
        }
    }
}

/// Like `io::copy`, but a broken archive and a full disk are two different errors.
pub(super) fn copy(from: &mut impl Read, to: &mut File, piece: &mut [u8]) -> Result<u64> {
    let mut copied = 0;
    loop {
        match from.read(piece) {
            Ok(0) => return Ok(copied),
            Ok(n) => {
                to.write_all(&piece[..n]).context(|| "write it".into())?;
                copied += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(refused("the archive is damaged").because(e)),
        }
    }
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, why)
}
