//! Starting a program: a fork into its own group of the kernel, everything that must hold before its first instruction,
//! and the exec.
//!
//! The standard library cannot start a child inside of a cgroup, and moving one afterwards waits for all processors of
//! the machine to pass through the scheduler (tens of milliseconds, in which nobody serves). clone3(2) puts it there at
//! once. What the child does is prepared before the fork: between fork and exec there is no allocator, no lock, and no
//! way to tell of an error but a number in a pipe.
//!
//! **Invariant**: a program runs with all of its [`Spawn`] or not at all.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::{iter, mem, ptr};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::pipes::{filled_pipe, lasting_pipe, plain_pipe};
use super::{allowed, block_signals, check, restore_signals};

/// Where a started program finds its bootstrap message.
pub(crate) const BOOTSTRAP_FD: RawFd = 3;
/// A program to start in a process group of its own.
pub(crate) struct Spawn<'a> {
    pub argv: &'a [OsString],
    pub dir: PathBuf,
    /// The whole environment: nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Readable on [`BOOTSTRAP_FD`] until its end; `None` leaves that descriptor closed.
    pub bootstrap: Option<&'a [u8]>,
    /// Who it runs as, with no other group and no capability; `None` is who we are.
    pub user: Option<User>,
    /// The open folder of the group that it is in from its first moment (cgroups(7)); `None` is ours.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub limits: Limits,
    /// For a program that is to go on when we are killed: an open file that gets its line of proc_pid_stat(5) before
    /// anything of it runs, so that who comes after us finds it. What it prints then waits in its pipes, while writing
    /// to a pipe whose only reader has died would be its end. `None` for one that is killed with us, and even when the
    /// thread that starts it ends, which therefore has to wait for it.
    pub outlives_us: Option<BorrowedFd<'a>>,
}

/// Limits of a program and all that it starts (setrlimit(2)); `None` leaves ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of its user together, in all groups.
    pub processes: Option<u64>,
    /// Bytes of private memory that each process may write to.
    pub data: Option<u64>,
    /// How far everything else goes before (nice(2)); 0 is as ours.
    pub nice: i32,
}

/// Descriptors that a program may have: enough for any server, and not so many that one that closes them all at its
/// start takes long, as with the million that we may have ourselves.
const DESCRIPTORS: u64 = 65_536;
/// When memory runs out the kernel looks for who has the highest share of it in thousandths plus this (proc(5)): an app
/// goes before the server.
const OOM_SCORE: &str = "500";

/// Whom a program may run as; changing to it takes CAP_SETUID and CAP_SETGID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
}

/// A started program. Dropping it neither stops nor reaps it.
pub(crate) struct Spawned {
    pub child: Child,
    pub pid: Pid,
    /// Readable once the program has ended.
    pub pidfd: OwnedFd,
    pub stdout: File,
    pub stderr: File,
}

/// A child of ours, to be reaped.
pub(crate) struct Child {
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Child {
    #[cfg(test)]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end, after which its number may mean another process.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.reap(WaitOptions::empty())?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// How it ended, if it has.
    #[cfg(test)]
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(WaitOptions::NOHANG)
    }

    fn reap(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), options))?;
            self.status = ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.status)
    }
}

/// Starts a program with piped output, no input, no capabilities, `no_new_privs`, umask 027, its own process group, and
/// no descriptor of ours but the bootstrap pipe.
///
/// # Errors
/// Those of the kernel; `NotFound` also when the program is there and its interpreter or loader is not.
pub(crate) fn spawn(spec: &Spawn<'_>) -> io::Result<Spawned> {
    let pipe = || if spec.outlives_us.is_some() { lasting_pipe() } else { plain_pipe() };
    let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);
    let (mut failed, failure) = io::pipe()?;
    let program = CString::new(spec.argv.first().ok_or(io::ErrorKind::InvalidInput)?.clone().into_vec())?;
    let (argv, env) = (strings(spec.argv.iter().cloned())?, strings(spec.env.iter().map(variable))?);
    let child = Unborn {
        program: &program,
        argv: &pointers(&argv),
        env: &pointers(&env),
        dir: &CString::new(spec.dir.clone().into_os_string().into_vec())?,
        streams: [File::open("/dev/null")?.into(), their_stdout, their_stderr],
        bootstrap: spec.bootstrap.map(filled_pipe).transpose()?,
        cgroup: spec.cgroup,
        birth: spec.outlives_us,
        user: spec.user,
        limits: rlimits(spec.limits),
        nice: spec.limits.nice,
        // Away from where the bootstrap message goes.
        failure: rustix::io::fcntl_dupfd_cloexec(failure, BOOTSTRAP_FD + 1)?,
    };
    let (pid, pidfd) = child.fork()?;
    drop(child);
    let mut child = Child { pid, status: None };
    let mut why = [0; size_of::<i32>()];
    match failed.read_exact(&mut why) {
        // It was closed by the exec.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
        told => {
            let _ = child.wait();
            return Err(told.map_or_else(|e| e, |()| io::Error::from_raw_os_error(i32::from_ne_bytes(why))));
        }
    }
    Ok(Spawned { child, pid, pidfd, stdout: stdout.into(), stderr: stderr.into() })
}

/// What becomes a child: all that it needs, as the kernel takes it.
struct Unborn<'a> {
    program: &'a CString,
    /// These two end with a null.
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    dir: &'a CString,
    streams: [OwnedFd; 3],
    bootstrap: Option<OwnedFd>,
    cgroup: Option<BorrowedFd<'a>>,
    birth: Option<BorrowedFd<'a>>,
    user: Option<User>,
    limits: [Option<(Resource, u64)>; 3],
    nice: i32,
    /// Gets the number of the error.
    failure: OwnedFd,
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
    fn fork(&self) -> io::Result<(Pid, OwnedFd)> {
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
            check(libc::setpgid(0, 0))?;
            // It is a wish: on a machine that does not let us, the server is as likely to go as the app.
            let oom = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(oom, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
            for (at, stream) in (0..).zip(&self.streams) {
                check(libc::dup2(stream.as_raw_fd(), at))?;
            }
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
                for fd in [Some(libc::STDOUT_FILENO), Some(libc::STDERR_FILENO), bootstrap].into_iter().flatten() {
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

fn rlimits(limits: Limits) -> [Option<(Resource, u64)>; 3] {
    let most = |resource, wanted| (resource, allowed(resource, wanted));
    [
        Some(most(Resource::Nofile, DESCRIPTORS)),
        limits.processes.map(|n| most(Resource::Nproc, n)),
        limits.data.map(|n| most(Resource::Data, n)),
    ]
}

fn variable((name, value): &(OsString, OsString)) -> OsString {
    let mut variable = name.clone();
    variable.push("=");
    variable.push(value);
    variable
}

fn strings(words: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    words.map(|word| Ok(CString::new(word.into_vec())?)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(iter::once(ptr::null())).collect()
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
    use std::os::fd::AsFd;

    use rustix::process::Signal;

    use super::*;
    use crate::sys::kill_group;

    fn sh(script: &str, bootstrap: Option<&[u8]>) -> (String, Option<i32>) {
        let argv = ["/bin/sh", "-c", script].map(OsString::from);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let mut spawned = spawn(&Spawn {
            argv: &argv,
            dir: "/".into(),
            env,
            bootstrap,
            user: None,
            cgroup: None,
            limits: Limits::default(),
            outlives_us: None,
        })
        .unwrap();
        let mut out = String::new();
        spawned.stdout.read_to_string(&mut out).unwrap();
        (out, spawned.child.wait().unwrap().code())
    }

    #[test]
    fn hands_over_the_bootstrap_message_and_nothing_else() {
        let _ours = std::fs::File::open("/dev/null").unwrap();
        let (out, code) = sh("cat <&3; ls -l /proc/self/fd | grep -c /dev/null; exit 7", Some(b"hello "));
        assert_eq!((out.as_str(), code), ("hello 1\n", Some(7)));
    }

    #[test]
    fn a_message_larger_than_a_pipe_does_not_block() {
        let (out, _) = sh("wc -c <&3", Some(&vec![b'x'; 300 << 10]));
        assert_eq!(out.trim(), "307200");
    }

    #[test]
    fn leaves_descriptor_three_closed_without_a_message() {
        assert_eq!(sh("(: <&3) 2>/dev/null || echo closed", None).0, "closed\n");
    }

    #[test]
    fn runs_as_another_user_with_no_way_back() {
        if !rustix::process::geteuid().is_root() {
            return; // only root may
        }
        let argv = ["/bin/sh", "-c", "id -u; id -G; grep CapPrm /proc/self/status"].map(OsString::from);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let user = Some(User { uid: 70_001, gid: 70_002 });
        let spec = Spawn {
            argv: &argv,
            dir: "/".into(),
            env,
            bootstrap: None,
            user,
            cgroup: None,
            limits: Limits::default(),
            outlives_us: None,
        };
        let mut spawned = spawn(&spec).unwrap();
        let mut out = String::new();
        spawned.stdout.read_to_string(&mut out).unwrap();
        spawned.child.wait().unwrap();
        assert_eq!(out, "70001\n70002\nCapPrm:\t0000000000000000\n");
    }

    /// Its readers are gone, as when we are killed: it goes on, and who opens the pipe anew reads on.
    #[test]
    fn what_outlives_us_is_not_ended_by_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let birth = std::fs::File::create_new(dir.path().join("birth")).unwrap();
        let script = "echo one; until test -e go; do sleep 0.01; done; echo two; echo three; exec sleep 600";
        let argv = ["/bin/sh", "-c", script].map(OsString::from);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let (dir, outlives_us) = (dir.path(), Some(birth.as_fd()));
        let spec = Spawn {
            argv: &argv,
            dir: dir.into(),
            env,
            bootstrap: None,
            user: None,
            cgroup: None,
            limits: Limits::default(),
            outlives_us,
        };
        let mut spawned = spawn(&spec).unwrap();
        let told = std::fs::read_to_string(dir.join("birth")).unwrap();
        assert!(told.starts_with(&format!("{} (", spawned.child.id())), "{told}");
        spawned.stdout.read_exact(&mut [0; 4]).unwrap();
        drop((spawned.stdout, spawned.stderr));
        std::fs::write(dir.join("go"), "").unwrap();
        let mut again = std::fs::File::open(format!("/proc/{}/fd/1", spawned.child.id())).unwrap();
        let mut heard = [0; 10];
        again.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"two\nthree\n");
        kill_group(spawned.pid, Signal::KILL).unwrap();
        spawned.child.wait().unwrap();
        assert_eq!(again.read(&mut heard).unwrap(), 0, "nobody holds it any more");
    }

    #[test]
    fn keeps_no_capability_and_no_more_descriptors_than_any_program_needs() {
        let (out, _) = sh("grep -h ^Cap /proc/self/status; cat /proc/self/oom_score_adj; ulimit -n; ulimit -c", None);
        let lines: Vec<&str> = out.lines().collect();
        let none = |name: &str| lines.contains(&format!("{name}:\t0000000000000000").as_str());
        assert!(none("CapPrm") && none("CapEff") && none("CapInh") && none("CapAmb"), "{out}");
        assert!(lines[5].parse::<u64>().unwrap() >= OOM_SCORE.parse().unwrap(), "{out}");
        assert!(lines[6].parse::<u64>().unwrap() <= DESCRIPTORS, "{out}");
    }

    #[test]
    fn a_program_has_the_limits_that_it_is_given() {
        let argv = ["/bin/sh", "-c", "ulimit -d; ulimit -u 2>/dev/null || ulimit -p"].map(OsString::from);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let limits = Limits { processes: Some(7), data: Some(64 << 20), nice: 0 };
        let spec = Spawn {
            argv: &argv,
            dir: "/".into(),
            env,
            bootstrap: None,
            user: None,
            cgroup: None,
            limits,
            outlives_us: None,
        };
        let mut spawned = spawn(&spec).unwrap();
        let mut out = String::new();
        spawned.stdout.read_to_string(&mut out).unwrap();
        spawned.child.wait().unwrap();
        assert_eq!(out, "65536\n7\n");
    }

    #[test]
    fn a_limit_beyond_our_own_is_our_own() {
        let argv = ["/bin/sh", "-c", "ulimit -Hu 2>/dev/null || ulimit -Hp"].map(OsString::from);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let limits = Limits { processes: Some(u64::MAX - 1), ..Limits::default() };
        let mut spawned = spawn(&Spawn {
            argv: &argv,
            dir: "/".into(),
            env,
            bootstrap: None,
            user: None,
            cgroup: None,
            outlives_us: None,
            limits,
        })
        .unwrap();
        let mut out = String::new();
        spawned.stdout.read_to_string(&mut out).unwrap();
        spawned.child.wait().unwrap();
        let ours = rustix::process::getrlimit(Resource::Nproc).maximum;
        assert!(ours.is_none() || out.trim() == ours.unwrap().to_string(), "{out} beside {ours:?}");
    }

    #[test]
    fn stops_the_whole_group() {
        let argv = ["/bin/sh", "-c", "sleep 60 & sleep 60"].map(OsString::from);
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let mut spawned = spawn(&Spawn {
            argv: &argv,
            dir: "/".into(),
            env,
            bootstrap: None,
            user: None,
            cgroup: None,
            limits: Limits::default(),
            outlives_us: None,
        })
        .unwrap();
        kill_group(spawned.pid, Signal::KILL).unwrap();
        // The pipe ends only when every process that holds it is gone.
        assert_eq!(spawned.stdout.read_to_end(&mut Vec::new()).unwrap(), 0);
        spawned.child.wait().unwrap();
        kill_group(spawned.pid, Signal::KILL).unwrap();
    }

    #[test]
    fn says_when_there_is_no_such_program() {
        let argv = [OsString::from("/nowhere/program")];
        let spec = Spawn {
            argv: &argv,
            dir: "/".into(),
            env: vec![],
            bootstrap: None,
            user: None,
            cgroup: None,
            limits: Limits::default(),
            outlives_us: None,
        };
        assert_eq!(spawn(&spec).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn starts_a_program_that_has_no_group_and_no_clone3_too() {
        let argv = ["/bin/sh", "-c", "echo $((6 * 7))"].map(OsString::from);
        let argv = strings(argv.into_iter()).unwrap();
        let (mut out, theirs) = io::pipe().unwrap();
        let theirs = OwnedFd::from(theirs);
        let child = Unborn {
            program: &argv[0],
            argv: &pointers(&argv),
            env: &pointers(&[]),
            dir: &c"/".to_owned(),
            streams: [File::open("/dev/null").unwrap().into(), theirs.try_clone().unwrap(), theirs],
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
        assert!(Child { pid, status: None }.wait().unwrap().success());
    }

    #[test]
    fn a_failed_start_says_why_and_leaves_no_child() {
        let start = |argv: &[&str], dir: &str| {
            let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
            let spec = Spawn {
                argv: &argv,
                dir: dir.into(),
                env: vec![],
                bootstrap: None,
                user: None,
                cgroup: None,
                limits: Limits::default(),
                outlives_us: None,
            };
            spawn(&spec).err().unwrap()
        };
        assert_eq!(start(&["/etc"], "/").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(start(&["/bin/true"], "/nowhere").kind(), io::ErrorKind::NotFound);
        assert_eq!(start(&["/bin/\0true"], "/").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(start(&["/etc/passwd"], "/").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(start(&[], "/").kind(), io::ErrorKind::InvalidInput);
    }
}
