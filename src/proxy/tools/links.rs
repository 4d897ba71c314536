//! Links: connections to endpoints, busy with an exchange or idle in the pool.
//!
//! **Invariant**: a link is owned by one exchange or tunnel, or lies in the pool; whoever has done with it parks it, if
//! nothing speaks against another use, or discards it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::Tools;
use crate::proxy::table::{Endpoint, EndpointId};
use crate::proxy::token::{Key, Target};
use crate::proxy::transport::Socket;

/// A connection to an endpoint.
pub(in crate::proxy) struct Link {
    pub key: Key,
    pub endpoint: EndpointId,
    pub socket: Socket,
    /// It has carried an exchange before.
    pub used: bool,
    /// For how long it may lie idle: our limit, or less if the endpoint says so.
    pub idle: Duration,
}

/// Who an event on a link is for.
pub(in crate::proxy) enum Berth {
    Idle(Link),
    /// The conn whose exchange or tunnel has it.
    Busy(Key),
}

/// Which links a request may go out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Reuse {
    /// One that dies under it costs a second try.
    Any,
    /// It must not be sent twice: only one that was busy a moment ago.
    Fresh,
    Never,
}

impl Tools {
    /// A link to `endpoint` for the exchange of `conn`.
    ///
    /// # Errors
    /// Those of `connect`; a refusal may also come later, with the first write.
    pub fn link(&mut self, endpoint: Endpoint, conn: Key, reuse: Reuse) -> io::Result<Link> {
        let max_age = match reuse {
            Reuse::Any => self.limits.link_idle,
            Reuse::Fresh => self.limits.link_fresh,
            Reuse::Never => Duration::ZERO,
        };
        if reuse != Reuse::Never {
            while let Some(key) = self.pool.take(endpoint.id, self.now, max_age.as_millis() as u64) {
                if let Some(link) = self.wake(key, conn, reuse) {
                    return Ok(link);
                }
            }
        }
        let stream = match self.net.connect(endpoint.addr) {
            Err(e) if is_shortage(&e) && self.close_idle_links() => self.net.connect(endpoint.addr)?,
            result => result?,
        };
        let mut socket = Socket::connecting(stream);
        let key = self.links.insert_with(|_| Berth::Busy(conn));
        if let Err(e) = self.net.register(socket.stream(), Target::Link(key).token()) {
            self.links.remove(key);
            return Err(e);
        }
        Ok(Link { key, endpoint: endpoint.id, socket, used: false, idle: self.limits.link_idle })
    }

    /// An idle link, if it still stands. The events of this round have been heard before any turn, so what the kernel
    /// knew then is known, if they were not too many for one poll; what came since is looked for only where a second try
    /// is not allowed.
    fn wake(&mut self, key: Key, conn: Key, reuse: Reuse) -> Option<Link> {
        let berth = self.links.get_mut(key)?;
        let Berth::Idle(mut link) = std::mem::replace(berth, Berth::Busy(conn)) else {
            debug_assert!(false, "a busy link was in the pool");
            return None;
        };
        let stands = match reuse {
            Reuse::Any if self.heard_all => link.socket.is_sound(),
            Reuse::Any | Reuse::Fresh | Reuse::Never => link.socket.is_quiet(),
        };
        if !stands {
            self.links.remove(key);
            return None;
        }
        link.used = true;
        Some(link)
    }

    /// Puts a link that can carry another exchange into the pool.
    pub fn park(&mut self, mut link: Link) {
        let listed = self.index.as_ref().is_some_and(|index| index.has(link.endpoint));
        let sound = link.socket.is_sound() && link.socket.is_drained();
        if !listed || self.stopping.is_some() || !sound {
            return self.discard(link);
        }
        debug_assert!(link.socket.is_clear() && !link.socket.has_stash(), "parked with bytes");
        link.socket.clear(&mut self.io);
        let (key, endpoint, until) = (link.key, link.endpoint, self.after(self.now, link.idle));
        let Some(berth) = self.links.get_mut(key) else { return };
        *berth = Berth::Idle(link);
        if let Some(oldest) = self.pool.put(endpoint, key, self.now, until, self.limits.links_per_endpoint) {
            self.links.remove(oldest);
        }
    }

    /// Closes a link.
    pub fn discard(&mut self, mut link: Link) {
        link.socket.clear(&mut self.io);
        self.links.remove(link.key);
    }

    /// The conn that an event on a link is for. An idle link has nothing to say but that it is over.
    pub fn owner_of(&mut self, key: Key) -> Option<Key> {
        match self.links.get_mut(key)? {
            Berth::Busy(conn) => Some(*conn),
            Berth::Idle(link) if link.socket.is_quiet() => None, // the tail of an earlier event
            Berth::Idle(link) => {
                let endpoint = link.endpoint;
                self.pool.forget(endpoint, key);
                self.links.remove(key);
                None
            }
        }
    }

    /// Closes all idle links, for want of descriptors. True when there were some.
    pub fn close_idle_links(&mut self) -> bool {
        let idle = self.pool.prune(|_| false, 0);
        for key in &idle {
            self.links.remove(*key);
        }
        !idle.is_empty()
    }

    pub fn idle_links(&self) -> usize {
        self.pool.len()
    }
}

/// The endpoint has no part in it: we are out of descriptors, ports or memory.
pub(in crate::proxy) fn is_shortage(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC | Errno::ADDRNOTAVAIL)
    )
}
