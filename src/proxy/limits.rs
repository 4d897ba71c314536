//! Limits of the data plane in time and number. What a message may look like is bounded in `http`.
//!
//! **Invariant**: every state of a conn has a limit here that ends it; no state waits for ever on a peer. One is the
//! kernel's: an event stream may be silent for as long as it likes while its client answers keep-alive probes.

use std::time::Duration;

/// Plain numbers, so that a test may choose others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From the first byte of a head to its end, TLS handshake included: absolute, or one byte at a time would hold a
    /// connection for ever.
    pub head: Duration,
    /// An idle client connection. Browsers give up after about as long.
    pub idle: Duration,
    /// The same when most connections are taken.
    pub idle_when_busy: Duration,
    /// Without a byte of a request body that is due.
    pub body: Duration,
    /// Without the peer taking all of what waits for it (at most about two chunks).
    pub write: Duration,
    /// Endpoints are near: a longer handshake means a full accept queue.
    pub connect: Duration,
    /// From the last byte of the request to the head of the response.
    pub response_head: Duration,
    /// Without a byte of a response body; an event stream may be silent.
    pub between_bytes: Duration,
    /// After our FIN, for the client to read the answer and close (RFC 9112 §9.6).
    pub linger: Duration,
    /// A tunnel without a byte in either direction.
    pub tunnel: Duration,
    /// After a client's FIN, for the response to begin: scripts half-close, browsers that went away do too.
    pub half_closed: Duration,
    /// An idle connection to an endpoint. Node closes at five seconds; a request must not meet that close.
    pub link_idle: Duration,
    /// The same for a request that must not be sent twice.
    pub link_fresh: Duration,
    /// After `stop`, for a client's next request on a connection it believes to be open.
    pub stop_idle: Duration,
    /// How often an idle worker looks after idle links and paused listeners, and how soon it tells of activity.
    pub sweep: Duration,
    /// Bounds what one connection can accumulate anywhere.
    pub requests_per_conn: u32,
    /// Connections of all workers together; the limit of open descriptors may lower it.
    pub conns: usize,
    /// Requests that wait for one sleeping upstream, over all workers.
    pub parked: usize,
    /// Idle links per endpoint and worker; more than that many at once are rare on loopback and cheap to reopen.
    pub links_per_endpoint: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        idle_when_busy: Duration::from_secs(5),
        body: Duration::from_secs(30),
        write: Duration::from_secs(30),
        connect: Duration::from_secs(5),
        response_head: Duration::from_secs(60),
        between_bytes: Duration::from_secs(60),
        linger: Duration::from_secs(2),
        tunnel: Duration::from_secs(3600),
        half_closed: Duration::from_secs(5),
        link_idle: Duration::from_secs(4),
        link_fresh: Duration::from_secs(1),
        stop_idle: Duration::from_secs(10),
        sweep: Duration::from_millis(500),
        requests_per_conn: 1000,
        conns: 60_000,
        parked: 1000,
        links_per_endpoint: 64,
    };
}
