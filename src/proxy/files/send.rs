//! Send: a file on its way to a client, piece by piece.
//!
//! ```text
//!   read a piece that is in memory ─▶ socket ─▶ when that is clear, the next
//!      │ it is not: the helper reads it ─▶ socket
//! ```
//! **Invariant**: at most one piece waits, in the socket or with the helper. A file that has become shorter cuts the
//! response; nothing is put in the place of what is gone.

use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};

use super::PIECE;
use super::asset::Variant;
use super::head::Part;
use super::helper::Job;
use crate::proxy::access::Visit;
use crate::proxy::transport::Socket;

pub(in crate::proxy) struct Delivery {
    /// What its access line will say.
    visit: Box<Visit>,
    variant: Arc<Variant>,
    at: u64,
    end: u64,
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
        Delivery { visit, variant, at, end, close, waiting: false, progress: now }
    }

    /// What is known of it at its end.
    pub fn end_visit(mut self, client: &Socket) -> Box<Visit> {
        self.visit.bytes_out = client.sent() - self.visit.sent_before;
        self.visit
    }

    pub fn is_over(&self) -> bool {
        self.at == self.end
    }

    /// Reads the next piece into `room`, as much of it as is in memory.
    pub fn read(&mut self, room: &mut [u8]) -> Got {
        let got = read(&self.variant, (self.at, self.end), room);
        if let Got::Bytes(n) = got {
            self.at += n as u64;
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
