//! The loop of one App: what it hears, what it holds, and how instances come and go outside of rollouts.
//!
//! Each turn hears one thing, acts on it, and then posts what should be in balancing if that differs from what was
//! posted last: the posting is computed from the instances, never edited.
//!
//! **Invariant**: while the app lives, every `Serving` instance either has a process or a time to start one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};
use rustix::process::Signal;

use super::assets::Assets;
use super::boot::Clearing;
use super::cause::{End, Phase};
use super::cell::Cell;
use super::check::Verdict;
use super::course::Latest;
use super::ending::Ending;
use super::instance::{Event as Heard, Instance, Place, Process, Role, Run, Traffic};
use super::lifecycle::{self, Action, State};
use super::logs::Source;
use super::roll::Rolling;
use super::scale::{self, Scale};
use super::spec::Spec;
use super::stage::Stage;
use super::task::Tasks;
use super::{Message, Threads};
use crate::crypto::Key;
use crate::error::Result;
use crate::proto::control::{Secrets, Step};
use crate::proto::name::AppId;
use crate::proto::status::Failure;
use crate::proto::version::Version;
use crate::proxy::Notice;
use crate::proxy::table::EndpointId;
use crate::server::board::Posting;
use crate::server::cgroup::Leaf;
use crate::server::crash;
use crate::server::layout::Layout;
use crate::server::state::Desired;

/// Notices of the proxy that wait for us. More than this come only when we are stuck; what is lost then is made up
/// for by deadlines. Room for all of them is taken at once, and by every app: some 40 KiB.
const MAX_NOTICES: usize = 1024;

pub(super) struct Actor<S: Stage> {
    pub id: AppId,
    pub stage: S,
    pub layout: Arc<Layout>,
    pub host_key: Key,
    pub threads: Threads,
    pub cell: Cell,
    pub log: Arc<Source>,
    pub latest: Latest,
    pub messages: Receiver<Message>,
    notices: Receiver<Notice>,
    heard: Receiver<(EndpointId, Heard)>,
    pub to_us: Sender<(EndpointId, Heard)>,

    pub desired: Option<Desired>,
    /// What `desired` says is live.
    pub live: Option<Arc<Spec>>,
    pub secrets: Option<Arc<Secrets>>,
    /// Why the sealed secrets cannot be had; nothing is started without them.
    pub sealed: Option<String>,
    pub instances: Vec<Instance>,
    pub rolling: Option<Rolling<S::Claim>>,
    pub assets: Assets,
    pub posted: Option<Posting>,
    pub generation: u64,
    pub acked: u64,
    pub last_failure: Option<Failure>,
    /// Releases that failed and are to be removed once nothing runs from them.
    pub discards: Vec<Version>,
    pub ending: Option<Ending>,
    pub scale: Scale,
    pub clearing: Option<Clearing>,
    pub tasks: Arc<Tasks>,
}

impl<S: Stage> Actor<S> {
    #[allow(clippy::too_many_arguments)] // All of them are fields; a struct for them would be this one again.
    pub fn new(
        stage: S,
        id: AppId,
        desired: Option<Desired>,
        layout: Arc<Layout>,
        host_key: Key,
        threads: Threads,
        cell: Cell,
        log: Arc<Source>,
        latest: Latest,
        messages: Receiver<Message>,
    ) -> Self {
        // Bounded by the processes: each has one probe under way and ends once.
        let (to_us, heard) = unbounded();
        let tasks = Tasks::new(threads.tasks.clone());
        Actor {
            id,
            stage,
            layout,
            host_key,
            threads,
            cell,
            log,
            latest,
            messages,
            notices: never(),
            heard,
            to_us,
            desired,
            live: None,
            secrets: None,
            sealed: None,
            instances: Vec::new(),
            rolling: None,
            assets: Assets::default(),
            posted: None,
            generation: 0,
            acked: 0,
            last_failure: None,
            discards: Vec::new(),
            ending: None,
            scale: Scale::new(scale::State::Steady, Duration::ZERO),
            clearing: None,
            tasks,
        }
    }

    pub fn run(mut self) {
        let (to, notices) = bounded(MAX_NOTICES);
        self.stage.subscribe(&self.id, to);
        self.notices = notices;
        self.boot();
        loop {
            let now = Instant::now();
            self.tick(now);
            self.publish();
            self.discard_failed();
            if self.is_over(now) {
                return self.end();
            }
            let patience = self.deadline().map_or(Duration::MAX, |at| at.saturating_duration_since(now));
            select! {
                recv(self.messages) -> message => match message {
                    Ok(message) => self.serve(message, Instant::now()),
                    // Nobody is left who could stop us.
                    Err(_) => {
                        self.messages = never();
                        self.stop();
                    }
                },
                recv(self.heard) -> heard => {
                    let (endpoint, event) = heard.expect("we hold a sender ourselves");
                    self.hear(endpoint, event, Instant::now());
                }
                recv(self.notices) -> notice => match notice {
                    Ok(notice) => self.notice(notice, Instant::now()),
                    Err(_) => self.notices = never(),
                },
                default(patience) => {}
            }
        }
    }

    pub fn serve(&mut self, message: Message, now: Instant) {
        match message {
            Message::Deploy { order, by, to } => self.deploy(*order, by, to, now),
            Message::Rollback { version, by, to } => self.rollback(version, by, to, now),
            Message::Scale { instances, to } => self.scale(instances, to, now),
            Message::Cancel { version, by, to } => drop(to.send(self.cancel(&version, &by, now))),
            Message::Delete { to } => self.delete(to, now),
            Message::Renew { secrets, by, to } => self.renew(*secrets, &by, to, now),
            Message::Stop => self.stop(),
            Message::Status(to) => drop(to.send(self.status(now))),
            Message::Releases(to) => drop(to.send(self.releases())),
            Message::SecretsHash(to) => drop(to.send(self.secrets.as_ref().map(|s| s.hash.clone()))),
            Message::Task { of, to } => drop(to.send(self.task(of))),
            Message::IsEmpty(to) => drop(to.send(self.desired.is_none())),
        }
    }

    fn tick(&mut self, now: Instant) {
        self.tick_clearing(now);
        for at in 0..self.instances.len() {
            match &self.instances[at].run {
                Run::Waiting(until)
                    if self.clearing.is_none() && *until <= now && self.instances[at].role == Role::Serving =>
                {
                    if let Err(e) = self.start_process(at) {
                        self.could_not_start(at, &e, now);
                    }
                }
                Run::Up(process) if process.life.deadline().is_some_and(|until| until <= now) => {
                    self.live_on(at, lifecycle::Event::Tick, now);
                }
                Run::Waiting(_) | Run::Up(_) => {}
            }
        }
        self.assets.tick(now);
        self.drop_empty();
        self.tick_rollout(now);
        self.tick_scale(now);
    }

    fn deadline(&self) -> Option<Instant> {
        let instances = self.instances.iter().filter_map(|i| match &i.run {
            Run::Waiting(until) => {
                (i.role == Role::Serving).then(|| self.cleared().map_or(*until, |at| at.max(*until)))
            }
            Run::Up(process) => process.life.deadline(),
        });
        let stop = match self.ending {
            Some(Ending::Stop { until }) => Some(until),
            Some(Ending::Delete { .. }) | None => None,
        };
        let others =
            [self.rolling.as_ref().and_then(Rolling::deadline), self.assets.deadline(), self.scale.deadline(), stop];
        instances.chain(others.into_iter().flatten()).min()
    }

    /// What the watch and probe threads say about a process; one that is not ours any more is not heard.
    fn hear(&mut self, endpoint: EndpointId, event: Heard, now: Instant) {
        let Some(at) = self.instances.iter().position(|i| i.is(endpoint)) else { return };
        let instance = &mut self.instances[at];
        let Run::Up(process) = &mut instance.run else { return };
        match event {
            // Once it serves, traffic goes where it was probed and nowhere else, whatever it prints.
            Heard::Ready(_) if !matches!(process.life.state(), State::Starting { .. }) => {}
            Heard::Ready(port) if !process.may_listen(port) => {
                self.failed(at, End::Stolen(port), Phase::Starting, now);
                self.live_on(at, lifecycle::Event::Stop, now);
            }
            Heard::Ready(port) => {
                process.is_ready(port, now);
                crash::point("ready signal: heard and not noted");
                process.note(&self.layout, &instance.spec, instance.number);
                self.tell_if_fresh(at, Step::Ready);
                self.live_on(at, lifecycle::Event::Ready, now);
            }
            Heard::Probed(Verdict::Good) if process.ready.is_none() && !process.holds_its_port() => {
                self.failed(at, End::Elsewhere, Phase::Starting, now);
                self.live_on(at, lifecycle::Event::Stop, now);
            }
            Heard::Probed(Verdict::Good) => {
                process.last_bad = None;
                if process.ready.is_none() {
                    process.ready = Some(now);
                    self.tell_if_fresh(at, Step::Ready);
                }
                self.live_on(at, lifecycle::Event::Good, now);
            }
            Heard::Probed(Verdict::Bad(bad)) => {
                process.last_bad = Some(bad);
                self.live_on(at, lifecycle::Event::Bad, now);
            }
            Heard::Answered(gist) => process.answered = gist,
            Heard::LeftOthers => process.left_others = true,
            Heard::Exited(exit) => {
                let phase = Phase::of(process.life.state());
                process.life.on(lifecycle::Event::Exited, now);
                if let Some(phase) = phase {
                    self.failed(at, End::Exit(exit), phase, now);
                }
                let instance = &self.instances[at];
                if let Some(process) = instance.process() {
                    process.forget(&self.threads, &self.cell, &self.layout, instance.spec.manifest(), instance.number);
                }
                self.ended(endpoint, now);
            }
        }
    }

    /// What the proxy says.
    fn notice(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Acked(generation) => {
                self.acked = self.acked.max(generation);
                self.check_acked(now);
            }
            Notice::Drained(endpoint) => {
                let Some(at) = self.instances.iter().position(|i| i.is(endpoint)) else { return };
                let Some(process) = self.instances[at].process_mut() else { return };
                process.traffic = process.traffic.drained(self.acked);
                if process.traffic == Traffic::Drained {
                    self.drained(at, now);
                }
            }
            Notice::Failed(endpoint) => {
                if self.instances.iter().any(|i| i.is(endpoint)) {
                    self.threads.probe.hurry(endpoint);
                }
            }
            Notice::Wake(_) => self.scale_on(scale::Event::Wake, now),
            Notice::Activity(_) => self.scale_on(scale::Event::Activity, now),
        }
    }

    /// Tells the lifecycle and does what it says.
    pub fn live_on(&mut self, at: usize, event: lifecycle::Event, now: Instant) {
        let Self { instances, threads, to_us, id, .. } = self;
        let Instance { number, spec, run: Run::Up(process), .. } = &mut instances[at] else { return };
        let (before, was_healthy) = (process.life.state(), process.life.is_healthy());
        let actions = process.life.on(event, now);
        let (after, is_healthy) = (process.life.state(), process.life.is_healthy());
        if before.to_string() != after.to_string() {
            let version = &spec.manifest().version;
            log::info!("app={id} instance={number} release={version} pid={} {before} -> {after}", process.pid);
        }
        let endpoint = process.endpoint;
        let mut gave_up = None;
        for action in actions {
            match action {
                Action::Probe => process.probe(spec, threads, to_us),
                Action::Terminate => {
                    // A connection of ours would keep some apps from ending.
                    threads.probe.forget(endpoint);
                    threads.watch.signal(endpoint, Signal::TERM);
                }
                Action::Kill => threads.watch.signal(endpoint, Signal::KILL),
                Action::GaveUp(why) => {
                    process.look();
                    gave_up = Phase::of(before).map(|phase| (End::GaveUp(why), phase));
                }
            }
        }
        if let Some((end, phase)) = gave_up {
            self.failed(at, end, phase, now);
        } else if was_healthy != is_healthy {
            self.health_changed(at, is_healthy, now);
        }
    }

    /// Returns when it was spawned.
    pub fn start_process(&mut self, at: usize) -> Result<Instant> {
        let late = self.late(self.instances[at].role);
        let Self { layout, threads, cell, log, to_us, stage, instances, .. } = self;
        let (spec, number) = (instances[at].spec.clone(), instances[at].number);
        let startup = spec.startup() + late;
        let others: Vec<&Leaf> = instances.iter().filter_map(|i| i.process()?.leaf.as_ref()).collect();
        let place = Place { layout, threads, cell, others: &others, log, to: to_us, number, startup };
        let process = Process::start(&spec, spec.launch(stage, layout)?, &place)?;
        log::info!(
            "app={} instance={} release={} pid={} started",
            self.id,
            number,
            spec.manifest().version,
            process.pid
        );
        let started = process.started;
        self.instances[at].run = Run::Up(Box::new(process));
        Ok(started)
    }

    /// The smallest number that no instance has.
    pub fn free_number(&self) -> u32 {
        (1..).find(|n| self.instances.iter().all(|i| i.number != *n)).expect("there are more numbers than instances")
    }

    /// Lets an instance go: it finishes what is in flight, then ends.
    pub fn retire(&mut self, at: usize, now: Instant) {
        let instance = &mut self.instances[at];
        instance.role = Role::Leaving;
        let drain = instance.spec.drain();
        self.live_on(at, lifecycle::Event::Retire(drain), now);
        // The proxy says it once, and never of one that it has not known.
        if self.instances[at].process().is_some_and(|p| matches!(p.traffic, Traffic::Drained | Traffic::Never)) {
            self.live_on(at, lifecycle::Event::Drained, now);
        }
    }

    /// Drops the places that are to go and have no process.
    pub fn drop_empty(&mut self) {
        self.instances.retain(|i| i.role != Role::Leaving || i.process().is_some());
    }
}
