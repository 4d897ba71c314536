//! Release: a Version laid out on this machine: unpacked, prepared, activated, pruned.
//!
//! It is built in a folder that nobody else looks at and gets its name by one rename, when all of it is there.
//!
//! **Invariant**: a folder with the marker is whole. One without is nobody's, and is replaced.

pub(crate) mod bases;
mod describe;
mod packages;
mod prepare;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::crash;
use super::layout::Layout;
use super::state::{self, Desired};
use super::{incoming, lock, owner, vet};
use crate::archive::unpack::unpack as unpack_archive;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::Artifact;
use crate::proto::manifest::Manifest;
use crate::proto::name::AppId;
use crate::proto::version::Version;
use crate::sys::User;
pub(crate) use describe::describe;
pub(crate) use prepare::Preparing;

/// Releases younger than this are kept, up to [`KEEP_OTHERS`].
const KEEP_MS: u64 = 30 * 24 * 3600 * 1000;
/// Besides the live and the previous one.
const KEEP_OTHERS: usize = 10;
/// What we write into a release.
const OUR_FILES: [&str; 6] = ["app.json", "mise.toml", ".complete", ".prepared", packages::record::NAME, "logs"];
/// What must stay free beside an unpacked release, for logs and state.
pub(super) const SPARE_BYTES: u64 = 64 << 20;

/// Whether the release is laid out in full.
pub(crate) fn is_complete(layout: &Layout, id: &AppId, version: &Version) -> bool {
    layout.complete_marker(id, version).is_file()
}

/// Verifies the artifact and lays it out for its app's user to read; the marker is written last. A complete release is
/// left alone. Of a delta nothing is left if that fails: the whole archive will follow.
pub(crate) fn unpack(
    layout: &Layout,
    id: &AppId,
    version: &Version,
    artifact: &Artifact,
    user: Option<User>,
) -> Result<()> {
    vet::artifact(artifact)?;
    let upload = layout.incoming().join(&artifact.file);
    crash::point("unpack: begins");
    let done = match is_complete(layout, id, version) {
        true => Ok(()),
        false => unpack_new(layout, id, version, artifact, &upload, user),
    };
    if done.is_ok() || artifact.base.is_some() {
        crash::point("unpack: the upload is to be removed");
        if let Err(e) = remove_any(&upload) {
            log::warn!("an upload is left behind: {e}");
        }
    }
    if done.is_ok() {
        incoming::forget(layout, id);
    }
    // Here, because a server may run for years between two starts.
    incoming::tidy(layout, SystemTime::now());
    done
}

fn unpack_new(
    layout: &Layout,
    id: &AppId,
    version: &Version,
    artifact: &Artifact,
    upload: &Path,
    user: Option<User>,
) -> Result<()> {
    check_upload(upload, artifact)?;
    make_space(layout, id, artifact.unpacked)?;
    let whole = match &artifact.base {
        None => upload.to_owned(),
        Some(base) => bases::rebuild(layout, id, base, artifact, upload)?,
    };
    let laid_out = lay_out(layout, id, version, artifact, &whole, user);
    match &laid_out {
        Ok(()) => {
            log::info!("app={id} release={version} unpacked bytes={} sent={}", artifact.unpacked, artifact.bytes);
            bases::keep(layout, id, version, artifact, &whole);
        }
        Err(_) if artifact.base.is_some() => remove_left_over(&whole),
        // A whole upload may do the next time, when there is more room.
        Err(_) => {}
    }
    laid_out
}

/// Points `current` at the release. It is for people, so it waits for no disk: the state file says what is live, its
/// folder's sync is that of this link, and what a crash leaves behind is put right at boot.
pub(crate) fn activate(layout: &Layout, manifest: &Manifest) -> Result<()> {
    let (link, target) = (layout.current(&manifest.app), Path::new("releases").join(manifest.version.as_str()));
    match fs::read_link(&link).is_ok_and(|there| there == target) {
        true => Ok(()),
        false => disk::swap_symlink(&link, &target),
    }
}

/// Removes a release that never went live.
pub(crate) fn discard(layout: &Layout, id: &AppId, version: &Version) -> Result<()> {
    // From the first moment on it is not a release any more, even if the removal is cut short.
    let marker = layout.complete_marker(id, version);
    if marker.exists() {
        fs::remove_file(&marker).context(|| format!("remove {}", marker.display()))?;
        disk::sync_dir(&layout.release(id, version))?;
    }
    crash::point("discard: not complete any more");
    disk::remove_tree(&layout.release(id, version))
}

/// Removes a release whose deploy has failed, unless it was live once, which a damaged state may know.
pub(crate) fn give_up(layout: &Layout, id: &AppId, version: &Version) {
    let desired = state::load(layout, id);
    let was_live = desired.map_or(true, |desired| desired.is_some_and(|d| d.record(version).is_some()));
    if was_live || !layout.release(id, version).exists() {
        return;
    }
    log::info!("app={id} release={version} is removed: its deploy failed");
    if let Err(e) = discard(layout, id, version) {
        log::warn!("app={id} release={version} stays: {e}");
    }
}

/// Removes what SPEC's rule lets go, folders and records; what is live or running is never touched.
pub(crate) fn prune(layout: &Layout, desired: &mut Desired, running: &[Version], now_ms: u64) {
    let app = desired.app.clone();
    for version in let_go(desired, running, now_ms) {
        match discard(layout, &app, &version) {
            Ok(()) => {
                log::info!("app={app} release={version} pruned");
                desired.releases.retain(|r| r.manifest.version != version);
            }
            Err(e) => log::warn!("app={app} release={version} is not pruned: {e}"),
        }
    }
    // A record is of use only as long as its folder is there.
    let live = desired.live.clone();
    desired.releases.retain(|r| r.manifest.version == live || is_complete(layout, &app, &r.manifest.version));
    let keep: Vec<&Version> = desired.releases.iter().map(|r| &r.manifest.version).chain(running).collect();
    remove_strangers(layout, &app, &keep);
}

/// Removes the folders of releases that never went live, but for one that somebody is about to deploy.
pub(crate) fn remove_strangers(layout: &Layout, id: &AppId, keep: &[&Version]) {
    let found = entries(&layout.releases(id));
    // In this order: whoever laid out one of them had the lock by then.
    let coming = lock::coming(layout, id);
    for entry in found {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        let is_kept = keep.iter().any(|v| v.as_str() == name) || coming.includes(&name);
        if !is_kept && !is_staging(&entry) {
            remove_left_over(&entry);
        }
    }
}

/// Removes what an earlier run of the daemon was building when it ended. To be called before anything is unpacked.
pub(crate) fn tidy(layout: &Layout, id: &AppId) {
    for entry in entries(&layout.releases(id)) {
        if is_staging(&entry) {
            remove_left_over(&entry);
        }
    }
    for release in entries(&layout.releases(id)) {
        // Beside them lie the app's own files, whatever they are called.
        let is_ours = |entry: &PathBuf| {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            OUR_FILES.iter().any(|file| name.starts_with(&format!(".{file}.")))
        };
        entries(&release).iter().filter(|e| disk::is_temporary(e) && is_ours(e)).for_each(|e| remove_left_over(e));
    }
    for entry in [layout.app(id), layout.run(id), layout.bases(id)].iter().flat_map(|dir| entries(dir)) {
        if disk::is_temporary(&entry) {
            remove_left_over(&entry);
        }
    }
}

fn check_upload(upload: &Path, artifact: &Artifact) -> Result<()> {
    let meta = match fs::symlink_metadata(upload) {
        Ok(meta) => meta,
        Err(e) => {
            return Err(e)
                .context(|| format!("read the upload {}", artifact.file))
                .map_err(|e| e.hint("upload it again"));
        }
    };
    if !meta.is_file() {
        return Err(Error::new(Kind::Refused, format!("the upload {} is not a file", artifact.file)));
    }
    if meta.len() != artifact.bytes {
        let message = format!("the upload {} has {} of {} bytes", artifact.file, meta.len(), artifact.bytes);
        return Err(Error::new(Kind::Refused, message).hint("it was cut short or changed; upload it again"));
    }
    Ok(())
}

/// What is kept for later goes before a deploy is refused.
fn make_space(layout: &Layout, id: &AppId, unpacked: u64) -> Result<()> {
    if check_space(layout, unpacked).is_err() {
        bases::drop_all(layout, id);
    }
    check_space(layout, unpacked)
}

fn check_space(layout: &Layout, unpacked: u64) -> Result<()> {
    let free = disk::free_bytes(layout.data())?;
    let needed = unpacked.saturating_add(SPARE_BYTES);
    if needed <= free {
        return Ok(());
    }
    let message = format!("the release needs {needed} bytes and {} has {free} free", layout.data().display());
    Err(Error::new(Kind::Io, message).hint("make room on the server's disk"))
}

fn lay_out(
    layout: &Layout,
    id: &AppId,
    version: &Version,
    artifact: &Artifact,
    upload: &Path,
    user: Option<User>,
) -> Result<()> {
    owner::arrange(layout, id, user)?;
    let staging = unused(layout, id, version);
    unpack_archive(upload, &staging, &artifact.sha256, artifact.unpacked)?;
    crash::point("unpack: laid out aside");
    let finished = finish(layout, id, version, &staging, user);
    if finished.is_err() {
        let _ = disk::remove_tree(&staging);
    }
    finished
}

/// From an unpacked archive to a release: our own files in it, then the marker, then the name.
fn finish(layout: &Layout, id: &AppId, version: &Version, staging: &Path, user: Option<User>) -> Result<()> {
    // What an archive brings under our names is not ours.
    for name in [".complete", ".prepared", packages::record::NAME, "logs"] {
        remove_any(&staging.join(name))?;
    }
    disk::swap_symlink(&staging.join("logs"), Path::new("../../shared/logs"))?;
    owner::take_back(staging, user)?;
    disk::write_atomic(&staging.join(".complete"), b"", 0o644)?;
    crash::point("unpack: complete and without its name");
    let release = layout.release(id, version);
    // Without a marker: a crash or a failed removal left it.
    disk::remove_tree(&release)?;
    disk::rename(staging, &release)
}

/// A name in the releases folder that no version can have and nobody uses.
fn unused(layout: &Layout, id: &AppId, version: &Version) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = layout.releases(id).join(format!(".{version}.{n}.staging"));
        if fs::symlink_metadata(&path).is_err() {
            return path;
        }
    }
}

/// Which releases may go, by the records alone.
fn let_go(desired: &Desired, running: &[Version], now_ms: u64) -> Vec<Version> {
    let mut others: Vec<_> = desired.releases.iter().filter(|r| r.manifest.version != desired.live).collect();
    others.sort_by_key(|r| std::cmp::Reverse(r.deployed_ms));
    // The one that a rollback would choose; a bad one only when there is no other.
    let previous = others.iter().position(|r| !r.bad).unwrap_or(0);
    if previous < others.len() {
        others.remove(previous);
    }
    others.retain(|r| !running.contains(&r.manifest.version));
    let kept = others.iter().take(KEEP_OTHERS).take_while(|r| now_ms.saturating_sub(r.deployed_ms) < KEEP_MS).count();
    others[kept..].iter().map(|r| r.manifest.version.clone()).collect()
}

fn is_staging(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(".staging")
}

pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

pub(super) fn remove_left_over(path: &Path) {
    match remove_any(path) {
        Ok(()) => log::info!("removed {}, left over", path.display()),
        Err(e) => log::warn!("{e}"),
    }
}

pub(super) fn remove_any(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => disk::remove_tree(path),
        Ok(_) => fs::remove_file(path).context(|| format!("remove {}", path.display())),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
