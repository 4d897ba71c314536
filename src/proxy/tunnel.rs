//! Tunnel: bytes both ways after a 101 (RFC 6455 §5), unread and unchanged.
//!
//! ```text
//!   each way:   Open ─▶ Ending ─▶ Ended      neither way delivers any more: gone
//!                 │ source ended  │ all before it is written, the end is passed on
//!                 └──────┴──▶ Deaf           the sink broke: the rest is thrown away
//! ```
//! A way outlives the death of its source, so that what was said before still arrives; that nothing was cut is for the
//! protocol inside to tell (RFC 6455 §7.1.5: no close frame is a 1006).
//!
//! **Invariant**: a side is read only while the other has nothing waiting, so a tunnel pins two chunks a direction. A
//! side that is dead is not waited for, and the other only as long as a write may take.

use super::access::Visit;
use super::table::EndpointId;
use super::tools::Tools;
use super::tools::links::Link;
use super::transport::{End, Socket, TUNNEL_READ};

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
    /// The source has ended or broke; what came before is still being written.
    Ending,
    Ended,
    /// The sink broke; what the source says is thrown away.
    Deaf,
}

impl Tunnel {
    pub fn new(link: Link, held: EndpointId, mut visit: Box<Visit>, client: &Socket, tools: &Tools) -> Self {
        client.keep_alive();
        link.socket.keep_alive();
        visit.bytes_in = visit.bytes_in.wrapping_sub(link.socket.sent()); // what comes in is what goes on
        tools.counters.tunnels.up();
        Tunnel { visit, link, held, up: Way::Open, down: Way::Open, progress: tools.now }
    }

    /// Moves what can be moved. True when something was.
    pub fn turn(&mut self, client: &mut Socket, tools: &mut Tools) -> bool {
        let link = &mut self.link.socket;
        let up = carry(client, link, &mut self.up, tools);
        let down = carry(link, client, &mut self.down, tools);
        if up || down {
            self.progress = tools.now;
        }
        // Neither is progress: a side that talks to the dead does not prolong what is left.
        let ignored_up = ignore(client, &mut self.up, tools);
        let ignored_down = ignore(link, &mut self.down, tools);
        up || down || ignored_up || ignored_down
    }

    /// Nothing more can be delivered.
    pub fn is_over(&self) -> bool {
        self.up.is_over() && self.down.is_over()
    }

    /// The client has said its end, or nobody is there.
    pub fn is_left_by_client(&self) -> bool {
        self.up == Way::Ended
    }

    pub fn deadline(&self, tools: &Tools) -> u64 {
        let leaving = [self.up, self.down].iter().any(|way| matches!(way, Way::Ending | Way::Deaf));
        tools.after(self.progress, if leaving { tools.limits.write } else { tools.limits.tunnel })
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

impl Way {
    fn is_over(self) -> bool {
        matches!(self, Way::Ended | Way::Deaf)
    }
}

/// Moves what one way can take. True when something moved.
fn carry(from: &mut Socket, to: &mut Socket, way: &mut Way, tools: &mut Tools) -> bool {
    if way.is_over() {
        return false;
    }
    let waited = !to.is_clear();
    match to.flush(&mut tools.io) {
        Ok(_) if to.is_broken() => return deafen(to, way, tools),
        Ok(true) => {}
        Ok(false) => return false,
        Err(_) => return deafen(to, way, tools),
    }
    if *way == Way::Ending {
        match to.finish(false, &mut tools.io) {
            Ok(true) => *way = Way::Ended,
            Ok(false) => {}
            Err(_) => return deafen(to, way, tools),
        }
        return waited || *way == Way::Ended;
    }
    if !(from.has_stash() || from.is_readable() && tools.may_read()) {
        return waited;
    }
    let mut inbox = std::mem::take(&mut tools.inbox);
    let got = from.gather(&mut inbox, &mut tools.io, TUNNEL_READ, !from.has_stash());
    tools.moved += got.fresh;
    let sent = to.send(&inbox[..got.len], &mut tools.io);
    tools.inbox = inbox;
    if sent.is_err() {
        return deafen(to, way, tools);
    }
    if got.end != End::NotYet {
        *way = Way::Ending;
    }
    // Readable still, though nothing came of it: a part of a TLS record.
    waited || got.len > 0 || got.end != End::NotYet || from.is_readable()
}

fn deafen(to: &mut Socket, way: &mut Way, tools: &mut Tools) -> bool {
    *way = Way::Deaf;
    to.drop_unsent(&mut tools.io);
    to.look_again(); // its own words may still have to be read
    true
}

/// Reads what a deaf way is told, lest a source that must write before it reads never gets to that. True when
/// something came.
fn ignore(from: &mut Socket, way: &mut Way, tools: &mut Tools) -> bool {
    if *way != Way::Deaf {
        return false;
    }
    let (n, end) = from.discard(&mut tools.io);
    tools.moved += n;
    if end != End::NotYet {
        *way = Way::Ended;
    }
    n > 0
}
