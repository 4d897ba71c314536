//! Renewal: other secrets for the live release, without a deploy.
//!
//! Where instances run it is a rollout of the same release, so all of that holds: one by one, no request dropped, and the
//! old secrets stay in force when a new instance does not come up. An app that sleeps just takes them.
//!
//! **Invariant**: the sealed file is written under a name that none had before, and the state then names it: whenever the
//! server is killed, there are the old secrets or the new.

use std::time::Instant;

use super::actor::Actor;
use super::course::Teller;
use super::demand::at_least_one;
use super::instance::Role;
use super::plan::Plan;
use super::stage::Stage;
use super::{scale, secrets};
use crate::error::Result;
use crate::proto::control::{Deployed, Secrets};
use crate::server::crash;
use crate::server::state::{self, Desired};

impl<S: Stage> Actor<S> {
    pub(super) fn renew(&mut self, secrets: Secrets, by: &str, to: Teller, now: Instant) {
        let plan = match self.plan_secrets(secrets) {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                if let Some(desired) = &self.desired {
                    to.done(Ok(quiet(desired)));
                }
                return;
            }
            Err(e) => return to.done(Err(e)),
        };
        log::info!("app={} new secrets by={by}", self.id);
        self.scale_on(scale::Event::Activity, now); // who dozes is up again
        match self.is_on_demand() && self.with_roles(&[Role::Serving]).is_empty() {
            true => to.done(self.take(plan, now)),
            false => {
                let total = at_least_one(plan.next.instances);
                self.roll(plan, total, to, now);
            }
        }
    }

    /// Nothing runs that would have to be replaced.
    fn take(&mut self, plan: Plan<S::Claim>, now: Instant) -> Result<Deployed> {
        let Plan { spec, next, secrets, .. } = plan;
        crash::point("ready: secrets to be saved");
        let saved = match (&secrets, &next.secrets) {
            (Some(secrets), Some(name)) => secrets::save(&self.layout, &self.host_key, &self.id, name, secrets),
            _ => Ok(()),
        };
        crash::point("write: state to be put");
        let saved = saved.and_then(|()| state::save(&self.layout, &next));
        crash::point("write: state put");
        if saved.is_err() {
            self.write_back();
        } else {
            self.live = Some(spec);
            self.secrets = secrets;
            self.sealed = None;
            self.last_failure = None;
            self.desired = Some(next.clone());
            self.settle(now);
        }
        self.tidy_files();
        saved.map(|()| quiet(&next))
    }
}

/// No instance was started for it.
fn quiet(desired: &Desired) -> Deployed {
    Deployed { version: desired.live.clone(), previous: None, instances: desired.instances, swaps: Vec::new() }
}
