//! Starting a program: what may be asked for, and the parent's side of it. `birth` is the child's.
//!
//! **Invariant**: a program runs with all of its [`Spawn`] or not at all.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::{iter, ptr};

use rustix::process::{Pid, Resource, WaitOptions};

use super::allowed;
use super::birth::{Session, Unborn};
use super::pipes::{filled_pipe, lasting_pipe, plain_pipe};

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

#[cfg(test)]
impl<'a> Spawn<'a> {
    /// With the usual PATH and nothing else that is special, in the root folder.
    pub fn plain(argv: &'a [OsString]) -> Spawn<'a> {
        Spawn {
            argv,
            dir: "/".into(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            bootstrap: None,
            user: None,
            cgroup: None,
            limits: Limits::default(),
            outlives_us: None,
        }
    }
}

/// The words that have a shell do `script`, for tests.
#[cfg(test)]
pub(crate) fn shell(script: &str) -> [OsString; 3] {
    ["/bin/sh", "-c", script].map(OsString::from)
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
    pub(super) fn of(pid: Pid) -> Child {
        Child { pid, status: None }
    }

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
    let streams = [File::open("/dev/null")?.into(), their_stdout, their_stderr];
    let Started { child, pid, pidfd } = start(spec, streams, Session::Ours)?;
    Ok(Spawned { child, pid, pidfd, stdout: stdout.into(), stderr: stderr.into() })
}

/// A program that runs.
pub(super) struct Started {
    pub child: Child,
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// The same with these streams.
pub(super) fn start(spec: &Spawn<'_>, streams: [OwnedFd; 3], session: Session) -> io::Result<Started> {
    let (mut failed, failure) = io::pipe()?;
    let program = CString::new(spec.argv.first().ok_or(io::ErrorKind::InvalidInput)?.clone().into_vec())?;
    let (argv, env) = (strings(spec.argv.iter().cloned())?, strings(spec.env.iter().map(variable))?);
    let child = Unborn {
        program: &program,
        argv: &pointers(&argv),
        env: &pointers(&env),
        dir: &CString::new(spec.dir.clone().into_os_string().into_vec())?,
        streams,
        session,
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
    let mut child = Child::of(pid);
    let mut why = [0; size_of::<i32>()];
    match failed.read_exact(&mut why) {
        // It was closed by the exec.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
        told => {
            let _ = child.wait();
            return Err(told.map_or_else(|e| e, |()| io::Error::from_raw_os_error(i32::from_ne_bytes(why))));
        }
    }
    Ok(Started { child, pid, pidfd })
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

pub(super) fn strings(words: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    words.map(|word| Ok(CString::new(word.into_vec())?)).collect()
}

pub(super) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(iter::once(ptr::null())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::process::Signal;

    use super::*;
    use crate::sys::birth::OOM_SCORE;
    use crate::sys::kill_group;

    /// What it prints, and how it ends.
    fn said(spec: &Spawn<'_>) -> (String, Option<i32>) {
        let mut spawned = spawn(spec).unwrap();
        let mut out = String::new();
        spawned.stdout.read_to_string(&mut out).unwrap();
        (out, spawned.child.wait().unwrap().code())
    }

    fn sh(script: &str, bootstrap: Option<&[u8]>) -> (String, Option<i32>) {
        said(&Spawn { bootstrap, ..Spawn::plain(&shell(script)) })
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
        let argv = shell("id -u; id -G; grep CapPrm /proc/self/status");
        let user = Some(User { uid: 70_001, gid: 70_002 });
        let (out, _) = said(&Spawn { user, ..Spawn::plain(&argv) });
        assert_eq!(out, "70001\n70002\nCapPrm:\t0000000000000000\n");
    }

    /// Its readers are gone, as when we are killed: it goes on, and who opens the pipe anew reads on.
    #[test]
    fn what_outlives_us_is_not_ended_by_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let birth = std::fs::File::create_new(dir.path().join("birth")).unwrap();
        let script = "echo one; until test -e go; do sleep 0.01; done; echo two; echo three; exec sleep 600";
        let argv = shell(script);
        let (dir, outlives_us) = (dir.path(), Some(birth.as_fd()));
        let spec = Spawn { dir: dir.into(), outlives_us, ..Spawn::plain(&argv) };
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
        let argv = shell("ulimit -d; ulimit -u 2>/dev/null || ulimit -p");
        let limits = Limits { processes: Some(7), data: Some(64 << 20), nice: 0 };
        let (out, _) = said(&Spawn { limits, ..Spawn::plain(&argv) });
        assert_eq!(out, "65536\n7\n");
    }

    #[test]
    fn a_limit_beyond_our_own_is_our_own() {
        let argv = shell("ulimit -Hu 2>/dev/null || ulimit -Hp");
        let limits = Limits { processes: Some(u64::MAX - 1), ..Limits::default() };
        let (out, _) = said(&Spawn { limits, ..Spawn::plain(&argv) });
        let ours = rustix::process::getrlimit(Resource::Nproc).maximum;
        assert!(ours.is_none() || out.trim() == ours.unwrap().to_string(), "{out} beside {ours:?}");
    }

    #[test]
    fn stops_the_whole_group() {
        let mut spawned = spawn(&Spawn::plain(&shell("sleep 60 & sleep 60"))).unwrap();
        kill_group(spawned.pid, Signal::KILL).unwrap();
        // The pipe ends only when every process that holds it is gone.
        assert_eq!(spawned.stdout.read_to_end(&mut Vec::new()).unwrap(), 0);
        spawned.child.wait().unwrap();
        kill_group(spawned.pid, Signal::KILL).unwrap();
    }

    #[test]
    fn says_when_there_is_no_such_program() {
        let argv = [OsString::from("/nowhere/program")];
        assert_eq!(spawn(&Spawn::plain(&argv)).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_failed_start_says_why_and_leaves_no_child() {
        let start = |argv: &[&str], dir: &str| {
            let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
            spawn(&Spawn { dir: dir.into(), ..Spawn::plain(&argv) }).err().unwrap()
        };
        assert_eq!(start(&["/etc"], "/").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(start(&["/bin/true"], "/nowhere").kind(), io::ErrorKind::NotFound);
        assert_eq!(start(&["/bin/\0true"], "/").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(start(&["/etc/passwd"], "/").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(start(&[], "/").kind(), io::ErrorKind::InvalidInput);
    }
}
