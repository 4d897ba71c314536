//! The clean build tree: a copy of the source and nothing else, so that a build sees what a fresh checkout has.
//!
//! Installed packages are those of the user's tree, because installing them again takes minutes; where a step installs
//! its own they are not there. What frameworks cache is carried over from the tree before; who wants none of it removes
//! the tree first.
//!
//! **Invariant**: what a build writes at paths of its tree stays in the tree, and each file in it holds what the hash of
//! the source was made of.

mod carry;
mod copy;
mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::bundle::Source;
use super::many;
use super::stage::Step;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
pub(super) use carry::is_cache;
use copy::Copier;
use modules::Modules;

/// Makes the tree anew at `dir` and returns its full path.
///
/// # Errors
/// Refused when a file of the source is not any more what it was; Io.
pub(crate) fn make(dir: &Path, source: &Source, steps: &[Step]) -> Result<PathBuf> {
    let old = dir.with_extension("old");
    set_aside(dir, &old)?;
    disk::make_dirs(dir, 0o755)?;
    let dir = dir.canonicalize().context(|| format!("find {}", dir.display()))?;
    let folders = folders(source);
    for folder in &folders {
        disk::make_dirs(&dir.join(folder), 0o755)?;
    }
    let copier = Copier::new();
    many::each(&source.entries, |entry| copier.entry(&source.root, &dir, entry))?;
    let modules = Modules { root: &source.root, tree: &dir, copier: &copier };
    for folder in folders.iter().filter(|folder| !installs(steps, folder)) {
        modules.lay_out(folder)?;
    }
    carry::over(&old, &dir, source, |folder| installs(steps, folder))?;
    disk::remove_tree(&old)?;
    Ok(dir)
}

/// The tree before becomes `old`. If there is one already, making the last tree failed: that one has nothing to carry.
fn set_aside(dir: &Path, old: &Path) -> Result<()> {
    if old.symlink_metadata().is_ok() {
        return disk::remove_tree(dir);
    }
    match fs::rename(dir, old) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context(|| format!("rename {}", dir.display())),
        _ => Ok(()),
    }
}

/// Every folder that has a file of the source in or below it, the root included.
pub(crate) fn folders(source: &Source) -> BTreeSet<PathBuf> {
    let ancestors = source.entries.iter().flat_map(|entry| entry.path.ancestors().skip(1));
    let folders: BTreeSet<&Path> = ancestors.chain([Path::new("")]).collect();
    folders.into_iter().map(Path::to_path_buf).collect()
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
            symlink(&to, &target).context(|| format!("link {}", target.display()))?;
        } else if found.is_file() {
            fs::copy(&source, &target).context(|| format!("copy {}", source.display()))?;
        }
    }
    Ok(())
}

/// Whether a step installs packages at or above `folder`.
fn installs(steps: &[Step], folder: &Path) -> bool {
    steps.iter().filter_map(|step| step.installs_below.as_ref()).any(|dir| folder.starts_with(dir))
}

#[cfg(test)]
mod tests;
