//! Packages: an installer is not run where it would only do again what it did for an earlier release.
//!
//! ```text
//! begin     before anything: what the archive brought, and the key of what an installer would make of it
//! take      from the newest release with a record of that key: what its installer made is copied, and recorded anew
//! record    else, when the installer has ended well: what is there now and was not, under the key
//! ```
//! Two installations of the same [`key`] leave the same, so the key has every input in it: the command, the programs that
//! run it, the machine, the user, the environment, and each file that a package manager reads, in the release and around
//! it. Where an installer may read anything else there is no key: with a command of one's own that is not a manager's, with
//! a program within a manager, with a script of the project or of a package that is not known to keep to itself
//! ([`scripts`]), without a lock file. A [`Doubt`] is never an error: then the installer runs, as it always did.
//!
//! What an installer did is found by looking before and after. Only if it added and changed nothing, led no link out of
//! the release, copied no part of the source, and left no mention of the release in what is not text, is it recorded:
//! each file by its size, its number and the time that it was written. A record is the last thing but one to be written
//! (the release's `.prepared` follows when all is on disk), and only releases with both are taken from. A file that is not
//! as it was recorded is the end of taking: what was copied is removed, and the installer runs.
//!
//! It is always a copy ([`take`]): what a release writes is seen by no other, and each may go when it likes.
//!
//! **Invariant**: a release has either all that its installer would have made, or its installer has run.

mod key;
mod made;
pub(super) mod record;
mod scripts;
mod source;
mod take;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::super::{owner, runtime};
use super::prepare::{Installer, Preparing};
use super::{SPARE_BYTES, crash, entries, is_complete, is_staging, remove_any};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Manifest;
use crate::proto::target::Target;
use crate::proto::version::Version;
use key::{Inputs, Program};
use record::{Head, Record};
use tree::{Listing, Node, Tree};

/// Ours in the root of a release, and no business of an installer.
const OURS: [&str; 4] = [record::NAME, ".complete", ".prepared", "logs"];
/// Of a settings file; managers have far smaller ones.
const MAX_SETTINGS: u64 = 4 << 20;
/// Releases that are tried: when two were tampered with, so was the third.
const TRIES: usize = 2;

/// Why it is better to install.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Doubt(String);

impl Doubt {
    fn of(what: &dyn fmt::Display, why: impl fmt::Display) -> Doubt {
        Doubt(format!("{what}: {why}"))
    }
}

impl From<Error> for Doubt {
    fn from(e: Error) -> Doubt {
        Doubt(e.to_string())
    }
}

/// Of a release that is about to be installed.
pub(super) struct Packages<'a> {
    preparing: &'a Preparing<'a>,
    release: PathBuf,
    /// Without one it is neither taken from another nor recorded for others.
    known: Option<Known>,
}

struct Known {
    tree: Tree,
    before: Listing,
    key: String,
    /// Names of packages that are part of the source.
    own: BTreeSet<String>,
    scripts: bool,
    /// Paths by which a program may know the release.
    at: Vec<String>,
}

impl<'a> Packages<'a> {
    /// To be called before the installer may write, or anything was taken.
    pub fn begin(preparing: &'a Preparing<'a>, installer: &Installer) -> Packages<'a> {
        let Manifest { app, version, .. } = preparing.manifest;
        let release = preparing.layout.release(app, version);
        let known = know(preparing, &release, installer);
        if let Err(Doubt(why)) = &known {
            log::info!("app={app} release={version} packages are installed anew: {why}");
        }
        Packages { preparing, release, known: known.ok() }
    }

    /// Takes over what was made in an earlier release, whose version this is.
    ///
    /// # Errors
    /// When the release is in a state that cannot be installed into either, or nobody waits any more.
    pub fn take(&self) -> Result<Option<Version>> {
        let Preparing { layout, manifest, user, gone, .. } = *self.preparing;
        let Some(known) = &self.known else { return Ok(None) };
        for from in self.with(&known.key) {
            let Some(version) = from.file_name().and_then(|name| Version::parse(name.to_str()?).ok()) else { continue };
            crash::point("packages: to be taken");
            let taken = self.take_from(known, &from);
            if gone.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "stopped, because the client went away"));
            }
            crash::point("packages: taken and not recorded");
            match taken {
                Ok(record) => {
                    owner::take_back(&self.release, user)?;
                    record::put(&self.release, &record)?;
                    log::info!("app={} release={} has the packages of {version}", manifest.app, manifest.version);
                    return Ok(Some(version));
                }
                Err(Doubt(why)) => {
                    log::warn!("app={} packages of {version} are not taken over: {why}", manifest.app);
                    if disk::is_full(layout.data()) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Says what the installer made, for releases to come; it has ended well, and the release is ours.
    pub fn record(self) {
        let Manifest { app, version, .. } = self.preparing.manifest;
        crash::point("packages: to be recorded");
        let recorded =
            self.known.as_ref().map(|known| -> Result<(), Doubt> { Ok(record::put(&self.release, &known.look()?)?) });
        if let Some(Err(Doubt(why))) = &recorded {
            log::info!("app={app} release={version} packages are not for others: {why}");
        }
        // An installer may have put something there.
        if !matches!(recorded, Some(Ok(())))
            && let Err(e) = record::blank(&self.release)
        {
            log::warn!("app={app} release={version} {e}");
        }
    }

    /// Releases of the app that are prepared and have this key, newest first.
    fn with(&self, key: &str) -> Vec<PathBuf> {
        let Preparing { layout, manifest, .. } = *self.preparing;
        let app = &manifest.app;
        let is_other = |release: &PathBuf| {
            let version = release.file_name().and_then(|name| Version::parse(name.to_str()?).ok());
            *release != self.release
                && !is_staging(release)
                && version.is_some_and(|v| is_complete(layout, app, &v) && layout.prepared_marker(app, &v).is_file())
        };
        let others: Vec<PathBuf> = entries(&layout.releases(app)).into_iter().filter(is_other).collect();
        let mut found = record::of_key(&others, key);
        found.truncate(TRIES);
        found
    }

    /// All of it, or nothing.
    fn take_from(&self, known: &Known, from: &Path) -> Result<Record, Doubt> {
        let Preparing { layout, gone, .. } = *self.preparing;
        let record = record::load(from)?;
        if let Some(path) = record.made.keys().find(|path| known.before.contains_key(*path)) {
            return Err(Doubt(format!("the archive brought {path}")));
        }
        let bytes: u64 = record.made.values().map(size).sum();
        if disk::free_bytes(layout.data())? < bytes.saturating_add(SPARE_BYTES) {
            return Err(Doubt(format!("{bytes} bytes do not fit")));
        }
        let new = known.at.first().cloned().unwrap_or_default();
        let places: BTreeMap<String, String> = record.head.at.iter().map(|old| (old.clone(), new.clone())).collect();
        let is_over = || gone.load(Ordering::Relaxed);
        let mut made = Listing::new();
        if let Err(doubt) = take::take(&Tree::open(from)?, &known.tree, &record, &places, &is_over, &mut made) {
            for top in take::tops(&made) {
                remove_any(&self.release.join(top))?;
            }
            return Err(doubt);
        }
        Ok(Record { head: Head { key: known.key.clone(), at: known.at.clone(), mention: record.head.mention }, made })
    }
}

impl Known {
    fn look(&self) -> Result<Record, Doubt> {
        let made = made::made(&self.before, self.tree.list(&OURS)?)?;
        made::check(&self.tree, &made, &|name| self.own.contains(name), self.scripts)?;
        let mention = made::mentions(&self.tree, &made, &self.at)?;
        Ok(Record { head: Head { key: self.key.clone(), at: self.at.clone(), mention }, made })
    }
}

fn know(preparing: &Preparing<'_>, release: &Path, installer: &Installer) -> Result<Known, Doubt> {
    let Preparing { layout, manifest, user, .. } = *preparing;
    if !record::begin(release)? {
        return Err(Doubt("an earlier installation did not end".into()));
    }
    let scripts = key::scripts_of(&installer.words)?;
    key::check_vars(manifest.vars.iter())?;
    let tree = Tree::open(release)?;
    let before = tree.list(&OURS)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| Doubt("a path is no UTF-8".into()));
    let dir = text(installer.dir.strip_prefix(release).unwrap_or(Path::new("")))?;
    let source = source::look(&before, &dir, scripts, &|path, limit| tree.read(path, limit))?;
    let real = fs::canonicalize(release).context(|| format!("find {}", release.display()))?;
    let mut at = vec![text(release)?];
    if real != release {
        at.push(text(&real)?);
    }
    let programs = programs(installer)?;
    let inputs = Inputs {
        words: installer.words.clone(),
        dir,
        runtime: format!(
            "{} {} {}",
            manifest.runtime.as_str(),
            manifest.runtime_version.as_deref().unwrap_or_default(),
            installer.runtime.as_deref().and_then(|program| runtime::version_of(layout, program)).unwrap_or_default()
        ),
        machine: Target::of_this_machine()?.to_string(),
        user: user.map(|user| user.uid),
        env: installer.env.clone(),
        files: source.files,
        settings: settings(&real, &programs, &installer.home)?,
        programs,
    };
    Ok(Known { tree, before, key: key::key(&inputs), own: source.own, scripts, at })
}

/// What runs the app, what installs, and what most managers are run by.
fn programs(installer: &Installer) -> Result<Vec<Program>, Doubt> {
    let node = runtime::find_tool("node", &installer.beside).ok();
    let all = installer.runtime.iter().chain([&installer.program]).chain(&node);
    all.map(|path| Program::at(path)).collect()
}

fn settings(release: &Path, programs: &[Program], home: &Path) -> Result<BTreeMap<PathBuf, Option<String>>, Doubt> {
    let mut found = BTreeMap::new();
    for path in key::settings_of(release, programs) {
        let bytes = disk::read_if_there(&path, MAX_SETTINGS)?;
        found.insert(path, bytes.map(|bytes| source::sha256(&bytes)));
    }
    // It is the app's: nothing there is followed.
    let tree = Tree::open(home)?;
    for name in key::OF_HOME {
        let is_there = fs::symlink_metadata(home.join(name)).is_ok();
        let sum = if is_there { Some(source::sha256(&tree.read(name, MAX_SETTINGS)?)) } else { None };
        found.insert(home.join(name), sum);
    }
    Ok(found)
}

fn size(node: &Node) -> u64 {
    match node {
        Node::File(stamp) => stamp.size,
        Node::Folder { .. } | Node::Link(_) | Node::Other => 0,
    }
}

/// Whether a path leads into a folder of packages.
fn in_packages(path: &str) -> bool {
    path.split('/').any(|name| name == "node_modules")
}
