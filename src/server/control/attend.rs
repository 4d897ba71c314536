//! Attending to a command: what it says goes to the client, what the client says goes to it, both at once and on the
//! one thread of the connection.
//!
//! ```text
//!   stdout, stderr ──read when nothing waits──▶ one message ──when there is room──▶ client
//!   stdin ◀──as it takes it── at most WINDOW bytes ◀──as many as it was told it may── client
//! ```
//! A client that reads nothing stops the command, by a full pipe, and nobody else; one that sends more than it may is
//! shown out. A client is there as long as its side of the connection is: `tako` never closes it before the end.
//!
//! **Invariant**: here are at most one message for the client and [`WINDOW`] bytes for the command; and when the client
//! has gone, so has the command.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::Signal;
use zeroize::Zeroizing;

use super::connection::Connection;
use super::hearing::{Hearing, Patience};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Answer, Body, Call, Notice, Reply, Request, Stream};
use crate::proto::task::{self, Blob, Ended, Input, PIECE, WINDOW};
use crate::proto::wire::{self, Next};
use crate::server::app::Running;
use crate::server::verbs::running::Command;
use crate::sys::{self, Attach, Ends, Size};

/// What a command may take to end once it is told to.
const GRACE: Duration = Duration::from_secs(5);
/// How often we look whether it is called off or out of time.
const LOOK: Duration = Duration::from_millis(100);
/// What is read of each stream after the end: more than a pipe holds, so that whoever has left the group and goes on
/// talking is not listened to for ever.
const REST: usize = 1 << 20;

struct Attending<'a> {
    id: u64,
    running: &'a mut Running,
    terminal: bool,
    stdin: Option<File>,
    /// Bytes for it; none when it has no input.
    input: VecDeque<u8>,
    /// Those that it took since the client was last told.
    took: usize,
    input_ended: bool,
    streams: [Option<File>; 2],
    /// What may still be read of each after the end.
    rest: [usize; 2],
    /// For the client, of which so much was sent.
    message: Zeroizing<Vec<u8>>,
    sent: usize,
    last_sent: Instant,
    /// It was told to end, and is killed then.
    kill_at: Option<Instant>,
    out_of_time: Option<Duration>,
    ended: Option<Ended>,
}

impl Connection<'_> {
    /// Starts a command and serves it until its end is told.
    pub(super) fn attend(&self, id: u64, mut command: Command, hearing: &mut Hearing<'_>) -> Result<()> {
        let mut candidate = command.candidate.take();
        let Command { task, argv, how, term, limit, .. } = command;
        let begun = Instant::now();
        let mut running = match task.start(&argv, how, term.as_deref()) {
            Ok(Ok(running)) => running,
            Ok(Err(ended)) => {
                drop(candidate);
                return self.end(id, Ok(Reply::Ran(ended)));
            }
            Err(e) => {
                drop(candidate);
                return self.end(id, Err(e));
            }
        };
        let mut attending = Attending::new(id, &mut running, how);
        hearing.patience.at_once.set(true);
        let carried = attending.carry(self, &mut hearing.reader, begun, limit);
        hearing.patience.at_once.set(false);
        let good = attending.ended.as_ref().is_some_and(Ended::is_good);
        let seconds = || begun.elapsed().as_secs();
        if let Err(e) = carried {
            attending.hang_up();
            log::info!("a command was ended, its client went away as={:?} seconds={}", attending.ended, seconds());
            return Err(e);
        }
        log::info!("a command ended as={:?} seconds={}", attending.ended, seconds());
        if let Some(candidate) = candidate.as_mut().filter(|_| good) {
            candidate.stays();
        }
        // Before the end is told: who hears of it may deploy again at once.
        drop(candidate);
        let ended = attending.ended.take().unwrap_or(Ended::Signal(Signal::KILL.as_raw()));
        attending.put(Body::Reply(Reply::Ran(ended)))?;
        while !attending.is_quiet() {
            attending.turn(self, None)?;
        }
        Ok(())
    }
}

impl<'a> Attending<'a> {
    fn new(id: u64, running: &'a mut Running, how: Attach) -> Attending<'a> {
        let Ends { stdin, stdout, stderr } = running.take_ends();
        let took = if stdin.is_some() { WINDOW } else { 0 };
        Attending {
            id,
            running,
            terminal: matches!(how, Attach::Terminal(_)),
            stdin,
            input: VecDeque::new(),
            took,
            input_ended: false,
            streams: [stdout, stderr],
            rest: [REST; 2],
            message: Zeroizing::default(),
            sent: 0,
            last_sent: Instant::now(),
            kill_at: None,
            out_of_time: None,
            ended: None,
        }
    }

    /// Until it has ended and all that it said is on its way.
    fn carry(
        &mut self,
        conn: &Connection<'_>,
        reader: &mut wire::Reader<&Patience<'_>>,
        begun: Instant,
        limit: Option<Duration>,
    ) -> Result<()> {
        // What has come with the call itself is nothing to wait for.
        self.hear(reader)?;
        while self.ended.is_none() || self.streams.iter().any(Option::is_some) || !self.is_quiet() {
            self.watch_the_clock(begun, limit);
            if self.is_quiet() {
                self.say_something(conn.beat)?;
            }
            self.turn(conn, Some(reader))?;
        }
        Ok(())
    }

    fn watch_the_clock(&mut self, begun: Instant, limit: Option<Duration>) {
        if self.ended.is_some() {
            return;
        }
        let now = Instant::now();
        match self.kill_at {
            Some(at) if at <= now => self.over(),
            Some(_) => {}
            None if limit.is_some_and(|limit| now >= begun + limit) => {
                self.out_of_time = limit;
                self.tell_to_end();
            }
            None if self.running.is_called_off() => self.tell_to_end(),
            None => {}
        }
    }

    fn tell_to_end(&mut self) {
        self.running.signal(Signal::TERM);
        if self.terminal {
            // What a shell that waits for keys listens to.
            self.running.signal(Signal::HUP);
        }
        self.kill_at = Some(Instant::now() + GRACE);
    }

    /// It has ended, or does now: nothing of it is left.
    fn over(&mut self) {
        let ended = self.running.reap();
        self.ended = Some(self.out_of_time.map_or(ended, |limit| Ended::OutOfTime(limit.as_secs())));
        // Nobody reads it any more. On a terminal the same file is read to its end.
        self.stdin = None;
        self.input.clear();
    }

    /// Something for the client that is no output, if it is due.
    fn say_something(&mut self, beat: Duration) -> Result<()> {
        if self.took > 0 && self.stdin.is_some() && !self.input_ended {
            let bytes = std::mem::take(&mut self.took);
            return self.put(Body::Notice(Notice::Wants { bytes }));
        }
        match self.last_sent.elapsed() >= beat {
            true => self.put(Body::Notice(Notice::Beat)),
            false => Ok(()),
        }
    }

    fn put(&mut self, body: Body) -> Result<()> {
        debug_assert!(self.is_quiet(), "one message at a time");
        let line = serde_json::to_vec(&Answer { id: self.id, body }).context(|| "write a control message".into())?;
        (self.message, self.sent) = (Zeroizing::new(line), 0);
        self.message.push(b'\n');
        Ok(())
    }

    /// Whether nothing waits to be sent.
    fn is_quiet(&self) -> bool {
        self.sent == self.message.len()
    }

    /// Waits for whatever is next, for a moment at most, and does it.
    fn turn(&mut self, conn: &Connection<'_>, reader: Option<&mut wire::Reader<&Patience<'_>>>) -> Result<()> {
        let (quiet, over) = (self.is_quiet(), self.ended.is_some());
        let ready = {
            let wanted = PollFlags::RDHUP | if reader.is_some() { PollFlags::IN } else { PollFlags::empty() };
            let mut fds = vec![PollFd::new(conn.stream, if quiet { wanted } else { wanted | PollFlags::OUT })];
            let mut at = [None; 4];
            let mut add = |which: usize, fd, flags| {
                at[which] = Some(fds.len());
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            };
            if !over {
                add(0, self.running.attached().pidfd.as_fd(), PollFlags::IN);
            }
            for (which, stream) in (1..).zip(&self.streams) {
                if let (true, Some(stream)) = (quiet, stream) {
                    add(which, stream.as_fd(), PollFlags::IN);
                }
            }
            if let (false, Some(stdin)) = (self.input.is_empty(), &self.stdin) {
                add(3, stdin.as_fd(), PollFlags::OUT);
            }
            // What was written before the end is there to be read by now.
            let wait = if over && quiet { Duration::ZERO } else { LOOK };
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e).context(|| "wait for a command".into()),
            }
            let is_ready = |which: usize| at[which].is_some_and(|at| !fds[at].revents().is_empty());
            (fds[0].revents(), [0, 1, 2, 3].map(is_ready))
        };
        let (client, [ended, out, err, room]) = ready;
        if client.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(gone());
        }
        if client.contains(PollFlags::OUT) {
            self.send(conn)?;
        }
        if room {
            self.feed();
        }
        for (which, is_ready) in [(0, out), (1, err)] {
            if is_ready && self.is_quiet() {
                self.read(which)?;
            } else if over && quiet && !is_ready {
                self.streams[which] = None;
            }
        }
        if client.intersects(PollFlags::IN | PollFlags::RDHUP) {
            match reader {
                Some(reader) => self.hear(reader)?,
                None if client.contains(PollFlags::RDHUP) => return Err(gone()),
                None => {}
            }
        }
        // After its output, most of which comes before.
        if ended {
            self.over();
        }
        Ok(())
    }

    fn send(&mut self, conn: &Connection<'_>) -> Result<()> {
        let rest = &self.message[self.sent..];
        match rustix::net::send(conn.stream, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => {
                self.sent += sent;
                self.last_sent = Instant::now();
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => Err(gone()),
        }
    }

    /// One message of what it says.
    fn read(&mut self, which: usize) -> Result<()> {
        let Some(stream) = &mut self.streams[which] else { return Ok(()) };
        let mut bytes = vec![0; PIECE.min(self.rest[which])];
        match stream.read(&mut bytes) {
            Ok(read) if read > 0 => {
                bytes.truncate(read);
                if self.ended.is_some() {
                    self.rest[which] -= read;
                }
                let stream = if which == 0 { Stream::Out } else { Stream::Err };
                self.put(Body::Notice(Notice::Output { stream, bytes: Blob(bytes) }))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock && self.ended.is_none() => Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(()),
            // The end; of a terminal that nobody has open any more it is an error.
            Ok(_) | Err(_) => {
                self.streams[which] = None;
                Ok(())
            }
        }
    }

    /// Gives it what it takes of its input.
    fn feed(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.input.as_slices().0) {
            Ok(wrote) => {
                self.input.drain(..wrote);
                self.took += wrote;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // It has closed its input, and does not mind that there is more.
            Err(_) => {
                self.took += self.input.len();
                self.input.clear();
                if !self.terminal {
                    self.stdin = None;
                }
            }
        }
        self.close_input();
    }

    /// Once all of it is given.
    fn close_input(&mut self) {
        if self.input_ended && self.input.is_empty() && !self.terminal {
            self.stdin = None;
        }
    }

    /// What the client has said.
    fn hear(&mut self, reader: &mut wire::Reader<&Patience<'_>>) -> Result<()> {
        loop {
            let line = match reader.try_line()? {
                Next::Line(line) => line,
                Next::Part => return Ok(()),
                Next::End => return Err(gone()),
            };
            let call: Call = serde_json::from_slice(line).context(|| "understand what a command is told".into())?;
            match call.request {
                Request::Input(input) if call.id == self.id => self.take(input)?,
                // Of a command that has ended.
                Request::Input(_) | Request::Beat => {}
                _ => return Err(Error::new(Kind::Refused, "a command is running on this connection")),
            }
        }
    }

    fn take(&mut self, input: Input) -> Result<()> {
        match input {
            // After its end, or without an input, that is nobody's.
            Input::Bytes(_) if self.stdin.is_none() || self.input_ended => {}
            Input::Bytes(Blob(bytes)) if self.input.len() + bytes.len() > WINDOW => {
                return Err(Error::new(Kind::Refused, "more input was sent than the server asked for"));
            }
            Input::Bytes(Blob(bytes)) => self.input.extend(bytes),
            Input::End => {
                self.input_ended = true;
                if self.terminal {
                    // As the key for it would (termios(3), VEOF).
                    self.input.push_back(4);
                }
                self.close_input();
            }
            Input::Size { rows, cols } => {
                if let (true, Some(terminal)) = (self.terminal, &self.streams[0]) {
                    // A terminal whose size is not what it seems is still of use.
                    let _ = sys::resize(terminal, Size { rows, cols });
                }
            }
            Input::Signal(signal) => self.running.signal(match signal {
                task::Signal::Int => Signal::INT,
                task::Signal::Term => Signal::TERM,
                task::Signal::Hup => Signal::HUP,
                task::Signal::Quit => Signal::QUIT,
                task::Signal::Kill => Signal::KILL,
            }),
        }
        Ok(())
    }

    /// The client is gone: so is the command, after a moment to put its things in order.
    fn hang_up(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.tell_to_end();
        self.stdin = None;
        let until = Instant::now() + GRACE;
        // What it says now nobody hears; a terminal has hung up.
        self.streams = [None, None];
        while Instant::now() < until && !self.running.is_called_off() {
            let mut fds = [PollFd::new(&self.running.attached().pidfd, PollFlags::IN)];
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
            if poll(&mut fds, Some(&wait)).is_ok_and(|ready| ready > 0) {
                break;
            }
        }
        self.over();
    }
}

fn gone() -> Error {
    Error::new(Kind::Io, "the client is gone")
}

#[cfg(test)]
mod tests;
