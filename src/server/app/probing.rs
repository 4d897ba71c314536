//! Probing: one connection to an instance and the question that is on it. When to ask is for `probe` to say.
//!
//! A connection costs both sides more than a question, so who has answered in full is asked again on the same one, up to
//! [`QUESTIONS`] times: that an instance takes new ones has to be seen too.
//!
//! **Invariant**: of an answer at most [`MAX_ANSWER`] bytes are read, and a connection that closed while nothing was asked
//! is no verdict.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;

use super::check::{Bad, Check, Verdict, is_whole, judge, status};

/// The status line is all we want; the rest is read so that the app sees an orderly end.
const MAX_ANSWER: usize = 4 << 10;
/// On one connection. With one question a second, who takes no new connections is found out within ten seconds; the
/// proxy, which would meet it too, says so at once.
const QUESTIONS: u32 = 10;

pub(super) struct Probing {
    pub stream: TcpStream,
    written: usize,
    pub answer: Vec<u8>,
    /// Questions that it has answered before this one.
    before: u32,
    /// The question is answered, and it can be asked another.
    idle: bool,
    /// When the answer is looked for; from then on, and of those who are not known to be well from the start, it is
    /// the poll that tells.
    pub look: Option<Instant>,
    /// The verdict is told; the rest of the answer is read for the app's sake.
    pub told: bool,
}

pub(super) struct Progress {
    pub verdict: Option<Verdict>,
    pub next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More may come.
    More,
    /// Nothing more comes; it can be asked again.
    Idle,
    /// It is of no more use.
    Over,
    /// It had closed before it was asked: a new one is to be asked the same.
    Stale,
}

impl Probing {
    /// # Errors
    /// When the kernel has no connection to give.
    pub fn open(addr: SocketAddr, look: Option<Instant>) -> io::Result<Probing> {
        let stream = TcpStream::connect(addr)?;
        Ok(Probing { stream, written: 0, answer: Vec::new(), before: 0, idle: false, look, told: false })
    }

    /// Makes it ready for another question, if it can be asked one.
    pub fn renew(&mut self, look: Instant) -> bool {
        // What the poll knows of would wake the thread.
        if !self.idle || self.look.is_none() || self.before + 1 >= QUESTIONS {
            return false;
        }
        self.answer.clear();
        (self.written, self.before, self.idle) = (0, self.before + 1, false);
        (self.look, self.told) = (Some(look), false);
        true
    }

    /// Whether it waits for room to write, or for the connection.
    pub fn waits_to_write(&self, request: &[u8]) -> bool {
        self.written < request.len() || request.is_empty()
    }

    pub fn advance(&mut self, check: &Check, request: &[u8]) -> Progress {
        let ended = |verdict| Progress { verdict: Some(verdict), next: Next::Over };
        let later = |next| Progress { verdict: None, next };
        let Check::Http { redirects, .. } = check else {
            return match self.is_connected() {
                Ok(true) => ended(Verdict::Good),
                Ok(false) => later(Next::More),
                Err(_) => ended(Verdict::Bad(Bad::Refused)),
            };
        };
        if self.written < request.len() {
            // An answer to what has just been said is not there yet.
            return match self.write(request) {
                Ok(()) => later(Next::More),
                Err(_) if self.before > 0 => later(Next::Stale),
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                    ended(Verdict::Bad(Bad::Broken))
                }
                Err(_) => ended(Verdict::Bad(Bad::Refused)),
            };
        }
        let over = self.read();
        match status(&self.answer) {
            Some(status) => {
                self.idle = !over && is_whole(&self.answer);
                let next = match (over, self.idle) {
                    (true, _) => Next::Over,
                    (false, true) => Next::Idle,
                    (false, false) => Next::More,
                };
                Progress { verdict: Some(judge(status, *redirects)), next }
            }
            None if over && self.before > 0 && self.answer.is_empty() => later(Next::Stale),
            None if over => ended(Verdict::Bad(Bad::Broken)),
            None => later(Next::More),
        }
    }

    /// Takes what came since the last look, so that the app sees an orderly end.
    pub fn drain(&mut self) {
        if !self.idle {
            self.read();
        }
    }

    /// connect(2), EINPROGRESS: the socket's error tells how it went, and having a peer that it went well.
    fn is_connected(&self) -> io::Result<bool> {
        if let Some(e) = self.stream.take_error()? {
            return Err(e);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// As much of the request as can be: nothing until the connection stands, whose failure shows here too.
    fn write(&mut self, request: &[u8]) -> io::Result<()> {
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(n) => self.written += n,
                // Where it is not EAGAIN that a connection under way says.
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// True when no more will come, or no more is wanted. What was said before a connection broke still counts.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 1 << 10];
        while self.answer.len() < MAX_ANSWER {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(n) => {
                    self.answer.extend_from_slice(&buffer[..n]);
                    // What is whole has nothing behind it, and asking would cost as much as the answer did.
                    if n < buffer.len() && is_whole(&self.answer) {
                        return false;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_new_connection_comes_after_so_many_questions() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut probing = Probing::open(listener.local_addr().unwrap(), Some(Instant::now())).unwrap();
        let check = Check::Http { path: "/".into(), host: "a.test".into(), token: None, redirects: false };
        let request = check.request();
        let (mut app, _) = listener.accept().unwrap();
        for question in 1..=QUESTIONS {
            // Written before it is asked for, so that no round waits.
            app.write_all(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n").unwrap();
            let deadline = Instant::now() + std::time::Duration::from_secs(10);
            while probing.advance(&check, &request).next != Next::Idle {
                assert!(Instant::now() < deadline, "question {question} has no answer");
                std::thread::yield_now();
            }
            assert_eq!(probing.renew(Instant::now()), question < QUESTIONS, "question {question}");
        }
    }
}
