//! Programs that we start and must not leave behind: each in a process group of its own, so that Ctrl-C on the terminal
//! reaches us alone, and killed with all its children when we let go of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::sys;

/// What a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// How soon we look again whether a program has ended, where no pipe tells us: most have, a moment after their pipes did.
const LOOK: Duration = Duration::from_micros(200);
/// Each time twice as late, up to this.
const LATEST_LOOK: Duration = Duration::from_millis(5);
/// A longer line of a program's output is cut; nobody reads more of it.
const MAX_LINE: usize = 2 << 10;

/// Groups that nobody misses: they are killed when we are made to end at once.
static LEASHED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A running program, stopped and reaped on drop.
pub(crate) struct Owned {
    pub child: Child,
    pid: Pid,
    ended: Option<ExitStatus>,
    /// What it started stays when it ends.
    alone: bool,
}

/// Kills what [`Owned::spawn_leashed`] started, for an end that drops nothing.
pub(crate) fn kill_leashed() {
    leashed().drain(..).for_each(|group| {
        let _ = sys::kill_group(group, Signal::KILL);
    });
}

fn leashed() -> MutexGuard<'static, Vec<Pid>> {
    LEASHED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owned {
    pub fn spawn(command: &mut Command) -> io::Result<Owned> {
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Owned { child, pid, ended: None, alone: false })
    }

    /// One that must not outlive us even when a second Ctrl-C ends us before its drop.
    pub fn spawn_leashed(command: &mut Command) -> io::Result<Owned> {
        // Held meanwhile, so that there is no moment at which it runs and is not known.
        let mut leashed = leashed();
        let owned = Owned::spawn(command)?;
        leashed.push(owned.pid);
        Ok(owned)
    }

    /// It leads the group of all that it starts.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// From now on what it started in its group is none of ours: a program that goes on in the background needs it.
    pub fn spare_group(&mut self) {
        self.alone = true;
    }

    /// How it ended, if it does within `limit`. What it left running in its group is killed.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        let mut pause = LOOK;
        while self.ended.is_none() {
            if self.has_ended() {
                self.reap();
            } else if Instant::now() >= until {
                return None;
            } else {
                thread::sleep(pause);
                pause = (pause * 2).min(LATEST_LOOK);
            }
        }
        self.ended
    }

    /// SIGTERM, and SIGKILL for what is still there after `grace`.
    pub fn stop_within(&mut self, grace: Duration) {
        if self.ended.is_some() {
            return;
        }
        self.signal(Signal::TERM);
        if self.wait_for(grace).is_none() {
            self.reap();
        }
    }

    /// Looks without reaping: the process id stays ours until the group is killed.
    fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid), look), Ok(Some(_)) | Err(rustix::io::Errno::CHILD))
    }

    /// It may have ended already; then there is nobody to tell.
    fn signal(&self, signal: Signal) {
        let _ = match self.alone {
            true => kill_process(self.pid, signal).map_err(io::Error::from),
            false => sys::kill_group(self.pid, signal),
        };
    }

    fn reap(&mut self) {
        self.signal(Signal::KILL);
        // Before it is reaped: from then on the number may be that of somebody else.
        leashed().retain(|group| *group != self.pid);
        self.ended = self.child.wait().ok();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.stop_within(GRACE);
    }
}

/// The last lines of a stream, read in a thread from the first byte so that nobody ever blocks on a full pipe.
#[derive(Clone)]
pub(crate) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Disconnects at the end of the stream.
    ended: Receiver<Infallible>,
}

impl Tail {
    /// Keeps the last `keep` lines of `stream`.
    pub fn of(stream: impl Read + Send + 'static, keep: usize) -> Tail {
        let (end, ended) = bounded(0);
        let tail = Tail { lines: Arc::default(), ended };
        let into = tail.clone();
        thread::spawn(move || {
            let _end: Sender<Infallible> = end;
            each_line(stream, |line| into.push(line, keep));
        });
        tail
    }

    /// The last lines once all were read, or after `limit`: a program that has ended may have left some in the pipe, and
    /// another one may hold it open.
    pub fn last_lines(&self, limit: Duration) -> Vec<String> {
        let _ = self.ended.recv_timeout(limit);
        self.lines()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: String, keep: usize) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= keep {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Calls `on` with each line of `stream`, made fit for a terminal, until its end.
pub(crate) fn each_line(stream: impl Read, mut on: impl FnMut(String)) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        let chunk = match stream.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let end = memchr::memchr(b'\n', chunk);
        let part = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(&part[..part.len().min(MAX_LINE - line.len())]);
        let used = end.map_or(chunk.len(), |at| at + 1);
        stream.consume(used);
        if end.is_some() {
            on(plain(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        on(plain(&line));
    }
}

/// The text without escape sequences and control characters: what a program wrote must not drive our terminal.
pub(crate) fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48 §5.4: CSI, parameters, one final byte from `@` to `~`.
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            // §8.3.89: OSC, such as a link or a window's title, until BEL or ST.
            '\x1b' if chars.peek() == Some(&']') => {
                while let Some(c) = chars.next() {
                    if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            // The others that programs use: one that selects a character set takes one more, most take none.
            '\x1b' => {
                if chars.next_if(|c| matches!(c, '(' | ')' | '#')).is_some()
                    || chars.peek().is_some_and(|c| c.is_ascii())
                {
                    chars.next();
                }
            }
            '\t' => plain.push_str("    "),
            // A progress bar goes back to the start of its line; the last state is what counts.
            '\r' => plain.clear(),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn lines_are_cut_and_made_fit_for_a_terminal() {
        let check = |bytes: &[u8], expected: &[&str]| {
            let mut lines = Vec::new();
            each_line(bytes, |line| lines.push(line));
            assert_eq!(lines, expected);
        };
        check(b"one\ntwo", &["one", "two"]);
        check(b"\x1b[31mred\x1b[0m\r\n", &["red"]);
        check(b"10%\r100%\n", &["100%"]);
        check(b"\x1b]8;;https://x.y\x1b\\link\x1b]8;;\x07\x1b(B\x1b7!\n\x1b]0;title", &["link!", ""]);
        check(b"\x07bell\xff\n\n", &["bell\u{fffd}", ""]);
        check(b"", &[]);
        let mut longest = 0;
        each_line(&vec![b'x'; 1 << 20][..], |line| longest = line.len());
        assert_eq!(longest, MAX_LINE);
    }

    #[test]
    fn nothing_of_a_program_is_left_when_it_is_dropped() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 60 & sleep 60"]).stdout(Stdio::piped());
        let mut owned = Owned::spawn(&mut command).unwrap();
        let mut out = owned.child.stdout.take().unwrap();
        drop(owned);
        // The pipe ends only when every process that holds it is gone.
        assert_eq!(out.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn what_a_program_leaves_running_is_killed_when_it_ends() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 60 & exit 3"]).stdout(Stdio::piped());
        let mut owned = Owned::spawn(&mut command).unwrap();
        let mut out = owned.child.stdout.take().unwrap();
        assert_eq!(owned.wait_for(Duration::from_secs(20)).unwrap().code(), Some(3));
        assert_eq!(out.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let (reader, writer) = std::io::pipe().unwrap();
        let tail = Tail::of(reader, 2);
        io::Write::write_all(&mut { writer }, b"a\nb\nc\n").unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while tail.lines() != ["b", "c"] {
            assert!(Instant::now() < until, "{:?}", tail.lines());
            thread::yield_now();
        }
    }
}
