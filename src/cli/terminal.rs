//! The terminal that we run on, handed to a program elsewhere: every key goes there as it is typed.
//!
//! **Invariant**: however we end, short of SIGKILL, the terminal is as it was before.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::termios::{OptionalActions, Termios};
use signal_hook::consts::SIGWINCH;

use crate::error::{Context, Error, Kind, Result};

/// As it was; nothing unless we have changed it. Global like the terminal itself: what ends us at once finds it here.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// What a full-screen program switches on and would have switched off at its end: the other screen, a hidden cursor,
/// colours, marked pastes, reports of the mouse.
const SWITCH_OFF: &[u8] = b"\x1b[?47l\x1b[?25h\x1b[0m\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l";

/// While this lives nothing is done here about what is typed; also Ctrl-C is a byte.
pub(crate) struct Raw(());

impl Raw {
    /// # Errors
    /// Usage when standard input or output is no terminal.
    pub fn enter() -> Result<Raw> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(Error::new(Kind::Usage, "`-t` needs a terminal for standard input and output")
                .hint("leave it away; what is piped in reaches the command without it"));
        }
        let doing = || "set up the terminal".to_string();
        let before = rustix::termios::tcgetattr(io::stdin()).context(doing)?;
        let mut raw = before.clone();
        raw.make_raw();
        *saved() = Some(before);
        let entered = Raw(());
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).context(doing)?;
        Ok(entered)
    }

    /// The program was cut short and has left the terminal as it needed it.
    pub fn clean_up(&self) {
        let mut out = io::stdout().lock();
        // Nobody may be there any more to see it.
        let _ = out.write_all(SWITCH_OFF).and_then(|()| out.flush());
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, if it was changed.
pub(crate) fn restore() {
    if let Some(before) = saved().take() {
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Rows and columns.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Calls `on` after each change of size, on a thread of its own, until it says that it need not hear more.
pub(crate) fn on_resize(on: impl Fn(u16, u16) -> bool + Send + 'static) -> Result<()> {
    let doing = || "watch the size of the terminal".to_string();
    let (mut reader, writer) = io::pipe().context(doing)?;
    signal_hook::low_level::pipe::register(SIGWINCH, writer).context(doing)?;
    let watch = move || {
        let mut bytes = [0; 64];
        // Several changes at once are one.
        while reader.read(&mut bytes).is_ok_and(|read| read > 0) {
            if size().is_some_and(|(rows, cols)| !on(rows, cols)) {
                return;
            }
        }
    };
    thread::Builder::new().name("resize".into()).spawn(watch).context(doing)?;
    Ok(())
}

fn saved() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
