//! Tunnel: bytes both ways after a 101 (RFC 6455 §5), unread and unchanged.
//!
//! ```text
//!   each way:   Open ─▶ Ending ─▶ Ended      both Ended: gone; either side broken: gone
//!                 read an end │ all before it is written, the end is passed on
//! ```
//! **Invariant**: a side is read only while the other has nothing waiting, so a tunnel pins two chunks a direction.

use super::access::Visit;
use super::table::EndpointId;
use super::tools::{Link, Tools};
use super::transport::{BODY_READ, End, Socket};

pub(super) struct Tunnel {
    /// What its access line will say.
    visit: Box<Visit>,
    link: Link,
    held: EndpointId,
    up: Way,
    down: Way,
    progress: u64,
}

/// How far one direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// The source has ended; what came before is still being written.
    Ending,
    Ended,
}

/// Either side broke: nothing can be delivered any more.
pub(super) struct Broken;

impl Tunnel {
    pub fn new(link: Link, held: EndpointId, mut visit: Box<Visit>, client: &Socket, tools: &Tools) -> Self {
        client.keep_alive();
        link.socket.keep_alive();
        visit.bytes_in = visit.bytes_in.wrapping_sub(link.socket.sent()); // what comes in is what goes on
        tools.counters.tunnels.up();
        Tunnel { visit, link, held, up: Way::Open, down: Way::Open, progress: tools.now }
    }

    /// Moves what can be moved. True when something was.
    pub fn turn(&mut self, client: &mut Socket, tools: &mut Tools) -> Result<bool, Broken> {
        // A side that has ended is not read again, so its death is not noticed by reading.
        let dead = |socket: &Socket, from: Way| socket.is_broken() && from == Way::Ended;
        if dead(client, self.up) || dead(&self.link.socket, self.down) {
            return Err(Broken);
        }
        let up = carry(client, &mut self.link.socket, &mut self.up, tools)?;
        let down = carry(&mut self.link.socket, client, &mut self.down, tools)?;
        if up || down {
            self.progress = tools.now;
        }
        Ok(up || down)
    }

    pub fn is_over(&self) -> bool {
        self.up == Way::Ended && self.down == Way::Ended
    }

    pub fn deadline(&self, tools: &Tools) -> u64 {
        tools.after(self.progress, tools.limits.tunnel)
    }

    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Leaves link and endpoint, and tells what is known of it.
    pub fn leave(mut self, client: &Socket, tools: &mut Tools) -> Box<Visit> {
        self.visit.bytes_in = self.visit.bytes_in.wrapping_add(self.link.socket.sent());
        self.visit.bytes_out = client.sent() - self.visit.sent_before;
        tools.counters.tunnels.down();
        tools.discard(self.link);
        tools.release(self.held);
        self.visit
    }
}

fn carry(from: &mut Socket, to: &mut Socket, way: &mut Way, tools: &mut Tools) -> Result<bool, Broken> {
    if *way == Way::Ended {
        return Ok(false);
    }
    if !to.flush(&mut tools.io).map_err(|_| Broken)? {
        return Ok(false);
    }
    if *way == Way::Ending {
        if to.finish(&mut tools.io).map_err(|_| Broken)? {
            *way = Way::Ended;
        }
        return Ok(*way == Way::Ended);
    }
    if !from.has_stash() && !from.is_readable() {
        return Ok(false);
    }
    let mut inbox = std::mem::take(&mut tools.inbox);
    let got = from.gather(&mut inbox, &mut tools.io, BODY_READ, !from.has_stash());
    tools.moved += got.fresh;
    let sent = to.send(&inbox[..got.len], &mut tools.io);
    tools.inbox = inbox;
    sent.map_err(|_| Broken)?;
    match got.end {
        End::Broken => return Err(Broken),
        End::Clean => *way = Way::Ending,
        End::NotYet => {}
    }
    // Readable still, though nothing came of it: a part of a TLS record.
    Ok(got.len > 0 || got.end != End::NotYet || from.is_readable())
}
