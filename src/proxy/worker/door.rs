//! Door: who is let in, who is told to come again, and who has to leave for others.
//!
//! In this order (the more it costs a client, the later): above four fifths of the connections, those idle for longer
//! than [`Limits::idle_when_busy`] leave; an address that has its share is turned away; at the limit whoever is idle
//! leaves, the longest first; then nobody is accepted, and the kernel's queue waits, until a tenth is free again. Nobody
//! leaves in the middle of a request.
//!
//! **Invariant**: what `admit` counts, `leave` uncounts, once.
//!
//! [`Limits::idle_when_busy`]: crate::proxy::limits::Limits::idle_when_busy

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::Worker;
use crate::proxy::conn::Conn;
use crate::proxy::crowd::Crowd;
use crate::proxy::decide::Asker;
use crate::proxy::handoff::{self, Handed};
use crate::proxy::publish::{Load, Shared};
use crate::proxy::tls::Tls;
use crate::proxy::token::{Key, Target};
use crate::proxy::tools::Tools;
use crate::proxy::transport::Socket;
use crate::proxy::wire::Stream;
use crate::sys;

/// Per wake; what is left wakes the next worker, which spreads bursts.
const ACCEPTS: usize = 4;
/// Idle conns that leave for one that comes, at most: more than one, so that room is made faster than it is taken.
const EVICTED: usize = 2;
/// Conns at a time that are turned away with a word; beyond them it is done without, for words hold a descriptor.
const TURNED_AWAY: usize = 64;

pub(super) struct Door {
    listeners: Vec<Listener>,
    /// Out of descriptors, or full: look again at the next sweep.
    paused: bool,
    /// How many conns are in their TLS handshake.
    pub handshakes: usize,
    crowd: Crowd,
    /// Conns that are not in the crowd: they were turned away, and take a moment to go.
    turned_away: usize,
    /// The longest idle conns, found by one walk for many evictions, each with the time since when it is idle.
    idlers: VecDeque<(u64, Key)>,
}

struct Listener {
    socket: Arc<TcpListener>,
    secure: bool,
    /// The kernel reports on it.
    open: bool,
}

impl Door {
    pub fn new(shared: &Shared) -> Self {
        let listener =
            |secure| move |socket: &Arc<TcpListener>| Listener { socket: socket.clone(), secure, open: false };
        let plain = shared.settings.http.iter().map(listener(false));
        Door {
            listeners: plain.chain(shared.settings.https.iter().map(listener(true))).collect(),
            paused: false,
            handshakes: 0,
            crowd: Crowd::default(),
            turned_away: 0,
            idlers: VecDeque::new(),
        }
    }

    /// A conn is gone.
    pub fn leave(&mut self, conn: &Conn) {
        self.handshakes -= usize::from(conn.shaking);
        match conn.counted() {
            Some(address) => self.crowd.leave(address),
            None => self.turned_away -= 1,
        }
    }

    /// It waits for time to pass.
    pub fn sweeps(&self, tools: &Tools) -> bool {
        self.paused || self.has_too_many_handshakes(tools)
    }

    fn has_too_many_handshakes(&self, tools: &Tools) -> bool {
        self.handshakes >= tools.limits.handshakes
    }

    #[cfg(debug_assertions)]
    pub fn is_empty(&self) -> bool {
        self.crowd.is_empty() && self.turned_away == 0
    }
}

impl Worker {
    /// Opens and closes the listeners as wanted; who comes to a closed one waits in its queue, or for another worker.
    pub(super) fn watch_listeners(&mut self) {
        let (door, tools) = (&mut self.door, &self.tools);
        let wanted = tools.index().is_some() && tools.stopping.is_none() && !door.paused;
        // A little below the limit, so that it does not flap.
        let few = door.handshakes <= tools.limits.handshakes / 4 * 3;
        let many = door.has_too_many_handshakes(tools);
        for (i, listener) in door.listeners.iter_mut().enumerate() {
            let open = wanted && (!listener.secure || few || (listener.open && !many));
            if open == listener.open {
                continue;
            }
            let result = match open {
                true => sys::watch_exclusive(&self.poll, &listener.socket, Target::Listener(i).token()),
                false => sys::unwatch(&self.poll, &listener.socket),
            };
            if let Err(e) = result {
                log::error!("proxy-{} cannot watch a listener: {e}", tools.worker);
            }
            listener.open = open;
        }
    }

    pub(super) fn accept(&mut self, i: usize) {
        let (listener, secure) = (self.door.listeners[i].socket.clone(), self.door.listeners[i].secure);
        for _ in 0..ACCEPTS {
            if !self.door.listeners[i].open {
                return;
            }
            if secure && self.door.has_too_many_handshakes(&self.tools) {
                return self.watch_listeners();
            }
            match rustix::net::acceptfrom_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let stream = TcpStream::from_std(std::net::TcpStream::from(fd));
                    // Without an address the other end is gone already.
                    if let Some(peer) = peer {
                        self.place(Handed { stream, address: peer.ip().to_canonical(), secure });
                    }
                }
                Err(Errno::AGAIN) => return,
                // The client gave up in the queue, or the kernel has passing trouble (accept(2)).
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::NETDOWN) => {}
                Err(e) if self.tools.close_idle_links() => log::info!("proxy closes its idle links: {e}"),
                Err(_) if self.evict(0) > 0 => {}
                Err(e) => {
                    log::warn!("proxy-{} pauses accepting: {e}", self.tools.worker);
                    return self.pause();
                }
            }
        }
    }

    /// Has others leave for the one that was let in last, or lets nobody in any more. Afterwards and not before: only now
    /// is it known that somebody came. So each worker may be one beyond the limit.
    fn make_room(&mut self) {
        let max = self.tools.shared.max_conns;
        if self.tools.shared.conns.load(Ordering::Relaxed) > max && !self.door.paused && self.evict(0) == 0 {
            log::warn!("proxy-{} pauses accepting: {max} connections", self.tools.worker);
            self.pause();
        }
    }

    fn pause(&mut self) {
        self.tools.counters.accept_pauses.up();
        self.door.paused = true;
        self.next_sweep = self.tools.after(self.tools.now, self.tools.limits.sweep);
        self.watch_listeners();
    }

    /// Keeps an accepted connection, or hands it to a worker that has clearly fewer.
    fn place(&mut self, handed: Handed) {
        let (shared, me) = (self.tools.shared.clone(), self.tools.worker);
        let carries = |(i, load): (usize, &Load)| match i == me {
            true => self.conns.len(),
            false => load.conns.load(Ordering::Relaxed) + load.handed.len(),
        };
        let Some(other) = handoff::better(me, shared.loads.iter().enumerate().map(carries)) else {
            return self.admit_handed(handed);
        };
        if let Err(handed) = shared.loads[other].handed.offer(handed) {
            return self.admit_handed(handed);
        }
        shared.ring_for(other);
        if shared.stopping().is_some() {
            // It may have looked for the last time.
            while let Some(handed) = shared.loads[other].handed.take() {
                self.admit_handed(handed);
            }
        }
    }

    /// Lets in what other workers have handed over.
    pub(super) fn take_handed(&mut self) {
        while let Some(handed) = self.tools.shared.loads[self.tools.worker].handed.take() {
            self.admit_handed(handed);
        }
    }

    fn admit_handed(&mut self, Handed { stream, address, secure }: Handed) {
        self.admit(Stream::Tcp(stream), address, secure);
    }

    /// Lets a connection in, or turns it away.
    pub fn admit(&mut self, stream: Stream, address: IpAddr, secure: bool) {
        let settings = &self.tools.shared.settings;
        let loopback = address.is_loopback();
        let trusted = loopback || settings.trusted_proxies.iter().any(|net| net.contains(address));
        let limits = &self.tools.limits;
        let limit = if trusted { limits.conns_per_forwarder } else { limits.conns_per_address };
        let counted = self.door.crowd.enter(address, share(limit, self.tools.shared.loads.len()));
        // A word over TLS would cost a handshake.
        if !counted && (secure || self.door.turned_away >= TURNED_AWAY) {
            log::debug!("refused peer={address}: too many connections from one address");
            self.tools.counters.answers.count(429, "too many connections from one address, no word");
            return;
        }
        let tls = match self.tools.index() {
            Some(index) if secure => match Tls::new(&index.tls) {
                Ok(tls) => Some(Box::new(tls)),
                Err(_) => return self.door.crowd.leave(address),
            },
            _ => None,
        };
        let asker = Asker { secure, loopback, trusted };
        let (socket, now) = (Socket::accepted(stream, tls), self.tools.now);
        let key = self.conns.insert_with(|key| Conn::new(key, socket, address, asker, counted, now));
        self.tools.shared.conns.fetch_add(1, Ordering::Relaxed);
        self.tools.counters.accepted.up();
        self.door.turned_away += usize::from(!counted);
        self.count_handshake(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !counted {
            conn.turn_away(&mut self.tools);
        }
        match self.tools.register(conn.socket(), key) {
            Ok(()) => self.enqueue(key),
            Err(_) => self.drop_conn(key),
        }
        self.make_room();
    }

    /// Has those leave who are idle for too long now, and opens again when there is room.
    pub(super) fn sweep_conns(&mut self) {
        let max = self.tools.shared.max_conns;
        let taken = |worker: &Worker| worker.tools.shared.conns.load(Ordering::Relaxed);
        if self.tools.is_busy() {
            let ms = self.tools.limits.idle_when_busy.as_millis() as u64;
            while self.evict(ms) > 0 {}
        }
        if self.door.paused {
            // A little below the limit, so that it does not flap.
            let enough = max * 9 / 10;
            while taken(self) > enough && self.evict(0) > 0 {}
            self.door.paused = taken(self) > enough;
        }
    }

    /// When handshakes are too many, those that stall have to go first: or as many silent clients would keep everybody
    /// else waiting for the whole of [`crate::proxy::limits::Limits::head`].
    pub(super) fn close_stalled(&mut self) {
        if !self.door.has_too_many_handshakes(&self.tools) {
            return;
        }
        let (now, limit) = (self.tools.now, self.tools.limits.handshake_when_busy.as_millis() as u64);
        let stalled = |c: &&mut Conn| c.shaking && !c.queued && now.saturating_sub(c.since()) >= limit;
        let keys: Vec<Key> = self.conns.iter_mut().filter(stalled).map(|conn| conn.key()).collect();
        if !keys.is_empty() {
            log::info!("proxy-{} closes {} stalled TLS handshakes", self.tools.worker, keys.len());
        }
        for key in keys {
            self.drop_conn(key);
        }
    }

    /// Closes a few conns that have been idle for `ms` milliseconds, the longest idle first; returns how many.
    ///
    /// To find them takes a walk over all conns; one walk finds an eighth of the idle, so as many share its cost.
    fn evict(&mut self, ms: u64) -> usize {
        match self.evict_found(ms) {
            0 => {
                self.find_idlers();
                self.evict_found(ms)
            }
            evicted => evicted,
        }
    }

    fn evict_found(&mut self, ms: u64) -> usize {
        let (mut evicted, now) = (0, self.tools.now);
        while evicted < EVICTED
            && let Some((since, key)) = self.door.idlers.front().copied().filter(|(since, _)| *since + ms <= now)
        {
            self.door.idlers.pop_front();
            let is_idle = |conn: &mut Conn| conn.idle_since() == Some(since) && conn.is_quiet();
            if self.conns.get_mut(key).is_some_and(is_idle) {
                self.tools.counters.evicted.up();
                self.drop_conn(key);
                evicted += 1;
            }
        }
        evicted
    }

    fn find_idlers(&mut self) {
        let idle = self.conns.iter_mut().filter_map(|conn| Some((conn.idle_since()?, conn.key())));
        let mut idle: Vec<(u64, Key)> = idle.collect();
        let some = (idle.len() / 8).max(EVICTED);
        if some < idle.len() {
            idle.select_nth_unstable_by_key(some, |(since, _)| *since);
            idle.truncate(some);
        }
        idle.sort_unstable_by_key(|(since, _)| *since);
        self.door.idlers = idle.into();
    }
}

/// What one of several workers lets in of a limit for all: they do not share their counts, which would cost a lock, and a
/// client's connections are not spread evenly. So half as many again as its part.
fn share(limit: usize, workers: usize) -> usize {
    if workers <= 1 { limit } else { limit.saturating_mul(3).div_ceil(2 * workers).min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_half_as_much_again_as_its_part() {
        assert_eq!([1, 2, 3, 4].map(|workers| share(2048, workers)), [2048, 1536, 1024, 768]);
        assert_eq!((share(1, 4), share(0, 2)), (1, 0));
        assert_eq!(share(usize::MAX, 2), usize::MAX / 4 + 1, "no overflow");
    }
}
