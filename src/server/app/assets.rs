//! Assets: the folders of files that an app serves without being asked: that of the live release, and for a drain
//! period those of the releases before, whose pages are still open in browsers. Pure but for opening them.
//!
//! **Invariant**: they change with the commit of a rollout and at no other time, except that what has drained goes.

use std::path::Path;
use std::time::Instant;

use crate::error::{Context, Result};
use crate::proto::manifest::Manifest;
use crate::proto::version::Version;
use crate::proxy::files::root::Root;
use crate::server::layout::Layout;

/// Each is one more look for a name that none of them has; more than these are deploys in quick succession, and the
/// oldest gives way.
const MAX_FORMER: usize = 3;

#[derive(Default)]
pub(super) struct Assets {
    live: Option<(Version, Root)>,
    /// The newest first, and until when.
    former: Vec<(Version, Root, Instant)>,
}

/// Opens the folder of a release; `None` when it has none. What is no folder, or is reached through a link, is left to
/// the app: an earlier release with such a thing must stay one that can be gone back to.
///
/// # Errors
/// Io when it is there and cannot be opened.
pub(super) fn open(layout: &Layout, manifest: &Manifest) -> Result<Option<Root>> {
    let release = layout.release(&manifest.app, &manifest.version);
    let public = Path::new(&manifest.dir).join("public");
    let root = Root::open(&release, &public).context(|| format!("open the assets {}", public.display()))?;
    if root.is_none() && release.join(&public).symlink_metadata().is_ok() {
        log::warn!("app={} release={} `{}` is no folder", manifest.app, manifest.version, public.display());
    }
    Ok(root)
}

impl Assets {
    /// In the order they are to be looked in.
    pub fn roots(&self) -> Vec<Root> {
        let former = self.former.iter().map(|(_, root, _)| root);
        self.live.iter().map(|(_, root)| root).chain(former).cloned().collect()
    }

    /// The release `version` is live now; what was so far is found until `until`.
    pub fn replace(&mut self, version: Version, root: Option<Root>, until: Instant) {
        if let Some((was, root)) = self.live.take() {
            self.former.insert(0, (was, root, until));
        }
        self.former.retain(|(was, ..)| *was != version);
        self.former.truncate(MAX_FORMER);
        self.live = root.map(|root| (version, root));
    }

    /// When something has drained.
    pub fn deadline(&self) -> Option<Instant> {
        self.former.iter().map(|(.., until)| *until).min()
    }

    pub fn tick(&mut self, now: Instant) {
        self.former.retain(|(.., until)| *until > now);
    }
}
