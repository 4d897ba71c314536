//! Rollouts as performed: a verb becomes a plan, `rollout` says what comes next, and this does it.
//!
//! **Invariant**: until the commit nothing that the old instances need is changed: their routes, limits, secrets,
//! files and `current` stand, and each of them is alive or being started again. The commit writes first and posts then.

use std::time::{Duration, Instant};

use super::actor::Actor;
use super::cause::{End, Phase};
use super::course::Teller;
use super::demand::at_least_one;
use super::failing::Report;
use super::instance::{Instance, Role, Run};
use super::plan::Plan;
use super::rollout::{Action, Event as Fact, Rollout};
use super::scale;
use super::stage::Stage;
use crate::disk::Staged;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deploy, Deployed, Notice, Step};
use crate::proto::version::Version;
use crate::proxy::files::root::Root;
use crate::server::crash;
use crate::server::state;

/// Acks take microseconds. If one is lost, the rollout goes on after this: no worker chooses by an older table than
/// another, so only the certainty is missing.
const ACK: Duration = Duration::from_secs(5);

/// A rollout under way.
pub(super) struct Rolling<C> {
    pub plan: Plan<C>,
    rollout: Rollout,
    pub to: Teller,
    /// The post that must be acked, and until when it is waited for.
    awaiting: Option<(u64, Instant)>,
    pub times: Vec<Times>,
    /// The next state, ready to be put in place.
    pub staged: Option<Staged>,
    /// What the next release has to serve by itself.
    pub assets: Option<Root>,
    pub failure: Option<Error>,
}

#[derive(Clone, Copy)]
pub(super) struct Times {
    /// The instance's own number.
    pub number: u32,
    pub started: Instant,
    pub ready: Option<Instant>,
    pub swapped: Option<Instant>,
}

impl<C> Rolling<C> {
    pub fn deadline(&self) -> Option<Instant> {
        self.awaiting.map(|(_, until)| until)
    }

    pub fn version(&self) -> Version {
        self.plan.spec.manifest().version.clone()
    }

    fn tell(&self, number: u32, step: Step) {
        let of = self.rollout.total();
        self.to.notice(Notice::Step { number, of, step });
    }
}

impl<S: Stage> Actor<S> {
    pub fn deploy(&mut self, order: Deploy, by: String, to: Teller, now: Instant) {
        match self.plan_deploy(order, by) {
            Ok(plan) => {
                let total = at_least_one(plan.next.instances);
                self.roll(plan, total, to, now);
            }
            Err(e) => to.done(Err(e)),
        }
    }

    pub fn rollback(&mut self, version: Option<Version>, by: String, to: Teller, now: Instant) {
        match self.plan_rollback(version, by) {
            Ok(plan) => {
                let total = at_least_one(plan.next.instances);
                self.roll(plan, total, to, now);
            }
            Err(e) => to.done(Err(e)),
        }
    }

    pub fn scale(&mut self, instances: u32, to: Teller, now: Instant) {
        let plan = match self.plan_scale(instances) {
            Ok(plan) => plan,
            Err(e) => return to.done(Err(e)),
        };
        self.scale_on(scale::Event::Activity, now); // who dozes is up again
        let serving = self.with_role(Role::Serving).len() as u32;
        // One that runs is kept warm; for want of requests it goes by itself.
        let wanted = if instances == 0 { serving.min(1) } else { instances };
        match wanted.checked_sub(serving) {
            Some(more) if more > 0 => self.roll(plan, more, to, now),
            _ => to.done(self.shrink(plan, wanted, now)),
        }
    }

    /// Ends a rollout because of something else; after the commit there is nothing to end.
    pub fn call_off(&mut self, why: &str, now: Instant) {
        let Some(rolling) = &mut self.rolling else { return };
        rolling.failure = Some(Error::new(Kind::Conflict, format!("{} was called off: {why}", rolling.version())));
        match rolling.rollout.is_committed() {
            true => self.finish(now),
            false => self.advance(Fact::Failed, now),
        }
    }

    /// Ends the rollout of `version` because somebody says so. It is no fault of the release, which stays laid out.
    pub fn cancel(&mut self, version: &Version, by: &str, now: Instant) -> Result<()> {
        let Some(rolling) = self.rolling.as_mut().filter(|rolling| rolling.version() == *version) else {
            return Err(Error::new(Kind::NotFound, format!("{version} of {} is not being deployed", self.id)));
        };
        if rolling.rollout.is_committed() {
            return Err(Error::new(Kind::Conflict, format!("{version} of {} is live already", self.id)));
        }
        let cancelled = || Error::new(Kind::Interrupted, format!("cancelled by {by}"));
        rolling.failure.get_or_insert_with(cancelled);
        self.advance(Fact::Failed, now);
        Ok(())
    }

    pub fn tick_rollout(&mut self, now: Instant) {
        let Some(rolling) = &mut self.rolling else { return };
        if rolling.awaiting.is_some_and(|(_, until)| until <= now) {
            log::warn!("app={} the proxy did not acknowledge a table in time", self.id);
            rolling.awaiting = None;
            self.advance(Fact::Acked, now);
        } else if rolling.failure.is_some() && !rolling.rollout.is_committed() {
            self.advance(Fact::Failed, now);
        }
    }

    pub fn check_acked(&mut self, now: Instant) {
        let Some(rolling) = &self.rolling else { return };
        if rolling.awaiting.is_some_and(|(generation, _)| self.is_acked(generation)) {
            self.advance(Fact::Acked, now);
        }
    }

    /// A new instance failed. It is acted on at the end of the turn, when the instance is as it will be.
    pub(super) fn rollout_failed(&mut self, report: Report) {
        let previous = self.desired.as_ref().map(|d| d.live.clone());
        let Some(rolling) = &mut self.rolling else { return };
        let Report { failure, last_lines } = report;
        // People count the new ones; those that could not be spawned have no times.
        let place = rolling.times.iter().position(|t| Some(t.number) == failure.instance);
        let place = place.unwrap_or(rolling.times.len()) + 1;
        let message = format!("instance {place} of {} {}", rolling.rollout.total(), failure.what);
        let hint = match (&failure.hint, previous) {
            (Some(hint), _) => hint.clone(),
            (None, Some(version)) => format!("{version} still serves; see `tako logs` for all that was said"),
            (None, None) => "fix the app and deploy again; see `tako logs` for all that was said".into(),
        };
        let error = Error::new(Kind::Rejected, message).hint(hint).with_detail(failure.detail(&last_lines));
        rolling.failure.get_or_insert(error);
        self.last_failure = Some(failure);
    }

    pub fn health_changed(&mut self, at: usize, healthy: bool, now: Instant) {
        match (self.instances[at].role, healthy) {
            (Role::Fresh, true) => {
                crash::point("roll: healthy");
                self.tell_if_fresh(at, Step::Healthy);
                self.advance(Fact::Healthy, now);
            }
            (Role::Joined, false) => {
                let report = self.report(at, End::Unwell, Phase::Serving);
                self.rollout_failed(report);
            }
            // Balancing follows by itself: the posting is computed.
            (Role::Serving, true) => self.scale_on(scale::Event::Healthy, now),
            (Role::Fresh | Role::Serving, false)
            | (Role::Joined, true)
            | (Role::Benched | Role::Dozing | Role::Leaving, _) => {}
        }
    }

    /// Tells who waits for the rollout about its instance that is not in balancing yet.
    pub fn tell_if_fresh(&mut self, at: usize, step: Step) {
        let Some(rolling) = &mut self.rolling else { return };
        let Instance { role: Role::Fresh, run: Run::Up(process), .. } = &self.instances[at] else { return };
        if let Some(times) = rolling.times.last_mut() {
            times.ready = process.ready;
        }
        rolling.tell(rolling.rollout.number(), step);
    }

    pub(super) fn roll(&mut self, plan: Plan<S::Claim>, total: u32, to: Teller, now: Instant) {
        let version = &plan.spec.manifest().version;
        to.publish(version.clone(), &self.latest);
        log::info!("app={} rollout begins release={version} instances={total}", self.id);
        // It was laid out again since it failed.
        self.discards.retain(|v| v != version);
        self.scale_on(scale::Event::Activity, now);
        crash::point("roll: planned");
        let (rollout, first) = Rollout::new(total);
        self.rolling = Some(Rolling {
            plan,
            rollout,
            to,
            awaiting: None,
            times: Vec::new(),
            staged: None,
            assets: None,
            failure: None,
        });
        self.perform(first, now);
        // After the start: the app boots while the disk is at it.
        if let Err(e) = self.lay_ready()
            && let Some(rolling) = &mut self.rolling
        {
            rolling.failure.get_or_insert(e.hint("nothing was changed"));
        }
    }

    fn advance(&mut self, fact: Fact, now: Instant) {
        let Some(rolling) = &mut self.rolling else { return };
        if fact == Fact::Acked {
            rolling.awaiting = None;
        }
        if let Some(action) = rolling.rollout.on(fact) {
            if fact == Fact::Acked {
                self.swapped(now);
            }
            self.perform(action, now);
        }
    }

    fn perform(&mut self, action: Action, now: Instant) {
        match action {
            Action::Start(_) => self.start_fresh(now),
            Action::Swap(_) => {
                crash::point("roll: to be swapped");
                self.join_fresh();
                self.bench_one();
                let generation = self.publish();
                crash::point("roll: swapped");
                self.await_ack(generation, now);
            }
            Action::Write => match self.write() {
                Ok(()) => self.advance(Fact::Written, now),
                Err(e) => {
                    if let Some(rolling) = &mut self.rolling {
                        rolling.failure = Some(e.hint("nothing was changed"));
                    }
                    self.advance(Fact::Failed, now);
                }
            },
            Action::Commit => self.commit(now),
            Action::Restore => self.restore(now),
            Action::Finish => self.finish(now),
        }
    }

    fn start_fresh(&mut self, now: Instant) {
        let number = self.free_number();
        let Some(rolling) = &mut self.rolling else { return };
        let spec = rolling.plan.spec.clone();
        rolling.tell(rolling.rollout.number(), Step::Starting);
        self.instances.push(Instance::waiting(number, Role::Fresh, spec, now));
        match self.start_process(self.instances.len() - 1) {
            Ok(started) => {
                let times = Times { number, started, ready: None, swapped: None };
                self.rolling.iter_mut().for_each(|r| r.times.push(times));
            }
            Err(e) => {
                let report = self.report(self.instances.len() - 1, End::of(&e), Phase::Starting);
                self.instances.pop();
                self.rollout_failed(report);
            }
        }
    }

    fn join_fresh(&mut self) {
        self.set_role(Role::Fresh, Role::Joined);
    }

    /// An old one that serves nothing goes first.
    fn bench_one(&mut self) {
        if self.rolling.as_ref().is_none_or(|r| !r.plan.replaces) {
            return;
        }
        let mut serving = self.with_role(Role::Serving);
        serving.sort_by_key(|at| (self.instances[*at].in_balancing().is_some(), self.instances[*at].number));
        if let Some(at) = serving.first() {
            self.instances[*at].role = Role::Benched;
        }
    }

    pub(super) fn await_ack(&mut self, generation: u64, now: Instant) {
        if let Some(rolling) = &mut self.rolling {
            rolling.awaiting = Some((generation, now + ACK));
        }
        // It may have been acked already, or nothing was to be posted.
        self.check_acked(now);
    }

    /// The proxy chooses by the last post. Before the first commit of an app nothing is posted, so nothing is swapped.
    fn swapped(&mut self, now: Instant) {
        let posted = self.is_posted();
        let Some(rolling) = self.rolling.as_mut().filter(|_| posted) else { return };
        for at in 0..rolling.times.len() {
            if rolling.times[at].swapped.is_none() {
                rolling.times[at].swapped = Some(now);
                rolling.tell(at as u32 + 1, Step::InBalancing);
                if rolling.plan.previous.is_some() {
                    rolling.tell(at as u32 + 1, Step::Draining);
                }
            }
        }
    }

    /// Fewer instances: written, posted, and the rest let go.
    fn shrink(&mut self, plan: Plan<S::Claim>, wanted: u32, now: Instant) -> Result<Deployed> {
        crash::point("shrink: to be saved");
        state::save(&self.layout, &plan.next)?;
        crash::point("shrink: saved");
        let mut serving = self.with_role(Role::Serving);
        // Who serves stays, then who has the lower number.
        serving.sort_by_key(|at| (self.instances[*at].in_balancing().is_none(), self.instances[*at].number));
        let going = serving.split_off(serving.len().min(wanted as usize));
        for at in &going {
            self.instances[*at].role = Role::Leaving;
        }
        self.publish();
        crash::point("shrink: posted");
        for at in going {
            self.retire(at, now);
        }
        self.drop_empty();
        let Plan { next, .. } = plan;
        let deployed =
            Deployed { version: next.live.clone(), previous: None, instances: next.instances, swaps: Vec::new() };
        self.desired = Some(next);
        self.settle(now);
        Ok(deployed)
    }

    fn with_role(&self, role: Role) -> Vec<usize> {
        self.with_roles(&[role])
    }

    pub(super) fn with_roles(&self, roles: &[Role]) -> Vec<usize> {
        (0..self.instances.len()).filter(|at| roles.contains(&self.instances[*at].role)).collect()
    }

    pub(super) fn set_role(&mut self, from: Role, to: Role) {
        self.instances.iter_mut().filter(|i| i.role == from).for_each(|i| i.role = to);
    }
}
