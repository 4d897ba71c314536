//! What of a built tree is shipped.
//!
//! Everything, without what must never travel; packages that the server installs itself are left out, those that a
//! build put into its own output are kept. `include` narrows it, `exclude` takes away, and `main` is always there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::assets;
use super::bundle::Source;
use super::glob::Globs;
use super::recipe::Recipe;
use super::tree;
use crate::error::{Context, Error, Kind, Result};

/// A tree of folders deeper than this is a loop.
const MAX_DEPTH: usize = 64;

/// What decides about each path.
pub(crate) struct Rule<'a> {
    /// Relative to the source root, like all paths here.
    pub app: &'a Path,
    pub main: PathBuf,
    /// The assets that were merged there are shipped whatever `include` says.
    pub public: Option<PathBuf>,
    pub include: &'a Globs,
    pub exclude: &'a Globs,
    /// Folders that came from the source: what is installed or built in them is made again elsewhere.
    pub source_folders: BTreeSet<PathBuf>,
}

impl<'a> Rule<'a> {
    pub fn new(recipe: &Recipe, source: &'a Source, include: &'a Globs, exclude: &'a Globs) -> Rule<'a> {
        Rule {
            app: &source.app,
            main: source.app.join(&recipe.main.value).components().collect(),
            public: (!recipe.assets().is_empty()).then(|| source.app.join(assets::PUBLIC)),
            include,
            exclude,
            source_folders: tree::folders(source),
        }
    }

    /// Whether a folder is looked into.
    fn enters(&self, dir: &Path) -> bool {
        !never_ships(dir) && (!self.is_made_elsewhere(dir) || self.main.starts_with(dir))
    }

    /// Whether a file, a link or an empty folder is shipped.
    fn ships(&self, path: &Path) -> bool {
        if never_ships(path) {
            return false;
        }
        if path == self.main {
            return true;
        }
        let mut folders = path.ancestors();
        if folders.any(|folder| self.is_made_elsewhere(folder)) {
            return false;
        }
        // What lies beside the app in its repository is not the globs' business, unless they say what there is.
        let Ok(below_app) = path.strip_prefix(self.app) else { return self.include.is_empty() };
        let below_app = below_app.to_string_lossy();
        let merged = self.public.as_ref().is_some_and(|public| path.starts_with(public));
        (merged || self.include.is_empty() || self.include.matches(&below_app)) && !self.exclude.matches(&below_app)
    }

    fn is_made_elsewhere(&self, path: &Path) -> bool {
        let name = path.file_name().map(OsStr::as_bytes);
        // A `.tako` deeper down is a build's: Next repeats in its output where the build tree lies.
        let made = matches!(name, Some(b"node_modules" | b"target" | b".tako"));
        if tree::is_cache(path, &self.source_folders) {
            return true;
        }
        made && path.parent().is_some_and(|folder| self.source_folders.contains(folder))
    }
}

/// By its name alone: histories and secrets.
pub(super) fn never_ships(path: &Path) -> bool {
    path.file_name().map(OsStr::as_bytes).is_some_and(|n| n == b".git" || n.starts_with(b".env"))
}

/// The paths in `tree` that are shipped: files, links and empty folders.
///
/// # Errors
/// Config when nothing is left; Io.
pub(crate) fn files(tree: &Path, rule: &Rule<'_>) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(tree, Path::new(""), rule, &mut files)?;
    if !files.contains(&rule.main) {
        let message = format!("`{}` is not among what would be shipped", rule.main.display());
        return Err(Error::new(Kind::Config, message).hint("`main` may not lie in a folder that is never shipped"));
    }
    Ok(files)
}

fn walk(tree: &Path, below: &Path, rule: &Rule<'_>, files: &mut Vec<PathBuf>) -> Result<()> {
    let dir = tree.join(below);
    if below.components().count() > MAX_DEPTH {
        return Err(Error::new(Kind::Config, format!("{} lies too deep", dir.display())));
    }
    let mut empty = true;
    for entry in fs::read_dir(&dir).context(|| format!("read {}", dir.display()))? {
        empty = false;
        let entry = entry.context(|| format!("read {}", dir.display()))?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().context(|| format!("look at {}", entry.path().display()))?;
        if kind.is_dir() {
            if rule.enters(&path) {
                walk(tree, &path, rule, files)?;
            }
        } else if (kind.is_file() || kind.is_symlink()) && rule.ships(&path) {
            files.push(path);
        }
    }
    if empty && !below.as_os_str().is_empty() && rule.ships(below) {
        files.push(below.to_path_buf());
    }
    Ok(())
}
