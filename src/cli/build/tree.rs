//! The clean build tree: a copy of the source and nothing else, so that a build sees what a fresh checkout has.
//!
//! Installed packages are linked from the user's tree, because installing them again takes minutes; where a step
//! installs its own, they are not, so that it never writes into the user's.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::bundle::{Source, What};
use super::stage::Step;
use crate::disk;
use crate::error::{Context, Result};

/// Makes the tree anew at `dir` and returns its full path.
pub(crate) fn make(dir: &Path, source: &Source, steps: &[Step]) -> Result<PathBuf> {
    disk::remove_tree(dir)?;
    disk::make_dirs(dir, 0o755)?;
    let dir = dir.canonicalize().context(|| format!("find {}", dir.display()))?;
    let folders = folders(source);
    for folder in &folders {
        disk::make_dirs(&dir.join(folder), 0o755)?;
    }
    for entry in &source.entries {
        let (from, to) = (source.root.join(&entry.path), dir.join(&entry.path));
        copy(&from, &to, &entry.what)?;
    }
    for folder in folders.iter().filter(|folder| !installs(steps, folder)) {
        let modules = source.root.join(folder).join("node_modules");
        if modules.is_dir() {
            let link = dir.join(folder).join("node_modules");
            symlink(&modules, &link).context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(dir)
}

/// Every folder that has a file of the source in or below it, the root included.
pub(crate) fn folders(source: &Source) -> BTreeSet<PathBuf> {
    let ancestors = source.entries.iter().flat_map(|entry| entry.path.ancestors().skip(1));
    ancestors.map(Path::to_path_buf).chain([PathBuf::new()]).collect()
}

/// A copy and never a hard link: a build may write to it.
fn copy(from: &Path, to: &Path, what: &What) -> Result<()> {
    match what {
        What::Link { to: target } => symlink(target, to).context(|| format!("link {}", to.display())),
        What::File { executable } => {
            fs::copy(from, to).context(|| format!("copy {}", from.display()))?;
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(to, Permissions::from_mode(mode)).context(|| format!("copy {}", from.display()))
        }
    }
}

/// Whether a step installs packages at or above `folder`.
fn installs(steps: &[Step], folder: &Path) -> bool {
    steps.iter().filter_map(|step| step.installs_below.as_ref()).any(|dir| folder.starts_with(dir))
}
