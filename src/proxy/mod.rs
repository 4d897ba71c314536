//! The data plane: bytes from clients to Endpoints. It knows routes and endpoints, not apps, releases or processes.
//!
//! It is reached by messages only. In: [`Proxy::publish`] a [`table::Table`], [`Proxy::stop`]. Out: [`Notice`]s on the
//! channel that [`start`] returns. Nobody outside reads its counters or holds its memory, so it runs as threads here
//! today and as a process of its own later, with the same API.
//!
//! Reading order: a `worker` is one event loop; it accepts `conn`s and gives each its turn, lending it its `tools`. A
//! conn reads a head (`http`), `decide` says what becomes of it, `answer` writes what we say ourselves, `files` serves
//! what lies in a folder, and an `exchange` relays the rest over a `transport` (on a `wire`) to an endpoint that `balance`
//! picked from the `table`, by a link from the `pool`, with a head from `forward`; after a 101 it is a `tunnel`. A
//! request whose app sleeps waits in `parking`. `publish` and `ledger` bring tables in and notices out; `access` is the
//! line that tells a request, `counters` what is counted, `record` where both happen, `journal` the way of the lines to
//! their keeper; `handoff` evens the workers out; `token`, `quick`, `timer`, `limits` are what the loop stands on, `pace`
//! and `crowd` keep one client from taking it all; `tls`, `entropy` and `certs` hide rustls.
//!
//! **Invariant (drained)**: [`Notice::Drained`] is said once for an endpoint, when every worker has adopted a table
//! without it *and* holds no exchange or tunnel on it. The second alone would be a race.
//! **Invariant (order)**: once any worker has chosen by a table, no worker chooses by an older one: every worker looks
//! at the published generation (one atomic load) before each choice. So a swap never flips back.

mod http;
pub(crate) mod table;
pub(crate) mod certs;
pub(crate) mod tls;
mod entropy;
pub(crate) mod limits;
mod decide;
pub(crate) mod files;
mod answer;
mod forward;
mod balance;
mod pool;
mod token;
mod quick;
mod timer;
mod pace;
mod crowd;
mod ledger;
mod handoff;
mod publish;
mod wire;
mod parking;
mod transport;
mod access;
pub(crate) mod journal;
pub(crate) mod counters;
mod tools;
mod record;
mod exchange;
mod bodies;
mod tunnel;
mod conn;
mod worker;
#[cfg(any(test, feature = "lab"))]
mod sim;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Receiver;
use mio::{Poll, Waker};
use rustix::net::sockopt;

use counters::Metrics;
use limits::Limits;
use publish::Shared;
use table::{EndpointId, Table};
use token::Target;

use crate::error::{Context, Result};
use crate::sys;

/// Descriptors that are not connections: polls, wakers, listeners, the management socket with its clients, idle links of a
/// few apps.
const OTHER_DESCRIPTORS: u64 = 192;
/// And one in so many, for what grows with the machine: instances with their pipes, a deploy that unpacks. Under attack
/// these must still be had.
const OTHER_SHARE: u64 = 16;
/// Of the machine's memory, one part in so many may wait in chunks: the rest is for the apps.
const MEMORY_SHARE: u64 = 4;

/// What the control plane lends and decides.
pub(crate) struct Settings {
    /// Listening sockets stay the control plane's: shared by all workers, never re-bound, so that nothing in an accept
    /// queue is lost.
    pub http: Vec<Arc<TcpListener>>,
    pub https: Vec<Arc<TcpListener>>,
    pub workers: usize,
    /// The port that a redirect to HTTPS names; `None` means 443, which needs no naming.
    pub https_port: Option<u16>,
    /// Peers whose `X-Forwarded-*` is believed, besides loopback.
    pub trusted_proxies: Vec<table::Net>,
    /// [`Limits::DEFAULT`] but in tests.
    pub limits: Limits,
    /// Where access lines go; `None` writes none.
    pub access: Option<journal::Outlet>,
}

/// What the data plane tells the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Every worker chooses by this table, or a newer one. Said for each generation, in order.
    Acked(u64),
    /// Nothing is left on this endpoint, and nothing new will come.
    Drained(EndpointId),
    /// A connection to this endpoint was refused or broke before an answer. May be left out when nobody listens.
    Failed(EndpointId),
    /// A request waits for this upstream, which is asleep ([`table::Standing::OnDemand`], no endpoints). Said once a
    /// sleep: again after a table in which it was not asleep, or once a request has waited in vain.
    Wake(Arc<str>),
    /// This upstream, on demand and with endpoints, had a request or a tunnel in flight since this was said last.
    /// Said every [`Limits::sweep`] while that is so. May be left out when nobody listens.
    Activity(Arc<str>),
}

/// The running data plane. Dropping it stops it at once.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// Starts the workers. They accept once the first table is published.
///
/// # Errors
/// Io when a thread, an epoll set or a socket option cannot be had.
pub(crate) fn start(settings: Settings) -> Result<(Proxy, Receiver<Notice>)> {
    for listener in settings.http.iter().chain(&settings.https) {
        listener.set_nonblocking(true).context(|| "make a listener non-blocking".into())?;
        // Accepted connections inherit them, which saves calls for each; without them it is slower or larger, not wrong.
        let _ = sockopt::set_tcp_nodelay(listener, true);
        let unacked = u32::try_from(settings.limits.unacked.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(listener, unacked);
        let _ = sys::limit_unsent(listener, settings.limits.unsent);
    }
    let mut polls = Vec::new();
    let mut bells = Vec::new();
    for i in 0..settings.workers.max(1) {
        let poll = Poll::new().context(|| format!("make the event queue of proxy-{i}"))?;
        let bell = Waker::new(poll.registry(), Target::Bell.token());
        bells.push(bell.context(|| format!("make the bell of proxy-{i}"))?);
        polls.push(poll);
    }
    let descriptors = sys::raise_descriptor_limit();
    let open_files = polls.len() as u64 * files::OPEN_FILES as u64;
    let max_conns = settings.limits.conns.min(conns_for(descriptors.saturating_sub(open_files)));
    let share = sys::memory().map_or(u64::MAX, |memory| memory / MEMORY_SHARE);
    let memory = settings.limits.memory.min(usize::try_from(share).unwrap_or(usize::MAX));
    let workers = polls.len();
    log::info!("proxy workers={workers} descriptors={descriptors} max_conns={max_conns} memory_mib={}", memory >> 20);

    let (notices, heard) = crossbeam_channel::unbounded(); // see `publish` for what bounds it
    let shared = Arc::new(Shared::new(settings, max_conns, memory, tls::Configs::new()?, bells, notices)?);
    let mut proxy = Proxy { shared, workers: Vec::new() };
    for (i, poll) in polls.into_iter().enumerate() {
        let shared = proxy.shared.clone();
        let registry = poll.registry().try_clone().context(|| format!("share the event queue of proxy-{i}"))?;
        let thread = std::thread::Builder::new().name(format!("proxy-{i}"));
        let handle = thread.spawn(move || worker::run(i, poll, registry, shared));
        proxy.workers.push(handle.context(|| format!("start the thread proxy-{i}"))?);
    }
    Ok((proxy, heard))
}

/// How many connections so many descriptors are enough for: each may need a second one, towards its endpoint.
fn conns_for(descriptors: u64) -> usize {
    let ours = descriptors.saturating_sub(OTHER_DESCRIPTORS + descriptors / OTHER_SHARE) / 2;
    usize::try_from(ours).unwrap_or(usize::MAX).max(16)
}

impl Proxy {
    /// Replaces the table and returns its generation, which only grows. Never blocks on a worker.
    pub fn publish(&self, table: Table) -> u64 {
        self.shared.publish(table)
    }

    /// The numbers of this moment, summed over the workers. Takes no time of theirs.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// Stops accepting, lets exchanges finish until `deadline`, closes the rest and joins the workers.
    ///
    /// Idle connections get one more request, answered with `Connection: close`: a client may have sent it already.
    /// They are closed [`Limits::stop_idle`] from now, so with idle clients this takes as long, or until `deadline`.
    pub fn stop(mut self, deadline: Instant) {
        self.finish(deadline);
    }

    fn finish(&mut self, deadline: Instant) {
        self.shared.stop(deadline);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                log::error!("a proxy worker ended by a panic");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.finish(Instant::now());
    }
}
