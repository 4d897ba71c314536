//! Where programs lie that are here already: those cached under the data directory, those of `mise`, those on PATH.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::super::install::{self, Run};
use super::super::layout::Layout;
use crate::error::{Error, Kind, Result};
use crate::proto::manifest::Runtime;

/// A tool that is asked where something is or which version it has answers within this.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Programs whose version is remembered: many times those of any machine, and each can be asked again.
const MAX_ANSWERS: usize = 256;

/// The runtime's program of that version, or of any when none is asked for: the cached one, else what `mise` has, else
/// a matching one on PATH.
pub(crate) fn find(layout: &Layout, runtime: Runtime, version: Option<&str>) -> Option<PathBuf> {
    let tool = runtime.as_str();
    let on_path = || on_path(tool, &search_path()).filter(|p| version.is_none_or(|v| is_of(layout, p, v)));
    cached(layout, tool, version)
        .or_else(|| ask_mise(layout, tool, version))
        .or_else(on_path)
        // What apps cannot reach was copied for them.
        .map(|program| match version {
            None => version_of(layout, &program).and_then(|v| cached(layout, tool, Some(&v))).unwrap_or(program),
            Some(_) => program,
        })
}

/// One on PATH that may do when the wanted one cannot be had: of the same major version.
pub(super) fn close(layout: &Layout, runtime: Runtime, version: &str) -> Option<PathBuf> {
    let major = version.split('.').next().unwrap_or(version);
    on_path(runtime.as_str(), &search_path()).filter(|program| is_of(layout, program, major))
}

fn cached(layout: &Layout, tool: &str, version: Option<&str>) -> Option<PathBuf> {
    Some(program_in(&layout.runtime(tool, version?), tool)).filter(|program| is_program(program))
}

/// Where a tool's program lies in its folder.
pub(super) fn program_in(dir: &Path, tool: &str) -> PathBuf {
    dir.join("bin").join(tool)
}

fn is_of(layout: &Layout, program: &Path, wanted: &str) -> bool {
    version_of(layout, program).is_some_and(|found| matches(wanted, &found))
}

/// `22` is met by any 22, `22.1` by any 22.1, and a whole version by itself.
fn matches(wanted: &str, found: &str) -> bool {
    found.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The version that a program says it has, such as `22.1.0`; `None` when it does not say. Kept for as long as the file
/// is the same one.
pub(crate) fn version_of(layout: &Layout, program: &Path) -> Option<String> {
    type Asked = (PathBuf, u64, i64);
    static ANSWERS: LazyLock<Mutex<HashMap<Asked, String>>> = LazyLock::new(Mutex::default);
    let answers = || ANSWERS.lock().unwrap_or_else(|e| e.into_inner());
    let meta = fs::metadata(program).ok()?;
    let asked = (program.to_owned(), meta.ino(), meta.ctime_nsec() ^ meta.ctime());
    if let Some(version) = answers().get(&asked) {
        return Some(version.clone());
    }
    let version = said_version(&ask(layout, &[program.as_os_str(), OsStr::new("--version")])?)?;
    let mut answers = answers();
    if answers.len() >= MAX_ANSWERS {
        answers.clear();
    }
    answers.insert(asked, version.clone());
    Some(version)
}

/// The first word of an answer that looks like a version: `v22.1.0`, `1.3.0`, `deno 2.1.0 (stable, …)`.
pub(super) fn said_version(said: &str) -> Option<String> {
    let words = said.split_whitespace().map(|w| w.trim_start_matches('v'));
    words.filter(|w| w.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned).next()
}

/// Looks a tool up beside the runtime, then on the daemon's PATH.
pub(crate) fn find_tool(tool: &str, beside: &[PathBuf]) -> Result<PathBuf> {
    let path = join_path(beside.iter().cloned());
    on_path(tool, &path).or_else(|| on_path(tool, &search_path())).ok_or_else(|| not_found(tool, None))
}

/// The daemon's PATH with `first` in front.
pub(crate) fn path_with(first: &[PathBuf]) -> OsString {
    join_path(first.iter().cloned().chain(env::split_paths(&search_path())))
}

/// Kept for as long as the answer is true: an instance that is woken must not wait for another program.
fn ask_mise(layout: &Layout, tool: &str, version: Option<&str>) -> Option<PathBuf> {
    static ANSWERS: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    let answers = || ANSWERS.lock().unwrap_or_else(|e| e.into_inner());
    let mise = on_path("mise", &search_path())?;
    let which = format!("{tool}@{}", version.unwrap_or("latest"));
    if let Some(program) = answers().get(&which).filter(|p| is_program(p)) {
        return Some(program.clone());
    }
    let argv = match version {
        Some(_) => vec![mise.as_os_str(), "which".as_ref(), "--tool".as_ref(), which.as_ref(), tool.as_ref()],
        None => vec![mise.as_os_str(), "which".as_ref(), tool.as_ref()],
    };
    let said = ask(layout, &argv)?;
    let program = PathBuf::from(said.lines().last()?.trim());
    if !program.is_absolute() || !is_program(&program) {
        return None;
    }
    answers().insert(which, program.clone());
    Some(program)
}

/// What a tool answers; `None` when it fails or takes too long.
fn ask(layout: &Layout, argv: &[&OsStr]) -> Option<String> {
    let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let env = install::environment(search_path(), &home(layout), &env::temp_dir());
    let run =
        Run { argv: &argv, dir: layout.data().into(), env, limit: ANSWER_TIME, user: None, low: false, kept: None };
    let ended = run.finish(&|| false).ok()?;
    ended.status.success().then(|| ended.lines.join("\n"))
}

/// Where our own tools keep their settings: the home of the daemon's user, else a folder of ours.
pub(crate) fn home(layout: &Layout) -> PathBuf {
    env::home_dir().filter(|h| h.is_absolute() && h.is_dir()).unwrap_or_else(|| layout.cache())
}

fn on_path(tool: &str, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(tool)).find(|p| is_program(p))
}

fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
}

/// A folder whose name holds a colon cannot be on PATH.
fn join_path(dirs: impl Iterator<Item = PathBuf>) -> OsString {
    let usable = dirs.filter(|d| !d.as_os_str().as_encoded_bytes().contains(&b':'));
    env::join_paths(usable).expect("no folder has a colon in its name")
}

pub(super) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

pub(super) fn not_found(tool: &str, version: Option<&str>) -> Error {
    let wanted = version.map(|v| format!(" {v}")).unwrap_or_default();
    let spec = version.map(|v| format!("{tool}@{v}")).unwrap_or_else(|| tool.to_owned());
    Error::new(Kind::NotFound, format!("{tool}{wanted} is not installed on this server"))
        .hint(format!("run `mise install {spec}` as the user of tako-server, or put `{tool}` on its PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing_and_how_to_get_it() {
        let e = find_tool("no-such-tool", &[]).unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (Kind::NotFound, "no-such-tool is not installed on this server")
        );
        assert!(e.next_step().unwrap().contains("mise install no-such-tool"));
    }

    #[test]
    fn a_version_may_be_asked_for_in_part() {
        let check = |wanted, found, expected| assert_eq!(matches(wanted, found), expected, "{wanted} {found}");
        check("22.1.0", "22.1.0", true);
        check("22.1", "22.1.0", true);
        check("22", "22.1.0", true);
        check("2", "22.1.0", false);
        check("22.1.0", "22.1.1", false);
        check("22.1.0", "22.1", false);
        check("1.3.0", "1.3.0-canary.1", false);
    }

    #[test]
    fn reads_the_version_out_of_what_a_program_says() {
        let check = |said, expected: Option<&str>| assert_eq!(said_version(said).as_deref(), expected, "{said}");
        check("v22.1.0", Some("22.1.0"));
        check("1.3.0", Some("1.3.0"));
        check("deno 2.1.0 (stable, release, x86_64-unknown-linux-gnu)\nv8 13.0", Some("2.1.0"));
        check("hello", None);
    }
}
