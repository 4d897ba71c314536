//! Runtimes: where the program lies that runs an app, and with which arguments.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::install::{self, Run};
use super::layout::Layout;
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::proto::manifest::{Manifest, Runtime};

/// The JavaScript entry points, as they lie beside each other.
const SDK: [(&str, &str); 4] = [
    ("core.mjs", include_str!("../../sdk/javascript/src/core.mjs")),
    ("node.mjs", include_str!("../../sdk/javascript/src/node.mjs")),
    ("bun.mjs", include_str!("../../sdk/javascript/src/bun.mjs")),
    ("deno.mjs", include_str!("../../sdk/javascript/src/deno.mjs")),
];

/// A tool that is asked where something is or which version it has answers within this.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How a release is started.
pub(crate) struct Launch {
    /// The program's full path and its arguments.
    pub argv: Vec<OsString>,
    /// Put in front of PATH: where the runtime lies, `node_modules/.bin`.
    pub path: Vec<PathBuf>,
}

/// The runtime's program: what is cached under the data directory, else what `mise` has, else what is on PATH.
///
/// # Errors
/// NotFound, naming the runtime and how to install it.
pub(crate) fn find(layout: &Layout, runtime: Runtime, version: Option<&str>) -> Result<PathBuf> {
    let tool = runtime.as_str();
    let version = version.filter(|v| *v != "latest");
    let cached = version.map(|v| layout.runtimes().join(tool).join(v).join("bin").join(tool));
    cached
        .filter(|program| is_program(program))
        .or_else(|| ask_mise(layout, tool, version))
        .or_else(|| on_path(tool, &search_path()))
        .ok_or_else(|| not_found(tool, version))
}

/// The argument list of a release; a JS app without a `start` of its own runs under the SDK's entry point.
pub(crate) fn launch(layout: &Layout, manifest: &Manifest) -> Result<Launch> {
    let dir = layout.app_dir(manifest);
    let runtime = match manifest.runtime {
        Runtime::Binary => None,
        _ => Some(find(layout, manifest.runtime, manifest.runtime_version.as_deref())?),
    };
    let bin = dir.join("node_modules/.bin");
    let mut path: Vec<PathBuf> = runtime.iter().filter_map(|r| r.parent()).map(Path::to_owned).collect();
    path.push(bin);
    let argv = match (&manifest.start, &runtime) {
        (Some(start), _) => started_by(start, manifest, &dir, &path, runtime.as_deref())?,
        (None, None) => vec![dir.join(&manifest.main).into()],
        (None, Some(program)) => under_sdk(layout, manifest, program),
    };
    Ok(Launch { argv, path })
}

/// Writes the embedded SDK under the data directory, once per content.
pub(crate) fn lay_out_sdk(layout: &Layout) -> Result<()> {
    let dir = sdk_dir(layout);
    disk::make_dirs(&dir, 0o755)?;
    for (name, text) in SDK {
        let file = dir.join(name);
        // The folder is named after its content, but a crash may have cut a first run short.
        if fs::read(&file).is_ok_and(|there| there == text.as_bytes()) {
            continue;
        }
        disk::write_atomic(&file, text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The version that a program says it has, such as `22.1.0`; `None` when it does not say.
pub(crate) fn version_of(layout: &Layout, program: &Path) -> Option<String> {
    let said = ask(layout, &[program.as_os_str(), OsStr::new("--version")])?;
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

fn under_sdk(layout: &Layout, manifest: &Manifest, program: &Path) -> Vec<OsString> {
    let entry = sdk_dir(layout).join(format!("{}.mjs", manifest.runtime.as_str()));
    let mut argv = vec![program.into()];
    if manifest.runtime == Runtime::Deno {
        // An app runs with its user's rights like any other; and nobody is there to be asked.
        argv.extend(["run", "--allow-all", "--no-prompt"].map(OsString::from));
    }
    argv.extend([entry.into(), OsString::from(&manifest.main)]);
    argv
}

/// A command of the app's own: `{main}` is filled in, and the program becomes a full path.
fn started_by(
    start: &[String],
    manifest: &Manifest,
    dir: &Path,
    path: &[PathBuf],
    runtime: Option<&Path>,
) -> Result<Vec<OsString>> {
    let mut words = start.iter().map(|word| word.replace("{main}", &manifest.main));
    let Some(program) = words.next() else {
        return Err(Error::new(Kind::Refused, format!("`start` of {} is empty", manifest.app)));
    };
    let program = match (program.contains('/'), runtime) {
        (true, _) => dir.join(program),
        (false, Some(runtime)) if program == manifest.runtime.as_str() => runtime.into(),
        (false, _) if is_program(&dir.join(&program)) && program == manifest.main => dir.join(program),
        (false, _) => find_tool(&program, path)?,
    };
    Ok([program.into()].into_iter().chain(words.map(OsString::from)).collect())
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
    let env = install::environment(search_path(), &home(layout));
    let run = Run { argv: &argv, dir: layout.data().into(), env, limit: ANSWER_TIME, user: None };
    let ended = run.finish(&|| false).ok()?;
    ended.status.success().then(|| ended.lines.join("\n"))
}

/// Where tools keep their caches and settings: the home of the daemon's user, else a folder of ours.
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

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn not_found(tool: &str, version: Option<&str>) -> Error {
    let wanted = version.map(|v| format!(" {v}")).unwrap_or_default();
    let spec = version.map(|v| format!("{tool}@{v}")).unwrap_or_else(|| tool.to_owned());
    Error::new(Kind::NotFound, format!("{tool}{wanted} is not installed on this server"))
        .hint(format!("run `mise install {spec}` as the user of tako-server, or put `{tool}` on its PATH"))
}

fn sdk_dir(layout: &Layout) -> PathBuf {
    static HASH: LazyLock<String> = LazyLock::new(|| {
        let mut hash = Sha256::new();
        for (name, text) in SDK {
            hash.update(format!("{name} {}\n{text}", text.len()).as_bytes());
        }
        hash.finish()[..16].to_owned()
    });
    layout.sdk().join(&*HASH)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        _dir: tempfile::TempDir,
        layout: Layout,
    }

    /// A data directory that has its own programs, so that those of this machine do not matter.
    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        for tool in ["node", "bun", "deno"] {
            program(&layout.runtimes().join(tool).join("1.2.3/bin").join(tool));
        }
        World { _dir: dir, layout }
    }

    fn program(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\necho v1.2.3\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn manifest(runtime: &str) -> Manifest {
        let version = if runtime == "binary" { "" } else { r#""runtime_version":"1.2.3","# };
        serde_json::from_str(&format!(
            r#"{{"app":"shop","version":"v1","runtime":"{runtime}",{version}"dir":"web","main":"src/index.js"}}"#
        ))
        .unwrap()
    }

    /// The arguments with the world's folder as `~` and the SDK's as `SDK`.
    fn argv(w: &World, manifest: &Manifest) -> String {
        let launch = launch(&w.layout, manifest).unwrap();
        let words: Vec<String> = launch.argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        let sdk = sdk_dir(&w.layout).display().to_string();
        words.join(" ").replace(&sdk, "SDK").replace(&w.layout.data().display().to_string(), "~")
    }

    #[test]
    fn a_javascript_app_runs_under_the_entry_point_of_its_runtime() {
        let w = world();
        let check = |runtime: &str, expected: &str| assert_eq!(argv(&w, &manifest(runtime)), expected);
        check("node", "~/runtimes/node/1.2.3/bin/node SDK/node.mjs src/index.js");
        check("bun", "~/runtimes/bun/1.2.3/bin/bun SDK/bun.mjs src/index.js");
        check("deno", "~/runtimes/deno/1.2.3/bin/deno run --allow-all --no-prompt SDK/deno.mjs src/index.js");
    }

    #[test]
    fn a_binary_is_started_where_it_lies() {
        let w = world();
        assert_eq!(argv(&w, &manifest("binary")), "~/apps/shop/releases/v1/web/src/index.js");
    }

    #[test]
    fn a_start_of_its_own_gets_main_and_a_full_path() {
        let w = world();
        let check = |runtime: &str, start: &[&str], expected: &str| {
            let start = Some(start.iter().map(|s| s.to_string()).collect());
            assert_eq!(argv(&w, &Manifest { start, ..manifest(runtime) }), expected);
        };
        check("node", &["node", "--x", "{main}"], "~/runtimes/node/1.2.3/bin/node --x src/index.js");
        check("binary", &["./bin/run", "--main={main}"], "~/apps/shop/releases/v1/web/./bin/run --main=src/index.js");
        check("binary", &["/bin/sh", "run.sh"], "/bin/sh run.sh");
        program(&w.layout.data().join("apps/shop/releases/v1/web/node_modules/.bin/next"));
        check("node", &["next", "start"], "~/apps/shop/releases/v1/web/node_modules/.bin/next start");
    }

    #[test]
    fn puts_the_runtime_and_the_projects_programs_on_path() {
        let w = world();
        let path = launch(&w.layout, &manifest("bun")).unwrap().path;
        assert!(path[0].ends_with("runtimes/bun/1.2.3/bin") && path[1].ends_with("web/node_modules/.bin"));
    }

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
    fn reads_the_version_that_a_program_says() {
        let w = world();
        let node = find(&w.layout, Runtime::Node, Some("1.2.3")).unwrap();
        assert_eq!(version_of(&w.layout, &node).as_deref(), Some("1.2.3"));
        assert_eq!(version_of(&w.layout, Path::new("/nowhere/node")), None);
    }

    #[test]
    fn lays_the_sdk_out_once_and_repairs_it() {
        let w = world();
        lay_out_sdk(&w.layout).unwrap();
        let core = sdk_dir(&w.layout).join("core.mjs");
        let before = fs::metadata(&core).unwrap().modified().unwrap();
        lay_out_sdk(&w.layout).unwrap();
        assert_eq!(fs::metadata(&core).unwrap().modified().unwrap(), before);
        fs::write(&core, "cut sho").unwrap();
        lay_out_sdk(&w.layout).unwrap();
        assert_eq!(fs::read_to_string(&core).unwrap(), SDK[0].1);
    }
}
