//! Remote: one server, reached over ssh or, for a rehearsal, on this machine; speaks `proto::control`.
//!
//! Two threads sit between us and the channel, so that every wait has a deadline and hears an interrupt: one writes
//! calls, one reads answers. Both end with the program behind the channel, which is killed on drop.
//!
//! **Invariant**: a silent server is an error after [`patience::SILENCE`], whatever it was asked; a connection that
//! does not come about is one after [`patience::CONNECTING`], not counting the time that a person takes to answer.

pub(crate) mod hello;
pub(crate) mod inlet;
mod patience;
mod pieces;
mod sending;

use std::io::{Cursor, Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use super::child::{Owned, Tail};
use super::config::inventory::Server;
use super::interrupt::{Interrupt, interrupted};
use super::ssh::means::tell;
use super::ssh::{HostKeys, Retry, Session};
use super::ui::Ui;
use crate::crypto;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::PROTOCOL;
use crate::proto::control::{Answer, BEAT, Body, Call, Greeting, Hello, Notice, Reply, Request};
use crate::proto::wire;
use hello::{Greeted, find_hello, incompatible};
use inlet::Inlet;
use patience::{LastHeard, Listening, Patience, wait};
pub(crate) use sending::Parcel;

/// Answers read ahead of us; then the reader waits, and the server behind it.
const MAX_AHEAD: usize = 64;
/// Connection attempts where another one may help.
const ATTEMPTS: u32 = 3;

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Ssh(Server),
    /// A private `tako-server` on this machine.
    Here {
        name: String,
        program: PathBuf,
        socket: PathBuf,
    },
}

impl Place {
    pub fn name(&self) -> &str {
        match self {
            Place::Ssh(server) => server.name.as_str(),
            Place::Here { name, .. } => name,
        }
    }
}

/// A server that said hello.
pub(crate) struct Remote {
    name: String,
    hello: Hello,
    /// Bytes of the login shell before the hello.
    noise: usize,
    next_id: u64,
    calls: Sender<Call>,
    answers: Receiver<Result<Answer>>,
    heard: Arc<LastHeard>,
    link: Link,
    interrupt: Interrupt,
    /// Since sftp did not work: uploads go over this connection.
    no_sftp: bool,
}

enum Link {
    Ssh(Box<Session>),
    Here(Bridge),
}

/// `tako-server ctl` on this machine.
struct Bridge {
    ctl: Owned,
    stderr: Tail,
}

impl Remote {
    /// Connects and greets; tries again where that may help.
    ///
    /// # Errors
    /// Unreachable with the reason, Timeout, Incompatible, Interrupted.
    pub fn connect(place: &Place, interrupt: &Interrupt) -> Result<Remote> {
        Remote::connect_knowing(place, &HostKeys::AsConfigured, interrupt)
    }

    /// The same when something is known of the host key.
    pub fn connect_knowing(place: &Place, host_keys: &HostKeys, interrupt: &Interrupt) -> Result<Remote> {
        let (mut attempt, mut alone) = (1, false);
        loop {
            let retry = match Remote::attempt(place, host_keys, alone, interrupt) {
                Ok(remote) => return Ok(remote),
                Err((e, _)) if attempt >= ATTEMPTS || interrupt.is_heard() => return Err(e),
                Err((e, Retry::Never)) => return Err(e),
                Err((_, retry)) => retry,
            };
            match retry {
                Retry::Alone => alone = true,
                Retry::Soon | Retry::Never => pause(attempt, interrupt)?,
            }
            attempt += 1;
        }
    }

    /// The error comes with whether another attempt may help.
    fn attempt(
        place: &Place,
        host_keys: &HostKeys,
        alone: bool,
        interrupt: &Interrupt,
    ) -> Result<Remote, (Error, Retry)> {
        let started = Instant::now();
        let name = place.name().to_string();
        let (mut link, stdin, stdout) =
            Link::open(place, host_keys, alone, interrupt).map_err(|e| (e, Retry::Never))?;
        let heard = Arc::new(LastHeard::new());
        let (hello, answers) = start_reader(stdout, heard.clone());
        let connecting = link.patience();
        let greeted = match wait(&hello, &heard, &connecting, interrupt, &name) {
            Ok(greeted) => greeted,
            // A kept connection that hangs is not the server's last word.
            Err(e) => return Err((e, link.gives_up_kept())),
        };
        let Some((hello, noise)) = greeted else { return Err(link.verdict(&name, false, heard.any())) };
        link.stands().map_err(|e| (e, Retry::Never))?;
        tell(&format!("{name}: said hello after {} ms", started.elapsed().as_millis()));
        let protocol = PROTOCOL.common(hello.protocol).ok_or_else(|| (incompatible(&name, &hello), Retry::Never))?;
        let beats = hello.hears_beats;
        let greeting = Greeting { protocol, client: env!("CARGO_PKG_VERSION").into(), who: who(), beats };
        let calls = start_writer(stdin, greeting, if beats { BEAT } else { Duration::MAX });
        let interrupt = interrupt.clone();
        Ok(Remote { name, hello, noise, next_id: 1, calls, answers, heard, link, interrupt, no_sftp: false })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Since its last word.
    pub fn silent_for(&self) -> Duration {
        self.heard.ago()
    }

    /// Asks and waits for the one reply; `on` hears the notices before it.
    ///
    /// # Errors
    /// What the server says; Unreachable when the connection ends, Timeout when it falls silent, Interrupted. After
    /// the last three the server may still be at it.
    pub fn call(&mut self, request: Request, on: &mut dyn FnMut(Notice)) -> Result<Reply> {
        let (id, _) = self.begin(request)?;
        let interrupt = self.interrupt.clone();
        self.hear_out(id, &interrupt, on)
    }

    /// Asks, without waiting for an answer; what the request needs while it is served goes into the inlet.
    pub fn begin(&mut self, request: Request) -> Result<(u64, Inlet)> {
        let id = self.next_id;
        self.next_id += 1;
        self.heard.now();
        match self.calls.send(Call { id, request }) {
            Ok(()) => Ok((id, Inlet::new(self.calls.clone(), id))),
            Err(_) => Err(self.link.verdict(&self.name, true, false).0),
        }
    }

    /// Waits for the one reply to what was begun.
    pub fn hear_out(&mut self, id: u64, interrupt: &Interrupt, on: &mut dyn FnMut(Notice)) -> Result<Reply> {
        loop {
            let answer = self.next(interrupt)?;
            // What is left of a call that was given up is not for this one.
            if answer.id != id {
                continue;
            }
            match answer.body {
                Body::Notice(notice) => on(notice),
                Body::Reply(reply) => return Ok(reply),
                Body::Fault(fault) => return Err(fault.into()),
            }
        }
    }

    /// From now on nothing but `interrupt` ends a wait.
    pub fn hear_only(&mut self, interrupt: &Interrupt) {
        self.interrupt = interrupt.clone();
    }

    /// The next answer, to whatever call.
    fn answer(&mut self) -> Result<Answer> {
        let interrupt = self.interrupt.clone();
        self.next(&interrupt)
    }

    fn next(&mut self, interrupt: &Interrupt) -> Result<Answer> {
        match wait(&self.answers, &self.heard, &Patience::TALKING, interrupt, &self.name)? {
            Some(answer) => answer,
            None => Err(self.link.verdict(&self.name, true, false).0),
        }
    }

    /// The same as [`Remote::call`] for a request that is answered by `Done` alone.
    pub fn order(&mut self, request: Request, on: &mut dyn FnMut(Notice)) -> Result<()> {
        match self.call(request, on)? {
            Reply::Done => Ok(()),
            other => Err(self.misunderstood(&other)),
        }
    }

    /// A reply that does not fit the question.
    pub fn misunderstood(&self, reply: &Reply) -> Error {
        let kind = match reply {
            Reply::Done => "done",
            Reply::Info(_) => "info",
            Reply::Preflight(_) => "preflight",
            Reply::Incoming { .. } => "incoming",
            Reply::Deployed(_) => "deployed",
            Reply::Status(_) => "status",
            Reply::Releases(_) => "releases",
            Reply::Ran(_) => "ran",
            Reply::SecretsHash { .. } => "secrets_hash",
        };
        Error::new(Kind::Refused, format!("{}: the server answered something else (`{kind}`)", self.name))
    }
}

/// Connects to a server to see that all is well; what its login shell prints is told.
pub(crate) fn probe(ui: &Ui, server: &Server, host_keys: &HostKeys) -> Result<Hello> {
    let remote = Remote::connect_knowing(&Place::Ssh(server.clone()), host_keys, &Interrupt::of_process()?)?;
    if remote.noise > 0 {
        ui.warn(&format!(
            "{}: the login shell prints {} bytes before our program starts; it should be silent without a terminal",
            server.name, remote.noise
        ));
    }
    Ok(remote.hello)
}

impl Link {
    fn open(
        place: &Place,
        host_keys: &HostKeys,
        alone: bool,
        interrupt: &Interrupt,
    ) -> Result<(Link, ChildStdin, ChildStdout)> {
        match place {
            Place::Ssh(server) => Session::start(server, host_keys, alone, interrupt)
                .map(|(session, i, o)| (Link::Ssh(Box::new(session)), i, o)),
            Place::Here { program, socket, .. } => {
                let mut command = Command::new(program);
                command.arg("ctl").arg("--socket").arg(socket);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut ctl = Owned::spawn(&mut command).context(|| format!("start {}", program.display()))?;
                let stdin = ctl.child.stdin.take().expect("stdin was asked to be a pipe");
                let stdout = ctl.child.stdout.take().expect("stdout was asked to be a pipe");
                let stderr = Tail::of(ctl.child.stderr.take().expect("stderr was asked to be a pipe"), 40);
                Ok((Link::Here(Bridge { ctl, stderr }), stdin, stdout))
            }
        }
    }

    /// How long its hello may take.
    fn patience(&self) -> Patience {
        match self {
            Link::Ssh(session) if session.is_reused() => Patience::REUSING,
            Link::Ssh(session) => Patience::connecting(Some(session.questions())),
            Link::Here(_) => Patience::connecting(None),
        }
    }

    fn stands(&mut self) -> Result<()> {
        match self {
            Link::Ssh(session) => session.stands(),
            Link::Here(_) => Ok(()),
        }
    }

    /// When it was a kept connection, the next attempt makes another.
    fn gives_up_kept(&self) -> Retry {
        match self {
            Link::Ssh(session) if session.is_reused() => {
                session.give_up_kept();
                Retry::Soon
            }
            Link::Ssh(_) | Link::Here(_) => Retry::Never,
        }
    }

    /// Why the channel ended, and whether another attempt may help.
    fn verdict(&mut self, name: &str, greeted: bool, printed: bool) -> (Error, Retry) {
        match self {
            Link::Ssh(session) => session.verdict(greeted, printed),
            Link::Here(bridge) => {
                bridge.ctl.wait_for(Duration::from_secs(1));
                let message = format!("{name}: the connection to tako-server ended");
                (Error::new(Kind::Unreachable, message).with_detail(bridge.stderr.lines()), Retry::Never)
            }
        }
    }
}

/// Reads the hello and then answers, each into its channel. The thread ends with the stream, or when nobody listens.
fn start_reader(stdout: ChildStdout, heard: Arc<LastHeard>) -> (Receiver<Greeted>, Receiver<Result<Answer>>) {
    let (hello, hellos) = bounded(1);
    let (answer, answers) = bounded(MAX_AHEAD);
    thread::spawn(move || {
        let mut stream = Listening { stream: stdout, heard };
        let Some((greeted, rest)) = find_hello(&mut stream) else { return };
        if hello.send(greeted).is_err() {
            return;
        }
        let mut reader = wire::Reader::new(Cursor::new(rest).chain(stream));
        loop {
            let next = match reader.next() {
                Ok(Some(next)) => Ok(next),
                Ok(None) => return,
                Err(e) => Err(e),
            };
            let broken = next.is_err();
            if answer.send(next).is_err() || broken {
                return;
            }
        }
    });
    (hellos, answers)
}

/// Writes the greeting and then calls, so that a server which does not read cannot hang us; and when there is nothing to
/// say for a `beat`, that we are there.
fn start_writer(mut stdin: impl Write + Send + 'static, greeting: Greeting, beat: Duration) -> Sender<Call> {
    let (call, calls) = bounded::<Call>(1);
    thread::spawn(move || {
        let mut sent = wire::send(&mut stdin, &greeting);
        while sent.is_ok() {
            let call = match calls.recv_timeout(beat) {
                Ok(call) => call,
                Err(RecvTimeoutError::Timeout) => Call { id: 0, request: Request::Beat },
                Err(RecvTimeoutError::Disconnected) => break,
            };
            sent = wire::send(&mut stdin, &call);
        }
        let _ = stdin.flush();
    });
    call
}

/// 0.2 to 0.8 s times the attempt: servers that were turned away together come back apart.
fn pause(attempt: u32, interrupt: &Interrupt) -> Result<()> {
    let [random] = crypto::random::<1>()?;
    let pause = Duration::from_millis(200 + 600 * u64::from(random) / 255) * attempt;
    let [signal, sibling] = interrupt.bells();
    select! {
        recv(signal) -> _ => Err(interrupted()),
        recv(sibling) -> _ => Err(interrupted()),
        default(pause) => Ok(()),
    }
}

/// `user@host`, as this machine names itself.
fn who() -> String {
    let clean = |s: String| s.chars().filter(|c| !c.is_control()).take(64).collect::<String>().trim().to_string();
    let said = |program: &str, flag: &str| {
        let out = Command::new(program).arg(flag).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(out.stdout).ok().map(clean).filter(|s| !s.is_empty())
    };
    let set = |variable: &&str| std::env::var(variable).ok().map(clean).filter(|s| !s.is_empty());
    let user = ["USER", "LOGNAME"].iter().find_map(set).or_else(|| said("id", "-un"));
    let host = said("uname", "-n");
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.as_deref().unwrap_or("somewhere"))
}

#[cfg(test)]
mod tests;
