//! The unpacking half: what stands in a tar becomes a [`Tree`], or is refused by name.
//!
//! The `tar` crate finds the entries and nothing else. What two readers could understand in two ways is refused, even
//! where it could do no harm: what was looked at elsewhere is what comes out here.
//!
//! **Invariant**: nothing of a stream is believed before its end; then its length and hash are what was announced.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::bounds::{self, Bounds, MAX_PATH};
use super::tree::{self, Tree};
use super::{Hashing, ahead};
use crate::error::{Context, Error, Kind, Result};

/// 8 MiB, what the `zstd` program accepts without being asked; our level 3 uses 2 MiB. A larger one is a memory bomb.
const MAX_WINDOW_LOG: u32 = 23;

/// Unpacks `archive` into the fresh folder `into` (created here), confined to it, and makes it durable.
///
/// # Errors
/// Refused for anything hostile or damaged, or when the tar is not `unpacked` bytes with the hash `sha256`; Io when the
/// disk says no. `into` is removed then.
pub(crate) fn unpack(archive: &Path, into: &Path, sha256: &str, unpacked: u64) -> Result<()> {
    let unpacking = || format!("unpack {}", archive.file_name().unwrap_or_default().display());
    let input = File::open(archive).context(|| format!("read {}", archive.display()))?;
    let bytes = input.metadata().context(|| format!("read {}", archive.display()))?.len();
    let fits = bounds::check_size(unpacked).and_then(|()| bounds::check_ratio(bytes, unpacked));
    fits.map_err(refused).context(unpacking)?;
    lay_out(decoder(input)?, into, sha256, unpacked).context(unpacking)
}

/// What was compressed; several frames in a row are one stream (RFC 8878, 3.1).
pub(super) fn decoder<R: Read>(input: R) -> Result<zstd::Decoder<'static, BufReader<R>>> {
    let mut zstd = zstd::Decoder::new(input).context(|| "start zstd".into())?;
    zstd.window_log_max(MAX_WINDOW_LOG).context(|| "start zstd".into())?;
    Ok(zstd)
}

/// Unpacks a plain tar as [`unpack`] does. It is read on a thread of its own.
///
/// # Errors
/// As of [`unpack`].
pub(crate) fn lay_out(tar: impl Read + Send, into: &Path, sha256: &str, unpacked: u64) -> Result<()> {
    bounds::check_size(unpacked).map_err(refused)?;
    fs::DirBuilder::new().mode(0o755).create(into).context(|| format!("create {}", into.display()))?;
    let done = fill_verified(tar, into, sha256, unpacked, Bounds::default());
    if done.is_err() {
        let _ = fs::remove_dir_all(into);
    }
    done
}

/// Leaves in `into` what it had written when it fails.
pub(super) fn fill_verified(
    tar: impl Read + Send,
    into: &Path,
    sha256: &str,
    unpacked: u64,
    bounds: Bounds,
) -> Result<()> {
    // One byte more than announced, so that a longer tar is seen and not cut.
    let stream = Hashing::new(tar.take(unpacked.saturating_add(1)));
    let (tree, stream) = ahead::read(stream, |tar| -> Result<Tree> {
        let mut tree = Tree::open(into, bounds)?;
        fill(&mut tree, tar, &Some)?;
        at_end(tar)?;
        Ok(tree)
    })?;
    let tree = tree?;
    let (content, _) = stream.finish();
    if content.sha256 != sha256 || content.bytes != unpacked {
        return Err(refused("its content is not what was announced (wrong checksum)").hint("upload it again"));
    }
    let root = tree.finish()?;
    // Once for all of it: whoever unpacks marks it as whole after that. A sync of each file would be minutes.
    rustix::fs::syncfs(&root).context(|| "make it durable".into())
}

/// Unpacks a tar that others made and somebody has verified into the folder `into`, as [`unpack`] does, for everybody
/// to read. `place` says where a name goes, or that it does not.
///
/// # Errors
/// As of [`unpack`]; also when the tar is longer than `most` bytes. What was written by then is the caller's to remove.
pub(crate) fn unpack_tar(
    tar: impl Read,
    into: &Path,
    most: u64,
    place: &dyn Fn(PathBuf) -> Option<PathBuf>,
) -> Result<()> {
    let mut tree = Tree::open(into, Bounds::default())?;
    let mut tar = tar.take(most);
    fill(&mut tree, &mut tar, place)?;
    if tar.limit() == 0 {
        return Err(refused(format!("it is larger than {most} bytes unpacked")));
    }
    tree.open_folders()?;
    tree.finish().map(drop)
}

/// Copies the file `from`, or what was packed in one.
///
/// # Errors
/// Refused when `from` is damaged; Io when `to` cannot be written.
pub(crate) fn copy(from: &mut impl Read, to: &mut File) -> Result<()> {
    tree::copy(from, to, &mut [0; 64 << 10]).map(drop)
}

fn fill(tree: &mut Tree, stream: &mut impl Read, place: &dyn Fn(PathBuf) -> Option<PathBuf>) -> Result<()> {
    let mut tar = tar::Archive::new(stream);
    let mut records = Records::default();
    let mut last = PathBuf::new();
    // Raw, because the crate would read a long-name record of any size into memory for us.
    for entry in tar.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged).context(|| after(&last))?;
        if records.take(&mut entry).context(|| after(&last))? {
            continue;
        }
        let (name, link) = records.of(&entry);
        let is_folder = entry.header().entry_type() == EntryType::Directory;
        let path = match name.strip_suffix(b"/") {
            Some(folder) if is_folder => folder,
            _ => &name,
        };
        let Some(path) = place(PathBuf::from(OsStr::from_bytes(path))) else { continue };
        add(tree, &mut entry, &path, &link).context(|| format!("`{}`", path.display().to_string().escape_debug()))?;
        last = path;
    }
    match records.is_empty() {
        true => Ok(()),
        false => Err(refused("it ends after a long name, with no file to bear it")),
    }
}

fn add(tree: &mut Tree, entry: &mut tar::Entry<'_, impl Read>, path: &Path, link: &[u8]) -> Result<()> {
    let header = entry.header();
    let (kind, size) = (header.entry_type(), plain_size(header)?);
    if size > 0 && matches!(kind, EntryType::Directory | EntryType::Symlink) {
        return Err(refused("a folder or link with content is not allowed"));
    }
    match kind {
        EntryType::Directory => tree.folder(path),
        EntryType::Symlink => tree.link(path, Path::new(OsStr::from_bytes(link))),
        EntryType::Regular => {
            let mode = header.mode().map_err(damaged)?;
            match mode & 0o7000 {
                0 => tree.file(path, entry, size, mode & 0o111 != 0),
                _ => Err(refused("it is setuid, setgid or sticky")),
            }
        }
        EntryType::Link => Err(refused("hard links are not allowed")),
        EntryType::Char | EntryType::Block | EntryType::Fifo => Err(refused("devices and pipes are not allowed")),
        _ => Err(refused("an entry of this type is not allowed")),
    }
}

/// The crate reads the last eight of the twelve bytes of a binary size, and a sign before an octal one.
fn plain_size(header: &tar::Header) -> Result<u64> {
    let field = &header.as_old().size;
    let is_plain = match field[0] {
        0x80 => field[1..4] == [0; 3],
        _ => field.iter().all(|b| matches!(b, b'0'..=b'7' | b' ' | 0)),
    };
    match is_plain {
        true => header.entry_size().map_err(damaged),
        false => Err(refused("its size is no number that a file could have")),
    }
}

/// What the long-name records (GNU) before an entry say of it.
#[derive(Default)]
struct Records {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Records {
    /// Whether the entry was such a record.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool> {
        let field = match entry.header().entry_type() {
            EntryType::GNULongName => &mut self.name,
            EntryType::GNULongLink => &mut self.link,
            _ => return Ok(false),
        };
        match field.replace(record(entry)?) {
            None => Ok(true),
            Some(_) => Err(refused("two long names for one file")),
        }
    }

    fn of(&mut self, entry: &tar::Entry<'_, impl Read>) -> (Vec<u8>, Vec<u8>) {
        let name = self.name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = self.link.take().or_else(|| entry.link_name_bytes().map(|l| l.into_owned()));
        (name, link.unwrap_or_default())
    }

    fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none()
    }
}

/// A path and a zero byte.
fn record(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let size = plain_size(entry.header())?;
    if size > MAX_PATH as u64 {
        return Err(refused("a name is longer than 4095 bytes"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// After the empty block that ends a tar there are only more of them.
fn at_end(stream: &mut impl Read) -> Result<()> {
    let mut piece = [0; 8 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) if piece[..n].iter().all(|b| *b == 0) => {}
            Ok(_) => return Err(refused("there is something behind its end")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(damaged(e)),
        }
    }
}

fn after(last: &Path) -> String {
    match last.as_os_str().is_empty() {
        true => "at its start".into(),
        false => format!("after `{}`", last.display().to_string().escape_debug()),
    }
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Refused, why)
}

fn damaged(e: io::Error) -> Error {
    refused("the archive is damaged").because(e)
}
