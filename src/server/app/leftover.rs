//! Leftovers: a note on disk about every running instance, so that those of a server that was killed are found and
//! ended before new ones start.
//!
//! A process is ours when its number, its start time and the machine's boot are those of the note. The note must
//! survive this program and not the machine, so it is renamed into place and not synced.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use super::lifecycle::GRACE;
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::name::AppId;
use crate::server::layout::Layout;
use crate::sys;

/// After SIGKILL; the kernel needs a moment to take a process down.
const DEATH: Duration = Duration::from_secs(2);
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
        Note { pid, started: start_time(pid).unwrap_or(0), boot: boot_id(), token: token.into(), port }
    }

    pub fn write(&self, layout: &Layout, id: &AppId, number: u32) -> Result<()> {
        disk::private_dir(&layout.run(id))?;
        let path = path(layout, id, number);
        let temp = path.with_extension("tmp");
        let bytes = serde_json::to_vec(self).context(|| format!("write {}", path.display()))?;
        fs::write(&temp, bytes).and_then(|()| fs::rename(&temp, &path)).context(|| format!("write {}", path.display()))
    }
}

pub(crate) fn forget(layout: &Layout, id: &AppId, number: u32) {
    let _ = fs::remove_file(path(layout, id, number));
}

/// Ends what an earlier server left running, SIGTERM first, and forgets it. Blocks until it is gone.
pub(crate) fn end_all(layout: &Layout, id: &AppId) {
    let Ok(entries) = fs::read_dir(layout.run(id)) else { return };
    let files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    let mut left: Vec<(Pid, OwnedFd)> = files.iter().filter_map(|file| still_running(file)).collect();
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, DEATH)] {
        for (pid, _) in &left {
            log::warn!("app={id} ending what an earlier server left running pid={} {signal:?}", pid.as_raw_nonzero());
            let _ = sys::kill_group(*pid, signal);
        }
        let deadline = Instant::now() + patience;
        left.retain(|(_, pidfd)| !ends_before(pidfd, deadline));
    }
    for file in files {
        let _ = fs::remove_file(file);
    }
}

fn still_running(file: &std::path::Path) -> Option<(Pid, OwnedFd)> {
    let bytes = disk::read_if_there(file, MAX_NOTE).ok()??;
    let note: Note = serde_json::from_slice(&bytes).ok()?;
    let pid = Pid::from_raw(i32::try_from(note.pid).ok()?)?;
    // Opened before it is compared: from here on the number cannot come to mean another process.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let ours = note.boot == boot_id() && start_time(note.pid) == Some(note.started);
    ours.then_some((pid, pidfd))
}

fn ends_before(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
            Ok(ready) => return ready > 0,
        }
    }
}

fn path(layout: &Layout, id: &AppId, number: u32) -> PathBuf {
    layout.run(id).join(format!("{number}.json"))
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything, also parentheses.
    stat.get(stat.rfind(')')? + 2..)?.split(' ').nth(19)?.parse().ok()
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
        let mut spawned = sys::spawn(&sys::Spawn { argv: &argv, dir: "/".into(), env, bootstrap: None }).unwrap();
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
}
