//! Inlet: what a running command is told: its input, the size of its terminal, signals.
//!
//! **Invariant**: no more input is sent than the server has asked for, so that a signal behind it is heard at once.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crossbeam_channel::Sender;

use crate::proto::control::{Call, Request};
use crate::proto::task::{Blob, Input, PIECE};

/// A cloneable way to the command that one call runs.
#[derive(Clone)]
pub(crate) struct Inlet {
    calls: Sender<Call>,
    id: u64,
    wanted: Arc<(Mutex<usize>, Condvar)>,
}

impl Inlet {
    pub(super) fn new(calls: Sender<Call>, id: u64) -> Inlet {
        Inlet { calls, id, wanted: Arc::default() }
    }

    /// False when the connection has ended.
    pub fn send(&self, input: Input) -> bool {
        self.calls.send(Call { id: self.id, request: Request::Input(input) }).is_ok()
    }

    /// The server takes so many bytes more.
    pub fn wants(&self, bytes: usize) {
        let (wanted, more) = &*self.wanted;
        let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = wanted.saturating_add(bytes);
        more.notify_all();
    }

    /// Sends all of a stream, and its end.
    pub fn pour(&self, mut from: impl Read) {
        let mut buffer = vec![0; PIECE];
        loop {
            let room = self.room().min(PIECE);
            match from.read(&mut buffer[..room]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(read) if read > 0 => {
                    self.take(read);
                    if !self.send(Input::Bytes(Blob(buffer[..read].to_vec()))) {
                        return;
                    }
                }
                Ok(_) | Err(_) => {
                    self.send(Input::End);
                    return;
                }
            }
        }
    }

    /// Waits until the server takes something.
    fn room(&self) -> usize {
        let (wanted, more) = &*self.wanted;
        let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
        while *wanted == 0 {
            wanted = more.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
        *wanted
    }

    fn take(&self, bytes: usize) {
        *self.wanted.0.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn no_more_is_sent_than_is_asked_for_and_the_end_is_told() {
        let (calls, sent) = bounded(1);
        let inlet = Inlet::new(calls, 7);
        let pouring = inlet.clone();
        let thread = thread::spawn(move || pouring.pour(&[1u8; 100_000][..]));
        let mut heard = 0;
        for asked in [10, 50_000, 60_000] {
            inlet.wants(asked);
            let goal = (heard + asked).min(100_000);
            while heard < goal {
                let Call { id: 7, request: Request::Input(Input::Bytes(Blob(bytes))) } = sent.recv().unwrap() else {
                    panic!("no bytes")
                };
                heard += bytes.len();
            }
            assert_eq!(heard, goal, "no more than it asked for");
        }
        assert!(matches!(sent.recv().unwrap().request, Request::Input(Input::End)));
        thread.join().unwrap();
    }
}
