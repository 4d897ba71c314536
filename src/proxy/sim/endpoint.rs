//! Endpoint: the other end of one link, and what may have come over it.

use std::collections::HashMap;

use super::client::{said_by_client, said_by_endpoint};
use super::message::{Message, Room};
use super::net::End;
use super::script::{Fault, Kind, Request};

pub(super) struct Endpoint {
    pub end: End,
    /// Which of the endpoints it is.
    pub place: usize,
    /// It neither reads nor writes any more.
    pub stuck: bool,
    got: Vec<u8>,
    /// Where the current request begins.
    at: usize,
    /// The request that is being read or answered.
    current: Option<usize>,
    answering: bool,
    out: Vec<u8>,
    sent: usize,
    after: After,
    tunnel: Option<usize>,
    /// It sent what nobody asked for when so many bytes had come: no more may come.
    spoilt: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Stay,
    Finish,
    Reset,
}

impl Endpoint {
    pub fn new(end: End, place: usize) -> Self {
        Endpoint {
            end,
            place,
            stuck: false,
            got: Vec::new(),
            at: 0,
            current: None,
            answering: false,
            out: Vec::new(),
            sent: 0,
            after: After::Stay,
            tunnel: None,
            spoilt: None,
        }
    }

    pub fn read(&mut self, n: usize, requests: &[Request]) {
        if self.stuck {
            return;
        }
        let before = self.got.len();
        self.got.extend_from_slice(&self.end.take(n));
        if self.got.len() == before {
            return;
        }
        if let Some(at) = self.spoilt {
            assert!(self.end.sent_len() <= at, "a link with surplus bytes was used again");
        }
        while self.digest(requests) {}
    }

    /// Looks at what has come; true when there may be another request behind it.
    fn digest(&mut self, requests: &[Request]) -> bool {
        if self.tunnel.is_some() || self.got.len() == self.at {
            return false;
        }
        let message = Message::read(&self.got[self.at..], |_| Room::Announced);
        let Some(message) = message.unwrap_or_else(|e| panic!("not a request: {e}")) else { return false };
        let id = id_of(&message);
        self.current = Some(id);
        let reply = &requests[id].reply;
        if !self.answering && (reply.early || message.end.is_some()) {
            self.answering = true;
            self.answer(&requests[id]);
        }
        if let Some(end) = message.end {
            let tunnel = reply.status == 101;
            let more = self.got.len() > self.at + end;
            let through = self.sent == self.out.len() && reply.fault != Fault::Silent;
            assert!(!more || tunnel || through, "the next request came before {id} was answered");
        }
        self.rest(requests)
    }

    fn answer(&mut self, request: &Request) {
        let reply = &request.reply;
        let (len, after) = match reply.fault {
            Fault::Cut(n) => (n.min(reply.wire.len()), After::Finish),
            Fault::Reset(n) => (n.min(reply.wire.len()), After::Reset),
            Fault::Silent => (0, After::Stay),
            Fault::None | Fault::Nonsense | Fault::Surplus if reply.ends => (reply.wire.len(), After::Finish),
            Fault::None | Fault::Nonsense | Fault::Surplus => (reply.wire.len(), After::Stay),
        };
        self.out.extend(&reply.wire[..len]);
        self.after = after;
        if reply.status == 101 && reply.fault.is_none() {
            self.out.extend(said_by_endpoint(request.id));
            self.after = After::Finish;
        }
    }

    /// Sends at most `n` bytes of what it has to say, and ends when that is the end.
    pub fn write(&mut self, n: usize, requests: &[Request]) {
        if self.stuck || !self.answering {
            return;
        }
        let to = self.out.len().min(self.sent.saturating_add(n));
        self.end.send(&self.out[self.sent..to]);
        self.sent = to;
        if self.sent == self.out.len() {
            match self.after {
                After::Stay => {}
                After::Finish => self.end.finish(),
                After::Reset => self.end.reset(),
            }
        }
        if self.rest(requests) {
            while self.digest(requests) {}
        }
    }

    /// Both the request and its answer are through: on to the next.
    fn rest(&mut self, requests: &[Request]) -> bool {
        let Some(id) = self.current else { return false };
        if !self.answering || self.sent < self.out.len() || requests[id].reply.fault == Fault::Silent {
            return false;
        }
        if requests[id].reply.status == 101 && requests[id].reply.fault.is_none() {
            self.tunnel = Some(id);
            return false;
        }
        let message = Message::read(&self.got[self.at..], |_| Room::Announced).ok().flatten();
        if let Some(end) = message.and_then(|m| m.end).filter(|_| self.after == After::Stay) {
            self.at += end;
            (self.current, self.answering) = (None, false);
            if requests[id].reply.fault == Fault::Surplus {
                self.spoilt = Some(self.at);
            }
            return true;
        }
        false
    }

    pub fn has_more(&self) -> bool {
        self.answering && self.sent < self.out.len()
    }

    /// It has answered all that came, and could be asked again.
    pub fn is_idle(&self) -> bool {
        self.at > 0
            && !self.stuck
            && self.current.is_none()
            && self.end.is_up()
            && self.spoilt.is_none()
            && self.got.len() == self.at
    }

    /// Says something although nobody asked.
    pub fn spoil(&mut self) {
        let sent = self.end.sent_len();
        // Unless a request is on its way, which may come to meet it.
        if sent == self.at {
            self.spoilt = Some(sent);
        }
        self.end.send(b"HTTP/1.1 nothing\r\n\r\n");
    }

    /// Ends the connection; returns the request that it was answering.
    pub fn leave(&mut self, reset: bool) -> Option<usize> {
        match reset {
            true => self.end.reset(),
            false => self.end.finish(),
        }
        self.stuck = true;
        self.current
    }

    /// Checks all that was written to it, read or not; `seen` counts how often each request came.
    pub fn check(&self, requests: &[Request], calm: bool, seen: &mut HashMap<usize, usize>) {
        let bytes = self.end.sent();
        let mut at = 0;
        while at < bytes.len() {
            let message = Message::read(&bytes[at..], |_| Room::Announced);
            let Some(message) = message.unwrap_or_else(|e| panic!("not a request: {e}")) else { return };
            let id = id_of(&message);
            let request = &requests[id];
            assert!(message.line.starts_with(&format!("{} /r{id} HTTP/1.1", request.method)), "{}", message.line);
            assert!(matches!(request.kind, Kind::Plain | Kind::Upgrade | Kind::BadBody), "{id} must not get here");
            let tail = if request.kind == Kind::BadBody { &b"hello"[..] } else { b"" };
            let due = [&request.body, tail].concat();
            assert!(due.starts_with(&message.body), "the body of {id} changed on its way");
            let times = seen.entry(id).or_default();
            *times += 1;
            let again = matches!(request.method, "GET" | "HEAD" | "PUT" | "DELETE") && !calm;
            assert!(*times == 1 || (*times == 2 && again), "{} {id} was sent {times} times", request.method);
            let Some(end) = message.end else {
                assert!(!calm, "{id} was not sent to its end");
                return;
            };
            assert_eq!(request.body.len(), message.body.len(), "{id} was cut, and looks whole");
            assert!(request.kind != Kind::BadBody, "{id} looks sound");
            at += end;
            if self.tunnel == Some(id) {
                let due = said_by_client(id);
                assert!(due.starts_with(&bytes[at..]), "a tunnel changed its bytes");
                assert!(!calm || due.len() == bytes.len() - at, "a tunnel lost its end");
                return;
            }
        }
    }
}

fn id_of(message: &Message) -> usize {
    let target = message.line.split(' ').nth(1).unwrap_or_default();
    let id = target.strip_prefix("/r").and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("smuggled: {message:?}"))
}
