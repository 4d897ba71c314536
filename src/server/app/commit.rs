//! The two ends of a rollout: the commit, which writes first and posts then, and the way back.

use std::time::{Duration, Instant};

use super::actor::Actor;
use super::instance::Role;
use super::plan::Plan;
use super::stage::Stage;
use super::{assets, secrets};
use crate::disk::Staged;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deployed, Notice, Swap};
use crate::proto::version::Version;
use crate::server::crash;
use crate::server::layout::Layout;
use crate::server::state::{self, Desired, Record};

use super::roll::Times;

impl<S: Stage> Actor<S> {
    /// Writes all that the commit needs and that changes nothing yet, while the app boots: then only the short last
    /// step is left. What a crash leaves of it is removed at boot.
    pub(super) fn lay_ready(&mut self) -> Result<()> {
        let Some(rolling) = &mut self.rolling else { return Ok(()) };
        let Plan { spec, next, secrets, replaces, .. } = &rolling.plan;
        crash::point("ready: to be described");
        if *replaces {
            self.stage.describe(&self.layout, spec.manifest())?;
            rolling.assets = assets::open(&self.layout, spec.manifest())?;
        }
        crash::point("ready: secrets to be saved");
        let held = self.desired.as_ref().and_then(|d| d.secrets.as_ref());
        if let (Some(secrets), Some(name)) = (secrets, next.secrets.as_ref().filter(|name| held != Some(name))) {
            secrets::save(&self.layout, &self.host_key, &self.id, name, secrets)?;
        }
        crash::point("ready: state to be staged");
        rolling.staged = Some(state::stage(&self.layout, next)?);
        crash::point("ready: state staged");
        Ok(())
    }

    /// Writes the new state. What was written before a failure is written back.
    pub(super) fn write(&mut self) -> Result<()> {
        let Some(rolling) = &mut self.rolling else { return Ok(()) };
        let Plan { spec, next, replaces, .. } = &rolling.plan;
        let link = || match replaces {
            true => self.stage.activate(&self.layout, spec.manifest()),
            false => Ok(()),
        };
        // `current` first: after a crash the state says what is live, and its folder's sync is that of both.
        let staged = rolling.staged.take().map_or_else(|| state::stage(&self.layout, next), Ok);
        crash::point("write: current to be swapped");
        let linked = staged.and_then(|staged| link().map(|()| staged));
        crash::point("write: state to be put");
        let written = linked.and_then(Staged::put);
        crash::point("write: state put");
        if written.is_err() {
            self.write_back();
        }
        written
    }

    /// As it was before the rollout: also when it was only a sync that failed.
    pub(super) fn write_back(&self) {
        let current = self.live.as_ref().map_or(Ok(()), |live| self.stage.activate(&self.layout, live.manifest()));
        let state = match &self.desired {
            // What was not changed needs no room on a disk that may have none.
            Some(desired) if is_on_disk(&self.layout, desired) => Ok(()),
            Some(desired) => state::save(&self.layout, desired),
            None => state::forget(&self.layout, &self.id),
        };
        if let Err(e) = current.and(state) {
            log::error!("app={} what was live could not be written back error={e}", self.id);
        }
    }

    pub(super) fn commit(&mut self, now: Instant) {
        let Some(rolling) = &mut self.rolling else { return };
        let assets = rolling.assets.take();
        let Plan { spec, next, secrets, replaces, .. } = &rolling.plan;
        let replaces = *replaces;
        if replaces {
            let drain = self.live.as_ref().map_or(Duration::ZERO, |live| live.drain());
            self.assets.replace(spec.manifest().version.clone(), assets, now + drain);
            self.live = Some(spec.clone());
            self.last_failure = None;
            self.sealed = None;
        }
        self.desired = Some(next.clone());
        self.secrets = secrets.clone();
        let old = if replaces { self.with_roles(&[Role::Serving, Role::Benched]) } else { Vec::new() };
        for at in &old {
            self.instances[*at].role = Role::Leaving;
        }
        self.set_role(Role::Fresh, Role::Serving);
        self.set_role(Role::Joined, Role::Serving);
        self.settle(now);
        crash::point("commit: to be posted");
        let generation = self.publish();
        crash::point("commit: posted");
        for at in old {
            self.retire(at, now);
        }
        crash::point("commit: old ones retired");
        self.drop_empty();
        self.await_ack(generation, now);
    }

    /// Everything as it was; the new ones end, and who waits hears why.
    pub(super) fn restore(&mut self, now: Instant) {
        let Some(rolling) = self.rolling.take() else { return };
        crash::point("restore: begins");
        let new = self.with_roles(&[Role::Fresh, Role::Joined]);
        self.set_role(Role::Benched, Role::Serving);
        for at in &new {
            self.instances[*at].role = Role::Leaving;
        }
        self.publish();
        for at in new {
            self.retire(at, now);
        }
        self.drop_empty();
        crash::point("restore: new ones retired");
        let version = rolling.version();
        let unknown = || Error::new(Kind::Bug, format!("the rollout of {version} ended without a reason"));
        let error = rolling.failure.unwrap_or_else(unknown);
        if rolling.plan.replaces && error.kind() != Kind::Interrupted {
            self.give_up_on(&rolling.plan.spec.record, &error);
        }
        crash::point("restore: given up on");
        self.tidy_files();
        log::warn!("app={} rollout failed release={version} {error}", self.id);
        rolling.to.done(Err(error));
    }

    /// A release that never was live goes; one that was is not chosen by itself again.
    fn give_up_on(&mut self, record: &Record, why: &Error) {
        let version = &record.manifest.version;
        let was_live = match &mut self.desired {
            Some(desired) if &desired.live == version => return,
            Some(desired) => {
                let was_live = desired.record(version).is_some();
                desired.releases.iter_mut().filter(|r| &r.manifest.version == version).for_each(|r| r.bad = true);
                if !was_live {
                    desired.failed(record, why.to_string());
                }
                if let Err(e) = state::save(&self.layout, desired) {
                    log::warn!("app={} a failed release is not marked release={version} error={e}", self.id);
                }
                was_live
            }
            None => false,
        };
        if !was_live {
            self.discard_later(version.clone());
            // Before the answer, if nothing runs from it: who deploys it again must find it gone.
            self.discard_failed();
        }
    }

    pub(super) fn finish(&mut self, now: Instant) {
        let Some(rolling) = self.rolling.take() else { return };
        let Plan { next, previous, replaces, .. } = &rolling.plan;
        let swap = |times: &Times| Swap {
            boot_us: micros(times.ready.unwrap_or(now) - times.started),
            total_us: micros(times.swapped.unwrap_or(now) - times.started),
        };
        let deployed = Deployed {
            version: next.live.clone(),
            previous: previous.clone(),
            instances: next.instances,
            swaps: rolling.times.iter().map(swap).collect(),
        };
        log::info!("app={} rollout done release={} instances={}", self.id, deployed.version, deployed.instances);
        if *replaces {
            let version = deployed.version.clone();
            rolling.to.notice(Notice::Live { version });
        }
        let replaces = *replaces;
        crash::point("finish: to be told");
        rolling.to.done(Ok(deployed));
        self.tidy_files();
        crash::point("finish: files are tidy");
        if replaces {
            self.prune();
        }
    }

    /// Makes the files follow the state: what describes the live release, and no secrets but those it runs with.
    pub(super) fn tidy_files(&self) {
        let live = self.live.as_ref().map(|live| live.manifest());
        let described = live.map_or(Ok(()), |manifest| {
            self.stage.describe(&self.layout, manifest)?;
            self.stage.activate(&self.layout, manifest)
        });
        let held = self.desired.as_ref().and_then(|d| d.secrets.as_deref());
        crash::point("tidy: old secrets to be removed");
        if let Err(e) = described.and_then(|()| secrets::keep_only(&self.layout, &self.id, held)) {
            log::warn!("app={} its files are not tidy error={e}", self.id);
        }
    }

    fn prune(&mut self) {
        let mut running: Vec<Version> = self.instances.iter().map(|i| i.spec.manifest().version.clone()).collect();
        running.extend(self.tasks.versions());
        running.sort();
        running.dedup();
        let now_ms = self.now_ms();
        let Some(desired) = &mut self.desired else { return };
        let before = desired.releases.len();
        self.stage.prune(&self.layout, desired, &running, now_ms);
        crash::point("prune: state to be saved");
        if desired.releases.len() != before
            && let Err(e) = state::save(&self.layout, desired)
        {
            log::warn!("app={} pruned releases stay in the state error={e}", self.id);
        }
    }
}

fn is_on_disk(layout: &Layout, desired: &Desired) -> bool {
    state::load(layout, &desired.app).is_ok_and(|there| there.as_ref() == Some(desired))
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
