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
/// Of all `package.json` together, which take some twenty times as much once they are understood. A thousand have two.
const MAX_PACKAGES: u64 = 4 << 20;

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
/// What each manager holds on to; with another's lock file alone its versions float.
const LOCKS: [(&str, &[&str]); 4] = [
    ("npm", &["package-lock.json", "npm-shrinkwrap.json"]),
    ("pnpm", &["pnpm-lock.yaml"]),
    ("yarn", &["yarn.lock"]),
    ("bun", &["bun.lock", "bun.lockb", "package-lock.json"]),
];
/// Programs that a manager runs within itself.
const PROGRAMS: [&str; 5] = [".pnpmfile.cjs", ".pnpmfile.mjs", ".pnpmfile.js", "pnpmfile.js", "binding.gyp"];
/// In place of a `package.json`, with all that it may say.
const OTHER_PACKAGES: [&str; 2] = ["package.json5", "package.yaml"];
const ENDINGS: [&str; 5] = [".patch", ".diff", ".tgz", ".tar.gz", ".tar"];

/// How a dependency is written that lies here. Archives are among what is read.
const LOCAL: [&str; 7] = ["file:", "link:", "portal:", "exec:", "./", "../", "~/"];

/// Where a `package.json` names dependencies.
const KINDS: [&str; 7] =
    ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "resolutions", "overrides", "pnpm"];

/// The system's settings of npm, which are read wherever it lies.
pub(super) const GLOBAL_NPMRC: [&str; 3] = ["/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"];

/// Reads a file that has no more bytes than this.
type Read<'a> = dyn Fn(&str, u64) -> Result<Vec<u8>, Doubt> + 'a;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// SHA-256 of each file that is read.
    pub files: BTreeMap<String, String>,
    /// Names of packages that are part of the source.
    pub own: BTreeSet<String>,
}

/// What an installer, `tool` in `dir`, would read of `before`, which is all that the archive brought; `scripts` is whether
/// it runs any, and `read` reads one file.
pub(super) fn look(before: &Listing, dir: &str, tool: &str, scripts: bool, read: &Read<'_>) -> Result<Source, Doubt> {
    let at = |name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    let mut locks = LOCKS.iter().filter(|(of, _)| *of == tool).flat_map(|(_, locks)| *locks);
    if !locks.any(|lock| before.contains_key(&at(lock))) {
        return Err(Doubt("no lock file says which packages".into()));
    }
    if before.contains_key(&at("node_modules")) {
        return Err(Doubt("there is a node_modules already".into()));
    }
    let (mut files, mut packages) = (BTreeMap::new(), BTreeMap::new());
    let (mut room, mut of_packages) = (MAX_BYTES, MAX_PACKAGES);
    for (path, node) in before.iter().filter(|(path, _)| !in_packages(path)) {
        if !is_read(path)? || matches!(node, Node::Folder { .. }) {
            continue;
        }
        if !matches!(node, Node::File(_)) {
            return Err(Doubt(format!("{path} is not a file")));
        }
        let is_package = name(path) == "package.json";
        let bytes = read(path, if is_package { room.min(of_packages) } else { room })?;
        room = room.saturating_sub(bytes.len() as u64);
        files.insert(path.clone(), sha256(&bytes));
        if is_package {
            of_packages = of_packages.saturating_sub(bytes.len() as u64);
            // A manager reads more than JSON: a mark in front, comments, numbers of any size.
            packages.insert(path.clone(), serde_json::from_slice(&bytes).map_err(|e| Doubt::of(path, e))?);
        }
        check_settings(path, &bytes)?;
    }
    for (path, package) in &packages {
        local(package).into_iter().try_for_each(|wanted| is_here(before, &packages, path, &wanted))?;
        for program in bins(path, package)? {
            let bytes = match before.get(&program) {
                None => None,
                Some(Node::File(stamp)) => Some((stamp.may_run(), read(&program, room)?)),
                Some(_) => return Err(Doubt(format!("{program} is not a file"))),
            };
            room = room.saturating_sub(bytes.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64));
            files.insert(format!("bin {program}"), bytes.map_or("none".into(), |(runs, bytes)| first(runs, &bytes)));
        }
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
    if PROGRAMS.contains(&name) || OTHER_PACKAGES.contains(&name) || is_below(".yarn/plugins/") {
        return Err(Doubt(format!("{path} may read the source")));
    }
    // Bun and Yarn take variables from there.
    let is_env = name == ".env" || name.starts_with(".env.");
    Ok(is_env || NAMES.contains(&name) || ENDINGS.iter().any(|end| name.ends_with(end)) || is_below(".yarn/"))
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

/// The programs of a package: a manager makes a link or a small script for each that is there, by its first line, and lets
/// it be run.
fn bins(path: &str, package: &Value) -> Result<Vec<String>, Doubt> {
    let doubt = |what: &str| Doubt(format!("{path} has programs in {what}"));
    if !package["directories"]["bin"].is_null() {
        return Err(doubt("a folder"));
    }
    let targets: Vec<&Value> = match &package["bin"] {
        Value::Object(bins) => bins.values().collect(),
        Value::Null => Vec::new(),
        other => vec![other],
    };
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let place = |target: &Value| joined(folder, target.as_str()?);
    targets.into_iter().map(|target| place(target).ok_or_else(|| doubt(&target.to_string()))).collect()
}

/// What of a program matters to who makes a link to it.
fn first(runs: bool, bytes: &[u8]) -> String {
    let line = bytes.split(|b| *b == b'\n').next().filter(|line| line.starts_with(b"#!")).unwrap_or_default();
    format!("runs {runs} {}", sha256(line))
}

/// Refuses settings by which a manager runs a program, or reads others from another place. `path` tells which file it is;
/// one that holds no such settings is fine.
pub(super) fn check_settings(path: &str, text: &[u8]) -> Result<(), Doubt> {
    const FILES: [&str; 9] = [
        ".npmrc",
        "npmrc",
        "rc",
        ".yarnrc",
        ".yarnrc.yml",
        "bunfig.toml",
        ".bunfig.toml",
        "pnpm-workspace.yaml",
        "config.yaml",
    ];
    /// In small letters, without what some write between words.
    const LEADING: [&str; 14] = [
        "configdependencies",
        "git",
        "globalpnpmfile",
        "injectenvironmentfiles",
        "lockfilefilename",
        "nodegyp",
        "nodeoptions",
        "onloadscript",
        "plugins",
        "pnpmfile",
        "scanner",
        "scriptshell",
        "shell",
        "userconfig",
    ];
    if !FILES.contains(&name(path)) {
        return Ok(());
    }
    for line in String::from_utf8_lossy(text).lines() {
        let line = line.trim_start_matches([' ', '\t', '-', '"', '\'', '\u{feff}']);
        let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(line.len());
        let (key, value) = line.split_at(end);
        // Else it is an item of a list, or a word.
        if !value.trim_start_matches(['"', '\'']).starts_with([':', '=', ' ', '\t', '[']) {
            continue;
        }
        let key = key.replace(['-', '_'], "").to_ascii_lowercase();
        let value = value.trim_matches([' ', '\t', ':', '=', '"', '\'']).trim_start_matches("./");
        let leads = match key.as_str() {
            // What lies below `.yarn` in the release is read.
            "yarnpath" => path.starts_with('/') || !value.starts_with(".yarn/releases/") || value.contains(".."),
            // As Debian's npm says of itself.
            "globalconfig" => !GLOBAL_NPMRC.contains(&value),
            key => LEADING.contains(&key),
        };
        if leads {
            return Err(Doubt(format!("{path} sets {key}, which may read the source")));
        }
    }
    Ok(())
}

/// A folder of the source that has a package with a name, or an archive that is read: the name tells, when all is
/// installed, whether it was copied or linked.
fn is_here(before: &Listing, packages: &BTreeMap<String, Value>, package: &str, wanted: &str) -> Result<(), Doubt> {
    let doubt = || Doubt(format!("{package} depends on {wanted}"));
    let place = wanted.split_once(':').map_or(wanted, |(_, place)| place);
    let folder = package.rsplit_once('/').map_or("", |(folder, _)| folder);
    let place = joined(folder, place).ok_or_else(doubt)?;
    let is_archive = ENDINGS.iter().any(|end| place.ends_with(end));
    let is_good = match is_archive {
        true => before.contains_key(&place) && !in_packages(&place),
        false => {
            let needed = format!("{place}/package.json");
            let name = packages.get(needed.trim_start_matches('/')).and_then(|package| package["name"].as_str());
            name.is_some_and(|name| !name.is_empty())
        }
    };
    if is_good { Ok(()) } else { Err(doubt()) }
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
