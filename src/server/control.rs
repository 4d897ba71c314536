//! Control: the management socket, and the conversation with one client.
//!
//! One thread accepts, one serves each connection. The server greets, the client says which protocol it speaks, then
//! calls are served in order. While a call takes long its notices are passed on, a beat says that we are alive, and a
//! client that went away is noticed at once: its locks are free while the actor goes on by itself.
//!
//! **Invariant**: whatever a client sends or fails to read, it holds up one thread for a bounded time and nothing else.

use std::cell::Cell;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::app::Event;
use super::daemon::Daemon;
use super::verbs::{self, Outcome, Said, Session};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Answer, Body, Call, Greeting, Hello, LogLine, MAGIC, Notice, Reply};
use crate::proto::fault::Fault;
use crate::proto::{PROTOCOL, wire};
use crate::sys;

/// Connections at a time: a thread each, and a deploy needs one.
const MAX_CONNECTIONS: usize = 64;
/// A client says who it is at once; one that does not is no client.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// A client that reads nothing for this long is gone in all but name.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// How soon a client that went away is noticed while something is done for it.
const WATCH: Duration = Duration::from_millis(100);
/// How often a client hears that something is still being done.
const BEAT: Duration = Duration::from_secs(5);
/// Raw text per message of log lines: six times as much once escaped still fits into a line of the protocol.
const LINES_BYTES: usize = 64 << 10;
/// Longest name of a client that is kept.
const MAX_WHO: usize = 100;

/// The bound socket. Clients that connect wait until [`Listener::serve`].
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// What we bound, so that a successor's socket is not removed in its place.
    inode: (u64, u64),
    group: u32,
}

/// The serving socket.
pub(crate) struct Control {
    /// Closed to end the thread.
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Takes the place of a socket that nobody listens on.
    ///
    /// # Errors
    /// Busy when another daemon answers there; Refused when something else lies there.
    pub fn bind(path: &Path) -> Result<Self> {
        let binding = || format!("listen on {}", path.display());
        make_room(path)?;
        if let Some(dir) = path.parent() {
            disk::make_dirs(dir, 0o750)?;
        }
        let listener = UnixListener::bind(path).context(binding)?;
        // The umask of the daemon kept everybody out until here; from here on the group is let in.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).context(binding)?;
        listener.set_nonblocking(true).context(binding)?;
        let meta = fs::symlink_metadata(path).context(binding)?;
        Ok(Listener { listener, path: path.into(), inode: (meta.dev(), meta.ino()), group: meta.gid() })
    }

    /// Starts the thread `control`.
    pub fn serve(self, daemon: Arc<Daemon>) -> Result<Control> {
        let (ended, stop) = io::pipe().context(|| "make a pipe".into())?;
        let run = move || self.accept(&daemon, &ended);
        let thread = thread::Builder::new().name("control".into()).spawn(run);
        Ok(Control { stop, thread: thread.context(|| "start the thread control".into())? })
    }

    fn accept(&self, daemon: &Arc<Daemon>, ended: &PipeReader) {
        let open = Arc::new(());
        for number in 1u64.. {
            let stream = match self.next(ended) {
                Ok(Some(stream)) => stream,
                Ok(None) => break,
                Err(e) => {
                    log::error!("control cannot accept: {e}");
                    // Out of descriptors: they come back when connections end.
                    thread::sleep(WATCH);
                    continue;
                }
            };
            if let Err(e) = self.admit(&stream, Arc::strong_count(&open)) {
                log::warn!("control refused a client: {e}");
                turn_away(&stream, daemon, e);
                continue;
            }
            let (daemon, open) = (daemon.clone(), open.clone());
            let run = move || {
                Connection { stream: &stream, daemon: &daemon, beat: BEAT }.converse();
                drop(open);
            };
            if let Err(e) = thread::Builder::new().name(format!("control-{number}")).spawn(run) {
                log::error!("control cannot start a thread: {e}");
            }
        }
    }

    /// The next client; `None` when it is time to stop.
    fn next(&self, ended: &PipeReader) -> io::Result<Option<UnixStream>> {
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
                Err(e) => return Err(e),
            }
        }
    }

    /// The mode of the socket already keeps strangers out; this holds even when somebody has widened it.
    fn admit(&self, stream: &UnixStream, open: usize) -> Result<()> {
        let uid = sys::peer_uid(stream).context(|| "ask who connected".into())?;
        let ours = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if !ours && !sys::peer_in_group(stream, self.group).unwrap_or(false) {
            let message = format!("user {uid} may not manage this server");
            return Err(Error::new(Kind::Refused, message).hint(format!("be a member of group {}", self.group)));
        }
        // One of the references is the accepting thread's own.
        if open > MAX_CONNECTIONS {
            let message = format!("there are {MAX_CONNECTIONS} connections to this server already");
            return Err(Error::new(Kind::Busy, message).hint("try again in a moment"));
        }
        Ok(())
    }
}

/// Also when the daemon does not get as far as serving it.
impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Control {
    /// Takes no new connections; those that are open go on until the daemon ends.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn make_room(path: &Path) -> Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("look at {}", path.display())),
    };
    if !there.file_type().is_socket() {
        return Err(Error::new(Kind::Refused, format!("{} is in the way and is not a socket", path.display()))
            .hint("remove it, or choose another path with --socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::new(Kind::Busy, format!("another tako-server listens on {}", path.display()))
            .hint("stop it first, or choose another path with --socket")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context(|| format!("replace the stale socket {}", path.display()))
        }
        Err(e) => Err(e).context(|| format!("ask who listens on {}", path.display())),
    }
}

/// Says why in a way that a client finds, without waiting for it.
fn turn_away(stream: &UnixStream, daemon: &Daemon, why: Error) {
    if stream.set_nonblocking(true).is_ok() {
        let mut stream = stream;
        let _ = wire::send(&mut stream, &hello(daemon));
        let _ = wire::send(&mut stream, &Answer { id: 0, body: Body::Fault(why.into()) });
    }
}

fn hello(daemon: &Daemon) -> Hello {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Hello {
        tako: MAGIC.into(),
        protocol: PROTOCOL,
        server: env!("CARGO_PKG_VERSION").into(),
        target: daemon.about.target,
        clock_ms: now.as_millis().try_into().unwrap_or(u64::MAX),
        incoming: daemon.layout.incoming().display().to_string(),
    }
}

/// One client that was let in.
struct Connection<'a> {
    stream: &'a UnixStream,
    daemon: &'a Arc<Daemon>,
    beat: Duration,
}

/// Something that takes its time, and how it is told.
struct Following<T> {
    heard: Receiver<T>,
    turns: fn(T) -> Vec<Turn>,
    /// What it means that nothing more will be heard.
    closed: fn() -> Result<Reply>,
    /// It has no end of its own: a client that will say nothing more and hears nothing is taken for gone.
    endless: bool,
}

/// What to tell the client next.
enum Turn {
    Notice(Notice),
    End(Result<Reply>),
}

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Here,
    /// It will say nothing more, and may still listen.
    Silent,
    Gone,
}

impl Connection<'_> {
    /// A failure here is the client's or the socket's; it was told if it could be.
    fn converse(&self) {
        if let Err(e) = self.stream.set_write_timeout(Some(WRITE_TIME)).context(|| "set up a connection".into()) {
            return log::warn!("control: {e}");
        }
        if let Err(e) = self.talk()
            && e.kind() != Kind::Io
        {
            log::debug!("control: {e}");
            let _ = self.answer(0, Body::Fault(e.into()));
        }
    }

    fn talk(&self) -> Result<()> {
        self.send(&hello(self.daemon))?;
        let patience = Patience { stream: self.stream, until: Cell::new(Some(Instant::now() + GREETING_TIME)) };
        let mut reader = wire::Reader::new(&patience);
        let Some(greeting) = reader.next::<Greeting>()? else { return Ok(()) };
        patience.until.set(None);
        check_version(greeting.protocol)?;
        let mut session = Session::new(who(&greeting.who));
        while let Some(call) = reader.next::<Call>()? {
            self.serve(&mut session, call)?;
        }
        Ok(())
    }

    fn serve(&self, session: &mut Session, call: Call) -> Result<()> {
        let cut_short = || Err(Error::new(Kind::Bug, "the work ended without a word"));
        let done = || Ok(Reply::Done);
        match verbs::serve(self.daemon, session, call.request) {
            Err(e) => self.end(call.id, Err(e)),
            Ok(Outcome::Reply(reply)) => self.end(call.id, Ok(reply)),
            Ok(Outcome::Events(heard, _lock)) => {
                let events = Following { heard, turns: of_event, closed: cut_short, endless: false };
                self.follow(call.id, session, &events)
            }
            Ok(Outcome::Work(heard)) => {
                let work = Following { heard, turns: of_work, closed: cut_short, endless: false };
                self.follow(call.id, session, &work)
            }
            Ok(Outcome::Lines { heard, endless }) => {
                let lines = Following { heard, turns: of_lines, closed: done, endless };
                self.follow(call.id, session, &lines)
            }
        }
    }

    /// Passes on what is heard until its end.
    fn follow<T>(&self, id: u64, session: &mut Session, it: &Following<T>) -> Result<()> {
        let mut said = Instant::now();
        loop {
            let quiet = match it.heard.recv_timeout(WATCH) {
                Ok(event) => {
                    for turn in (it.turns)(event) {
                        match turn {
                            Turn::Notice(notice) => self.answer(id, Body::Notice(notice))?,
                            Turn::End(end) => return self.end(id, end),
                        }
                    }
                    said = Instant::now();
                    false
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => return self.end(id, (it.closed)()),
            };
            if said.elapsed() >= self.beat {
                self.answer(id, Body::Notice(Notice::Beat))?;
                said = Instant::now();
            }
            match self.presence() {
                Presence::Here => {}
                Presence::Silent if it.endless && quiet => return self.end(id, (it.closed)()),
                Presence::Silent => session.let_go(),
                Presence::Gone => {
                    session.let_go();
                    return Err(Error::new(Kind::Io, "the client is gone"));
                }
            }
        }
    }

    fn presence(&self) -> Presence {
        let mut fds = [PollFd::new(self.stream, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&at_once)) {
            Ok(0) | Err(_) => Presence::Here,
            Ok(_) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => Presence::Gone,
            Ok(_) => Presence::Silent,
        }
    }

    fn end(&self, id: u64, end: Result<Reply>) -> Result<()> {
        let body = match end {
            Ok(reply) => Body::Reply(reply),
            Err(e) => Body::Fault(Fault::from(e)),
        };
        self.answer(id, body)
    }

    fn answer(&self, id: u64, body: Body) -> Result<()> {
        self.send(&Answer { id, body })
    }

    fn send(&self, message: &impl Serialize) -> Result<()> {
        wire::send(&mut &*self.stream, message)
    }
}

fn of_event(event: Event) -> Vec<Turn> {
    vec![match event {
        Event::Notice(notice) => Turn::Notice(notice),
        Event::Done(done) => Turn::End(done.map(Reply::Deployed)),
    }]
}

fn of_work(said: Said) -> Vec<Turn> {
    vec![match said {
        Said::Notice(notice) => Turn::Notice(notice),
        Said::Done(done) => Turn::End(done),
    }]
}

/// As few messages as fit into the protocol's lines.
fn of_lines(lines: Vec<LogLine>) -> Vec<Turn> {
    let mut batches: Vec<Vec<LogLine>> = Vec::new();
    let mut room = 0;
    for line in lines {
        let size = line.text.len() + line.release.len() + 100;
        if size > room {
            batches.push(Vec::new());
            room = LINES_BYTES;
        }
        room = room.saturating_sub(size);
        batches.last_mut().expect("the first line makes a batch").push(line);
    }
    batches.into_iter().map(|lines| Turn::Notice(Notice::Lines { lines })).collect()
}

fn check_version(version: u32) -> Result<()> {
    if (PROTOCOL.min..=PROTOCOL.max).contains(&version) {
        return Ok(());
    }
    let message =
        format!("this server speaks control protocol {} to {}, the client {version}", PROTOCOL.min, PROTOCOL.max);
    Err(Error::new(Kind::Incompatible, message).hint(match version > PROTOCOL.max {
        true => "upgrade tako-server",
        false => "upgrade tako",
    }))
}

/// A name that is safe in a log line and a file.
fn who(typed: &str) -> String {
    let clean: String = typed.chars().filter(|c| !c.is_control()).take(MAX_WHO).collect();
    if clean.is_empty() { "somebody".into() } else { clean }
}

/// Reads from a client, until a deadline while there is one. A read timeout of the socket would start anew with every
/// byte that drips in.
struct Patience<'a> {
    stream: &'a UnixStream,
    until: Cell<Option<Instant>>,
}

impl Read for &Patience<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until.get() {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) as _ };
            let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::IN)];
            if poll(&mut fds, Some(&left))? == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came"));
            }
        }
        let mut stream = self.stream;
        stream.read(buf)
    }
}

#[cfg(test)]
mod tests;
