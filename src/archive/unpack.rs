//! The unpacking half: names are checked, files are made by us, links come last.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tar::EntryType;

use super::{Hashing, MAX_PATH, check_link, check_name};
use crate::error::{Context, Error, Kind, Result};

/// A tar of more entries than this is not a web app.
const MAX_ENTRIES: usize = 500_000;
/// Largest tar we unpack, in bytes.
pub(super) const MAX_UNPACKED: u64 = 8 << 30;
/// Of the sizes that zstd's own default tooling accepts; our level 3 uses 2 MiB. A larger window is a memory bomb.
const MAX_WINDOW_LOG: u32 = 23;

/// Unpacks `archive` into the fresh folder `into` (created here), confined to it, and makes it durable.
///
/// # Errors
/// Refused for anything hostile or damaged, or when the tar is not `unpacked` bytes with the hash `sha256`; Io when the
/// disk says no. `into` is removed then.
pub(crate) fn unpack(archive: &Path, into: &Path, sha256: &str, unpacked: u64) -> Result<()> {
    if unpacked > MAX_UNPACKED {
        return Err(Error::new(
            Kind::Refused,
            format!("the release would take {unpacked} bytes unpacked, the limit is {MAX_UNPACKED}"),
        ));
    }
    let input = File::open(archive).context(|| format!("read {}", archive.display()))?;
    fs::DirBuilder::new().mode(0o755).create(into).context(|| format!("create {}", into.display()))?;
    let done = read_archive(BufReader::new(input), into, sha256, unpacked)
        .context(|| format!("unpack {}", archive.file_name().unwrap_or_default().display()));
    if done.is_err() {
        let _ = fs::remove_dir_all(into);
    }
    done
}

fn read_archive(input: impl io::BufRead, into: &Path, sha256: &str, unpacked: u64) -> Result<()> {
    let mut zstd = zstd::Decoder::with_buffer(input).context(|| "start zstd".into())?;
    zstd.window_log_max(MAX_WINDOW_LOG).context(|| "start zstd".into())?;
    // One byte more than announced, so that a longer tar is seen and not cut.
    let mut stream = Hashing::new(zstd.take(unpacked.saturating_add(1)));

    let mut tree = Tree::open(into)?;
    tree.fill(&mut stream, &Some)?;
    io::copy(&mut stream, &mut io::sink()).map_err(damaged)?;

    let (hash, count, _) = stream.finish();
    if hash != sha256 || count != unpacked {
        return Err(
            Error::new(Kind::Refused, "its content is not what was announced (wrong checksum)").hint("upload it again")
        );
    }
    tree.make_links()?;
    rustix::fs::syncfs(&tree.root).context(|| "make it durable".into())
}

/// Unpacks a tar that others made and somebody has verified into the folder `into`, as [`unpack`] does, for everybody
/// to read. `place` says
/// where a name goes, or that it does not.
///
/// # Errors
/// As of [`unpack`]; also when the tar is longer than `most` bytes. What was written by then is the caller's to remove.
pub(crate) fn unpack_tar(
    tar: impl Read,
    into: &Path,
    most: u64,
    place: &dyn Fn(PathBuf) -> Option<PathBuf>,
) -> Result<()> {
    let mut tree = Tree::open(into)?;
    let mut tar = tar.take(most);
    tree.fill(&mut tar, place)?;
    if tar.limit() == 0 {
        return Err(Error::new(Kind::Refused, format!("it is larger than {most} bytes unpacked")));
    }
    tree.open_folders()?;
    tree.make_links()
}

/// A long-name record: a path and a zero byte.
fn record(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_PATH as u64 + 2).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() > MAX_PATH + 1 {
        return Err(Error::new(Kind::Refused, "a name is longer than 4096 bytes"));
    }
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn damaged(e: io::Error) -> Error {
    Error::new(Kind::Refused, "the archive is damaged").because(e)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    Leaf,
}

/// What has been laid out so far.
struct Tree {
    root: OwnedFd,
    nodes: BTreeMap<PathBuf, Node>,
    links: Vec<(PathBuf, PathBuf)>,
}

impl Tree {
    fn open(root: &Path) -> Result<Tree> {
        let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("open {}", root.display()))?;
        Ok(Tree { root, nodes: BTreeMap::new(), links: Vec::new() })
    }

    fn fill(&mut self, stream: impl Read, place: &dyn Fn(PathBuf) -> Option<PathBuf>) -> Result<()> {
        let mut tar = tar::Archive::new(stream);
        // Raw, because the crate would read a long-name record of any size into memory for us.
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        for entry in tar.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            match entry.header().entry_type() {
                EntryType::GNULongName => long_name = Some(record(&mut entry)?),
                EntryType::GNULongLink => long_link = Some(record(&mut entry)?),
                kind => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let link = long_link.take().or_else(|| entry.link_name_bytes().map(|l| l.into_owned()));
                    let path = PathBuf::from(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(&name)));
                    let Some(path) = place(path) else { continue };
                    self.add(&mut entry, kind, &path, link.as_deref())
                        .context(|| format!("`{}`", path.display().to_string().escape_debug()))?;
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
        link: Option<&[u8]>,
    ) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(Kind::Refused, why));
        check_name(path).map_err(|why| Error::new(Kind::Refused, why))?;
        if self.nodes.len() >= MAX_ENTRIES {
            return refuse("the archive has too many entries");
        }
        match kind {
            EntryType::Directory => self.folder(path),
            EntryType::Regular => {
                let mode = entry.header().mode().map_err(damaged)?;
                if mode & 0o7000 != 0 {
                    return refuse("it is setuid, setgid or sticky");
                }
                self.leaf(path)?;
                self.write(entry, path, if mode & 0o111 != 0 { 0o755 } else { 0o644 })
            }
            EntryType::Symlink => {
                let target = PathBuf::from(OsStr::from_bytes(link.unwrap_or_default()));
                check_link(path, &target).map_err(|why| Error::new(Kind::Refused, why))?;
                self.leaf(path)?;
                self.links.push((path.into(), target));
                Ok(())
            }
            EntryType::Link => refuse("hard links are not allowed"),
            EntryType::Char | EntryType::Block | EntryType::Fifo => refuse("devices and pipes are not allowed"),
            _ => refuse("an entry of this type is not allowed"),
        }
    }

    /// A folder may be named after files below it were.
    fn folder(&mut self, path: &Path) -> Result<()> {
        match self.nodes.get(path) {
            Some(Node::Folder) => Ok(()),
            Some(Node::Leaf) => {
                Err(Error::new(Kind::Refused, "it is there twice, or below something that is not a folder"))
            }
            None => {
                if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    self.folder(parent)?;
                }
                rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o755))
                    .context(|| "create the folder".into())?;
                self.nodes.insert(path.into(), Node::Folder);
                Ok(())
            }
        }
    }

    fn leaf(&mut self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.folder(parent)?;
        }
        match self.nodes.insert(path.into(), Node::Leaf) {
            None => Ok(()),
            Some(_) => Err(Error::new(Kind::Refused, "it is there twice")),
        }
    }

    fn write(&self, content: &mut impl Read, path: &Path, mode: u32) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::from_raw_mode(0o600), beneath)
            .context(|| "create it".into())?;
        let mut file = File::from(fd);
        copy(content, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode)).context(|| "set its mode".into())
    }

    /// For everybody, whatever our umask. There is no link yet that could be followed.
    fn open_folders(&self) -> Result<()> {
        for (path, _) in self.nodes.iter().filter(|(_, node)| **node == Node::Folder) {
            rustix::fs::chmodat(&self.root, path, Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())
                .context(|| format!("set the mode of {}", path.display()))?;
        }
        Ok(())
    }

    fn make_links(&mut self) -> Result<()> {
        for (path, target) in self.links.drain(..) {
            rustix::fs::symlinkat(&target, &self.root, &path)
                .context(|| format!("create the link {}", path.display()))?;
        }
        Ok(())
    }
}

/// Like `io::copy`, but a broken archive and a full disk are two different errors.
pub(crate) fn copy(from: &mut impl Read, to: &mut File) -> Result<()> {
    let mut buf = [0; 64 << 10];
    loop {
        match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buf[..n]).context(|| "write it".into())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(damaged(e)),
        }
    }
}
