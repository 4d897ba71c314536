//! Table: what the data plane chooses by. Immutable once published; the next one replaces it as a whole.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::certs::Certs;
use crate::proto::route::Route;

/// What the control plane publishes.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Which upstream (an index into `upstreams`) answers to which route; in any order, the table sorts them.
    pub entries: Vec<(Route, usize)>,
    pub upstreams: Vec<Upstream>,
    pub certs: Arc<Certs>,
}

/// Names one running instance for as long as the server lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EndpointId(pub u64);

/// Where an instance listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub id: EndpointId,
    pub addr: SocketAddr,
}

/// One app's endpoints, and how it is to be treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// For logs: the app's id.
    pub name: Arc<str>,
    /// In balancing now; may be empty, which answers 503.
    pub endpoints: Vec<Endpoint>,
    /// Largest request body in bytes; 413 beyond.
    pub body_limit: u64,
}

/// A network, as `address/bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Net {
    pub address: IpAddr,
    pub bits: u8,
}
