//! Pure: one process of an instance, from spawn to gone.
//!
//! ```text
//! Starting ─→ Ready ─→ Healthy ⇄ Unhealthy
//!     └─────────┴──────────┴─────────┴──→ Draining ─→ Stopping ─→ Gone
//! ```
//! What goes in are facts and the time, what comes out is what to do about them. Whether a process is in balancing is
//! not an action: it is computed from its state by the actor. Restarts are decided in `restart`, swaps in `rollout`.
//!
//! **Invariant**: a process that was asked to end is never asked to serve again, and only its exit makes it Gone.

use std::time::{Duration, Instant};

/// From SIGTERM to SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// Failed probes in a row that take an instance out of balancing; one may be a long collection of garbage.
pub(crate) const MISSES_OUT: u32 = 2;
/// Failed probes in a row after which it is killed and replaced.
pub(crate) const MISSES_DEAD: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Spawned; has not said where it listens.
    Starting {
        until: Instant,
    },
    /// Says that it listens; no probe was good yet.
    Ready {
        until: Instant,
    },
    Healthy {
        misses: u32,
    },
    Unhealthy {
        misses: u32,
    },
    /// Gets no new requests; those in flight may finish until then.
    Draining {
        until: Instant,
    },
    /// Was asked to end; `None` once it was killed.
    Stopping {
        until: Option<Instant>,
    },
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It printed its ready signal.
    Ready,
    Good,
    Bad,
    /// Nothing is in flight any more.
    Drained,
    /// Let requests in flight finish for so long, then end it.
    Retire(Duration),
    /// End it now.
    Stop,
    Exited,
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Probe where it says it listens.
    Probe,
    /// SIGTERM to its group.
    Terminate,
    /// SIGKILL to its group.
    Kill,
    /// Tell why it is ended although nobody asked for it.
    GaveUp(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    NeverReady,
    NeverHealthy,
    Unhealthy,
}

#[derive(Debug)]
pub(crate) struct Lifecycle {
    state: State,
}

impl Lifecycle {
    /// It was spawned now, and must be healthy `startup` from now.
    pub fn new(startup: Duration, now: Instant) -> Self {
        Lifecycle { state: State::Starting { until: now + startup } }
    }

    /// It ran before we did, and must answer until then; nothing is sent to it before.
    pub fn inherited(until: Instant) -> Self {
        Lifecycle { state: State::Ready { until } }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn is_healthy(&self) -> bool {
        matches!(self.state, State::Healthy { .. })
    }

    /// When a `Tick` will do something.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Starting { until } | State::Ready { until } | State::Draining { until } => Some(until),
            State::Stopping { until } => until,
            State::Healthy { .. } | State::Unhealthy { .. } | State::Gone => None,
        }
    }

    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let (state, actions) = step(self.state, event, now);
        self.state = state;
        actions
    }
}

/// The state's name for people.
impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Starting { .. } => "starting",
            State::Ready { .. } => "ready",
            State::Healthy { .. } => "healthy",
            State::Unhealthy { .. } => "unhealthy",
            State::Draining { .. } => "draining",
            State::Stopping { .. } => "stopping",
            State::Gone => "gone",
        })
    }
}

fn step(state: State, event: Event, now: Instant) -> (State, Vec<Action>) {
    use Event::{Bad, Drained, Exited, Good, Ready as SaidReady, Retire, Stop, Tick};
    use State::{Draining, Gone, Healthy, Ready, Starting, Stopping, Unhealthy};

    let stopping = Stopping { until: Some(now + GRACE) };
    match (state, event) {
        (_, Exited) => (Gone, vec![]),

        (Starting { until }, SaidReady) => (Ready { until }, vec![Action::Probe]),
        // A program without a ready signal is ready when it answers.
        (Starting { .. } | Ready { .. }, Good) => (Healthy { misses: 0 }, vec![]),
        (Starting { until }, Tick) if until <= now => {
            (stopping, vec![Action::GaveUp(Why::NeverReady), Action::Terminate])
        }
        (Ready { until }, Tick) if until <= now => {
            (stopping, vec![Action::GaveUp(Why::NeverHealthy), Action::Terminate])
        }
        // Nothing was ever sent to it, so there is nothing to drain.
        (Starting { .. } | Ready { .. }, Retire(_) | Stop) => (stopping, vec![Action::Terminate]),
        (Starting { .. } | Ready { .. }, Bad | Drained | Tick) | (Ready { .. }, SaidReady) => (state, vec![]),

        (Healthy { .. } | Unhealthy { .. }, Good) => (Healthy { misses: 0 }, vec![]),
        (Healthy { misses }, Bad) if misses + 1 < MISSES_OUT => (Healthy { misses: misses + 1 }, vec![]),
        (Healthy { misses } | Unhealthy { misses }, Bad) if misses + 1 < MISSES_DEAD => {
            (Unhealthy { misses: misses + 1 }, vec![])
        }
        (Healthy { .. } | Unhealthy { .. }, Bad) => {
            (Stopping { until: None }, vec![Action::GaveUp(Why::Unhealthy), Action::Kill])
        }
        (Healthy { .. } | Unhealthy { .. }, Retire(drain)) => (Draining { until: now + drain }, vec![]),
        (Healthy { .. } | Unhealthy { .. } | Draining { .. }, Stop) => (stopping, vec![Action::Terminate]),
        (Healthy { .. } | Unhealthy { .. }, SaidReady | Drained | Tick) => (state, vec![]),

        (Draining { .. }, Drained) => (stopping, vec![Action::Terminate]),
        (Draining { until }, Tick) if until <= now => (stopping, vec![Action::Terminate]),
        (Draining { .. }, SaidReady | Good | Bad | Retire(_) | Tick) => (state, vec![]),

        (Stopping { until: Some(until) }, Tick) if until <= now => (Stopping { until: None }, vec![Action::Kill]),
        (Stopping { .. }, SaidReady | Good | Bad | Drained | Retire(_) | Stop | Tick) => (state, vec![]),

        (Gone, SaidReady | Good | Bad | Drained | Retire(_) | Stop | Tick) => (Gone, vec![]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state against every event, one row each: what it becomes and what is done.
    #[test]
    fn every_state_knows_what_to_do_with_every_event() {
        use Action::{GaveUp, Kill, Probe, Terminate};
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let drain = Duration::from_secs(30);
        let (starting, ready) = (State::Starting { until: later }, State::Ready { until: later });
        let (healthy, unhealthy) = (State::Healthy { misses: 0 }, State::Unhealthy { misses: 2 });
        let draining = State::Draining { until: later };
        let (stopping, killed) = (State::Stopping { until: Some(now + GRACE) }, State::Stopping { until: None });
        let away = State::Draining { until: now + drain };
        let gone = State::Gone;

        let columns =
            [Event::Ready, Event::Good, Event::Bad, Event::Drained, Event::Retire(drain), Event::Stop, Event::Tick];
        type Row = (State, [(State, &'static [Action]); 7]);
        let same = |s: State| [(s, &[][..]); 7];
        let table: [Row; 8] = [
            (
                starting,
                [
                    (ready, &[Probe]),
                    (healthy, &[]),
                    (starting, &[]),
                    (starting, &[]),
                    (stopping, &[Terminate]),
                    (stopping, &[Terminate]),
                    (starting, &[]),
                ],
            ),
            (
                ready,
                [
                    (ready, &[]),
                    (healthy, &[]),
                    (ready, &[]),
                    (ready, &[]),
                    (stopping, &[Terminate]),
                    (stopping, &[Terminate]),
                    (ready, &[]),
                ],
            ),
            (
                healthy,
                [
                    (healthy, &[]),
                    (healthy, &[]),
                    (State::Healthy { misses: 1 }, &[]),
                    (healthy, &[]),
                    (away, &[]),
                    (stopping, &[Terminate]),
                    (healthy, &[]),
                ],
            ),
            (
                unhealthy,
                [
                    (unhealthy, &[]),
                    (healthy, &[]),
                    (State::Unhealthy { misses: 3 }, &[]),
                    (unhealthy, &[]),
                    (away, &[]),
                    (stopping, &[Terminate]),
                    (unhealthy, &[]),
                ],
            ),
            (
                draining,
                [
                    (draining, &[]),
                    (draining, &[]),
                    (draining, &[]),
                    (stopping, &[Terminate]),
                    (draining, &[]),
                    (stopping, &[Terminate]),
                    (draining, &[]),
                ],
            ),
            (stopping, same(stopping)),
            (killed, same(killed)),
            (gone, same(gone)),
        ];
        for (state, row) in table {
            for (event, (expected, actions)) in columns.into_iter().zip(row) {
                assert_eq!(step(state, event, now), (expected, actions.to_vec()), "{state:?} on {event:?}");
            }
            assert_eq!(step(state, Event::Exited, now), (gone, vec![]), "{state:?} exits");
        }

        let due = |state, expected: State, actions: &[Action]| {
            assert_eq!(step(state, Event::Tick, now), (expected, actions.to_vec()), "{state:?} is due");
        };
        due(State::Starting { until: now }, stopping, &[GaveUp(Why::NeverReady), Terminate]);
        due(State::Ready { until: now }, stopping, &[GaveUp(Why::NeverHealthy), Terminate]);
        due(State::Draining { until: now }, stopping, &[Terminate]);
        due(State::Stopping { until: Some(now) }, killed, &[Kill]);
    }

    #[test]
    fn two_misses_take_it_out_five_kill_it_and_one_good_probe_forgives() {
        let now = Instant::now();
        let mut life = Lifecycle::new(Duration::from_secs(1), now);
        life.on(Event::Good, now);
        let mut miss = || {
            let actions = life.on(Event::Bad, now);
            (life.is_healthy(), actions)
        };
        assert_eq!(miss(), (true, vec![]));
        assert_eq!(miss(), (false, vec![]));
        assert_eq!(miss(), (false, vec![]));
        assert_eq!(miss(), (false, vec![]));
        assert_eq!(miss(), (false, vec![Action::GaveUp(Why::Unhealthy), Action::Kill]));

        let mut life = Lifecycle::new(Duration::from_secs(1), now);
        life.on(Event::Good, now);
        for _ in 0..4 {
            life.on(Event::Bad, now);
        }
        life.on(Event::Good, now);
        assert_eq!(life.state(), State::Healthy { misses: 0 });
    }
}
