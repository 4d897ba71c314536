//! Pure: whether the one instance of an app on demand runs, and why.
//!
//! ```text
//!              wake                healthy              idle
//!   Asleep ───────────▶ Waking ───────────▶ Awake ─────────────▶ Dozing
//!     ▲  ▲                │ down              │ ▲ wake, activity,   │
//!     │  └────time────Failed ◀────down soon───┤ └──still in flight──┤
//!     └───────────down after a long time──────┘                     │ drained
//!     └─────────────────────────────────────────────────────────────┘
//! ```
//! What goes in are facts and the time, what comes out is what to do. `Steady` is an app that is not on demand, to
//! which all of this is nothing. An instance of a rollout is the rollout's business until its commit.
//!
//! **Invariant (no race)**: an idle instance is out of balancing first (`Dozing`), and stopped only once the proxy has
//! called it drained: what comes in between waits in the proxy, asks for a wake, and has the same instance back.
//! **Invariant (single flight)**: at most one start is under way, whatever asks for it.

use std::time::{Duration, Instant};

use super::restart::{Restarts, STABLE};

/// So long an idle instance may take to be drained: with nothing in flight it takes microseconds. If it takes longer it
/// is in use, and goes on.
const DOZE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Steady,
    /// Nothing runs.
    Asleep,
    /// An instance is starting.
    Waking,
    Awake {
        /// When it was last known to be in use.
        active: Instant,
        /// It is up but out of balancing, and a request waits.
        asked: bool,
    },
    /// Idle and out of balancing, but still there.
    Dozing {
        until: Instant,
    },
    /// It could not be started or did not last: not tried again before then.
    Failed {
        until: Instant,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A request waits.
    Wake,
    /// A request was in flight a moment ago.
    Activity,
    /// The instance passed its probe.
    Healthy,
    /// Nothing is in flight on the instance, and nothing new will come.
    Drained,
    /// The instance ended or is beyond hope, after having been up for so long.
    Down(Duration),
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start an instance.
    Start,
    /// Take the instance out of balancing.
    Doze,
    /// Put it back in.
    Rouse,
    /// End it: nothing is in flight.
    Stop,
}

#[derive(Debug)]
pub(super) struct Scale {
    state: State,
    idle: Duration,
    restarts: Restarts,
}

impl Scale {
    pub fn new(state: State, idle: Duration) -> Self {
        Scale { state, idle, restarts: Restarts::default() }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// When a `Tick` will do something.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Awake { active, asked: false } => Some(active + self.idle),
            State::Dozing { until } | State::Failed { until } => Some(until),
            State::Steady | State::Asleep | State::Waking | State::Awake { asked: true, .. } => None,
        }
    }

    pub fn on(&mut self, event: Event, now: Instant) -> Option<Action> {
        let (state, action) = self.step(event, now);
        self.state = state;
        action
    }

    fn step(&mut self, event: Event, now: Instant) -> (State, Option<Action>) {
        use Event::{Activity, Down, Drained, Healthy, Tick, Wake};
        use State::{Asleep, Awake, Dozing, Failed, Steady, Waking};

        let awake = Awake { active: now, asked: false };
        match (self.state, event) {
            (Steady, _) => (Steady, None),

            (Asleep, Wake) => (Waking, Some(Action::Start)),
            // The last words about an instance that is gone.
            (Asleep, Activity | Healthy | Drained | Down(_) | Tick) => (Asleep, None),

            (Waking, Healthy) => (awake, None),
            (Waking, Down(up)) => (self.failed(up, now), None),
            (Waking, Wake | Activity | Drained | Tick) => (Waking, None),

            (Awake { .. }, Wake) => (Awake { active: now, asked: true }, None),
            (Awake { .. }, Healthy) => (awake, None),
            (Awake { asked, .. }, Activity) => (Awake { active: now, asked }, None),
            (Awake { active, asked: false }, Tick) if active + self.idle <= now => {
                (Dozing { until: now + DOZE }, Some(Action::Doze))
            }
            // It lasted, so this is an accident: the next request, or the one that waits, has a new instance at once.
            (Awake { asked: true, .. }, Down(up)) if up >= STABLE => (Waking, Some(Action::Start)),
            (Awake { asked: false, .. }, Down(up)) if up >= STABLE => (Asleep, None),
            (Awake { .. }, Down(up)) => (self.failed(up, now), None),
            (Awake { .. }, Drained | Tick) => (self.state, None),

            (Dozing { .. }, Wake | Activity) => (awake, Some(Action::Rouse)),
            (Dozing { until }, Tick) if until <= now => (awake, Some(Action::Rouse)),
            (Dozing { .. }, Drained) => (Asleep, Some(Action::Stop)),
            (Dozing { .. }, Down(_)) => (Asleep, None),
            (Dozing { .. }, Healthy | Tick) => (self.state, None),

            (Failed { until }, Tick) if until <= now => (Asleep, None),
            (Failed { .. }, Wake | Activity | Healthy | Drained | Down(_) | Tick) => (self.state, None),
        }
    }

    fn failed(&mut self, up: Duration, now: Instant) -> State {
        State::Failed { until: now + self.restarts.ended(up) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(300);
    const SOON: Duration = Duration::from_secs(1);

    /// Every state against every event, one row each: what it becomes and what is done.
    #[test]
    fn every_state_knows_what_to_do_with_every_event() {
        use Action::{Doze, Rouse, Start, Stop};
        let begin = Instant::now();
        let now = begin + Duration::from_secs(1000);
        let later = now + Duration::from_secs(5);
        let (idle, used) =
            (State::Awake { active: begin, asked: false }, State::Awake { active: now - SOON, asked: false });
        let asked = State::Awake { active: begin, asked: true };
        let (awake, now_asked) =
            (State::Awake { active: now, asked: false }, State::Awake { active: now, asked: true });
        let (dozing, woken) = (State::Dozing { until: later }, State::Dozing { until: now });
        let (failed, over) = (State::Failed { until: later }, State::Failed { until: now });
        let (asleep, waking, steady) = (State::Asleep, State::Waking, State::Steady);
        let off = State::Failed { until: now + Duration::from_millis(100) };

        let columns = [
            Event::Wake,
            Event::Activity,
            Event::Healthy,
            Event::Drained,
            Event::Down(SOON),
            Event::Down(STABLE),
            Event::Tick,
        ];
        type Row = (State, [(State, Option<Action>); 7]);
        let same = |s: State| [(s, None); 7];
        let table: [Row; 10] = [
            (steady, same(steady)),
            (asleep, {
                let mut row = same(asleep);
                row[0] = (waking, Some(Start));
                row
            }),
            (waking, {
                let mut row = same(waking);
                (row[2], row[4], row[5]) = ((awake, None), (off, None), (off, None));
                row
            }),
            (
                idle,
                [
                    (now_asked, None),
                    (awake, None),
                    (awake, None),
                    (idle, None),
                    (off, None),
                    (asleep, None),
                    (State::Dozing { until: now + DOZE }, Some(Doze)),
                ],
            ),
            (
                used,
                [
                    (now_asked, None),
                    (awake, None),
                    (awake, None),
                    (used, None),
                    (off, None),
                    (asleep, None),
                    (used, None),
                ],
            ),
            // A request waits: it does not doze, whatever the time.
            (
                asked,
                [
                    (now_asked, None),
                    (now_asked, None),
                    (awake, None),
                    (asked, None),
                    (off, None),
                    (waking, Some(Start)),
                    (asked, None),
                ],
            ),
            (
                dozing,
                [
                    (awake, Some(Rouse)),
                    (awake, Some(Rouse)),
                    (dozing, None),
                    (asleep, Some(Stop)),
                    (asleep, None),
                    (asleep, None),
                    (dozing, None),
                ],
            ),
            (
                woken,
                [
                    (awake, Some(Rouse)),
                    (awake, Some(Rouse)),
                    (woken, None),
                    (asleep, Some(Stop)),
                    (asleep, None),
                    (asleep, None),
                    (awake, Some(Rouse)),
                ],
            ),
            (failed, same(failed)),
            (over, {
                let mut row = same(over);
                row[6] = (asleep, None);
                row
            }),
        ];
        for (state, row) in table {
            for (event, (then, action)) in columns.into_iter().zip(row) {
                let mut scale = Scale::new(state, IDLE);
                let got = scale.on(event, now);
                assert_eq!((scale.state, got), (then, action), "{state:?} on {event:?}");
            }
        }
    }

    #[test]
    fn a_thousand_wakes_are_one_start() {
        let now = Instant::now();
        let mut scale = Scale::new(State::Asleep, IDLE);
        let starts = (0..1000).filter(|_| scale.on(Event::Wake, now) == Some(Action::Start)).count();
        assert_eq!(starts, 1);
    }

    #[test]
    fn what_fails_again_and_again_is_tried_less_and_less() {
        let mut now = Instant::now();
        let mut scale = Scale::new(State::Asleep, IDLE);
        let mut waits = Vec::new();
        for _ in 0..4 {
            assert_eq!(scale.on(Event::Wake, now), Some(Action::Start));
            scale.on(Event::Down(Duration::ZERO), now);
            let until = scale.deadline().unwrap();
            waits.push((until - now).as_millis());
            now = until;
            scale.on(Event::Tick, now);
        }
        assert_eq!(waits, [100, 200, 400, 800]);
    }

    #[test]
    fn the_deadline_is_when_a_tick_does_something() {
        let now = Instant::now();
        for state in [
            State::Awake { active: now, asked: false },
            State::Dozing { until: now + SOON },
            State::Failed { until: now + SOON },
        ] {
            let mut scale = Scale::new(state, IDLE);
            let at = scale.deadline().unwrap();
            assert_eq!((scale.on(Event::Tick, at - Duration::from_millis(1)), scale.state), (None, state));
            scale.on(Event::Tick, at);
            assert_ne!(scale.state, state);
        }
    }
}
