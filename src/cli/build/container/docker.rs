//! Docker: the `docker` program as we call it, heard by Ctrl-C all the time and never left behind.

use std::convert::Infallible;
use std::io::{BufReader, BufWriter, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded, select};

use super::Argv;
use super::verdict::{self, About};
use crate::cli::child::{Owned, each_line};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Context, Error, Kind, Result};

/// What the engine may take for anything but copying and pulling; a busy disk or an emulated processor is slow.
const ANSWER: Duration = Duration::from_secs(120);
/// How often we look whether a program has ended, and for Ctrl-C.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of an answer; the longest is a list of containers.
const LINES: usize = 1000;

/// The engine, for one build.
pub(super) struct Docker<'a> {
    pub interrupt: &'a Interrupt,
    pub about: About<'a>,
}

struct Answer {
    status: Option<ExitStatus>,
    out: Vec<String>,
    err: Vec<String>,
}

pub(super) fn command(argv: &Argv) -> Command {
    let mut command = Command::new("docker");
    command.args(argv).stdin(Stdio::null());
    command
}

/// The lines of an answer that is welcome, but not needed.
///
/// # Errors
/// Whatever the reason that there is none; Interrupted.
pub(super) fn glance(argv: &Argv, limit: Duration, interrupt: Option<&Interrupt>) -> Result<Vec<String>> {
    let answer = call(argv, "answer", limit, interrupt)?;
    match answer.status {
        Some(status) if status.success() => Ok(answer.out),
        _ => Err(Error::new(Kind::Build, "docker did not answer").with_detail(answer.err)),
    }
}

impl Docker<'_> {
    /// The lines of an answer.
    ///
    /// # Errors
    /// Build with the reason, Timeout, Interrupted.
    pub fn ask(&self, argv: &Argv, doing: &str) -> Result<Vec<String>> {
        let answer = call(argv, doing, ANSWER, Some(self.interrupt))?;
        self.good(answer, doing)
    }

    /// The same, `None` when Docker says no.
    pub fn try_to_ask(&self, argv: &Argv) -> Result<Option<Vec<String>>> {
        let answer = call(argv, "answer", ANSWER, Some(self.interrupt))?;
        Ok(answer.status.is_some_and(|s| s.success()).then_some(answer.out))
    }

    /// What must not be stopped half way: afterwards it is known whether it happened.
    pub fn settle(&self, argv: &Argv, doing: &str) -> Result<()> {
        let answer = call(argv, doing, ANSWER, None)?;
        self.good(answer, doing).map(drop)
    }

    /// What is no harm if it does not happen.
    pub fn try_to(&self, argv: &Argv, limit: Duration) {
        let _ = call(argv, "clean up", limit, None);
    }

    /// Starts what runs until it is dropped, and waits for its first line, which is `up`.
    pub fn keep(&self, argv: &Argv, up: &str, doing: &str) -> Result<Owned> {
        let mut command = command(argv);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut owned = spawn(&mut command)?;
        let stdout = owned.child.stdout.take().expect("stdout was asked to be a pipe");
        let err = lines_of(owned.child.stderr.take().expect("stderr was asked to be a pipe"));
        let (line, first) = bounded(1);
        thread::spawn(move || {
            each_line(stdout, |text| {
                // Only the first one has room; the rest is read so that nobody blocks.
                let _ = line.try_send(text);
            });
        });
        let [signal, sibling] = self.interrupt.bells();
        let said = select! {
            recv(first) -> said => said.map_err(|_| RecvTimeoutError::Disconnected),
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(ANSWER) => Err(RecvTimeoutError::Timeout),
        };
        match said {
            Ok(line) if line == up => Ok(owned),
            Err(RecvTimeoutError::Timeout) => Err(silent(doing)),
            other => {
                drop(owned);
                let said = other.ok().into_iter().chain(joined(err)).collect();
                Err(verdict::failed(doing, self.about, said))
            }
        }
    }

    /// Has `write` write what `docker` reads.
    pub fn feed(
        &self,
        argv: &Argv,
        doing: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    ) -> Result<()> {
        let mut command = command(argv);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut owned = spawn(&mut command)?;
        let stdin = owned.child.stdin.take().expect("stdin was asked to be a pipe");
        self.beside(owned, doing, move || {
            let mut stdin = BufWriter::with_capacity(256 << 10, stdin);
            write(&mut stdin)?;
            stdin.flush().context(|| doing.into())
        })
    }

    /// Has `read` read what `docker` writes.
    pub fn drain(&self, argv: &Argv, doing: &str, read: impl FnOnce(&mut dyn Read) -> Result<()> + Send) -> Result<()> {
        let mut command = command(argv);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut owned = spawn(&mut command)?;
        let stdout = owned.child.stdout.take().expect("stdout was asked to be a pipe");
        self.beside(owned, doing, move || read(&mut BufReader::with_capacity(256 << 10, stdout)))
    }

    /// Does `work` in a thread, at the other end of a pipe to `owned`: whichever of the two is stuck, the end of the
    /// program frees both.
    fn beside(&self, mut owned: Owned, doing: &str, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        let err = lines_of(owned.child.stderr.take().expect("stderr was asked to be a pipe"));
        let (done, ended) = bounded::<Infallible>(0);
        let [signal, sibling] = self.interrupt.bells();
        let (worked, status) = thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let _rung_when_over = done;
                work()
            });
            let stopped = select! {
                recv(ended) -> _ => false,
                recv(signal) -> _ => true,
                recv(sibling) -> _ => true,
            };
            let status = match stopped {
                true => Err(interrupted()),
                false => wait(&mut owned, None, Some(self.interrupt)),
            };
            drop(owned);
            let worked =
                worker.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, format!("the thread to {doing} ended"))));
            status.map(|status| (worked, status))
        })?;
        let refused = !status.is_some_and(|status| status.success());
        match worked {
            // Docker's own words say why it stopped reading.
            Err(e) if !refused || !is_broken_pipe(&e) => Err(e),
            _ if refused => Err(verdict::failed(doing, self.about, joined(err))),
            _ => Ok(()),
        }
    }

    fn good(&self, answer: Answer, doing: &str) -> Result<Vec<String>> {
        match answer.status {
            Some(status) if status.success() => Ok(answer.out),
            _ => Err(verdict::failed(doing, self.about, answer.err)),
        }
    }
}

fn call(argv: &Argv, doing: &str, limit: Duration, interrupt: Option<&Interrupt>) -> Result<Answer> {
    let mut command = command(argv);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut owned = spawn(&mut command)?;
    let out = lines_of(owned.child.stdout.take().expect("stdout was asked to be a pipe"));
    let err = lines_of(owned.child.stderr.take().expect("stderr was asked to be a pipe"));
    let status = wait(&mut owned, Some(limit), interrupt)?;
    drop(owned);
    match status {
        Some(_) => Ok(Answer { status, out: joined(out), err: joined(err) }),
        None => Err(silent(doing)),
    }
}

fn spawn(command: &mut Command) -> Result<Owned> {
    Owned::spawn(command).context(|| "start `docker`".into()).map_err(verdict::not_started)
}

/// How it ended; `None` when it did not within the limit.
fn wait(owned: &mut Owned, limit: Option<Duration>, interrupt: Option<&Interrupt>) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = owned.wait_for(LOOK) {
            return Ok(Some(status));
        }
        interrupt.map_or(Ok(()), Interrupt::check)?;
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            return Ok(None);
        }
    }
}

fn silent(doing: &str) -> Error {
    Error::new(Kind::Build, format!("docker did not {doing} within {} s", ANSWER.as_secs()))
        .hint("does `docker ps` answer? the engine may need a restart")
}

/// The last lines of a stream, once it is over.
fn lines_of(stream: impl Read + Send + 'static) -> JoinHandle<Vec<String>> {
    thread::spawn(move || {
        let mut lines = Vec::new();
        each_line(stream, |line| {
            if lines.len() == LINES {
                lines.remove(0);
            }
            lines.push(line);
        });
        lines
    })
}

/// The program has ended by now, and all that it started: the stream is over.
fn joined(lines: JoinHandle<Vec<String>>) -> Vec<String> {
    let mut lines = lines.join().unwrap_or_default();
    lines.retain(|line| !line.trim().is_empty());
    lines
}

fn is_broken_pipe(e: &Error) -> bool {
    let source = std::error::Error::source(e).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
