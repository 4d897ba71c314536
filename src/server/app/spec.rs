//! Spec: what to run: a release's record, the secrets it runs with, and the command that starts it.

use std::path::{Component, Path};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::stage::Stage;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::manifest::Manifest;
use crate::server::layout::Layout;
use crate::server::runtime::Launch;
use crate::server::state::Record;

/// Longest time that a manifest may ask for; beyond it is "for ever", which clocks cannot add.
const MAX_WAIT_S: u64 = 7 * 86_400;

/// Shared by all instances of one rollout; never changed.
pub(crate) struct Spec {
    pub record: Record,
    pub secrets: Option<Arc<Secrets>>,
    /// Found once: looking for a runtime may ask other programs.
    launch: OnceLock<Launch>,
}

impl Spec {
    pub fn new(record: Record, secrets: Option<Arc<Secrets>>) -> Arc<Spec> {
        Arc::new(Spec { record, secrets, launch: OnceLock::new() })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }

    /// How it is started; what failed is looked for again the next time.
    pub fn launch(&self, stage: &impl Stage, layout: &Layout) -> Result<&Launch> {
        if let Some(launch) = self.launch.get() {
            return Ok(launch);
        }
        let launch = stage.launch(layout, self.manifest())?;
        Ok(self.launch.get_or_init(|| launch))
    }

    pub fn startup(&self) -> Duration {
        Duration::from_secs(self.manifest().limits.startup_timeout_s.min(MAX_WAIT_S))
    }

    /// Without a request for so long, an app on demand goes to sleep.
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.manifest().limits.idle_timeout_s.min(MAX_WAIT_S))
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.manifest().limits.drain_timeout_s.min(MAX_WAIT_S))
    }

    /// The name under which the app is asked for its health: one of its own, because many apps refuse others.
    pub fn host(&self) -> String {
        self.record.routes.iter().find(|r| !r.is_wildcard()).map_or("localhost", |r| r.host()).to_owned()
    }
}

/// # Errors
/// Config for a health path that would not be one request line, or an app folder outside of its release.
pub(crate) fn check(manifest: &Manifest) -> Result<()> {
    let path = manifest.health.as_deref().unwrap_or("/status");
    if !path.starts_with('/') || path.len() > 1024 || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::new(Kind::Config, format!("`{}` is not a health path", path.escape_debug()))
            .hint("write a path such as /healthz"));
    }
    if !Path::new(&manifest.dir).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::new(
            Kind::Config,
            format!("`{}` is not a folder in a release", manifest.dir.escape_debug()),
        ));
    }
    Ok(())
}
