//! Lab: a door into the build for the benchmark. Only with the feature `lab`; what is shipped has none of it.

use std::path::{Path, PathBuf};

use super::bundle;

/// The files of the source at `dir`, read and hashed as for a deploy.
///
/// # Errors
/// What a user would read.
pub fn collect(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let source = bundle::collect(dir).map_err(|e| e.to_string())?;
    Ok(source.entries.into_iter().map(|entry| entry.path).collect())
}
