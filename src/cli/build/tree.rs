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
use std::path::{Path, PathBuf};

use super::bundle::Source;
use super::many;
use super::recipe::Modules;
use super::stage::Step;
use crate::cli::interrupt::Interrupt;
use crate::disk;
use crate::error::{Context, Result};
pub(super) use carry::is_cache;
use copy::Copier;
use modules::Installed;

/// Makes the tree anew at `dir` and returns its full path. Installed packages come into it by `modules`.
///
/// # Errors
/// Refused when a file of the source is not any more what it was; Io; Interrupted.
pub(crate) fn make(
    dir: &Path,
    source: &Source,
    steps: &[Step],
    modules: Modules,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let old = dir.with_extension("old");
    set_aside(dir, &old)?;
    disk::make_dirs(dir, 0o755)?;
    let dir = dir.canonicalize().context(|| format!("find {}", dir.display()))?;
    let folders = folders(source);
    for folder in &folders {
        disk::make_dirs(&dir.join(folder), 0o755)?;
    }
    let copier = Copier::new(interrupt);
    many::each(&source.entries, |entry| copier.entry(&source.root, &dir, entry))?;
    let installed = Installed { root: &source.root, tree: &dir, copier: &copier };
    for folder in folders.iter().filter(|folder| !installs(steps, folder)) {
        match modules {
            Modules::Link => installed.link(folder)?,
            Modules::Copy => installed.copy(folder)?,
        }
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

/// The `node_modules` folders that are linked from the user's tree, relative to the root.
pub(crate) fn linked(source: &Source, steps: &[Step]) -> Vec<PathBuf> {
    let folders = folders(source).into_iter().filter(|folder| !installs(steps, folder));
    folders.map(|folder| folder.join("node_modules")).filter(|modules| source.root.join(modules).is_dir()).collect()
}

/// Every folder that has a file of the source in or below it, the root included.
pub(crate) fn folders(source: &Source) -> BTreeSet<PathBuf> {
    let ancestors = source.entries.iter().flat_map(|entry| entry.path.ancestors().skip(1));
    let folders: BTreeSet<&Path> = ancestors.chain([Path::new("")]).collect();
    folders.into_iter().map(Path::to_path_buf).collect()
}

/// Whether a step installs packages at or above `folder`.
fn installs(steps: &[Step], folder: &Path) -> bool {
    steps.iter().filter_map(|step| step.installs_below.as_ref()).any(|dir| folder.starts_with(dir))
}

#[cfg(test)]
mod tests;
