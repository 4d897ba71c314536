//! Response: the way from the endpoint to the client, and what becomes of the link.
//!
//! **Invariant**: a link is used again only if nothing speaks against it: head, framing, surplus bytes, an unsent rest
//! of the request.

use std::io;

use super::{Exchange, MAX_INTERIM, Outcome, Reply};
use crate::proxy::access::By;
use crate::proxy::answer::Answer;
use crate::proxy::bodies::Body;
use crate::proxy::forward::{self, Defaults, Shape};
use crate::proxy::http::buf::Buf;
use crate::proxy::http::framing::{self, Decoder, Framing};
use crate::proxy::http::head::{Response, Scanner};
use crate::proxy::http::headers::{Name, starts_with_ignore_case};
use crate::proxy::http::{Bad, Version, bad};
use crate::proxy::tools::Tools;
use crate::proxy::tools::links::Reuse;
use crate::proxy::transport::{BODY_READ, End, Socket};

impl Exchange {
    /// Endpoint to client.
    pub(super) fn pull(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Outcome> {
        let Some(link) = self.link.as_mut().filter(|l| !l.socket.is_connecting() && client.is_clear()) else {
            return Ok(false);
        };
        let has_work = link.socket.has_stash() && !self.hungry;
        // Whoever holds memory goes on, or it would never come back.
        let holds = link.socket.has_stash() || client.has_stash() || !self.kept.is_empty();
        if !has_work && !(link.socket.is_readable() && (holds || tools.may_read())) {
            return Ok(false);
        }
        let mut inbox = std::mem::take(&mut tools.inbox);
        let mut out = std::mem::take(&mut tools.outbox);
        out.clear();
        let got = link.socket.gather(&mut inbox, &mut tools.io, BODY_READ, !has_work);
        tools.moved += got.fresh;
        if got.len > 0 && !self.answered {
            self.answered = true;
            self.visit.answered = Some(tools.now_us);
        }
        let begun = self.has_begun();
        let used = self.digest(&inbox[..got.len], &mut out, client, tools);
        if self.is_event_stream() && used.is_ok() && !begun {
            client.keep_alive(); // no limit of ours ends a silent stream
        }
        if let (Ok(used), Some(link)) = (&used, &mut self.link) {
            link.socket.put_back(&inbox[*used..got.len], &mut tools.io);
        }
        let sent = client.send(&out, &mut tools.io);
        (tools.inbox, tools.outbox) = (inbox, out);

        let used = used?;
        sent.map_err(|_| Outcome::Abort(By::Client))?;
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
        let (taken, done) = body.relay(&input[used..], out, client, tools).map_err(|e| Outcome::Abort(blame(&e)))?;
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
                self.kept.clear(&mut tools.io.spare);
                self.visit.status = 101;
                self.visit.switched = true;
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
        let defaults = Defaults { date: tools.date(), request_id: self.visit.id() };
        forward::response(out, response, shape, defaults)?;
        self.visit.status = response.status;
        let stays = match response.version {
            Version::V11 => !response.connection.close,
            Version::V10 => response.connection.keep_alive && !response.connection.close,
        };
        if let (Some(link), Some(said)) = (&mut self.link, forward::idle_limit(response)) {
            link.idle = said.min(tools.limits.link_idle);
        }
        let kind = response.fields.first(Name::ContentType).unwrap_or(b"");
        let silent = starts_with_ignore_case(kind, b"text/event-stream");
        self.reply = Reply::Body(Body { decoder: Decoder::new(framing), shape, reusable: sound && stays, silent });
        self.kept.clear(&mut tools.io.spare);
        Ok(())
    }

    fn bad_response(&self, bad: Bad, tools: &mut Tools) -> Outcome {
        if let Some(id) = self.held.filter(|_| tools.may_log()) {
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
                sent.map_err(|_| Outcome::Abort(By::Client))
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
                    self.visit.failures += 1;
                    tools.shared.failed(id);
                }
                Err(Outcome::Own(Answer::bad_gateway()))
            }
            _ => Err(Outcome::Abort(By::Endpoint)),
        }
    }
}

/// Whose doing it is that a body cannot be relayed.
fn blame(e: &io::Error) -> By {
    // What `bodies` says of broken framing; every other error is one of the client's socket.
    if e.kind() == io::ErrorKind::InvalidData { By::Endpoint } else { By::Client }
}
