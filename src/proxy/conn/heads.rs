//! Heads: a conn between and within heads, and what it says itself.
//!
//! Bytes become a request or a refusal; a request becomes an answer of ours or an [`Exchange`].

use super::{Conn, Phase, Step};
use crate::proxy::access::{By, Visit};
use crate::proxy::answer::{self, Answer, Manner};
use crate::proxy::decide::{self, Decision, decide};
use crate::proxy::exchange::{Exchange, Facts};
use crate::proxy::forward;
use crate::proxy::http::framing::{self, Framing};
use crate::proxy::http::head::{Request, Scanner};
use crate::proxy::http::{Bad, Method, Version};
use crate::proxy::tools::Tools;
use crate::proxy::transport::{End, HEAD_READ};

pub(super) const PLAIN: Manner = Manner { html: false, head_only: false, close: false, say_keep_alive: false };
/// Nothing is accepted before the first table; if it were, this is what to say.
const NO_TABLE: Bad = Bad { status: 503, why: "no table" };

impl Conn {
    /// Idle and Head: looks for the next request.
    pub(super) fn await_head(&mut self, tools: &mut Tools) -> Step {
        match self.socket.flush(&mut tools.io) {
            Ok(true) => {}
            Ok(false) => return Step::Wait,
            Err(_) => return self.gone(),
        }
        let has_work = self.socket.has_stash() && !self.hungry;
        let holds = self.socket.has_stash();
        if !has_work && !(self.socket.is_readable() && (holds || tools.may_read_head())) {
            return Step::Wait;
        }
        let was_open = self.socket.is_open();
        let mut inbox = std::mem::take(&mut tools.inbox);
        let got = self.socket.gather(&mut inbox, &mut tools.io, HEAD_READ, !has_work);
        tools.moved += got.fresh;
        if let Some(tls) = self.socket.tls().filter(|tls| !was_open && tls.is_ready()) {
            let counters = &tools.counters;
            if tls.is_resumed() { counters.resumed_handshakes.up() } else { counters.full_handshakes.up() }
        }
        if got.len > 0 && matches!(self.phase, Phase::Idle) {
            self.enter(Phase::Head, tools);
        }
        if got.len > 0 && (got.fresh > 0 || has_work) {
            self.take_input(&inbox[..got.len], tools);
        } else {
            self.socket.put_back(&inbox[..got.len], &mut tools.io);
        }
        tools.inbox = inbox;
        let waiting = matches!(self.phase, Phase::Idle | Phase::Head);
        match got.end {
            End::NotYet => {}
            // Between requests this is the normal end; in a head, or after a broken handshake, what we had to say is out.
            _ if waiting => self.close(tools),
            _ => {}
        }
        if got.len == 0 && got.end == End::NotYet && self.socket.is_readable() {
            return Step::Again; // a part of a TLS record or handshake
        }
        if got.fresh == 0 && !has_work && got.end == End::NotYet { Step::Wait } else { Step::Again }
    }

    fn take_input(&mut self, input: &[u8], tools: &mut Tools) {
        let head = match self.scanner.request(input) {
            Ok(Some(head)) => head,
            Ok(None) => {
                self.hungry = true;
                return self.socket.put_back(input, &mut tools.io);
            }
            Err(bad) => return self.refuse(bad, self.raw_visit(input, tools), tools),
        };
        self.hungry = false;
        self.scanner = Scanner::default();
        let start = head.start;
        // The body, or the next request.
        self.socket.put_back(&input[head.end..], &mut tools.io);
        let mut fields = std::mem::take(&mut tools.fields);
        match Request::parse(&input[head], &mut fields) {
            Ok(request) => self.take_request(&request, tools),
            Err(bad) => self.refuse(bad, self.raw_visit(input, tools), tools),
        }
        tools.fields = fields;
        if matches!(self.phase, Phase::Finding) {
            // To be read once more when the disk has answered.
            self.socket.consume_stash(self.socket.stash().len(), &mut tools.io);
            self.socket.put_back(&input[start..], &mut tools.io);
        }
    }

    fn take_request(&mut self, request: &Request<'_>, tools: &mut Tools) {
        let framing = match framing::request(request).and_then(|f| forward::expects_continue(request).map(|_| f)) {
            Ok(framing) => framing,
            Err(bad) => return self.refuse(bad, self.visit(request, None, tools), tools),
        };
        tools.adopt();
        let mut room = std::mem::take(&mut tools.host);
        let host = request.host_name(&mut room);
        let Some(index) = tools.index() else { return self.refuse(NO_TABLE, self.visit(request, None, tools), tools) };
        let decision = decide(request, host, self.asker, index);
        let https = host.is_some_and(|host| decide::is_https(request, host, self.asker));
        let proof = host.zip(tools.index()).and_then(|(host, index)| match decision {
            Ok(Decision::Challenge) => decide::challenge(request, host, index).map(Answer::challenge),
            _ => None,
        });
        tools.host = room;

        let stays = match request.version {
            Version::V11 => !request.connection.close,
            Version::V10 => request.connection.keep_alive && !request.connection.close,
        };
        self.parting = !stays && framing == Framing::None;
        let close = !stays || tools.stopping.is_some() || self.served + 1 >= tools.limits.requests_per_conn;
        if let Ok(Decision::Look { upstream, prefix }) = decision
            && self.serve_file(request, framing, (upstream, prefix), close, tools)
        {
            return;
        }
        let answer = match decision {
            Ok(Decision::Forward(upstream) | Decision::Look { upstream, .. }) => {
                let facts = Facts {
                    version: request.version,
                    to_head: request.method == Method::Head,
                    idempotent: request.method.is_idempotent(),
                    wants_websocket: forward::wants_websocket(request, framing),
                    takes_trailers: forward::takes_trailers(request),
                    html: answer::prefers_html(request),
                    close,
                };
                return self.forward(request, framing, https, facts, upstream, tools);
            }
            Ok(Decision::Redirect) => Answer::redirect(request, tools.shared.settings.https_port),
            Ok(Decision::NotFound) => Answer::not_found(),
            Ok(Decision::Capabilities) => Answer::capabilities(),
            Ok(Decision::Healthy) => Answer::healthy(),
            Ok(Decision::Challenge) => proof.unwrap_or(Answer::not_found()),
            Err(bad) => Answer::refusal(bad),
        };
        let manner = Manner {
            html: answer::prefers_html(request),
            head_only: request.method == Method::Head,
            // A body that nobody will read cannot be told from the next request.
            close: close || !matches!(framing, Framing::None | Framing::Length(0)),
            say_keep_alive: request.version == Version::V10,
        };
        self.say(&answer, manner, self.visit(request, None, tools), tools);
    }

    /// What is known of a request that has come; `upstream` is where it goes, if anywhere.
    pub(super) fn visit(&self, request: &Request<'_>, upstream: Option<u32>, tools: &mut Tools) -> Box<Visit> {
        let mut visit = tools.visit(forward::request_id(request), self.socket.sent());
        visit.upstream = upstream;
        visit.bytes_in = request.fields.bytes.len() as u64;
        if tools.journal.is_on() {
            let index = tools.index();
            let name = index.and_then(|index| Some(&*index.upstreams[index.place_of(upstream?)?].name));
            visit.know(request, name, self.peer());
        }
        visit
    }

    /// The same of what is no request.
    pub(super) fn raw_visit(&self, bytes: &[u8], tools: &mut Tools) -> Box<Visit> {
        let mut visit = tools.visit(None, self.socket.sent());
        visit.bytes_in = bytes.len() as u64;
        if tools.journal.is_on() {
            visit.know_raw(bytes, self.peer());
        }
        visit
    }

    fn forward(
        &mut self,
        request: &Request<'_>,
        framing: Framing,
        https: bool,
        facts: Facts,
        upstream: u32,
        tools: &mut Tools,
    ) {
        let visit = self.visit(request, Some(upstream), tools);
        let client =
            forward::Client { address: self.address, trusted: self.asker.trusted, https, request_id: visit.id() };
        tools.outbox.clear();
        forward::request(&mut tools.outbox, request, framing, client);
        let mut exchange = tools.board(Exchange::new(self.key, facts, upstream, visit, framing, tools.now));
        let begun = exchange.begin(&mut self.socket, tools);
        self.enter(Phase::Exchange(exchange), tools);
        if let Err(outcome) = begun {
            self.end_exchange(outcome, tools);
        }
    }

    /// Answers what is no request, and closes (RFC 9112 §2.2: the answer is owed).
    fn refuse(&mut self, bad: Bad, visit: Box<Visit>, tools: &mut Tools) {
        log::debug!("refused peer={} status={}: {}", self.address, bad.status, bad.why);
        self.say(&Answer::refusal(bad), Manner { close: true, ..PLAIN }, visit, tools);
    }

    /// Answers instead of an app, which ends the request.
    pub(super) fn say(&mut self, answer: &Answer, manner: Manner, mut visit: Box<Visit>, tools: &mut Tools) {
        let mut out = std::mem::take(&mut tools.outbox);
        out.clear();
        answer.write(&mut out, manner, tools.date(), visit.id());
        let sent = self.socket.send(&out, &mut tools.io);
        tools.outbox = out;
        (visit.status, visit.why) = (answer.status, Some(answer.why));
        visit.bytes_out = self.socket.sent() - visit.sent_before;
        tools.record(visit, if sent.is_ok() { By::of_answer(answer.status) } else { By::Client });
        self.served += 1;
        let phase = match sent {
            Err(_) => Phase::Gone,
            Ok(()) if manner.close => Phase::Closing,
            Ok(()) => Phase::Idle,
        };
        self.enter(phase, tools);
    }
}
