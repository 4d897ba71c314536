//! Status: what is told about an app. It reads and never decides.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::actor::Actor;
use super::instance::{Instance, Process, Role, Run};
use super::scale::State;
use super::stage::Stage;
use super::usage::{Meter, Usage, Who};
use crate::proto::status::{AppState, AppStatus, InstanceStatus, Release, Waiting};
use crate::server::state::{Failed, Record};

impl<S: Stage> Actor<S> {
    pub fn status(&self, now: Instant) -> AppStatus {
        let wanted = self.desired.as_ref().map_or(0, |d| d.instances);
        AppStatus {
            app: self.id.clone(),
            state: self.state(now),
            version: self.desired.as_ref().map(|d| d.live.clone()),
            routes: self.live.as_ref().map_or(Vec::new(), |l| l.record.routes.clone()),
            wanted,
            instances: self.instances.iter().filter_map(|i| instance_status(i, &self.threads.meter, now)).collect(),
            since_ms: self.live.as_ref().map_or(0, |l| l.record.deployed_ms),
            last_failure: self.last_failure.clone(),
            waiting: self.instances.iter().filter_map(|i| waiting(i, now)).collect(),
            remarks: self.live.as_ref().map_or(Vec::new(), |live| self.cell.remarks(live.manifest())),
        }
    }

    fn state(&self, now: Instant) -> AppState {
        let serving =
            || self.instances.iter().filter(|i| matches!(i.role, Role::Serving | Role::Benched | Role::Dozing));
        let healthy = serving().filter(|i| i.process().is_some_and(|p| p.life.is_healthy())).count();
        let wanted = self.desired.as_ref().map_or(0, |d| d.instances) as usize;
        if self.rolling.is_some() {
            AppState::Deploying
        } else if serving().any(|i| is_looping(i, now)) {
            AppState::CrashLooping
        } else if let Some(state) = self.state_on_demand() {
            state
        } else if wanted == 0 {
            AppState::Idle
        } else if healthy >= wanted {
            AppState::Live
        } else if healthy > 0 || self.sealed.is_some() {
            AppState::Degraded
        } else {
            AppState::Starting
        }
    }

    fn state_on_demand(&self) -> Option<AppState> {
        Some(match self.scale.state() {
            State::Steady => return None,
            State::Asleep => AppState::Asleep,
            State::Waking => AppState::Starting,
            State::Awake { .. } if self.posted.as_ref().is_some_and(|p| p.endpoints.is_empty()) => AppState::Degraded,
            State::Awake { .. } | State::Dozing { .. } => AppState::Live,
            State::Failed { .. } => AppState::Failed,
        })
    }

    pub fn releases(&self) -> Vec<Release> {
        let Some(desired) = &self.desired else { return Vec::new() };
        let release = |record: &Record| Release {
            version: record.manifest.version.clone(),
            live: record.manifest.version == desired.live,
            deployed_ms: record.deployed_ms,
            by: record.by.clone(),
            commit_message: record.manifest.commit_message.clone(),
            git_dirty: record.manifest.git_dirty,
            bad: record.bad,
            failure: None,
        };
        let failed = |failed: &Failed| Release {
            version: failed.version.clone(),
            live: false,
            deployed_ms: failed.at_ms,
            by: failed.by.clone(),
            commit_message: failed.commit_message.clone(),
            git_dirty: failed.git_dirty,
            bad: true,
            failure: Some(failed.why.clone()),
        };
        let mut all: Vec<Release> =
            desired.releases.iter().map(release).chain(desired.failed.iter().map(failed)).collect();
        all.sort_by_key(|release| Reverse(release.deployed_ms));
        all
    }
}

fn is_looping(instance: &Instance, now: Instant) -> bool {
    let up = instance.process().and_then(|p| p.ready).map_or(Duration::ZERO, |ready| now - ready);
    instance.restarts.is_looping(up)
}

/// A place whose process has failed and that gets another one after a while.
fn waiting(instance: &Instance, now: Instant) -> Option<Waiting> {
    let restarts = instance.restarts.count();
    match instance.run {
        Run::Waiting(until) if restarts > 0 => {
            Some(Waiting { number: instance.number, restarts, next_ms: millis(until.saturating_duration_since(now)) })
        }
        Run::Waiting(_) | Run::Up(_) => None,
    }
}

fn instance_status(instance: &Instance, meter: &Meter, now: Instant) -> Option<InstanceStatus> {
    let process = instance.process()?;
    let Usage { cpu, permille, memory } = usage(process, meter, now);
    Some(InstanceStatus {
        number: instance.number,
        version: instance.spec.manifest().version.clone(),
        pid: process.pid,
        port: process.addr.map_or(0, |a| a.port()),
        state: match instance.role {
            Role::Benched => "benched".into(),
            Role::Dozing => "dozing".into(),
            Role::Serving | Role::Fresh | Role::Joined | Role::Leaving => process.life.state().to_string(),
        },
        up_ms: millis(now - process.started),
        memory,
        cpu_ms: millis(cpu),
        cpu_permille: permille,
        restarts: instance.restarts.count(),
    })
}

/// Of all that it has started: by the kernel's own group where it has one, and where that does not count memory, by a
/// look at the processes in it.
fn usage(process: &Process, meter: &Meter, now: Instant) -> Usage {
    let Some(leaf) = &process.leaf else { return meter.usage(Who::Group(process.pid), process.started, now) };
    let looked = meter.usage(Who::These(&leaf.pids()), process.started, now);
    let counted = leaf.usage();
    Usage {
        cpu: Duration::from_micros(counted.cpu_us),
        memory: counted.memory.unwrap_or(looked.memory),
        permille: looked.permille,
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
