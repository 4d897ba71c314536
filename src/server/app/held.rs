//! Held: a running process as the `watch` thread has it, whoever started it.
//!
//! A child of ours keeps its number until we reap it. One that an earlier server started was inherited by init, which
//! reaps it at once, so its number must be looked at before it is used, and how it ended is never known.
//!
//! **Invariant**: a signal goes to the group that is meant or to none.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

use super::group;
use super::watch::Exit;
use crate::sys::{self, Child, Spawned};

pub(crate) struct Held {
    pub pid: Pid,
    /// Readable once the process has ended.
    pub pidfd: OwnedFd,
    /// What it prints; `None` when nobody holds the other end.
    pub stdout: Option<File>,
    pub stderr: Option<File>,
    pub origin: Origin,
}

pub(crate) enum Origin {
    Ours(Child),
    /// Started by an earlier server; it was given this folder as `TAKO_DATA_DIR`.
    Inherited {
        data: PathBuf,
    },
}

impl From<Spawned> for Held {
    fn from(spawned: Spawned) -> Held {
        let Spawned { child, pid, pidfd, stdout, stderr } = spawned;
        Held { pid, pidfd, stdout: Some(stdout), stderr: Some(stderr), origin: Origin::Ours(child) }
    }
}

impl Held {
    pub fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Signals its group; one of which nobody is left is fine.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        let is_it = match &self.origin {
            Origin::Ours(_) => true,
            Origin::Inherited { data } => !self.has_ended() || group::is_given(self.number(), data),
        };
        if is_it { sys::kill_group(self.pid, signal) } else { Ok(()) }
    }

    /// Waits for its end.
    pub fn reap(&mut self) -> Exit {
        match &mut self.origin {
            Origin::Ours(child) => child.wait().map_or(Exit::Signal(Signal::KILL.as_raw()), Exit::from),
            Origin::Inherited { .. } => Exit::Unknown,
        }
    }

    fn has_ended(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }
}
