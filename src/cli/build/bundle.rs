//! Source bundle: which files are the source, and the Version that stands for them.
//!
//! The source root is that of the git repository, so that a workspace builds as it does for its authors; without one
//! it is the app's folder. What `.gitignore` names is left out, and so is, always, what must never travel.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::cli::git;
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::version::Version;

/// A tree of folders deeper than this is a loop.
const MAX_DEPTH: usize = 64;

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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the root.
    pub path: PathBuf,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File { executable: bool },
    Link { to: PathBuf },
}

/// Reads the source of the app in `dir`.
///
/// # Errors
/// Config when there is nothing to ship; Io naming the file that could not be read.
pub(crate) fn collect(dir: &Path) -> Result<Source> {
    let dir = dir.canonicalize().context(|| format!("find {}", dir.display()))?;
    let repository = git::root(&dir)?;
    let root = match &repository {
        Some(root) => root.canonicalize().context(|| format!("find {}", root.display()))?,
        None => dir.clone(),
    };
    let app = dir.strip_prefix(&root).map_err(|_| outside(&dir, &root))?.to_path_buf();
    let paths = match &repository {
        Some(_) => git::files(&root)?,
        None => files_outside(&root)?,
    };
    let entries = entries(&root, paths)?;
    if !entries.iter().any(|e| e.path.starts_with(&app)) {
        return Err(Error::new(Kind::Config, format!("there are no files to ship in {}", dir.display()))
            .hint("is the folder named in a .gitignore?"));
    }
    let hash = hash(&root, &entries)?;
    let commit = if repository.is_some() { git::head(&root)? } else { None };
    let dirty = match &commit {
        Some(_) => git::changes(&root)?.iter().any(|path| !is_dropped(path)),
        None => false,
    };
    let version = Version::of(commit.as_ref().map(|c| c.id.as_str()), dirty, &hash)?;
    Ok(Source { root, app, entries, hash, version, subject: commit.map(|c| c.subject), dirty })
}

impl Source {
    /// `app` as a manifest says it: with `/`, empty for the root.
    pub fn app_dir(&self) -> Result<String> {
        let dir = self.app.to_str().map(str::to_string);
        dir.ok_or_else(|| Error::new(Kind::Config, format!("the folder {} is not UTF-8", self.app.display())))
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

fn entries(root: &Path, mut paths: Vec<PathBuf>) -> Result<Vec<Entry>> {
    paths.retain(|path| !is_dropped(path));
    // By bytes, the same on every machine.
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    paths.dedup();
    let mut entries = Vec::with_capacity(paths.len());
    for path in paths {
        let full = root.join(&path);
        let found = match full.symlink_metadata() {
            Ok(found) => found,
            // git still lists a file that was removed and not committed.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(e).context(|| format!("look at {}", full.display())),
        };
        let what = if found.is_symlink() {
            What::Link { to: fs::read_link(&full).context(|| format!("read {}", full.display()))? }
        } else if found.is_file() {
            What::File { executable: found.permissions().mode() & 0o100 != 0 }
        } else {
            continue;
        };
        let shared_target = path.file_name().is_some_and(|n| n == "target") && matches!(what, What::Link { .. });
        if !shared_target {
            entries.push(Entry { path, what });
        }
    }
    Ok(entries)
}

/// Every field with its length before it, so that no two sets of files have one framing.
fn hash(root: &Path, entries: &[Entry]) -> Result<String> {
    let mut hash = Sha256::new();
    for Entry { path, what } in entries {
        frame(&mut hash, path.as_os_str().as_bytes());
        match what {
            What::Link { to } => {
                hash.update(b"l");
                frame(&mut hash, to.as_os_str().as_bytes());
            }
            What::File { executable } => {
                hash.update(if *executable { b"x" } else { b"-" });
                hash_file(&mut hash, &root.join(path))?;
            }
        }
    }
    Ok(hash.finish())
}

fn hash_file(hash: &mut Sha256, path: &Path) -> Result<()> {
    let doing = || format!("read {}", path.display());
    let mut file = File::open(path).context(doing)?;
    let length = file.metadata().context(doing)?.len();
    hash.update(&length.to_le_bytes());
    let (mut buf, mut read) = (vec![0; 64 << 10], 0);
    loop {
        let n = file.read(&mut buf).context(doing)?;
        if n == 0 {
            break;
        }
        read += n as u64;
        hash.update(&buf[..n]);
    }
    match read == length {
        true => Ok(()),
        false => Err(Error::new(Kind::Refused, format!("{} changed while it was read", path.display()))
            .hint("is something still building or writing there?")),
    }
}

pub(crate) fn frame(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn files_outside(root: &Path) -> Result<Vec<PathBuf>> {
    let scratch = Scratch::new()?;
    match git::files_outside(root, &scratch.0)? {
        Some(files) => Ok(files),
        None => {
            let mut files = Vec::new();
            walk(root, Path::new(""), &mut files)?;
            Ok(files)
        }
    }
}

/// Every file below `root`, links unfollowed, without looking into what is dropped anyway.
fn walk(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let dir = root.join(below);
    if below.components().count() > MAX_DEPTH {
        return Err(Error::new(Kind::Config, format!("{} lies too deep", dir.display())));
    }
    for entry in fs::read_dir(&dir).context(|| format!("read {}", dir.display()))? {
        let entry = entry.context(|| format!("read {}", dir.display()))?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().context(|| format!("look at {}", entry.path().display()))?;
        match kind.is_dir() {
            true if is_dropped(&path.join("x")) => {}
            true => walk(root, &path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

fn outside(dir: &Path, root: &Path) -> Error {
    Error::new(Kind::Config, format!("{} is not inside its git repository {}", dir.display(), root.display()))
}

/// A folder for git's own files, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let name: String = crate::crypto::random::<8>()?.iter().map(|b| format!("{b:02x}")).collect();
        let dir = std::env::temp_dir().join(format!("tako-{name}"));
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
mod tests {
    use super::*;
    use crate::cli::git::tests::{git, write};

    fn names(source: &Source) -> Vec<String> {
        source.entries.iter().map(|e| e.path.display().to_string()).collect()
    }

    fn version(dir: &Path) -> String {
        collect(dir).unwrap().version.to_string()
    }

    #[test]
    fn the_three_forms_of_a_version() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(&dir.join("index.ts"), "1");
        let source = collect(dir).unwrap();
        assert_eq!(source.version.to_string(), format!("nogit_{}", &source.hash[..8]));
        git(dir, &["init", "--quiet"]);
        assert!(version(dir).starts_with("nogit_"), "a repository without a commit");
        git(dir, &["add", "."]);
        git(dir, &["commit", "--quiet", "-m", "First"]);
        let commit = git::head(dir).unwrap().unwrap().id;
        assert_eq!(version(dir), commit);
        // What is dropped changes nothing, tracked or not.
        for dropped in [".env.local", ".tako/secrets", "node_modules/x/index.js", "target/debug/x"] {
            write(&dir.join(dropped), "x");
        }
        assert_eq!(version(dir), commit);
        write(&dir.join("new.ts"), "1");
        let source = collect(dir).unwrap();
        assert!(source.dirty);
        assert_eq!(source.version.to_string(), format!("{commit}_{}", &source.hash[..8]));
        assert_eq!(source.subject.as_deref(), Some("First"));
        fs::remove_file(dir.join("new.ts")).unwrap();
        fs::remove_file(dir.join("index.ts")).unwrap();
        write(&dir.join("other.ts"), "1");
        assert!(version(dir).starts_with(&format!("{commit}_")), "a removed file is a change");
    }

    #[test]
    fn the_root_is_that_of_the_repository_and_the_app_keeps_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        git(&root, &["init", "--quiet"]);
        write(&root.join("packages/lib/index.ts"), "");
        write(&root.join("apps/web/index.ts"), "");
        write(&root.join("apps/web/.gitignore"), "dist\n");
        write(&root.join("apps/web/dist/x"), "");
        let source = collect(&root.join("apps/web")).unwrap();
        assert_eq!((source.root.as_path(), source.app_dir().unwrap().as_str()), (root.as_path(), "apps/web"));
        assert_eq!(names(&source), ["apps/web/.gitignore", "apps/web/index.ts", "packages/lib/index.ts"]);
        let e = collect(&root.join("apps/web/dist")).unwrap_err();
        assert_eq!(e.kind(), Kind::Config);
    }

    #[test]
    fn what_must_never_travel_does_not() {
        for dropped in [
            ".git/config",
            "a/.git",
            ".tako/x",
            ".env",
            "a/.env.production",
            ".envrc",
            "node_modules",
            "a/node_modules/b",
            "target/x",
            "a/target/b/c",
        ] {
            assert!(is_dropped(Path::new(dropped)), "{dropped}");
        }
        for kept in ["a.env", "env", "targets/x", "src/target", "my_node_modules/x", ".gitignore", ".takofile"] {
            assert!(!is_dropped(Path::new(kept)), "{kept}");
        }
    }

    #[test]
    fn the_hash_is_the_same_for_the_same_files_and_feels_every_change() {
        let hash_of = |make: &dyn Fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path());
            collect(dir.path()).unwrap().hash
        };
        let base = |dir: &Path| {
            write(&dir.join("a"), "1");
            write(&dir.join("b/c"), "23");
        };
        let same = hash_of(&base);
        assert_eq!(
            hash_of(&|d| {
                write(&d.join("b/c"), "23");
                write(&d.join("a"), "1")
            }),
            same
        );
        assert_eq!(
            hash_of(&|d| {
                base(d);
                write(&d.join(".env"), "SECRET=1")
            }),
            same
        );
        let executable = |d: &Path| {
            base(d);
            fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let link = |d: &Path| {
            base(d);
            fs::remove_file(d.join("a")).unwrap();
            std::os::unix::fs::symlink("b/c", d.join("a")).unwrap();
        };
        let others = [
            hash_of(&|d| {
                write(&d.join("a"), "12");
                write(&d.join("b/c"), "3")
            }),
            hash_of(&|d| {
                write(&d.join("a"), "1");
                write(&d.join("bc"), "23")
            }),
            hash_of(&|d| {
                base(d);
                write(&d.join("d"), "")
            }),
            hash_of(&executable),
            hash_of(&link),
        ];
        for (n, other) in others.iter().enumerate() {
            assert_ne!(*other, same, "change {n}");
        }
        // Times and the group's and others' bits do not matter.
        assert_eq!(
            hash_of(&|d| {
                base(d);
                fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o600)).unwrap()
            }),
            same
        );
    }

    #[test]
    fn without_git_a_plain_walk_finds_the_files() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a/b"), "");
        write(&dir.path().join("node_modules/x/y"), "");
        std::os::unix::fs::symlink("..", dir.path().join("loop")).unwrap();
        let mut files = Vec::new();
        walk(dir.path(), Path::new(""), &mut files).unwrap();
        files.sort();
        assert_eq!(files, [Path::new("a/b"), Path::new("loop")]);
    }
}
