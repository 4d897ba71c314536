//! Conn: a client's connection, from accept to close.
//!
//! ```text
//!   Idle ─▶ Head ─▶ Exchange ─▶ Idle …        (keep-alive)
//!    │        │        ├──▶ Tunnel ─▶ gone    (101; Closing when the endpoint alone has ended)
//!    │        ├──▶ Finding, File ─▶ Idle …    (see `file`)
//!    └────────┴────────┴──▶ Closing ─▶ Linger ─▶ gone
//! ```
//! It reads heads and has `decide` judge them (`heads`), and lets an [`Exchange`] do the rest; it does not know how that
//! relays.
//!
//! **Invariant**: one request at a time, in order (RFC 9112 §9.3.2); the next head is looked at when the last answer is
//! with the kernel. After a refusal no byte of the connection is read as a request again.

mod heads;
mod relay;
mod slow;
mod file;

use std::net::IpAddr;

use super::access::{By, Peer};
use super::answer::{Answer, Manner};
use super::decide::Asker;
use super::exchange::{Exchange, Outcome};
use super::files::send::Delivery;
use super::http::head::Scanner;
use super::pace::Pace;
use super::tls::Tls;
use super::token::Key;
use super::tools::Tools;
use super::tools::links::Link;
use super::transport::{End, Socket};
use super::tunnel::Tunnel;
use heads::PLAIN;

/// What one turn may read before others get theirs.
const BUDGET: usize = 64 << 10;
/// And how many steps it may take: some sixteen small requests.
const MAX_STEPS: usize = 48;

pub(super) struct Conn {
    key: Key,
    socket: Socket,
    asker: Asker,
    address: IpAddr,
    phase: Phase,
    scanner: Scanner,
    /// What has come is not a whole head yet.
    hungry: bool,
    /// The client said that nothing follows its request, and the request has no body.
    parting: bool,
    /// It waits for a turn.
    pub queued: bool,
    /// The worker counts it among the handshakes.
    pub shaking: bool,
    /// It waits for memory to read into.
    pub starved: bool,
    /// It is counted in the crowd from its address.
    counted: bool,
    served: u32,
    /// When the phase began.
    since: u64,
    /// When the client's FIN was seen during an exchange.
    fin_since: Option<u64>,
    pace: Pace,
}

enum Phase {
    /// Between requests. Nothing has come.
    Idle,
    /// A head is coming.
    Head,
    Exchange(Box<Exchange>),
    /// The disk is asked for a file.
    Finding,
    /// A file goes out.
    File(Box<Delivery>),
    Tunnel(Box<Tunnel>),
    /// The last answer goes out.
    Closing,
    /// Our FIN is out; what still comes is thrown away, so that no reset overtakes the answer.
    Linger {
        left: usize,
    },
    Gone,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing to do until the kernel reports or the deadline passes.
    Wait,
    /// There is more, after the others.
    Again,
    Gone,
}

enum Step {
    Wait,
    Again,
}

impl Conn {
    pub fn new(key: Key, socket: Socket, address: IpAddr, asker: Asker, counted: bool, now: u64) -> Self {
        Conn {
            key,
            socket,
            asker,
            address,
            phase: Phase::Idle,
            scanner: Scanner::default(),
            hungry: false,
            parting: false,
            queued: false,
            shaking: false,
            starved: false,
            counted,
            served: 0,
            since: now,
            fin_since: None,
            pace: Pace::new(),
        }
    }

    pub fn key(&self) -> Key {
        self.key
    }

    /// The address in whose crowd it is counted, if it is.
    pub fn counted(&self) -> Option<IpAddr> {
        self.counted.then_some(self.address)
    }

    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn peer(&self) -> Peer {
        Peer { address: self.address, tls: self.socket.tls().and_then(Tls::version) }
    }

    /// The link it uses, if any.
    pub fn link(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Exchange(exchange) => exchange.link(),
            Phase::Tunnel(tunnel) => Some(tunnel.link()),
            _ => None,
        }
    }

    /// In its TLS handshake.
    pub fn is_shaking(&self) -> bool {
        !self.socket.is_open() && matches!(self.phase, Phase::Idle | Phase::Head)
    }

    /// When its phase began.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Since when it is idle, if it is.
    pub fn idle_since(&self) -> Option<u64> {
        (matches!(self.phase, Phase::Idle) && self.socket.is_clear() && !self.queued).then_some(self.since)
    }

    /// It may be silent for as long as the client answers the kernel.
    #[cfg(any(test, feature = "lab"))]
    pub fn is_event_stream(&self) -> bool {
        matches!(&self.phase, Phase::Exchange(exchange) if exchange.is_event_stream())
    }

    /// Closing it now takes nothing from the client: no request has come that was not looked at.
    pub fn is_quiet(&self) -> bool {
        self.socket.is_quiet()
    }

    /// Runs until it would wait or others must have their turn, then arms its timer.
    pub fn turn(&mut self, tools: &mut Tools) -> Turn {
        (tools.moved, tools.starved) = (0, false);
        for _ in 0..MAX_STEPS {
            let step = match &self.phase {
                Phase::Idle | Phase::Head => self.await_head(tools),
                Phase::Exchange(_) => self.relay(tools),
                Phase::Finding => self.await_file(tools),
                Phase::File(_) => self.deliver(tools),
                Phase::Tunnel(_) => self.tunnel(tools),
                Phase::Closing => self.finish_closing(tools),
                Phase::Linger { .. } => self.linger(tools),
                Phase::Gone => return Turn::Gone,
            };
            match step {
                Step::Again if matches!(self.phase, Phase::Gone) => return Turn::Gone,
                Step::Again if tools.moved < BUDGET => {}
                Step::Again => break,
                Step::Wait => {
                    self.arm(tools);
                    return Turn::Wait;
                }
            }
        }
        self.arm(tools);
        Turn::Again
    }

    /// Sets the timer to what the phase allows. Called after every turn: the deadline is computed, never kept up.
    pub fn arm(&mut self, tools: &mut Tools) {
        self.pace.on(self.wait(), tools.now);
        match self.deadline(tools) {
            Some(at) => tools.timers.set(self.key.index, at),
            None => tools.timers.clear(self.key.index),
        }
    }

    fn deadline(&self, tools: &Tools) -> Option<u64> {
        let limits = &tools.limits;
        let at = |limit| tools.after(self.since, limit);
        Some(match &self.phase {
            Phase::Idle if !self.socket.is_open() => at(limits.head),
            Phase::Idle if !self.socket.is_clear() => at(limits.write),
            Phase::Idle => {
                let idle = at(if tools.is_busy() { limits.idle_when_busy } else { limits.idle });
                tools.stopping.map_or(idle, |s| idle.min(s.idle_until))
            }
            Phase::Head => at(limits.head),
            Phase::Exchange(exchange) => {
                let own = exchange.deadline(&self.socket, tools);
                let fin = self.fin_since.map(|since| tools.after(since, limits.half_closed));
                let fin = fin.filter(|_| !exchange.has_begun() || exchange.is_event_stream());
                return own.into_iter().chain(fin).chain(self.pace.deadline(tools.pace())).min();
            }
            Phase::Tunnel(tunnel) => {
                let pace = self.pace.deadline(tools.pace()).unwrap_or(u64::MAX);
                tunnel.deadline(tools).min(pace)
            }
            Phase::Finding => at(limits.response_head),
            Phase::File(delivery) => {
                let pace = self.pace.deadline(tools.pace()).unwrap_or(u64::MAX);
                tools.after(delivery.progress, limits.write).min(pace)
            }
            Phase::Closing => at(limits.write),
            Phase::Linger { .. } => at(limits.linger),
            Phase::Gone => 0,
        })
    }

    /// The timer went off. It may be early: deadlines move without telling it.
    pub fn expired(&mut self, tools: &mut Tools) {
        if self.deadline(tools).is_none_or(|at| at > tools.now) {
            return;
        }
        if self.pace.deadline(tools.pace()).is_some_and(|at| at <= tools.now) {
            return self.judge_pace(tools);
        }
        match &mut self.phase {
            Phase::Idle if self.socket.is_clear() && self.socket.is_open() => {
                // The next request may have come since the last look; then it is served.
                self.socket.look_again();
                self.await_head(tools);
                if matches!(self.phase, Phase::Idle) {
                    tools.counters.idled.up();
                    self.close(tools);
                }
            }
            Phase::Idle => self.phase = Phase::Gone, // never finished its handshake, or does not read
            Phase::Head => {
                let visit = self.raw_visit(self.socket.stash(), tools);
                self.say(&Answer::request_timeout(), Manner { close: true, ..PLAIN }, visit, tools);
            }
            Phase::Exchange(exchange) => {
                let half_closed = tools.limits.half_closed;
                let gone = self.fin_since.is_some_and(|since| tools.after(since, half_closed) <= tools.now);
                let idle = exchange.deadline(&self.socket, tools).is_none_or(|at| at > tools.now);
                let result = if gone && idle { Err(Outcome::Abort(By::Client)) } else { exchange.expired(tools) };
                if let Err(outcome) = result {
                    self.end_exchange(outcome, tools);
                }
            }
            // Its request lies in the stash still, and is not to be read again.
            Phase::Finding => self.give_up_finding(tools),
            Phase::File(_) | Phase::Tunnel(_) => self.abort(By::Timeout, tools),
            Phase::Closing | Phase::Linger { .. } | Phase::Gone => self.phase = Phase::Gone,
        }
    }

    /// Closes an idle connection: to make room, or because its time is over.
    pub fn close(&mut self, tools: &Tools) {
        self.enter(Phase::Closing, tools);
    }

    /// Gives back everything it holds, before it is dropped.
    pub fn leave(&mut self, tools: &mut Tools) {
        self.depart(By::Proxy, tools);
        if let Some(tls) = self.socket.tls().filter(|tls| !tls.is_ready()) {
            tools.counters.failed_handshakes.count(0, tls.fault().unwrap_or("unfinished"));
        }
    }

    fn depart(&mut self, by: By, tools: &mut Tools) {
        match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::Exchange(mut exchange) => {
                exchange.leave(tools);
                tools.record(exchange.into_visit(&self.socket), by);
                // What was not completed must not look complete, whoever ends it.
                self.socket.reset_on_close();
            }
            Phase::File(delivery) => {
                tools.record(delivery.end_visit(&self.socket), by);
                self.socket.reset_on_close();
            }
            Phase::Tunnel(tunnel) => {
                let visit = tunnel.leave(&self.socket, tools);
                tools.record(visit, by);
            }
            _ => {}
        }
        self.socket.clear(&mut tools.io);
        tools.timers.clear(self.key.index);
    }

    fn enter(&mut self, phase: Phase, tools: &Tools) {
        self.phase = phase;
        self.since = tools.now;
        self.fin_since = None;
    }

    /// Ends it so that the client cannot take what it got for whole.
    fn abort(&mut self, by: By, tools: &mut Tools) {
        self.depart(by, tools);
        self.socket.reset_on_close();
    }

    /// In stages, so that no reset overtakes the answer (RFC 9112 §9.6), unless nothing can come that would cause one: the
    /// client has closed, or it said that its request, which has been read, was its last (and must keep to that).
    fn finish_closing(&mut self, tools: &mut Tools) -> Step {
        let at_once = self.socket.has_ended() || (self.parting && self.socket.is_plain_and_read());
        match self.socket.finish(at_once, &mut tools.io) {
            Ok(true) if at_once => self.gone(),
            Ok(true) => {
                self.enter(Phase::Linger { left: tools.limits.linger_bytes }, tools);
                Step::Again
            }
            Ok(false) => Step::Wait,
            Err(_) => self.gone(),
        }
    }

    fn linger(&mut self, tools: &mut Tools) -> Step {
        let Phase::Linger { left } = &mut self.phase else { return Step::Wait };
        let (n, end) = self.socket.discard(&mut tools.io);
        tools.moved += n;
        *left = left.saturating_sub(n);
        if end != End::NotYet || *left == 0 {
            return self.gone();
        }
        if n > 0 { Step::Again } else { Step::Wait }
    }

    fn gone(&mut self) -> Step {
        debug_assert!(!matches!(self.phase, Phase::Exchange(_) | Phase::Tunnel(_)), "left with an endpoint held");
        self.phase = Phase::Gone;
        Step::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 256, "{}", size_of::<Conn>());
    }
}
