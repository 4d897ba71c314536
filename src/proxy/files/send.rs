//! Send: a file on its way to a client, piece by piece.
//!
//! ```text
//!   read a piece that is in memory ─▶ socket ─▶ when that is clear, the next
//!      │ it is not: the helper reads it ─▶ socket
//! ```
//! What was just read from end to end is in memory. If its name carries a hash besides, so that nobody writes to it, it
//! goes from there to a plain socket without us (`sendfile`): for a large file that is less than half of the work.
//!
//! **Invariant**: at most one piece waits, in the socket or with the helper. A file that has become shorter cuts the
//! response; nothing is put in the place of what is gone.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::{Errno, ReadWriteFlags};

use super::PIECE;
use super::asset::Variant;
use super::head::Part;
use super::helper::Job;
use crate::proxy::access::Visit;
use crate::proxy::http::buf::CHUNK;
use crate::proxy::transport::Socket;

/// Milliseconds for which what was read is taken to be in memory still: the kernel drops what is used last, last.
const WARM: u64 = 1000;
/// One call of `sendfile`, so that others get their turn.
const SLICE: usize = 256 << 10;

pub(in crate::proxy) struct Delivery {
    /// What its access line will say.
    visit: Box<Visit>,
    variant: Arc<Variant>,
    at: u64,
    end: u64,
    is_whole: bool,
    pub close: bool,
    /// The helper reads for it.
    pub waiting: bool,
    /// When a byte last moved, or began to be waited for.
    pub progress: u64,
}

/// What a read that does not wait came to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Got {
    Bytes(usize),
    /// It is not in memory, or the kernel cannot say.
    NotNow,
    /// The file is shorter than it was, or broken.
    Cut,
}

impl Delivery {
    pub fn new(visit: Box<Visit>, variant: Arc<Variant>, (at, end): Part, close: bool, now: u64) -> Self {
        let is_whole = at == 0 && end == variant.size;
        Delivery { visit, variant, at, end, is_whole, close, waiting: false, progress: now }
    }

    /// What is known of it at its end.
    pub fn end_visit(mut self, client: &Socket) -> Box<Visit> {
        self.visit.bytes_out = client.sent() - self.visit.sent_before;
        self.visit
    }

    pub fn is_over(&self) -> bool {
        self.at == self.end
    }

    /// What is left may go by `sendfile`, and is worth a call of its own. The kernel sends from the file's own memory: of
    /// a file that is cut while it is sent, zeros may arrive for what was on its way. Releases do not change once they
    /// are complete, and whoever overwrites a file in place has torn answers from any server.
    pub fn is_warm(&self, now: u64) -> bool {
        let variant = &self.variant;
        variant.warm_until.load(Ordering::Relaxed) > now && self.end - self.at > CHUNK as u64
    }

    /// What [`Socket::send_file`](crate::proxy::transport::Socket::send_file) is to be given next.
    pub fn next_slice(&self) -> (BorrowedFd<'_>, u64, usize) {
        (self.variant.file.as_fd(), self.at, SLICE.min(usize::try_from(self.end - self.at).unwrap_or(SLICE)))
    }

    /// So much has been sent.
    pub fn advance(&mut self, n: usize) {
        self.at += n as u64;
    }

    /// Reads the next piece into `room`, as much of it as is in memory.
    pub fn read(&mut self, room: &mut [u8], now: u64) -> Got {
        let got = read(&self.variant, (self.at, self.end), room);
        if let Got::Bytes(n) = got {
            self.at += n as u64;
            if self.is_over() && self.is_whole {
                self.variant.warm_until.store(now + WARM, Ordering::Relaxed);
            }
        }
        got
    }

    pub(super) fn next_read(&self) -> Job {
        let length = PIECE.min(usize::try_from(self.end - self.at).unwrap_or(PIECE));
        Job::Read { variant: self.variant.clone(), at: self.at, length }
    }

    /// Takes what the helper read. False when it is not what was asked for, or nothing: then the response is cut.
    pub fn take(&mut self, at: u64, bytes: &[u8]) -> bool {
        let fits = self.waiting && at == self.at && !bytes.is_empty() && bytes.len() as u64 <= self.end - self.at;
        self.waiting = false;
        if fits {
            self.at += bytes.len() as u64;
        }
        fits
    }
}

/// Reads the beginning of `part` into `room` if it is in memory.
pub(in crate::proxy) fn read(variant: &Variant, (at, end): Part, room: &mut [u8]) -> Got {
    let length = room.len().min(PIECE).min(usize::try_from(end - at).unwrap_or(PIECE));
    loop {
        let mut rooms = [IoSliceMut::new(&mut room[..length])];
        return match rustix::io::preadv2(variant.file.as_fd(), &mut rooms, at, ReadWriteFlags::NOWAIT) {
            Ok(0) => Got::Cut,
            Ok(n) => Got::Bytes(n),
            Err(Errno::INTR) => continue,
            // Old kernels and some file systems do not know how not to wait.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Got::NotNow,
            Err(_) => Got::Cut,
        };
    }
}
