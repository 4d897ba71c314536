//! The child's side of starting a program: the fork into its group of the kernel, and everything up to the exec.
//!
//! The standard library cannot start a child inside of a cgroup, and moving one afterwards waits for all processors of
//! the machine to pass through the scheduler (tens of milliseconds, in which nobody serves). clone3(2) puts it there at
//! once. Between fork and exec there is no allocator, no lock, and no way to tell of an error but a number in a pipe, so
//! all that is needed is prepared before.
//!
//! **Invariant**: what goes wrong before the exec is told, and then nothing of the program runs.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{io, mem, ptr};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::spawn::{BOOTSTRAP_FD, User};
use super::{block_signals, check, restore_signals};

/// When memory runs out the kernel looks for who has the highest share of it in thousandths plus this (proc(5)): an app
/// goes before the server.
pub(super) const OOM_SCORE: &str = "500";

/// What becomes a child: all that it needs, as the kernel takes it.
pub(super) struct Unborn<'a> {
    pub program: &'a CString,
    /// These two end with a null.
    pub argv: &'a [*const libc::c_char],
    pub env: &'a [*const libc::c_char],
    pub dir: &'a CString,
    pub streams: [OwnedFd; 3],
    pub session: Session,
    pub bootstrap: Option<OwnedFd>,
    pub cgroup: Option<BorrowedFd<'a>>,
    pub birth: Option<BorrowedFd<'a>>,
    pub user: Option<User>,
    pub limits: [Option<(Resource, u64)>; 3],
    pub nice: i32,
    /// Gets the number of the error.
    pub failure: OwnedFd,
}

/// What of the kernel's sessions it is in; always in a process group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Ours,
    /// One of its own, so that it finds no terminal of ours. `input` tells that its standard input is a pipe, and not a
    /// device that is everybody's.
    Own {
        input: bool,
    },
    /// One of its own, whose terminal its standard input is.
    Terminal,
}

/// Of clone3(2); the constant of the library does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2), in its version with a cgroup (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    tids: [u64; 2],
    exit_signal: u64,
    stack: [u64; 2],
    tls: u64,
    set_tid: [u64; 2],
    cgroup: u64,
}

impl Unborn<'_> {
    /// Returns in the parent only.
    pub fn fork(&self) -> io::Result<(Pid, OwnedFd)> {
        // No handler of ours may run in the child: it would write into our pipes.
        let before = block_signals();
        let forked = self.fork_into();
        restore_signals(&before);
        forked
    }

    fn fork_into(&self) -> io::Result<(Pid, OwnedFd)> {
        let mut pidfd: RawFd = -1;
        let group = self.cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
        let args = CloneArgs {
            flags: libc::CLONE_PIDFD as u64 | group,
            pidfd: (&raw mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: self.cgroup.map_or(0, |dir| dir.as_raw_fd() as u64),
            ..CloneArgs::default()
        };
        // SAFETY: without CLONE_VM this is a fork: the child has a copy of this thread and its memory, and runs on a copy
        // of this stack. `args` is as long as is said, and `pidfd` outlives the call.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
        match pid {
            0 => self.run(false),
            -1 => {
                let e = io::Error::last_os_error();
                // An older kernel, or a filter that does not know the call.
                match e.raw_os_error() {
                    Some(libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EPERM) => self.fork_as_ever(),
                    _ => Err(e),
                }
            }
            pid => {
                // SAFETY: the kernel has made it for us, and nobody else knows of it.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok((number(pid)?, pidfd))
            }
        }
    }

    fn fork_as_ever(&self) -> io::Result<(Pid, OwnedFd)> {
        // SAFETY: the child does nothing but what `run` does.
        match unsafe { libc::fork() } {
            0 => self.run(true),
            -1 => Err(io::Error::last_os_error()),
            pid => {
                let pid = number(pid.into())?;
                Ok((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
            }
        }
    }

    /// The child's life. `moves` when it is not in its group yet.
    fn run(&self, moves: bool) -> ! {
        let e =
            self.become_program(moves).map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |never| match never {});
        let why = e.to_ne_bytes();
        // SAFETY: plain system calls; `why` is as long as is said, and the second one does not return.
        unsafe {
            libc::write(self.failure.as_raw_fd(), why.as_ptr().cast(), why.len());
            libc::_exit(127)
        }
    }

    /// Between fork and exec: system calls on what was prepared, no allocation, no lock.
    fn become_program(&self, moves: bool) -> io::Result<std::convert::Infallible> {
        if let Some(birth) = self.birth {
            tell_birth(birth.as_raw_fd());
        }
        if let (true, Some(group)) = (moves, self.cgroup) {
            join(group)?;
        }
        // SAFETY: plain system calls on integers and on strings that end with a zero.
        unsafe {
            match self.session {
                Session::Ours => check(libc::setpgid(0, 0))?,
                Session::Own { .. } | Session::Terminal => check(libc::setsid())?,
            }
            // It is a wish: on a machine that does not let us, the server is as likely to go as the app.
            let oom = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(oom, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
            for (at, stream) in (0..).zip(&self.streams) {
                check(libc::dup2(stream.as_raw_fd(), at))?;
            }
        }
        if self.session == Session::Terminal {
            // SAFETY: a plain system call; the terminal was made for this program and is nobody else's.
            check(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY as _, 0) })?;
        }
        rustix::process::nice(self.nice)?;
        self.give_up_rights()?;
        for (resource, most) in self.limits.into_iter().flatten() {
            rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        // SAFETY: as above.
        unsafe {
            // Where it is to run is a matter of its own user.
            check(libc::chdir(self.dir.as_ptr()))?;
            if let Some(fd) = self.bootstrap.as_ref().map(AsRawFd::as_raw_fd) {
                // dup2 onto itself keeps close-on-exec, so the flag is cleared in both cases.
                check(if fd == BOOTSTRAP_FD {
                    libc::fcntl(fd, libc::F_SETFD, 0)
                } else {
                    libc::dup2(fd, BOOTSTRAP_FD)
                })?;
            }
            let first = if self.bootstrap.is_some() { BOOTSTRAP_FD + 1 } else { BOOTSTRAP_FD };
            // Close-on-exec rather than close: a failed exec is told through a pipe. Kernels before 5.11 lack the flag;
            // there our own descriptors, all close-on-exec, are still safe.
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            if self.birth.is_none() {
                // After the change of user, which would clear it.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            }
            libc::umask(0o027);
            // What we ignore or have blocked is no matter of the program.
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let none: libc::sigset_t = mem::zeroed();
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
        }
        Err(io::Error::last_os_error())
    }

    fn give_up_rights(&self) -> io::Result<()> {
        // None of the programs that it starts gets a capability again, whoever it runs as.
        drop_bounds();
        if let Some(User { uid, gid }) = self.user {
            // SAFETY: plain system calls on integers. Programs open `/dev/stdout` and `/proc/self/fd/3` anew, which the
            // owner alone may. The raw calls are for this thread alone, which is all there is after a fork. In this
            // order: a user without capabilities may not change its groups.
            unsafe {
                let bootstrap = self.bootstrap.as_ref().map(AsRawFd::as_raw_fd);
                let input = match self.session {
                    Session::Ours | Session::Own { input: false } => None,
                    Session::Own { input: true } | Session::Terminal => Some(libc::STDIN_FILENO),
                };
                let output = [Some(libc::STDOUT_FILENO), Some(libc::STDERR_FILENO)];
                for fd in output.into_iter().chain([input, bootstrap]).flatten() {
                    check(libc::fchown(fd, uid, gid))?;
                }
                check(libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) as libc::c_int)?;
                check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as libc::c_int)?;
                check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as libc::c_int)?;
            }
        }
        // What it has inherited without us knowing, as from a service manager, goes as well.
        rustix::thread::clear_ambient_capability_set().or_else(unknown)?;
        Ok(rustix::thread::set_capabilities(None, NO_CAPABILITIES)?)
    }
}

fn number(pid: libc::c_long) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The caller goes into a group by its open folder.
fn join(group: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain system calls on an integer and strings that end with a zero; `0` means the caller.
    unsafe {
        let procs = libc::openat(group.as_raw_fd(), c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(procs)?;
        check(libc::write(procs, c"0".as_ptr().cast(), 1) as libc::c_int)
    }
}

/// Writes who the caller is; between fork and exec. A full disk is no reason not to start: then the note that is written
/// after the start has to do.
fn tell_birth(to: RawFd) {
    let mut line = [0u8; 1024];
    // SAFETY: plain system calls on a path that ends with a zero, on integers, and on `line` within its length.
    unsafe {
        let from = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let read = libc::read(from, line.as_mut_ptr().cast(), line.len());
        if let Ok(read) = usize::try_from(read) {
            libc::write(to, line.as_ptr().cast(), read);
        }
        libc::close(from);
    }
}

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// To be called between fork and exec. Takes a capability itself; without it there is nothing to lose.
fn drop_bounds() {
    for capability in 0..=63 {
        // SAFETY: it takes and returns numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
            return;
        }
    }
}

/// A kernel before 4.3 has no ambient set.
fn unknown(e: rustix::io::Errno) -> rustix::io::Result<()> {
    if e == rustix::io::Errno::INVAL { Ok(()) } else { Err(e) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::super::spawn::{Child, pointers, shell, strings};
    use super::*;

    #[test]
    fn starts_a_program_that_has_no_group_and_no_clone3_too() {
        let argv = strings(shell("echo $((6 * 7))").into_iter()).unwrap();
        let (mut out, theirs) = io::pipe().unwrap();
        let theirs = OwnedFd::from(theirs);
        let child = Unborn {
            program: &argv[0],
            argv: &pointers(&argv),
            env: &pointers(&[]),
            dir: &c"/".to_owned(),
            streams: [File::open("/dev/null").unwrap().into(), theirs.try_clone().unwrap(), theirs],
            session: Session::Ours,
            bootstrap: None,
            cgroup: None,
            birth: None,
            user: None,
            limits: [None; 3],
            nice: 0,
            failure: io::pipe().unwrap().1.into(),
        };
        let (pid, _pidfd) = child.fork_as_ever().unwrap();
        drop(child);
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        assert_eq!(said, "42\n");
        assert!(Child::of(pid).wait().unwrap().success());
    }
}
