//! Lab: a door into the build for the benchmark. Only with the feature `lab`; what is shipped has none of it.

use std::path::{Path, PathBuf};

use super::bundle;

/// The files of the source at `dir`, read and hashed as for a deploy, but those that were [`remember`]ed and not touched.
///
/// # Errors
/// What a user would read.
pub fn collect(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let source = bundle::collect(dir).map_err(|e| e.to_string())?;
    Ok(source.entries.into_iter().map(|entry| entry.path).collect())
}

/// Remembers what the files at `dir` hold, as a build does. Those that were written in the last seconds are not.
///
/// # Errors
/// What a user would read.
pub fn remember(dir: &Path) -> Result<(), String> {
    let source = bundle::collect(dir).map_err(|e| e.to_string())?;
    crate::disk::make_dirs(&dir.join(".tako"), 0o755).map_err(|e| e.to_string())?;
    bundle::remember(dir, &source);
    Ok(())
}

/// Forgets it.
pub fn forget(dir: &Path) {
    bundle::forget(dir);
}
