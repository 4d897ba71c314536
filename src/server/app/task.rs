//! Task: one command, run once in a release beside its instances, and gone with whoever asked for it.
//!
//! It gets what an instance gets: the app's folder, its vars and what Tako promises, its runtime first on PATH, its user,
//! a group of the kernel with its limits, no capabilities, and nothing of ours. One thing differs: the entry point of
//! an instance takes the secrets from a descriptor and puts them into its own environment, while any command at all
//! (`psql`, `bin/rails`) has to find them there from the start. That environment is the app's user's own, readable
//! for that user and root alone, like the memory of an instance that holds the same.
//!
//! **Invariant**: a task that was started has ended with its group before its [`Running`] is gone, and there are at most
//! [`MAX_TASKS`] of an app.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::actor::Actor;
use super::cell::{Cell, Room};
use super::environment::{each_once, environment};
use super::spec::{self, Spec};
use super::stage::Stage;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::manifest::Manifest;
use crate::proto::task::Ended;
use crate::proto::version::Version;
use crate::server::cgroup::Leaf;
use crate::server::layout::Layout;
use crate::server::state::Record;
use crate::sys::{self, Attach, Attached, Ends, Spawn};

/// Of one app at a time: a few people who look around, and what a timer starts.
const MAX_TASKS: usize = 8;
/// Of all apps together: each holds a connection, and most of those are for deploys.
const MAX_ALL: usize = 24;

/// In which release.
pub(crate) enum Of {
    Live,
    /// The one whose version begins like this, of those that were live once.
    Earlier(String),
    /// One that is not live yet, with these secrets; `None` is those that the app has.
    Coming(Box<Manifest>, Option<Secrets>),
}

/// All that is needed to start a command.
pub(crate) struct Task {
    spec: Arc<Spec>,
    layout: Arc<Layout>,
    /// Folders that come first on PATH.
    runtime: Vec<PathBuf>,
    cell: Cell,
    room: Room,
    ticket: Ticket,
}

/// A command that was started; dropping it ends it at once.
pub(crate) struct Running {
    attached: Attached,
    status: Option<ExitStatus>,
    cell: Cell,
    leaf: Option<Leaf>,
    ticket: Option<Ticket>,
}

impl Task {
    pub fn version(&self) -> &Version {
        &self.spec.manifest().version
    }

    /// Starts `argv`; with a terminal, `term` is what it is told of it. The inner error is how a shell would tell that
    /// the program cannot be started.
    pub fn start(self, argv: &[String], how: Attach, term: Option<&str>) -> Result<Result<Running, Ended>> {
        let Task { spec, layout, runtime, cell, room, ticket } = self;
        let manifest = spec.manifest();
        let dir = layout.app_dir(manifest);
        let home = cell.home(&layout, &manifest.app);
        let mut env = environment(manifest, &runtime, 0, &layout, home, |name| env::var_os(name));
        // Nothing comes on a descriptor here.
        env.retain(|(name, _)| name != "TAKO_BOOTSTRAP_FD");
        env.extend(term.map(|term| ("TERM".into(), term.into())));
        // As the entry point does: they go before everything else.
        let secrets = spec.secrets.iter().flat_map(|s| &s.values);
        env.extend(secrets.map(|(name, value)| (name.into(), value.as_str().into())));
        let env = each_once(env);

        let leave = |leaf| cell.leave(leaf);
        let word = argv.first().map_or("", String::as_str);
        let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        let Some(program) = find(word, &dir, path.unwrap_or_default()) else {
            leave(room.leaf);
            let why = format!("`{}` is neither in the app's folder nor on its PATH", word.escape_debug());
            return Ok(Err(Ended::NotStarted { code: 127, why }));
        };
        let words: Vec<OsString> =
            [program.into()].into_iter().chain(argv.iter().skip(1).map(OsString::from)).collect();
        let doing = || format!("start `{}`", word.escape_debug());
        let group = room.leaf.as_ref().map(Leaf::open).transpose().context(doing);
        let started = group.map(|group| {
            sys::attach(
                &Spawn {
                    argv: &words,
                    dir,
                    env,
                    bootstrap: None,
                    user: cell.user(),
                    cgroup: group.as_ref().map(AsFd::as_fd),
                    limits: room.limits,
                    outlives_us: None,
                },
                how,
            )
        });
        match started {
            Ok(Ok(attached)) => Ok(Ok(Running { attached, status: None, cell, leaf: room.leaf, ticket: Some(ticket) })),
            Ok(Err(e)) => {
                leave(room.leaf);
                cannot_run(word, e).map(Err)
            }
            Err(e) => {
                leave(room.leaf);
                Err(e)
            }
        }
    }
}

#[cfg(test)]
impl Task {
    /// One for a command that needs nothing of its app.
    pub fn bare(layout: Arc<Layout>, manifest: Manifest) -> Task {
        let users = crate::server::users::Users::new(layout.clone(), false);
        let cell = Cell::of(&manifest.app, &users, &crate::server::cgroup::Tree::none("a test")).unwrap();
        let ticket = Tasks::new(Arc::default()).enter(&manifest.version).unwrap();
        let record = Record { manifest, routes: Vec::new(), deployed_ms: 1, by: String::new(), bad: false };
        let room = Room { leaf: None, limits: sys::Limits::default() };
        Task { spec: Spec::new(record, None), layout, runtime: Vec::new(), cell, room, ticket }
    }
}

/// The file that a word means: one of the app's folder when it has a slash, else the first on `path`.
fn find(word: &str, dir: &Path, path: &OsStr) -> Option<PathBuf> {
    let is_program = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    match word {
        "" => None,
        word if word.contains('/') => Some(dir.join(word)).filter(|p| p.exists()),
        word => env::split_paths(path).map(|folder| dir.join(folder).join(word)).find(is_program),
    }
}

fn cannot_run(word: &str, e: io::Error) -> Result<Ended> {
    let word = word.escape_debug();
    let (code, why) = match (e.kind(), e.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => {
            (127, format!("what `{word}` is to be run by is not there: see its first line"))
        }
        (io::ErrorKind::PermissionDenied, _) => (126, format!("the app's user may not run `{word}`")),
        (_, Some(libc::ENOEXEC)) => {
            (126, format!("`{word}` is no program of this machine, and has no first line that says what runs it"))
        }
        _ => return Err(e).context(|| format!("start `{word}`")),
    };
    Ok(Ended::NotStarted { code, why })
}

impl Running {
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    pub fn take_ends(&mut self) -> Ends {
        let Ends { stdin, stdout, stderr } = &mut self.attached.ends;
        Ends { stdin: stdin.take(), stdout: stdout.take(), stderr: stderr.take() }
    }

    /// For its process group; one that is gone is fine.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none()
            && let Err(e) = sys::kill_group(self.attached.pid, signal)
        {
            log::warn!("a command cannot be told {signal:?}: {e}");
        }
    }

    /// Ends whatever it has started, waits for it, and makes room for another one.
    pub fn reap(&mut self) -> Ended {
        let status = match self.status {
            Some(status) => status,
            None => {
                // Before it is reaped: then the number may be that of somebody else.
                self.signal(Signal::KILL);
                self.leaf.iter().for_each(Leaf::kill);
                let status = self.attached.child.wait().unwrap_or_default();
                self.cell.leave(self.leaf.take());
                self.ticket = None;
                *self.status.insert(status)
            }
        };
        ended(status)
    }

    /// Whether the app is deleted, or the server stops.
    pub fn is_called_off(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.tasks.inner().called_off)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.reap();
    }
}

fn ended(status: ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => Ended::Signal(signal.unwrap_or(Signal::KILL.as_raw())),
    }
}

/// Those of one app.
pub(super) struct Tasks {
    inner: Mutex<Inner>,
    fewer: Condvar,
    /// Those of all apps.
    all: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Inner {
    /// In which releases.
    running: Vec<Version>,
    called_off: bool,
}

/// One place among them, given back when dropped.
struct Ticket {
    tasks: Arc<Tasks>,
    version: Version,
}

impl Tasks {
    pub fn new(all: Arc<AtomicUsize>) -> Arc<Tasks> {
        Arc::new(Tasks { inner: Mutex::default(), fewer: Condvar::new(), all })
    }

    /// Which releases have one, so that they are not removed meanwhile.
    pub fn versions(&self) -> Vec<Version> {
        self.inner().running.clone()
    }

    /// There are no more of them from now on, and those that run are to end.
    pub fn call_off(&self) {
        self.inner().called_off = true;
    }

    /// Waits until none is left, but not for ever.
    pub fn wait(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut inner = self.inner();
        while !inner.running.is_empty() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            inner = self.fewer.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn enter(self: &Arc<Self>, version: &Version) -> Result<Ticket> {
        let mut inner = self.inner();
        if inner.called_off {
            return Err(Error::new(Kind::Busy, "the app is being stopped"));
        }
        let full = match (inner.running.len() >= MAX_TASKS, self.all.load(Ordering::Relaxed) >= MAX_ALL) {
            (true, _) => Some(format!("{MAX_TASKS} commands of this app")),
            (false, true) => Some(format!("{MAX_ALL} commands of all apps")),
            (false, false) => None,
        };
        if let Some(full) = full {
            return Err(Error::new(Kind::Busy, format!("{full} are running on this server already"))
                .hint("wait until one has ended"));
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        inner.running.push(version.clone());
        Ok(Ticket { tasks: self.clone(), version: version.clone() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.tasks.inner();
        if let Some(at) = inner.running.iter().position(|v| *v == self.version) {
            inner.running.swap_remove(at);
        }
        self.tasks.all.fetch_sub(1, Ordering::Relaxed);
        self.tasks.fewer.notify_all();
    }
}

impl<S: Stage> Actor<S> {
    /// Makes room for a task in a release of this app.
    pub(super) fn task(&self, of: Of) -> Result<Task> {
        if self.is_ending() {
            return Err(self.busy());
        }
        let sealed = self
            .sealed
            .as_ref()
            .map(|why| Error::new(Kind::Refused, why.clone()).hint("deploy again with the secrets"));
        let spec = match (of, sealed) {
            (Of::Coming(manifest, Some(secrets)), _) => self.coming(*manifest, Some(Arc::new(secrets)))?,
            (_, Some(e)) => return Err(e),
            (Of::Coming(manifest, None), None) => self.coming(*manifest, self.secrets.clone())?,
            (Of::Live, None) => self.live.clone().ok_or_else(|| {
                Error::new(Kind::NotFound, format!("{} was never deployed", self.id)).hint("run `tako deploy`")
            })?,
            (Of::Earlier(start), None) => Spec::new(self.earlier(&start)?, self.secrets.clone()),
        };
        let ticket = self.tasks.enter(&spec.manifest().version)?;
        let runtime = spec.launch(&self.stage, &self.layout)?.path.clone();
        let others: Vec<&Leaf> = self.instances.iter().filter_map(|i| i.process()?.leaf.as_ref()).collect();
        let (layout, cell) = (self.layout.clone(), self.cell.clone());
        let room = cell.enter(&layout, spec.manifest(), 0, &others)?;
        Ok(Task { spec, layout, runtime, cell, room, ticket })
    }

    fn coming(&self, manifest: Manifest, secrets: Option<Arc<Secrets>>) -> Result<Arc<Spec>> {
        spec::check(&manifest)?;
        let (routes, by) = (Vec::new(), String::new());
        Ok(Spec::new(Record { manifest, routes, deployed_ms: self.now_ms(), by, bad: false }, secrets))
    }

    fn earlier(&self, start: &str) -> Result<Record> {
        let records = self.desired.iter().flat_map(|d| &d.releases);
        let is_there = |r: &&Record| self.stage.is_complete(&self.layout, &self.id, &r.manifest.version);
        let mut found = records.filter(|r| r.manifest.version.as_str().starts_with(start)).filter(is_there);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(one), Some(_)) if one.manifest.version.as_str() == start => Ok(one.clone()),
            (Some(_), Some(_)) => Err(Error::new(Kind::Refused, format!("`{start}` is the start of several releases"))
                .hint("write more of it; `tako releases ls` shows them")),
            (None, _) => {
                Err(Error::new(Kind::NotFound, format!("{} has no release `{}`", self.id, start.escape_debug()))
                    .hint("`tako releases ls` shows those there are"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_and_none_is_given_once_they_are_called_off() {
        let (all, v1) = (Arc::new(AtomicUsize::new(0)), Version::parse("v1").unwrap());
        let tasks = Tasks::new(all.clone());
        let held: Vec<Ticket> = (0..MAX_TASKS).map(|_| tasks.enter(&v1).unwrap()).collect();
        assert_eq!(tasks.enter(&v1).err().unwrap().kind(), Kind::Busy);
        let others: Vec<Arc<Tasks>> = (0..).map(|_| Tasks::new(all.clone())).take(MAX_ALL / MAX_TASKS).collect();
        let rest: Vec<Ticket> = others.iter().flat_map(|o| (0..MAX_TASKS).map_while(|_| o.enter(&v1).ok())).collect();
        assert_eq!(held.len() + rest.len(), MAX_ALL);
        drop((held, rest));
        assert_eq!((all.load(Ordering::Relaxed), tasks.versions().len()), (0, 0));
        tasks.call_off();
        tasks.wait(Duration::from_secs(60));
        assert_eq!(tasks.enter(&v1).err().unwrap().kind(), Kind::Busy);
    }

    #[test]
    fn a_word_is_a_file_of_the_app_or_a_program_on_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("node_modules/.bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("migrate"), "#!/bin/sh\n").unwrap();
        let path = env::join_paths([bin.clone(), "/bin".into()]).unwrap();
        let find = |word| find(word, dir.path(), &path);
        assert_eq!(find("migrate"), None, "it cannot be run");
        std::fs::set_permissions(bin.join("migrate"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("migrate"), Some(bin.join("migrate")));
        assert_eq!(find("sh"), Some("/bin/sh".into()));
        assert_eq!(find("node_modules/.bin/migrate"), Some(bin.join("migrate")));
        assert_eq!((find("nothing"), find("./nothing"), find("")), (None, None, None));
    }
}
