//! Upload: brings an artifact to a server and has it unpacked there: as a delta where the server has kept an earlier one
//! that is in our cache too, else in full. What an attempt before has brought, in this deploy or in one that broke off, is
//! not sent again; how that goes is told in [`deliver`].
//!
//! Which base it is, the server says and the cache decides; nothing here knows what is in an artifact.
//!
//! **Invariant**: a delta saves bytes or costs some, and never a deploy: whatever a server has against it, the whole
//! archive follows in the same deploy. Our delta files are gone when the [`Uploads`] are.

mod deliver;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::build::{Built, cache};
use super::remote::{Parcel, Place, Remote};
use super::ui::units;
use super::ui::{Task, Ui};
use crate::archive::Packed;
use crate::archive::delta::{self, Whole};
use crate::disk;
use crate::error::{Context, Kind, Result};
use crate::proto::control::{Artifact, Base, Notice, Request};
use crate::proto::name::AppId;
use crate::proto::version::Version;

/// Of what an upload in full takes, in percent: a delta that saves less is not worth the server's work.
const WORTH: u64 = 75;
/// A delta that is older than this was left by a `tako` that was killed.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// What went over the wire for one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Sent {
    /// Of files, without what ssh adds and without what was there of an earlier attempt. More than `of` when a delta was
    /// refused.
    pub bytes: u64,
    /// Of the whole archive.
    pub of: u64,
    /// What the delta was against; `None` when all of it was sent, or nothing.
    pub base: Option<Version>,
}

impl Sent {
    /// It was there already.
    pub fn nothing(of: u64) -> Sent {
        Sent { bytes: 0, of, base: None }
    }
}

/// All uploads of one deploy: servers with the same base are sent the same delta.
pub(crate) struct Uploads<'a> {
    ui: &'a Ui,
    app: AppId,
    version: &'a Version,
    dir: PathBuf,
    made: Mutex<Vec<Made>>,
}

/// A delta from one tar to another, if it is worth it.
struct Made {
    /// The two SHA-256.
    from: String,
    to: String,
    file: Option<(PathBuf, u64)>,
}

/// A delta for one server.
struct Delta {
    base: Base,
    file: PathBuf,
    bytes: u64,
}

impl<'a> Uploads<'a> {
    /// `dir` is for our own files.
    pub fn new(ui: &'a Ui, app: AppId, version: &'a Version, dir: PathBuf) -> Uploads<'a> {
        Uploads { ui, app, version, dir, made: Mutex::default() }
    }

    /// Has `built` laid out as a release by `remote`, which is that of `place` and keeps these `bases`. After a lost
    /// connection it is another one, with the lock.
    ///
    /// # Errors
    /// What the server says to the whole archive; Unreachable, Timeout, Interrupted.
    pub fn bring(
        &self,
        built: &Built,
        place: &Place,
        remote: &mut Remote,
        bases: &[Base],
        line: &Task,
    ) -> Result<Sent> {
        let mut wasted = 0;
        if let Some(delta) = self.delta(built, bases, line) {
            match self.send_delta(built, place, remote, &delta, line)? {
                Ok(bytes) => return Ok(Sent { bytes, of: built.packed.bytes, base: Some(delta.base.version) }),
                Err(why) => {
                    let from = &delta.base.version;
                    self.ui.detail(&format!("{}: not as a delta from {from}, but in full: {why}", remote.name()));
                    wasted = delta.bytes;
                }
            }
        }
        let bytes = self.send_whole(built, place, remote, line)?;
        Ok(Sent { bytes: wasted + bytes, of: built.packed.bytes, base: None })
    }

    /// The bytes that were sent, or why they were for nothing.
    fn send_delta(
        &self,
        built: &Built,
        place: &Place,
        remote: &mut Remote,
        delta: &Delta,
        line: &Task,
    ) -> Result<Result<u64>> {
        let artifact = Artifact {
            file: format!("{}.{}.{}.delta", self.app, built.packed.sha256, short(&delta.base.sha256)),
            bytes: delta.bytes,
            base: Some(delta.base.sha256.clone()),
            ..self.whole(built)
        };
        let parcel = Parcel { app: &self.app, file: &delta.file, artifact: &artifact };
        let done = self
            .deliver(&parcel, place, remote, false, line)
            .and_then(|sent| self.unpack(remote, artifact.clone(), line).map(|()| sent));
        match done {
            // The server is lost, or we are to stop: that is not the delta's fault.
            Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::Timeout | Kind::Interrupted) => Err(e),
            done => Ok(done),
        }
    }

    /// The bytes that were sent.
    fn send_whole(&self, built: &Built, place: &Place, remote: &mut Remote, line: &Task) -> Result<u64> {
        let artifact = self.whole(built);
        let parcel = Parcel { app: &self.app, file: &built.file, artifact: &artifact };
        let sent = self.deliver(&parcel, place, remote, false, line)?;
        match self.unpack(remote, artifact.clone(), line) {
            // What lay there had the right size and was something else, or somebody wrote to it.
            Err(e) if sent < artifact.bytes && matches!(e.kind(), Kind::Refused | Kind::NotFound) => {
                self.ui.detail(&format!("{}: what was there of the upload is not it, all is sent: {e}", remote.name()));
                let again = self.deliver(&parcel, place, remote, true, line)?;
                self.unpack(remote, artifact.clone(), line)?;
                Ok(sent + again)
            }
            done => done.map(|()| sent),
        }
    }

    /// The artifact as it is sent in full. Its name is that of its content, so that what was sent of it is found again, and
    /// of its app, so that nobody else sends it.
    fn whole(&self, built: &Built) -> Artifact {
        let Packed { sha256, bytes, unpacked } = built.packed.clone();
        Artifact { file: format!("{}.{sha256}.tar.zst", self.app), sha256, bytes, unpacked, base: None }
    }

    fn unpack(&self, remote: &mut Remote, artifact: Artifact, line: &Task) -> Result<()> {
        let request = Request::Unpack { app: self.app.clone(), version: self.version.clone(), artifact };
        remote.order(request, &mut |notice| {
            if let Notice::Doing { what } = notice {
                line.set(&what);
            }
        })
    }

    /// A delta against the first of `bases` that is in our cache, if that is worth it.
    fn delta(&self, built: &Built, bases: &[Base], line: &Task) -> Option<Delta> {
        let artifacts = built.file.parent()?;
        let (base, (file, unpacked)) =
            bases.iter().find_map(|base| Some((base, cache::holding(artifacts, &base.sha256)?)))?;
        if !delta::fits(unpacked, built.packed.unpacked) {
            return None;
        }
        // Who waits here waits for the same delta, or for the memory.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let to = &built.packed.sha256;
        let known = made.iter().position(|m| m.from == base.sha256 && m.to == *to);
        let at = known.unwrap_or_else(|| {
            line.set("comparing with what the server has");
            let from = Whole { file: &file, sha256: &base.sha256, unpacked };
            let file = self.make(built, from).unwrap_or_else(|e| {
                self.ui.detail(&format!("no delta from {} is made: {e}", base.version));
                None
            });
            made.push(Made { from: base.sha256.clone(), to: to.clone(), file });
            made.len() - 1
        });
        let (file, bytes) = made[at].file.clone()?;
        Some(Delta { base: base.clone(), file, bytes })
    }

    /// `None` when it would save next to nothing.
    fn make(&self, built: &Built, from: Whole<'_>) -> Result<Option<(PathBuf, u64)>> {
        let Packed { sha256, bytes: full, unpacked } = &built.packed;
        disk::make_dirs(&self.dir, 0o700)?;
        sweep(&self.dir, SystemTime::now());
        let name = format!("{}-{}.{}.delta", short(from.sha256), short(sha256), std::process::id());
        let file = self.dir.join(name);
        let to = Whole { file: &built.file, sha256, unpacked: *unpacked };
        let begun = Instant::now();
        let bytes = delta::make(from, to, &file)?;
        self.ui.detail(&format!("made a delta of {} in {} ms", units::size(bytes), begun.elapsed().as_millis()));
        if !is_worth(bytes, *full) {
            fs::remove_file(&file).context(|| format!("remove {}", file.display()))?;
            self.ui.detail(&format!("a delta would take {} of {}", units::size(bytes), units::size(*full)));
            return Ok(None);
        }
        Ok(Some((file, bytes)))
    }
}

impl Drop for Uploads<'_> {
    fn drop(&mut self) {
        let made = self.made.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (file, _) in made.iter().filter_map(|made| made.file.as_ref()) {
            // The next deploy's sweep gets it if we do not.
            let _ = fs::remove_file(file);
        }
    }
}

fn is_worth(delta: u64, full: u64) -> bool {
    delta.saturating_mul(100) < full.saturating_mul(WORTH)
}

/// Removes what was left behind by others of us.
fn sweep(dir: &Path, now: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let changed = entry.metadata().and_then(|m| m.modified());
        if changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > LEFT_OVER)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Enough of a hash for a file's name.
fn short(sha256: &str) -> &str {
    sha256.get(..16).unwrap_or(sha256)
}
