//! Programs that we run to make a release ready: installers of dependencies, and tools that are asked a question.
//!
//! **Invariant**: each runs in a process group of its own, for a bounded time, with a bounded memory of what it said;
//! when it is over nothing of the group is left.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{self, Spawn, Spawned, User};

/// Lines of output that are shown: how it began, where npm says what is wrong before it explains itself at length, and
/// how it ended.
const FIRST_LINES: usize = 12;
const LAST_LINES: usize = 28;
/// Longest line that is kept; the rest of it is dropped.
const MAX_LINE: usize = 500;
/// What is kept of all that is said; an installer that says more says the same again and again.
const MAX_KEPT: u64 = 4 << 20;
/// Of the 19 steps that everything else may go before; all of them would starve it on a busy machine. For disks the kernel
/// makes it the last of the usual class (ioprio_set(2)).
const NICE: i32 = 15;
/// How soon a program is stopped once nobody wants it any more.
const WATCH: Duration = Duration::from_millis(100);

/// A program to run to its end.
pub(crate) struct Run<'a> {
    pub argv: &'a [OsString],
    pub dir: PathBuf,
    pub env: Vec<(OsString, OsString)>,
    pub limit: Duration,
    /// Who it runs as; `None` is who we are.
    pub user: Option<User>,
    /// Whether everything else on the machine comes first.
    pub low: bool,
    /// The file that gets all that it says, up to [`MAX_KEPT`].
    pub kept: Option<&'a Path>,
}

/// How it ended, and the first and last lines that it wrote to either stream.
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub lines: Vec<String>,
}

impl Run<'_> {
    /// Runs until the end, the limit, or until `unwanted` says so; the whole group is gone then.
    ///
    /// # Errors
    /// Timeout or Interrupted, with those lines as detail; NotFound when there is no such program.
    pub fn finish(self, unwanted: &dyn Fn() -> bool) -> Result<Ended> {
        let name = self.argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let spawn = Spawn {
            argv: self.argv,
            dir: self.dir,
            env: self.env,
            bootstrap: None,
            user: self.user,
            cgroup: None,
            limits: sys::Limits { nice: if self.low { NICE } else { 0 }, ..sys::Limits::default() },
            outlives_us: None,
        };
        let mut spawned = sys::spawn(&spawn).context(|| format!("start `{name}`"))?;
        let mut tail = Tail { kept: self.kept.and_then(Kept::create), ..Tail::default() };
        let stopped = watch(&mut spawned, &mut tail, Instant::now() + self.limit, unwanted);
        // Also after a good end: what was left in the background would hold our pipes and the release.
        let _ = sys::kill_group(spawned.pid, Signal::KILL);
        let status = spawned.child.wait().context(|| format!("wait for `{name}`"))?;
        match stopped {
            None => Ok(Ended { status, lines: tail.finish() }),
            Some(kind) => {
                let why = match kind {
                    Kind::Timeout => format!("did not end within {}s", self.limit.as_secs()),
                    _ => "was stopped, because the client went away".into(),
                };
                Err(Error::new(kind, format!("`{name}` {why}")).with_detail(tail.finish()))
            }
        }
    }
}

/// Reads both streams until the program has ended; why it must be stopped, if it must.
fn watch(spawned: &mut Spawned, tail: &mut Tail, until: Instant, unwanted: &dyn Fn() -> bool) -> Option<Kind> {
    let Spawned { pidfd, stdout, stderr, .. } = spawned;
    let (mut out, mut err) = (Some(stdout), Some(stderr));
    let mut buffer = [0; 8 << 10];
    let mut ended = false;
    loop {
        let wait = if ended { Duration::ZERO } else { WATCH };
        let ready = {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
            fds.extend(out.as_ref().map(|f| PollFd::from_borrowed_fd(f.as_fd(), PollFlags::IN)));
            fds.extend(err.as_ref().map(|f| PollFd::from_borrowed_fd(f.as_fd(), PollFlags::IN)));
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            if poll(&mut fds, Some(&wait)).is_err() {
                continue;
            }
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>()
        };
        let mut streams = ready[1..].iter().copied();
        let mut heard = false;
        if out.is_some() && streams.next() == Some(true) {
            heard = true;
            tail.read_from(&mut out, &mut buffer);
        }
        if err.is_some() && streams.next() == Some(true) {
            heard = true;
            tail.read_from(&mut err, &mut buffer);
        }
        if ended && !heard {
            return None;
        }
        ended |= ready[0];
        if Instant::now() >= until {
            return (!ended).then_some(Kind::Timeout);
        }
        if !ended && unwanted() {
            return Some(Kind::Interrupted);
        }
    }
}

/// The first and the last lines of what was said.
#[derive(Default)]
struct Tail {
    first: Vec<String>,
    last: VecDeque<String>,
    between: usize,
    part: Vec<u8>,
    kept: Option<Kept>,
}

/// The file of all that was said; of a flood its beginning, since the end is in the lines.
struct Kept {
    file: File,
    path: PathBuf,
    room: u64,
    lost: u64,
}

impl Tail {
    /// One read of a stream that has something; `None` from then on when it has ended.
    fn read_from(&mut self, stream: &mut Option<impl Read>, buffer: &mut [u8]) {
        match stream.as_mut().map(|s| s.read(buffer)) {
            Some(Ok(read)) if read > 0 => self.push(&buffer[..read]),
            _ => *stream = None,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.push(bytes);
        }
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let room = MAX_LINE.saturating_sub(self.part.len());
            self.part.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line: String = String::from_utf8_lossy(&self.part).chars().filter(|c| !c.is_control()).collect();
        self.part.clear();
        if line.trim().is_empty() {
            return;
        }
        if self.first.len() < FIRST_LINES {
            return self.first.push(line);
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
            self.between += 1;
        }
        self.last.push_back(line);
    }

    fn finish(mut self) -> Vec<String> {
        self.end_line();
        if let Some(kept) = self.kept.take() {
            kept.finish();
        }
        let Tail { mut first, last, between, .. } = self;
        if between > 0 {
            first.push(format!("… {between} more lines …"));
        }
        first.extend(last);
        first
    }
}

impl Kept {
    /// In place of what the last installer said. Failing here is no reason not to install.
    fn create(path: &Path) -> Option<Kept> {
        let _ = fs::remove_file(path);
        match disk::create_new(path, 0o640) {
            Ok(file) => Some(Kept { file, path: path.into(), room: MAX_KEPT, lost: 0 }),
            Err(e) => {
                log::warn!("what an installer says is not kept: {e}");
                None
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(usize::try_from(self.room).unwrap_or(usize::MAX));
        match disk::write_all(&mut self.file, &self.path, &bytes[..fits]) {
            Ok(()) => self.room -= fits as u64,
            // A full disk makes the installer fail, and it says so itself.
            Err(_) => self.room = 0,
        }
        self.lost += (bytes.len() - fits) as u64;
    }

    fn finish(mut self) {
        if self.lost > 0 {
            let _ = writeln!(self.file, "\n[{} more bytes are not kept]", self.lost);
        }
    }
}

/// The environment of an installer: that of a build machine, with what tells tools how to reach the network. Nothing
/// else of ours: not the notify socket, not what was meant for the daemon.
pub(crate) fn environment(path: OsString, home: &Path, tmp: &Path) -> Vec<(OsString, OsString)> {
    const PASSED_ON: [&str; 13] = [
        "LANG",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "DENO_CERT",
        // Of npm, Bun and Deno alike: where an operator's own registry is.
        "NPM_CONFIG_REGISTRY",
        "npm_config_registry",
    ];
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), path),
        ("HOME".into(), home.into()),
        ("TMPDIR".into(), tmp.into()),
        ("CI".into(), "1".into()),
        ("NO_COLOR".into(), "1".into()),
        ("NODE_ENV".into(), "production".into()),
    ];
    env.extend(PASSED_ON.iter().filter_map(|name| Some((OsString::from(name), env::var_os(name)?))));
    env
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn sh(script: &str, limit: Duration, unwanted: &dyn Fn() -> bool) -> Result<Ended> {
        let argv = sys::shell(script);
        let env = environment("/usr/bin:/bin".into(), Path::new("/tmp"), Path::new("/tmp"));
        Run { argv: &argv, dir: "/".into(), env, limit, user: None, low: false, kept: None }.finish(unwanted)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn keeps_the_first_and_last_lines_and_the_status() {
        let script = "for i in $(seq 1 50); do echo line $i; done; printf half; exit 3";
        let ended = sh(script, LONG, &|| false).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        let lines: Vec<&str> = ended.lines.iter().map(String::as_str).collect();
        assert_eq!(lines[..2], ["line 1", "line 2"]);
        assert_eq!(lines[FIRST_LINES..FIRST_LINES + 2], ["… 11 more lines …", "line 24"]);
        assert_eq!(lines[FIRST_LINES + LAST_LINES - 1..], ["line 50", "half"]);
    }

    #[test]
    fn hears_both_streams() {
        let mut lines = sh("echo out; echo err >&2", LONG, &|| false).unwrap().lines;
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let ended = sh("head -c 3000000 /dev/zero | tr '\\0' x", LONG, &|| false).unwrap();
        assert_eq!(ended.lines.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE]);
    }

    #[test]
    fn stops_the_whole_group_at_the_limit_and_shows_what_was_said() {
        let started = Instant::now();
        // The shell has begun by then also on a machine that stands still for a while.
        let e = sh("echo begun; sleep 60 & sleep 60", Duration::from_secs(4), &|| false).err().unwrap();
        assert_eq!((e.kind(), e.detail()), (Kind::Timeout, &["begun".to_owned()][..]));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn stops_when_nobody_wants_it_any_more() {
        let asked = Cell::new(0);
        let e = sh("sleep 60", LONG, &|| asked.replace(asked.get() + 1) > 1).err().unwrap();
        assert_eq!(e.kind(), Kind::Interrupted);
    }

    #[test]
    fn does_not_wait_for_what_was_left_in_the_background() {
        let started = Instant::now();
        let ended = sh("sleep 60 & echo done", LONG, &|| false).unwrap();
        assert_eq!(ended.lines, ["done"]);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn keeps_all_that_was_said_up_to_a_bound_and_runs_behind_others() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("install.log");
        let run = |script: &str| {
            let argv = sys::shell(script);
            let env = environment("/usr/bin:/bin".into(), dir.path(), dir.path());
            let run = Run { argv: &argv, dir: "/".into(), env, limit: LONG, user: None, low: true, kept: Some(&kept) };
            run.finish(&|| false).unwrap().lines
        };
        let ours: i32 = sys_nice("self");
        let lines =
            run("for i in $(seq 100); do echo $i; done; echo no >&2; echo \"nice $(cut -d' ' -f19 /proc/self/stat)\"");
        assert_eq!(fs::read_to_string(&kept).unwrap().lines().count(), 102);
        // Of two streams it is not known which one is read first.
        let nice = lines.iter().find_map(|line| line.strip_prefix("nice ")).expect("it is one of the last lines");
        assert!(nice.parse::<i32>().unwrap() > ours, "{lines:?}");
        run("head -c 9000000 /dev/zero | tr '\\0' 'x'");
        let text = fs::read_to_string(&kept).unwrap();
        assert!((text.len() as u64) < MAX_KEPT + 100 && text.ends_with("more bytes are not kept]\n"));
    }

    fn sys_nice(process: &str) -> i32 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn names_the_program_that_is_not_there() {
        let argv = [OsString::from("/nowhere/npm"), "ci".into()];
        let run = Run { argv: &argv, dir: "/".into(), env: vec![], limit: LONG, user: None, low: false, kept: None };
        let e = run.finish(&|| false).err().unwrap();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (Kind::NotFound, "start `/nowhere/npm ci`: no such file or directory")
        );
    }
}
