//! Pager: results on a terminal go through the program that the user reads long texts with, as with git: `$PAGER`, else
//! `less`, which ends by itself when all fits on the screen.
//!
//! What is to be read waits in memory between us and the pager: a server must not wait for a person to turn the page.
//!
//! **Invariant**: when the pager is left, nobody reads any more, and that is no error; the terminal is ours again only
//! after it has ended.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::Ui;
use crate::cli::interrupt;

/// Text that waits to be read; all that a server keeps of an app fits. Beyond it the writing waits.
const MAX_WAITING: usize = 64 << 20;

/// Standard output goes to the pager until this is dropped, which waits for its end.
pub(crate) struct Pager {
    ui: Ui,
    child: Child,
    feeder: Option<JoinHandle<()>>,
    pipe: Arc<Pipe>,
}

#[derive(Default)]
struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Nothing more comes.
    is_whole: bool,
    /// The pager was left.
    is_left: bool,
}

/// Our end of it.
struct Inlet(Arc<Pipe>);

impl Ui {
    /// `None` where nobody looks at a terminal, where no pager is wished for, and where there is none.
    pub fn pager(&self) -> Option<Pager> {
        let var = |name: &str| std::env::var(name).ok();
        if self.is_json() || !self.inner.look.terminal_out || var("TERM").is_some_and(|term| term == "dumb") {
            return None;
        }
        let mut command = command(var("PAGER"), var("LESS").is_some())?;
        // In our process group, so that it may read the terminal.
        let mut child = command.stdin(Stdio::piped()).spawn().ok()?;
        let stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        let pipe = Arc::<Pipe>::default();
        let from = pipe.clone();
        let feeder = thread::spawn(move || from.feed(stdin));
        // Ctrl-C is the pager's now: in `less` it ends a search.
        interrupt::leave_to_another(true);
        self.screen().out = Box::new(Inlet(pipe.clone()));
        Some(Pager { ui: self.clone(), child, feeder: Some(feeder), pipe })
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.pipe.state().is_whole = true;
        self.pipe.changed.notify_all();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        let _ = self.child.wait();
        interrupt::leave_to_another(false);
        self.ui.screen().out_again(Box::new(io::stdout()));
    }
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self, mut stdin: ChildStdin) {
        let mut state = self.state();
        loop {
            let Some(bytes) = state.waiting.pop_front() else {
                if state.is_whole {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            state.bytes -= bytes.len();
            drop(state);
            self.changed.notify_all();
            let fed = stdin.write_all(&bytes);
            state = self.state();
            if fed.is_err() {
                state.is_left = true;
                return self.changed.notify_all();
            }
        }
    }
}

impl Write for Inlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        while state.bytes > MAX_WAITING && !state.is_left {
            state = self.0.wait(state);
        }
        if state.is_left {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.bytes += bytes.len();
        state.waiting.push_back(bytes.to_vec());
        drop(state);
        self.0.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The user's pager through a shell, as they wrote it, or `less`. `None` for an empty one and for `cat`, which say that
/// none is wanted.
fn command(pager: Option<String>, has_less_options: bool) -> Option<Command> {
    let mut command = match pager.as_deref().map(str::trim) {
        None => {
            let mut less = Command::new("less");
            less.arg("-FRX");
            return Some(less);
        }
        Some("" | "cat") => return None,
        Some(pager) => {
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(pager);
            shell
        }
    };
    if !has_less_options {
        command.env("LESS", "FRX");
    }
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_pager_is_taken_as_written_and_none_is_taken_for_none() {
        let check = |pager: Option<&str>, has_options, expected: Option<&str>| {
            let command = command(pager.map(Into::into), has_options);
            let shown = command.map(|c| format!("{c:?}").replace('"', ""));
            assert_eq!(shown.as_deref(), expected, "{pager:?}");
        };
        check(None, false, Some("less -FRX"));
        check(Some(""), false, None);
        check(Some(" cat "), false, None);
        check(Some("most -s"), true, Some("/bin/sh -c most -s"));
        check(Some("less"), false, Some("LESS=FRX /bin/sh -c less"));
    }

    #[test]
    fn what_waits_is_read_in_order_and_one_who_leaves_is_noticed() {
        let pipe = Arc::<Pipe>::default();
        let mut child =
            Command::new("head").args(["-c", "6"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (from, stdin) = (pipe.clone(), child.stdin.take().unwrap());
        let feeder = thread::spawn(move || from.feed(stdin));
        let mut out = Inlet(pipe.clone());
        out.write_all(b"one").unwrap();
        out.write_all(b"two").unwrap();
        // It reads no more than that, and ends.
        let read = child.wait_with_output().unwrap();
        assert_eq!(read.stdout, b"onetwo");
        let mut failed = None;
        while failed.is_none() {
            failed = out.write_all(b"three").err();
            thread::yield_now();
        }
        assert_eq!(failed.unwrap().kind(), io::ErrorKind::BrokenPipe);
        feeder.join().unwrap();
    }
}
