//! How an app ends: deleted, or stopped with the daemon; and how failed releases go.

use std::fs;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, never};

use super::Event;
use super::actor::Actor;
use super::instance::Role;
use super::lifecycle;
use super::roll::Rolling;
use super::scale::{Scale, State};
use super::stage::Stage;
use crate::error::{Error, Kind};
use crate::proto::control::Deployed;
use crate::proto::version::Version;
use crate::proxy::table::Standing;
use crate::server::board::Posting;
use crate::server::crash;

/// After SIGKILL a process is gone in no time, unless the kernel itself holds it; the server does not wait for that.
const DEATH: Duration = Duration::from_secs(3);

/// What commands that run beside the instances may take to end: longer than whoever carries them lets them.
const TASKS: Duration = Duration::from_secs(8);

pub(super) enum Ending {
    Stop { until: Instant },
    Delete { to: Sender<Event>, was: Option<Version> },
}

impl<S: Stage> Actor<S> {
    pub(super) fn delete(&mut self, to: Sender<Event>, now: Instant) {
        if self.ending.is_some() {
            let _ = to.send(Event::Done(Err(self.busy())));
            return;
        }
        crash::point("delete: begins");
        self.tasks.call_off();
        let rolling = self.rolling.as_ref().map(Rolling::version);
        let was = self.desired.as_ref().map(|d| d.live.clone()).or(rolling);
        self.call_off(&format!("{} was deleted", self.id), now);
        self.desired = None;
        self.settle(now);
        // Off the routes now, off the board at the end: until then we must hear what is drained.
        if self.posted.take().is_some() {
            self.post(Posting {
                routes: Vec::new(),
                endpoints: Vec::new(),
                standing: Standing::Awake,
                body_limit: 0,
                assets: Vec::new(),
            });
        }
        crash::point("delete: off the routes");
        for at in 0..self.instances.len() {
            self.retire(at, now);
        }
        self.drop_empty();
        log::info!("app={} deleted", self.id);
        self.ending = Some(Ending::Delete { to, was });
    }

    pub(super) fn stop(&mut self) {
        let now = Instant::now();
        self.call_off("the server is stopping", now);
        self.tasks.call_off();
        self.scale = Scale::new(State::Steady, Duration::ZERO);
        // Who waits for a deletion still hears of it.
        self.ending.get_or_insert(Ending::Stop { until: now + lifecycle::GRACE + DEATH });
        for at in 0..self.instances.len() {
            self.instances[at].role = Role::Leaving;
            self.live_on(at, lifecycle::Event::Stop, now);
        }
        self.drop_empty();
    }

    /// Whether no verb is served any more.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        match self.ending {
            Some(Ending::Stop { until }) => self.instances.is_empty() || until <= now,
            Some(Ending::Delete { .. }) => self.instances.is_empty(),
            None => false,
        }
    }

    pub(super) fn end(mut self) {
        // Before the answer, after which the files go.
        self.tasks.wait(TASKS);
        self.cell.clear(&self.id);
        let ending = self.ending.replace(Ending::Stop { until: Instant::now() });
        while let Ok(message) = self.messages.try_recv() {
            self.serve(message, Instant::now());
        }
        // Who asks once it is known to be gone finds nobody.
        self.messages = never();
        if let Some(Ending::Delete { to, was }) = ending {
            crash::point("delete: instances have ended");
            self.stage.remove(&self.id);
            self.threads.logs.close(&self.log);
            let deployed = was.map(|version| Deployed { version, previous: None, instances: 0, swaps: Vec::new() });
            let nothing = || Error::new(Kind::NotFound, format!("{} was never deployed", self.id));
            let _ = to.send(Event::Done(deployed.ok_or_else(nothing)));
        }
    }

    /// Removes failed releases that nothing runs from. One that was laid out anew since is kept.
    pub fn discard_failed(&mut self) {
        let Self { discards, instances, stage, layout, id, .. } = self;
        discards.retain(|version| {
            if instances.iter().any(|i| &i.spec.manifest().version == version) {
                return true;
            }
            if !stage.is_complete(layout, id, version)
                && let Err(e) = stage.discard(layout, id, version)
            {
                log::warn!("app={id} a failed release stays release={version} error={e}");
            }
            false
        });
    }

    /// From now on the release does not count as laid out; its files go when nothing runs from them.
    pub fn discard_later(&mut self, version: Version) {
        let _ = fs::remove_file(self.layout.complete_marker(&self.id, &version));
        self.discards.push(version);
    }

    pub fn busy(&self) -> Error {
        let what = match self.ending {
            Some(Ending::Delete { .. }) => "is being deleted",
            Some(Ending::Stop { .. }) => "is being stopped",
            None => "is being changed by a rollout",
        };
        Error::new(Kind::Busy, format!("{} {what}", self.id)).hint("wait for it to end, see `tako status`")
    }
}
