//! Incoming: the folder where uploads arrive, by `sftp` past us or piece by piece through us, and from where a broken one
//! goes on.
//!
//! An upload has one name for its content and its app, whoever sends it from wherever: that is how the next attempt finds
//! what the last one brought. While it arrives it is called `NAME.part`. Two clients never write one of these by intent:
//! the name has the app in it, and who sends holds the app's lock. But a lock ends with its connection, and the writer may
//! not: bytes of a connection that was given up can arrive minutes later, and a client that was killed may leave its `sftp`
//! behind. So whoever wants to go on first [`claim`]s what is there: it gets a copy of it, under the same name, and the
//! other writes into a file without one. The copy is what the SHA-256 is of; `sftp` itself goes on behind any bytes.
//!
//! **Invariant**: what lies here is a claim of a client until a release was laid out from it, by the SHA-256 of its
//! content; so nothing is lost but time when any of it is removed, and all of it is after [`LEFT_OVER`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;

use super::layout::Layout;
use super::release::{SPARE_BYTES, entries, remove_any, remove_left_over};
use super::vet;
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Piece, part_of};
use crate::proto::name::AppId;

/// A client that did not come back by then will not. Of an upload nothing else tells its age; releases have records, and
/// are never judged by the time of a folder.
pub(crate) const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);
/// What was written to so shortly ago may be arriving.
const ARRIVING: Duration = Duration::from_secs(10 * 60);
/// Of uploads that nobody is at, kept for one who comes back: the youngest ones that fit.
const KEPT_BYTES: u64 = 2 << 30;
/// Read and hashed at a time; between two of them a client that is gone is noticed.
const CHUNK: usize = 1 << 20;

/// What is there of an upload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub bytes: u64,
    /// `None` when there is nothing, and for a whole upload: who unpacks it checks it.
    pub sha256: Option<String>,
}

/// How much there is of `file`, for a progress bar.
pub(crate) fn size(layout: &Layout, file: &str) -> Result<u64> {
    vet::upload_name(file)?;
    let found = fs::symlink_metadata(layout.incoming().join(file)).ok().filter(fs::Metadata::is_file);
    Ok(found.map_or(0, |f| f.len()))
}

/// Takes what has arrived of the upload `file` of `of` bytes away from whoever else may still be writing it. What cannot
/// be the start of it is removed. The caller has the lock of the upload's app.
///
/// # Errors
/// Refused for a name that is none; Interrupted when the client is `gone`; Io.
pub(crate) fn claim(layout: &Layout, file: &str, of: u64, gone: &AtomicBool) -> Result<Claimed> {
    let (whole, part) = names(layout, file)?;
    if fs::symlink_metadata(&whole).is_ok_and(|found| found.is_file() && found.len() == of && of > 0) {
        remove_any(&part)?;
        return Ok(Claimed { bytes: of, sha256: None });
    }
    remove_any(&whole)?;
    let nothing = || {
        remove_any(&part)?;
        Ok(Claimed { bytes: 0, sha256: None })
    };
    let Some((theirs, bytes)) = open(&part)? else { return nothing() };
    // Less room than this is too little for the rest, and for the release.
    let has_room = disk::free_bytes(layout.data())? >= bytes.saturating_add(SPARE_BYTES);
    if bytes == 0 || bytes > of || !has_room {
        return nothing();
    }
    let ours = layout.incoming().join(format!(".{file}.claimed"));
    let copied = copy(theirs, bytes, &ours, gone).and_then(|sha256| {
        let name = if bytes == of { &whole } else { &part };
        fs::rename(&ours, name).context(|| format!("rename {} to {}", ours.display(), name.display()))?;
        Ok(sha256)
    });
    if copied.is_err() {
        let _ = fs::remove_file(&ours);
    }
    let sha256 = copied?;
    if bytes == of {
        remove_any(&part)?;
    }
    log::info!("upload={file} goes on from={bytes} of={of}");
    Ok(Claimed { bytes, sha256: Some(sha256) })
}

/// Writes the next piece of an upload; the last one gives it its name. How much there is then.
///
/// # Errors
/// Refused for a piece that does not follow on what is there, or is more than was announced; Io without room.
pub(crate) fn put(layout: &Layout, piece: &Piece) -> Result<u64> {
    let (whole, part) = names(layout, &piece.file)?;
    let bytes = STANDARD.decode(&piece.data).map_err(|_| refused(piece, "is not base64"))?;
    let end = piece.offset.checked_add(bytes.len() as u64).filter(|end| *end <= piece.of && !bytes.is_empty());
    let end = end.ok_or_else(|| refused(piece, "is empty, or more than was announced"))?;
    make_room(layout, &part, piece.of - piece.offset)?;
    write(&part, &bytes, piece)
        .map_err(|e| if disk::is_full(layout.data()) { e.hint("make room on the server's disk") } else { e })?;
    if end == piece.of {
        fs::rename(&part, &whole).context(|| format!("rename the upload {}", piece.file))?;
    }
    Ok(end)
}

fn write(part: &Path, bytes: &[u8], piece: &Piece) -> Result<()> {
    let writing = || format!("write the upload {}", piece.file);
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(careful());
    let file = match piece.offset {
        0 => {
            remove_any(part)?;
            options.create_new(true).open(part).context(writing)?
        }
        _ => {
            let file = options.open(part).context(writing)?;
            let meta = file.metadata().context(writing)?;
            if !meta.is_file() || meta.len() != piece.offset {
                let message = format!("begins at {}, and {} bytes are there", piece.offset, meta.len());
                return Err(refused(piece, &message));
            }
            file
        }
    };
    // What a full disk took of it stays, and is asked for by whoever goes on.
    file.write_all_at(bytes, piece.offset).context(writing)
}

fn refused(piece: &Piece, why: &str) -> Error {
    Error::new(Kind::Refused, format!("a piece of the upload {} {why}", piece.file))
}

/// Removes what is left of an app's other uploads, when a release of it was laid out. The caller has the app's lock.
pub(crate) fn forget(layout: &Layout, id: &AppId) {
    let prefix = format!("{id}.");
    for entry in entries(&layout.incoming()) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        // What follows is a SHA-256, and not the environment of another app.
        let hash = name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
        if hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())) {
            remove_left_over(&entry);
        }
    }
}

/// Removes uploads that nobody came back for, and of the others what is too much.
pub(crate) fn tidy(layout: &Layout, now: SystemTime) {
    let_go(lying(layout, now), KEPT_BYTES).iter().for_each(|path| remove_left_over(path));
}

/// A file in the folder.
struct Lying {
    path: PathBuf,
    bytes: u64,
    age: Duration,
}

/// What is too old goes, and of what nobody writes to any more all but the youngest that fit into `room`.
fn let_go(mut found: Vec<Lying>, mut room: u64) -> Vec<PathBuf> {
    found.sort_by_key(|lying| lying.age);
    found.retain(|lying| {
        let fits = lying.bytes <= room || lying.age < ARRIVING;
        if fits && lying.age >= ARRIVING {
            room -= lying.bytes;
        }
        !(fits && lying.age <= LEFT_OVER)
    });
    found.into_iter().map(|lying| lying.path).collect()
}

fn lying(layout: &Layout, now: SystemTime) -> Vec<Lying> {
    let look = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).ok()?;
        // From the future when the clock went back: its time will come.
        let age = now.duration_since(meta.modified().ok()?).unwrap_or_default();
        Some(Lying { path, bytes: if meta.is_file() { meta.len() } else { 0 }, age })
    };
    entries(&layout.incoming()).into_iter().filter_map(look).collect()
}

/// What is kept for later goes before an upload is refused.
fn make_room(layout: &Layout, part: &Path, needed: u64) -> Result<()> {
    let free = || disk::free_bytes(layout.data());
    let needed_with_spare = needed.saturating_add(SPARE_BYTES);
    if free()? < needed_with_spare {
        let others = lying(layout, SystemTime::now()).into_iter().filter(|lying| lying.path != part).collect();
        let_go(others, 0).iter().for_each(|path| remove_left_over(path));
    }
    let free = free()?;
    if free < needed_with_spare {
        let message = format!("the upload needs {needed} bytes more and {} has {free} free", layout.data().display());
        return Err(Error::new(Kind::Io, message).hint("make room on the server's disk"));
    }
    Ok(())
}

/// The whole upload, and while it arrives.
fn names(layout: &Layout, file: &str) -> Result<(PathBuf, PathBuf)> {
    let part = part_of(file);
    vet::upload_name(file)?;
    vet::upload_name(&part)?;
    Ok((layout.incoming().join(file), layout.incoming().join(part)))
}

/// The file and its length; `None` when there is none, or something else.
fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let file = match OpenOptions::new().read(true).custom_flags(careful()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link, or a socket.
        Err(_) => return Ok(None),
    };
    let meta = file.metadata().context(|| format!("look at {}", path.display()))?;
    Ok(meta.is_file().then_some((file, meta.len())))
}

/// Neither through a link nor waiting at a pipe: others may put things there.
fn careful() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32
}

/// The SHA-256 of what was copied.
fn copy(mut from: File, bytes: u64, to: &Path, gone: &AtomicBool) -> Result<String> {
    let copying = || format!("copy what has arrived to {}", to.display());
    remove_any(to)?;
    let mut ours = disk::create_new(to, 0o600)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        if gone.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Interrupted, "the client is gone"));
        }
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let read = match from.read(&mut buffer[..most]) {
            Ok(0) => return Err(Error::new(Kind::Refused, "what has arrived became shorter meanwhile")),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).context(copying),
        };
        hash.update(&buffer[..read]);
        ours.write_all(&buffer[..read]).context(copying)?;
        left -= read as u64;
    }
    Ok(hash.finish())
}

#[cfg(test)]
mod tests;
