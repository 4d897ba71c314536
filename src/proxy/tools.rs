//! Tools: what a worker lends to the conn whose turn it is. Everything here belongs to one thread.
//!
//! **Invariant (held)**: an endpoint is held from the moment it is chosen, before any connection, until its response
//! is fully relayed; [`Tools::hold`] and [`Tools::release`] come in pairs, one pair per choice.

mod ids;
pub(super) mod links;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::access::Visit;
use super::balance;
use super::counters::{Book, Counters};
use super::exchange::Exchange;
use super::files::send::Delivery;
use super::files::{Files, Found, Look};
use super::http::head::Request;
use super::http::headers::Field;
use super::journal::Journal;
use super::limits::Limits;
use super::parking::Lot;
use super::pool::Pool;
use super::publish::Shared;
use super::quick::Map;
use super::table::{Endpoint, EndpointId, Index, Standing};
use super::timer::Wheel;
use super::token::{Key, Slab, Target};
use super::transport::{INBOX, Io, Socket};
use super::wire::Net;
use ids::RequestIds;
use links::Berth;

/// Exchanges kept for reuse: about as many as one round of the loop ends.
const SPARE_EXCHANGES: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    pub deadline: u64,
    /// When idle conns are closed.
    pub idle_until: u64,
}

pub(super) struct Tools {
    pub worker: usize,
    pub shared: Arc<Shared>,
    pub limits: Limits,
    /// Milliseconds since the start, read once per turn of the loop.
    pub now: u64,
    /// The same in microseconds.
    pub now_us: u64,
    pub stopping: Option<Stopping>,
    /// The last poll had room for more, so all that the kernel knew has been heard.
    pub heard_all: bool,
    pub timers: Wheel,
    /// Requests whose upstream sleeps.
    pub lot: Lot,
    pub io: Io,
    pub files: Files,
    /// Scratch, taken for the time of a call.
    pub inbox: Box<[u8]>,
    pub outbox: Vec<u8>,
    pub fields: Vec<Field>,
    pub host: String,
    /// Bytes read in this turn, for fairness.
    pub moved: usize,
    /// Set when this turn ends for want of memory; see [`Tools::may_read`].
    pub starved: bool,
    pub counters: Arc<Counters>,
    pub journal: Journal,
    /// Spent ones, to be used again; see `record`.
    #[expect(clippy::vec_box, reason = "they are lent in their boxes, which exchanges hand on")]
    pub(super) visits: Vec<Box<Visit>>,
    /// What is counted of each upstream of the table.
    pub(super) books: Vec<Arc<Book>>,
    pub(super) index: Option<Arc<Index>>,
    start: Instant,
    net: Net,
    links: Slab<Berth>,
    pool: Pool,
    /// How often each endpoint is held; one that is not, now, may still be listed.
    held: Map<EndpointId, u32>,
    /// One round robin counter per upstream of the table.
    turns: Vec<usize>,
    /// Done with, kept for the next request.
    #[expect(clippy::vec_box, reason = "they are lent in their boxes, which conns keep")]
    exchanges: Vec<Box<Exchange>>,
    /// Likewise: chosen from since activity was told last. Kept for those on demand.
    lately: Vec<bool>,
    /// There may be activity to tell.
    pub restless: bool,
    date: (u64, String),
    /// The second, counted from one, of the last line logged by [`Tools::may_log`].
    logged: u64,
    ids: RequestIds,
}

impl Tools {
    pub fn new(worker: usize, net: Net, shared: Arc<Shared>) -> Self {
        let memory = shared.memory / shared.loads.len().max(1);
        let files = Files::new(worker, shared.helper.answers(worker));
        let mut tools = Tools {
            worker,
            limits: shared.settings.limits,
            counters: shared.counters[worker].clone(),
            journal: Journal::new(shared.settings.access.clone()),
            visits: Vec::new(),
            books: Vec::new(),
            shared,
            now: 0,
            now_us: 0,
            stopping: None,
            heard_all: true,
            timers: Wheel::new(),
            lot: Lot::default(),
            io: Io::new(memory),
            files,
            inbox: Box::default(),
            outbox: Vec::new(),
            fields: Vec::new(),
            host: String::new(),
            moved: 0,
            starved: false,
            start: Instant::now(),
            net,
            index: None,
            links: Slab::new(),
            pool: Pool::default(),
            held: Map::default(),
            exchanges: Vec::new(),
            turns: Vec::new(),
            lately: Vec::new(),
            restless: false,
            date: (u64::MAX, String::new()),
            logged: 0,
            ids: RequestIds::new(),
        };
        tools.repair();
        tools
    }

    /// Makes good what a turn that panicked took and did not return.
    pub fn repair(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = vec![0; INBOX].into();
        }
    }

    pub fn look_at_the_clock(&mut self) {
        self.now_us = self.us(Instant::now());
        self.now = self.now_us / 1000;
        self.io.now = self.now;
    }

    pub fn ms(&self, at: Instant) -> u64 {
        self.us(at) / 1000
    }

    pub fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros() as u64
    }

    pub fn after(&self, since: u64, limit: Duration) -> u64 {
        since + limit.as_millis() as u64
    }

    /// The table that choices are made by.
    pub fn index(&self) -> Option<&Arc<Index>> {
        self.index.as_ref()
    }

    /// Takes the newest table. To be called before each choice; costs one load when there is none.
    pub fn adopt(&mut self) {
        let current = self.index.as_ref().map_or(0, |i| i.generation);
        if self.shared.generation() == current {
            return;
        }
        let Some(index) = self.shared.newest().filter(|i| i.generation > current) else { return };
        let numbers = || index.lasting.iter().map(|lasting| lasting.number);
        let lately = |number| self.place_of(number).is_some_and(|place| self.lately[place]);
        (self.turns, self.lately) = (numbers().map(|n| self.turn_of(n)).collect(), numbers().map(lately).collect());
        for key in self.pool.prune(|id| index.has(id), 0) {
            self.links.remove(key);
        }
        self.held.retain(|id, count| *count > 0 || index.has(*id));
        self.files.keep(|root| index.has_root(root));
        let holding = self.held.keys().filter(|id| !index.has(**id)).copied().collect();
        let generation = index.generation;
        self.books = self.counters.adopt(&index);
        self.index = Some(index);
        self.shared.adopted(self.worker, generation, holding);
        self.review_parked();
    }

    /// Where the round of the upstream with this number is; workers begin at different places.
    fn turn_of(&self, number: u32) -> usize {
        self.place_of(number).map_or(self.worker, |place| self.turns[place])
    }

    fn place_of(&self, number: u32) -> Option<usize> {
        self.index.as_ref().and_then(|index| index.place_of(number))
    }

    /// The most bytes that a body for the upstream with this number may have.
    pub fn body_limit(&self, number: u32) -> u64 {
        let upstream = self.index.as_ref().and_then(|index| Some(&index.upstreams[index.place_of(number)?]));
        upstream.map_or(u64::MAX, |u| u.body_limit) // without an upstream there is nowhere to send it anyway
    }

    /// Looks for a file of the upstream with this number; see [`Files::find`].
    pub fn find_file(&mut self, number: u32, request: &Request<'_>, prefix: usize, conn: Key) -> Found {
        let upstream = self.index.as_ref().and_then(|index| Some(&index.upstreams[index.place_of(number)?]));
        let Some(upstream) = upstream else { return Found::Missing };
        let (path, fields) = (request.target.path(), request.fields);
        let look = Look { roots: &upstream.assets, path, prefix, fields, conn, now: self.now };
        self.files.find(look, &self.shared.helper)
    }

    /// Has the helper read the next piece; false when it has too much to do.
    pub fn ask_to_read(&self, delivery: &mut Delivery, conn: Key) -> bool {
        delivery.waiting = self.files.ask_to_read(delivery, conn, &self.shared.helper);
        delivery.waiting
    }

    /// The next endpoint of the upstream with this number, held from now on.
    pub fn choose(&mut self, number: u32, tried: &[EndpointId]) -> Option<Endpoint> {
        let index = self.index.as_ref()?;
        let place = index.place_of(number)?;
        let upstream = &index.upstreams[place];
        let endpoint = balance::pick(&upstream.endpoints, &mut self.turns[place], tried)?;
        if let Standing::OnDemand { .. } = upstream.standing {
            (self.lately[place], self.restless) = (true, true);
        }
        self.hold(endpoint.id);
        Some(endpoint)
    }

    fn hold(&mut self, id: EndpointId) {
        *self.held.entry(id).or_default() += 1;
    }

    /// The counterpart of [`Tools::choose`].
    pub fn release(&mut self, id: EndpointId) {
        let Some(count) = self.held.get_mut(&id).filter(|count| **count > 0) else {
            debug_assert!(false, "released more often than chosen");
            return;
        };
        *count -= 1;
        if *count == 0 && !self.index.as_ref().is_some_and(|index| index.has(id)) {
            self.held.remove(&id);
            self.shared.released(self.worker, id);
        }
    }

    /// For the simulation: when virtual time begins.
    #[cfg(any(test, feature = "lab"))]
    pub fn start(&self) -> Instant {
        self.start
    }

    #[cfg(any(debug_assertions, test, feature = "lab"))]
    pub fn holds_nothing(&self) -> bool {
        self.held.values().all(|count| *count == 0)
    }

    /// Tells which upstreams on demand are in use, or were since the last time.
    pub fn tell_activity(&mut self) {
        let Some(index) = self.index.as_ref().filter(|_| self.restless) else { return };
        self.restless = false;
        let is_held = |endpoint: &Endpoint| self.held.get(&endpoint.id).is_some_and(|count| *count > 0);
        for (upstream, lately) in index.upstreams.iter().zip(&mut self.lately) {
            let in_flight = upstream.endpoints.iter().any(is_held);
            if std::mem::take(lately) || (in_flight && matches!(upstream.standing, Standing::OnDemand { .. })) {
                self.shared.active(&upstream.name);
                self.restless |= in_flight;
            }
        }
    }

    /// Closes links that have been idle for too long, and files. True while some are left.
    pub fn sweep(&mut self) -> bool {
        for key in self.pool.prune(|_| true, self.now) {
            self.links.remove(key);
        }
        self.files.sweep(self.now) || !self.pool.is_empty()
    }

    /// Something is to be swept.
    pub fn has_leftovers(&self) -> bool {
        !self.pool.is_empty() || self.files.holds_open()
    }

    pub fn register(&self, socket: &mut Socket, key: Key) -> io::Result<()> {
        self.net.register(socket.stream(), Target::Conn(key).token())
    }

    /// The Date field of this second (RFC 9110 §6.6.1).
    pub fn date(&mut self) -> &[u8] {
        let second = self.now / 1000;
        if self.date.0 != second {
            self.date = (second, httpdate::fmt_http_date(SystemTime::now()));
        }
        self.date.1.as_bytes()
    }

    /// `exchange` in memory that an earlier one had, if there is some.
    pub fn board(&mut self, exchange: Exchange) -> Box<Exchange> {
        match self.exchanges.pop() {
            Some(mut spare) => {
                let done = std::mem::replace(&mut *spare, exchange);
                self.shelve(done.visit);
                spare
            }
            None => Box::new(exchange),
        }
    }

    /// Keeps the memory of an exchange that has left everything it held.
    pub fn unboard(&mut self, exchange: Box<Exchange>) {
        if self.exchanges.len() < SPARE_EXCHANGES {
            self.exchanges.push(exchange);
        }
    }

    pub fn request_id(&mut self) -> [u8; 32] {
        self.ids.next()
    }

    /// Whether to log a fault that each request may meet: once a second, since writing a log may block.
    pub fn may_log(&mut self) -> bool {
        let second = self.now / 1000 + 1;
        std::mem::replace(&mut self.logged, second) != second
    }

    /// Most connections are taken.
    pub fn is_busy(&self) -> bool {
        self.shared.conns.load(Ordering::Relaxed) > self.shared.max_conns * 4 / 5
    }

    /// To be asked before a read for which the other side may not have room. When it says no, the conn gets another
    /// turn once memory has come back, so that nobody waits for an event that has passed.
    pub fn may_read(&mut self) -> bool {
        let may = !self.io.spare.is_short();
        self.starved |= !may;
        may
    }

    /// The same for heads, which may use the last of it.
    pub fn may_read_head(&mut self) -> bool {
        let may = !self.io.spare.is_exhausted();
        self.starved |= !may;
        may
    }

    /// The window in which a client that we wait for must move something.
    pub fn pace(&self) -> Duration {
        if self.io.spare.is_short() { self.limits.pace_when_short } else { self.limits.pace }
    }
}
