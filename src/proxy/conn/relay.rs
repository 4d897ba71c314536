//! Relay: a conn while an exchange or a tunnel has its socket, and what becomes of it when they end.

use super::{Conn, Phase, Step};
use crate::proxy::access::By;
use crate::proxy::answer::Manner;
use crate::proxy::exchange::{Exchange, Outcome};
use crate::proxy::http::Version;
use crate::proxy::tools::Tools;
use crate::proxy::tunnel::Tunnel;

impl Conn {
    pub(super) fn relay(&mut self, tools: &mut Tools) -> Step {
        let Phase::Exchange(exchange) = &mut self.phase else { return Step::Wait };
        if self.socket.is_broken() {
            self.abort(By::Client, tools); // nobody is there to read the answer
            return Step::Again;
        }
        if self.socket.has_fin() && self.fin_since.is_none() {
            self.fin_since = Some(tools.now);
        }
        let waited = !self.socket.is_clear();
        match self.socket.flush(&mut tools.io) {
            Ok(clear) if clear && waited => exchange.touch(tools.now),
            Ok(_) => {}
            Err(_) => {
                self.abort(By::Client, tools);
                return Step::Again;
            }
        }
        if exchange.is_over() {
            return if self.socket.is_clear() { self.finish_exchange(tools) } else { Step::Wait };
        }
        match exchange.turn(&mut self.socket, tools) {
            Ok(true) => Step::Again,
            Ok(false) => Step::Wait,
            Err(outcome) => {
                self.end_exchange(outcome, tools);
                Step::Again
            }
        }
    }

    /// The whole response is with the kernel.
    fn finish_exchange(&mut self, tools: &mut Tools) -> Step {
        let Phase::Exchange(mut exchange) = std::mem::replace(&mut self.phase, Phase::Gone) else { return Step::Wait };
        let close = exchange.facts.close || !exchange.has_whole_request();
        exchange.leave(tools);
        tools.tell(exchange.end_visit(&self.socket), By::Nobody);
        tools.unboard(exchange);
        self.served += 1;
        self.enter(if close { Phase::Closing } else { Phase::Idle }, tools);
        Step::Again
    }

    pub(super) fn end_exchange(&mut self, outcome: Outcome, tools: &mut Tools) {
        let Phase::Exchange(mut exchange) = std::mem::replace(&mut self.phase, Phase::Gone) else { return };
        match outcome {
            Outcome::Tunnel => match exchange.take_for_tunnel() {
                Some((link, held)) => {
                    let visit = exchange.into_visit(&self.socket);
                    let tunnel = Tunnel::new(link, held, visit, &self.socket, tools);
                    self.enter(Phase::Tunnel(Box::new(tunnel)), tools);
                }
                None => self.give_up(exchange, By::Proxy, tools),
            },
            Outcome::Own(answer) => {
                exchange.leave(tools);
                let facts = exchange.facts;
                let manner = Manner {
                    html: facts.html,
                    head_only: facts.to_head,
                    close: facts.close || tools.stopping.is_some() || !exchange.has_whole_request(),
                    say_keep_alive: facts.version == Version::V10,
                };
                self.say(&answer, manner, exchange.into_visit(&self.socket), tools);
            }
            Outcome::Abort(by) => self.give_up(exchange, by, tools),
        }
    }

    fn give_up(&mut self, exchange: Box<Exchange>, by: By, tools: &mut Tools) {
        self.phase = Phase::Exchange(exchange);
        self.abort(by, tools);
    }

    pub(super) fn tunnel(&mut self, tools: &mut Tools) -> Step {
        let Phase::Tunnel(tunnel) = &mut self.phase else { return Step::Wait };
        let moved = tunnel.turn(&mut self.socket, tools);
        if !tunnel.is_over() {
            return if moved { Step::Again } else { Step::Wait };
        }
        let left = tunnel.is_left_by_client();
        self.depart(if left && self.socket.is_broken() { By::Client } else { By::Nobody }, tools);
        if !left {
            self.enter(Phase::Closing, tools); // it may be speaking, and a reset would overtake the tail
        }
        Step::Again
    }
}
