//! Cgroup: a group of the kernel for every instance, so that all that it started can be counted, limited and ended
//! together, also what has left its process group (cgroups(7), version 2 only).
//!
//! ```text
//! <our own group>/tako-<hash of the data directory>/app-<id>/<instance>
//!                                                  /server     us, where the kernel wants nobody above
//! ```
//! Limits hold for one instance: a release that is being replaced runs beside its successor. Which of them the kernel
//! keeps depends on the controllers that it has on version 2 and hands down to us; what it does not keep is told by
//! [`Tree::keeps`]. Killing and the counting of CPU time need no controller. Mounts of version 1 are left alone.
//!
//! **Invariant**: we write below our own group and nowhere above it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::crypto::Sha256;
use crate::proto::name::AppId;

/// What we ask of the kernel, by its names.
pub(crate) const WANTED: [&str; 3] = ["memory", "cpu", "pids"];
/// The period over which CPU time is rationed; the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// A group is empty this soon after its processes were killed, unless the kernel itself holds one.
const DEATH: Duration = Duration::from_secs(2);
/// How often we look whether it is.
const LOOK: Duration = Duration::from_millis(2);
/// A kernel that cannot kill a group by itself stops it within this, so that nobody forks while we go through the list.
const FREEZE: Duration = Duration::from_millis(200);
/// Groups within an instance's group; an app has none unless it runs as our own user.
const MAX_DEPTH: usize = 16;

/// Limits of one instance; `None` is as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Caps {
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// Threads count as well.
    pub processes: Option<u32>,
}

/// What an instance with all its processes has used since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub cpu_us: u64,
    /// Bytes it has now, of files in memory too; `None` where the kernel does not count them for us.
    pub memory: Option<u64>,
    /// How many of its processes the kernel has killed because it was over its memory limit.
    pub oom_kills: Option<u64>,
}

/// Our part of the machine's groups; cheap to clone. It may be none.
#[derive(Clone)]
pub(crate) struct Tree(Result<Arc<Inner>, Arc<str>>);

struct Inner {
    dir: PathBuf,
    /// Those of [`WANTED`] that the kernel keeps below us.
    controllers: Vec<&'static str>,
    /// Groups whose last processes were dying when they were to be removed.
    graves: Mutex<Vec<Leaf>>,
}

/// The group of one instance. It stays until [`Tree::bury`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    dir: PathBuf,
}

impl Tree {
    /// Makes our part of the tree below the group that we are in, named after the data directory, because a machine may
    /// have several servers.
    pub fn plant(data: &Path) -> Tree {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path} cannot be read: {e}"));
        let own = read("/proc/self/mountinfo").and_then(|mounts| {
            let groups = read("/proc/self/cgroup")?;
            own_group(&mounts, &groups).ok_or_else(|| "cgroup v2 is not mounted".to_owned())
        });
        let mut hash = Sha256::new();
        hash.update(data.as_os_str().as_encoded_bytes());
        let name = format!("tako-{}", &hash.finish()[..12]);
        let planted = own.and_then(|own| {
            Inner::plant(&own, &name)
                .map_err(|e| format!("cgroup v2 at {} cannot be used: {}", own.display(), plain(&e)))
        });
        Tree(planted.map(Arc::new).map_err(Into::into))
    }

    /// No groups at all.
    #[cfg(test)]
    pub fn none(why: &str) -> Tree {
        Tree(Err(why.into()))
    }

    /// Why there are no groups here.
    pub fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(AsRef::as_ref)
    }

    /// Whether the kernel keeps this limit for us: `memory`, `cpu` or `pids`.
    pub fn keeps(&self, controller: &str) -> bool {
        self.0.as_ref().is_ok_and(|inner| inner.controllers.contains(&controller))
    }

    /// A new group for an instance; `label` tells it from all others of the app, also from those that are ending.
    /// `None` where there are no groups.
    ///
    /// # Errors
    /// Those of the kernel, also when it does not take a limit that it should keep.
    pub fn leaf(&self, app: &AppId, label: &str, caps: &Caps) -> io::Result<Option<Leaf>> {
        let Ok(inner) = &self.0 else { return Ok(None) };
        inner.sweep();
        let parent = inner.app(app);
        make(&parent)?;
        hand_down(&parent, &inner.controllers)?;
        let leaf = Leaf { dir: parent.join(label) };
        make(&leaf.dir)?;
        match inner.limit(&leaf, caps) {
            Ok(()) => Ok(Some(leaf)),
            Err(e) => {
                let _ = fs::remove_dir(&leaf.dir);
                Err(e)
            }
        }
    }

    /// The group of the app's instance that this process belongs to, for one that an earlier server started.
    pub fn leaf_of(&self, app: &AppId, pid: u32) -> Option<Leaf> {
        let parent = self.0.as_ref().ok()?.app(app);
        let leaves = folders(&parent).into_iter().map(|dir| Leaf { dir });
        leaves.into_iter().find(|leaf| leaf.pids().contains(&pid))
    }

    /// Removes the group of an instance that has ended, now or as soon as its last processes are gone.
    pub fn bury(&self, leaf: Leaf) {
        let Ok(inner) = &self.0 else { return };
        inner.graves.lock().unwrap_or_else(PoisonError::into_inner).push(leaf);
        inner.sweep();
    }

    /// Kills all that is left of an app but `keep`, and removes its groups; waits until it is gone, but not for ever.
    pub fn clear(&self, app: &AppId, keep: &[Leaf]) {
        let Ok(inner) = &self.0 else { return };
        let parent = inner.app(app);
        for leaf in folders(&parent).into_iter().map(|dir| Leaf { dir }).filter(|leaf| !keep.contains(leaf)) {
            if !leaf.is_empty() {
                log::warn!("app={app} ending what is left in {}", leaf.dir.display());
                leaf.kill();
            }
            leaf.remove_within(DEATH);
        }
        let _ = fs::remove_dir(&parent);
        inner.sweep();
    }

    /// Removes what is empty of our part, at the end of the server.
    pub fn fell(&self) {
        let Ok(inner) = &self.0 else { return };
        let buried = std::mem::take(&mut *inner.graves.lock().unwrap_or_else(PoisonError::into_inner));
        for leaf in buried {
            leaf.remove_within(DEATH);
        }
        for app in folders(&inner.dir) {
            let _ = fs::remove_dir(app);
        }
        // Stays when we are in it ourselves; whoever made the group above removes it then.
        let _ = fs::remove_dir(&inner.dir);
    }
}

impl Inner {
    fn plant(own: &Path, name: &str) -> io::Result<Inner> {
        // An earlier program of this process has moved us already.
        let moved = own.ends_with(Path::new(name).join("server"));
        let base = if moved { own.ancestors().nth(2).unwrap_or(own) } else { own };
        let dir = base.join(name);
        make(&dir)?;
        let offered = controllers(&base.join("cgroup.controllers"));
        if hand_down(base, &offered).is_err() && !moved {
            // A group with processes of its own hands nothing down, except the root: so we go into a leaf. Others that
            // are in our group keep it from working all the same; then we go back, and do without.
            let server = dir.join("server");
            make(&server)?;
            write(&server.join("cgroup.procs"), "0")?;
            if hand_down(base, &offered).is_err() {
                write(&base.join("cgroup.procs"), "0")?;
                let _ = fs::remove_dir(&server);
            }
        }
        let kept = controllers(&dir.join("cgroup.controllers"));
        let controllers = if hand_down(&dir, &kept).is_ok() { kept } else { Vec::new() };
        Ok(Inner { dir, controllers, graves: Mutex::default() })
    }

    fn app(&self, app: &AppId) -> PathBuf {
        // With a prefix, because the kernel's own files have names that an app may have.
        self.dir.join(format!("app-{app}"))
    }

    fn limit(&self, leaf: &Leaf, caps: &Caps) -> io::Result<()> {
        let keeps = |controller| self.controllers.contains(&controller);
        if let (Some(bytes), true) = (caps.memory, keeps("memory")) {
            leaf.write("memory.max", &bytes.to_string())?;
            // A limit that can be had again as swap is none, and swapping slows the neighbours.
            if_there(leaf.write("memory.swap.max", "0"))?;
            // One process less is an app that fails in new ways: all of it goes, and is started again.
            if_there(leaf.write("memory.oom.group", "1"))?;
        }
        if let (Some(milli), true) = (caps.cpu_milli, keeps("cpu")) {
            leaf.write("cpu.max", &format!("{} {CPU_PERIOD_US}", u64::from(milli) * CPU_PERIOD_US / 1000))?;
        }
        if let (Some(processes), true) = (caps.processes, keeps("pids")) {
            leaf.write("pids.max", &processes.to_string())?;
        }
        Ok(())
    }

    /// Tries again to remove what could not be removed yet, and the apps' groups that nothing is in any more.
    fn sweep(&self) {
        let mut graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        graves.retain(|leaf| !leaf.remove());
    }
}

impl Leaf {
    /// For a new process to be born in ([`crate::sys::Spawn`]).
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.dir)
    }

    /// Who is in it now, in groups of its own too.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        self.each(0, &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        });
        pids
    }

    pub fn is_empty(&self) -> bool {
        // A group that is gone is empty, too.
        self.number("cgroup.events", "populated").is_none_or(|n| n == 0)
    }

    pub fn usage(&self) -> Usage {
        let memory = fs::read_to_string(self.dir.join("memory.current")).ok();
        Usage {
            cpu_us: self.number("cpu.stat", "usage_usec").unwrap_or(0),
            memory: memory.and_then(|text| text.trim().parse().ok()),
            oom_kills: self.number("memory.events", "oom_kill"),
        }
    }

    /// SIGKILL for everything in it, whatever group or session it has made for itself.
    pub fn kill(&self) {
        match self.write("cgroup.kill", "1") {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.kill_one_by_one(),
            Err(e) => {
                log::warn!("cannot kill {} by its group: {}", self.dir.display(), plain(&e));
                self.kill_one_by_one();
            }
        }
    }

    /// For kernels before 5.14: nobody can fork while the list is gone through. Who is frozen can be killed.
    fn kill_one_by_one(&self) {
        if self.write("cgroup.freeze", "1").is_ok() {
            let deadline = Instant::now() + FREEZE;
            while self.number("cgroup.events", "frozen") == Some(0) && Instant::now() < deadline {
                thread::sleep(LOOK);
            }
        }
        for pid in self.pids().into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = self.write("cgroup.freeze", "0");
    }

    /// True when it is gone.
    fn remove(&self) -> bool {
        let mut dirs = Vec::new();
        self.each(0, &mut |dir| dirs.push(dir.to_owned()));
        // From the innermost on.
        for dir in dirs.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
        !self.dir.exists()
    }

    fn remove_within(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.remove() {
            if Instant::now() >= deadline {
                return log::warn!("{} cannot be removed: something is left in it", self.dir.display());
            }
            thread::sleep(LOOK);
        }
    }

    fn each(&self, depth: usize, f: &mut dyn FnMut(&Path)) {
        f(&self.dir);
        if depth < MAX_DEPTH {
            folders(&self.dir).into_iter().for_each(|dir| Leaf { dir }.each(depth + 1, f));
        }
    }

    /// The number behind `key` in a file of `key number` lines.
    fn number(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.dir.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        write(&self.dir.join(file), value)
    }
}

/// Where the group of this process lies, from its `mountinfo` and `cgroup` (proc(5)); `None` without version 2.
fn own_group(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        if back.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = front.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        // A mount may show a part of the tree alone.
        let below = own.strip_prefix(&root).ok()?;
        let inside = below.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        inside.then(|| if below.as_os_str().is_empty() { point.clone() } else { point.join(below) })
    })
}

/// Blanks in paths of `mountinfo` are written as octal numbers.
fn unescape(path: &str) -> PathBuf {
    let (mut text, mut rest) = (String::new(), path);
    while let Some(at) = rest.find('\\') {
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push_str(&rest[..at]);
        text.push(code.map_or('\\', char::from));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    text.push_str(rest);
    text.into()
}

/// Those of [`WANTED`] that the file lists.
fn controllers(file: &Path) -> Vec<&'static str> {
    let text = fs::read_to_string(file).unwrap_or_default();
    WANTED.into_iter().filter(|wanted| text.split_whitespace().any(|there| there == *wanted)).collect()
}

/// Lets the groups below `dir` have these controllers.
fn hand_down(dir: &Path, wanted: &[&'static str]) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let there = controllers(&file);
    for controller in wanted.iter().filter(|w| !there.contains(w)) {
        write(&file, &format!("+{controller}"))?;
    }
    Ok(())
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Not created: a file that the kernel does not have is an older kernel.
fn write(file: &Path, value: &str) -> io::Result<()> {
    io::Write::write_all(&mut OpenOptions::new().write(true).open(file)?, value.as_bytes())
}

fn if_there(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Without the number of the error.
fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{self, Spawn, Spawned};

    #[test]
    fn finds_our_own_group_in_every_shape_of_mount() {
        let pure = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let part = "41 31 0:38 /docker/ab /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n";
        let v1 = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let service = "0::/system.slice/tako-server.service\n";
        for (mounts, groups, expected) in [
            (pure, service, Some("/sys/fs/cgroup/system.slice/tako-server.service")),
            (pure, "0::/\n", Some("/sys/fs/cgroup")),
            (hybrid, "5:memory:/a/b\n0::/\n", Some("/sys/fs/cgroup/unified")),
            (hybrid, "4:cpu:/x\n0::/own\n", Some("/sys/fs/cgroup/unified/own")),
            (part, "0::/docker/ab/c\n", Some("/sys/fs/c g/c")),
            (part, "0::/elsewhere\n", None),
            (pure, "0::/../outside\n", None),
            (v1, "4:cpu:/x\n", None),
            (v1, "4:cpu:/x\n0::/\n", None),
            ("", "", None),
            ("garbage - cgroup2", "0::/", None),
        ] {
            assert_eq!(own_group(mounts, groups), expected.map(PathBuf::from), "{mounts}{groups}");
        }
    }

    /// A tree of this machine, if it has one that we may use.
    fn tree() -> Option<(Tree, tempfile::TempDir)> {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::plant(dir.path());
        let usable = tree.missing().is_none();
        usable.then_some((tree, dir))
    }

    fn sh(script: &str, leaf: &Leaf) -> Spawned {
        let group = leaf.open().unwrap();
        let cgroup = Some(std::os::fd::AsFd::as_fd(&group));
        sys::spawn(&Spawn { cgroup, ..Spawn::plain(&sys::shell(script)) }).unwrap()
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "in vain: until {what}");
            thread::sleep(LOOK);
        }
    }

    /// A daemon with a session of its own, whose parent has ended.
    const DAEMON: &str = "(setsid sleep 1000 >/dev/null 2>&1 &) ; exit 0";

    #[test]
    fn ends_all_that_an_instance_started_by_the_kernel_or_one_by_one() {
        let Some((tree, _dir)) = tree() else { return };
        let app = AppId::parse("shop").unwrap();
        for (label, kill) in [("1", Leaf::kill as fn(&Leaf)), ("2", Leaf::kill_one_by_one)] {
            let leaf = tree.leaf(&app, label, &Caps::default()).unwrap().unwrap();
            let mut leader = sh(DAEMON, &leaf);
            leader.child.wait().unwrap();
            // The group of the leader is gone, and yet somebody is there.
            let leads =
                |pid: &u32| Pid::from_raw(*pid as i32).is_some_and(|p| rustix::process::getsid(Some(p)) == Ok(p));
            until("the daemon is alone", || leaf.pids().len() == 1 && leaf.pids().iter().all(leads));
            sys::kill_group(leader.pid, Signal::KILL).unwrap();
            assert!(!leaf.is_empty());
            assert_eq!(tree.leaf_of(&app, leaf.pids()[0]), Some(leaf.clone()));
            kill(&leaf);
            until("nobody is left", || leaf.is_empty());
            tree.bury(leaf.clone());
            until("its group is removed", || leaf.remove());
        }
        tree.fell();
        assert!(!tree.0.as_ref().unwrap().dir.exists());
    }

    #[test]
    fn counts_what_an_instance_uses_and_clears_what_an_earlier_server_left() {
        let Some((tree, _dir)) = tree() else { return };
        let app = AppId::parse("cgroup.procs").unwrap();
        let leaf = tree.leaf(&app, "1", &Caps::default()).unwrap().unwrap();
        let mut busy = sh("while :; do :; done", &leaf);
        until("it has used the CPU", || leaf.usage().cpu_us > 10_000);
        assert_eq!(leaf.usage().memory.is_some(), tree.keeps("memory"));
        assert_eq!(leaf.usage().oom_kills.is_some(), tree.keeps("memory"));
        tree.clear(&app, &[]);
        assert!(!leaf.dir.exists());
        busy.child.wait().unwrap();
        assert_eq!((leaf.usage(), leaf.is_empty()), (Usage::default(), true));
        tree.fell();
    }

    #[test]
    fn a_machine_without_groups_is_told_and_does_without() {
        let tree = Tree::none("cgroup v2 is not mounted");
        let app = AppId::parse("shop").unwrap();
        assert_eq!(tree.missing(), Some("cgroup v2 is not mounted"));
        assert!(tree.leaf(&app, "1", &Caps::default()).unwrap().is_none() && !tree.keeps("memory"));
        tree.clear(&app, &[]);
        tree.fell();
    }
}
