//! Pack and unpack `tar.zst`: sorted, confined, checksummed. Both halves together, because they are tested against each
//! other.
//!
//! The tar holds regular files, symlinks and folders, in order of name, owned by nobody, dated at the epoch, with
//! modes 0644 and 0755: the same input gives the same bytes on any machine. Unpacking uses the `tar` crate to parse
//! and nothing else of it; every name is checked and every file is created by us.
//!
//! **Invariant**: nothing is written outside the fresh folder, whatever the archive says. While files are written the
//! folder holds no symlink, because links are made last; and a link's target climbs only at its start and never above
//! the root, so that following it, or any chain of them, stays inside.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tar::EntryType;

use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};

/// A tar of more entries than this is not a web app.
const MAX_ENTRIES: usize = 500_000;
/// Largest tar we unpack, in bytes.
const MAX_UNPACKED: u64 = 8 << 30;
/// Longest path, as the kernel has it (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Longest name of one file (NAME_MAX).
const MAX_NAME: usize = 255;
/// Of the sizes that zstd's own default tooling accepts; our level 3 uses 2 MiB. A larger window is a memory bomb.
const MAX_WINDOW_LOG: u32 = 23;
/// Fast and small enough; level 9 saved 15 % for four times the time on a 14 MB tree.
const LEVEL: i32 = 3;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    /// SHA-256 of the tar before compression, lower-case hex. (Compressed bytes differ by library and threads.)
    pub sha256: String,
    /// Compressed bytes.
    pub bytes: u64,
    /// Bytes of the tar.
    pub unpacked: u64,
}

/// Packs `files` (relative paths under `root`: regular files, symlinks, empty folders; sorted here) into `out`, which
/// appears in one step.
///
/// # Errors
/// Io or NotFound naming the file; Refused for a name or link that [`unpack`] would not take, a file that is neither,
/// or one that changes its length while it is read.
pub(crate) fn pack(root: &Path, files: &[PathBuf], out: &Path) -> Result<Packed> {
    let temp = out.with_extension(format!("{}.part", std::process::id()));
    let packed = write_archive(root, files, &temp).and_then(|packed| {
        fs::rename(&temp, out).context(|| format!("write {}", out.display()))?;
        Ok(packed)
    });
    if packed.is_err() {
        let _ = fs::remove_file(&temp);
    }
    packed
}

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

// --- packing ---

fn write_archive(root: &Path, files: &[PathBuf], out: &Path) -> Result<Packed> {
    let file = File::create(out).context(|| format!("write {}", out.display()))?;
    let doing = || format!("write {}", out.display());
    let mut zstd = zstd::Encoder::new(BufWriter::new(file), LEVEL).context(doing)?;
    zstd.include_checksum(true).context(doing)?;
    // At least one worker, because the single-threaded mode gives other bytes.
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(16);
    zstd.multithread(workers as u32).context(doing)?;

    let mut tar = tar::Builder::new(Hashing::new(zstd));
    let mut sorted: Vec<&PathBuf> = files.iter().collect();
    sorted.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    sorted.dedup();
    for path in sorted {
        check_name(path).map_err(|why| Error::new(Kind::Refused, format!("pack {}: {why}", path.display())))?;
        append(&mut tar, root, path).context(|| format!("pack {}", path.display()))?;
    }
    let hashing = tar.into_inner().context(doing)?;
    let (sha256, unpacked, zstd) = hashing.finish();
    let file = zstd.finish().and_then(|w| w.into_inner().map_err(|e| e.into_error())).context(doing)?;
    file.sync_all().context(doing)?;
    let bytes = file.metadata().context(doing)?.len();
    Ok(Packed { sha256, bytes, unpacked })
}

fn append<W: Write>(tar: &mut tar::Builder<W>, root: &Path, path: &Path) -> Result<()> {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full).context(|| "read it".into())?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(if meta.is_dir() || meta.mode() & 0o111 != 0 { 0o755 } else { 0o644 });
    header.set_size(0);
    if meta.is_symlink() {
        let target = fs::read_link(&full).context(|| "read the link".into())?;
        check_link(path, &target).map_err(|why| Error::new(Kind::Refused, why))?;
        header.set_mode(0o777);
        header.set_entry_type(EntryType::Symlink);
        tar.append_link(&mut header, path, &target).context(|| "write the link".into())
    } else if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, path, io::empty()).context(|| "write the folder".into())
    } else if meta.is_file() {
        let file = File::open(&full).context(|| "read it".into())?;
        let size = file.metadata().context(|| "read it".into())?.len();
        header.set_size(size);
        header.set_entry_type(EntryType::Regular);
        let mut exact = Exactly { file: BufReader::new(file), left: size };
        tar.append_data(&mut header, path, &mut exact).context(|| "read it".into())?;
        exact.at_end().context(|| "read it".into())
    } else {
        Err(Error::new(Kind::Refused, "only files, links and folders can be packed"))
    }
}

/// A file that must stay as long as it was: a shorter or longer one would tear the archive.
struct Exactly {
    file: BufReader<File>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buf[..want])? {
            0 => Err(io::Error::other("it changed while it was being read")),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

impl Exactly {
    fn at_end(&mut self) -> io::Result<()> {
        match self.file.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("it changed while it was being read")),
        }
    }
}

/// Counts and hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Hashing { inner, hash: Sha256::new(), count: 0 }
    }

    fn finish(self) -> (String, u64, T) {
        (self.hash.finish(), self.count, self.inner)
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.saw(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.saw(&buf[..n]);
        Ok(n)
    }
}

// --- unpacking ---

fn read_archive(input: impl io::BufRead, into: &Path, sha256: &str, unpacked: u64) -> Result<()> {
    let mut zstd = zstd::Decoder::with_buffer(input).context(|| "start zstd".into())?;
    zstd.window_log_max(MAX_WINDOW_LOG).context(|| "start zstd".into())?;
    // One byte more than announced, so that a longer tar is seen and not cut.
    let mut stream = Hashing::new(zstd.take(unpacked.saturating_add(1)));

    let mut tree = Tree::open(into)?;
    let mut tar = tar::Archive::new(&mut stream);
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
                tree.add(&mut entry, kind, &path, link.as_deref())
                    .context(|| format!("`{}`", path.display().to_string().escape_debug()))?;
            }
        }
    }
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

    fn make_links(&mut self) -> Result<()> {
        for (path, target) in self.links.drain(..) {
            rustix::fs::symlinkat(&target, &self.root, &path)
                .context(|| format!("create the link {}", path.display()))?;
        }
        Ok(())
    }
}

/// Like `io::copy`, but a broken archive and a full disk are two different errors.
fn copy(from: &mut impl Read, to: &mut File) -> Result<()> {
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

// --- names, for both ---

/// Relative, made of plain names, without control characters, not longer than the kernel takes.
fn check_name(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_PATH {
        return Err("its name is empty or longer than 4096 bytes".into());
    }
    if bytes.iter().any(|b| b.is_ascii_control()) {
        return Err("its name has control characters".into());
    }
    // `components` hides `.` and doubled slashes, so the bytes are looked at too.
    let plain = path.components().all(|c| matches!(c, Component::Normal(n) if n.len() <= MAX_NAME));
    if !plain || bytes.split(|&b| b == b'/').any(|part| part.is_empty() || part == b".") {
        return Err("its name is absolute, climbs out with `..`, or has a part longer than 255 bytes".into());
    }
    Ok(())
}

/// A target must be relative, climb at its start alone, and not above the root.
fn check_link(path: &Path, target: &Path) -> Result<(), String> {
    let depth = path.components().count() - 1;
    let mut climbs = 0;
    let mut descended = false;
    for part in target.components() {
        match part {
            Component::ParentDir if !descended => climbs += 1,
            Component::Normal(_) => descended = true,
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => climbs = usize::MAX,
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
mod tests;
