//! Parked: what becomes of a request when there is no endpoint; if the app sleeps, it waits here.
//!
//! ```text
//!   no endpoint ─▶ waiting ─called─▶ chooses again ─▶ endpoint: goes on as if it had come now
//!                     ▲ │                └─ asleep again: back to its place in the queue
//!                     └─┼────────────────┘
//!                       ├─ called, and the app failed: 502; is not on demand any more: 503; was deleted: 404
//!                       ├─ patience over: 504      ├─ we stop: 503
//!                       └─ client gone: forgotten
//! ```
//! **Invariant**: the client is not read meanwhile, so a waiting request costs its head and at most one chunk.

use super::{Exchange, Outcome};
use crate::proxy::answer::Answer;
use crate::proxy::parking::Place;
use crate::proxy::table::Standing;
use crate::proxy::tools::Tools;
use crate::proxy::tools::links::Reuse;

pub(super) struct Parked {
    ticket: u64,
    pub until: u64,
    /// The request as far as it has come, in its size: most are far smaller than a chunk.
    request: Box<[u8]>,
    reuse: Reuse,
    _place: Place,
}

impl Exchange {
    /// There is none to choose: answers, or waits for one with `request`, all that has come of it.
    pub(super) fn without_endpoint(&mut self, request: &[u8], reuse: Reuse, tools: &mut Tools) -> Result<(), Outcome> {
        Err(Outcome::Own(match tools.index().and_then(|index| index.standing(self.upstream)) {
            Some(Standing::OnDemand { .. }) if tools.stopping.is_some() => Answer::stopping(),
            Some(Standing::OnDemand { patience }) => {
                let until = tools.after(tools.now, patience);
                return self.park(request, reuse, until, tools);
            }
            Some(Standing::Failed) => Answer::failed_to_start(),
            None if self.tried.is_empty() => Answer::not_found(),
            Some(Standing::Awake) | None => match (self.tried.is_empty(), self.connect_timeouts) {
                (true, _) => Answer::no_endpoint(),
                (false, 0) => Answer::bad_gateway(),
                (false, _) => Answer::gateway_timeout(),
            },
        }))
    }

    fn park(&mut self, request: &[u8], reuse: Reuse, until: u64, tools: &mut Tools) -> Result<(), Outcome> {
        if self.parked.is_none() {
            let place = tools.place(self.upstream).ok_or(Outcome::Own(Answer::startup_queue_full()))?;
            let ticket = tools.lot.ticket();
            self.parked = Some(Box::new(Parked { ticket, until, request: request.into(), reuse, _place: place }));
        }
        let Some(parked) = &self.parked else { return Ok(()) };
        tools.lot.wait(self.upstream, parked.ticket, self.conn);
        tools.shared.wake(self.upstream);
        // The endpoints of another life.
        self.tried.clear();
        Ok(())
    }

    /// Chooses again if it was called. True when it waits no more.
    pub(super) fn resume(&mut self, tools: &mut Tools) -> Result<bool, Outcome> {
        let Some(parked) = self.parked.as_mut().filter(|p| !tools.lot.is_waiting(self.upstream, p.ticket)) else {
            return Ok(false);
        };
        let request = std::mem::take(&mut parked.request);
        let reuse = parked.reuse;
        let result = self.dispatch(&request, reuse, tools);
        match &mut self.parked {
            Some(parked) if tools.lot.is_waiting(self.upstream, parked.ticket) => parked.request = request,
            _ => self.parked = None,
        }
        result.map(|()| self.parked.is_none())
    }

    /// It has waited for as long as it may. If its queue is open it is not called later than now.
    pub(super) fn give_up_waiting(&mut self, tools: &mut Tools) -> Result<(), Outcome> {
        tools.adopt();
        let asleep = tools.index().is_some_and(|index| index.is_asleep(self.upstream));
        if asleep {
            tools.shared.waited_in_vain(self.upstream);
            return Err(Outcome::Own(Answer::startup_timeout()));
        }
        if let Some(parked) = &self.parked {
            tools.lot.leave(self.upstream, parked.ticket); // the turn that follows takes it for called
        }
        Ok(())
    }

    pub(super) fn unpark(&mut self, tools: &mut Tools) {
        if let Some(parked) = self.parked.take() {
            tools.lot.leave(self.upstream, parked.ticket);
        }
    }
}
