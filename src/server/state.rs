//! Desired state: what one app should be, in one file that its actor alone writes.
//!
//! Pids, ports and health are never here; they are observed anew after a restart. The stored type is this one; the
//! live one is the actor's. Unknown fields are ignored, so that an older server can read what a newer one wrote.
//!
//! **Invariant**: a verb that changes an app is answered after this file is on disk.

use std::fs;

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::disk::{self, Staged};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Manifest;
use crate::proto::name::AppId;
use crate::proto::route::Route;
use crate::proto::version::Version;

const FORMAT: u32 = 1;
/// Deploys that failed, told to people who ask what happened lately; more are history.
const MAX_FAILED: usize = 10;
/// A state file holds at most a few dozen release records; more than this is not ours.
const MAX_STATE: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Desired {
    pub format: u32,
    pub app: AppId,
    /// 0 is on demand.
    pub instances: u32,
    /// The release that serves; one of `releases`.
    pub live: Version,
    /// Newest first by `deployed_ms`. Kept as long as its folder is.
    pub releases: Vec<Record>,
    /// Of the sealed secrets; see `control::Secrets::hash`.
    #[serde(default)]
    pub secrets_hash: Option<String>,
    /// Which sealed file holds them. It is never written again under that name, so that this file alone decides
    /// which secrets go with which release.
    #[serde(default)]
    pub secrets: Option<String>,
    /// Releases that never went live since something else did, newest first. Their folders are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
}

/// A deploy that did not come up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub version: Version,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub by: String,
    pub commit_message: Option<String>,
    pub git_dirty: bool,
    /// As the one who deployed it was told.
    pub why: String,
}

/// All that went live together with a release, so that a rollback restores all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub manifest: Manifest,
    pub routes: Vec<Route>,
    /// Milliseconds since 1970.
    pub deployed_ms: u64,
    pub by: String,
    /// Rolled back or failed: never chosen by itself again.
    #[serde(default)]
    pub bad: bool,
}

impl Desired {
    pub fn new(app: AppId, live: Record, instances: u32) -> Self {
        Desired {
            format: FORMAT,
            app,
            instances,
            live: live.manifest.version.clone(),
            releases: vec![live],
            secrets_hash: None,
            secrets: None,
            failed: Vec::new(),
        }
    }

    /// Remembers that a release did not come up.
    pub fn failed(&mut self, record: &Record, why: String) {
        let Manifest { version, commit_message, git_dirty, .. } = record.manifest.clone();
        self.failed.retain(|f| f.version != version);
        let failed =
            Failed { version, at_ms: record.deployed_ms, by: record.by.clone(), commit_message, git_dirty, why };
        self.failed.insert(0, failed);
        self.failed.truncate(MAX_FAILED);
    }

    pub fn record(&self, version: &Version) -> Option<&Record> {
        self.releases.iter().find(|r| &r.manifest.version == version)
    }

    /// Whether a deploy of this would change nothing but who did it.
    pub fn is_live(&self, manifest: &Manifest, routes: &[Route], instances: u32) -> bool {
        let same = |live: &Record| live.manifest == *manifest && live.routes == routes;
        self.instances == instances && self.live().is_some_and(same)
    }

    pub fn live(&self) -> Option<&Record> {
        self.record(&self.live)
    }
}

/// The app's desired state; `None` when there is no such app.
///
/// # Errors
/// Refused when the file is damaged or was written by a newer server in a format that this one does not know.
pub(crate) fn load(layout: &Layout, id: &AppId) -> Result<Option<Desired>> {
    let path = layout.state(id);
    let Some(bytes) = disk::read_if_there(&path, MAX_STATE)? else { return Ok(None) };
    let desired: Desired = serde_json::from_slice(&bytes).context(|| format!("understand {}", path.display()))?;
    if desired.format > FORMAT {
        let message = format!("{} has format {}, this server knows up to {FORMAT}", path.display(), desired.format);
        return Err(Error::new(Kind::Refused, message).hint("upgrade tako-server"));
    }
    if &desired.app != id || desired.live().is_none() {
        return Err(Error::new(Kind::Refused, format!("{} does not describe {id}", path.display())));
    }
    Ok(Some(desired))
}

pub(crate) fn save(layout: &Layout, desired: &Desired) -> Result<()> {
    stage(layout, desired)?.put()
}

/// The slow part of [`save`].
pub(crate) fn stage(layout: &Layout, desired: &Desired) -> Result<Staged> {
    let bytes = serde_json::to_vec_pretty(desired).context(|| format!("write the state of {}", desired.app))?;
    disk::stage(&layout.state(&desired.app), &bytes, 0o600)
}

/// Takes back what never was.
pub(crate) fn forget(layout: &Layout, id: &AppId) -> Result<()> {
    let path = layout.state(id);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(|| format!("remove {}", path.display())),
        _ => disk::sync_dir(&layout.app(id)),
    }
}

/// Every app that has a folder with a valid name, in order of name.
pub(crate) fn apps(layout: &Layout) -> Result<Vec<AppId>> {
    let apps = layout.apps();
    let entries = fs::read_dir(&apps).context(|| format!("read {}", apps.display()))?;
    let mut ids: Vec<AppId> = entries.flatten().filter_map(|e| AppId::parse(e.file_name().to_str()?).ok()).collect();
    ids.sort();
    Ok(ids)
}
