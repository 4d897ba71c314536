//! Leftovers: a note about every running process, so that those of a server that was killed are found again, to be
//! adopted or ended.
//!
//! ```text
//! run/<n>.born   the machine's boot, and the process's own line of proc_pid_stat(5), written before its program runs
//! run/<n>.json   the same, and all that is needed to go on with it; written when it runs, and when it listens
//! ```
//! A process is ours when its number, its start time and the machine's boot are those of the note; a group whose leader
//! has ended, when it was given the app's data folder. A note must survive this program and not the machine, so it is
//! renamed into place and not synced.
//!
//! **Invariant**: no program of an app runs of which there is no note, whenever this one is killed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::adopt::Facts;
use super::group;
use super::held::{Held, Origin};
use super::lifecycle::GRACE;
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::name::AppId;
use crate::proto::version::Version;
use crate::server::layout::Layout;
use crate::sys::{self, User};

/// After SIGKILL; the kernel needs a moment to take a process down.
pub(super) const DEATH: Duration = Duration::from_secs(2);
/// How often we look whether they are gone.
const LOOK: Duration = Duration::from_millis(20);
const MAX_NOTE: u64 = 4 << 10;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Note {
    pub pid: u32,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
    pub boot: String,
    pub token: Zeroizing<String>,
    /// 0 while it is not known.
    pub port: u16,
    /// What runs: this deploy of this release, with the secrets of this hash.
    #[serde(default)]
    pub release: Option<Version>,
    #[serde(default)]
    pub deployed_ms: u64,
    #[serde(default)]
    pub secrets: Option<String>,
    /// The inodes of the pipes that it prints to.
    #[serde(default)]
    pub pipes: [u64; 2],
}

impl Note {
    pub fn write(&self, layout: &Layout, id: &AppId, number: u32) -> Result<()> {
        disk::private_dir(&layout.run(id))?;
        let path = json(layout, id, number);
        let bytes = Zeroizing::new(serde_json::to_vec(self).context(|| format!("write {}", path.display()))?);
        disk::replace(&path, &bytes, 0o600)
    }
}

#[cfg(test)]
impl Note {
    /// About a process that runs nothing anybody wants.
    pub fn of(pid: u32) -> Note {
        let (started, boot) = identity(pid);
        let token = Zeroizing::new("t".into());
        Note { pid, started, boot, token, port: 0, release: None, deployed_ms: 0, secrets: None, pipes: [0, 0] }
    }
}

/// Who a process is, on this boot of the machine.
pub(crate) fn identity(pid: u32) -> (u64, String) {
    (group::start_time(pid).unwrap_or(0), boot_id())
}

/// The file that a process about to be started writes itself into; see `sys::Spawn::outlives_us`.
pub(crate) fn birth(layout: &Layout, id: &AppId, number: u32) -> Result<File> {
    let path = born(layout, id, number);
    disk::private_dir(&layout.run(id))?;
    // One of an earlier process would say that it is about this one.
    forget(layout, id, number);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    let told = file.and_then(|mut file| writeln!(file, "{}", boot_id()).map(|()| file));
    told.or_else(|e| {
        // A full disk is no reason not to start.
        log::warn!("app={id} no note about an instance before it starts error={e}");
        OpenOptions::new().write(true).open("/dev/null").context(|| format!("write {}", path.display()))
    })
}

pub(crate) fn forget(layout: &Layout, id: &AppId, number: u32) {
    let _ = fs::remove_file(json(layout, id, number));
    let _ = fs::remove_file(born(layout, id, number));
}

/// A process that an earlier server left running.
pub(crate) struct Left {
    pub number: u32,
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// Clock ticks since boot.
    pub started: u64,
    /// `None` when the server died before it could write one.
    pub note: Option<Note>,
}

enum Look {
    Running(Left),
    /// Its leader has ended, others of this group have not.
    Headless(u32),
    Nobody,
}

/// Those that still run, in order of number. What has lost its leader is ended here and waited for, as it would have
/// been at once had anybody watched; a note about nobody is forgotten.
pub(crate) fn find(layout: &Layout, id: &AppId) -> Vec<Left> {
    let data = layout.app_data(id);
    let entries = fs::read_dir(layout.run(id)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    // For one number the fuller note comes later, and takes the place of the other.
    files.sort();
    let (mut running, mut headless) = (Vec::<Left>::new(), Vec::new());
    for file in files {
        match look(&file, &data) {
            Look::Running(left) => {
                running.retain(|other| other.pid != left.pid);
                running.push(left);
            }
            Look::Headless(group) => headless.push((group, file)),
            Look::Nobody => drop(fs::remove_file(file)),
        }
    }
    for (group, _) in &headless {
        log::warn!("app={id} ending what an earlier server left of an instance group={group}");
        if let Some(group) = pid_of(*group) {
            let _ = sys::kill_group(group, Signal::KILL);
        }
    }
    let deadline = Instant::now() + DEATH;
    for (group, file) in headless {
        ends_before(group, deadline);
        let _ = fs::remove_file(file);
    }
    running.sort_by_key(|left| left.number);
    running
}

/// Ends what an earlier server left running of an app that nobody wants, SIGTERM first. Blocks until it is gone.
pub(crate) fn end_all(layout: &Layout, id: &AppId) {
    let data = layout.app_data(id);
    let numbers_and_held = |left: Left| (left.number, left.hold([None, None], &data));
    let mut left: Vec<(u32, Held)> = find(layout, id).into_iter().map(numbers_and_held).collect();
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, DEATH)] {
        for (number, held) in &left {
            log::warn!("app={id} instance={number} ending what an earlier server left running {signal:?}");
            if let Err(e) = held.signal(signal) {
                log::warn!("app={id} instance={number} cannot be signalled error={e}");
            }
        }
        let deadline = Instant::now() + patience;
        left.retain(|(number, held)| {
            let is_over = ends_before(held.number(), deadline);
            if is_over {
                forget(layout, id, *number);
            }
            !is_over
        });
    }
}

impl Left {
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What can be seen of it now, and what it prints to, if that can be had.
    pub fn facts(&self, user: Option<User>) -> (Facts, [Option<File>; 2]) {
        let port = self.note.as_ref().map_or(0, |note| note.port);
        let listens = if port == 0 { None } else { group::listens(self.id(), port) };
        let pipes = self.note.as_ref().map_or([0, 0], |note| note.pipes);
        let opened = pipes.map(|inode| if inode == 0 { Ok(None) } else { group::open_pipe(self.id(), inode) });
        let heard = opened.iter().all(Result::is_ok) && !pipes.contains(&0);
        let is_user = user.is_none_or(|user| group::user(self.id()) == Some(user.uid));
        (Facts { is_user, listens, heard }, opened.map(|pipe| pipe.ok().flatten()))
    }

    pub fn hold(self, [stdout, stderr]: [Option<File>; 2], data: &Path) -> Held {
        let origin = Origin::Inherited { data: data.into() };
        Held { pid: self.pid, pidfd: self.pidfd, stdout, stderr, origin }
    }
}

/// The inode of a pipe, by which its other ends are found.
pub(crate) fn inode(pipe: &Option<File>) -> u64 {
    pipe.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.ino())
}

fn look(file: &Path, data: &Path) -> Look {
    let Some((number, pid, started, note)) = read(file) else { return Look::Nobody };
    match group::start_time(pid) {
        Some(now) if now == started => {}
        Some(_) => return Look::Nobody,
        None if group::is_given(pid, data) => return Look::Headless(pid),
        None => return Look::Nobody,
    }
    let opened = pid_of(pid).and_then(|pid| Some((pid, pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?)));
    match opened {
        // Looked at again, now that it cannot become another one.
        Some((pid, pidfd)) if group::start_time(pid.as_raw_nonzero().get().unsigned_abs()) == Some(started) => {
            Look::Running(Left { number, pid, pidfd, started, note })
        }
        // It ended between the two looks.
        Some(_) | None if group::is_given(pid, data) => Look::Headless(pid),
        Some(_) | None => Look::Nobody,
    }
}

/// What a file of the run folder says about a process of this boot; `None` for anything else.
fn read(file: &Path) -> Option<(u32, u32, u64, Option<Note>)> {
    let number = file.file_stem()?.to_str()?.parse().ok()?;
    let bytes = Zeroizing::new(disk::read_if_there(file, MAX_NOTE).ok()??);
    let (boot, pid, started, note) = match file.extension()?.to_str()? {
        "json" => {
            let note: Note = serde_json::from_slice(&bytes).ok()?;
            (note.boot.clone(), note.pid, note.started, Some(note))
        }
        "born" => {
            let (boot, line) = std::str::from_utf8(&bytes).ok()?.split_once('\n')?;
            let (pid, started) = group::identity(line)?;
            (boot.to_owned(), pid, started, None)
        }
        _ => return None,
    };
    (boot == boot_id() && pid != 0).then_some((number, pid, started, note))
}

/// Nobody tells when a group ends that is not of our children.
fn ends_before(group: u32, deadline: Instant) -> bool {
    while !group::members(group).is_empty() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

fn json(layout: &Layout, id: &AppId, number: u32) -> PathBuf {
    layout.run(id).join(format!("{number}.json"))
}

fn born(layout: &Layout, id: &AppId, number: u32) -> PathBuf {
    layout.run(id).join(format!("{number}.born"))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn sleeper() -> sys::Spawned {
        let argv = sys::shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done");
        let mut spawned = sys::spawn(&sys::Spawn::plain(&argv)).unwrap();
        std::io::Read::read_exact(&mut spawned.stdout, &mut [0; 3]).unwrap();
        spawned
    }

    #[test]
    fn ends_what_the_notes_are_about_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        let id = AppId::parse("shop").unwrap();
        let (mut ours, mut other) = (sleeper(), sleeper());
        Note::of(ours.child.id()).write(&layout, &id, 1).unwrap();
        // A number that was given to another process since.
        let mut stale = Note::of(other.child.id());
        stale.started -= 1;
        stale.write(&layout, &id, 2).unwrap();
        fs::write(layout.run(&id).join("3.json"), "garbage").unwrap();

        end_all(&layout, &id);
        assert_eq!(ours.child.wait().unwrap().code(), Some(7));
        assert!(other.child.try_wait().unwrap().is_none());
        assert_eq!(fs::read_dir(layout.run(&id)).unwrap().count(), 0);
        sys::kill_group(other.pid, Signal::KILL).unwrap();
        other.child.wait().unwrap();
    }
    #[test]
    fn ends_a_group_whose_leader_is_gone_and_those_who_do_not_listen() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        let id = AppId::parse("shop").unwrap();
        let start = |data: PathBuf| {
            let deaf = "(trap '' TERM; echo up; while :; do sleep 0.01; done) & read x";
            let argv = sys::shell(deaf);
            let env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("TAKO_DATA_DIR".into(), data.into())];
            let mut spawned = sys::spawn(&sys::Spawn { env, ..sys::Spawn::plain(&argv) }).unwrap();
            std::io::Read::read_exact(&mut spawned.stdout, &mut [0; 3]).unwrap();
            spawned
        };
        // The input of each leader is at its end, so it has ended when it is waited for.
        let (mut ours, mut other) = (start(layout.app_data(&id)), start("/elsewhere".into()));
        for (number, left) in [(1, &mut ours), (2, &mut other)] {
            Note::of(left.child.id()).write(&layout, &id, number).unwrap();
            left.child.wait().unwrap();
        }
        let (ours, other) = (ours.child.id(), (other.child.id(), other.pid));
        assert!(!group::members(ours).is_empty());
        end_all(&layout, &id);
        assert!(group::members(ours).is_empty());
        assert!(!group::members(other.0).is_empty());
        sys::kill_group(other.1, Signal::KILL).unwrap();
    }

    /// As after a server that was killed right after the start: nobody but the process itself has left a word.
    #[test]
    fn finds_a_process_that_nobody_could_write_a_note_about() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        let id = AppId::parse("shop").unwrap();
        let birth = birth(&layout, &id, 3).unwrap();
        let argv = sys::shell("echo up; exec sleep 600");
        let spec = sys::Spawn { outlives_us: Some(birth.as_fd()), ..sys::Spawn::plain(&argv) };
        let mut spawned = sys::spawn(&spec).unwrap();
        let found = find(&layout, &id);
        assert_eq!(found.iter().map(|l| (l.number, l.id())).collect::<Vec<_>>(), [(3, spawned.child.id())]);
        assert!(found[0].note.is_none());
        let (facts, pipes) = found[0].facts(None);
        assert!(facts.listens.is_none() && !facts.heard && pipes.iter().all(Option::is_none));

        // With a note there is one still, and what it printed while nobody read is there to be read.
        let pipes = [OwnedFd::from(spawned.stdout), OwnedFd::from(spawned.stderr)].map(|fd| inode(&Some(fd.into())));
        Note { pipes, ..Note::of(spawned.child.id()) }.write(&layout, &id, 3).unwrap();
        let found = find(&layout, &id);
        assert!(found.len() == 1 && found[0].note.is_some());
        let (facts, [out, _err]) = found[0].facts(None);
        assert!(facts.heard && facts.is_user);
        assert!(!found[0].facts(Some(User { uid: 70_000, gid: 70_000 })).0.is_user);
        let mut out = out.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(e) = std::io::Read::read_exact(&mut out, &mut [0; 3]) {
            assert!(e.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline, "{e}");
            thread::yield_now();
        }

        end_all(&layout, &id);
        assert!(spawned.child.wait().is_ok() && fs::read_dir(layout.run(&id)).unwrap().next().is_none());
    }
}
