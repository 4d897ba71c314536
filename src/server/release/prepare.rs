//! Prepare: from a release that is laid out to one that can start: its runtime is here, its dependencies installed.
//!
//! An installer runs code of strangers, so it runs as the app's user, at low priority, with the app's own HOME and
//! caches, for a bounded time; the release is lent to that user meanwhile. All that it said is kept in a file, and its
//! last lines go to whoever deployed. Where it would do what it did for an earlier release, that is taken over (`packages`).
//!
//! **Invariant**: the marker says that all of it went well and is on disk; a new release for which it did not is gone.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::install::{self, Run};
use super::super::layout::Layout;
use super::super::runtime::{self, Runtimes};
use super::super::{crash, owner};
use super::packages::Packages;
use super::{describe, give_up, is_complete};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::{Manifest, Runtime};
use crate::proto::packages::{self, Folder};
use crate::sys::User;

/// An installation of dependencies that takes longer hangs.
const INSTALL_TIME: Duration = Duration::from_secs(600);

/// More of a `package.json` or of the head of a lock file is not looked at.
const MAX_READ: u64 = 1 << 20;

/// A release that is to be made ready.
pub(crate) struct Preparing<'a> {
    pub layout: &'a Layout,
    pub runtimes: &'a Runtimes,
    pub manifest: &'a Manifest,
    /// Whom the app runs as.
    pub user: Option<User>,
    /// Whether its packages are installed also where those of an earlier release would do.
    pub anew: bool,
    /// Set when nobody needs it any more.
    pub gone: &'a AtomicBool,
}

/// What installs the dependencies, with all that it is given.
pub(super) struct Installer {
    pub words: Vec<String>,
    pub dir: PathBuf,
    /// What the first word means here.
    pub program: PathBuf,
    /// Whose package manager comes first.
    pub runtime: Option<PathBuf>,
    pub beside: Vec<PathBuf>,
    pub home: PathBuf,
    pub env: Vec<(OsString, OsString)>,
}

impl Preparing<'_> {
    /// Makes it able to start; `said` hears what is being done. A release that was prepared is left alone.
    ///
    /// # Errors
    /// Rejected with the installer's last words when it failed; those of [`Runtimes::provide`]. The release is removed
    /// then, unless it was live once.
    pub fn run(&self, said: &mut dyn FnMut(String)) -> Result<()> {
        let Manifest { app, version, .. } = self.manifest;
        if !is_complete(self.layout, app, version) {
            let message = format!("{version} of {app} is not on this server");
            return Err(Error::new(Kind::Refused, message).hint("upload and unpack it first"));
        }
        let done = self.make_ready(said);
        if done.is_err() {
            give_up(self.layout, app, version);
        }
        done
    }

    fn make_ready(&self, said: &mut dyn FnMut(String)) -> Result<()> {
        let Preparing { layout, manifest, user, .. } = *self;
        let runtime = self.runtimes.provide(manifest, user, said, self.gone)?;
        let marker = layout.prepared_marker(&manifest.app, &manifest.version);
        if marker.is_file() {
            return Ok(());
        }
        let found = runtime.as_deref().and_then(|program| runtime::version_of(layout, program));
        if let (Some(program), Some(found)) = (&runtime, &found) {
            self.compare_versions(program, found, said);
        }
        if let Some((words, dir)) = self.installer(found.as_deref()) {
            let installer = self.with_all(words, dir, runtime).context(|| self.doing())?;
            let packages = Packages::begin(self, &installer);
            let taken = if self.anew { None } else { packages.take().context(|| self.doing())? };
            match taken {
                Some(from) => said(format!("packages unchanged since {from}")),
                None => {
                    said(format!("install dependencies ({})", installer.words.join(" ")));
                    self.install(&installer)?;
                    packages.record();
                }
            }
            self.sync_all()?;
        }
        crash::point("prepare: to be described");
        if !layout.release(&manifest.app, &manifest.version).join("app.json").exists() {
            describe(layout, manifest)?;
        }
        crash::point("prepare: to be marked");
        disk::write_atomic(&marker, b"", 0o644)
    }

    /// What installs the dependencies, and where: beside the nearest lockfile, from the app's folder up to the release's
    /// root. `version` is that of the runtime.
    pub(super) fn installer(&self, version: Option<&str>) -> Option<(Vec<String>, PathBuf)> {
        let Preparing { layout, manifest, .. } = *self;
        let dir = layout.app_dir(manifest);
        match &manifest.install {
            Some(argv) if argv.is_empty() => return None,
            Some(argv) => return Some((argv.clone(), dir)),
            None => {}
        }
        let root = layout.release(&manifest.app, &manifest.version);
        let up = dir.ancestors().take_while(|d| d.starts_with(&root));
        up.map(Path::to_owned).find_map(|d| {
            let read = |file: &str| beginning_of(&d.join(file));
            let folder = Folder { has: &|file| d.join(file).is_file(), read: &read };
            let argv = packages::production(manifest.runtime, version, &folder)?;
            Some((argv.into_iter().map(str::to_owned).collect(), d))
        })
    }

    fn doing(&self) -> String {
        format!("install the dependencies of {} {}", self.manifest.app, self.manifest.version)
    }

    fn with_all(&self, words: Vec<String>, dir: PathBuf, runtime: Option<PathBuf>) -> Result<Installer> {
        let Preparing { layout, manifest, user, .. } = *self;
        let app = &manifest.app;
        let beside: Vec<PathBuf> = runtime.iter().filter_map(|p| p.parent()).map(Path::to_owned).collect();
        let program = self.tool(words.first().expect("an installer has a program"), &dir, &beside)?;
        owner::arrange(layout, app, user)?;
        // What a tool keeps in its home is there when the app runs.
        let home = user.map_or_else(|| runtime::home(layout), |_| layout.app_home(app));
        let mut env = install::environment(runtime::path_with(&beside), &home, &layout.app_tmp(app));
        env.extend(manifest.vars.iter().map(|(name, value)| (name.into(), value.into())));
        Ok(Installer { words, dir, program, runtime, beside, home, env })
    }

    fn install(&self, installer: &Installer) -> Result<()> {
        let Preparing { layout, manifest, user, gone, .. } = *self;
        let app = &manifest.app;
        let doing = || self.doing();
        let Installer { words, dir, program, env, .. } = installer;
        let argv: Vec<OsString> = [program.into()].into_iter().chain(words[1..].iter().map(OsString::from)).collect();
        let kept = layout.install_log(app);
        let (dir, env) = (dir.clone(), env.clone());
        let run = Run { argv: &argv, dir, env, limit: INSTALL_TIME, user, low: true, kept: Some(&kept) };

        let release = layout.release(app, &manifest.version);
        owner::lend(&release, user).context(doing)?;
        let ended = run.finish(&|| gone.load(Ordering::Relaxed));
        // Whatever became of it: nothing of it runs any more, and the release is ours.
        let ours = owner::take_back(&release, user);
        let all = |e: Error| {
            let is_unfit = packages::UNFIT.iter().any(|words| e.detail().iter().any(|line| line.contains(words)));
            let first = if is_unfit { format!("{}; ", packages::REFIT) } else { String::new() };
            e.hint(format!("{first}all that it said is in {} on the server", kept.display()))
        };
        let ended = ended.context(doing).map_err(all)?;
        ours.context(doing)?;
        match ended.status.success() {
            true => Ok(()),
            false => {
                let full = match disk::is_full(layout.data()) {
                    true => format!(", and there is no space left on {}", layout.data().display()),
                    false => String::new(),
                };
                let message = format!("{}: `{}` failed with {}{full}", doing(), words.join(" "), ended.status);
                Err(all(Error::new(Kind::Rejected, message).with_detail(ended.lines)))
            }
        }
    }

    fn tool(&self, word: &str, dir: &Path, beside: &[PathBuf]) -> Result<PathBuf> {
        if word.contains('/') {
            return Ok(dir.join(word));
        }
        let tool = runtime::find_tool(word, beside)?;
        match self.user {
            Some(user) if !runtime::may_start(&tool, user) => {
                let message = format!("{} cannot be started by the app's user", tool.display());
                Err(Error::new(Kind::Refused, message)
                    .hint(format!("install {word} where everybody can reach it, such as /usr/local/bin")))
            }
            _ => Ok(tool),
        }
    }

    /// What an installer wrote is whole before a marker says so, also after a power cut.
    fn sync_all(&self) -> Result<()> {
        let syncing = || "make the dependencies durable".to_string();
        let data = File::open(self.layout.data()).context(syncing)?;
        rustix::fs::syncfs(&data).context(syncing)
    }

    /// A runtime of another version than the build had may well do, but it is worth a word.
    fn compare_versions(&self, program: &Path, found: &str, said: &mut dyn FnMut(String)) {
        let Manifest { app, runtime, .. } = self.manifest;
        debug_assert!(*runtime != Runtime::Binary, "a binary has no runtime");
        let Some(wanted) = runtime::wanted(self.manifest) else { return };
        if found != wanted {
            said(format!("use {} {found} of this server, {wanted} was built for", runtime.as_str()));
            log::warn!("app={app} wants {} {wanted}, found {found} at {}", runtime.as_str(), program.display());
        }
    }
}

/// The text of a file that an app may have made what it is: a link or a pipe is not followed.
fn beginning_of(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    path.symlink_metadata().ok().filter(|found| found.is_file())?;
    File::open(path).ok()?.take(MAX_READ).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
