//! Lab: a door into the build for the benchmark. Only with the feature `lab`; what is shipped has none of it.

use std::path::Path;

use super::{bundle, sources};

/// The source bundle of a deploy, in the folder `artifacts`: the files at `dir` are found, read and hashed, but those that were
/// [`remember`]ed and not touched, and packed.
///
/// # Errors
/// What a user would read.
pub fn bundle(dir: &Path, artifacts: &Path) -> Result<(), String> {
    let source = bundle::collect(dir).map_err(|e| e.to_string())?;
    let left_out = sources::keep(artifacts, &source, &source.root).map_err(|e| e.to_string())?;
    match left_out.is_empty() {
        true => Ok(()),
        false => Err(format!("{} of them are in no archive", left_out.len())),
    }
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
