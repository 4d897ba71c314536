//! Runtimes: where the program lies that runs an app, how it comes onto this machine, and with which arguments it is
//! started.
//!
//! `find` looks at what is here; `source` knows where the rest is published, `fetch` brings it; `reach` makes what is
//! ours alone startable by apps. A release is prepared by [`Runtimes::provide`], which may take minutes; it is started
//! by [`launch`], which only looks.
//!
//! **Invariant**: what a release was prepared with is what it is started with, also after a restart of the server.

mod fetch;
mod find;
mod reach;
mod source;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use super::layout::Layout;
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::net::{self, Patience};
use crate::proto::manifest::{Manifest, Runtime};
use crate::proto::target::Target;
use crate::sys::User;
use fetch::Wanted;
pub(crate) use find::{find_tool, home, path_with, version_of};
pub(crate) use reach::may_start;
use source::Machine;

/// The JavaScript entry points, as they lie beside each other.
const SDK: [(&str, &str); 4] = [
    ("core.mjs", include_str!("../../../sdk/javascript/src/core.mjs")),
    ("node.mjs", include_str!("../../../sdk/javascript/src/node.mjs")),
    ("bun.mjs", include_str!("../../../sdk/javascript/src/bun.mjs")),
    ("deno.mjs", include_str!("../../../sdk/javascript/src/deno.mjs")),
];

/// How soon somebody who waits for another's download sees that its own client has gone.
const WATCH: Duration = Duration::from_millis(100);

/// Where runtimes come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mirror {
    /// Has a folder for each tool, with the layout of the tool's own releases below it.
    pub url: String,
    /// It is on this machine, so that nobody can change what comes over plain HTTP.
    pub plain: bool,
}

/// What brings runtimes onto this machine, for all apps together.
pub(crate) struct Runtimes {
    layout: Arc<Layout>,
    machine: Machine,
    mirror: Option<Mirror>,
    patience: Patience,
    /// What is being fetched. Two deploys at once want the same one, and one of them waits.
    busy: Mutex<BTreeSet<String>>,
    ended: Condvar,
}

/// How a release is started.
pub(crate) struct Launch {
    /// The program's full path and its arguments.
    pub argv: Vec<OsString>,
    /// Put in front of PATH: where the runtime lies, `node_modules/.bin`.
    pub path: Vec<PathBuf>,
}

impl Runtimes {
    pub fn new(layout: Arc<Layout>, target: Target, mirror: Option<Mirror>) -> Runtimes {
        fetch::tidy(&layout);
        let machine = Machine { target, avx2: has_avx2() };
        let patience = fetch::PATIENCE;
        Runtimes { layout, machine, mirror, patience, busy: Mutex::default(), ended: Condvar::new() }
    }

    /// The program that runs the release, which `user` can start: one that is here, else one that is fetched now. `said`
    /// hears how far it is; when `gone` is set nobody needs it any more.
    ///
    /// # Errors
    /// NotFound, Unreachable, Refused and more, each naming the runtime and what can be done.
    pub fn provide(
        &self,
        manifest: &Manifest,
        user: Option<User>,
        said: &mut dyn FnMut(String),
        gone: &AtomicBool,
    ) -> Result<Option<PathBuf>> {
        let runtime = manifest.runtime;
        if runtime == Runtime::Binary {
            return Ok(None);
        }
        let version = wanted(manifest);
        let program = match (find::find(&self.layout, runtime, version), version) {
            (Some(program), _) => program,
            (None, Some(version)) => self.fetch(runtime, version, said, gone)?,
            (None, None) => {
                let e = find::not_found(runtime.as_str(), None);
                let hint = e.next_step().unwrap_or_default().to_owned();
                return Err(
                    e.hint(format!("{hint}; or set `runtime_version` in tako.toml, so that it can be downloaded"))
                );
            }
        };
        reach::reachable(&self.layout, runtime, program, user).map(Some)
    }

    fn fetch(
        &self,
        runtime: Runtime,
        version: &str,
        said: &mut dyn FnMut(String),
        gone: &AtomicBool,
    ) -> Result<PathBuf> {
        let name = format!("{} {version}", runtime.as_str());
        let _turn = self.turn(&name, said, gone)?;
        // Whoever had the turn before has brought it.
        if let Some(program) = find::find(&self.layout, runtime, Some(version)) {
            return Ok(program);
        }
        let mirror = self.mirror.as_ref();
        let fetched =
            source::source(runtime, version, self.machine, mirror.map(|m| m.url.as_str())).and_then(|source| {
                let plain = mirror.is_some_and(|m| m.plain);
                let layout = &self.layout;
                Wanted { layout, runtime, version, source, patience: &self.patience, plain }.fetch(said, gone)
            });
        let e = match fetched {
            Ok(program) => return Ok(program),
            Err(e) => e,
        };
        // A server without a way out still runs what it has, if that is close.
        if matches!(e.kind(), Kind::Unreachable | Kind::Timeout)
            && let Some(program) = find::close(&self.layout, runtime, version)
        {
            log::warn!("{e}; {} is taken instead", program.display());
            let found = version_of(&self.layout, &program).unwrap_or_default();
            said(format!("use {} {found} of this server, {version} could not be downloaded", runtime.as_str()));
            return Ok(program);
        }
        match e.kind() {
            Kind::Unreachable | Kind::Timeout => Err(e.hint(format!(
                "give this server a way to it (HTTPS_PROXY, `--runtime-mirror`), or put {name} on the PATH of tako-server"
            ))),
            _ => Err(e),
        }
    }

    fn turn(&self, name: &str, said: &mut dyn FnMut(String), gone: &AtomicBool) -> Result<Turn<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.contains(name) {
            said(format!("wait for {name}, which another deploy downloads"));
        }
        while busy.contains(name) {
            if gone.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, format!("nobody waits for {name} any more")));
            }
            busy = self.ended.wait_timeout(busy, WATCH).unwrap_or_else(PoisonError::into_inner).0;
        }
        busy.insert(name.into());
        Ok(Turn { runtimes: self, name: name.into() })
    }
}

/// The right to fetch one tool; it ends with its value.
struct Turn<'a> {
    runtimes: &'a Runtimes,
    name: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.runtimes.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.runtimes.ended.notify_all();
    }
}

impl Mirror {
    /// `None` when it is neither `https` nor on this machine.
    pub fn parse(url: &str) -> Option<Mirror> {
        net::is_plain(url).map(|plain| Mirror { url: url.into(), plain })
    }
}

/// The version that the build had; `latest` is any.
pub(crate) fn wanted(manifest: &Manifest) -> Option<&str> {
    manifest.runtime_version.as_deref().filter(|v| *v != "latest")
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The argument list of a release; a JS app without a `start` of its own runs under the SDK's entry point.
pub(crate) fn launch(layout: &Layout, manifest: &Manifest) -> Result<Launch> {
    let dir = layout.app_dir(manifest);
    let runtime = match manifest.runtime {
        Runtime::Binary => None,
        runtime => Some(here(layout, runtime, wanted(manifest))?),
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

/// What [`Runtimes::provide`] found or brought.
fn here(layout: &Layout, runtime: Runtime, version: Option<&str>) -> Result<PathBuf> {
    find::find(layout, runtime, version)
        .or_else(|| find::close(layout, runtime, version?))
        .ok_or_else(|| find::not_found(runtime.as_str(), version))
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

fn under_sdk(layout: &Layout, manifest: &Manifest, program: &Path) -> Vec<OsString> {
    let entry = sdk_dir(layout).join(format!("{}.mjs", manifest.runtime.as_str()));
    let mut argv = vec![program.into()];
    if manifest.runtime == Runtime::Deno {
        // An app runs with its user's rights like any other; and nobody is there to be asked.
        argv.extend(["run", "--allow-all", "--no-prompt"].map(OsString::from));
        argv.extend(deno_project(layout, manifest));
    }
    argv.extend([entry.into(), OsString::from(&manifest.main)]);
    argv
}

/// Deno looks for a project around the entry point, which is ours and lies elsewhere; so it is told where the app's is.
fn deno_project(layout: &Layout, manifest: &Manifest) -> Vec<OsString> {
    let (dir, root) = (layout.app_dir(manifest), layout.release(&manifest.app, &manifest.version));
    let up = || dir.ancestors().take_while(|d| d.starts_with(&root));
    let mut flags = Vec::new();
    if let Some(config) = up().flat_map(|d| ["deno.json", "deno.jsonc"].map(|name| d.join(name))).find(|p| p.is_file())
    {
        // It would write one, into a release that nobody may write.
        if !config.with_file_name("deno.lock").exists() {
            flags.push("--no-lock".into());
        }
        flags.extend(["--config".into(), config.into()]);
    }
    if up().any(|d| d.join("node_modules").is_dir()) {
        flags.push("--node-modules-dir=manual".into());
    }
    flags
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
        (false, _) if find::is_program(&dir.join(&program)) && program == manifest.main => dir.join(program),
        (false, _) => find_tool(&program, path)?,
    };
    Ok([program.into()].into_iter().chain(words.map(OsString::from)).collect())
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
mod tests;
