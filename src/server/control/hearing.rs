//! Hearing: what one client says, and whether it is still there to say it.
//!
//! A client whose network is gone, or whose machine sleeps, ends nothing: its sshd keeps the session for hours. So one
//! that promised to (`Greeting::beats`) says something every few seconds, also when it asks nothing and while it is
//! served. Of one that does not promise it, silence tells nothing.
//!
//! **Invariant**: a call that comes while another is served waits for its turn; no more than that one is read ahead.

use std::cell::Cell;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::proto::control::{Call, Request};
use crate::proto::wire::{self, Next};
use crate::server::verbs::Holds;

/// One that is silent for this long is gone: six of its beats are missing. `tako` itself gives up a server after as long.
pub(super) const QUIET: Duration = Duration::from_secs(30);
/// So many times longer while it uploads. Its beats stand behind what ssh sends ahead (2 MiB for a channel, and what the
/// socket takes), which a line of 256 kbit/s needs two minutes for.
const BEHIND_UPLOAD: u32 = 6;

/// Reads what a client says.
pub(super) struct Hearing<'a> {
    pub reader: wire::Reader<&'a Patience<'a>>,
    pub patience: &'a Patience<'a>,
    /// It came while another call was served.
    waiting: Option<Heard>,
    /// How long the client may be silent; `None` when it has not promised to speak.
    quiet: Option<Duration>,
}

/// What a line is.
pub(super) enum Heard {
    Call(Box<Call>),
    /// Of which the number can be read at most.
    NotUnderstood {
        id: Option<u64>,
        why: serde_json::Error,
    },
}

/// All that is needed to answer.
#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

impl<'a> Hearing<'a> {
    pub fn new(patience: &'a Patience<'a>) -> Self {
        Hearing { reader: wire::Reader::new(patience), patience, waiting: None, quiet: None }
    }

    /// From now on it says something well before this is over.
    pub fn expect_beats(&mut self, quiet: Duration) {
        self.quiet = Some(quiet);
    }

    /// The next call; `None` at the end. One that `holds` something and is silent for too long is an error.
    pub fn next(&mut self, holds: Holds) -> Result<Option<Heard>> {
        if let Some(waiting) = self.waiting.take() {
            return Ok(Some(waiting));
        }
        self.patience.quiet.set(self.limit(holds));
        let heard = self.reader.next_line().map(|line| line.map(understand));
        self.patience.quiet.set(None);
        match heard {
            Err(_) if self.is_silent(holds) => Err(self.given_up()),
            heard => heard,
        }
    }

    /// Takes in what has come while a call is served.
    ///
    /// # Errors
    /// Unreachable when it `holds` something and nothing came for too long; those of a stream that is out of step.
    pub fn listen(&mut self, holds: Holds) -> Result<()> {
        while self.waiting.is_none() {
            self.patience.at_once.set(true);
            let next = self.reader.try_line().map(|next| match next {
                Next::Line(line) => Some(understand(line)),
                // That it will say no more is seen by who answers.
                Next::Part | Next::End => None,
            });
            self.patience.at_once.set(false);
            match next? {
                Some(Heard::Call(call)) if matches!(call.request, Request::Beat) => {}
                Some(other) => self.waiting = Some(other),
                None if self.is_silent(holds) => return Err(self.given_up()),
                None => return Ok(()),
            }
        }
        // Beats that come behind a call are not read, so nothing is known.
        Ok(())
    }

    fn limit(&self, holds: Holds) -> Option<Duration> {
        match holds {
            Holds::Nothing => None,
            Holds::Something => self.quiet,
            Holds::Upload => self.quiet.map(|quiet| quiet * BEHIND_UPLOAD),
        }
    }

    fn is_silent(&self, holds: Holds) -> bool {
        self.limit(holds).is_some_and(|limit| self.patience.heard.get().elapsed() >= limit)
    }

    fn given_up(&self) -> Error {
        let seconds = self.patience.heard.get().elapsed().as_secs();
        Error::new(Kind::Unreachable, format!("nothing was heard of the client for {seconds} s"))
    }
}

fn understand(line: &[u8]) -> Heard {
    match serde_json::from_slice(line) {
        Ok(call) => Heard::Call(Box::new(call)),
        Err(why) => {
            let id = serde_json::from_slice(line).ok().map(|Numbered { id }| id);
            Heard::NotUnderstood { id, why }
        }
    }
}

/// Reads from a client, until a deadline while there is one. A read timeout of the socket would start anew with every
/// byte that drips in.
pub(super) struct Patience<'a> {
    stream: &'a UnixStream,
    pub until: Cell<Option<Instant>>,
    /// Says `WouldBlock` when nothing is there.
    pub at_once: Cell<bool>,
    /// For the next bytes, however often some come.
    quiet: Cell<Option<Duration>>,
    /// When some came last.
    heard: Cell<Instant>,
}

impl<'a> Patience<'a> {
    pub fn new(stream: &'a UnixStream, until: Option<Instant>) -> Self {
        let (at_once, quiet, heard) = (Cell::new(false), Cell::new(None), Cell::new(Instant::now()));
        Patience { stream, until: Cell::new(until), at_once, quiet, heard }
    }

    fn left(&self) -> Option<Duration> {
        let quiet = self.quiet.get().map(|quiet| self.heard.get() + quiet);
        let until = self.until.get().into_iter().chain(quiet).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

impl Read for &Patience<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = if self.at_once.get() {
            rustix::net::recv(self.stream, &mut *buf, RecvFlags::DONTWAIT)?.1
        } else {
            if let Some(left) = self.left() {
                let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) as _ };
                let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::IN)];
                if poll(&mut fds, Some(&left))? == 0 {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came"));
                }
            }
            let mut stream = self.stream;
            stream.read(buf)?
        };
        self.heard.set(Instant::now());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_where_somebody_waits_and_later_behind_an_upload() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let patience = Patience::new(&ours, None);
        let mut hearing = Hearing::new(&patience);
        // Nothing was promised.
        assert_eq!(hearing.limit(Holds::Upload), None);
        hearing.expect_beats(QUIET);
        let seconds = |holds| hearing.limit(holds).map(|limit| limit.as_secs());
        assert_eq!([Holds::Nothing, Holds::Something, Holds::Upload].map(seconds), [None, Some(30), Some(180)]);
    }
}
