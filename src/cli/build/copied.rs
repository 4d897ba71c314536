//! Copied: installed packages as real files in the build tree, for the builds that refuse links which lead out of it
//! (Turbopack does). It costs the time of the copy, or none where the file system shares what is copied.
//!
//! It must never know why: a preset says `[build] modules = "copy"`.
//!
//! **Invariant**: what the build writes below `node_modules` is the tree's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::bundle::Source;
use super::tree;
use crate::cli::interrupt::Interrupt;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

const FOLDER: &str = "node_modules";
/// Packages nest in packages, a few folders each; deeper than this is a loop.
const MAX_DEPTH: usize = 128;

/// Puts a copy in place of every `node_modules` that was laid out in `tree` as links. Where a step installs there is
/// none yet, and none is made.
pub(super) fn modules(tree: &Path, source: &Source, interrupt: &Interrupt) -> Result<()> {
    for folder in tree::folders(source) {
        let (from, to) = (source.root.join(&folder).join(FOLDER), tree.join(&folder).join(FOLDER));
        let Ok(there) = to.symlink_metadata() else { continue };
        match there.is_symlink() {
            true => fs::remove_file(&to).context(|| format!("replace {}", to.display()))?,
            false => disk::remove_tree(&to)?,
        }
        copy(&from, &to, 0, interrupt)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, depth: usize, interrupt: &Interrupt) -> Result<()> {
    interrupt.check()?;
    if depth > MAX_DEPTH {
        return Err(Error::new(Kind::Config, format!("{} lies too deep", from.display())));
    }
    disk::make_dirs(to, 0o755)?;
    for entry in fs::read_dir(from).context(|| format!("read {}", from.display()))? {
        let entry = entry.context(|| format!("read {}", from.display()))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().context(|| format!("look at {}", source.display()))?;
        // What tools keep for themselves is not part of what is installed.
        if depth == 0 && entry.file_name() == ".cache" {
            continue;
        }
        if kind.is_dir() {
            copy(&source, &target, depth + 1, interrupt)?;
        } else if kind.is_symlink() {
            let leads = fs::read_link(&source).context(|| format!("read {}", source.display()))?;
            symlink(leads, &target).context(|| format!("link {}", target.display()))?;
        } else if kind.is_file() {
            fs::copy(&source, &target).context(|| format!("copy {}", source.display()))?;
        }
    }
    Ok(())
}
