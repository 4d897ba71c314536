//! Ending: how a socket says that nothing follows, and what it does with what still comes.

use std::io::{self, ErrorKind};

use super::{End, Io, Socket, read};

impl Socket {
    /// Says that nothing follows, once all is flushed; a close that comes next may say it in TCP too, if `by_close`. True
    /// when it is said.
    pub fn finish(&mut self, by_close: bool, io: &mut Io) -> io::Result<bool> {
        if !self.goodbye_said {
            self.goodbye_said = true;
            self.queue_goodbye(io);
        }
        if !self.flush(io)? {
            return Ok(false);
        }
        if by_close {
            return Ok(true);
        }
        match self.stream.shut() {
            Err(e) if e.kind() != ErrorKind::NotConnected => Err(e),
            _ => Ok(true),
        }
    }

    /// Closing needs no shutdown and no waiting: the peer's FIN has been read.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What a reset could destroy nothing for: without TLS, and nothing is here that was not read.
    pub fn is_plain_and_read(&self) -> bool {
        self.tls.is_none() && !self.has_stash() && !self.readable
    }

    /// The goodbye of TLS goes out in one packet with the FIN that follows.
    fn queue_goodbye(&mut self, io: &mut Io) {
        let Some(tls) = self.tls.as_mut().filter(|tls| tls.is_ready()) else { return };
        io.wire_out.clear();
        tls.close(&mut io.wire_out);
        let bytes = io.wire_out.bytes();
        let sent = if self.out.is_empty() { self.stream.write_more(bytes).unwrap_or(0) } else { 0 };
        self.out.push(&bytes[sent..], &mut io.spare); // an error is met again by the flush that follows
    }

    /// Throws away what the peer still sends; returns how much, and the end.
    pub fn discard(&mut self, io: &mut Io) -> (usize, End) {
        if !self.readable {
            return (0, End::NotYet);
        }
        match read(&mut self.stream, &mut io.wire_in, &mut self.readable, self.fin) {
            Ok(Some(0)) => {
                self.ended = true;
                (0, End::Clean)
            }
            Ok(n) => (n.unwrap_or(0), End::NotYet),
            Err(_) => (0, End::Broken),
        }
    }

    /// Makes the coming close a reset: a message cut short must not look complete (RFC 9112 §8).
    pub fn reset_on_close(&self) {
        self.stream.reset_on_close();
    }
}
