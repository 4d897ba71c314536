//! Source bundle: which files are the source, and the Version that stands for them.
//!
//! The source root is that of the git repository, so that a workspace builds as it does for its authors; without one
//! it is the app's folder. What `.gitignore` names is left out, and so is, always, what must never travel. What git
//! does not know is not part of it: empty folders, times, and who may read a file.
//!
//! **Invariant**: a Source says of each file what it held when it was read, so that who copies it later can see whether
//! it is still the same.

mod ignore;
mod known;
mod read;
mod walk;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::archive::pack::{Expected, Found};
use crate::cli::git::{self, Files, Place, Seen};
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::version::Version;
use known::Known;
pub(super) use known::{forget, remember};
pub(super) use read::{Contents, changed, read_exactly};

/// As many as an archive may hold: more of them are something that was meant to be ignored.
const MAX_FILES: usize = 500_000;

#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Absolute.
    pub root: PathBuf,
    /// Where the app lies below `root`; empty for the root itself.
    pub app: PathBuf,
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// SHA-256 over all entries, lower-case hex.
    pub hash: String,
    pub version: Version,
    /// First line of the commit.
    pub subject: Option<String>,
    /// There are changes that are in no commit.
    pub dirty: bool,
    /// By which the files are known the next time.
    pub(super) stamps: known::Stamps,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the root.
    pub path: PathBuf,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File {
        executable: bool,
        /// What it held when it was read.
        contents: Contents,
    },
    /// As it is written, wherever it leads: what is behind it is an entry of its own, or no part of the source.
    Link { to: PathBuf },
}

/// Reads the source of the app in `dir`; of files that were not touched since the last [`remember`], it is known what they
/// hold.
///
/// # Errors
/// Config when there is nothing to ship; Refused for a file that changes meanwhile; Io naming the file that could not
/// be read.
pub(crate) fn collect(dir: &Path) -> Result<Source> {
    let (known, begun) = (Known::of(dir), SystemTime::now());
    let dir = dir.canonicalize().context(|| format!("find {}", dir.display()))?;
    let home = env::home_dir().and_then(|home| home.canonicalize().ok());
    let (root, seen) = look(&dir, home.as_deref())?;
    let app = dir.strip_prefix(&root).map_err(|_| outside(&dir, &root))?.to_path_buf();
    if let Some((folder, why)) = seen.files.closed.iter().find(|(folder, _)| !is_dropped(&folder.join("x"))) {
        return Err(Error::new(Kind::Config, format!("read the folder {}: {why}", root.join(folder).display()))
            .hint("make it readable for you, or name it in a .gitignore if it is no part of the source"));
    }
    let (entries, stamps) = read::entries(&root, sorted(seen.files.paths)?, &known)?;
    let stamps = known.stamps(&entries, stamps, begun);
    if !entries.iter().any(|e| e.path.starts_with(&app)) {
        return Err(Error::new(Kind::Config, format!("there are no files to ship in {}", dir.display()))
            .hint("is the folder named in a .gitignore?"));
    }
    let hash = hash(&entries);
    // Of what git does not watch nobody knows whether it is as in the commit, or there at all.
    let mut unlike = seen.changes.iter().chain(&seen.files.unwatched);
    let dirty = seen.commit.is_some() && unlike.any(|path| !is_dropped(path));
    let version = Version::of(seen.commit.as_ref().map(|c| c.id.as_str()), dirty, &hash)?;
    Ok(Source { root, app, entries, hash, version, subject: seen.commit.map(|c| c.subject), dirty, stamps })
}

impl Source {
    /// `app` as a manifest says it: with `/`, empty for the root.
    pub fn app_dir(&self) -> Result<String> {
        let dir = self.app.to_str().map(str::to_string);
        dir.ok_or_else(|| Error::new(Kind::Config, format!("the folder {} is not UTF-8", self.app.display())))
    }

    /// What is at `path` below the root as long as nothing has changed; of a file that was touched since, or shortly before
    /// it was read, only its content can tell.
    pub fn expects(&self, path: &Path, found: Found<'_>) -> Expected<'_> {
        let Ok(n) = self.entries.binary_search_by(|entry| bytes(&entry.path).cmp(bytes(path))) else {
            return Expected::Other;
        };
        match (&self.entries[n].what, found) {
            (What::Link { to }, Found::Link(found)) if to == found => Expected::Found,
            (What::File { executable, contents }, Found::File(found))
                if *executable == read::is_executable(found) && contents.length == found.len() =>
            {
                match self.stamps.is_untouched(n, found) {
                    true => Expected::Found,
                    false => Expected::Content(&contents.sha256),
                }
            }
            _ => Expected::Other,
        }
    }

    /// Reads all of it once more.
    ///
    /// # Errors
    /// Refused naming a file that is not any more what it was.
    pub fn check(&self) -> Result<()> {
        let paths = self.entries.iter().map(|entry| entry.path.clone()).collect();
        let (now, _) = read::entries(&self.root, paths, &Known::default())?;
        let mut there = now.iter();
        match self.entries.iter().find(|was| there.next() != Some(was)) {
            Some(was) => Err(read::changed_since(&self.root.join(&was.path))),
            None => Ok(()),
        }
    }
}

/// What is never part of a source, whatever git says: histories, our own files, secrets, installed and built things.
pub(crate) fn is_dropped(path: &Path) -> bool {
    let last = path.file_name();
    path.components().any(|part| {
        let Component::Normal(name) = part else { return true };
        match name.as_bytes() {
            b".git" | b".tako" | b"node_modules" => true,
            // A file may be called `target`; the folder is Cargo's.
            b"target" => Some(name) != last,
            name => name.starts_with(b".env"),
        }
    })
}

/// The source root of the app in `dir`, and the files in it.
fn look(dir: &Path, home: Option<&Path>) -> Result<(PathBuf, Seen)> {
    let root = match git::place(dir)? {
        Place::In(root) => root.canonicalize().context(|| format!("find {}", root.display()))?,
        Place::InNone => return Ok((dir.into(), unversioned(git::files_outside(dir, &Scratch::new()?.0)?))),
        Place::NoGit => {
            let root = walk::root(dir).filter(|root| !is_for_dotfiles(root, dir, home)).unwrap_or(dir);
            let user = walk::rules_of_user(env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).as_deref(), home);
            let paths = walk::files(root, user.as_deref())?;
            return Ok((root.into(), unversioned(Files { paths, ..Files::default() })));
        }
    };
    match is_for_dotfiles(&root, dir, home) {
        true => Ok((dir.into(), unversioned(git::files_outside(dir, &Scratch::new()?.0)?))),
        false => {
            let seen = git::look(&root)?;
            Ok((root, seen))
        }
    }
}

/// Who keeps their settings in git has a repository at home; what lies below it in folders of its own is no part of it.
fn is_for_dotfiles(root: &Path, dir: &Path, home: Option<&Path>) -> bool {
    home == Some(root) && dir != root
}

fn unversioned(files: Files) -> Seen {
    Seen { commit: None, changes: Vec::new(), files }
}

/// By bytes, the same on every machine.
fn sorted(mut paths: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    paths.retain(|path| !is_dropped(path));
    paths.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)));
    // A file in conflict is listed once for each side.
    paths.dedup();
    match paths.len() > MAX_FILES {
        true => Err(Error::new(Kind::Config, format!("the source has more than {MAX_FILES} files"))
            .hint("name what is not part of it in a .gitignore")),
        false => Ok(paths),
    }
}

/// Every field with its length before it, so that no two sets of files have one framing. The bytes of a file are in it
/// by their own hash, which is what lets all cores take part.
fn hash(entries: &[Entry]) -> String {
    let mut hash = Sha256::new();
    for Entry { path, what } in entries {
        frame(&mut hash, bytes(path));
        match what {
            What::Link { to } => {
                hash.update(b"l");
                frame(&mut hash, bytes(to));
            }
            What::File { executable, contents } => {
                hash.update(if *executable { b"x" } else { b"-" });
                hash.update(&contents.length.to_le_bytes());
                frame(&mut hash, contents.sha256.as_bytes());
            }
        }
    }
    hash.finish()
}

pub(crate) fn frame(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn bytes(path: &Path) -> &[u8] {
    OsStr::as_bytes(path.as_os_str())
}

fn outside(dir: &Path, root: &Path) -> Error {
    Error::new(Kind::Config, format!("{} is not inside its git repository {}", dir.display(), root.display()))
}

/// A folder for git's own files, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let name: String = crate::crypto::random::<8>()?.iter().map(|b| format!("{b:02x}")).collect();
        let dir = env::temp_dir().join(format!("tako-{name}"));
        // Not recursive: a folder that is there already is somebody else's.
        fs::create_dir(&dir).context(|| format!("create {}", dir.display()))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
