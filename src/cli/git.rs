//! The system's `git`, asked with fixed arguments: where the repository is, what was committed, what changed, which
//! files are not ignored.
//!
//! It runs nothing that a repository configures: hooks, file system monitors and pagers are off.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::child::plain;
use crate::error::{Context, Error, Kind, Result};

/// Set by git for its hooks; they would make our git look at another repository than the one we are in.
const LOCAL_VARIABLES: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_CONFIG_PARAMETERS",
];
/// Repositories inside repositories are followed this deep.
const MAX_NESTING: u32 = 8;
/// Longest subject that is kept.
const MAX_SUBJECT: usize = 200;

/// A commit, as far as a deploy cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Seven or more hex digits.
    pub id: String,
    pub subject: String,
}

/// The root of the repository that `dir` is in; `None` without one, or without git on this machine.
///
/// # Errors
/// Config when git is there and will not look into the repository.
pub(crate) fn root(dir: &Path) -> Result<Option<PathBuf>> {
    let Some(out) = run(dir, &["rev-parse", "--show-toplevel"])? else { return Ok(None) };
    match out.status.success() {
        true => Ok(Some(bytes_to_path(out.stdout.strip_suffix(b"\n").unwrap_or(&out.stdout)))),
        false if String::from_utf8_lossy(&out.stderr).contains("not a git repository") => Ok(None),
        false => Err(failed("find the git repository", &out)),
    }
}

/// The commit that is checked out; `None` before the first one.
pub(crate) fn head(root: &Path) -> Result<Option<Commit>> {
    let id = expect(root, &["rev-parse", "--verify", "--quiet", "--short=7", "HEAD"])?;
    if !id.status.success() {
        return Ok(None);
    }
    let subject = checked(root, &["log", "-1", "--format=%s", "HEAD"])?;
    let first = |bytes: &[u8]| plain(bytes.split(|b| *b == b'\n').next().unwrap_or_default());
    let subject = first(&subject).chars().take(MAX_SUBJECT).collect();
    Ok(Some(Commit { id: first(&id.stdout), subject }))
}

/// Paths that differ from the commit or are in none, without those that are ignored.
pub(crate) fn changes(root: &Path) -> Result<Vec<PathBuf>> {
    let out = checked(root, &["status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames"])?;
    // Two letters, a blank, the path.
    Ok(out.split(|b| *b == 0).filter_map(|entry| entry.get(3..)).map(bytes_to_path).collect())
}

/// All files of the tree that are not ignored, relative to `root`, those of repositories inside included. Some may be
/// gone from the disk.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    list(root, Path::new(""), 0, &mut files)?;
    Ok(files)
}

fn list(root: &Path, below: &Path, depth: u32, files: &mut Vec<PathBuf>) -> Result<()> {
    let out = checked(&root.join(below), &["ls-files", "-co", "--exclude-standard", "-z"])?;
    for path in out.split(|b| *b == 0).filter(|p| !p.is_empty()) {
        let path = below.join(bytes_to_path(path));
        // A folder in the list is a repository of its own: a submodule, or one that lies there.
        match root.join(&path).symlink_metadata() {
            Ok(found) if found.is_dir() && depth < MAX_NESTING => {
                if root.join(&path).join(".git").exists() {
                    list(root, &path, depth + 1, files)?;
                }
            }
            _ => files.push(path),
        }
    }
    Ok(())
}

/// The files of a folder that is in no repository, without those that its `.gitignore` files name; `None` without
/// git on this machine. `scratch` is an empty folder for git's own files.
pub(crate) fn files_outside(dir: &Path, scratch: &Path) -> Result<Option<Vec<PathBuf>>> {
    let Some(made) = run(scratch, &["init", "--quiet", "--template="])? else { return Ok(None) };
    if !made.status.success() {
        return Err(failed("read .gitignore", &made));
    }
    let mut git = OsStr::new("--git-dir=").to_os_string();
    git.push(scratch.join(".git"));
    let mut tree = OsStr::new("--work-tree=").to_os_string();
    tree.push(dir);
    let list = [&git, &tree].map(|s| s.as_os_str()).into_iter();
    let list: Vec<&OsStr> = list.chain(["ls-files", "-o", "--exclude-standard", "-z"].map(OsStr::new)).collect();
    match run(dir, &list)? {
        Some(out) if out.status.success() => {
            Ok(Some(out.stdout.split(|b| *b == 0).filter(|p| !p.is_empty()).map(bytes_to_path).collect()))
        }
        Some(out) => Err(failed("list the files of the app", &out)),
        None => Ok(None),
    }
}

/// The rule that keeps `path`, relative to `dir`, out of the repository: `file:line:pattern`; `None` when there is none.
///
/// # Errors
/// When git is not there, or `dir` is in no repository.
pub(crate) fn ignored_by(dir: &Path, path: &Path) -> Result<Option<String>> {
    let mut args: Vec<&OsStr> = ["check-ignore", "--verbose", "--no-index", "--"].map(OsStr::new).to_vec();
    args.push(path.as_os_str());
    match run(dir, &args)? {
        Some(out) if out.status.success() => {
            let rule = plain(out.stdout.split(|b| *b == b'\t').next().unwrap_or_default());
            // A rule that takes back counts as found too.
            let taken_back = rule.splitn(3, ':').nth(2).is_some_and(|pattern| pattern.starts_with('!'));
            Ok((!rule.is_empty() && !taken_back).then_some(rule))
        }
        // 1 is: no rule.
        Some(out) if out.status.code() == Some(1) => Ok(None),
        Some(out) => Err(failed("ask git what it ignores", &out)),
        None => Err(Error::new(Kind::NotFound, "git is not on PATH")),
    }
}

fn checked(dir: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let out = expect(dir, args)?;
    match out.status.success() {
        true => Ok(out.stdout),
        false => Err(failed(&format!("run git {}", args[0]), &out)),
    }
}

fn expect(dir: &Path, args: &[&str]) -> Result<Output> {
    run(dir, args)?.ok_or_else(|| Error::new(Kind::NotFound, "git is gone from PATH"))
}

/// `None` when there is no git.
fn run(dir: &Path, args: &[impl AsRef<OsStr>]) -> Result<Option<Output>> {
    let mut command = Command::new("git");
    command.args(["--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]).args(args);
    command.current_dir(dir).stdin(Stdio::null());
    command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    for variable in LOCAL_VARIABLES {
        command.env_remove(variable);
    }
    match command.output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && dir.is_dir() => Ok(None),
        out => out.map(Some).context(|| "run git".into()),
    }
}

fn failed(doing: &str, out: &Output) -> Error {
    let lines: Vec<String> = out.stderr.split(|b| *b == b'\n').map(plain).filter(|l| !l.is_empty()).take(10).collect();
    let why = lines.first().map_or("git gave no reason", String::as_str);
    Error::new(Kind::Config, format!("{doing}: {}", why.strip_prefix("fatal: ").unwrap_or(why))).with_detail(lines)
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(OsStr::from_bytes(bytes).as_bytes().to_vec()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    /// Runs git as a user would, with a name to commit under and no configuration of this machine.
    pub fn git(dir: &Path, args: &[&str]) {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=Ana", "-c", "user.email=ana@example.com", "-c", "init.defaultBranch=main"]);
        command.args(args).current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        for variable in LOCAL_VARIABLES {
            command.env_remove(variable);
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    pub fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn names(mut paths: Vec<PathBuf>) -> Vec<String> {
        paths.sort();
        paths.into_iter().map(|p| p.display().to_string()).collect()
    }

    #[test]
    fn tells_root_commit_and_changes() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().canonicalize().unwrap();
        assert_eq!(root(&repo).unwrap(), None);
        git(&repo, &["init", "--quiet"]);
        write(&repo.join("apps/web/a.js"), "1");
        assert_eq!(root(&repo.join("apps/web")).unwrap().as_deref(), Some(repo.as_path()));
        assert_eq!(head(&repo).unwrap(), None);
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "--quiet", "-m", "Fix \u{1b}[31mcart rounding\n\nBody."]);
        let commit = head(&repo).unwrap().unwrap();
        assert_eq!(commit.subject, "Fix cart rounding");
        assert!(commit.id.len() >= 7 && commit.id.bytes().all(|b| b.is_ascii_hexdigit()), "{}", commit.id);
        assert!(changes(&repo).unwrap().is_empty());
        write(&repo.join("apps/web/a.js"), "2");
        write(&repo.join("new file"), "");
        assert_eq!(names(changes(&repo).unwrap()), ["apps/web/a.js", "new file"]);
    }

    #[test]
    fn lists_what_is_not_ignored_and_looks_into_repositories_inside() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path();
        git(repo, &["init", "--quiet"]);
        write(&repo.join(".gitignore"), "dist/\n*.log\n");
        write(&repo.join("dist/x.js"), "");
        write(&repo.join("a.log"), "");
        write(&repo.join("b\n.js"), "");
        fs::create_dir(repo.join("inner")).unwrap();
        git(&repo.join("inner"), &["init", "--quiet"]);
        write(&repo.join("inner/c.js"), "");
        assert_eq!(names(files(repo).unwrap()), [".gitignore", "b\n.js", "inner/c.js"]);
    }

    #[test]
    fn a_folder_without_a_repository_still_has_its_ignore_rules() {
        let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&dir.path().join(".gitignore"), "dist/\n");
        write(&dir.path().join("dist/x.js"), "");
        write(&dir.path().join("src/y.js"), "");
        let found = files_outside(dir.path(), scratch.path()).unwrap().unwrap();
        assert_eq!(names(found), [".gitignore", "src/y.js"]);
        assert!(!dir.path().join(".git").exists());
    }
}
