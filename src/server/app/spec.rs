//! Spec: what to run: a release's record, the secrets it runs with, and the command that starts it.

use std::sync::{Arc, OnceLock};

use super::stage::Stage;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::manifest::Manifest;
use crate::server::layout::Layout;
use crate::server::runtime::Launch;
use crate::server::state::Record;

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

    /// The name under which the app is asked for its health: one of its own, because many apps refuse others.
    pub fn host(&self) -> String {
        self.record.routes.iter().find(|r| !r.is_wildcard()).map_or("localhost", |r| r.host()).to_owned()
    }
}

/// # Errors
/// Config for a health path that would not be one request line.
pub(crate) fn check(manifest: &Manifest) -> Result<()> {
    let Some(path) = &manifest.health else { return Ok(()) };
    if path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::new(Kind::Config, format!("`{}` is not a health path", path.escape_debug()))
        .hint("write a path such as /healthz"))
}
