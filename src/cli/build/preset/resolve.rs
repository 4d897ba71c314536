//! Resolve: which text a preset's name stands for today.
//!
//! ```text
//! the lock file, while it is of this preset and runtime and nobody asks for a newer one
//! else the place that the user named, if any      (a pin that was fetched before needs no network)
//! else the copy of an earlier time, else the one that comes with Tako
//! ```
//! **Invariant**: a network that fails never fails the build of a project that was built before; a pin is never met by
//! anything but what was fetched under it.

use std::env;
use std::path::Path;

use super::fetch::{BRANCH, Copy, Shelf};
use super::lock::{EMBEDDED, Locked};
use super::{built_in, lock};
use crate::cli::config::places;
use crate::cli::project::preset_ref::PresetRef;
use crate::error::{Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::paths;

/// Which of the presets of one name is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The one that the project was built with.
    Locked,
    /// The one that there is now.
    Newest,
}

/// Where presets are, for whoever sets it for one command.
const VARIABLE: &str = "TAKO_PRESET_URL";

/// The place that the user named: `TAKO_PRESET_URL`, where empty means none, else `[presets] url` in
/// `~/.tako/config.toml`.
///
/// # Errors
/// Config.
pub(crate) fn shelf() -> Result<Option<Shelf>> {
    let base = match (env::var_os(VARIABLE), paths::home()) {
        (Some(base), _) => Some(base.to_string_lossy().into_owned()),
        (None, Ok(home)) => places::presets(&home)?,
        // Without a home there is no config.toml in it.
        (None, Err(_)) => None,
    };
    base.filter(|base| !base.trim().is_empty()).map(|base| Shelf::new(&base, &paths::home()?)).transpose()
}

/// What `wanted` stands for in the project of `dir`; what the user should know is added to `notes`.
///
/// # Errors
/// Config for a name that nobody knows, a lock file that was changed, or a pin that cannot be met; Refused when a pin
/// has another content than before.
pub(crate) fn resolve(
    dir: &Path,
    wanted: &PresetRef,
    runtime: Runtime,
    wish: Wish,
    shelf: impl FnOnce() -> Result<Option<Shelf>>,
    notes: &mut Vec<String>,
) -> Result<Locked> {
    let locked = lock::load(dir)?.filter(|locked| locked.is_of(wanted, runtime));
    if let (Some(locked), Wish::Locked) = (&locked, wish) {
        let ours = built_in::family(runtime, &wanted.name);
        if locked.source == EMBEDDED && ours.is_some_and(|ours| ours != locked.text) {
            notes.push(format!("this Tako has another preset `{wanted}`; `--update-preset` takes it"));
        }
        return Ok(locked.clone());
    }
    let Some(shelf) = shelf()? else { return without_shelf(wanted, runtime, locked) };
    let url = shelf.url(wanted, runtime);
    if let (Some(copy), Some(_), Wish::Locked) = (shelf.copy(&url), &wanted.pin, wish) {
        return Ok(of_copy(wanted, runtime, copy));
    }
    let known = locked.as_ref().filter(|locked| locked.source == url).map(|locked| locked.sha256.as_str());
    let e = match shelf.fetch(wanted, runtime, known) {
        Ok(copy) => return Ok(of_copy(wanted, runtime, copy)),
        Err(e) => e,
    };
    if wanted.pin.is_some() {
        return pinned(wanted, locked, shelf.copy(&url), e, notes, runtime);
    }
    // What was taken away over there is not brought back from a copy; what cannot be asked for is as it was.
    let missing = e.kind() == Kind::NotFound;
    let copy = shelf.copy(&url).filter(|_| !missing).map(|copy| of_copy(wanted, runtime, copy));
    let ours = built_in::family(runtime, &wanted.name).map(|text| embedded(wanted, runtime, text));
    let (found, from) = match (locked, copy, ours) {
        (Some(locked), ..) => (locked, "the one in build.lock.json is used"),
        (None, Some(copy), _) => (copy, "the one that was fetched earlier is used"),
        (None, None, Some(ours)) => (ours, "the one that comes with Tako is used"),
        (None, None, None) if missing => return Err(built_in::unknown(runtime, &wanted.name).because(e)),
        (None, None, None) => {
            return Err(Error::new(Kind::Config, format!("the preset `{wanted}` does not come with Tako"))
                .because(e)
                .hint("try again when its place can be reached, or correct the name"));
        }
    };
    notes.push(format!("preset `{wanted}`: {e}; {from}"));
    Ok(found)
}

/// Nobody to ask.
fn without_shelf(wanted: &PresetRef, runtime: Runtime, locked: Option<Locked>) -> Result<Locked> {
    match (&wanted.pin, built_in::family(runtime, &wanted.name), locked) {
        // What Tako brings itself has no commits.
        (Some(_), _, Some(locked)) => Ok(locked),
        (Some(_), _, None) => Err(Error::new(
            Kind::Config,
            format!("`{wanted}` is pinned to a commit of a place for presets, and no place is set"),
        )
        .hint(format!("set {VARIABLE} or `[presets] url` in config.toml, or write preset = \"{}\"", wanted.name))),
        (None, Some(text), _) => Ok(embedded(wanted, runtime, text)),
        (None, None, Some(locked)) => Ok(locked),
        (None, None, None) => Err(built_in::unknown(runtime, &wanted.name)),
    }
}

/// A pin that could not be fetched just now.
fn pinned(
    wanted: &PresetRef,
    locked: Option<Locked>,
    copy: Option<Copy>,
    e: Error,
    notes: &mut Vec<String>,
    runtime: Runtime,
) -> Result<Locked> {
    let there = locked.or_else(|| copy.map(|copy| of_copy(wanted, runtime, copy)));
    match (there, e.kind()) {
        // Whatever is here, somebody plays with what never changes.
        (_, Kind::Refused) => Err(e),
        (Some(there), _) => {
            notes.push(format!("preset `{wanted}`: {e}; a pin never changes, so the one that is here is used"));
            Ok(there)
        }
        (None, Kind::NotFound) => Err(e.with_kind(Kind::Config).hint("correct the name, the runtime or the commit")),
        (None, _) => Err(Error::new(Kind::Config, format!("the preset `{wanted}` was never fetched here"))
            .because(e)
            .hint("fetch it once, and commit .tako/build.lock.json; then no network is needed")),
    }
}

fn embedded(wanted: &PresetRef, runtime: Runtime, text: &str) -> Locked {
    Locked::new(wanted, runtime, EMBEDDED, concat!("tako ", env!("CARGO_PKG_VERSION")), text.into())
}

fn of_copy(wanted: &PresetRef, runtime: Runtime, copy: Copy) -> Locked {
    Locked::new(wanted, runtime, &copy.url, wanted.pin.as_deref().unwrap_or(BRANCH), copy.text)
}

#[cfg(test)]
mod tests;
