//! Interrupt: Ctrl-C, heard by everything that waits.
//!
//! The first signal disconnects a channel that every wait selects on, so that each step ends by itself and cleans up
//! on its way out. A second one ends the program at once, with the commands of a build that it runs.

use std::convert::Infallible;
use std::io::Read;
use std::sync::OnceLock;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::child::kill_leashed;
use super::terminal;
use crate::error::{Context, Error, Kind, Result};

/// Never carries anything; it disconnects.
pub(crate) type Bell = Receiver<Infallible>;

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
        static SIGNALS: OnceLock<Bell> = OnceLock::new();
        if SIGNALS.get().is_none() {
            let bell = listen().context(|| "listen for signals".into())?;
            // Losing a race leaves a listener nobody hears, and the winner's works.
            let _ = SIGNALS.set(bell);
        }
        Ok(Interrupt { signal: SIGNALS.get().cloned().unwrap_or_else(never), sibling: never() })
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

fn listen() -> std::io::Result<Bell> {
    let (mut reader, writer) = std::io::pipe()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    let (bell, heard) = bounded(0);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let bell: Sender<Infallible> = bell;
        // One byte a signal. We hold the other end ourselves, so that there is never an end.
        let _ = reader.read_exact(&mut [0]);
        drop(bell);
        let _ = reader.read_exact(&mut [0]);
        kill_leashed();
        terminal::restore();
        // The shell that we were started from sees that we did not end by ourselves.
        let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
    })?;
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

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
