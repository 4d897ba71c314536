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
use crate::error::{Context, Error, Kind, Result};

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
    for modules in linked(source, steps) {
        let link = dir.join(&modules);
        symlink(source.root.join(&modules), &link).context(|| format!("link {}", link.display()))?;
    }
    Ok(dir)
}

/// The `node_modules` folders that are linked from the user's tree, relative to the root.
pub(crate) fn linked(source: &Source, steps: &[Step]) -> Vec<PathBuf> {
    let folders = folders(source).into_iter().filter(|folder| !installs(steps, folder));
    folders.map(|folder| folder.join("node_modules")).filter(|modules| source.root.join(modules).is_dir()).collect()
}

/// Every folder that has a file of the source in or below it, the root included.
pub(crate) fn folders(source: &Source) -> BTreeSet<PathBuf> {
    let ancestors = source.entries.iter().flat_map(|entry| entry.path.ancestors().skip(1));
    ancestors.map(Path::to_path_buf).chain([PathBuf::new()]).collect()
}

/// Merges `assets` into `public/` in order; a later one wins. What `public/` has comes first unless it is named.
pub(crate) fn merge_assets(app: &Path, assets: &[String]) -> Result<()> {
    if assets.is_empty() {
        return Ok(());
    }
    let public = app.join("public");
    let merged = app.join(".public.merging");
    disk::remove_tree(&merged)?;
    disk::make_dirs(&merged, 0o755)?;
    let folders = assets.iter().map(|asset| (app.join(asset), asset.as_str()));
    let named = folders.clone().any(|(folder, _)| folder.components().eq(public.components()));
    if !named && public.is_dir() {
        lay_over(&public, &merged)?;
    }
    for (folder, name) in folders {
        if !folder.is_dir() {
            return Err(Error::new(Kind::Build, format!("the assets folder `{name}` does not exist after the build"))
                .hint("fix `assets` in [build] of tako.toml, or the build that makes it"));
        }
        lay_over(&folder, &merged)?;
    }
    disk::remove_tree(&public)?;
    fs::rename(&merged, &public).context(|| format!("replace {}", public.display()))
}

/// Copies all of `from` into `to`; what is there is replaced.
fn lay_over(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).context(|| format!("read {}", from.display()))? {
        let entry = entry.context(|| format!("read {}", from.display()))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let found = source.symlink_metadata().context(|| format!("look at {}", source.display()))?;
        let there = target.symlink_metadata().ok();
        if let Some(there) = there.filter(|there| !(there.is_dir() && found.is_dir())) {
            let removed = if there.is_dir() { fs::remove_dir_all(&target) } else { fs::remove_file(&target) };
            removed.context(|| format!("replace {}", target.display()))?;
        }
        if found.is_dir() {
            disk::make_dirs(&target, 0o755)?;
            lay_over(&source, &target)?;
        } else if found.is_symlink() {
            let to = fs::read_link(&source).context(|| format!("read {}", source.display()))?;
            copy(&source, &target, &What::Link { to })?;
        } else if found.is_file() {
            copy(&source, &target, &What::File { executable: found.permissions().mode() & 0o100 != 0 })?;
        }
    }
    Ok(())
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
