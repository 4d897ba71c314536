//! Interrupt: Ctrl-C, heard by everything that waits.
//!
//! The first signal disconnects a channel that every wait selects on, so that each step ends by itself and cleans up
//! on its way out. A second one ends the program at once, with the commands of a build that it runs; but who waits for
//! the clean end of something elsewhere hears the second as the end of that, and has a moment for its last words.

use std::convert::Infallible;
use std::io::Read;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::child::kill_leashed;
use super::terminal;
use crate::error::{Context, Error, Kind, Result};

/// What telling how things stand may take, after the second signal.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Somebody hears the second signal.
static IS_SECOND_HEARD: AtomicBool = AtomicBool::new(false);

/// Never carries anything; it disconnects.
pub(crate) type Bell = Receiver<Infallible>;

/// The terminal is another program's, which takes every Ctrl-C after the first for itself.
static LEFT: AtomicBool = AtomicBool::new(false);

/// Whether a second Ctrl-C is for somebody else, such as a pager; it ends us otherwise.
pub(crate) fn leave_to_another(left: bool) {
    LEFT.store(left, Ordering::Relaxed);
}

/// Cloneable. Wait for [`Interrupt::bells`] beside whatever else is waited for.
#[derive(Clone)]
pub(crate) struct Interrupt {
    signal: Bell,
    /// A part of the same command that failed: the others need not go on.
    sibling: Bell,
}

/// Interrupts when dropped.
pub(crate) struct Trigger {
    _bell: Sender<Infallible>,
}

impl Interrupt {
    /// That of the process: SIGINT, SIGTERM and SIGHUP from now on.
    pub fn of_process() -> Result<Interrupt> {
        let [first, _] = bells_of_process()?;
        Ok(Interrupt { signal: first, sibling: never() })
    }

    /// The second of these signals, which from now on does not end the program at once.
    pub fn second() -> Result<Interrupt> {
        let [_, second] = bells_of_process()?;
        IS_SECOND_HEARD.store(true, Ordering::Relaxed);
        Ok(Interrupt { signal: second, sibling: never() })
    }

    /// One that never comes.
    #[cfg(test)]
    pub fn never() -> Interrupt {
        Interrupt { signal: never(), sibling: never() }
    }

    /// One that the drop of the trigger alone is.
    pub fn apart() -> (Trigger, Interrupt) {
        Interrupt { signal: never(), sibling: never() }.or_trigger()
    }

    /// This one, or the drop of the trigger.
    pub fn or_trigger(&self) -> (Trigger, Interrupt) {
        let (bell, sibling) = bounded(0);
        (Trigger { _bell: bell }, Interrupt { signal: self.signal.clone(), sibling })
    }

    /// Does `task`, which hears an interrupt when `limit` is over; `None` when that is what ended it.
    pub fn within<T>(&self, limit: Duration, task: impl FnOnce(&Interrupt) -> Result<T>) -> Option<Result<T>> {
        let (trigger, interrupt) = self.or_trigger();
        let (over, ended) = bounded::<Infallible>(0);
        let result = thread::scope(|scope| {
            scope.spawn(move || {
                let _trigger = trigger;
                let _ = ended.recv_timeout(limit);
            });
            let result = task(&interrupt);
            // Before the end of the task's thread, so that the other ends too.
            drop(over);
            result
        });
        match result {
            Err(e) if e.kind() == Kind::Interrupted && !self.is_heard() => None,
            other => Some(other),
        }
    }

    /// Both disconnect and never carry anything.
    pub fn bells(&self) -> [&Bell; 2] {
        [&self.signal, &self.sibling]
    }

    pub fn is_heard(&self) -> bool {
        self.bells().iter().any(|bell| bell.try_recv() == Err(TryRecvError::Disconnected))
    }

    /// # Errors
    /// Interrupted, once it was heard.
    pub fn check(&self) -> Result<()> {
        match self.is_heard() {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }
}

pub(crate) fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted")
}

/// For the first signal and for the second.
fn bells_of_process() -> Result<[Bell; 2]> {
    static SIGNALS: OnceLock<[Bell; 2]> = OnceLock::new();
    if SIGNALS.get().is_none() {
        let bells = listen().context(|| "listen for signals".into())?;
        // Losing a race leaves a listener nobody hears, and the winner's works.
        let _ = SIGNALS.set(bells);
    }
    Ok(SIGNALS.get().cloned().unwrap_or_else(|| [never(), never()]))
}

fn listen() -> std::io::Result<[Bell; 2]> {
    let (mut reader, writer) = std::io::pipe()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    let ((bell, first), (again, second)) = (bounded(0), bounded(0));
    thread::Builder::new().name("signals".into()).spawn(move || {
        let (bell, again): (Sender<Infallible>, Sender<Infallible>) = (bell, again);
        // One byte a signal. We hold the other end ourselves, so that there is never an end.
        let _ = reader.read_exact(&mut [0]);
        drop(bell);
        while reader.read_exact(&mut [0]).is_ok() && LEFT.load(Ordering::Relaxed) {}
        kill_leashed();
        terminal::restore();
        drop(again);
        if IS_SECOND_HEARD.load(Ordering::Relaxed) {
            // Most often the program ends meanwhile.
            thread::sleep(LAST_WORDS);
        }
        // The shell that we were started from sees that we did not end by ourselves.
        let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
    })?;
    Ok([first, second])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_ended_and_what_does_not_is_left_alone() {
        let interrupt = Interrupt::never();
        let ended = interrupt.within(Duration::from_millis(1), |interrupt| -> Result<()> {
            let [_, bell] = interrupt.bells();
            // Only its end is ever heard.
            let _ = bell.recv();
            interrupt.check()
        });
        assert!(ended.is_none());
        assert_eq!(interrupt.within(Duration::from_secs(3600), |_| Ok(7)).unwrap().unwrap(), 7);
    }

    #[test]
    fn a_dropped_trigger_is_heard_by_every_clone() {
        let (trigger, interrupt) = Interrupt::never().or_trigger();
        let clone = interrupt.clone();
        assert!(clone.check().is_ok());
        drop(trigger);
        assert_eq!(clone.check().unwrap_err().kind(), Kind::Interrupted);
        assert!(interrupt.is_heard());
    }
}
