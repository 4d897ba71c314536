//! The system calls that the standard library lacks, and the only `unsafe` of the crate.
//!
//! Policy lives elsewhere: this file starts what it is told to start and says what the kernel said. It is Linux for
//! now; what `tako` and `tako-dev-server` need on macOS is to be gated here and nowhere else.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::ptr;

use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Where a started program finds its bootstrap message.
pub(crate) const BOOTSTRAP_FD: RawFd = 3;
/// A pipe holds this much unread at most (`/proc/sys/fs/pipe-max-size` for everybody), so a bootstrap message up to
/// this size is written before the program starts and nobody waits for anybody.
pub(crate) const MAX_BOOTSTRAP: usize = 1 << 20;

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
    /// The open `cgroup.procs` of the group that it is in from its first moment (cgroups(7)); `None` is ours.
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
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

/// Starts a program with piped output, no input, no capabilities, `no_new_privs`, umask 027, its own process group, and
/// no descriptor of ours but the bootstrap pipe.
///
/// # Errors
/// Those of the kernel; `NotFound` also when the program is there and its interpreter or loader is not.
pub(crate) fn spawn(spec: &Spawn<'_>) -> io::Result<Spawned> {
    let (program, args) = spec.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let pipe = spec.bootstrap.map(filled_pipe).transpose()?;
    let bootstrap = pipe.as_ref().map(AsRawFd::as_raw_fd);
    let cgroup = spec.cgroup.map(|fd| fd.as_raw_fd());
    let (user, limits) = (spec.user, spec.limits);
    let most = |resource, wanted| (resource, Some(allowed(resource, wanted)));
    let limits = [
        Some(most(Resource::Nofile, DESCRIPTORS)),
        limits.processes.map(|n| most(Resource::Nproc, n)),
        limits.data.map(|n| most(Resource::Data, n)),
    ];
    let birth = spec.outlives_us.map(|fd| fd.as_raw_fd());
    let pipe = || if birth.is_some() { lasting_pipe() } else { plain_pipe() };
    let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);

    let mut command = Command::new(program);
    command.args(args).current_dir(&spec.dir).env_clear().envs(spec.env.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(their_stdout).stderr(their_stderr).process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes plain system calls on
    // integers, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            if let Some(fd) = birth {
                tell_birth(fd);
            }
            // While we still may: `0` means the caller.
            if let Some(fd) = cgroup {
                check(libc::write(fd, c"0".as_ptr().cast(), 1) as libc::c_int)?;
            }
            // None of the programs that it starts gets a capability again, whoever it runs as.
            drop_bounds();
            if let Some(User { uid, gid }) = user {
                // Programs open `/dev/stdout` and `/proc/self/fd/3` anew, which the owner alone may.
                for fd in [Some(libc::STDOUT_FILENO), Some(libc::STDERR_FILENO), bootstrap].into_iter().flatten() {
                    check(libc::fchown(fd, uid, gid))?;
                }
                // The raw calls are for this thread alone, which is all there is after a fork. In this order: a user
                // without capabilities may not change its groups.
                check(libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) as libc::c_int)?;
                check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as libc::c_int)?;
                check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as libc::c_int)?;
            }
            // What it has inherited without us knowing, as from a service manager, goes as well.
            rustix::thread::clear_ambient_capability_set().or_else(unknown)?;
            rustix::thread::set_capabilities(None, NO_CAPABILITIES)?;
            for (resource, most) in limits.into_iter().flatten() {
                rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })?;
            }
            if let Some(fd) = bootstrap {
                // dup2 onto itself keeps close-on-exec, so the flag is cleared in both cases.
                check(if fd == BOOTSTRAP_FD {
                    libc::fcntl(fd, libc::F_SETFD, 0)
                } else {
                    libc::dup2(fd, BOOTSTRAP_FD)
                })?;
            }
            let first = if bootstrap.is_some() { BOOTSTRAP_FD + 1 } else { BOOTSTRAP_FD };
            // Close-on-exec rather than close: the standard library reports a failed exec through a pipe of its own.
            // Kernels before 5.11 lack the flag; there our own descriptors, all close-on-exec, are still safe.
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            if birth.is_none() {
                // After the change of user, which would clear it.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            }
            libc::umask(0o027);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(e) => {
            let _ = kill_group(pid, Signal::KILL);
            let _ = child.wait();
            return Err(e.into());
        }
    };
    // It is a wish: on a machine that does not let us, the server is as likely to go as the app.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), OOM_SCORE);
    Ok(Spawned { child, pid, pidfd, stdout: stdout.into(), stderr: stderr.into() })
}

/// Sends `signal` to every process of the group that [`spawn`] made; a group that is gone is fine.
pub(crate) fn kill_group(pid: Pid, signal: Signal) -> io::Result<()> {
    match rustix::process::kill_process_group(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Changes how many processes the user of a running program may have, as that program sees it.
pub(crate) fn limit_processes(pid: Pid, processes: u64) -> io::Result<()> {
    let most = Some(allowed(Resource::Nproc, processes));
    rustix::process::prlimit(Some(pid), Resource::Nproc, Rlimit { current: most, maximum: most })?;
    Ok(())
}

/// Keeps programs of our own user out of our memory and descriptors (ptrace(2)), where apps run as that user.
pub(crate) fn hide_memory() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// The user at the other end of a unix socket, as the kernel says.
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Whether the process at the other end of a unix socket is in group `gid`, by its primary or another group.
pub(crate) fn peer_in_group(stream: &UnixStream, gid: u32) -> io::Result<bool> {
    if rustix::net::sockopt::socket_peercred(stream)?.gid.as_raw() == gid {
        return Ok(true);
    }
    // Linux lets a process be in this many groups (limits.h, NGROUPS_MAX).
    let mut groups: Vec<libc::gid_t> = vec![0; 65536];
    let mut size = libc::socklen_t::try_from(size_of_val(groups.as_slice())).expect("256 KiB fit");
    // SAFETY: the kernel writes at most `size` bytes, the length of the vector, and says in `size` how many.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut size,
        )
    })?;
    Ok(groups.iter().take(size as usize / size_of::<libc::gid_t>()).any(|g| *g == gid))
}

/// Watches a listening socket for one worker of several: a new connection wakes one of them (EPOLLEXCLUSIVE,
/// epoll_ctl(2)). Level-triggered, so that what one worker leaves wakes the next. To pause, [`unwatch`] it.
pub(crate) fn watch_exclusive(poll: &mio::Poll, fd: impl AsFd, token: mio::Token) -> io::Result<()> {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
    Ok(epoll::add(borrow(poll), fd, epoll::EventData::new_u64(token.0 as u64), flags)?)
}

pub(crate) fn unwatch(poll: &mio::Poll, fd: impl AsFd) -> io::Result<()> {
    Ok(epoll::delete(borrow(poll), fd)?)
}

/// What a TCP connection has moved since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Bytes that the peer's kernel has acknowledged.
    pub acked: u64,
    /// Bytes that have come, read or not.
    pub received: u64,
}

/// Asks the kernel what `stream` has moved (tcp(7), TCP_INFO). `None` when it does not say, as before Linux 4.1.
pub(crate) fn tcp_moved(stream: impl AsFd) -> Option<Moved> {
    /// Up to and with `tcpi_bytes_received` of `struct tcp_info` (linux/tcp.h), which only ever grows at its end.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        states: [u8; 8],
        counters: [u32; 24],
        pacing_rates: [u64; 2],
        acked: u64,
        received: u64,
    }
    let mut info = Info::default();
    let mut size = libc::socklen_t::try_from(size_of::<Info>()).expect("136 fits");
    // SAFETY: the kernel writes at most `size` bytes, the length of `info`, and any bytes are a valid one.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    let known = check(result).is_ok() && size as usize == size_of::<Info>();
    known.then_some(Moved { acked: info.acked, received: info.received })
}

/// Lets the kernel hold at most about `bytes` that it has not yet sent for `socket`; a listener hands that on to what it
/// accepts (tcp(7), TCP_NOTSENT_LOWAT).
pub(crate) fn limit_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<u32>()).expect("4 fits");
    // SAFETY: the kernel reads `size` bytes, the size of what is pointed at.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size,
        )
    })
}

/// Bytes of memory that this machine has.
pub(crate) fn memory() -> Option<u64> {
    // SAFETY: both read a number.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    Some(u64::try_from(pages).ok()? * u64::try_from(page).ok()?)
}

/// Raises the limit of open descriptors as far as allowed and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// As much of `wanted` as may be given: more than we have ourselves takes CAP_SYS_RESOURCE, which even root may lack.
fn allowed(resource: Resource, wanted: u64) -> u64 {
    rustix::process::getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted))
}

fn borrow(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to `poll`, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

fn plain_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Its writing end reads as well (fifo(7)), so the pipe always has a reader: who writes is never told that nobody
/// listens, and waits at most for room. For the reading end it is over when the last writing end is closed, as ever.
fn lasting_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let itself = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let both = std::fs::OpenOptions::new().read(true).write(true).open(itself)?;
    Ok((reader.into(), both.into()))
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

/// The read end of a pipe that already holds `bytes` and whose write end is closed.
fn filled_pipe(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() > MAX_BOOTSTRAP {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the bootstrap message is too large"));
    }
    let (reader, mut writer) = io::pipe()?;
    if bytes.len() > 64 << 10 {
        rustix::pipe::fcntl_setpipe_size(&writer, bytes.len())?;
    }
    writer.write_all(bytes)?;
    Ok(reader.into())
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

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Counts what each thread asks of the allocator, so that a test can say that the steady path asks nothing.
#[cfg(test)]
pub(crate) mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static ASKED: Cell<u64> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    /// How often this thread has asked for memory.
    pub fn here() -> u64 {
        ASKED.with(Cell::get)
    }

    fn count() {
        // A thread that is ending has no count any more.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
    }

    // SAFETY: everything is passed on to the system's allocator as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller keeps to the contract, which is the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(memory, layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count();
            // SAFETY: as above.
            unsafe { System.realloc(memory, layout, size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

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
    fn knows_the_groups_of_a_peer() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(peer_in_group(&ours, rustix::process::getegid().as_raw()).unwrap());
        // The kernel keeps this id for `no group` (setresgid(2)), so nobody is in it.
        assert!(!peer_in_group(&ours, u32::MAX).unwrap());
        for gid in rustix::process::getgroups().unwrap() {
            assert!(peer_in_group(&ours, gid.as_raw()).unwrap());
        }
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
        let limits = Limits { processes: Some(7), data: Some(64 << 20) };
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
        let limits = Limits { processes: Some(u64::MAX - 1), data: None };
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
    fn knows_what_a_connection_has_moved() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        let (sent, got) = (tcp_moved(&client).unwrap(), tcp_moved(&server).unwrap());
        assert_eq!((sent.received, got.received), (0, 1000));
        assert!((1000..1002).contains(&sent.acked), "{sent:?}, where the SYN may count for one");
        assert!(memory().unwrap() > 1 << 20);
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
}
