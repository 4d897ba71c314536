//! The data plane: bytes from clients to Endpoints. It knows routes and endpoints, not apps, releases or processes.
//!
//! It is reached by messages only. In: [`Proxy::publish`] a [`table::Table`], [`Proxy::stop`]. Out: [`Notice`]s on the
//! channel that [`start`] returns. Nobody outside reads its counters or holds its memory, so it runs as threads here
//! today and as a process of its own later, with the same API.
//!
//! **Invariant (drained)**: [`Notice::Drained`] is said once for an endpoint, when every worker has adopted a table
//! without it *and* holds no exchange or tunnel on it. The second alone would be a race.
//! **Invariant (order)**: once any worker has chosen by a table, no worker chooses by an older one: every worker looks
//! at the published generation (one atomic load) before each choice. So a swap never flips back.

mod http;
mod token;
mod timer;
mod limits;
pub(crate) mod table;
pub(crate) mod certs;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use table::{EndpointId, Table};

use crate::error::Result;

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
}

/// What the data plane tells the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Every worker chooses by this table, or a newer one.
    Acked(u64),
    /// Nothing is left on this endpoint, and nothing new will come.
    Drained(EndpointId),
    /// A connection to this endpoint was refused or broke before an answer.
    Failed(EndpointId),
}

/// The running data plane.
pub(crate) struct Proxy {}

/// Starts the workers.
///
/// # Errors
/// Io when a thread, an epoll set or a socket option cannot be had.
pub(crate) fn start(_settings: Settings) -> Result<(Proxy, Receiver<Notice>)> {
    unimplemented!()
}

impl Proxy {
    /// Replaces the table and returns its generation, which only grows. Never blocks on a worker.
    pub fn publish(&self, _table: Table) -> u64 {
        unimplemented!()
    }

    /// Stops accepting, lets exchanges finish until `deadline`, closes the rest and joins the workers.
    pub fn stop(self, _deadline: Instant) {
        unimplemented!()
    }
}
