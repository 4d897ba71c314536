//! Publish: how a table reaches the workers, and how their word comes back.
//!
//! **Invariant (order)**: the generation is raised before `publish` returns, and every worker reads it before each
//! choice; whoever reads a new one takes the newest table there is. So no choice by an old table follows one by a
//! newer: what the second reader does happens after what the first one's client saw.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crossbeam_channel::Sender;
use mio::Waker;

use super::counters::{App, Counters, Metrics};
use super::files::helper::Helper;
use super::handoff::Queue;
use super::ledger::Ledger;
use super::quick::Set;
use super::table::{EndpointId, Index, Lasting, Table};
use super::tls::Configs;
use super::{Notice, Settings};
use crate::error::Result;

/// `Failed` and `Activity` are advice; when nobody listens they are not worth memory. The other notices are as few as
/// publications.
const MAX_UNHEARD: usize = 1024;

/// What the workers and the handle share.
pub(super) struct Shared {
    pub settings: Settings,
    /// Connections of all workers.
    pub conns: AtomicUsize,
    pub max_conns: usize,
    /// What may wait in chunks, in bytes.
    pub memory: usize,
    /// One per worker, written by that one alone.
    pub loads: Box<[Load]>,
    /// Of each worker, which alone writes them.
    pub counters: Vec<Arc<Counters>>,
    /// How often a loop went round: a test can see that a worker with nothing to do sleeps.
    #[cfg(test)]
    pub rounds: AtomicU64,
    /// What the loops have asked for so far: calls on streams, and memory.
    #[cfg(test)]
    pub calls: AtomicU64,
    #[cfg(test)]
    pub allocations: AtomicU64,
    /// Makes the next turn panic.
    #[cfg(test)]
    pub panic_once: std::sync::atomic::AtomicBool,
    generation: AtomicU64,
    stop: OnceLock<Instant>,
    desk: Mutex<Desk>,
    /// Waits for disks in place of the workers.
    pub helper: Helper,
    bells: Arc<[Waker]>,
    notices: Sender<Notice>,
}

/// What one worker carries, for the others and for those who look on. On cache lines of its own: it is written with every
/// turn of the loop.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Load {
    pub conns: AtomicUsize,
    /// Bytes that wait in chunks.
    pub waiting: AtomicUsize,
    /// Connections that others have for it.
    pub handed: Queue,
}

struct Desk {
    ledger: Ledger,
    newest: Option<Arc<Index>>,
    certs: Option<Arc<super::certs::Certs>>,
    configs: Configs,
    /// Upstreams keep their number as long as we run, so that an exchange can find its own again in a later table.
    lasting: HashMap<Arc<str>, Lasting>,
    /// Upstreams asleep in the newest table whose wake has been said. They are forgotten when they are not asleep any
    /// more, so it is said once a sleep.
    woken: HashSet<u32>,
}

impl Shared {
    pub fn new(
        settings: Settings,
        max_conns: usize,
        memory: usize,
        configs: Configs,
        bells: Vec<Waker>,
        notices: Sender<Notice>,
    ) -> Result<Self> {
        let ledger = Ledger::new(bells.len());
        let bells: Arc<[Waker]> = bells.into();
        Ok(Shared {
            settings,
            conns: AtomicUsize::new(0),
            max_conns,
            memory,
            loads: bells.iter().map(|_| Load::default()).collect(),
            counters: bells.iter().map(|_| Arc::default()).collect(),
            #[cfg(test)]
            rounds: AtomicU64::new(0),
            #[cfg(test)]
            calls: AtomicU64::new(0),
            #[cfg(test)]
            allocations: AtomicU64::new(0),
            #[cfg(test)]
            panic_once: std::sync::atomic::AtomicBool::new(false),
            generation: AtomicU64::new(0),
            stop: OnceLock::new(),
            desk: Mutex::new(Desk {
                ledger,
                newest: None,
                certs: None,
                configs,
                lasting: HashMap::new(),
                woken: HashSet::new(),
            }),
            helper: Helper::start(bells.clone())?,
            bells,
            notices,
        })
    }

    pub fn publish(&self, table: Table) -> u64 {
        let mut desk = self.desk();
        let tls = match (&desk.newest, &desk.certs) {
            (Some(index), Some(certs)) if Arc::ptr_eq(certs, &table.certs) => index.tls.clone(),
            _ => desk.configs.server(&table.certs),
        };
        desk.certs = Some(table.certs.clone());
        let lasting = table.upstreams.iter().map(|u| desk.lasting(&u.name)).collect();
        let mut index = Index::new(table, tls, lasting);
        let generation = desk.ledger.publish(index.endpoints());
        index.generation = generation;
        desk.woken.retain(|number| index.is_asleep(*number));
        desk.newest = Some(Arc::new(index));
        self.generation.store(generation, Ordering::SeqCst);
        drop(desk);
        self.ring();
        generation
    }

    /// The generation of the newest table; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub fn newest(&self) -> Option<Arc<Index>> {
        self.desk().newest.clone()
    }

    pub fn metrics(&self) -> Metrics {
        let newest = self.newest();
        let upstreams = newest.iter().flat_map(|index| &index.upstreams);
        let app = |endpoints: usize| App { endpoints: endpoints as u64, ..App::default() };
        let mut sum = Metrics {
            apps: upstreams.map(|u| (u.name.clone(), app(u.endpoints.len()))).collect(),
            connections: self.conns.load(Ordering::Relaxed) as u64,
            parked: newest
                .iter()
                .flat_map(|index| &index.lasting)
                .map(|l| l.waiting.load(Ordering::Relaxed) as u64)
                .sum(),
            max_connections: self.max_conns as u64,
            tables: self.generation(),
            ..Metrics::default()
        };
        self.counters.iter().for_each(|counters| counters.add_to(&mut sum));
        sum
    }

    /// See [`Ledger::adopted`]. Notices are sent under the lock, so that they are heard in the order they came true.
    pub fn adopted(&self, worker: usize, generation: u64, holding: Set<EndpointId>) {
        let mut desk = self.desk();
        for notice in desk.ledger.adopted(worker, generation, holding) {
            self.tell(notice);
        }
    }

    pub fn released(&self, worker: usize, id: EndpointId) {
        let mut desk = self.desk();
        if let Some(notice) = desk.ledger.released(worker, id) {
            self.tell(notice);
        }
    }

    pub fn failed(&self, id: EndpointId) {
        if self.notices.len() < MAX_UNHEARD {
            self.tell(Notice::Failed(id));
        }
    }

    /// A request waits for this upstream: says so, unless it was said in this sleep. What counts is the newest table,
    /// whatever the worker chose by: if that one has endpoints, the worker is about to see them.
    pub fn wake(&self, number: u32) {
        let mut desk = self.desk();
        let Some(index) = desk.newest.clone().filter(|index| index.is_asleep(number)) else { return };
        if let Some(place) = index.place_of(number).filter(|_| desk.woken.insert(number)) {
            self.tell(Notice::Wake(index.upstreams[place].name.clone()));
        }
    }

    /// A request has waited for this upstream in vain. Whatever became of the wake, the next request says it again.
    pub fn waited_in_vain(&self, number: u32) {
        self.desk().woken.remove(&number);
    }

    pub fn active(&self, upstream: &Arc<str>) {
        if self.notices.len() < MAX_UNHEARD {
            self.tell(Notice::Activity(upstream.clone()));
        }
    }

    pub fn stop(&self, deadline: Instant) {
        let _ = self.stop.set(deadline); // the first wish counts
        self.ring();
    }

    pub fn stopping(&self) -> Option<Instant> {
        self.stop.get().copied()
    }

    fn tell(&self, notice: Notice) {
        // A control plane that no longer listens is stopping.
        let _ = self.notices.send(notice);
    }

    fn ring(&self) {
        for worker in 0..self.bells.len() {
            self.ring_for(worker);
        }
    }

    pub fn ring_for(&self, worker: usize) {
        if let Err(e) = self.bells[worker].wake() {
            log::error!("wake proxy-{worker}: {e}"); // it will look at its next event
        }
    }

    /// A worker that died in here left nothing half done: each change is one call.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn lasting(&mut self, name: &Arc<str>) -> Lasting {
        let number = self.lasting.len() as u32;
        let new = || Lasting { number, waiting: Arc::default() };
        self.lasting.entry(name.clone()).or_insert_with(new).clone()
    }
}
