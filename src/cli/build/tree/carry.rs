//! What frameworks keep from build to build, so that the next one is faster: it moves from the old tree to the new one,
//! and never ships.
//!
//! Only what its tool checks against its inputs is on the list. Nothing comes from the user's own tree.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::Source;
use crate::disk;
use crate::error::{Context, Result};

/// Relative to a folder with a project in it.
const CACHES: [&str; 9] = [
    ".next/cache",
    ".turbo",
    ".parcel-cache",
    ".angular/cache",
    ".nx/cache",
    "node_modules/.cache",
    "node_modules/.vite",
    "node_modules/.astro",
    CARGO,
];
/// Of a project in another language it may be anything.
const CARGO: &str = "target";
/// What makes a folder a project.
const PROJECTS: [&str; 4] = ["package.json", "deno.json", "deno.jsonc", "Cargo.toml"];

/// Moves the caches of the tree `old` into `new`. `installs` says where packages are installed anew, which would begin
/// by removing all that is there.
pub(super) fn over(old: &Path, new: &Path, source: &Source, installs: impl Fn(&Path) -> bool) -> Result<()> {
    for project in projects(source) {
        for cache in CACHES {
            let (from, to) = (old.join(project).join(cache), new.join(project).join(cache));
            let is_folder = from.symlink_metadata().is_ok_and(|found| found.is_dir());
            let installed = cache.starts_with("node_modules/") && installs(project);
            let foreign = cache == CARGO && !new.join(project).join("Cargo.toml").exists();
            if !is_folder || installed || foreign || to.symlink_metadata().is_ok() {
                continue;
            }
            let folder = to.parent().expect("it was joined");
            disk::make_dirs(folder, 0o755)?;
            fs::rename(&from, &to).context(|| format!("carry over {}", from.display()))?;
        }
    }
    Ok(())
}

/// Whether `path` is a cache of a folder of the source, so that it never ships.
pub(in crate::cli::build) fn is_cache(path: &Path, source_folders: &BTreeSet<PathBuf>) -> bool {
    CACHES.iter().map(Path::new).any(|cache| {
        let project = path.ancestors().nth(cache.components().count());
        cache.file_name() == path.file_name()
            && path.ends_with(cache)
            && project.is_some_and(|project| source_folders.contains(project))
    })
}

fn projects(source: &Source) -> BTreeSet<&Path> {
    let is_manifest = |name: &OsStr| PROJECTS.iter().any(|project| name == *project);
    let manifests = source.entries.iter().filter(|e| e.path.file_name().is_some_and(is_manifest));
    manifests.filter_map(|e| e.path.parent()).chain([source.app.as_path()]).collect()
}
