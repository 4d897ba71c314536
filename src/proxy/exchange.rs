//! Exchange: one request and its response in flight, between a client's socket and a link.
//!
//! ```text
//!   connecting ─▶ request goes out ─▶ Reply::Head ─▶ Reply::Body ─▶ Reply::Done
//!       │ refused: next endpoint      │ reused link died: once more      │ link parked or closed
//! ```
//! It does not know what the client's connection was or will be, only that it is a [`Socket`].
//!
//! **Invariant**: a source is read only while its sink has nothing waiting. A response begins at most once; after that
//! only [`Outcome::Abort`] is left for a failure. Nothing is sent twice unless the method is idempotent.

use std::io;

use super::answer::Answer;
use super::bodies::{Body, Intake};
use super::forward::{self, Shape};
use super::http::buf::{Buf, CHUNK};
use super::http::framing::{self, Decoder, Framing};
use super::http::head::{Response, Scanner};
use super::http::headers::{Name, starts_with_ignore_case};
use super::http::{Bad, Version, bad};
use super::table::EndpointId;
use super::token::Key;
use super::tools::{Link, Reuse, Tools};
use super::transport::{BODY_READ, End, Socket};

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
    conn: Key,
    /// The upstream's lasting number.
    upstream: u32,
    held: Option<EndpointId>,
    link: Option<Link>,
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
    /// The response has begun and cannot be completed, or nobody is there to read it.
    Abort,
}

impl Exchange {
    /// `upstream` is its lasting number.
    pub fn new(conn: Key, facts: Facts, upstream: u32, framing: Framing, now: u64) -> Self {
        Exchange {
            facts,
            conn,
            upstream,
            held: None,
            link: None,
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

    /// Moves what can be moved. True when something was.
    pub fn turn(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Outcome> {
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
        let limits = &tools.limits;
        let limit = match (&self.link, &self.reply) {
            (Some(link), _) if link.socket.is_connecting() => limits.connect,
            _ if !client.is_clear() => limits.write,
            (Some(link), _) if !link.socket.is_clear() => limits.write,
            _ if !self.intake.is_done() && !self.mute => limits.body,
            (_, Reply::Body(Body { silent: true, .. })) => return None,
            (_, Reply::Body(_)) => limits.between_bytes,
            _ => limits.response_head,
        };
        Some(tools.after(self.progress, limit))
    }

    /// The deadline has passed.
    pub fn expired(&mut self, client: &Socket, tools: &mut Tools) -> Result<(), Outcome> {
        if let Some(link) = self.link.as_mut().filter(|l| l.socket.is_connecting()) {
            let mut unsent = link.socket.take_unsent();
            self.connect_timeouts += 1;
            let result = self.go_elsewhere(unsent.bytes(), tools);
            unsent.clear(&mut tools.io.spare);
            return result;
        }
        let stuck = self.link.as_ref().is_some_and(|l| !l.socket.is_clear());
        Err(match self.reply {
            Reply::Head if !client.is_clear() => Outcome::Abort,
            Reply::Head if !stuck && !self.intake.is_done() && !self.mute => Outcome::Own(Answer::request_timeout()),
            Reply::Head => Outcome::Own(Answer::gateway_timeout()),
            _ => Outcome::Abort,
        })
    }

    /// Sends `request`, all that has come of it, to the next endpoint that takes it.
    fn dispatch(&mut self, request: &[u8], reuse: Reuse, tools: &mut Tools) -> Result<(), Outcome> {
        loop {
            tools.adopt();
            let Some(endpoint) = tools.choose(self.upstream, &self.tried) else {
                return Err(Outcome::Own(match (self.tried.is_empty(), self.connect_timeouts) {
                    (true, _) => Answer::no_endpoint(),
                    (false, 0) => Answer::bad_gateway(),
                    (false, _) => Answer::gateway_timeout(),
                }));
            };
            self.held = Some(endpoint.id);
            let mut link = match tools.link(endpoint, self.conn, reuse) {
                Ok(link) => link,
                Err(e) => {
                    if is_ours(&e) {
                        log::warn!("proxy cannot connect to endpoint={}: {e}", endpoint.addr);
                        return Err(Outcome::Own(Answer::overloaded()));
                    }
                    self.pass_over(tools);
                    continue;
                }
            };
            if link.socket.send(request, &mut tools.io).is_err() {
                if link.socket.is_connecting() {
                    tools.discard(link);
                    self.pass_over(tools);
                    continue;
                }
                // Reading tells how it ended: with an answer, or without one.
                self.mute = true;
                link.socket.drop_unsent(&mut tools.io);
                link.socket.look_again();
            }
            if link.used && reuse == Reuse::Any {
                self.kept.replace(request, &mut tools.io.spare);
            }
            self.link = Some(link);
            self.progress = tools.now;
            return Ok(());
        }
    }

    /// The held endpoint does not take connections; nothing was sent to it.
    fn pass_over(&mut self, tools: &mut Tools) {
        if let Some(id) = self.held.take() {
            tools.shared.failed(id);
            tools.release(id);
            self.tried.push(id);
        }
    }

    /// The connection was refused, or not made in time: any method may move on (RFC 9110 §9.2.2 speaks of requests
    /// that were sent).
    fn go_elsewhere(&mut self, unsent: &[u8], tools: &mut Tools) -> Result<(), Outcome> {
        if let Some(link) = self.link.take() {
            tools.discard(link);
        }
        self.pass_over(tools);
        if self.connect_timeouts >= MAX_CONNECT_TIMEOUTS {
            return Err(Outcome::Own(Answer::gateway_timeout()));
        }
        self.dispatch(unsent, Reuse::Never, tools)
    }

    /// Client to endpoint.
    fn push(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Outcome> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let waiting = !link.socket.is_clear();
        match link.socket.flush(&mut tools.io) {
            Ok(false) => return Ok(false),
            Ok(true) => {}
            Err(_) if link.socket.is_connecting() => {
                let mut unsent = link.socket.take_unsent();
                let result = self.go_elsewhere(unsent.bytes(), tools);
                unsent.clear(&mut tools.io.spare);
                return result.map(|()| true);
            }
            Err(_) => {
                self.mute = true;
                link.socket.drop_unsent(&mut tools.io);
                link.socket.look_again();
            }
        }
        if self.mute || self.intake.is_done() {
            return Ok(waiting);
        }
        let mut body = std::mem::take(&mut tools.outbox);
        body.clear();
        let taken = match client.has_stash() {
            true => self.take_stash(client, tools, &mut body),
            false => self.read_body(client, tools, &mut body),
        };
        let link = self.link.as_mut().filter(|_| taken.is_ok());
        if link.is_some_and(|link| link.socket.send(&body, &mut tools.io).is_err()) {
            self.mute = true;
        }
        tools.outbox = body;
        Ok(taken? || waiting)
    }

    /// Appends to `out` what has come of the body already, framed anew. True when something had.
    fn take_stash(&mut self, client: &mut Socket, tools: &mut Tools, out: &mut Vec<u8>) -> Result<bool, Outcome> {
        if self.intake.is_done() || !client.has_stash() {
            return Ok(false);
        }
        let used = self.intake.take(client.stash(), out).map_err(|bad| self.bad_request(bad))?;
        client.consume_stash(used, &mut tools.io);
        Ok(used > 0)
    }

    /// Reads once and appends to `out` what that gives of the body, framed anew. True when something came.
    fn read_body(&mut self, client: &mut Socket, tools: &mut Tools, out: &mut Vec<u8>) -> Result<bool, Outcome> {
        if !client.is_readable() {
            return Ok(false);
        }
        let mut inbox = std::mem::take(&mut tools.inbox);
        let got = client.gather(&mut inbox, &mut tools.io, BODY_READ, true);
        tools.moved += got.fresh;
        let used = self.intake.take(&inbox[..got.len], out);
        if let Ok(used) = used {
            client.put_back(&inbox[used..got.len], &mut tools.io);
        }
        tools.inbox = inbox;
        used.map_err(|bad| self.bad_request(bad))?;
        if got.end != End::NotYet && !self.intake.is_done() {
            return Err(Outcome::Abort); // the client left in the middle of its request
        }
        Ok(got.fresh > 0)
    }

    fn bad_request(&self, bad: Bad) -> Outcome {
        match self.reply {
            Reply::Head => Outcome::Own(Answer::refusal(bad)),
            _ => Outcome::Abort,
        }
    }

    /// Endpoint to client.
    fn pull(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Outcome> {
        let Some(link) = self.link.as_mut().filter(|l| !l.socket.is_connecting() && client.is_clear()) else {
            return Ok(false);
        };
        let has_work = link.socket.has_stash() && !self.hungry;
        if !has_work && !link.socket.is_readable() {
            return Ok(false);
        }
        let mut inbox = std::mem::take(&mut tools.inbox);
        let mut out = std::mem::take(&mut tools.outbox);
        out.clear();
        let got = link.socket.gather(&mut inbox, &mut tools.io, BODY_READ, !has_work);
        tools.moved += got.fresh;
        self.answered |= got.len > 0;
        let used = self.digest(&inbox[..got.len], &mut out, client, tools);
        if let (Ok(used), Some(link)) = (&used, &mut self.link) {
            link.socket.put_back(&inbox[*used..got.len], &mut tools.io);
        }
        let sent = client.send(&out, &mut tools.io);
        (tools.inbox, tools.outbox) = (inbox, out);

        let used = used?;
        sent.map_err(|_| Outcome::Abort)?;
        match self.reply {
            Reply::Switched => return Err(Outcome::Tunnel),
            Reply::Done => {}
            _ if got.end != End::NotYet => self.link_ended(got.end, client, tools)?,
            _ => {}
        }
        Ok(used > 0 || got.fresh > 0 || got.end != End::NotYet)
    }

    /// Reads `input` as far as it goes, writing to `out` what the client gets. Returns how much is used up.
    fn digest(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        client: &mut Socket,
        tools: &mut Tools,
    ) -> Result<usize, Outcome> {
        let mut used = 0;
        while let Reply::Head = self.reply {
            let rest = &input[used..];
            let head = self.scanner.response(rest).map_err(|bad| self.bad_response(bad, tools))?;
            let Some(head) = head else {
                self.hungry = true;
                return Ok(used);
            };
            used += head.end;
            self.hungry = false;
            self.scanner = Scanner::default();
            let mut fields = std::mem::take(&mut tools.fields);
            let result = Response::parse(&rest[head], &mut fields).and_then(|r| self.take_head(&r, out, tools));
            tools.fields = fields;
            result.map_err(|bad| self.bad_response(bad, tools))?;
        }
        let Reply::Body(body) = &mut self.reply else { return Ok(used) };
        let (taken, done) = body.relay(&input[used..], out, client, tools).map_err(|_| Outcome::Abort)?;
        used += taken;
        if done {
            self.retire(used < input.len(), tools);
        }
        Ok(used)
    }

    fn take_head(&mut self, response: &Response<'_>, out: &mut Vec<u8>, tools: &mut Tools) -> Result<(), Bad> {
        match response.status {
            101 if self.facts.wants_websocket && forward::has_websocket(response.fields) => {
                forward::switching(out, response);
                self.reply = Reply::Switched;
                return Ok(());
            }
            101 => return bad(502, "unrequested 101"),
            100..=199 => {
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return bad(502, "too many informational responses");
                }
                // RFC 9110 §15.2: a client of HTTP/1.0 does not know them.
                if self.facts.version == Version::V11 {
                    forward::interim(out, response);
                }
                return Ok(());
            }
            _ => {}
        }
        let (framing, sound) = framing::response(response, self.facts.to_head)?;
        let to_client = match (framing, self.facts.version) {
            (Framing::Chunked | Framing::UntilClose, Version::V10) => Framing::UntilClose,
            (Framing::UntilClose, Version::V11) => Framing::Chunked,
            (framing, _) => framing,
        };
        // An answer before the end of the request: what follows could be the rest of the body or the next request, and
        // only the client knows which (RFC 9112 §9.3, §9.6).
        self.facts.close |= tools.stopping.is_some() || !self.intake.is_done() || to_client == Framing::UntilClose;
        let shape = Shape {
            framing: to_client,
            close: self.facts.close,
            say_keep_alive: self.facts.version == Version::V10,
            trailers: self.facts.takes_trailers && framing == Framing::Chunked,
        };
        forward::response(out, response, shape, tools.date())?;
        let stays = match response.version {
            Version::V11 => !response.connection.close,
            Version::V10 => response.connection.keep_alive && !response.connection.close,
        };
        let kind = response.fields.first(Name::ContentType).unwrap_or(b"");
        let silent = starts_with_ignore_case(kind, b"text/event-stream");
        self.reply = Reply::Body(Body { decoder: Decoder::new(framing), shape, reusable: sound && stays, silent });
        self.kept.clear(&mut tools.io.spare);
        Ok(())
    }

    fn bad_response(&self, bad: Bad, tools: &Tools) -> Outcome {
        if let Some(id) = self.held {
            log::warn!("bad response endpoint={} worker={}: {}", id.0, tools.worker, bad.why);
        }
        Outcome::Own(Answer::bad_gateway())
    }

    /// The response is complete: the link is parked if nothing speaks against it.
    fn retire(&mut self, surplus: bool, tools: &mut Tools) {
        let reusable = matches!(&self.reply, Reply::Body(body) if body.reusable);
        self.reply = Reply::Done;
        let Some(link) = self.link.take() else { return };
        // Bytes nobody asked for would be read as the next answer; an unsent rest of a request as the next request.
        let clean = !surplus && !self.mute && self.intake.is_done() && link.socket.is_clear();
        if reusable && clean { tools.park(link) } else { tools.discard(link) }
    }

    /// The endpoint has closed before the response was complete by its framing.
    fn link_ended(&mut self, end: End, client: &mut Socket, tools: &mut Tools) -> Result<(), Outcome> {
        let Some(link) = self.link.take() else { return Ok(()) };
        let used = link.used;
        tools.discard(link);
        match &self.reply {
            // RFC 9112 §6.3 rule 8: the close is the end, if it was one.
            Reply::Body(body) if matches!(body.decoder, Decoder::UntilClose) && end == End::Clean => {
                let mut out = std::mem::take(&mut tools.outbox);
                out.clear();
                body.write_end(&mut out, tools);
                let sent = client.send(&out, &mut tools.io);
                tools.outbox = out;
                self.reply = Reply::Done;
                sent.map_err(|_| Outcome::Abort)
            }
            Reply::Head if used && !self.answered && !self.kept.is_empty() => {
                // It closed an idle connection as our request was on its way: once more, elsewhere or anew.
                if let Some(id) = self.held.take() {
                    tools.release(id);
                }
                let mut kept = std::mem::replace(&mut self.kept, Buf::new());
                self.mute = false;
                let result = self.dispatch(kept.bytes(), Reuse::Never, tools);
                kept.clear(&mut tools.io.spare);
                result
            }
            Reply::Head => {
                if let Some(id) = self.held.filter(|_| !self.answered) {
                    tools.shared.failed(id);
                }
                Err(Outcome::Own(Answer::bad_gateway()))
            }
            _ => Err(Outcome::Abort),
        }
    }
}

/// The endpoint has no part in it: we are out of descriptors, ports or memory.
fn is_ours(e: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(e),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
    )
}
