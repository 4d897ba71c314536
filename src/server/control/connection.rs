//! The conversation with one client.
//!
//! The server greets, the client says which protocol it speaks, then calls are served in order. While a call takes long
//! its notices are passed on, a beat says that we are alive, and a client that went away is noticed at once, or as soon as
//! its own beats are missing: its locks are free while the actor goes on by itself.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::hearing::{Heard, Hearing, Patience, QUIET};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Answer, Body, Call, Greeting, Hello, LogLine, MAGIC, Notice, Reply};
use crate::proto::fault::Fault;
use crate::proto::{PROTOCOL, wire};
use crate::server::app::{Event, Told};
use crate::server::daemon::Daemon;
use crate::server::verbs::{self, Outcome, Said, Session};

/// A client says who it is at once; one that does not is no client.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// A client that reads nothing for this long is gone in all but name.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// How often a client hears that something is still being done.
pub(super) const BEAT: Duration = Duration::from_secs(5);
/// Raw text per message of log lines: six times as much once escaped still fits into a line of the protocol.
const LINES_BYTES: usize = 64 << 10;
/// Longest name of a client that is kept.
pub(super) const MAX_WHO: usize = 100;
/// How soon a client that went away is noticed while something is done for it.
const WATCH: Duration = Duration::from_millis(100);

/// One client that was let in.
pub(super) struct Connection<'a> {
    pub stream: &'a UnixStream,
    pub daemon: &'a Arc<Daemon>,
    pub beat: Duration,
    /// How long it may be silent while it holds something.
    pub quiet: Duration,
}

/// Something that takes its time, and how it is told.
pub(super) struct Following<T> {
    pub heard: Receiver<T>,
    pub turns: fn(T) -> Vec<Turn>,
    /// What it means that nothing more will be heard.
    pub closed: fn() -> Result<Reply>,
    /// It has no end of its own: a client that will say nothing more and hears nothing is taken for gone.
    pub endless: bool,
}

/// What to tell the client next.
pub(super) enum Turn {
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

impl<'a> Connection<'a> {
    pub fn new(stream: &'a UnixStream, daemon: &'a Arc<Daemon>) -> Self {
        Connection { stream, daemon, beat: BEAT, quiet: QUIET }
    }

    /// A failure here is the client's or the socket's; it was told if it could be.
    pub fn converse(&self) {
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
        let patience = Patience::new(self.stream, Some(Instant::now() + GREETING_TIME));
        let mut hearing = Hearing::new(&patience);
        let Some(greeting) = hearing.reader.next::<Greeting>()? else { return Ok(()) };
        patience.until.set(None);
        check_version(greeting.protocol)?;
        if greeting.beats {
            hearing.expect_beats(self.quiet);
        }
        let mut session = Session::new(who(&greeting.who));
        let ended = self.serve_all(&mut session, &mut hearing);
        if let Err(e) = &ended
            && e.kind() == Kind::Unreachable
        {
            log::info!("control: {e}, what it held is free by={}", session.who);
        }
        ended
    }

    fn serve_all(&self, session: &mut Session, hearing: &mut Hearing<'_>) -> Result<()> {
        while let Some(heard) = hearing.next(session.holds())? {
            match heard {
                Heard::Call(call) => self.serve(session, *call, hearing)?,
                Heard::NotUnderstood { id, why } => self.not_understood(id, why)?,
            }
        }
        Ok(())
    }

    /// A call that we cannot read but whose number we can is a newer client's, or a slip: it gets its fault, and the
    /// next call is served. Anything else ends the connection.
    fn not_understood(&self, id: Option<u64>, why: serde_json::Error) -> Result<()> {
        let error = Error::new(Kind::Refused, "understand the request").because(why);
        match id {
            Some(id) => {
                let version = env!("CARGO_PKG_VERSION");
                self.end(id, Err(error.hint(format!("this is tako-server {version}; is it older than your tako?"))))
            }
            None => Err(error),
        }
    }

    fn serve(&self, session: &mut Session, call: Call, hearing: &mut Hearing<'_>) -> Result<()> {
        let cut_short = || Err(Error::new(Kind::Bug, "the work ended without a word"));
        let done = || Ok(Reply::Done);
        match verbs::serve(self.daemon, session, call.request) {
            Err(e) => self.end(call.id, Err(e)),
            Ok(Outcome::Reply(reply)) => self.end(call.id, Ok(reply)),
            Ok(Outcome::Joined(joined, heard)) => {
                self.answer(call.id, Body::Notice(Notice::Joined(joined)))?;
                let events = Following { heard, turns: of_event, closed: cut_short, endless: false };
                self.follow(call.id, session, &events, hearing)
            }
            Ok(Outcome::Command(command)) => {
                let attended = self.attend(call.id, *command, hearing);
                if attended.is_err() {
                    session.let_go();
                }
                attended
            }
            Ok(Outcome::Nothing) => Ok(()),
            Ok(Outcome::Events(heard)) => {
                let events = Following { heard, turns: of_event, closed: cut_short, endless: false };
                self.follow(call.id, session, &events, hearing)
            }
            Ok(Outcome::Work(heard)) => {
                let work = Following { heard, turns: of_work, closed: cut_short, endless: false };
                self.follow(call.id, session, &work, hearing)
            }
            Ok(Outcome::Lines { heard, endless }) => {
                let lines = Following { heard, turns: of_lines, closed: done, endless };
                self.follow(call.id, session, &lines, hearing)
            }
        }
    }

    /// Passes on what is heard until its end.
    pub fn follow<T>(
        &self,
        id: u64,
        session: &mut Session,
        it: &Following<T>,
        hearing: &mut Hearing<'_>,
    ) -> Result<()> {
        let mut said = Instant::now();
        loop {
            let quiet = match it.heard.recv_timeout(WATCH) {
                Ok(event) => {
                    let turns = (it.turns)(event);
                    // Of some events the client hears nothing: they must not keep it from hearing the beat.
                    if !turns.is_empty() {
                        said = Instant::now();
                    }
                    for turn in turns {
                        match turn {
                            Turn::Notice(notice) => self.answer(id, Body::Notice(notice))?,
                            Turn::End(end) => return self.end(id, end),
                        }
                    }
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
                Presence::Here => hearing.listen(session.holds())?,
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

    pub(super) fn end(&self, id: u64, end: Result<Reply>) -> Result<()> {
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
pub(super) fn of_lines(told: Result<Told>) -> Vec<Turn> {
    let Told { mut missed, lines, up_to_date } = match told {
        Ok(told) => told,
        Err(e) => return vec![Turn::End(Err(e))],
    };
    let mut batches: Vec<Vec<LogLine>> = Vec::new();
    let mut room = 0;
    if missed > 0 || (up_to_date && lines.is_empty()) {
        batches.push(Vec::new());
        room = LINES_BYTES;
    }
    for line in lines {
        let size = line.text.len() + line.release.len() + 100;
        if size > room {
            batches.push(Vec::new());
            room = LINES_BYTES;
        }
        room = room.saturating_sub(size);
        batches.last_mut().expect("the first line makes a batch").push(line);
    }
    let last = batches.len();
    let turn = |(n, lines): (usize, _)| {
        let up_to_date = up_to_date && n == last;
        Turn::Notice(Notice::Lines { lines, missed: std::mem::take(&mut missed), up_to_date })
    };
    (1..).zip(batches).map(turn).collect()
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
pub(super) fn who(typed: &str) -> String {
    let clean: String = typed.chars().filter(|c| !c.is_control()).take(MAX_WHO).collect();
    if clean.is_empty() { "somebody".into() } else { clean }
}

/// The first line of every connection.
pub(super) fn hello(daemon: &Daemon) -> Hello {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Hello {
        tako: MAGIC.into(),
        protocol: PROTOCOL,
        server: env!("CARGO_PKG_VERSION").into(),
        target: daemon.about.target,
        clock_ms: now.as_millis().try_into().unwrap_or(u64::MAX),
        incoming: daemon.layout.incoming().display().to_string(),
        hears_beats: true,
    }
}
