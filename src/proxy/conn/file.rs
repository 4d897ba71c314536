//! File: a conn that answers with a file.
//!
//! ```text
//!   Head ─▶ found ─▶ head and first piece in one write ─▶ Idle, or File until all of it is sent
//!     │ the disk must be asked: Finding ─▶ Head, the same request once more
//!     └ missing: an Exchange
//! ```
//! **Invariant**: while the disk is asked the request lies untouched in the socket's stash, so nothing of it is kept
//! twice; and a response that has begun is completed or cut, never ended early by a clean close.

use super::{Conn, Phase, Step};
use crate::proxy::access::{By, Visit};
use crate::proxy::answer::{Answer, Manner, prefers_html};
use crate::proxy::files::head;
use crate::proxy::files::send::{Delivery, Got};
use crate::proxy::files::{Found, Heard};
use crate::proxy::http::framing::Framing;
use crate::proxy::http::head::Request;
use crate::proxy::http::{Method, Version};
use crate::proxy::tools::Tools;

use super::heads::PLAIN;

impl Conn {
    /// Answers with a file, or says that it will. False when there is none, so that the app is to be asked. `prefix` is
    /// the length of the route's own part of the path.
    pub(super) fn serve_file(
        &mut self,
        request: &Request<'_>,
        framing: Framing,
        (upstream, prefix): (u32, usize),
        close: bool,
        tools: &mut Tools,
    ) -> bool {
        // What has a body, or wants to speak something else, is meant for a program.
        if !matches!(framing, Framing::None | Framing::Length(0)) || request.connection.upgrade {
            return false;
        }
        let head_only = request.method == Method::Head;
        let manner = Manner { html: false, head_only, close, say_keep_alive: request.version == Version::V10 };
        let own = match tools.find_file(upstream, request, prefix, self.key) {
            Found::Missing => return false,
            Found::Asked => {
                self.enter(Phase::Finding, tools);
                return true;
            }
            Found::Overloaded => Answer::overloaded(),
            Found::Here(variant) => {
                let mut visit = self.visit(request, Some(upstream), tools);
                let mut out = std::mem::take(&mut tools.outbox);
                out.clear();
                let told = head::write(&mut out, request.fields, &variant, manner, (tools.date(), visit.id()));
                tools.outbox = out;
                let answer = match told {
                    Some((status, part)) => {
                        visit.status = status;
                        match self.begin_file(Delivery::new(visit, variant, part, close, tools.now), tools) {
                            Ok(()) => return true,
                            Err(unsent) => (Answer::overloaded(), unsent),
                        }
                    }
                    None => (Answer::precondition_failed(), visit),
                };
                self.say(&answer.0, Manner { html: prefers_html(request), ..manner }, answer.1, tools);
                return true;
            }
        };
        let visit = self.visit(request, Some(upstream), tools);
        self.say(&own, Manner { html: prefers_html(request), ..manner }, visit, tools);
        true
    }

    /// Sends the head, which is in the outbox, and what of the file is in memory.
    ///
    /// # Errors
    /// When nothing can be sent now: the file changed as we looked, or too many wait for the disk. Both are over in a
    /// moment.
    fn begin_file(&mut self, mut delivery: Delivery, tools: &mut Tools) -> Result<(), Box<Visit>> {
        if self.socket.is_plain() && delivery.is_warm(tools.now) {
            self.served += 1;
            let sent = self.socket.send_ahead(&tools.outbox, &mut tools.io);
            self.enter(Phase::File(Box::new(delivery)), tools);
            if sent.is_err() {
                self.abort(By::Client, tools);
            }
            return Ok(());
        }
        let head = tools.outbox.len();
        let (before, after) = tools.files.room.split_at_mut(head);
        before.copy_from_slice(&tools.outbox);
        let got = if delivery.is_over() { Got::Bytes(0) } else { delivery.read(after, tools.now) };
        let length = match got {
            Got::Bytes(n) => head + n,
            Got::NotNow if tools.ask_to_read(&mut delivery, self.key) => head,
            Got::NotNow | Got::Cut => return Err(delivery.end_visit(&self.socket)),
        };
        tools.moved += length;
        let sent = self.socket.send(&tools.files.room[..length], &mut tools.io);
        self.served += 1;
        if sent.is_ok() && !delivery.is_over() {
            self.enter(Phase::File(Box::new(delivery)), tools);
            return Ok(());
        }
        let next = if delivery.close { Phase::Closing } else { Phase::Idle };
        tools.record(delivery.end_visit(&self.socket), if sent.is_ok() { By::Nobody } else { By::Client });
        self.enter(if sent.is_ok() { next } else { Phase::Gone }, tools);
        Ok(())
    }

    /// Finding: nothing to do until the helper has answered.
    pub(super) fn await_file(&mut self, tools: &mut Tools) -> Step {
        if self.socket.is_broken() {
            self.abort(By::Client, tools);
            return Step::Again;
        }
        Step::Wait
    }

    /// The disk has not answered in time, or at all. The request still lies in the stash and is not to be read again, so
    /// the connection ends here.
    pub(super) fn give_up_finding(&mut self, tools: &mut Tools) {
        let visit = self.raw_visit(self.socket.stash(), tools);
        self.say(&Answer::overloaded(), Manner { close: true, ..PLAIN }, visit, tools);
    }

    /// File: sends the next piece once the last one is with the kernel.
    pub(super) fn deliver(&mut self, tools: &mut Tools) -> Step {
        let Phase::File(delivery) = &mut self.phase else { return Step::Wait };
        let waited = !self.socket.is_clear();
        match self.socket.flush(&mut tools.io) {
            Ok(true) if !self.socket.is_broken() => {}
            Ok(false) if !self.socket.is_broken() => return Step::Wait,
            _ => {
                self.abort(By::Client, tools);
                return Step::Again;
            }
        }
        if waited {
            delivery.progress = tools.now;
        }
        if delivery.is_over() {
            return self.finish_file(tools);
        }
        if delivery.waiting || !tools.may_read() {
            return Step::Wait;
        }
        if self.socket.is_plain() && delivery.is_warm(tools.now) {
            let (file, at, length) = delivery.next_slice();
            match self.socket.send_file(file, at, length) {
                Ok(None) => return Step::Wait,
                Ok(Some(n)) if n > 0 => {
                    delivery.progress = tools.now;
                    delivery.advance(n);
                    tools.moved += n;
                }
                Ok(_) => self.abort(By::Proxy, tools),
                Err(_) => self.abort(By::Client, tools),
            }
            return Step::Again;
        }
        match delivery.read(&mut tools.files.room, tools.now) {
            Got::Bytes(n) => {
                delivery.progress = tools.now;
                tools.moved += n;
                if self.socket.send(&tools.files.room[..n], &mut tools.io).is_err() {
                    self.abort(By::Client, tools);
                }
            }
            Got::NotNow if tools.ask_to_read(delivery, self.key) => return Step::Wait,
            Got::NotNow | Got::Cut => self.abort(By::Proxy, tools),
        }
        Step::Again
    }

    /// All of it is with the kernel.
    fn finish_file(&mut self, tools: &mut Tools) -> Step {
        let Phase::File(delivery) = std::mem::replace(&mut self.phase, Phase::Gone) else { return Step::Wait };
        let close = delivery.close || tools.stopping.is_some();
        tools.record(delivery.end_visit(&self.socket), By::Nobody);
        self.enter(if close { Phase::Closing } else { Phase::Idle }, tools);
        Step::Again
    }

    /// What the helper has for it; one that is past waiting needs it no more.
    pub fn heard(&mut self, heard: Heard, tools: &mut Tools) {
        match (heard, &mut self.phase) {
            (Heard::Looked, Phase::Finding) => self.enter(Phase::Head, tools),
            (Heard::Failed, Phase::Finding) => self.give_up_finding(tools),
            (Heard::Read { at, bytes }, Phase::File(delivery)) => {
                delivery.progress = tools.now;
                let bytes = bytes.unwrap_or_default();
                if !delivery.take(at, &bytes) {
                    self.abort(By::Proxy, tools);
                } else if self.socket.send(&bytes, &mut tools.io).is_err() {
                    self.abort(By::Client, tools);
                }
            }
            (Heard::Looked | Heard::Failed | Heard::Read { .. }, _) => {}
        }
    }
}
