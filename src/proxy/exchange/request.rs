//! Request: the way from the client to an endpoint, and which endpoint that is.
//!
//! **Invariant**: a request moves on to another endpoint only while nothing of it was sent, whatever its method.

use super::{Exchange, MAX_CONNECT_TIMEOUTS, Outcome, Reply};
use crate::proxy::access::By;
use crate::proxy::answer::Answer;
use crate::proxy::http::Bad;
use crate::proxy::tools::Tools;
use crate::proxy::tools::links::{Reuse, is_shortage};
use crate::proxy::transport::{BODY_READ, End, Socket};

impl Exchange {
    /// Sends `request`, all that has come of it, to the next endpoint that takes it.
    pub(super) fn dispatch(&mut self, request: &[u8], reuse: Reuse, tools: &mut Tools) -> Result<(), Outcome> {
        loop {
            tools.adopt();
            let Some(endpoint) = tools.choose(self.upstream, &self.tried) else {
                return self.without_endpoint(request, reuse, tools);
            };
            self.held = Some(endpoint.id);
            self.visit.choose(endpoint.id);
            let mut link = match tools.link(endpoint, self.conn, reuse) {
                Ok(link) => link,
                Err(e) => {
                    if is_shortage(&e) {
                        if tools.may_log() {
                            log::warn!("proxy cannot connect to endpoint={}: {e}", endpoint.addr);
                        }
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
                self.mute = true;
            }
            if link.used && reuse == Reuse::Any {
                self.kept.replace(request, &mut tools.io.spare);
            }
            self.visit.ask(link.used, tools.now_us);
            self.link = Some(link);
            if self.mute {
                self.hush(tools);
            }
            self.progress = tools.now;
            return Ok(());
        }
    }

    /// The held endpoint does not take connections; nothing was sent to it.
    fn pass_over(&mut self, tools: &mut Tools) {
        if let Some(id) = self.held.take() {
            tools.shared.failed(id);
            tools.release(id);
            self.visit.failures += 1;
            self.tried.push(id);
        }
    }

    /// The connection was refused, or not made in time: any method may move on (RFC 9110 §9.2.2 speaks of requests
    /// that were sent).
    pub(super) fn go_elsewhere(&mut self, unsent: &[u8], tools: &mut Tools) -> Result<(), Outcome> {
        if let Some(link) = self.link.take() {
            tools.discard(link);
        }
        self.pass_over(tools);
        if self.connect_timeouts >= MAX_CONNECT_TIMEOUTS {
            return Err(Outcome::Own(Answer::gateway_timeout()));
        }
        self.dispatch(unsent, Reuse::Never, tools)
    }

    /// The endpoint takes no more of the request. Reading tells how it ended: with an answer, or without one.
    fn hush(&mut self, tools: &mut Tools) {
        self.mute = true;
        if let Some(link) = &mut self.link {
            link.socket.drop_unsent(&mut tools.io);
            link.socket.look_again();
        }
    }

    /// Client to endpoint.
    pub(super) fn push(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Outcome> {
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
            Err(_) => self.hush(tools),
        }
        if self.mute || self.intake.is_done() || !(client.has_stash() || client.is_readable() && tools.may_read()) {
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
            self.hush(tools);
        }
        tools.outbox = body;
        Ok(taken? || waiting)
    }

    /// Appends to `out` what has come of the body already, framed anew. True when something had.
    pub(super) fn take_stash(
        &mut self,
        client: &mut Socket,
        tools: &mut Tools,
        out: &mut Vec<u8>,
    ) -> Result<bool, Outcome> {
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
            return Err(Outcome::Abort(By::Client)); // it left in the middle of its request
        }
        // Readable still, though nothing came of it: a part of a TLS record.
        Ok(got.fresh > 0 || client.is_readable())
    }

    fn bad_request(&self, bad: Bad) -> Outcome {
        match self.reply {
            Reply::Head => Outcome::Own(Answer::refusal(bad)),
            _ => Outcome::Abort(By::Client),
        }
    }
}
