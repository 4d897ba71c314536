//! Reading answers from a terminal. The rest of `ui` decides whether anybody may be asked at all.

use std::io::{BufRead, Read, stdin};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::cli::interrupt::Interrupt;
use crate::error::{Context, Error, Kind, Result};

/// Longest answer, in bytes: that of the longest secret.
const LONGEST: usize = 64 << 10;

/// How soon Ctrl-C is heard at a question.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Waits until a line was typed. A signal does not end a read for good once somebody listens for signals, so it is
/// listened for here too.
///
/// # Errors
/// Interrupted.
pub(super) fn wait(interrupt: &Interrupt) -> Result<()> {
    loop {
        interrupt.check()?;
        // The terminal hands out whole lines, so nothing is left in our buffer from the one before.
        match poll(&mut [PollFd::new(&stdin(), PollFlags::IN)], Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e).context(|| "wait for the answer".into()),
        }
    }
}

/// One line, without its end and the blanks around it; `None` when the input ended.
pub(super) fn line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = input.by_ref().take(LONGEST as u64).read_until(b'\n', &mut bytes);
    if read.context(|| "read the answer".into())? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim().into()))
}

/// A line typed without being shown, after `show` has shown the question. The terminal is as before when this returns,
/// whatever happened.
///
/// # Errors
/// Interrupted, also by Ctrl-C, which sends no signal meanwhile.
pub(super) fn hidden_line(interrupt: &Interrupt, show: impl FnOnce()) -> Result<Zeroizing<String>> {
    // First, because it throws away what was typed before the question.
    let _quiet = Quiet::start()?;
    show();
    let mut typed = Typed::default();
    loop {
        wait(interrupt)?;
        let mut byte = [0];
        match rustix::io::read(stdin(), &mut byte) {
            Ok(0) => return Err(interrupted()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e).context(|| "read the answer".into()),
        }
        if typed.on(byte[0])? {
            return typed.text();
        }
    }
}

/// The terminal without echo, line editing and signals. Ctrl-C arrives as a byte, so that no signal can end us while
/// the terminal is changed.
struct Quiet(Termios);

impl Quiet {
    fn start() -> Result<Quiet> {
        let before = tcgetattr(stdin()).context(|| "read the terminal's settings".into())?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin(), OptionalActions::Flush, &quiet).context(|| "hide what is typed".into())?;
        Ok(Quiet(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Flush: the rest of a pasted secret must not end up in the shell.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

/// What was typed so far, with the few editing keys that people expect.
#[derive(Default)]
struct Typed(Zeroizing<Vec<u8>>);

impl Typed {
    /// Whether the line is complete.
    fn on(&mut self, byte: u8) -> Result<bool> {
        const CTRL_C: u8 = 3;
        const CTRL_D: u8 = 4;
        const CTRL_U: u8 = 21;
        match byte {
            b'\n' | b'\r' => return Ok(true),
            CTRL_C => return Err(interrupted()),
            CTRL_D if self.0.is_empty() => return Err(interrupted()),
            CTRL_D => return Ok(true),
            CTRL_U => self.0.clear(),
            8 | 127 => self.rub_out(),
            _ if self.0.len() >= LONGEST => {
                return Err(Error::new(Kind::Refused, format!("a secret is longer than {LONGEST} bytes")));
            }
            byte => self.0.push(byte),
        }
        Ok(false)
    }

    /// Takes one character away, not one byte.
    fn rub_out(&mut self) {
        while let Some(byte) = self.0.pop() {
            if byte & 0xc0 != 0x80 {
                break;
            }
        }
    }

    fn text(self) -> Result<Zeroizing<String>> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Ok(Zeroizing::new(text.into())),
            Err(_) => Err(Error::new(Kind::Refused, "what was typed is not UTF-8")),
        }
    }
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Result<Option<String>> {
        let mut typed = Typed::default();
        for key in keys {
            if typed.on(*key)? {
                return typed.text().map(|t| Some(t.to_string()));
            }
        }
        Ok(None)
    }

    #[test]
    fn reads_a_hidden_line_with_corrections() {
        let check = |keys: &[u8], expected: Option<&str>| assert_eq!(typed(keys).unwrap().as_deref(), expected);
        check(b"secret\r", Some("secret"));
        check(b"abc\x7f\x7fx\n", Some("ax"));
        check("aé\x7fb\n".as_bytes(), Some("ab"));
        check(b"\x7fabc\x15def\n", Some("def"));
        check(b"abc\x04", Some("abc"));
        check(b"abc", None);
    }

    #[test]
    fn ctrl_c_and_the_end_of_input_interrupt() {
        assert_eq!(typed(b"abc\x03").unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(typed(b"\x04").unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(typed(b"\xff\n").unwrap_err().kind(), Kind::Refused);
        assert_eq!(typed(&vec![b'x'; LONGEST + 1]).unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn an_answer_is_one_line_of_bounded_length() {
        assert_eq!(line(&mut &b" yes \r\nno\n"[..]).unwrap().as_deref(), Some("yes"));
        assert_eq!(line(&mut &b""[..]).unwrap(), None);
        assert_eq!(line(&mut &b"\n"[..]).unwrap().as_deref(), Some(""));
        let endless = &mut std::io::BufReader::new(std::io::repeat(b'x'));
        assert_eq!(line(endless).unwrap().unwrap().len(), LONGEST);
    }
}
