//! Client: one scripted client, and what it may and must have received.

use super::message::{Message, Room};
use super::net::{End, Farewell};
use super::script::{Kind, Request, pattern};

pub(super) struct Client {
    pub end: End,
    /// The ids of its requests, in order.
    pub asked: Vec<usize>,
    pub got: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    /// It asks for nothing more.
    pub done: bool,
    /// It sends its FIN once everything is out.
    pub ends: bool,
    /// It neither reads nor writes any more.
    pub stuck: bool,
    /// It left before all was over.
    pub left: bool,
    ended: bool,
    /// Its last request is to become a tunnel.
    tunnels: bool,
}

impl Client {
    pub fn new(end: End) -> Self {
        Client {
            end,
            asked: Vec::new(),
            got: Vec::new(),
            out: Vec::new(),
            sent: 0,
            done: false,
            ends: false,
            stuck: false,
            left: false,
            ended: false,
            tunnels: false,
        }
    }

    pub fn ask(&mut self, request: &Request) {
        self.out.extend(&request.wire);
        self.asked.push(request.id);
        if request.kind == Kind::Upgrade && request.reply.status == 101 {
            self.out.extend(said_by_client(request.id));
            (self.ends, self.tunnels) = (true, true);
        }
        self.done |= request.last;
    }

    pub fn has_more(&self) -> bool {
        !self.ended && self.sent < self.out.len()
    }

    pub fn write(&mut self, n: usize) {
        if self.stuck || self.ended {
            return;
        }
        let to = self.out.len().min(self.sent.saturating_add(n));
        self.end.send(&self.out[self.sent..to]);
        self.sent = to;
        // In a tunnel the end of one side is not that of the other.
        let told = self.end.farewell().is_some() && (!self.tunnels || self.end.is_closed());
        if (self.sent == self.out.len() && self.ends && self.done) || told {
            self.ended = true;
            self.end.finish();
        }
    }

    pub fn read(&mut self, n: usize) {
        if !self.stuck {
            self.got.extend_from_slice(&self.end.take(n));
        }
    }

    /// Ends its side now, whatever is unsent.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.left |= self.sent < self.out.len();
            self.done = true;
            self.end.finish();
        }
    }

    pub fn reset(&mut self) {
        (self.left, self.ended, self.done) = (true, true, true);
        self.end.reset();
    }

    /// Checks all that came. With `calm`, everything that was asked must have been answered.
    pub fn check(&self, requests: &[Request], calm: bool) {
        let mut at = 0;
        let mut answered = 0;
        let mut over = false;
        while at < self.got.len() {
            assert!(!over, "bytes behind the last answer of {:?}: {:?}", self.asked, text(&self.got[at..]));
            let request = self.asked.get(answered).map(|id| &requests[*id]);
            let to_head = request.is_some_and(|r| r.method == "HEAD");
            let message = Message::read(&self.got[at..], |line| match &line[9..12] {
                // Whoever has not seen a whole head cannot know that it is a HEAD.
                "400" | "408" => Room::Any,
                _ if to_head => Room::Never,
                "204" | "304" => Room::Never,
                status if status.starts_with('1') => Room::Never,
                _ => Room::Any,
            });
            let message = message.unwrap_or_else(|e| panic!("not a response: {e}: {:?}", text(&self.got[at..])));
            let Some(message) = message else { break };
            let status: u16 = message.line[9..12].parse().expect("a status is a number");
            if (100..200).contains(&status) && status != 101 {
                assert!(request.is_some_and(|r| !r.is_v10), "an interim response to HTTP/1.0 or to nothing");
                at += message.end.expect("it has no body");
                continue;
            }
            let Some(request) = request else {
                assert!(!calm && message.field("x-id").is_none() && status >= 400, "an answer to nothing: {message:?}");
                over = true;
                at += message.end.unwrap_or(self.got.len() - at);
                continue;
            };
            answered += 1;
            self.check_one(&message, status, request, calm);
            if status == 101 {
                at += message.end.expect("a 101 has no body");
                let due = said_by_endpoint(request.id);
                assert!(due.starts_with(&self.got[at..]), "a tunnel changed its bytes");
                assert!(!calm || due.len() == self.got.len() - at, "a tunnel lost its end");
                return;
            }
            let Some(end) = message.end else { break };
            at += end;
            over =
                message.field("connection") == Some("close") || matches!(request.kind, Kind::BadHead | Kind::BadBody);
        }
        // A client that sees the close may not have been answered further; that is announced or visible.
        let closed = over || self.got.len() > at || self.asked[..answered].iter().any(|id| requests[*id].last);
        assert!(!calm || closed || answered == self.asked.len(), "unanswered: {:?} {answered}", self.asked);
    }

    fn check_one(&self, message: &Message, status: u16, request: &Request, calm: bool) {
        let id = request.id;
        let Some(named) = message.field("x-id") else {
            let own = matches!(request.kind, Kind::Own(due) if due == status);
            assert!(own || (!calm && status >= 400), "{id} got {} of our own", message.line);
            return;
        };
        assert_eq!(named, id.to_string(), "an answer to another request");
        assert_eq!(status, request.reply.status, "another answer to {id}");
        assert!(!matches!(request.kind, Kind::BadHead | Kind::Own(_)), "{id} reached an endpoint");
        let due = &request.reply.body;
        assert!(due.starts_with(&message.body), "the body of {id} is not what was sent");
        let whole = message.end.is_some() || (message.until_close && self.end.farewell() == Some(Farewell::Fin));
        // A close that comes too soon can not be told where the close is the end.
        let silent_cut = request.reply.close_ends && request.reply.blurred;
        assert!(!whole || silent_cut || due.len() == message.body.len(), "{id} was cut, and looks whole");
        assert!(!calm || whole, "{id} was cut: {} of {}", message.body.len(), due.len());
    }
}

/// What a client says in the tunnel that its request became.
pub(super) fn said_by_client(id: usize) -> Vec<u8> {
    pattern(id + 1000, (id * 977 + 5) % 50_000)
}

pub(super) fn said_by_endpoint(id: usize) -> Vec<u8> {
    pattern(id + 2000, (id * 1553 + 3) % 60_000)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}
