//! Handoff: accepted connections on their way from a worker that has many to one that has few.
//!
//! The kernel wakes the worker that slept last, so whoever is busy tends to get more, and a connection that is kept alive
//! stays where it came in: measured without this, one of two workers had up to seven eighths of them.
//!
//! **Invariant**: a connection is lost on the way only with the process: what cannot be handed on is kept, and a worker
//! that stops takes what lies in its queue first.

use std::net::IpAddr;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::TcpStream;

/// In one worker's queue at most; it is woken for the first, and takes all at once.
const QUEUE: usize = 64;
/// How many connections more than the other a worker keeps for itself: a handoff costs a wake, which an evenly loaded
/// pair should not pay.
const SLACK: usize = 8;

/// An accepted connection, registered nowhere yet.
pub(super) struct Handed {
    pub stream: TcpStream,
    pub address: IpAddr,
    pub secure: bool,
}

/// What others have for one worker.
pub(super) struct Queue {
    sender: Sender<Handed>,
    receiver: Receiver<Handed>,
}

impl Default for Queue {
    fn default() -> Self {
        let (sender, receiver) = bounded(QUEUE);
        Queue { sender, receiver }
    }
}

impl Queue {
    /// Leaves a connection here, or gives it back when there is no room.
    pub fn offer(&self, handed: Handed) -> Result<(), Handed> {
        self.sender.try_send(handed).map_err(|e| e.into_inner())
    }

    pub fn take(&self) -> Option<Handed> {
        self.receiver.try_recv().ok()
    }

    pub fn len(&self) -> usize {
        self.receiver.len()
    }
}

/// Who should have the next connection, if not worker `me` who has accepted it: of those with clearly fewer, the one with
/// the fewest.
pub(super) fn better(me: usize, conns: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let own = conns.clone().nth(me)?;
    let (worker, fewest) = conns.enumerate().min_by_key(|(_, n)| *n)?;
    (worker != me && fewest + SLACK < own).then_some(worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_to_the_one_with_clearly_fewer() {
        let check = |me, conns: &[usize]| better(me, conns.iter().copied());
        assert_eq!(check(0, &[5]), None);
        assert_eq!(check(0, &[8, 0]), None, "not for so few");
        assert_eq!(check(0, &[9, 0]), Some(1));
        assert_eq!(check(1, &[9, 0]), None);
        assert_eq!(check(2, &[70, 60, 80, 50]), Some(3));
        assert_eq!(check(0, &[0, 0]), None);
    }
}
