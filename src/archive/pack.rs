//! The packing half: a list of files becomes a tar, and the tar a `tar.zst`, that is the same on any machine.
//!
//! The two steps are apart: [`write_tar`] knows nothing of compression, so that another one can take its place.
//!
//! **Invariant**: an archive appears whole or not at all, and whatever happens to a file while it is read, what stands
//! in the tar is as long as its head says.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tar::EntryType;
use zstd::zstd_safe::CParameter;

use super::behind::Behind;
use super::bounds::{Bounds, check_link, check_name, check_ratio, check_size};
use super::{BLOCK, Content, Hashing, Packed};
use crate::error::{Context, Error, Kind, Result, on_one_line};

/// Fast and small enough; level 9 saved 15 % for four times the time on a 14 MB tree.
pub(super) const LEVEL: i32 = 3;
/// More threads than this wait for the one that reads and hashes.
const MAX_WORKERS: usize = 16;
/// What a worker takes at a time, in bytes: a quarter of the default, which leaves all but two cores without work in a tree of
/// 14 MB. Archives become 0.3 % larger.
const JOB: u32 = 2 << 20;
/// Read at once; nine of ten files of a web app are smaller, and each of those costs one read.
pub(super) const PIECE: usize = 128 << 10;
/// Files that are named when all are too large together.
const NAMED: usize = 3;
/// Smaller ones are not what is too large.
const NAMED_FROM: u64 = 1_000_000;

/// Packs `files` (relative paths under `root`: regular files, symlinks, empty folders; sorted here) into `out`, which
/// appears in one step. It is not waited for the disk: whoever keeps an archive verifies it before its next use.
///
/// # Errors
/// As of [`write_tar`]; Build naming the largest files, when it would be a bomb to who unpacks it.
pub(crate) fn pack(root: &Path, files: &[PathBuf], out: &Path) -> Result<Packed> {
    pack_with(root, files, out, workers())
}

/// As [`pack`], for an archive that stays here: nobody minds how much it shrinks.
pub(crate) fn pack_to_keep(root: &Path, files: &[PathBuf], out: &Path) -> Result<Packed> {
    put(root, files, out, workers(), &|_| Ok(()))
}

/// As [`pack`], by so many threads; how many they are changes no byte.
pub(super) fn pack_with(root: &Path, files: &[PathBuf], out: &Path, workers: usize) -> Result<Packed> {
    put(root, files, out, workers, &|packed| {
        check_ratio(packed.bytes, packed.unpacked)
            .map_err(|why| too_large(why, root, files))
            .context(|| format!("pack {}", root.display()))
    })
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_WORKERS)
}

fn put(
    root: &Path,
    files: &[PathBuf],
    out: &Path,
    workers: usize,
    check: &dyn Fn(&Packed) -> Result<()>,
) -> Result<Packed> {
    let temp = out.with_extension(format!("{}.part", std::process::id()));
    let packed = write_archive(root, files, &temp, workers).and_then(|packed| {
        check(&packed)?;
        fs::rename(&temp, out).context(|| format!("write {}", out.display()))?;
        Ok(packed)
    });
    if packed.is_err() {
        let _ = fs::remove_file(&temp);
    }
    packed
}

fn write_archive(root: &Path, files: &[PathBuf], out: &Path, workers: usize) -> Result<Packed> {
    let doing = || format!("write {}", out.display());
    let file = File::create(out).and_then(Behind::new).context(doing)?;
    let mut zstd = zstd::Encoder::new(file, LEVEL).context(doing)?;
    zstd.include_checksum(true).context(doing)?;
    // At least one worker, because the mode without any gives other bytes.
    zstd.multithread(workers.max(1) as u32).context(doing)?;
    zstd.set_parameter(CParameter::JobSize(JOB)).context(doing)?;
    let (content, zstd) = write_tar(root, files, zstd)?;
    let file = zstd.finish().and_then(Behind::finish).context(doing)?;
    let bytes = file.metadata().context(doing)?.len();
    Ok(Packed { sha256: content.sha256, bytes, unpacked: content.bytes })
}

/// Writes the plain tar of `files`, as [`pack`] has them, to `to`, which is given back unflushed.
///
/// # Errors
/// Io or NotFound naming the file; Refused for a name or a link that [`super::unpack`] would not take, for what is neither
/// file, link nor folder, and for a file that changes while it is read; Build naming the largest files, when they are too
/// large for it.
pub(crate) fn write_tar<W: Write>(root: &Path, files: &[PathBuf], to: W) -> Result<(Content, W)> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root_fd =
        rustix::fs::open(root, flags, Mode::empty()).context(|| format!("pack {}: open it", root.display()))?;
    let mut sorted: Vec<&PathBuf> = files.iter().collect();
    sorted.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    sorted.dedup();

    let mut writer = Writer { root: root_fd, to: Hashing::new(to), piece: vec![0; PIECE] };
    let (mut bounds, mut previous) = (Bounds::default(), Path::new(""));
    for path in sorted {
        let counted = check_name(path).and_then(|()| count(&mut bounds, path, previous)).map_err(refused);
        let appended = counted.and_then(|()| writer.append(path)).context(|| format!("pack {}", path.display()));
        appended.map_err(|e| if e.kind() == Kind::Build { e.with_detail(largest(root, files)) } else { e })?;
        previous = path;
    }
    // The end of a tar is two empty blocks.
    writer.put(&[0; 2 * BLOCK])?;
    let (content, to) = writer.to.finish();
    check_size(content.bytes)
        .map_err(|why| too_large(why, root, files))
        .context(|| format!("pack {}", root.display()))?;
    Ok((content, to))
}

/// Counts the path, and the folders above it that the one before it in order does not lie in.
fn count(bounds: &mut Bounds, path: &Path, previous: &Path) -> Result<(), String> {
    let (path, previous) = (path.as_os_str().as_bytes(), previous.as_os_str().as_bytes());
    let shared = path.iter().zip(previous).take_while(|(a, b)| a == b).count();
    let folders = path.iter().enumerate().skip(shared).filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    // The folder that ends where the two part is new as well, unless it is the one before itself.
    folders
        .filter(|at| *at > shared || previous.len() != shared)
        .chain([path.len()])
        .try_for_each(|end| bounds.add(&path[..end]))
}

struct Writer<W> {
    root: OwnedFd,
    to: Hashing<W>,
    piece: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn append(&mut self, path: &Path) -> Result<()> {
        // Opened first and asked then: what is read is what was looked at. A pipe must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.root, path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP) => return self.link(path),
            // Of a socket.
            Err(Errno::NXIO) => return Err(refused(NO_KIND)),
            Err(e) => return Err(e).context(|| "read it".into()),
        };
        let meta = file.metadata().context(|| "read it".into())?;
        match () {
            () if meta.is_dir() => self.head(path, EntryType::Directory, 0o755, 0, b""),
            () if meta.is_file() => self.file(path, file, &meta),
            () => Err(refused(NO_KIND)),
        }
    }

    fn link(&mut self, path: &Path) -> Result<()> {
        let target = rustix::fs::readlinkat(&self.root, path, Vec::new()).context(|| "read the link".into())?;
        check_link(path, Path::new(OsStr::from_bytes(target.as_bytes()))).map_err(refused)?;
        self.head(path, EntryType::Symlink, 0o777, 0, target.as_bytes())
    }

    fn file(&mut self, path: &Path, mut file: File, meta: &fs::Metadata) -> Result<()> {
        let (size, mode) = (meta.len(), if meta.mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        // Before it is read: that could take all day.
        check_size(self.to.count.saturating_add(size)).map_err(|why| Error::new(Kind::Build, why).hint(LEAVE_OUT))?;
        self.head(path, EntryType::Regular, mode, size, b"")?;
        let mut sent = 0;
        loop {
            let n = match file.read(&mut self.piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read.context(|| "read it".into())?,
            };
            sent += n as u64;
            if sent > size || (n == 0 && sent < size) {
                return Err(changed());
            }
            self.to.write_all(&self.piece[..n]).context(|| WRITING.into())?;
            // There was room for more and no more came: a small file costs one read.
            if sent == size && n < self.piece.len() {
                break;
            }
        }
        self.pad(size)?;
        // Of the same length, it may still be half of the one and half of the other.
        let now = file.metadata().context(|| "read it".into())?;
        match (now.len(), now.mtime(), now.mtime_nsec()) == (size, meta.mtime(), meta.mtime_nsec()) {
            true => Ok(()),
            false => Err(changed()),
        }
    }

    /// What stands before the content; a name or target that is too long for it gets a record of its own (GNU).
    fn head(&mut self, path: &Path, kind: EntryType, mode: u32, size: u64, link: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, size);
        let gnu = header.as_gnu_mut().expect("it was made as one");
        let name = path.as_os_str().as_bytes();
        for (record, text, field) in
            [(EntryType::GNULongName, name, &mut gnu.name), (EntryType::GNULongLink, link, &mut gnu.linkname)]
        {
            let fits = text.len().min(field.len());
            field[..fits].copy_from_slice(&text[..fits]);
            if text.len() > fits {
                self.record(record, text)?;
            }
        }
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn record(&mut self, kind: EntryType, text: &[u8]) -> Result<()> {
        let with_zero = [text, b"\0"].concat();
        let mut header = header(kind, 0o644, with_zero.len() as u64);
        header.as_gnu_mut().expect("it was made as one").name[..RECORD.len()].copy_from_slice(RECORD);
        header.set_cksum();
        self.put(header.as_bytes())?;
        self.put(&with_zero)?;
        self.pad(with_zero.len() as u64)
    }

    fn pad(&mut self, len: u64) -> Result<()> {
        let over = (len % BLOCK as u64) as usize;
        self.put(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).context(|| WRITING.into())
    }
}

/// The name that GNU tar gives to its records.
const RECORD: &[u8] = b"././@LongLink";
const WRITING: &str = "write the archive";
const NO_KIND: &str = "only files, links and folders can be packed";

/// Of nobody, at no time.
fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// What is too much is mostly one file, or a few.
fn too_large(why: String, root: &Path, files: &[PathBuf]) -> Error {
    Error::new(Kind::Build, why).hint(LEAVE_OUT).with_detail(largest(root, files))
}

const LEAVE_OUT: &str = "no server unpacks that: leave out what the app does not need to run, by `exclude` in [build] of \
                         tako.toml or a .gitignore; data belongs elsewhere";

fn largest(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let size = |path: &PathBuf| fs::symlink_metadata(root.join(path)).map_or(0, |meta| meta.len());
    let mut sizes: Vec<(u64, &PathBuf)> = files.iter().map(|path| (size(path), path)).collect();
    sizes.retain(|(size, _)| *size >= NAMED_FROM);
    sizes.sort_unstable();
    let line = |(size, path): &(u64, &PathBuf)| {
        on_one_line(&format!("{} MB  {}", size.div_ceil(1_000_000), path.display())).into_owned()
    };
    sizes.iter().rev().take(NAMED).map(line).collect()
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, why)
}

fn changed() -> Error {
    refused("it changed while it was being read").hint("let what writes to it finish, and try again")
}
