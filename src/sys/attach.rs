//! Starting a program that somebody talks to: with an input, or on a pseudo-terminal of its own.
//!
//! **Invariant**: none of our ends ever blocks us, whatever the program does with its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};

use super::birth::Session;
use super::pipes::plain_pipe;
use super::spawn::{Child, Spawn, Started, start};

/// What a program talks through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attach {
    /// Two pipes for its output; it has no input.
    Output,
    /// A third one for its input.
    Pipes,
    /// A pseudo-terminal, which is that of its session.
    Terminal(Size),
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub rows: u16,
    pub cols: u16,
}

/// A started program in a session of its own. Dropping it neither stops nor reaps it.
pub(crate) struct Attached {
    pub child: Child,
    pub pid: Pid,
    /// Readable once the program has ended.
    pub pidfd: OwnedFd,
    pub ends: Ends,
}

/// Our ends. `WouldBlock` means that there is nothing to read, or no room, for now.
pub(crate) struct Ends {
    /// A terminal is read and written by one descriptor, which is here and in `stdout`.
    pub stdin: Option<File>,
    pub stdout: Option<File>,
    pub stderr: Option<File>,
}

/// As [`super::spawn`], with these streams.
///
/// # Errors
/// Those of the kernel; `NotFound` also when the program is there and its interpreter or loader is not.
pub(crate) fn attach(spec: &Spawn<'_>, how: Attach) -> io::Result<Attached> {
    let (Started { child, pid, pidfd }, ends) = match how {
        Attach::Output => {
            let null = File::open("/dev/null")?.into();
            piped(spec, null, None)?
        }
        Attach::Pipes => {
            let (theirs, ours) = plain_pipe()?;
            piped(spec, theirs, Some(ours))?
        }
        Attach::Terminal(size) => on_terminal(spec, size)?,
    };
    Ok(Attached { child, pid, pidfd, ends })
}

fn piped(spec: &Spawn<'_>, their_stdin: OwnedFd, stdin: Option<OwnedFd>) -> io::Result<(Started, Ends)> {
    let ((stdout, their_stdout), (stderr, their_stderr)) = (plain_pipe()?, plain_pipe()?);
    for ours in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(ours, true)?;
    }
    let session = Session::Own { input: stdin.is_some() };
    let started = start(spec, [their_stdin, their_stdout, their_stderr], session)?;
    let ends = Ends { stdin: stdin.map(File::from), stdout: Some(stdout.into()), stderr: Some(stderr.into()) };
    Ok((started, ends))
}

fn on_terminal(spec: &Spawn<'_>, size: Size) -> io::Result<(Started, Ends)> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut modes = rustix::termios::tcgetattr(&theirs)?;
    // So that the backspace key takes a whole character back.
    modes.input_modes |= InputModes::IUTF8;
    rustix::termios::tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    resize(&ours, size)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let streams = [theirs.try_clone()?, theirs.try_clone()?, theirs];
    let started = start(spec, streams, Session::Terminal)?;
    let ends = Ends { stdin: Some(ours.try_clone()?.into()), stdout: Some(ours.into()), stderr: None };
    Ok((started, ends))
}

/// Tells a terminal its size, and the program on it that it has changed.
pub(crate) fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let Size { rows, cols } = size;
    Ok(rustix::termios::tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::{Duration, Instant};

    use super::super::spawn::shell;
    use super::*;

    fn sh(script: &str, how: Attach) -> Attached {
        attach(&Spawn::plain(&shell(script)), how).unwrap()
    }

    /// All that comes until `enough` says so, or the end.
    fn read(from: &mut File, enough: impl Fn(&str) -> bool) -> String {
        let (mut said, until) = (Vec::new(), Instant::now() + Duration::from_secs(20));
        let mut buffer = [0; 4096];
        loop {
            assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&said));
            match from.read(&mut buffer) {
                // A terminal that nobody has open any more.
                Ok(0) => break,
                Err(e) if e.raw_os_error() == Some(libc::EIO) => break,
                Ok(n) => said.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
            if enough(&String::from_utf8_lossy(&said)) {
                break;
            }
        }
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn an_input_is_read_to_its_end_and_the_streams_are_apart() {
        let mut it = sh("cat; echo no >&2; exit 3", Attach::Pipes);
        let mut stdin = it.ends.stdin.take().unwrap();
        stdin.write_all(b"yes\n").unwrap();
        drop(stdin);
        assert_eq!(read(it.ends.stdout.as_mut().unwrap(), |_| false), "yes\n");
        assert_eq!(read(it.ends.stderr.as_mut().unwrap(), |_| false), "no\n");
        assert_eq!(it.child.wait().unwrap().code(), Some(3));
    }

    #[test]
    fn one_without_input_reads_its_end_and_has_a_session_of_its_own() {
        let mut it = sh("cat; cut -d' ' -f1,6 /proc/self/stat; (: </dev/tty) 2>/dev/null || echo none", Attach::Output);
        let said = read(it.ends.stdout.as_mut().unwrap(), |_| false);
        it.child.wait().unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].ends_with(&format!(" {}", it.pid.as_raw_nonzero())) && lines[1] == "none", "{said}");
    }

    #[test]
    fn a_terminal_has_a_size_that_changes_and_its_keys_are_signals() {
        let size = |rows, cols| Size { rows, cols };
        let script = "trap 'stty size' WINCH; trap 'echo int; exit 5' INT; stty size; while :; do sleep 0.05; done";
        let mut it = sh(script, Attach::Terminal(size(24, 80)));
        let mut ours = it.ends.stdout.take().unwrap();
        assert_eq!(read(&mut ours, |said| said.contains('\n')), "24 80\r\n");
        resize(&ours, size(10, 33)).unwrap();
        assert_eq!(read(&mut ours, |said| said.contains('\n')), "10 33\r\n");
        it.ends.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
        assert!(read(&mut ours, |_| false).contains("int\r\n"));
        assert_eq!(it.child.wait().unwrap().code(), Some(5));
    }
}
