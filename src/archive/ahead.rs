//! Ahead: a stream is read, which means decompressed and hashed, on one thread while what is in it is used on another.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::error::{Context, Result};

/// Handed over at once: many small files, or a part of a large one.
const PIECE: usize = 256 << 10;
/// Pieces that wait; a short stop of the disk does not stop the processor.
const PIECES: usize = 4;

/// Gives `act` what is in `from`, and `from` back to the caller when `act` is done.
///
/// # Errors
/// Io when no thread can be started.
pub(super) fn read<R: Read + Send, T>(mut from: R, act: impl FnOnce(&mut Ahead) -> T) -> Result<(T, R)> {
    thread::scope(|scope| {
        let (pieces, coming) = sync_channel(PIECES);
        let reader = thread::Builder::new().name("unpack".into()).spawn_scoped(scope, move || {
            feed(&mut from, &pieces);
            from
        });
        let reader = reader.context(|| "start a thread".into())?;
        // Dropped before the join: a reader that nobody listens to ends.
        let done = act(&mut Ahead { coming, piece: Vec::new(), used: 0 });
        let from = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((done, from))
    })
}

fn feed(from: &mut impl Read, to: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = from.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let (ended, failed) = (piece.is_empty(), read.is_err());
        // What came before a failure is used before it is told.
        let gone = !ended && to.send(Ok(piece)).is_err();
        if let (false, Err(e)) = (gone, read) {
            let _ = to.send(Err(e));
        }
        if ended || failed || gone {
            return;
        }
    }
}

/// What has been read and not been used.
pub(super) struct Ahead {
    coming: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Ahead {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            match self.coming.recv() {
                Ok(piece) => (self.piece, self.used) = (piece?, 0),
                // The reader came to the end.
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.piece[self.used..];
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        self.used += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes, then fails or ends.
    struct Source {
        left: usize,
        fails: bool,
    }

    impl Read for Source {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 && self.fails {
                return Err(io::Error::other("broken"));
            }
            let n = self.left.min(to.len()).min(10_000);
            to[..n].fill(7);
            self.left -= n;
            Ok(n)
        }
    }

    #[test]
    fn gives_all_that_there_is_and_then_the_failure() {
        for (left, fails) in [(0, false), (0, true), (PIECE, false), (PIECE, true), (10 * PIECE + 1, true)] {
            let mut bytes = Vec::new();
            let (read, from) = read(Source { left, fails }, |ahead| ahead.read_to_end(&mut bytes)).unwrap();
            assert_eq!((read.is_err(), bytes.len(), from.left), (fails, left, 0));
        }
    }

    #[test]
    fn stops_when_nobody_wants_more() {
        let endless = Source { left: usize::MAX, fails: false };
        let (first, from) = read(endless, |ahead| ahead.read(&mut [0; 10]).unwrap()).unwrap();
        assert_eq!(first, 10);
        assert!(usize::MAX - from.left <= (PIECES + 3) * PIECE);
    }
}
