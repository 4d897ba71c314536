//! Source: what of a release's own files an installer reads, and whether it could read any other.
//!
//! By their names alone: every `package.json` and every lock and settings file of a package manager that the archive
//! brought, wherever it lies, patches, and archives of packages. That is more than is read, and an installation too many
//! is the price of that.
//!
//! **Invariant**: where the installer may read a file that is not among these, there is a [`Doubt`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::tree::{Listing, Node};
use super::{Doubt, in_packages, scripts};
use crate::crypto::Sha256;

/// Of all of them together. Lock files of large projects have five; a `.yarn/cache` that is in the repository has more,
/// and then there is nothing to be fetched that would take long.
const MAX_BYTES: u64 = 32 << 20;

/// Read by a manager, by their names.
const NAMES: [&str; 19] = [
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "bun.lockb",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    "bunfig.toml",
    ".bunfig.toml",
    "pnpm-workspace.yaml",
    // Which version of a tool runs may hang on these.
    ".node-version",
    ".nvmrc",
    ".tool-versions",
    "mise.toml",
    ".mise.toml",
    ".bun-version",
];
const LOCKS: [&str; 6] =
    ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "bun.lockb"];
/// Programs that a manager runs within itself.
const PROGRAMS: [&str; 5] = [".pnpmfile.cjs", ".pnpmfile.mjs", ".pnpmfile.js", "pnpmfile.js", "binding.gyp"];
const ENDINGS: [&str; 5] = [".patch", ".diff", ".tgz", ".tar.gz", ".tar"];

/// How a dependency is written that lies here. Archives are among what is read.
const LOCAL: [&str; 6] = ["file:", "link:", "portal:", "./", "../", "~/"];

/// Where a `package.json` names dependencies.
const KINDS: [&str; 7] =
    ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "resolutions", "overrides", "pnpm"];

/// Reads a file that has no more bytes than this.
type Read<'a> = dyn Fn(&str, u64) -> Result<Vec<u8>, Doubt> + 'a;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// SHA-256 of each file that is read.
    pub files: BTreeMap<String, String>,
    /// Names of packages that are part of the source.
    pub own: BTreeSet<String>,
}

/// What an installer in `dir` would read of `before`, which is all that the archive brought; `scripts` is whether it runs
/// any, and `read` reads one file.
pub(super) fn look(before: &Listing, dir: &str, scripts: bool, read: &Read<'_>) -> Result<Source, Doubt> {
    let at = |name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    if !LOCKS.iter().any(|lock| before.contains_key(&at(lock))) {
        return Err(Doubt("no lock file says which packages".into()));
    }
    if before.contains_key(&at("node_modules")) {
        return Err(Doubt("there is a node_modules already".into()));
    }
    let (mut files, mut packages, mut room) = (BTreeMap::new(), BTreeMap::new(), MAX_BYTES);
    for (path, node) in before.iter().filter(|(path, _)| !in_packages(path)) {
        if !is_read(path)? || matches!(node, Node::Folder { .. }) {
            continue;
        }
        if !matches!(node, Node::File(_)) {
            return Err(Doubt(format!("{path} is not a file")));
        }
        let bytes = read(path, room)?;
        room = room.saturating_sub(bytes.len() as u64);
        files.insert(path.clone(), sha256(&bytes));
        if name(path) == "package.json" {
            // One that is no JSON belongs to no package, or the installer will say so.
            packages.insert(path.clone(), serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        }
    }
    for (path, package) in &packages {
        local(package).into_iter().try_for_each(|wanted| is_here(before, path, &wanted))?;
    }
    if scripts {
        let all = is_several(before, &packages);
        let run = packages.iter().filter(|(path, _)| all || **path == at("package.json"));
        let reader = run.filter_map(|(path, package)| Some((path, scripts::of_project(package)?))).next();
        if let Some((path, script)) = reader {
            return Err(Doubt(format!("the {script} script of {path} may read the source")));
        }
    }
    let own = packages.values().filter_map(|package| package["name"].as_str()).map(str::to_owned).collect();
    Ok(Source { files, own })
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish()
}

fn is_read(path: &str) -> Result<bool, Doubt> {
    let name = name(path);
    let is_below = |folder: &str| path.starts_with(folder) || path.contains(&format!("/{folder}"));
    if PROGRAMS.contains(&name) || is_below(".yarn/plugins/") {
        return Err(Doubt(format!("{path} may read the source")));
    }
    Ok(NAMES.contains(&name) || ENDINGS.iter().any(|end| name.ends_with(end)) || is_below(".yarn/"))
}

/// Whether more than one of them may be installed at once.
fn is_several(before: &Listing, packages: &BTreeMap<String, Value>) -> bool {
    before.keys().any(|path| name(path) == "pnpm-workspace.yaml")
        || packages.values().any(|package| !package["workspaces"].is_null() || !local(package).is_empty())
}

/// The dependencies that are said to lie on this machine.
fn local(package: &Value) -> Vec<String> {
    fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::String(text) => found.push(text),
            // Overrides lie in each other.
            Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
        }
    }
    let mut found = Vec::new();
    KINDS.iter().for_each(|kind| texts(&package[*kind], &mut found));
    let is_local = |wanted: &&str| LOCAL.iter().any(|local| wanted.starts_with(local)) || wanted.starts_with('/');
    found.into_iter().filter(is_local).map(str::to_owned).collect()
}

/// A folder of the source that has a package with a name, or an archive that is read: the name tells, when all is
/// installed, whether it was copied or linked.
fn is_here(before: &Listing, package: &str, wanted: &str) -> Result<(), Doubt> {
    let doubt = || Doubt(format!("{package} depends on {wanted}"));
    let place = wanted.split_once(':').map_or(wanted, |(_, place)| place);
    let folder = package.rsplit_once('/').map_or("", |(folder, _)| folder);
    let place = joined(folder, place).ok_or_else(doubt)?;
    let is_archive = ENDINGS.iter().any(|end| place.ends_with(end));
    let needed = if is_archive { place.clone() } else { format!("{place}/package.json") };
    match before.contains_key(needed.trim_start_matches('/')) && !in_packages(&needed) {
        true => Ok(()),
        false => Err(doubt()),
    }
}

/// `place` as seen from `folder`, without `.` and `..`; `None` when it leads out of the root, or says so.
pub(super) fn joined(folder: &str, place: &str) -> Option<String> {
    if place.starts_with(['/', '~']) {
        return None;
    }
    let mut at: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(place.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(at.pop()?),
            part => at.push(part),
        }
    }
    Some(at.join("/"))
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
