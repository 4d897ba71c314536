//! Sending: one attempt at bringing a file into a server's incoming folder: by `sftp`, by pieces on our own connection
//! where there is none, or as a copy on this machine.
//!
//! Who sends has claimed what is there of the file, so that nobody else writes it; how often it is tried, and what to do
//! about a lost connection, is decided elsewhere.
//!
//! **Invariant**: bytes are left out only when the server has said the SHA-256 of those it has, and it is ours.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::{Link, Remote};
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Artifact, Reply, Request, part_of};
use crate::proto::name::AppId;

/// How often we ask how much of an upload has arrived. A question is a hundred bytes, and there is one at a time.
const LOOK: Duration = Duration::from_millis(300);
/// Read and hashed at a time.
const CHUNK: usize = 256 << 10;

/// What is to be there.
pub(crate) struct Parcel<'a> {
    pub app: &'a AppId,
    pub file: &'a Path,
    pub artifact: &'a Artifact,
}

impl Remote {
    /// How many bytes of the parcel need not be sent, and from now on belong to nobody else; all of them when it lies
    /// there. With `anew` what is there is forgotten. Needs the lock.
    pub fn claim(&mut self, parcel: &Parcel<'_>, anew: bool) -> Result<u64> {
        let Artifact { file, bytes: all, .. } = parcel.artifact;
        let of = if anew { 0 } else { *all };
        let claim = Request::Claim { app: parcel.app.clone(), file: file.clone(), of };
        let claimed = match self.call(claim, &mut |_| {}) {
            // A server of before this request does not understand it. Without the lock nothing after this works either.
            Err(e) if e.kind() == Kind::Refused => return Ok(0),
            claimed => claimed?,
        };
        match claimed {
            Reply::Incoming { bytes: 0, .. } => Ok(0),
            Reply::Incoming { bytes, .. } if bytes > of => Ok(0),
            // Under its final name; what it is shows when it is unpacked.
            Reply::Incoming { bytes, sha256: None } if bytes == *all => Ok(bytes),
            Reply::Incoming { bytes, sha256: Some(theirs) } if theirs == hash_of_start(parcel.file, bytes)? => {
                Ok(bytes)
            }
            // Something else by the same name, or damaged.
            Reply::Incoming { .. } if anew => Ok(0),
            Reply::Incoming { .. } => self.claim(parcel, true),
            other => Err(self.misunderstood(&other)),
        }
    }

    /// Sends what is behind the first `from` bytes, which were [`Remote::claim`]ed. `on` hears how many are there.
    ///
    /// # Errors
    /// Unreachable also when only `sftp` has failed: whether the server is still there, the next call tells.
    pub fn send(&mut self, parcel: &Parcel<'_>, from: u64, on: &dyn Fn(u64)) -> Result<()> {
        on(from);
        let incoming = &self.hello.incoming;
        let mut upload = match &self.link {
            Link::Ssh(_) if self.no_sftp => return self.send_pieces(parcel, from, on),
            Link::Ssh(session) => session.start_upload(parcel.file, incoming, parcel.artifact, from > 0)?,
            Link::Here(_) => return copy_in(parcel.file, Path::new(incoming), parcel.artifact),
        };
        let mut watched = true;
        loop {
            if let Some(ended) = upload.wait(LOOK, &self.interrupt)? {
                return ended;
            }
            // The bar is a comfort: where it cannot be had, the upload goes on without.
            watched = watched && self.tell_progress(parcel.artifact, on).is_ok();
        }
    }

    /// Whether `sftp` is what sends there; after this not any more.
    pub fn do_without_sftp(&mut self) -> bool {
        matches!(self.link, Link::Ssh(_)) && !std::mem::replace(&mut self.no_sftp, true)
    }

    fn tell_progress(&mut self, artifact: &Artifact, on: &dyn Fn(u64)) -> Result<()> {
        match self.call(Request::Incoming { file: part_of(&artifact.file) }, &mut |_| {})? {
            // It has its final name, or is not begun.
            Reply::Incoming { bytes: 0, .. } => {}
            Reply::Incoming { bytes, .. } => on(bytes),
            other => return Err(self.misunderstood(&other)),
        }
        Ok(())
    }
}

/// The SHA-256 of the first `bytes` of a file of ours.
fn hash_of_start(file: &Path, bytes: u64) -> Result<String> {
    let reading = || format!("read {}", file.display());
    let mut start = File::open(file).context(reading)?.take(bytes);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let read = start.read(&mut buffer).context(reading)?;
        if read == 0 {
            return Err(Error::new(Kind::Io, format!("{} became shorter", file.display())).hint("try again"));
        }
        hash.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok(hash.finish())
}

/// A rehearsal's upload: the same two steps, the name of a part and a rename.
fn copy_in(file: &Path, incoming: &Path, artifact: &Artifact) -> Result<()> {
    let target = incoming.join(&artifact.file);
    let part = incoming.join(part_of(&artifact.file));
    let copied = fs::copy(file, &part).and_then(|_| fs::rename(&part, &target));
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied.context(|| format!("copy the artifact to {}", target.display()))?;
    disk::sync_dir(incoming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_this_machine_replaces_what_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = dir.path().join("incoming");
        fs::create_dir(&incoming).unwrap();
        fs::write(dir.path().join("a"), b"12345").unwrap();
        let artifact = Artifact { file: "x.tar.zst".into(), sha256: "0".repeat(64), bytes: 5, unpacked: 5, base: None };
        for there in [&b""[..], b"123", b"1234567"] {
            fs::write(incoming.join("x.tar.zst"), there).unwrap();
            fs::write(incoming.join("x.tar.zst.part"), there).unwrap();
            copy_in(&dir.path().join("a"), &incoming, &artifact).unwrap();
            assert_eq!(fs::read(incoming.join("x.tar.zst")).unwrap(), b"12345");
            assert_eq!(fs::read_dir(&incoming).unwrap().count(), 1);
        }
    }

    #[test]
    fn the_start_of_a_file_is_hashed_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, [b"abc", &vec![7; 2 * CHUNK][..]].concat()).unwrap();
        // FIPS 180-2, appendix B.1
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_of_start(&file, 3).unwrap(), abc);
        assert_ne!(hash_of_start(&file, CHUNK as u64 + 3).unwrap(), abc);
        assert_eq!(hash_of_start(&file, 1 << 20).unwrap_err().kind(), Kind::Io);
    }
}
