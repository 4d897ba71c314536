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
    /// The same for a TLS handshake when a worker has as many of them as it may.
    pub handshake_when_busy: Duration,
    /// An idle client connection. Browsers give up after about as long.
    pub idle: Duration,
    /// The same when most connections are taken.
    pub idle_when_busy: Duration,
    /// Without a byte of a request body that is due.
    pub body: Duration,
    /// A client that we wait for, for its body or to take what waits for it, has this long as grace, and then moves
    /// `pace_bytes` in each further one; see `pace`.
    pub pace: Duration,
    /// The same while memory is short: then who is slow costs the others.
    pub pace_when_short: Duration,
    /// 273 bytes a second, sixteen times that when memory is short. Servers that have such a rule ask for 240 (Kestrel,
    /// IIS) or 500 (Apache's mod_reqtimeout): below the slowest modem, so it cuts attacks and no honest client. A body
    /// holds a place in the app, which has far fewer of them than we do.
    pub pace_bytes: u64,
    /// Without an endpoint taking all of what waits for it (at most one read of a body), and for a client to take our own
    /// last words.
    pub write: Duration,
    /// For a client's kernel to acknowledge what it was sent, or to open its window: as long as keep-alive probes take
    /// to find out that nobody is there. It ends what we no longer hold ourselves: sent tails, silent streams.
    pub unacked: Duration,
    /// Endpoints are near: a longer handshake means a full accept queue.
    pub connect: Duration,
    /// From the last byte of the request to the head of the response.
    pub response_head: Duration,
    /// Without a byte of a response body; an event stream may be silent.
    pub between_bytes: Duration,
    /// After our FIN, for the client to read the answer and close (RFC 9112 §9.6).
    pub linger: Duration,
    /// And so many bytes: a client that has sent more is not reading but sending.
    pub linger_bytes: usize,
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
    /// Bytes that the kernel holds unsent for one client. Left alone it takes up to 4 MiB from whoever fills it, and a
    /// thousand clients that do not read would have the kernel short of memory for everybody's connections.
    pub unsent: u32,
    /// How often a worker looks after idle links, paused listeners, and idle conns when most are taken, and how soon it
    /// tells of activity.
    pub sweep: Duration,
    /// Bounds what one connection can accumulate anywhere.
    pub requests_per_conn: u32,
    /// Connections of all workers together; the limit of open descriptors may lower it.
    pub conns: usize,
    /// TLS handshakes in progress per worker; who comes later waits in the accept queue. Each may hold a hello of up to
    /// 64 KiB.
    pub handshakes: usize,
    /// Of these, from one address (IPv6: one /64, which is what one customer gets): enough for a large office behind
    /// one address, few enough that thirty attackers are needed to fill us.
    pub conns_per_address: usize,
    /// The same for a trusted forwarder, and for loopback, where tunnels and other proxies of this machine come from:
    /// behind one there may be everybody.
    pub conns_per_forwarder: usize,
    /// Bytes that wait in chunks, of all workers together; a quarter of the machine's memory may lower it. When they are
    /// lent, nothing more is read until some come back.
    pub memory: usize,
    /// Requests that wait for one sleeping upstream, over all workers.
    pub parked: usize,
    /// Idle links per endpoint and worker; more than that many at once are rare on loopback and cheap to reopen.
    pub links_per_endpoint: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        head: Duration::from_secs(10),
        handshake_when_busy: Duration::from_secs(2),
        idle: Duration::from_secs(60),
        idle_when_busy: Duration::from_secs(5),
        body: Duration::from_secs(30),
        pace: Duration::from_secs(15),
        pace_when_short: Duration::from_millis(900),
        pace_bytes: 4096,
        write: Duration::from_secs(30),
        unacked: Duration::from_secs(90),
        connect: Duration::from_secs(5),
        response_head: Duration::from_secs(60),
        between_bytes: Duration::from_secs(60),
        linger: Duration::from_secs(2),
        linger_bytes: 256 << 10,
        tunnel: Duration::from_secs(3600),
        half_closed: Duration::from_secs(5),
        link_idle: Duration::from_secs(4),
        link_fresh: Duration::from_secs(1),
        stop_idle: Duration::from_secs(10),
        unsent: 256 << 10,
        sweep: Duration::from_millis(500),
        requests_per_conn: 1000,
        conns: 60_000,
        handshakes: 256,
        conns_per_address: 2048,
        conns_per_forwarder: 60_000,
        memory: 1 << 30,
        parked: 1000,
        links_per_endpoint: 64,
    };
}
