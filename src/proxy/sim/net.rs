//! Net: TCP as Linux reports it to an edge-triggered queue, without a kernel.
//!
//! A [`Wire`] is one connection. The data plane has its [`Stream`], a script has the other end. Reports are as sparse
//! as epoll's: one is queued when something *arrives* or when room comes back after a write was refused, and what it
//! says is the state at the time it is fetched. Whoever forgets such a report sleeps for good, which is what the
//! simulation looks for.
//!
//! **Invariant**: nothing here is more generous than Linux. No report follows our own `shut`, a reset loses what the
//! peer has not read, and a close over unread input is a reset.

mod stream;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;

use mio::Token;

use crate::proxy::token::Target;
use crate::proxy::wire::Ready;

/// How an endpoint takes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dial {
    /// It stands when `connect` returns.
    Stands,
    /// In progress until the script says otherwise.
    Waits,
    /// Refused while in progress, as on loopback.
    Refuses,
    /// Refused by `connect` itself.
    Fails,
    /// We are out of ports.
    Shortage,
}

/// The network of one run.
#[derive(Clone)]
pub(in crate::proxy) struct Net(Rc<Hub>);

struct Hub {
    /// Wires with something to report, in order.
    ready: RefCell<VecDeque<Rc<RefCell<Wire>>>>,
    /// Counts every byte and every end that passed, so that standstill can be seen.
    moved: Cell<u64>,
    /// How many wires there were.
    wires: Cell<usize>,
    dials: RefCell<HashMap<SocketAddr, Dial>>,
    /// Connections that the script has not seen yet.
    dialed: RefCell<Vec<(SocketAddr, End)>>,
}

/// The data plane's end; dropping it closes it.
pub(in crate::proxy) struct Stream(End);

/// The script's end.
#[derive(Clone)]
pub(super) struct End {
    wire: Rc<RefCell<Wire>>,
    hub: Rc<Hub>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialing,
    Open,
    /// Reset by the peer, or refused.
    Dead,
}

/// How the data plane left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    Fin,
    Reset,
}

struct Wire {
    /// For the trace.
    name: usize,
    token: Option<Token>,
    queued: bool,
    stage: Stage,
    /// Arrived, and not read by the data plane yet.
    inbox: VecDeque<u8>,
    /// All that has arrived, in bytes.
    came: u64,
    /// The peer's FIN has arrived.
    fin: bool,
    end_read: bool,
    error: Option<ErrorKind>,
    /// All that the data plane has written.
    sent: Vec<u8>,
    /// How much of it the peer has read.
    seen: usize,
    /// How much may be written and not read.
    room: usize,
    /// A write was refused or cut short: tell when there is room (`SOCK_NOSPACE`).
    starved: bool,
    shut: bool,
    reset_on_close: bool,
    kept_alive: bool,
    closed: Option<Farewell>,
}

impl Net {
    pub fn new() -> Self {
        Net(Rc::new(Hub {
            ready: RefCell::default(),
            moved: Cell::new(0),
            wires: Cell::new(0),
            dials: RefCell::default(),
            dialed: RefCell::default(),
        }))
    }

    /// A connection that a client has made; `room` bytes may wait for it.
    pub(super) fn arrive(&self, room: usize) -> (Stream, End) {
        let end = self.wire(Stage::Open, room);
        (Stream(end.clone()), end)
    }

    pub(super) fn set_dial(&self, addr: SocketAddr, dial: Dial) {
        self.0.dials.borrow_mut().insert(addr, dial);
    }

    /// Connections made since the last call.
    pub(super) fn dialed(&self) -> Vec<(SocketAddr, End)> {
        self.0.dialed.take()
    }

    pub(super) fn moved(&self) -> u64 {
        self.0.moved.get()
    }

    /// Nothing is left to be reported.
    pub(super) fn is_silent(&self) -> bool {
        self.0.ready.borrow().is_empty()
    }

    /// What `epoll_wait` would return now, with room for so many.
    pub(super) fn reports(&self, room: usize) -> Vec<(Target, Ready)> {
        let mut ready = self.0.ready.borrow_mut();
        let room = room.min(ready.len());
        let wires: Vec<_> = ready.drain(..room).collect();
        drop(ready);
        wires.iter().filter_map(|wire| wire.borrow_mut().report()).collect()
    }

    pub(in crate::proxy) fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        let dial = self.0.dials.borrow().get(&addr).copied().unwrap_or(Dial::Fails);
        let stage = match dial {
            Dial::Stands => Stage::Open,
            Dial::Waits | Dial::Refuses => Stage::Dialing,
            Dial::Fails => return Err(ErrorKind::ConnectionRefused.into()),
            Dial::Shortage => return Err(rustix::io::Errno::ADDRNOTAVAIL.into()),
        };
        let end = self.wire(stage, 4096);
        if dial == Dial::Refuses {
            end.refuse();
        }
        self.0.dialed.borrow_mut().push((addr, end.clone()));
        Ok(Stream(end))
    }

    fn wire(&self, stage: Stage, room: usize) -> End {
        let name = self.0.wires.replace(self.0.wires.get() + 1);
        log::trace!("wire {name}: {stage:?} room={room}");
        let wire = Wire {
            name,
            token: None,
            queued: false,
            stage,
            inbox: VecDeque::new(),
            came: 0,
            fin: false,
            end_read: false,
            error: None,
            sent: Vec::new(),
            seen: 0,
            room,
            starved: false,
            shut: false,
            reset_on_close: false,
            kept_alive: false,
            closed: None,
        };
        End { wire: Rc::new(RefCell::new(wire)), hub: self.0.clone() }
    }
}

impl End {
    /// Queues a report, as a wake-up of the socket does.
    fn wake(&self) {
        let mut wire = self.wire.borrow_mut();
        if wire.token.is_some() && wire.closed.is_none() && !std::mem::replace(&mut wire.queued, true) {
            self.hub.ready.borrow_mut().push_back(self.wire.clone());
        }
    }

    /// A report that nothing caused: the kernel may send one at any time.
    pub fn nudge(&self) {
        self.wake();
    }

    fn moved(&self, n: usize) {
        self.hub.moved.set(self.hub.moved.get() + n as u64);
    }

    pub fn is_dialing(&self) -> bool {
        self.wire.borrow().stage == Stage::Dialing
    }

    /// Completes the handshake.
    pub fn accept(&self, room: usize) {
        let mut wire = self.wire.borrow_mut();
        wire.room = room;
        if wire.stage == Stage::Dialing {
            wire.stage = Stage::Open;
            drop(wire);
            self.wake();
        }
    }

    pub fn refuse(&self) {
        self.die(ErrorKind::ConnectionRefused);
    }

    /// Bytes of the peer arrive.
    pub fn send(&self, bytes: &[u8]) {
        if bytes.is_empty() || !self.is_up() {
            return;
        }
        assert!(!self.wire.borrow().fin, "a script sends after its end");
        let mut wire = self.wire.borrow_mut();
        log::trace!("wire {}: peer sends {} {}", wire.name, bytes.len(), bytes[..bytes.len().min(60)].escape_ascii());
        wire.inbox.extend(bytes);
        wire.came += bytes.len() as u64;
        drop(wire);
        self.wake();
    }

    pub fn finish(&self) {
        if self.is_up() && !std::mem::replace(&mut self.wire.borrow_mut().fin, true) {
            log::trace!("wire {}: peer ends", self.wire.borrow().name);
            self.wake();
        }
    }

    pub fn reset(&self) {
        if self.is_up() {
            self.die(ErrorKind::ConnectionReset);
        }
    }

    fn die(&self, error: ErrorKind) {
        let mut wire = self.wire.borrow_mut();
        log::trace!("wire {}: {error}", wire.name);
        let error = if wire.fin { ErrorKind::BrokenPipe } else { error };
        (wire.stage, wire.error) = (Stage::Dead, Some(error));
        drop(wire);
        self.wake();
    }

    /// Reads at most `n` bytes of what was written, which makes room for as much.
    pub fn take(&self, n: usize) -> Vec<u8> {
        let mut wire = self.wire.borrow_mut();
        if wire.closed == Some(Farewell::Reset) || wire.stage == Stage::Dead {
            return Vec::new(); // what was on its way is lost
        }
        let to = wire.sent.len().min(wire.seen.saturating_add(n));
        let bytes = wire.sent[wire.seen..to].to_vec();
        wire.seen = to;
        log::trace!("wire {}: peer reads {}", wire.name, bytes.len());
        let tell = wire.starved && wire.has_room();
        wire.starved &= !tell;
        drop(wire);
        if tell {
            self.wake();
        }
        bytes
    }

    /// Neither end has closed it, nor was it reset.
    pub fn is_up(&self) -> bool {
        let wire = self.wire.borrow();
        wire.closed.is_none() && wire.stage == Stage::Open
    }

    /// The peer has read everything, and this is how it ended.
    pub fn farewell(&self) -> Option<Farewell> {
        let wire = self.wire.borrow();
        match wire.closed {
            Some(Farewell::Reset) => Some(Farewell::Reset),
            Some(Farewell::Fin) => Some(Farewell::Fin),
            None if wire.shut => Some(Farewell::Fin),
            None => None,
        }
        .filter(|farewell| *farewell == Farewell::Reset || wire.seen == wire.sent.len())
    }

    /// The data plane has let go of it.
    pub fn is_closed(&self) -> bool {
        self.wire.borrow().closed.is_some()
    }

    pub fn is_kept_alive(&self) -> bool {
        self.wire.borrow().kept_alive
    }

    pub fn sent_len(&self) -> usize {
        self.wire.borrow().sent.len()
    }

    /// All that the data plane has written, read or not.
    pub fn sent(&self) -> Vec<u8> {
        self.wire.borrow().sent.clone()
    }
}

impl Wire {
    fn has_room(&self) -> bool {
        let free = self.room.saturating_sub(self.sent.len() - self.seen);
        free > 0 && free * 3 >= self.room // `sk_stream_is_writeable`
    }

    /// The state as `tcp_poll` tells it, in the words of mio.
    fn report(&mut self) -> Option<(Target, Ready)> {
        self.queued = false;
        let token = self.token.filter(|_| self.closed.is_none() && self.stage != Stage::Dialing)?;
        let dead = self.stage == Stage::Dead;
        let input = dead || self.fin || !self.inbox.is_empty();
        let read_hang_up = dead || self.fin;
        let output = dead || self.shut || self.has_room();
        let hang_up = dead || (self.fin && self.shut);
        let error = self.error.is_some();
        let ready = Ready {
            readable: input,
            writable: output,
            read_closed: hang_up || (input && read_hang_up),
            write_closed: hang_up || (output && error),
            error,
        };
        log::trace!("wire {}: {ready:?}", self.name);
        (input || output || error).then(|| (Target::of(token), ready))
    }
}
