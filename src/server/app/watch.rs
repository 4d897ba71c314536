//! Watch: one thread that owns every process of an instance: its exit and all it prints.
//!
//! One mio poll over every pidfd and pipe, so that the number of threads does not grow with instances, output is read
//! from the first byte, and an exit is known at once. Signals go through here as well, because only the thread that
//! reaps a process knows that its number is still its own.
//!
//! **Invariant**: a process is reaped after its group was killed and after what it printed was read, and its exit is
//! told once, as the last event about it.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::Signal;

use super::held::Held;
use super::instance::Event;
use super::lines::Lines;
use super::logs::Voice;
use super::poller::{BELL, Poller};
use crate::error::Result;
use crate::proto::control::Stream;
use crate::proxy::table::EndpointId;
use crate::server::cgroup::Leaf;

/// What an app prints on standard output when it listens, followed by the port.
const READY: &str = "TAKO:READY:";
/// Read at once; half of what a pipe holds, so that an app that says much can go on while we look at it.
const BUFFER: usize = 32 << 10;
/// Read from one pipe before the others get their turn.
const TURN: usize = 256 << 10;
/// Read at most of what is left in a pipe when its process has ended; more than a pipe holds by default.
const REST: usize = 1 << 20;

/// A cloneable way to the thread.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Poller<Order>>);

/// A process for the thread to own.
pub(crate) struct Watched {
    pub id: EndpointId,
    pub held: Held,
    /// Its ready signal was heard before.
    pub was_ready: bool,
    /// The group that it is in with all that it starts, where there are groups.
    pub leaf: Option<Leaf>,
    pub voice: Voice,
    pub to: Sender<(EndpointId, Event)>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    /// It ended, and only its parent could tell how: an earlier run of this program, which is no more.
    Unknown,
}

enum Order {
    Add(Box<Watched>),
    Signal(EndpointId, Signal),
}

impl Watch {
    pub fn start() -> Result<Watch> {
        let run = |poll, orders| Watcher { poll, processes: HashMap::new(), again: Vec::new() }.run(&orders);
        Ok(Watch(Arc::new(Poller::start("watch", run)?)))
    }

    pub fn add(&self, watched: Watched) {
        self.0.send(Order::Add(Box::new(watched)));
    }

    /// Signals the group of a process; one that has ended is left alone.
    pub fn signal(&self, id: EndpointId, signal: Signal) {
        self.0.send(Order::Signal(id, signal));
    }
}

/// The thread's own.
struct Watcher {
    poll: Poll,
    processes: HashMap<u64, Process>,
    /// Pipes with more to read than their turn allowed: an edge is told only once.
    again: Vec<Token>,
}

struct Process {
    watched: Watched,
    out: Lines,
    err: Lines,
    /// Both ends are open until nobody holds the other end.
    out_open: bool,
    err_open: bool,
    ready: bool,
    /// Its leader has ended, and is not reaped yet.
    ended: bool,
    /// It was asked to end: what it started may take its time to end as well.
    asked: bool,
    killed: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Exit = 0,
    Out = 1,
    Err = 2,
}

impl Watcher {
    fn run(mut self, orders: &Receiver<Option<Order>>) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = (!self.again.is_empty()).then_some(std::time::Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => log::error!("watch: poll failed error={e}"),
                Ok(()) => {}
            }
            let mut due = std::mem::take(&mut self.again);
            due.extend(events.iter().map(|e| e.token()).filter(|t| *t != BELL));
            due.into_iter().for_each(|token| self.turn(token));
            while let Ok(order) = orders.try_recv() {
                match order {
                    Some(Order::Add(watched)) => self.add(*watched),
                    Some(Order::Signal(id, signal)) => self.signal(id, signal),
                    None => return,
                }
            }
        }
    }

    fn add(&mut self, watched: Watched) {
        let id = watched.id;
        let mut process = Process {
            out: Lines::new(),
            err: Lines::new(),
            out_open: watched.held.stdout.is_some(),
            err_open: watched.held.stderr.is_some(),
            ready: watched.was_ready,
            watched,
            ended: false,
            asked: false,
            killed: false,
        };
        if let Err(e) = process.register(self.poll.registry()) {
            // Without a way to hear it we cannot keep it.
            log::error!("watch: cannot watch a process pid={} error={e}", process.watched.held.number());
            process.kill();
        }
        self.processes.insert(id.0, process);
        if self.processes[&id.0].killed {
            self.reap(id.0);
        }
    }

    fn signal(&mut self, id: EndpointId, signal: Signal) {
        let Some(process) = self.processes.get_mut(&id.0) else { return };
        process.asked = true;
        if signal == Signal::KILL {
            process.kill();
            return self.reap_if_over(id.0);
        }
        if let Err(e) = process.watched.held.signal(signal) {
            log::warn!("watch: cannot signal pid={} error={e}", process.watched.held.number());
        }
        self.reap_if_over(id.0);
    }

    fn turn(&mut self, token: Token) {
        let id = (token.0 >> 2) as u64;
        // An event of a process that has been reaped since.
        let Some(process) = self.processes.get_mut(&id) else { return };
        match token.0 & 3 {
            0 => process.ended = true,
            part => {
                let part = if part == 1 { Part::Out } else { Part::Err };
                if process.read(part, TURN) {
                    self.again.push(token);
                }
            }
        }
        self.reap_if_over(id);
    }

    fn reap_if_over(&mut self, id: u64) {
        if self.processes.get(&id).is_some_and(Process::is_over) {
            self.reap(id);
        }
    }

    fn reap(&mut self, id: u64) {
        let Some(mut process) = self.processes.remove(&id) else { return };
        // Looked at first, of one that ended by itself: a daemon leaves what it has become.
        let others = !process.asked && process.watched.leaf.as_ref().is_some_and(|leaf| !leaf.is_empty());
        // The leader is not reaped yet, so the group's number is still its own.
        process.kill();
        process.read(Part::Out, REST);
        process.read(Part::Err, REST);
        process.last_lines();
        let exit = process.watched.held.reap();
        process.deregister(self.poll.registry());
        if others {
            let _ = process.watched.to.send((process.watched.id, Event::LeftOthers));
        }
        let _ = process.watched.to.send((process.watched.id, Event::Exited(exit)));
    }
}

impl Process {
    /// A crash ends the rest of the group at once; who was asked to end may wait for what it started, as long as that
    /// holds its output open and is not killed.
    fn is_over(&self) -> bool {
        self.ended && (!self.asked || self.killed || !(self.out_open || self.err_open))
    }

    fn kill(&mut self) {
        self.killed = true;
        let _ = self.watched.held.signal(Signal::KILL);
        // And what has left the process group.
        self.watched.leaf.iter().for_each(Leaf::kill);
    }

    /// True when there is more to read.
    fn read(&mut self, part: Part, limit: usize) -> bool {
        let Process { watched, out, err, out_open, err_open, ready, .. } = self;
        let Watched { id, held, voice, to, .. } = watched;
        let (pipe, lines, open, stream) = match part {
            Part::Out => (&mut held.stdout, out, out_open, Stream::Out),
            Part::Err | Part::Exit => (&mut held.stderr, err, err_open, Stream::Err),
        };
        let Some(pipe) = pipe else { return false };
        let mut buffer = [0; BUFFER];
        let mut left = limit;
        while *open {
            match pipe.read(&mut buffer) {
                Ok(0) => *open = false,
                Ok(n) => {
                    let mut said = String::with_capacity(n);
                    lines.feed(&buffer[..n], |line| match port(line) {
                        Some(port) if stream == Stream::Out && !*ready => {
                            *ready = true;
                            let _ = to.send((*id, Event::Ready(port)));
                        }
                        _ => {
                            said.push_str(line);
                            said.push('\n');
                        }
                    });
                    if !said.is_empty() {
                        voice.say(stream, said);
                    }
                    left = left.saturating_sub(n);
                    if left == 0 {
                        return true;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => *open = false,
            }
        }
        false
    }

    /// What ended without an end of line.
    fn last_lines(&mut self) {
        self.out.end(|line| self.watched.voice.say(Stream::Out, format!("{line}\n")));
        self.err.end(|line| self.watched.voice.say(Stream::Err, format!("{line}\n")));
    }

    fn register(&mut self, registry: &mio::Registry) -> io::Result<()> {
        let held = &self.watched.held;
        for pipe in [&held.stdout, &held.stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        for (fd, part) in self.descriptors() {
            let token = Token((self.watched.id.0 as usize) << 2 | part as usize);
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        }
        Ok(())
    }

    fn deregister(&mut self, registry: &mio::Registry) {
        for (fd, _) in self.descriptors() {
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
    }

    fn descriptors(&self) -> impl Iterator<Item = (RawFd, Part)> + use<> {
        let Held { pidfd, stdout, stderr, .. } = &self.watched.held;
        let pipe = |file: &Option<File>, part| file.as_ref().map(|f| (f.as_raw_fd(), part));
        [Some((pidfd.as_raw_fd(), Part::Exit)), pipe(stdout, Part::Out), pipe(stderr, Part::Err)].into_iter().flatten()
    }
}

fn port(line: &str) -> Option<u16> {
    line.strip_prefix(READY)?.trim_end().parse().ok().filter(|port| *port != 0)
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        }
    }
}

/// As the end of a sentence: `exited with code 1`.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Exit::Code(code) => return write!(f, "exited with code {code}"),
            Exit::Signal(libc::SIGKILL) => " (SIGKILL)",
            Exit::Signal(libc::SIGSEGV) => " (SIGSEGV)",
            Exit::Signal(libc::SIGABRT) => " (SIGABRT)",
            Exit::Signal(libc::SIGTERM) => " (SIGTERM)",
            Exit::Signal(libc::SIGILL) => " (SIGILL)",
            Exit::Signal(libc::SIGBUS) => " (SIGBUS)",
            Exit::Signal(libc::SIGTRAP) => " (SIGTRAP)",
            Exit::Signal(libc::SIGINT) => " (SIGINT)",
            Exit::Signal(libc::SIGHUP) => " (SIGHUP)",
            Exit::Signal(libc::SIGPIPE) => " (SIGPIPE)",
            Exit::Signal(libc::SIGFPE) => " (SIGFPE)",
            Exit::Signal(_) => "",
            Exit::Unknown => return f.write_str("ended, and how is not known: an earlier tako-server started it"),
        };
        let Exit::Signal(signal) = self else { return Ok(()) };
        write!(f, "was ended by signal {signal}{name}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::server::app::logs::{Logs, Source};
    use crate::sys::{self, Spawn};

    struct Run {
        watch: Watch,
        id: EndpointId,
        voice: Voice,
        events: Receiver<(EndpointId, Event)>,
        _dir: tempfile::TempDir,
    }

    fn sh(script: &str) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let voice = Voice::new(&Logs::start().unwrap(), &Source::new(dir.path().into()), "v1", 1);
        let spawned = sys::spawn(&Spawn::plain(&sys::shell(script))).unwrap();
        let (to, events) = unbounded();
        let (watch, id) = (Watch::start().unwrap(), EndpointId(1));
        watch.add(Watched { id, held: spawned.into(), leaf: None, was_ready: false, voice: voice.clone(), to });
        Run { watch, id, voice, events, _dir: dir }
    }

    impl Run {
        fn next(&self) -> Event {
            self.events.recv_timeout(Duration::from_secs(10)).unwrap().1
        }

        fn until_said(&self, line: &str) {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while !self.voice.last_lines().iter().any(|l| l == line) {
                assert!(std::time::Instant::now() < deadline, "{line} is not there: {:?}", self.voice.last_lines());
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn hears_the_ready_signal_and_all_that_is_said_before_the_exit() {
        let run = sh("echo one; echo TAKO:READY:0; echo TAKO:READY:4711; echo TAKO:READY:4712; printf end >&2; exit 3");
        assert_eq!(run.next(), Event::Ready(4711));
        assert_eq!(run.next(), Event::Exited(Exit::Code(3)));
        let mut said = run.voice.last_lines();
        said.sort();
        assert_eq!(said, ["TAKO:READY:0", "TAKO:READY:4712", "end", "one"]);
    }

    #[test]
    fn a_crash_ends_the_whole_group_at_once() {
        let run = sh("sleep 1000 & exit 1");
        assert_eq!(run.next(), Event::Exited(Exit::Code(1)));
    }

    #[test]
    fn who_is_asked_to_end_may_wait_for_what_it_started() {
        // The leader, ready for it before the child says a word, ends at the signal; the child has a last word first.
        let child = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let run = sh(&format!("trap 'exit 0' TERM; sh -c \"{child}\" & wait"));
        run.until_said("up");
        run.watch.signal(run.id, Signal::TERM);
        assert_eq!(run.next(), Event::Exited(Exit::Code(0)));
        assert_eq!(run.voice.last_lines().last().unwrap(), "bye");
    }

    #[test]
    fn who_does_not_listen_is_killed() {
        let run = sh("trap '' TERM; echo up; while :; do sleep 1; done");
        run.until_said("up");
        run.watch.signal(run.id, Signal::TERM);
        run.watch.signal(run.id, Signal::KILL);
        assert_eq!(run.next(), Event::Exited(Exit::Signal(9)));
    }

    #[test]
    fn a_flood_of_output_blocks_nobody() {
        let run = sh("head -c 5000000 /dev/zero | tr '\\0' 'x'; echo; echo done; exit 0");
        assert_eq!(run.next(), Event::Exited(Exit::Code(0)));
        assert_eq!(run.voice.last_lines().last().unwrap(), "done");
    }
}
