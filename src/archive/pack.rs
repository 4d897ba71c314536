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
use zstd::stream::{raw, zio};
use zstd::zstd_safe::CParameter;

use super::behind::Behind;
use super::bounds::{Bounds, check_link, check_name, check_ratio, check_size};
use super::{BLOCK, Content, Hashing, Packed};
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result, on_one_line};

/// Fast and small enough; level 9 saved 15 % for four times the time on a 14 MB tree.
pub(super) const LEVEL: i32 = 3;
/// More threads than this wait for the one that reads and hashes.
const MAX_WORKERS: usize = 16;
/// What a worker takes at a time, in bytes: half of the default, which leaves all but two cores without work in a tree of
/// 14 MB.
const JOB: u32 = 4 << 20;
/// Of what came before it a worker looks at a 64th of the window, 32 KiB: 9 is all of it, and each step below half as much. The
/// default, 256 KiB, costs 4 % of the time and saves 0.4 % of the bytes.
const OVERLAP: u32 = 3;
/// Handed over at once: a call of hash and compressor for each head and each small file costs more than the bytes in it.
pub(super) const PIECE: usize = 128 << 10;
/// There is room for as much before a file is read; nine of ten files of a web app are smaller, and each of those costs one
/// read.
const ROOM: usize = PIECE / 2;
/// What the compressor gives at once, so that it keeps up with the pieces that it gets, which shrink.
const GIVEN: usize = 2 * PIECE;
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

/// As [`pack`], for an archive that stays here: nobody minds how much it shrinks, and who made it is who reads it. What is
/// found at each path has to be what is `expected` there.
///
/// # Errors
/// As of [`write_tar`]; Refused naming a file that is something else than was expected.
pub(crate) fn pack_to_keep<'a>(root: &Path, files: &[PathBuf], out: &Path, expected: Expecting<'_, 'a>) -> Result<()> {
    put(out, workers(), |to| Ok(((), write(root, files, to, expected)?)), |(), _| Ok(()))?;
    Ok(())
}

/// As [`pack`], by so many threads; how many they are changes no byte.
pub(super) fn pack_with(root: &Path, files: &[PathBuf], out: &Path, workers: usize) -> Result<Packed> {
    let check = |content: &Content, bytes| {
        check_ratio(bytes, content.bytes)
            .map_err(|why| too_large(why, root, files))
            .context(|| format!("pack {}", root.display()))
    };
    let (content, bytes) = put(out, workers, |to| write_tar(root, files, to), check)?;
    Ok(Packed { sha256: content.sha256, bytes, unpacked: content.bytes })
}

/// What is at a path.
pub(crate) enum Found<'a> {
    File(&'a fs::Metadata),
    Link(&'a Path),
    Folder,
}

/// What should be at a path where something was found.
pub(crate) enum Expected<'a> {
    /// This.
    Found,
    /// A file, whose content has this SHA-256, lower-case hex.
    Content(&'a str),
    Other,
}

pub(crate) type Expecting<'e, 'a> = &'e dyn Fn(&Path, Found<'_>) -> Expected<'a>;

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_WORKERS)
}

type Compressor = zio::Writer<Behind, raw::Encoder<'static>>;

/// Makes the archive `out` of the tar that `write` writes, when `check` has nothing against it and its compressed bytes, which
/// are given back.
fn put<T>(
    out: &Path,
    workers: usize,
    write: impl FnOnce(Compressor) -> Result<(T, Compressor)>,
    check: impl FnOnce(&T, u64) -> Result<()>,
) -> Result<(T, u64)> {
    let temp = out.with_extension(format!("{}.part", std::process::id()));
    let packed = write_archive(&temp, workers, write).and_then(|(content, bytes)| {
        check(&content, bytes)?;
        fs::rename(&temp, out).context(|| format!("write {}", out.display()))?;
        Ok((content, bytes))
    });
    if packed.is_err() {
        let _ = fs::remove_file(&temp);
    }
    packed
}

fn write_archive<T>(
    out: &Path,
    workers: usize,
    write: impl FnOnce(Compressor) -> Result<(T, Compressor)>,
) -> Result<(T, u64)> {
    let doing = || format!("write {}", out.display());
    let file = File::create(out).and_then(Behind::new).context(doing)?;
    let mut zstd = raw::Encoder::new(LEVEL).context(doing)?;
    for parameter in [
        // For who looks at one that was kept; everybody else compares SHA-256.
        CParameter::ChecksumFlag(true),
        // At least one worker, because the mode without any gives other bytes.
        CParameter::NbWorkers(workers.max(1) as u32),
        CParameter::JobSize(JOB),
        CParameter::OverlapSizeLog(OVERLAP),
    ] {
        zstd.set_parameter(parameter).context(doing)?;
    }
    let (content, mut zstd) = write(zio::Writer::new_with_capacity(file, zstd, GIVEN))?;
    zstd.finish().context(doing)?;
    let file = zstd.into_inner().0.finish().context(doing)?;
    Ok((content, file.metadata().context(doing)?.len()))
}

/// Writes the plain tar of `files`, as [`pack`] has them, to `to`, which is given back unflushed.
///
/// # Errors
/// Io or NotFound naming the file; Refused for a name or a link that [`super::unpack`] would not take, for what is neither
/// file, link nor folder, and for a file that changes while it is read; Build naming the largest files, when they are too
/// large for it.
pub(crate) fn write_tar<W: Write>(root: &Path, files: &[PathBuf], to: W) -> Result<(Content, W)> {
    write(root, files, Hashing::new(to), &|_, _| Expected::Found).map(Hashing::finish)
}

fn write<W: Write>(root: &Path, files: &[PathBuf], to: W, expected: Expecting<'_, '_>) -> Result<W> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root_fd =
        rustix::fs::open(root, flags, Mode::empty()).context(|| format!("pack {}: open it", root.display()))?;
    let mut sorted: Vec<&PathBuf> = files.iter().collect();
    sorted.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    sorted.dedup();

    let mut writer = Writer { root: root_fd, to, expected, count: 0, piece: vec![0; PIECE], used: 0 };
    let (mut bounds, mut previous) = (Bounds::default(), Path::new(""));
    for path in sorted {
        let counted = check_name(path).and_then(|()| count(&mut bounds, path, previous)).map_err(refused);
        let appended = counted.and_then(|()| writer.append(path)).context(|| format!("pack {}", path.display()));
        appended.map_err(|e| if e.kind() == Kind::Build { e.with_detail(largest(root, files)) } else { e })?;
        previous = path;
    }
    // The end of a tar is two empty blocks.
    writer.put(&[0; 2 * BLOCK])?;
    writer.hand_over()?;
    check_size(writer.count)
        .map_err(|why| too_large(why, root, files))
        .context(|| format!("pack {}", root.display()))?;
    Ok(writer.to)
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

struct Writer<'e, 'a, W> {
    root: OwnedFd,
    to: W,
    expected: Expecting<'e, 'a>,
    /// Bytes of the tar, with those that are to be handed over.
    count: u64,
    /// Its first `used` bytes are to be handed over.
    piece: Vec<u8>,
    used: usize,
}

impl<'a, W: Write> Writer<'_, 'a, W> {
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
            () if meta.is_dir() => {
                self.expect(path, Found::Folder)?;
                self.head(path, EntryType::Directory, 0o755, 0, b"")
            }
            () if meta.is_file() => self.file(path, file, &meta),
            () => Err(refused(NO_KIND)),
        }
    }

    /// The SHA-256 that its content must have, where that has to be seen.
    fn expect(&self, path: &Path, found: Found<'_>) -> Result<Option<&'a str>> {
        match (self.expected)(path, found) {
            Expected::Found => Ok(None),
            Expected::Content(sha256) => Ok(Some(sha256)),
            Expected::Other => Err(changed()),
        }
    }

    fn link(&mut self, path: &Path) -> Result<()> {
        let target = rustix::fs::readlinkat(&self.root, path, Vec::new()).context(|| "read the link".into())?;
        let leads_to = Path::new(OsStr::from_bytes(target.as_bytes()));
        check_link(path, leads_to).map_err(refused)?;
        self.expect(path, Found::Link(leads_to))?;
        self.head(path, EntryType::Symlink, 0o777, 0, target.as_bytes())
    }

    fn file(&mut self, path: &Path, mut file: File, meta: &fs::Metadata) -> Result<()> {
        let (size, mode) = (meta.len(), if meta.mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        // Before it is read: that could take all day.
        check_size(self.count.saturating_add(size)).map_err(|why| Error::new(Kind::Build, why).hint(LEAVE_OUT))?;
        let mut content = self.expect(path, Found::File(meta))?.map(|sha256| (Sha256::new(), sha256));
        self.head(path, EntryType::Regular, mode, size, b"")?;
        let mut sent = 0;
        loop {
            if self.piece.len() - self.used < ROOM {
                self.hand_over()?;
            }
            let room = &mut self.piece[self.used..];
            let n = match file.read(room) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read.context(|| "read it".into())?,
            };
            let is_all = n < room.len();
            sent += n as u64;
            if sent > size || (n == 0 && sent < size) {
                return Err(changed());
            }
            if let Some((hash, _)) = &mut content {
                hash.update(&room[..n]);
            }
            self.count += n as u64;
            self.used += n;
            // There was room for more and no more came: a small file costs one read.
            if sent == size && is_all {
                break;
            }
        }
        self.pad(size)?;
        // Of the same length, it may still be half of the one and half of the other.
        let now = file.metadata().context(|| "read it".into())?;
        let is_as_before = (now.len(), now.mtime(), now.mtime_nsec()) == (size, meta.mtime(), meta.mtime_nsec());
        match is_as_before && content.is_none_or(|(hash, sha256)| hash.finish() == sha256) {
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

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.used == self.piece.len() {
                self.hand_over()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.piece.len() - self.used));
            self.piece[self.used..][..now.len()].copy_from_slice(now);
            self.used += now.len();
            self.count += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<()> {
        self.to.write_all(&self.piece[..self.used]).context(|| WRITING.into())?;
        self.used = 0;
        Ok(())
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
