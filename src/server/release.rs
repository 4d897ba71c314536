//! Release: a Version laid out on this machine: unpacked, prepared, activated, pruned.

use std::path::PathBuf;

use super::layout::Layout;
use super::state::Desired;
use crate::error::Result;
use crate::proto::control::Artifact;
use crate::proto::manifest::Manifest;
use crate::proto::name::AppId;
use crate::proto::version::Version;

/// Whether the release is laid out in full.
pub(crate) fn is_complete(_layout: &Layout, _id: &AppId, _version: &Version) -> bool {
    unimplemented!()
}

/// Verifies the artifact and lays it out; the marker is written last. A complete release is left alone.
pub(crate) fn unpack(_layout: &Layout, _id: &AppId, _version: &Version, _artifact: &Artifact) -> Result<()> {
    unimplemented!()
}

/// Makes it able to start: the runtime is there, dependencies are installed. `said` hears what is being done.
pub(crate) fn prepare(_layout: &Layout, _manifest: &Manifest, _said: &mut dyn FnMut(String)) -> Result<()> {
    unimplemented!()
}

/// Points `current` at the release and writes its `app.json`.
pub(crate) fn activate(_layout: &Layout, _manifest: &Manifest) -> Result<()> {
    unimplemented!()
}

/// Removes a release that never went live.
pub(crate) fn discard(_layout: &Layout, _id: &AppId, _version: &Version) -> Result<()> {
    unimplemented!()
}

/// Removes what SPEC's rule lets go, folders and records; what is live or running is never touched.
pub(crate) fn prune(_layout: &Layout, _desired: &mut Desired, _running: &[Version], _now_ms: u64) {
    unimplemented!()
}

/// Where the app's code lies in a release.
pub(crate) fn app_dir(layout: &Layout, manifest: &Manifest) -> PathBuf {
    layout.release(&manifest.app, &manifest.version).join(&manifest.dir)
}
