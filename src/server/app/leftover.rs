//! Leftovers: a note on disk about every running instance, so that those of a server that was killed are found and
//! ended before new ones start.
//!
//! A process is ours when its number, its start time and the machine's boot are those of the note; a group whose leader
//! has ended, when it was given the app's data folder. The note must survive this program and not the machine, so it is
//! renamed into place and not synced.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::group;
use super::lifecycle::GRACE;
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::name::AppId;
use crate::server::layout::Layout;
use crate::sys;

/// After SIGKILL; the kernel needs a moment to take a process down.
const DEATH: Duration = Duration::from_secs(2);
/// How often we look whether they are gone.
const LOOK: Duration = Duration::from_millis(20);
const MAX_NOTE: u64 = 4 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub pid: u32,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
    pub boot: String,
    pub token: String,
    /// 0 while it is not known.
    pub port: u16,
}

impl Note {
    /// About a process that was just started.
    pub fn of(pid: u32, token: &str, port: u16) -> Note {
        Note { pid, started: group::start_time(pid).unwrap_or(0), boot: boot_id(), token: token.into(), port }
    }

    pub fn write(&self, layout: &Layout, id: &AppId, number: u32) -> Result<()> {
        disk::private_dir(&layout.run(id))?;
        let path = path(layout, id, number);
        let bytes = serde_json::to_vec(self).context(|| format!("write {}", path.display()))?;
        disk::replace(&path, &bytes, 0o600)
    }
}

pub(crate) fn forget(layout: &Layout, id: &AppId, number: u32) {
    let _ = fs::remove_file(path(layout, id, number));
}

/// Ends what an earlier server left running, SIGTERM first, and forgets it. Blocks until it is gone.
pub(crate) fn end_all(layout: &Layout, id: &AppId) {
    let Ok(entries) = fs::read_dir(layout.run(id)) else { return };
    let files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    let data = layout.app_data(id);
    let mut left: Vec<u32> = files.iter().filter_map(|file| still_running(file, &data)).collect();
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, DEATH)] {
        for pid in &left {
            log::warn!("app={id} ending what an earlier server left running pid={pid} {signal:?}");
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = sys::kill_group(pid, signal);
            }
        }
        let deadline = Instant::now() + patience;
        left.retain(|group| !ends_before(*group, deadline));
    }
    for file in files {
        let _ = fs::remove_file(file);
    }
}

/// The group that a note is about, if any of it is left.
fn still_running(file: &Path, data: &Path) -> Option<u32> {
    let bytes = disk::read_if_there(file, MAX_NOTE).ok()??;
    let note: Note = serde_json::from_slice(&bytes).ok()?;
    if note.boot != boot_id() || note.pid == 0 {
        return None;
    }
    let ours = match group::start_time(note.pid) {
        Some(started) => started == note.started,
        // Its leader has ended. The number stays taken as long as anybody is in the group, but all of it may have ended
        // and another group may have come and lost its leader since: what we started knows its data folder.
        None => group::members(note.pid).into_iter().any(|pid| group::was_given(pid, "TAKO_DATA_DIR", data)),
    };
    ours.then_some(note.pid)
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

fn path(layout: &Layout, id: &AppId, number: u32) -> PathBuf {
    layout.run(id).join(format!("{number}.json"))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> sys::Spawned {
        let argv = ["/bin/sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"].map(Into::into);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let mut spawned = sys::spawn(&sys::Spawn {
            argv: &argv,
            dir: "/".into(),
            env,
            bootstrap: None,
            user: None,
            cgroup: None,
            limits: sys::Limits::default(),
        })
        .unwrap();
        std::io::Read::read_exact(&mut spawned.stdout, &mut [0; 3]).unwrap();
        spawned
    }

    #[test]
    fn ends_what_the_notes_are_about_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        let id = AppId::parse("shop").unwrap();
        let (mut ours, mut other) = (sleeper(), sleeper());
        Note::of(ours.child.id(), "t", 0).write(&layout, &id, 1).unwrap();
        // A number that was given to another process since.
        let mut stale = Note::of(other.child.id(), "t", 0);
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
            let argv = ["/bin/sh", "-c", deaf].map(Into::into);
            let env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("TAKO_DATA_DIR".into(), data.into())];
            let mut spawned = sys::spawn(&sys::Spawn {
                argv: &argv,
                dir: "/".into(),
                env,
                bootstrap: None,
                user: None,
                cgroup: None,
                limits: sys::Limits::default(),
            })
            .unwrap();
            std::io::Read::read_exact(&mut spawned.stdout, &mut [0; 3]).unwrap();
            spawned
        };
        // The input of each leader is at its end, so it has ended when it is waited for.
        let (mut ours, mut other) = (start(layout.app_data(&id)), start("/elsewhere".into()));
        for (number, left) in [(1, &mut ours), (2, &mut other)] {
            Note::of(left.child.id(), "t", 0).write(&layout, &id, number).unwrap();
            left.child.wait().unwrap();
        }
        let (ours, other) = (ours.child.id(), (other.child.id(), other.pid));
        assert!(!group::members(ours).is_empty());
        end_all(&layout, &id);
        assert!(group::members(ours).is_empty());
        assert!(!group::members(other.0).is_empty());
        sys::kill_group(other.1, Signal::KILL).unwrap();
    }
}
