//! Slow: clients that hold things up, and those that are too many to be let in.
//!
//! What is waited for is computed from the phase after each turn, as the deadline is; `pace` knows when it is too much.

use super::heads::PLAIN;
use super::{Conn, Phase};
use crate::proxy::access::By;
use crate::proxy::answer::{Answer, Manner};
use crate::proxy::exchange::Outcome;
use crate::proxy::http::Bad;
use crate::proxy::pace::Wait;
use crate::proxy::tools::Tools;

/// A body that drips in.
const SLOW_BODY: Bad = Bad { status: 408, why: "the request body comes too slowly" };
/// More connections from one address than are for one. The body of the answer is its status' reason.
const CROWD: Bad = Bad { status: 429, why: "too many connections from one address" };

impl Conn {
    /// What this client, and nobody else, is to do next. Where something else has an absolute limit, nothing.
    pub(super) fn wait(&self) -> Wait {
        match &self.phase {
            Phase::Exchange(_) | Phase::Tunnel(_) | Phase::File(_) if !self.socket.is_clear() => Wait::Reading,
            Phase::Exchange(exchange) if exchange.awaits_body() && !self.socket.is_readable() => Wait::Body,
            Phase::Exchange(_) | Phase::Tunnel(_) | Phase::Finding | Phase::File(_) => Wait::Nothing,
            Phase::Idle | Phase::Head | Phase::Closing | Phase::Linger { .. } | Phase::Gone => Wait::Nothing,
        }
    }

    /// A window of its pace is over.
    pub(super) fn judge_pace(&mut self, tools: &mut Tools) {
        let wait = self.pace.wait();
        // The kernel always says, but on a socket that is no more.
        let moved =
            self.socket.moved().map_or(0, |moved| if wait == Wait::Reading { moved.acked } else { moved.received });
        if self.pace.judge(moved, tools.limits.pace_bytes, tools.now) {
            return;
        }
        match wait {
            Wait::Body => {
                log::debug!("refused peer={} status={}: {}", self.address, SLOW_BODY.status, SLOW_BODY.why);
                self.end_exchange(Outcome::Own(Answer::refusal(SLOW_BODY)), tools);
            }
            Wait::Reading | Wait::Nothing => {
                log::debug!("aborted peer={}: the answer is taken too slowly", self.address);
                tools.counters.cut.up();
                self.abort(By::Timeout, tools);
            }
        }
    }

    /// Tells it to come again, and closes: before its first head, which is not read.
    pub fn turn_away(&mut self, tools: &mut Tools) {
        log::debug!("refused peer={} status={}: {}", self.address, CROWD.status, CROWD.why);
        let visit = self.raw_visit(b"", tools);
        self.say(&Answer::crowd(), Manner { close: true, ..PLAIN }, visit, tools);
    }
}
