//! Inspect: a worker driven by hand and looked into, for the simulation. The loop itself is the real one.

use std::time::{Duration, Instant};

use super::{Ready, Target, Worker};
use crate::proxy::tools::Tools;

impl Worker {
    /// A round at `now`, with these reports.
    pub fn round_at(&mut self, now: u64, reports: impl Iterator<Item = (Target, Ready)>) {
        self.tools.now = now;
        self.round(reports);
        assert_eq!(self.tools.counters.panics.get(), 0, "a turn panicked");
    }

    /// The virtual time as the rest of the program would say it.
    pub fn instant(&self, now: u64) -> Instant {
        self.tools.start() + Duration::from_millis(now)
    }

    /// Nobody waits for a turn.
    pub fn is_at_rest(&self) -> bool {
        self.queue.is_empty() && self.shaking.is_empty()
    }

    pub fn has_conns(&self) -> bool {
        self.conns.len() > 0
    }

    /// What must hold between rounds when nobody waits for a turn.
    pub fn check(&mut self) {
        self.tools.timers.check();
        let mut idle = true;
        for conn in self.conns.iter_mut() {
            assert!(!conn.queued, "it waits for a turn and is in no queue");
            idle &= conn.idle_since().is_some();
            let armed = self.tools.timers.is_armed(conn.key().index);
            assert!(armed || conn.is_event_stream(), "a state without an end");
        }
        if idle {
            check_nothing_held(&self.tools);
        }
    }
}

/// Between requests a worker has neither buffers lent nor endpoints held.
fn check_nothing_held(tools: &Tools) {
    assert!(tools.holds_nothing(), "an endpoint is held for nobody");
    assert_eq!(tools.io.spare.lent(), 0, "chunks are lent to nobody");
}
