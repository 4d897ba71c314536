//! Transport: a stream, with or without TLS, behind the same read and write.
//!
//! Edge-triggered: registered once for both directions, readiness is kept here as bits, and a bit is cleared only by
//! the kernel's "no more". **Invariant (no lost wake-up)**: whoever leaves a bit set comes back by itself; output
//! that waits has a cleared write bit, so the kernel will report. All output goes through [`Socket::flush`].

mod ending;

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use super::http::buf::{Buf, CHUNK, Spare};
use super::tls::{Fed, MAX_HELD, Tls, Wire};
use super::wire::{Ready, Stream};
use crate::sys;

/// One read of a body, which is what a sink that does not keep up pins at most: 64 KiB and a head. Two chunks would pin
/// less and cost a fifth more for each byte of a large body (measured on loopback); what all sinks may pin together has
/// its own limit.
pub(super) const BODY_READ: usize = 5 * CHUNK;
/// One read of a tunnel, of which there may be many and idle ones, in pieces that are mostly small.
pub(super) const TUNNEL_READ: usize = 2 * CHUNK;
/// One read while waiting for a head; what follows it (a body, the next request) waits in one chunk.
pub(super) const HEAD_READ: usize = CHUNK;
/// Where input is looked at: the largest head so far, one read, and the rest of a TLS record.
pub(super) const INBOX: usize = (64 << 10) + BODY_READ + 2 * CHUNK;

/// Scratch of one worker, lent for one call.
pub(super) struct Io {
    pub spare: Spare,
    /// As in `Tools`, in milliseconds.
    pub now: u64,
    wire_in: Box<[u8]>,
    wire_out: Wire,
}

impl Io {
    /// `memory`: what may wait in chunks, in bytes.
    pub fn new(memory: usize) -> Self {
        let wire_in = vec![0; MAX_HELD + BODY_READ].into();
        Io { spare: Spare::new(memory), now: 0, wire_in, wire_out: Wire::default() }
    }
}

pub(super) struct Socket {
    stream: Stream,
    tls: Option<Box<Tls>>,
    /// Waiting for the peer to take it.
    out: Buf,
    /// Received and decrypted, not yet wanted.
    stash: Buf,
    readable: bool,
    writable: bool,
    /// The peer has sent its FIN; a short read no longer means that there is nothing more.
    fin: bool,
    /// The peer's FIN has been read: nothing is left unread, so a plain close sends ours and no reset.
    ended: bool,
    /// Reset or both halves closed.
    broken: bool,
    /// A write was told of a reset, which the kernel says once: a read would take it for a clean end. A broken pipe is
    /// none: then the peer's FIN came before.
    cut: bool,
    /// `connect` has not been confirmed by a successful write.
    connecting: bool,
    goodbye_said: bool,
    /// The peer has said goodbye in TLS, whatever TCP says.
    tls_over: bool,
    /// Bytes given to [`Socket::send`].
    sent: u64,
}

/// What [`Socket::gather`] put into the inbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    pub len: usize,
    /// How much of it is new.
    pub fresh: usize,
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    /// The peer sends nothing more.
    Clean,
    /// The connection broke.
    Broken,
}

impl Socket {
    /// An accepted connection, taken to be readable: a first read costs less than a turn of the loop.
    pub fn accepted(stream: Stream, tls: Option<Box<Tls>>) -> Self {
        Socket {
            stream,
            tls,
            out: Buf::new(),
            stash: Buf::new(),
            readable: true,
            writable: true,
            fin: false,
            ended: false,
            broken: false,
            cut: false,
            connecting: false,
            goodbye_said: false,
            tls_over: false,
            sent: 0,
        }
    }

    /// A connection being made. On loopback it stands when `connect` returns, so the first write is tried at once.
    pub fn connecting(stream: Stream) -> Self {
        Socket { readable: false, connecting: true, ..Socket::accepted(stream, None) }
    }

    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// What the kernel reported.
    pub fn on(&mut self, ready: Ready) {
        self.readable |= ready.readable || ready.read_closed || ready.error;
        self.writable |= ready.writable || ready.write_closed || ready.error;
        self.fin |= ready.read_closed;
        self.broken |= ready.error || (ready.read_closed && ready.write_closed);
    }

    pub fn is_connecting(&self) -> bool {
        self.connecting
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub fn has_fin(&self) -> bool {
        self.fin
    }

    /// The TLS handshake, if there is one, is over.
    pub fn is_open(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_ready())
    }

    /// The TLS session, if there is one.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// How much it was given to send, before encryption.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// All output is with the kernel.
    pub fn is_clear(&self) -> bool {
        self.out.is_empty()
    }

    pub fn has_stash(&self) -> bool {
        !self.stash.is_empty()
    }

    pub fn stash(&self) -> &[u8] {
        self.stash.bytes()
    }

    pub fn consume_stash(&mut self, n: usize, io: &mut Io) {
        self.stash.consume(n, &mut io.spare);
    }

    /// Something may be read without waiting.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Lets the next read try, whatever the bits say.
    pub fn look_again(&mut self) {
        self.readable = true;
    }

    /// No end of it has been reported.
    pub fn is_sound(&self) -> bool {
        !self.fin && !self.broken
    }

    /// All that came has been read. After a read that filled its room only the kernel knows.
    pub fn is_drained(&self) -> bool {
        !self.readable || self.is_quiet()
    }

    /// Nothing to read, no end: fit to be used again. A byte here would be an answer to nothing.
    pub fn is_quiet(&self) -> bool {
        self.is_sound() && matches!(self.stream.peek(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Fills `inbox` with what waits and, if `more`, with one read of at most `max`.
    pub fn gather(&mut self, inbox: &mut [u8], io: &mut Io, max: usize, more: bool) -> Gathered {
        let held = self.stash.bytes().len();
        inbox[..held].copy_from_slice(self.stash.bytes());
        self.stash.clear(&mut io.spare);
        let mut got = Gathered { len: held, fresh: 0, end: End::NotYet };
        if more && self.readable {
            let room = &mut inbox[held..];
            let result = if self.tls.is_some() { self.read_tls(room, io, max) } else { self.read_plain(room, max) };
            match result {
                Ok((n, end)) => (got.fresh, got.end) = (n, end),
                Err(_) => got.end = End::Broken,
            }
            got.len += got.fresh;
        }
        got
    }

    /// Keeps what was not used of the inbox.
    pub fn put_back(&mut self, rest: &[u8], io: &mut Io) {
        debug_assert!(!self.has_stash(), "put back twice");
        self.stash.push(rest, &mut io.spare);
    }

    /// Queues `bytes` and writes what the peer takes.
    pub fn send(&mut self, bytes: &[u8], io: &mut Io) -> io::Result<()> {
        self.sent += bytes.len() as u64;
        match &mut self.tls {
            _ if bytes.is_empty() => Ok(()),
            None => self.send_wire(bytes, &mut io.spare),
            Some(tls) => {
                io.wire_out.clear();
                tls.seal(bytes, io.now, &mut io.wire_out).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
                let wire = std::mem::take(&mut io.wire_out);
                let result = self.send_wire(wire.bytes(), &mut io.spare);
                io.wire_out = wire;
                result
            }
        }
    }

    /// Queues `bytes`, which are followed by more at once: the kernel may wait with them for that (MSG_MORE).
    pub fn send_ahead(&mut self, mut bytes: &[u8], io: &mut Io) -> io::Result<()> {
        if self.is_plain() && self.out.is_empty() && self.writable {
            // Whatever is wrong, or left, the write that follows sees to.
            let n = self.stream.write_more(bytes).unwrap_or(0);
            self.sent += n as u64;
            bytes = &bytes[n..];
        }
        self.send(bytes, io)
    }

    /// Moves bytes of a file from the kernel's memory to the peer without passing through ours. `None` when the peer takes
    /// no more now, 0 when the file ends before `at`. Only while [`Socket::is_plain`] and [`Socket::is_clear`].
    pub fn send_file(&mut self, file: impl AsFd, mut at: u64, length: usize) -> io::Result<Option<usize>> {
        debug_assert!(self.is_plain() && self.is_clear(), "it would overtake what waits, or go out in clear");
        while self.writable {
            match self.stream.send_file(&file, &mut at, length) {
                Ok(n) => {
                    self.sent += n as u64;
                    return Ok(Some(n));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Without TLS.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Writes what waits, and tells whether all of it is with the kernel.
    pub fn flush(&mut self, io: &mut Io) -> io::Result<bool> {
        while self.writable && !self.out.is_empty() {
            let n = write(&mut self.stream, self.out.bytes(), &mut self.writable, &mut self.connecting);
            let n = n.inspect_err(|e| self.cut |= e.kind() != ErrorKind::BrokenPipe)?;
            self.out.consume(n, &mut io.spare);
        }
        Ok(self.out.is_empty())
    }

    /// What was never taken by the peer, to be sent elsewhere. Only while connecting: then that is all there is.
    pub fn take_unsent(&mut self) -> Buf {
        std::mem::replace(&mut self.out, Buf::new())
    }

    /// Forgets what waits: the peer no longer listens.
    pub fn drop_unsent(&mut self, io: &mut Io) {
        self.out.clear(&mut io.spare);
    }

    /// Lets the kernel find out that a silent peer is gone.
    pub fn keep_alive(&self) {
        self.stream.keep_alive();
    }

    /// What the kernel says that the connection has moved since it began.
    pub fn moved(&self) -> Option<sys::Moved> {
        self.stream.moved()
    }

    /// Gives the chunks back.
    pub fn clear(&mut self, io: &mut Io) {
        self.out.clear(&mut io.spare);
        self.stash.clear(&mut io.spare);
    }

    fn send_wire(&mut self, mut bytes: &[u8], spare: &mut Spare) -> io::Result<()> {
        if self.out.is_empty() {
            while self.writable && !bytes.is_empty() {
                let n = write(&mut self.stream, bytes, &mut self.writable, &mut self.connecting);
                let n = n.inspect_err(|e| self.cut |= e.kind() != ErrorKind::BrokenPipe)?;
                bytes = &bytes[n..];
            }
        }
        self.out.push(bytes, spare);
        debug_assert!(
            self.out.is_empty() || !self.writable || self.out.bytes().len() > bytes.len(),
            "output would sleep"
        );
        Ok(())
    }

    fn read_plain(&mut self, room: &mut [u8], max: usize) -> io::Result<(usize, End)> {
        let max = max.min(room.len());
        Ok(match read(&mut self.stream, &mut room[..max], &mut self.readable, self.fin)? {
            None => (0, End::NotYet),
            Some(0) => {
                self.ended = true;
                (0, if self.cut { End::Broken } else { End::Clean })
            }
            Some(n) => (n, End::NotYet),
        })
    }

    fn read_tls(&mut self, room: &mut [u8], io: &mut Io, max: usize) -> io::Result<(usize, End)> {
        let Some(tls) = self.tls.as_mut().filter(|_| !self.tls_over) else { return Ok((0, End::Clean)) };
        let held = tls.held().len();
        io.wire_in[..held].copy_from_slice(tls.held());
        let end = io.wire_in.len().min(held + max);
        let n = match read(&mut self.stream, &mut io.wire_in[held..end], &mut self.readable, self.fin)? {
            None => return Ok((0, End::NotYet)),
            Some(0) => {
                self.ended = true;
                return Ok((0, End::Clean));
            }
            Some(n) => n,
        };
        io.wire_out.clear();
        let fed = tls.feed(&mut io.wire_in[..held + n], room, &mut io.wire_out);
        let reply = std::mem::take(&mut io.wire_out);
        let sent = self.send_wire(reply.bytes(), &mut io.spare);
        io.wire_out = reply;
        let Fed { plain, closed } = fed.map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        sent?;
        if closed {
            (self.tls_over, self.fin, self.readable) = (true, true, true);
        }
        Ok((plain, End::NotYet)) // the end is told by the next read
    }
}

/// One read. `None` when there is nothing now; clears the bit then, and after a short read, which means the same
/// unless the end is near.
fn read(stream: &mut Stream, room: &mut [u8], readable: &mut bool, fin: bool) -> io::Result<Option<usize>> {
    loop {
        match stream.read(room) {
            Ok(n) => {
                *readable = n == room.len() || fin || n == 0;
                return Ok(Some(n));
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                *readable = false;
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
    }
}

/// One write, which clears the bit when the peer is full or not there yet.
fn write(stream: &mut Stream, bytes: &[u8], writable: &mut bool, connecting: &mut bool) -> io::Result<usize> {
    loop {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                *connecting = false;
                return Ok(n);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock || (*connecting && e.kind() == ErrorKind::NotConnected) => {
                *writable = false;
                return Ok(0);
            }
            Err(e) => return Err(e),
        }
    }
}
