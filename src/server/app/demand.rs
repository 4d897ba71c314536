//! On demand as performed: `scale` says whether the one instance runs, and this does it.
//!
//! What a rollout does goes before: while one is under way nothing dozes, and its commit says anew how things stand. A
//! wake during a rollout starts the live release, which serves until the commit, or stays if that never comes; the
//! requests that wait have whichever is there first.

use std::time::{Duration, Instant};

use super::actor::Actor;
use super::adopt;
use super::instance::{Instance, Role, Traffic};
use super::lifecycle;
use super::scale::{Action, Event, Scale, State};
use super::stage::Stage;
use crate::proxy::table::Standing;

/// The proxy measures the wait of whoever asked first from a little earlier than we the start, and may look at it a
/// little late; it is to hear that the start took too long (504) and not that it failed (502).
const LATE: Duration = Duration::from_secs(1);
/// A shorter time without requests would be shorter than the proxy takes to tell of one.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// On demand, a deploy starts one: that it can be started is part of what a deploy promises.
pub(super) fn at_least_one(instances: u32) -> u32 {
    instances.max(1)
}

impl<S: Stage> Actor<S> {
    pub(super) fn is_on_demand(&self) -> bool {
        self.desired.as_ref().is_some_and(|desired| desired.instances == 0)
    }

    /// What a request meets when no instance is in balancing.
    pub(super) fn standing(&self) -> Standing {
        match self.scale.state() {
            // It is known to have served a moment ago: worth waiting for.
            State::Steady if self.is_adopting() => Standing::OnDemand { patience: adopt::PATIENCE },
            State::Steady => Standing::Awake,
            State::Failed { .. } => Standing::Failed,
            State::Asleep | State::Waking | State::Awake { .. } | State::Dozing { .. } => {
                let patience = self.live.as_ref().map_or(Duration::ZERO, |live| live.startup());
                Standing::OnDemand { patience }
            }
        }
    }

    /// How things stand, from what there is: at boot, and when the number of instances or the release has changed.
    pub(super) fn settle(&mut self, now: Instant) {
        self.fill_up(now);
        let serving = self.with_roles(&[Role::Serving]);
        let healthy = |at: &usize| self.instances[*at].process().is_some_and(|p| p.life.is_healthy());
        let state = match self.is_on_demand() {
            false => State::Steady,
            true if serving.is_empty() => State::Asleep,
            true if serving.iter().any(healthy) => State::Awake { active: now, asked: false },
            true => State::Waking,
        };
        let idle = self.live.as_ref().map_or(MIN_IDLE, |live| live.idle().max(MIN_IDLE));
        self.scale = Scale::new(state, idle);
    }

    /// Places for all that are wanted: at boot none is there, and one that failed on demand has left none.
    fn fill_up(&mut self, now: Instant) {
        let (Some(desired), Some(live)) = (&self.desired, &self.live) else { return };
        if self.sealed.is_some() {
            return;
        }
        let (wanted, live) = (desired.instances as usize, live.clone());
        for _ in self.with_roles(&[Role::Serving]).len()..wanted {
            self.instances.push(Instance::waiting(self.free_number(), Role::Serving, live.clone(), now));
        }
    }

    /// Beyond its limit, what a start of this role may take.
    pub(super) fn late(&self, role: Role) -> Duration {
        if self.is_on_demand() && role == Role::Serving { LATE } else { Duration::ZERO }
    }

    pub(super) fn tick_scale(&mut self, now: Instant) {
        if self.rolling.is_some() {
            self.scale_on(Event::Activity, now);
        }
        self.scale_on(Event::Tick, now);
    }

    pub(super) fn scale_on(&mut self, event: Event, now: Instant) {
        let before = self.scale.state();
        let action = self.scale.on(event, now);
        if action.is_some() {
            log::info!("app={} {before:?} on {event:?}: {action:?}", self.id);
        }
        match action {
            Some(Action::Start) => self.wake(now),
            Some(Action::Doze) => self.doze(now),
            Some(Action::Rouse) => self.set_role(Role::Dozing, Role::Serving), // posted at the end of the turn
            Some(Action::Stop) => self.with_roles(&[Role::Dozing]).into_iter().for_each(|at| self.retire(at, now)),
            None => {}
        }
        let has_failed = |state| matches!(state, State::Failed { .. });
        if has_failed(self.scale.state()) && !has_failed(before) {
            // Whoever waits has to hear it, and by the end of a slow turn it may be over: it lasts for a tenth of a second first.
            self.publish();
        }
    }

    fn wake(&mut self, now: Instant) {
        let Some(live) = self.live.clone() else { return };
        if let Some(why) = self.sealed.clone() {
            self.failed_as_a_whole(&why);
            return self.scale_on(Event::Down(Duration::ZERO), now);
        }
        let number = self.free_number();
        self.instances.push(Instance::waiting(number, Role::Serving, live, now)); // started by the next tick
    }

    fn doze(&mut self, now: Instant) {
        self.set_role(Role::Serving, Role::Dozing);
        self.publish();
        // It may have been out of balancing before, and the proxy says a thing once.
        let dozing = self.instances.iter().find(|i| i.role == Role::Dozing).and_then(Instance::process);
        if dozing.is_none_or(|process| matches!(process.traffic, Traffic::Drained | Traffic::Never)) {
            self.scale_on(Event::Drained, now);
        }
    }

    /// The instance at `at` has failed. On demand its place goes with it.
    pub(super) fn give_place_up(&mut self, at: usize, now: Instant) {
        if self.is_on_demand() {
            let process = self.instances[at].process();
            let up = process.and_then(|p| p.ready).map_or(Duration::ZERO, |ready| now - ready);
            self.instances[at].role = Role::Leaving;
            self.scale_on(Event::Down(up), now);
        }
    }

    /// An instance that was to end by being idle is drained.
    pub(super) fn drained(&mut self, at: usize, now: Instant) {
        match self.instances[at].role {
            Role::Dozing => self.scale_on(Event::Drained, now),
            Role::Serving | Role::Fresh | Role::Joined | Role::Benched | Role::Leaving => {
                self.live_on(at, lifecycle::Event::Drained, now);
            }
        }
    }
}
