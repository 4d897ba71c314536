//! Plans: what a verb asks for, checked in full before anything starts.
//!
//! **Invariant**: making a plan changes nothing but the claim on its routes, which it holds.

use std::sync::Arc;

use super::actor::Actor;
use super::logs::now_ms;
use super::secrets;
use super::spec::{self, Spec};
use super::stage::Stage;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deploy, Secrets};
use crate::proto::manifest::MAX_INSTANCES;
use crate::proto::version::Version;
use crate::server::state::{Desired, Record};

pub(super) struct Plan<C> {
    pub spec: Arc<Spec>,
    /// The app's state once it is committed.
    pub next: Desired,
    pub secrets: Option<Arc<Secrets>>,
    /// Old instances go; else the new ones are more of the same.
    pub replaces: bool,
    pub previous: Option<Version>,
    /// Kept until the commit has posted the routes.
    _claim: Option<C>,
}

impl<S: Stage> Actor<S> {
    pub fn plan_deploy(&self, order: Deploy, by: String) -> Result<Plan<S::Claim>> {
        let Deploy { manifest, routes, instances, secrets } = order;
        self.check_idle()?;
        check_instances(instances)?;
        spec::check(&manifest)?;
        if manifest.app != self.id {
            return Err(Error::new(Kind::Refused, format!("the release is of {}, not of {}", manifest.app, self.id)));
        }
        let secrets = match (secrets, &self.sealed) {
            (Some(secrets), _) => Some(Arc::new(secrets)),
            (None, None) => self.secrets.clone(),
            (None, Some(why)) => return Err(sealed(why)),
        };
        let record = Record { manifest, routes, deployed_ms: self.now_ms(), by, bad: false };
        let previous = self.desired.as_ref().map(|d| d.live.clone());
        self.plan(record, instances, secrets, previous, None)
    }

    pub fn plan_rollback(&self, version: Option<Version>, by: String) -> Result<Plan<S::Claim>> {
        self.check_idle()?;
        let desired = self.deployed()?;
        let record = match version {
            Some(version) if version == desired.live => {
                return Err(Error::new(Kind::Conflict, format!("{version} is live already")));
            }
            Some(version) => desired.record(&version).filter(|_| self.is_complete(&version)).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("{} has no release {version}", self.id))
                    .hint("see `tako releases ls`")
            })?,
            None => {
                let good = |r: &&Record| !r.bad && r.manifest.version != desired.live;
                let there = desired.releases.iter().filter(good).filter(|r| self.is_complete(&r.manifest.version));
                // The newest is the one that was live before.
                there.max_by_key(|r| r.deployed_ms).ok_or_else(|| {
                    Error::new(Kind::NotFound, format!("{} has no earlier release that was good", self.id))
                        .hint("see `tako releases ls` and name one")
                })?
            }
        };
        if let Some(why) = &self.sealed {
            return Err(sealed(why));
        }
        let record = Record { deployed_ms: self.now_ms(), by, bad: false, ..record.clone() };
        let from = Some(desired.live.clone());
        self.plan(record, desired.instances, self.secrets.clone(), from.clone(), from)
    }

    pub fn plan_scale(&self, instances: u32) -> Result<Plan<S::Claim>> {
        self.check_idle()?;
        check_instances(instances)?;
        let desired = self.deployed()?;
        if let Some(why) = &self.sealed {
            return Err(sealed(why));
        }
        let spec = self.live.clone().expect("what is deployed has a live release");
        let next = Desired { instances, ..desired.clone() };
        Ok(Plan { spec, next, secrets: self.secrets.clone(), replaces: false, previous: None, _claim: None })
    }

    /// The live release with other secrets; `None` when it has these.
    pub fn plan_secrets(&self, secrets: Secrets) -> Result<Option<Plan<S::Claim>>> {
        self.check_idle()?;
        let desired = self.deployed()?;
        let held = self.secrets.as_ref().map(|held| held.hash.as_str());
        if self.sealed.is_none() && secrets.are(held) {
            return Ok(None);
        }
        let secrets = Some(Arc::new(secrets));
        let next = Desired {
            secrets_hash: secrets.as_ref().map(|s| s.hash.clone()),
            secrets: Some(secrets::new_name()?),
            ..desired.clone()
        };
        let live = self.live.as_ref().expect("what is deployed has a live release");
        let spec = Spec::new(live.record.clone(), secrets.clone());
        spec.launch(&self.stage, &self.layout)?;
        // Its routes are posted and stay.
        Ok(Some(Plan { spec, next, secrets, replaces: true, previous: Some(desired.live.clone()), _claim: None }))
    }

    pub fn now_ms(&self) -> u64 {
        // Later than any record, whatever the clock says: the order of releases depends on it.
        let newest = self.desired.iter().flat_map(|d| &d.releases).map(|r| r.deployed_ms).max();
        now_ms().max(newest.map_or(0, |ms| ms + 1))
    }

    fn plan(
        &self,
        record: Record,
        instances: u32,
        secrets: Option<Arc<Secrets>>,
        previous: Option<Version>,
        bad: Option<Version>,
    ) -> Result<Plan<S::Claim>> {
        let version = &record.manifest.version;
        if !self.is_complete(version) {
            return Err(Error::new(Kind::NotFound, format!("the release {version} of {} is not laid out", self.id))
                .hint("deploy again: it is uploaded anew"));
        }
        let claim = self.stage.claim(&self.id, &record.routes)?;
        let mut next = match &self.desired {
            Some(desired) => desired.clone(),
            None => Desired::new(self.id.clone(), record.clone(), instances),
        };
        next.releases.retain(|r| &r.manifest.version != version);
        next.failed.retain(|f| &f.version != version);
        next.releases.push(record.clone());
        next.releases.iter_mut().filter(|r| Some(&r.manifest.version) == bad.as_ref()).for_each(|r| r.bad = true);
        next.releases.sort_by_key(|r| std::cmp::Reverse(r.deployed_ms));
        next.live = version.clone();
        next.instances = instances;
        next.secrets_hash = secrets.as_ref().map(|s| s.hash.clone());
        if !same(&secrets, &self.secrets) {
            next.secrets = secrets.is_some().then(secrets::new_name).transpose()?;
        }
        let spec = Spec::new(record, secrets.clone());
        spec.launch(&self.stage, &self.layout)?;
        Ok(Plan { spec, next, secrets, replaces: true, previous, _claim: Some(claim) })
    }

    fn check_idle(&self) -> Result<()> {
        match self.is_ending() || self.rolling.is_some() {
            true => Err(self.busy()),
            false => Ok(()),
        }
    }

    fn deployed(&self) -> Result<&Desired> {
        self.desired.as_ref().ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{} was never deployed", self.id)).hint("run `tako deploy`")
        })
    }

    fn is_complete(&self, version: &Version) -> bool {
        self.stage.is_complete(&self.layout, &self.id, version)
    }
}

fn same(a: &Option<Arc<Secrets>>, b: &Option<Arc<Secrets>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn check_instances(instances: u32) -> Result<()> {
    if instances <= MAX_INSTANCES {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("{instances} instances are more than {MAX_INSTANCES}")))
}

fn sealed(why: &str) -> Error {
    Error::new(Kind::Refused, why).hint("run `tako secrets sync`: they are sent anew")
}
