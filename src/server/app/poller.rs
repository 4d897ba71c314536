//! Poller: a thread around a mio poll, with orders for it and a bell that makes it look at them. `watch` and `probe` are
//! one each, so that the number of threads does not grow with instances.
//!
//! **Invariant**: the thread ends, and has ended, when the last handle is dropped.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::{Poll, Token, Waker};

use crate::error::{Context, Result};

/// The bell's own token: no descriptor has it.
pub(super) const BELL: Token = Token(usize::MAX);

pub(super) struct Poller<O> {
    /// `None` is the last order. A few wait per instance, so they are bounded by the number of instances.
    to: Sender<Option<O>>,
    bell: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<O: Send + 'static> Poller<O> {
    /// Runs `run` on a thread of that name; it must return when it gets the order `None`.
    pub fn start(name: &str, run: impl FnOnce(Poll, Receiver<Option<O>>) + Send + 'static) -> Result<Self> {
        let doing = || format!("start the {name} thread");
        let poll = Poll::new().context(doing)?;
        let bell = Waker::new(poll.registry(), BELL).context(doing)?;
        let (to, orders) = unbounded();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(poll, orders)).context(doing)?;
        Ok(Poller { to, bell, thread: Mutex::new(Some(thread)) })
    }
}

impl<O> Poller<O> {
    pub fn send(&self, order: O) {
        self.order(Some(order));
    }

    /// A thread that is gone needs no orders.
    fn order(&self, order: Option<O>) {
        let _ = self.to.send(order);
        let _ = self.bell.wake();
    }
}

impl<O> Drop for Poller<O> {
    fn drop(&mut self) {
        self.order(None);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}
