//! Worker: one event loop on one thread. It polls, accepts, gives conns their turns, and keeps time.
//!
//! **Invariant**: the loop never blocks but in `poll`, and a panic in one conn's turn costs that conn alone: this file
//! has the only `catch_unwind`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Poll, Registry};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::conn::{Conn, Turn};
use super::decide::Asker;
use super::publish::Shared;
use super::tls::Tls;
use super::token::{Key, Slab, Target};
use super::tools::{Stopping, Tools};
use super::transport::Socket;
use crate::sys;

/// Per wake; what is left wakes the next worker, which spreads bursts.
const ACCEPTS: usize = 4;
/// Events of one poll.
const EVENTS: usize = 256;
/// Idle conns closed at once to make room, at most: looking for the oldest costs a walk over all.
const EVICTED: usize = 32;

pub(super) fn run(id: usize, poll: Poll, registry: Registry, shared: Arc<Shared>) {
    let _guard = AbortOnPanic;
    Worker::new(id, poll, registry, shared).run();
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

struct Worker {
    poll: Poll,
    conns: Slab<Conn>,
    tools: Tools,
    /// Whose turn it is. A conn is in it at most once.
    queue: VecDeque<Key>,
    listeners: Vec<(Arc<TcpListener>, bool)>,
    listening: bool,
    /// Out of descriptors, or full: look again at the next sweep.
    paused: bool,
    next_sweep: u64,
}

impl Worker {
    fn new(id: usize, poll: Poll, registry: Registry, shared: Arc<Shared>) -> Self {
        let plain = shared.settings.http.iter().map(|l| (l.clone(), false));
        let secure = shared.settings.https.iter().map(|l| (l.clone(), true));
        let listeners = plain.chain(secure).collect();
        Worker {
            poll,
            conns: Slab::new(),
            listeners,
            tools: Tools::new(id, registry, shared),
            queue: VecDeque::new(),
            listening: false,
            paused: false,
            next_sweep: 0,
        }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut due = Vec::new();
        while !self.is_done() {
            match self.poll.poll(&mut events, self.patience()) {
                Err(e) if e.kind() != std::io::ErrorKind::Interrupted => {
                    log::error!("proxy-{} cannot poll: {e}", self.tools.worker);
                    std::thread::sleep(Duration::from_millis(10)); // no tight loop over a broken kernel
                }
                _ => {}
            }
            self.tools.look_at_the_clock();
            #[cfg(test)]
            self.tools.shared.rounds.fetch_add(1, Ordering::Relaxed);
            // News first: what the table or a stop changes holds for the events of this round already.
            self.hear();
            for event in &events {
                match Target::of(event.token()) {
                    Target::Bell => {}
                    Target::Listener(i) => self.accept(i),
                    Target::Conn(key) => {
                        if let Some(conn) = self.conns.get_mut(key) {
                            conn.socket().on(event);
                            self.enqueue(key);
                        }
                    }
                    Target::Link(key) => {
                        let Some(owner) = self.tools.owner_of(key) else { continue };
                        let link = self.conns.get_mut(owner).and_then(Conn::link).filter(|link| link.key == key);
                        if let Some(link) = link {
                            link.socket.on(event);
                            self.enqueue(owner);
                        }
                    }
                }
            }
            self.call_parked();
            self.give_turns();
            self.keep_time(&mut due);
        }
        self.close_all();
    }

    /// How long there is nothing to do, unless the kernel reports.
    fn patience(&self) -> Option<Duration> {
        if !self.queue.is_empty() || self.tools.lot.is_open() {
            return Some(Duration::ZERO);
        }
        let now = self.tools.now;
        let sweeps = self.paused || self.tools.has_idle_links() || self.tools.restless;
        let sweep = sweeps.then(|| self.next_sweep.saturating_sub(now));
        let stop = self.tools.stopping.map(|s| s.deadline.saturating_sub(now));
        // One more, so that a deadline has passed when it is looked at.
        let wait = [self.tools.timers.wait(now), sweep, stop].into_iter().flatten().min();
        wait.map(|ms| Duration::from_millis(ms + 1))
    }

    fn is_done(&self) -> bool {
        self.tools.stopping.is_some_and(|s| self.conns.len() == 0 || s.deadline <= self.tools.now)
    }

    /// Adopts the newest table and the wish to stop.
    fn hear(&mut self) {
        self.tools.adopt();
        if self.tools.stopping.is_none()
            && let Some(deadline) = self.tools.shared.stopping()
        {
            let idle_until = self.tools.after(self.tools.now, self.tools.limits.stop_idle);
            self.tools.stopping = Some(Stopping { deadline: self.tools.ms(deadline), idle_until });
            self.tools.review_parked();
            for conn in self.conns.iter_mut() {
                conn.arm(&mut self.tools);
            }
        }
        let wanted = self.tools.index().is_some() && self.tools.stopping.is_none() && !self.paused;
        if wanted != self.listening {
            self.listen(wanted);
        }
    }

    fn listen(&mut self, on: bool) {
        for (i, (listener, _)) in self.listeners.iter().enumerate() {
            let result = match on {
                true => sys::watch_exclusive(&self.poll, listener, Target::Listener(i).token()),
                false => sys::unwatch(&self.poll, listener),
            };
            if let Err(e) = result {
                log::error!("proxy-{} cannot watch a listener: {e}", self.tools.worker);
            }
        }
        self.listening = on;
    }

    fn accept(&mut self, i: usize) {
        let (listener, secure) = self.listeners[i].clone();
        for _ in 0..ACCEPTS {
            if !self.listening || !self.has_room() {
                return;
            }
            match rustix::net::acceptfrom_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let stream = TcpStream::from_std(std::net::TcpStream::from(fd));
                    // Without an address the other end is gone already.
                    if let Some(peer) = peer {
                        self.admit(stream, peer.ip().to_canonical(), secure);
                    }
                }
                Err(Errno::AGAIN) => return,
                // The client gave up in the queue, or the kernel has passing trouble (accept(2)).
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::NETDOWN) => {}
                Err(e) if self.tools.close_idle_links() => log::info!("proxy closes its idle links: {e}"),
                Err(e) => {
                    log::warn!("proxy-{} pauses accepting: {e}", self.tools.worker);
                    return self.pause();
                }
            }
        }
    }

    /// Makes room by closing the longest idle conns, or pauses.
    fn has_room(&mut self) -> bool {
        let (conns, max) = (&self.tools.shared.conns, self.tools.shared.max_conns);
        if conns.load(Ordering::Relaxed) < max {
            return true;
        }
        let mut idle: Vec<_> = self.conns.iter_mut().filter_map(|c| c.idle_since().map(|s| (s, c.key()))).collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        let some = (idle.len() / 8).clamp(1, EVICTED);
        for (_, key) in idle.into_iter().take(some) {
            if self.conns.get_mut(key).is_some_and(|conn| conn.is_quiet()) {
                self.drop_conn(key);
            }
        }
        let full = self.tools.shared.conns.load(Ordering::Relaxed) >= max;
        if full {
            log::warn!("proxy-{} pauses accepting: {max} connections", self.tools.worker);
            self.pause();
        }
        !full
    }

    fn pause(&mut self) {
        self.paused = true;
        self.next_sweep = self.tools.after(self.tools.now, self.tools.limits.sweep);
        self.listen(false);
    }

    fn admit(&mut self, stream: TcpStream, address: IpAddr, secure: bool) {
        let tls = match self.tools.index() {
            Some(index) if secure => match Tls::new(&index.tls) {
                Ok(tls) => Some(Box::new(tls)),
                Err(_) => return,
            },
            _ => None,
        };
        let loopback = address.is_loopback();
        let trusted = loopback || self.tools.shared.settings.trusted_proxies.iter().any(|net| net.contains(address));
        let asker = Asker { secure, loopback, trusted };
        let (socket, now) = (Socket::accepted(stream, tls), self.tools.now);
        let key = self.conns.insert_with(|key| Conn::new(key, socket, address, asker, now));
        self.tools.shared.conns.fetch_add(1, Ordering::Relaxed);
        let registered = self.conns.get_mut(key).is_some_and(|conn| self.tools.register(conn.socket(), key).is_ok());
        if registered {
            self.enqueue(key);
        } else {
            self.drop_conn(key);
        }
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.queued) {
            conn.queued = true;
            self.queue.push_back(key);
        }
    }

    /// A turn for the next of those whose wait is over.
    fn call_parked(&mut self) {
        for key in self.tools.lot.call() {
            self.enqueue(key);
        }
    }

    /// One turn for each that waits now; who wants another gets it in the next round.
    fn give_turns(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { return };
            self.with_conn(key, |conn, tools| {
                conn.queued = false;
                conn.turn(tools)
            });
        }
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
            Ok(Turn::Wait) => {}
            Ok(Turn::Again) => self.enqueue(key),
            Ok(Turn::Gone) => self.drop_conn(key),
            Err(_) => {
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
            self.tools.shared.conns.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn keep_time(&mut self, due: &mut Vec<u32>) {
        self.tools.timers.expire(self.tools.now, due);
        for index in due.drain(..) {
            let Some(key) = self.conns.at(index).map(|conn| conn.key()) else { continue };
            self.with_conn(key, |conn, tools| {
                conn.expired(tools);
                conn.turn(tools)
            });
        }
        if self.tools.now >= self.next_sweep {
            self.next_sweep = self.tools.after(self.tools.now, self.tools.limits.sweep);
            self.tools.sweep();
            self.tools.tell_activity();
            // A little below the limit, so that it does not flap.
            let room = self.tools.shared.conns.load(Ordering::Relaxed) < self.tools.shared.max_conns / 10 * 9;
            self.paused &= !room;
        }
        self.hear();
    }

    fn close_all(&mut self) {
        let keys: Vec<Key> = self.conns.iter_mut().map(|conn| conn.key()).collect();
        for key in keys {
            self.drop_conn(key);
        }
        #[cfg(debug_assertions)]
        debug_assert!(self.tools.holds_nothing(), "an endpoint is still held at the end");
    }
}
