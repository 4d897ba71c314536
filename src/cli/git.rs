//! The system's `git`, asked with fixed arguments: where the repository is, what was committed, what changed, which
//! files are not ignored. A look at a repository takes four runs of it, however many files there are.
//!
//! It runs nothing that a repository configures: hooks, file system monitors, pagers and signature checks are off, and
//! nothing is fetched. Only a filter for the content of files (as LFS has) is left, because without it git could not
//! tell what has changed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use super::child::plain;
use crate::error::{Context, Error, Kind, Result};

/// Set by git for its hooks; they would make our git look at another repository than the one we are in.
const LOCAL_VARIABLES: [&str; 15] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG_PARAMETERS",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_EXTERNAL_DIFF",
    "GIT_LITERAL_PATHSPECS",
];
/// Repositories inside repositories are followed this deep; beyond it somebody plays with links.
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

/// Where a folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the repository with this root.
    In(PathBuf),
    InNone,
    /// There is no git on this machine to ask.
    NoGit,
}

/// What git says of a repository.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The commit that is checked out; `None` before the first one.
    pub commit: Option<Commit>,
    /// Paths that differ from the commit or are in none, without those that are ignored.
    pub changes: Vec<PathBuf>,
    pub files: Files,
}

/// The files of a tree that are not ignored, relative to its root, those of repositories inside included. Some may be
/// gone from the disk.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub paths: Vec<PathBuf>,
    /// Those that git takes for unchanged whatever they hold, and though they may not be there: it was told so
    /// (`update-index --assume-unchanged`), they are outside of a sparse checkout, or a submodule was not fetched.
    pub unwatched: Vec<PathBuf>,
    /// Folders that could not be looked into, and why; what is in them is not in `paths`.
    pub closed: Vec<(PathBuf, String)>,
}

/// # Errors
/// Config when git is there and will not look into the repository.
pub(crate) fn place(dir: &Path) -> Result<Place> {
    let Some(out) = run(dir, &["rev-parse", "--show-toplevel"])? else { return Ok(Place::NoGit) };
    match out.status.success() {
        true => Ok(Place::In(bytes_to_path(out.stdout.strip_suffix(b"\n").unwrap_or(&out.stdout)))),
        false if String::from_utf8_lossy(&out.stderr).contains("not a git repository") => Ok(Place::InNone),
        false => Err(failed("find the git repository", &out)),
    }
}

/// Asks for the changes and lists the files at the same time: both walk the whole tree.
pub(crate) fn look(root: &Path) -> Result<Seen> {
    let (said, files) = thread::scope(|scope| {
        let said = scope.spawn(|| -> Result<_> {
            let (head, changes) = status(root)?;
            let commit = head.map(|head| commit(root, &head)).transpose()?;
            Ok((commit, changes))
        });
        let mut files = Files::default();
        let listed = list(root, Path::new(""), &[], 0, &mut files).map(|()| files);
        (said.join().expect("it reads bytes and does not panic"), listed)
    });
    let (commit, changes) = said?;
    Ok(Seen { commit, changes, files: files? })
}

/// The files of a folder that is in no repository, without those that its `.gitignore` files name. `scratch` is an
/// empty folder for git's own files.
pub(crate) fn files_outside(dir: &Path, scratch: &Path) -> Result<Files> {
    checked(scratch, &["init", "--quiet", "--template="])?;
    let option = |name: &str, path: &Path| {
        let mut option = OsString::from(name);
        option.push(path);
        option
    };
    let options = [option("--git-dir=", &scratch.join(".git")), option("--work-tree=", dir)];
    let mut files = Files::default();
    list(dir, Path::new(""), &options, 0, &mut files)?;
    Ok(files)
}

/// The full name of the commit, and what differs from it.
fn status(root: &Path) -> Result<(Option<String>, Vec<PathBuf>)> {
    let args = ["status", "--porcelain=v2", "--branch", "--no-ahead-behind", "-z", "--untracked-files=all"];
    let out = checked(root, &[&args[..], &["--no-renames", "--ignore-submodules=none"]].concat())?;
    let (mut head, mut changes) = (None, Vec::new());
    for line in out.split(|b| *b == 0) {
        // How many words stand before the path depends on what is said of it; the path may have blanks itself.
        let words = match line.first() {
            Some(b'1') => 8,
            Some(b'u') => 10,
            Some(b'?') => 1,
            Some(b'#') => {
                let id = line.strip_prefix(b"# branch.oid ").filter(|id| *id != b"(initial)");
                head = head.or(id.map(|id| String::from_utf8_lossy(id).into_owned()));
                continue;
            }
            _ => continue,
        };
        changes.extend(line.splitn(words + 1, |b| *b == b' ').nth(words).map(bytes_to_path));
    }
    Ok((head, changes))
}

fn commit(root: &Path, id: &str) -> Result<Commit> {
    let args = ["log", "-1", "--no-show-signature", "--encoding=UTF-8", "--abbrev=7", "--format=%h%n%s", id];
    let out = checked(root, &args)?;
    let mut lines = out.split(|b| *b == b'\n').map(plain);
    let id = lines.next().unwrap_or_default();
    Ok(Commit { id, subject: lines.next().unwrap_or_default().chars().take(MAX_SUBJECT).collect() })
}

fn list(root: &Path, below: &Path, options: &[OsString], depth: u32, files: &mut Files) -> Result<()> {
    let dir = root.join(below);
    let what = ["ls-files", "-v", "--stage", "--cached", "--others", "--exclude-standard", "-z"].map(OsString::from);
    let out = succeeded(&dir, &[options, &what[..]].concat())?;
    files.closed.extend(closed(&out.stderr).map(|(folder, why)| (below.join(folder), why)));
    for line in out.stdout.split(|b| *b == 0) {
        // A letter, a blank, the path; of what is in the index mode, hash and stage stand before it, and a tab.
        let (Some(tag), Some(rest)) = (line.first(), line.get(2..)) else { continue };
        let (is_repository, path) = match (tag, rest.iter().position(|b| *b == b'\t')) {
            (b'?', _) | (_, None) => (rest.ends_with(b"/"), rest),
            (_, Some(tab)) => (rest.starts_with(b"160000 "), &rest[tab + 1..]),
        };
        let path = below.join(bytes_to_path(path));
        if !is_repository {
            if tag.is_ascii_lowercase() || *tag == b'S' {
                files.unwatched.push(path.clone());
            }
            files.paths.push(path);
        } else if !root.join(&path).join(".git").exists() {
            // A submodule that was not fetched: nothing is there, and git has nothing to say about that.
            files.unwatched.push(path);
        } else if depth == MAX_NESTING {
            let message = format!("{} is a repository in too many others", root.join(&path).display());
            return Err(Error::new(Kind::Config, message));
        } else {
            list(root, &path, &[], depth + 1, files)?;
        }
    }
    Ok(())
}

/// The folders that git could not look into, and why: it warns, and goes on as if nothing were in them. Names in a
/// warning have no control characters.
fn closed(stderr: &[u8]) -> impl Iterator<Item = (String, String)> {
    stderr.split(|b| *b == b'\n').map(plain).filter_map(|line| {
        let folder = line.strip_prefix("warning: could not open directory '")?;
        // A name so long that git cuts its words short is why it was not opened.
        let (folder, why) = folder.rsplit_once("': ").unwrap_or((folder, "file name too long"));
        Some((folder.trim_end_matches('/').to_string(), why.to_lowercase()))
    })
}

/// The files that a merge, a rebase or the like has left in conflict, relative to `root`, each once.
pub(crate) fn unmerged(root: &Path) -> Result<Vec<PathBuf>> {
    let out = checked(root, &["ls-files", "--unmerged", "-z"])?;
    // Mode, hash and stage stand before the path, and a tab; a file has a line for each side.
    let paths = out.split(|b| *b == 0).filter_map(|line| Some(&line[line.iter().position(|b| *b == b'\t')? + 1..]));
    let mut paths: Vec<PathBuf> = paths.map(bytes_to_path).collect();
    paths.dedup();
    Ok(paths)
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

fn checked(dir: &Path, args: &[impl AsRef<OsStr>]) -> Result<Vec<u8>> {
    succeeded(dir, args).map(|out| out.stdout)
}

fn succeeded(dir: &Path, args: &[impl AsRef<OsStr>]) -> Result<Output> {
    let out = run(dir, args)?.ok_or_else(|| Error::new(Kind::NotFound, "git is gone from PATH"))?;
    let verb = || args.iter().map(|arg| arg.as_ref().to_string_lossy()).find(|arg| !arg.starts_with('-'));
    match out.status.success() {
        true => Ok(out),
        false => Err(failed(&format!("run git {}", verb().unwrap_or_default()), &out)),
    }
}

/// `None` when there is no git.
fn run(dir: &Path, args: &[impl AsRef<OsStr>]) -> Result<Option<Output>> {
    let mut command = Command::new("git");
    command.args(["--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]).args(args);
    command.current_dir(dir).stdin(Stdio::null());
    command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_NO_LAZY_FETCH", "1");
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
    let why = why.strip_prefix("fatal: ").unwrap_or(why);
    let error = Error::new(Kind::Config, format!("{doing}: {why}"));
    if why.contains("dubious ownership") {
        // The last line is the command that git itself advises.
        let advice = lines.iter().rev().find_map(|l| l.trim().strip_prefix("git config").map(str::to_string));
        let advice = advice.unwrap_or_else(|| " --global --add safe.directory FOLDER".into());
        return error.hint(format!("it belongs to another user; if you trust what is in it, run `git config{advice}`"));
    }
    if why.contains("must be run in a work tree") {
        return error.hint("run tako in a checkout: here are only git's own files");
    }
    error.with_detail(lines)
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
pub(super) mod tests;
