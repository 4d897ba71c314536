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
        let begun = match tools.find_file(upstream, request, prefix, self.key) {
            Found::Missing => return false,
            Found::Asked => {
                self.enter(Phase::Finding, tools);
                return true;
            }
            Found::Overloaded => Err(Answer::overloaded()),
            Found::Here(variant) => {
                let mut out = std::mem::take(&mut tools.outbox);
                out.clear();
                let part = head::write(&mut out, request.fields, &variant, manner, tools.date());
                tools.outbox = out;
                match part {
                    Some(part) => self.begin_file(Delivery::new(variant, part, close, tools.now), tools),
                    None => Err(Answer::precondition_failed()),
                }
            }
        };
        if let Err(answer) = begun {
            self.say(&answer, Manner { html: prefers_html(request), ..manner }, tools);
        }
        true
    }

    /// Sends the head, which is in the outbox, and what of the file is in memory.
    ///
    /// # Errors
    /// What to say instead, when nothing has been sent.
    fn begin_file(&mut self, mut delivery: Delivery, tools: &mut Tools) -> Result<(), Answer> {
        if self.socket.is_plain() && delivery.is_warm(tools.now) {
            self.served += 1;
            let sent = self.socket.send_ahead(&tools.outbox, &mut tools.io);
            self.enter(if sent.is_ok() { Phase::File(Box::new(delivery)) } else { Phase::Gone }, tools);
            return Ok(());
        }
        let head = tools.outbox.len();
        let (before, after) = tools.files.room.split_at_mut(head);
        before.copy_from_slice(&tools.outbox);
        let got = if delivery.is_over() { Got::Bytes(0) } else { delivery.read(after, tools.now) };
        let length = match got {
            Got::Bytes(n) => head + n,
            Got::NotNow if tools.ask_to_read(&mut delivery, self.key) => head,
            // Changed as we looked, or too many wait for the disk: both are over in a moment.
            Got::NotNow | Got::Cut => return Err(Answer::overloaded()),
        };
        tools.moved += length;
        let sent = self.socket.send(&tools.files.room[..length], &mut tools.io);
        self.served += 1;
        let phase = match sent {
            Err(_) => Phase::Gone,
            Ok(()) if !delivery.is_over() => Phase::File(Box::new(delivery)),
            Ok(()) if delivery.close => Phase::Closing,
            Ok(()) => Phase::Idle,
        };
        self.enter(phase, tools);
        Ok(())
    }

    /// Finding: nothing to do until the helper has answered.
    pub(super) fn await_file(&mut self, tools: &mut Tools) -> Step {
        if self.socket.is_broken() {
            self.abort(tools);
            return Step::Again;
        }
        Step::Wait
    }

    /// File: sends the next piece once the last one is with the kernel.
    pub(super) fn deliver(&mut self, tools: &mut Tools) -> Step {
        let Phase::File(delivery) = &mut self.phase else { return Step::Wait };
        let waited = !self.socket.is_clear();
        match self.socket.flush(&mut tools.io) {
            Ok(true) if !self.socket.is_broken() => {}
            Ok(false) if !self.socket.is_broken() => return Step::Wait,
            _ => {
                self.abort(tools);
                return Step::Again;
            }
        }
        if waited {
            delivery.progress = tools.now;
        }
        if delivery.is_over() {
            let close = delivery.close || tools.stopping.is_some();
            self.enter(if close { Phase::Closing } else { Phase::Idle }, tools);
            return Step::Again;
        }
        if delivery.waiting {
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
                Ok(_) | Err(_) => self.abort(tools),
            }
            return Step::Again;
        }
        match delivery.read(&mut tools.files.room, tools.now) {
            Got::Bytes(n) => {
                delivery.progress = tools.now;
                tools.moved += n;
                if self.socket.send(&tools.files.room[..n], &mut tools.io).is_err() {
                    self.abort(tools);
                }
            }
            Got::NotNow if tools.ask_to_read(delivery, self.key) => return Step::Wait,
            Got::NotNow | Got::Cut => self.abort(tools),
        }
        Step::Again
    }

    /// What the helper has for it; one that is past waiting needs it no more.
    pub fn heard(&mut self, heard: Heard, tools: &mut Tools) {
        match (heard, &mut self.phase) {
            (Heard::Looked, Phase::Finding) => self.enter(Phase::Head, tools),
            // The request still lies in the stash, so this connection ends here.
            (Heard::Failed, Phase::Finding) => {
                self.say(&Answer::overloaded(), Manner { close: true, ..PLAIN }, tools);
            }
            (Heard::Read { at, bytes }, Phase::File(delivery)) => {
                delivery.progress = tools.now;
                let bytes = bytes.unwrap_or_default();
                if !delivery.take(at, &bytes) || self.socket.send(&bytes, &mut tools.io).is_err() {
                    self.abort(tools);
                }
            }
            (Heard::Looked | Heard::Failed | Heard::Read { .. }, _) => {}
        }
    }
}
