//! Worker: one event loop on one thread. It polls, gives conns their turns, and keeps time; its `door` accepts.
//!
//! **Invariant**: the loop never blocks but in `poll`, and a panic in one conn's turn costs that conn alone: this file
//! has the only `catch_unwind`.

mod door;
#[cfg(any(test, feature = "lab"))]
mod inspect;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Poll, Registry};

use super::conn::{Conn, Turn};
use super::publish::Shared;
use super::token::{Key, Slab, Target};
use super::tools::{Stopping, Tools};
use super::wire::{Net, Ready};
use door::Door;

/// Events of one poll.
const EVENTS: usize = 256;
/// Conns in their TLS handshake that get a turn per round: each may cost as much as ten requests, which would wait.
const HANDSHAKES: usize = 8;
/// Conns that get another turn at once when memory has come back: each may take some of it.
const FED: usize = 8;

pub(super) fn run(id: usize, poll: Poll, registry: Registry, shared: Arc<Shared>) {
    let _guard = AbortOnPanic;
    Worker::new(id, poll, Net::Kernel(registry), shared).run();
}

/// Outside of a conn's turn a panic leaves the loop in an unknown state: better to start clean than to serve half.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

pub(super) struct Worker {
    poll: Poll,
    conns: Slab<Conn>,
    tools: Tools,
    door: Door,
    /// Whose turn it is. A conn is in one of the two, at most once.
    queue: VecDeque<Key>,
    /// The same for those in their handshake.
    shaking: VecDeque<Key>,
    /// Who stopped reading for want of memory. A conn is in it at most once.
    starved: VecDeque<Key>,
    /// Memory was short when it was last looked at.
    short: bool,
    next_sweep: u64,
    /// Scratch: whose time has come.
    due: Vec<u32>,
}

impl Worker {
    pub fn new(id: usize, poll: Poll, net: Net, shared: Arc<Shared>) -> Self {
        let door = Door::new(&shared);
        Worker {
            poll,
            conns: Slab::new(),
            tools: Tools::new(id, net, shared),
            door,
            queue: VecDeque::new(),
            shaking: VecDeque::new(),
            starved: VecDeque::new(),
            short: false,
            next_sweep: 0,
            due: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            match self.poll.poll(&mut events, self.patience()) {
                Err(e) if e.kind() != std::io::ErrorKind::Interrupted => {
                    log::error!("proxy-{} cannot poll: {e}", self.tools.worker);
                    std::thread::sleep(Duration::from_millis(10)); // no tight loop over a broken kernel
                }
                _ => {}
            }
            self.tools.look_at_the_clock();
            self.tools.heard_all = events.iter().count() < EVENTS;
            #[cfg(test)]
            let before = (super::wire::calls::here(), crate::sys::allocations::here());
            self.round(events.iter().map(|event| (Target::of(event.token()), Ready::from(event))));
            #[cfg(test)]
            {
                let shared = &self.tools.shared;
                shared.calls.fetch_add(super::wire::calls::here() - before.0, Ordering::Relaxed);
                shared.allocations.fetch_add(crate::sys::allocations::here() - before.1, Ordering::Relaxed);
                shared.rounds.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.close_all();
        self.tools.journal.finish();
    }

    /// One round of the loop: what is new, what was reported, everyone's turn, and whose time has come.
    pub fn round(&mut self, reports: impl Iterator<Item = (Target, Ready)>) {
        // News first: what the table or a stop changes holds for the events of this round already.
        self.hear();
        self.take_handed();
        for (target, ready) in reports {
            match target {
                Target::Bell => {}
                Target::Listener(i) => self.accept(i),
                Target::Conn(key) => {
                    if let Some(conn) = self.conns.get_mut(key) {
                        conn.socket().on(ready);
                        self.enqueue(key);
                    }
                }
                Target::Link(key) => {
                    let Some(owner) = self.tools.owner_of(key) else { continue };
                    let link = self.conns.get_mut(owner).and_then(Conn::link).filter(|link| link.key == key);
                    if let Some(link) = link {
                        link.socket.on(ready);
                        self.enqueue(owner);
                    }
                }
            }
        }
        self.call_parked();
        self.give_turns();
        self.keep_time();
        self.feed_the_starved();
        self.tools.settle();
    }

    /// How long there is nothing to do, unless the kernel reports.
    pub fn patience(&self) -> Option<Duration> {
        if !self.queue.is_empty() || !self.shaking.is_empty() || self.tools.lot.is_open() {
            return Some(Duration::ZERO);
        }
        let now = self.tools.now;
        let sweeps = self.door.sweeps(&self.tools) || self.tools.has_leftovers() || self.tools.is_busy();
        let sweeps = sweeps || self.tools.restless;
        let sweep = sweeps.then(|| self.next_sweep.saturating_sub(now));
        let stop = self.tools.stopping.map(|s| s.deadline.saturating_sub(now));
        let lines = self.tools.journal.due().map(|at| at.saturating_sub(now));
        // One more, so that a deadline has passed when it is looked at.
        let wait = [self.tools.timers.wait(now), sweep, stop, lines].into_iter().flatten().min();
        wait.map(|ms| Duration::from_millis(ms + 1))
    }

    pub fn is_done(&self) -> bool {
        let is_empty = || self.conns.len() == 0 && self.tools.shared.loads[self.tools.worker].handed.len() == 0;
        self.tools.stopping.is_some_and(|s| is_empty() || s.deadline <= self.tools.now)
    }

    /// Adopts the newest table, the wish to stop, and what the helper has found.
    fn hear(&mut self) {
        self.tools.adopt();
        if self.tools.stopping.is_none()
            && let Some(deadline) = self.tools.shared.stopping()
        {
            let idle_until = self.tools.after(self.tools.now, self.tools.limits.stop_idle);
            self.tools.stopping = Some(Stopping { deadline: self.tools.ms(deadline), idle_until });
            self.tools.review_parked();
            self.arm_all();
        }
        while let Some((key, heard)) = self.tools.files.hear(self.tools.now) {
            self.with_conn(key, |conn, tools| {
                conn.heard(heard, tools);
                conn.turn(tools)
            });
        }
        self.watch_listeners();
    }

    fn arm_all(&mut self) {
        for conn in self.conns.iter_mut() {
            conn.arm(&mut self.tools);
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.queued) {
            conn.queued = true;
            let queue = if conn.shaking { &mut self.shaking } else { &mut self.queue };
            queue.push_back(key);
        }
    }

    /// A turn for the next of those whose wait is over.
    fn call_parked(&mut self) {
        for key in self.tools.lot.call() {
            self.enqueue(key);
        }
    }

    /// One turn for each that waits now, and for some of those in their handshake; who wants another gets it in the next
    /// round.
    fn give_turns(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            self.give_turn(key);
        }
        for _ in 0..self.shaking.len().min(HANDSHAKES) {
            let Some(key) = self.shaking.pop_front() else { break };
            self.give_turn(key);
            self.count_handshake(key);
        }
    }

    fn give_turn(&mut self, key: Key) {
        self.with_conn(key, |conn, tools| {
            conn.queued = false;
            conn.turn(tools)
        });
    }

    /// Keeps the count of handshakes true after what may begin or end one.
    fn count_handshake(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.shaking != conn.is_shaking()) else { return };
        conn.shaking = conn.is_shaking();
        if conn.shaking { self.door.handshakes += 1 } else { self.door.handshakes -= 1 }
    }

    /// Runs `act` on a conn and sees to what comes of it.
    fn with_conn(&mut self, key: Key, act: impl FnOnce(&mut Conn, &mut Tools) -> Turn) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let tools = &mut self.tools;
        let turn = || {
            #[cfg(test)]
            assert!(!tools.shared.panic_once.swap(false, Ordering::SeqCst), "wished for by a test");
            act(conn, tools)
        };
        match catch_unwind(AssertUnwindSafe(turn)) {
            Ok(Turn::Wait) if std::mem::take(&mut tools.starved) && !conn.starved => {
                conn.starved = true;
                self.starved.push_back(key);
            }
            Ok(Turn::Wait) => {}
            Ok(Turn::Again) => self.enqueue(key),
            Ok(Turn::Gone) => self.drop_conn(key),
            Err(_) => {
                self.tools.counters.panics.up();
                log::error!(
                    "a panic in a conn's turn; the connection is closed; this is a bug worker={}",
                    self.tools.worker
                );
                self.tools.repair();
                self.drop_conn(key);
            }
        }
    }

    fn drop_conn(&mut self, key: Key) {
        if let Some(mut conn) = self.conns.remove(key) {
            conn.leave(&mut self.tools);
            self.door.leave(&conn);
            self.tools.shared.conns.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn keep_time(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.tools.timers.expire(self.tools.now, &mut due);
        for index in due.drain(..) {
            let Some(key) = self.conns.at(index).map(|conn| conn.key()) else { continue };
            self.with_conn(key, |conn, tools| {
                conn.expired(tools);
                conn.turn(tools)
            });
            self.count_handshake(key);
        }
        self.due = due;
        if self.tools.now >= self.next_sweep {
            self.next_sweep = self.tools.after(self.tools.now, self.tools.limits.sweep);
            self.tools.sweep();
            self.tools.tell_activity();
            self.sweep_conns();
            self.close_stalled();
        }
        self.hear();
    }

    /// Lets some of those who stopped for want of memory go on, once there is some.
    fn feed_the_starved(&mut self) {
        let short = self.tools.io.spare.is_short();
        if short && !self.short {
            log::warn!("proxy-{} is short of memory: slow clients have little time now", self.tools.worker);
            self.arm_all();
        }
        self.short = short;
        let fed = if short { 0 } else { FED.min(self.starved.len()) };
        for key in self.starved.drain(..fed).collect::<Vec<_>>() {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.starved = false;
                self.enqueue(key);
            }
        }
        let load = &self.tools.shared.loads[self.tools.worker];
        load.conns.store(self.conns.len(), Ordering::Relaxed);
        load.waiting.store(self.tools.io.spare.lent(), Ordering::Relaxed);
    }

    pub fn close_all(&mut self) {
        let keys: Vec<Key> = self.conns.iter_mut().map(|conn| conn.key()).collect();
        for key in keys {
            self.drop_conn(key);
        }
        #[cfg(debug_assertions)]
        {
            debug_assert!(self.tools.holds_nothing(), "an endpoint is still held at the end");
            debug_assert!(self.door.is_empty(), "a connection is still counted at the end");
            debug_assert_eq!(self.tools.io.spare.lent(), 0, "a chunk was not given back");
        }
    }
}
