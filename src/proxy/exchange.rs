//! Exchange: one request and its response in flight, between a client's socket and a link.
//!
//! ```text
//!   connecting ─▶ request goes out ─▶ Reply::Head ─▶ Reply::Body ─▶ Reply::Done
//!     ▲ │ refused: next endpoint      │ reused link died: once more      │ link parked or closed
//!     └─▼─ parked                       (no endpoint, and the app sleeps)
//! ```
//! `request` is the way to the endpoint, `response` the way back, `parked` the wait before both; here is what
//! they share, and its time.
//! It does not know what the client's connection was or will be, only that it is a [`Socket`].
//!
//! **Invariant**: a source is read only while its sink has nothing waiting. A response begins at most once; after that
//! only [`Outcome::Abort`] is left for a failure. Nothing is sent twice unless the method is idempotent.

mod request;
mod parked;
mod response;

use super::access::{By, Visit};
use super::answer::Answer;
use super::bodies::{Body, Intake};
use super::http::Version;
use super::http::buf::{Buf, CHUNK};
use super::http::framing::Framing;
use super::http::head::Scanner;
use super::table::EndpointId;
use super::token::Key;
use super::tools::Tools;
use super::tools::links::{Link, Reuse};
use super::transport::Socket;
use parked::Parked;

/// More informational responses than this are a loop (RFC 9110 §15.2 sets no limit).
const MAX_INTERIM: u8 = 16;
/// Endpoints that let us wait for the whole connect limit; the client has waited long enough then.
const MAX_CONNECT_TIMEOUTS: u8 = 2;

/// What is known about the request once its head has gone on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub version: Version,
    pub to_head: bool,
    pub idempotent: bool,
    pub wants_websocket: bool,
    pub takes_trailers: bool,
    /// How our own answer would be written.
    pub html: bool,
    /// The connection ends after this: the client says so, or one of our limits.
    pub close: bool,
}

pub(super) struct Exchange {
    pub facts: Facts,
    /// What its access line will say.
    pub visit: Box<Visit>,
    conn: Key,
    /// The upstream's lasting number.
    upstream: u32,
    held: Option<EndpointId>,
    link: Option<Link>,
    /// It waits for an endpoint.
    parked: Option<Box<Parked>>,
    tried: Vec<EndpointId>,
    connect_timeouts: u8,
    /// The request as sent, while it may be sent a second time.
    kept: Buf,
    intake: Intake,
    /// The endpoint takes no more of the request.
    mute: bool,
    scanner: Scanner,
    /// What the link sent is not a whole head yet.
    hungry: bool,
    /// Bytes of a response have come.
    answered: bool,
    interim: u8,
    reply: Reply,
    /// When a byte last moved, or began to be waited for.
    progress: u64,
}

enum Reply {
    Head,
    Body(Body),
    /// After a 101.
    Switched,
    Done,
}

/// How an exchange ends other than by its response.
pub(super) enum Outcome {
    /// Nothing of a final response has been sent, so we say this.
    Own(Answer),
    /// 101: both sides speak something else from now on.
    Tunnel,
    /// The response has begun and cannot be completed, or nobody is there to read it; and whose doing that is.
    Abort(By),
}

impl Exchange {
    /// For the upstream that `visit` names.
    /// `upstream` is its lasting number.
    pub fn new(conn: Key, facts: Facts, upstream: u32, visit: Box<Visit>, framing: Framing, now: u64) -> Self {
        Exchange {
            facts,
            visit,
            conn,
            upstream,
            held: None,
            link: None,
            parked: None,
            tried: Vec::new(),
            connect_timeouts: 0,
            kept: Buf::new(),
            intake: Intake::new(framing),
            mute: false,
            scanner: Scanner::default(),
            hungry: false,
            answered: false,
            interim: 0,
            reply: Reply::Head,
            progress: now,
        }
    }

    /// Sends the head, which is in the outbox, together with what has come of the body.
    pub fn begin(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<(), Outcome> {
        self.intake.limit = tools.body_limit(self.upstream);
        if self.intake.is_too_long() {
            return Err(Outcome::Own(Answer::too_large()));
        }
        let mut request = std::mem::take(&mut tools.outbox);
        let result = match self.take_stash(client, tools, &mut request) {
            Ok(_) => {
                let whole = self.intake.is_done() && request.len() <= CHUNK;
                // What cannot be sent twice, by its nature or for want of its bytes, is not sent on a doubtful link.
                let reuse = if whole && self.facts.idempotent { Reuse::Any } else { Reuse::Fresh };
                self.dispatch(&request, reuse, tools)
            }
            Err(outcome) => Err(outcome),
        };
        tools.outbox = request;
        result
    }

    /// What is known of it at its end.
    pub fn end_visit(&mut self, client: &Socket) -> &mut Visit {
        self.visit.whole = self.intake.is_done();
        self.visit.bytes_in += self.intake.seen();
        self.visit.bytes_out = client.sent() - self.visit.sent_before;
        &mut self.visit
    }

    pub fn into_visit(mut self, client: &Socket) -> Box<Visit> {
        self.end_visit(client);
        self.visit
    }

    /// Moves what can be moved. True when something was.
    pub fn turn(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Outcome> {
        if self.parked.is_some() && !self.resume(tools)? {
            return Ok(false);
        }
        let pushed = self.push(client, tools)?;
        let pulled = self.pull(client, tools)?;
        if pushed || pulled {
            self.progress = tools.now;
        }
        Ok(pushed || pulled)
    }

    /// The response is with the client's socket as a whole, and the link has been left.
    pub fn is_over(&self) -> bool {
        matches!(self.reply, Reply::Done)
    }

    /// The final response's head has been sent.
    pub fn has_begun(&self) -> bool {
        !matches!(self.reply, Reply::Head)
    }

    /// All of the request has come, so the next one begins where this one ended.
    pub fn has_whole_request(&self) -> bool {
        self.intake.is_done()
    }

    pub fn is_event_stream(&self) -> bool {
        matches!(&self.reply, Reply::Body(Body { silent: true, .. }))
    }

    /// The client alone holds things up: the endpoint has taken what came of the body, and has not begun to answer.
    pub fn awaits_body(&self) -> bool {
        let idle = |link: &Link| link.socket.is_clear() && !link.socket.is_connecting();
        !self.intake.is_done() && !self.mute && !self.has_begun() && self.link.as_ref().is_some_and(idle)
    }

    pub fn link(&mut self) -> Option<&mut Link> {
        self.link.as_mut()
    }

    /// For the tunnel; the endpoint stays held, by the tunnel now.
    pub fn take_for_tunnel(&mut self) -> Option<(Link, EndpointId)> {
        self.link.take().zip(self.held.take())
    }

    /// Output that was stuck has gone.
    pub fn touch(&mut self, now: u64) {
        self.progress = now;
    }

    /// Leaves link and endpoint, however far it came.
    pub fn leave(&mut self, tools: &mut Tools) {
        self.unpark(tools);
        if let Some(link) = self.link.take() {
            tools.discard(link);
        }
        self.kept.clear(&mut tools.io.spare);
        if let Some(id) = self.held.take() {
            tools.release(id);
        }
    }

    /// When to call [`Exchange::expired`], if nothing moves until then.
    pub fn deadline(&self, client: &Socket, tools: &Tools) -> Option<u64> {
        if let Some(parked) = &self.parked {
            return Some(parked.until);
        }
        let limits = &tools.limits;
        let limit = match (&self.link, &self.reply) {
            (Some(link), _) if link.socket.is_connecting() => limits.connect,
            _ if !client.is_clear() => return None, // nothing is read meanwhile; the conn sees to its pace
            (Some(link), _) if !link.socket.is_clear() => limits.write,
            _ if !self.intake.is_done() && !self.mute => limits.body,
            (_, Reply::Body(Body { silent: true, .. })) => return None,
            (_, Reply::Body(_)) => limits.between_bytes,
            _ => limits.response_head,
        };
        Some(tools.after(self.progress, limit))
    }

    /// The deadline has passed.
    pub fn expired(&mut self, tools: &mut Tools) -> Result<(), Outcome> {
        if self.parked.is_some() {
            return self.give_up_waiting(tools);
        }
        if let Some(link) = self.link.as_mut().filter(|l| l.socket.is_connecting()) {
            let mut unsent = link.socket.take_unsent();
            self.connect_timeouts += 1;
            let result = self.go_elsewhere(unsent.bytes(), tools);
            unsent.clear(&mut tools.io.spare);
            return result;
        }
        let stuck = self.link.as_ref().is_some_and(|l| !l.socket.is_clear());
        Err(match self.reply {
            Reply::Head if !stuck && !self.intake.is_done() && !self.mute => Outcome::Own(Answer::request_timeout()),
            Reply::Head => Outcome::Own(Answer::gateway_timeout()),
            _ => Outcome::Abort(By::Timeout),
        })
    }
}
