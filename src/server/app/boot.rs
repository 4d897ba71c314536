//! Boot as performed: what a server finds when it starts: files put right, processes of an earlier one adopted or ended,
//! and the rest started.
//!
//! **Invariant**: nothing is sent to an adopted process before it answered with its token, and no new one is started
//! before those that are ended are gone, or were given up on.

use std::sync::Arc;
use std::time::Instant;

use super::actor::Actor;
use super::adopt::{self, Fate, Wanted, fate};
use super::instance::{Instance, Place, Process, Role, Run};
use super::leftover::{self, DEATH, Left, Note};
use super::lifecycle::{self, GRACE, State};
use super::spec::Spec;
use super::stage::Stage;
use super::{demand, secrets};
use crate::proxy::table::EndpointId;
use crate::server::cgroup::Leaf;
use crate::server::crash;
use crate::server::state::Record;

/// Processes of an earlier server that are being ended.
pub(super) struct Clearing {
    of: Vec<EndpointId>,
    until: Instant,
}

impl<S: Stage> Actor<S> {
    pub(super) fn boot(&mut self) {
        let name = self.desired.as_ref().and_then(|d| d.secrets.as_deref());
        match name.map(|name| secrets::load(&self.layout, &self.host_key, &self.id, name)).transpose() {
            Ok(held) => self.secrets = held.map(Arc::new),
            Err(e) => {
                log::error!("app={} nothing is started without its secrets error={e}", self.id);
                self.failed_as_a_whole(&e.to_string());
                self.sealed = Some(e.to_string());
            }
        }
        let Some(desired) = &self.desired else {
            leftover::end_all(&self.layout, &self.id);
            self.cell.tidy(&self.layout, &self.id, &[]);
            return self.tidy_files();
        };
        let record = desired.live().cloned().expect("state::load refuses a state without its live release");
        let spec = Spec::new(record, self.secrets.clone());
        self.live = Some(spec.clone());
        let now = Instant::now();
        crash::point("boot: notes are to be read");
        self.take_over(leftover::find(&self.layout, &self.id), now);
        crash::point("boot: processes are taken over");
        // What has left the groups that were found is nobody's.
        let kept: Vec<Leaf> = self.instances.iter().filter_map(|i| i.process()?.leaf.clone()).collect();
        self.cell.tidy(&self.layout, &self.id, &kept);
        self.open_assets(&spec);
        self.tidy_files();
        crash::point("boot: files are tidy");
        self.settle(now);
    }

    fn take_over(&mut self, left: Vec<Left>, now: Instant) {
        let (Some(desired), Some(live)) = (&self.desired, self.live.clone()) else { return };
        let wanted_hash = desired.secrets_hash.clone();
        let mut places = demand::at_least_one(desired.instances) as usize;
        let mut ending = Vec::new();
        for left in left {
            let wanted = Wanted {
                release: &live.manifest().version,
                deployed_ms: live.record.deployed_ms,
                secrets: wanted_hash.as_deref(),
                places,
            };
            let (facts, pipes) = left.facts(self.cell.user());
            let fate = fate(left.note.as_ref(), Some(&wanted).filter(|_| self.sealed.is_none()), facts);
            let spec = self.spec_of(left.note.as_ref(), &live);
            let Self { layout, threads, cell, log, to_us, instances, id, .. } = self;
            let (number, pid) = (left.number, left.id());
            let place = Place { layout, threads, cell, others: &[], log, to: to_us, number, startup: adopt::PATIENCE };
            let process = Process::inherited(&spec, left, pipes, &place);
            let endpoint = process.endpoint;
            let instance =
                |role| Instance { run: Run::Up(Box::new(process)), ..Instance::waiting(number, role, spec, now) };
            match fate {
                Fate::Adopt => {
                    places -= 1;
                    log::info!("app={id} instance={number} pid={pid} adopted");
                    instances.push(instance(Role::Serving));
                }
                Fate::End(why) => {
                    log::warn!("app={id} instance={number} pid={pid} of an earlier server is ended: {why}");
                    instances.push(instance(Role::Leaving));
                    ending.push(endpoint);
                    crash::point("boot: one is to be ended");
                    self.live_on(self.instances.len() - 1, lifecycle::Event::Stop, now);
                }
            }
        }
        if !ending.is_empty() {
            self.clearing = Some(Clearing { of: ending, until: now + GRACE + DEATH });
        }
    }

    /// What a process runs, as far as it is known: it is to be told by its own release in the status and in the log.
    fn spec_of(&self, note: Option<&Note>, live: &Arc<Spec>) -> Arc<Spec> {
        let Some(version) = note.and_then(|note| note.release.as_ref()) else { return live.clone() };
        if version == &live.manifest().version {
            return live.clone();
        }
        let known = self.desired.as_ref().and_then(|desired| desired.record(version)).cloned();
        let record = known.unwrap_or_else(|| {
            let mut record = Record::clone(&live.record);
            record.manifest.version = version.clone();
            record
        });
        Spec::new(record, None)
    }

    /// Until when nothing is started.
    pub(super) fn cleared(&self) -> Option<Instant> {
        self.clearing.as_ref().map(|clearing| clearing.until)
    }

    pub(super) fn tick_clearing(&mut self, now: Instant) {
        let Some(Clearing { of, until }) = &self.clearing else { return };
        let is_there = |endpoint: &EndpointId| self.instances.iter().any(|i| i.is(*endpoint));
        if *until <= now || !of.iter().any(is_there) {
            self.clearing = None;
        }
    }

    /// Whether all there is to serve was adopted and has not answered yet.
    pub(super) fn is_adopting(&self) -> bool {
        let waits = |i: &Instance| {
            let asked = |p: &Process| p.inherited && matches!(p.life.state(), State::Ready { .. });
            i.role == Role::Serving && i.process().is_some_and(asked)
        };
        self.instances.iter().any(waits) && self.instances.iter().all(|i| i.in_balancing().is_none())
    }
}
