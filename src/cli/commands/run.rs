//! `tako run`: one command in the live release, on one server, as if it ran here: its output goes where ours goes, its
//! input is ours, and its exit code becomes ours.
//!
//! **Invariant**: the command does not outlive us: when this ends, by whatever means, the server ends it.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::select;
use serde_json::json;

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::config::inventory::Server;
use crate::cli::interrupt::{Interrupt, Trigger};
use crate::cli::remote::inlet::Inlet;
use crate::cli::remote::{Place, Remote};
use crate::cli::ship::tell::at;
use crate::cli::terminal::{self, Raw};
use crate::cli::ui::Ui;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Notice, Reply, Request, Stream};
use crate::proto::task::{Ended, Input, Run, Signal, Tty};

/// What the command may take to end after Ctrl-C; then the server ends it.
const GRACE: Duration = Duration::from_secs(10);
/// What a shell tells of a program that wrote to a reader who had gone (128 and SIGPIPE).
const NOBODY_READS: u8 = 141;
/// Where the environment does not say what the terminal is; it is what nearly all of them understand.
const TERM: &str = "xterm-256color";

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let on_terminal = args.flag("tty");
    if on_terminal && ui.is_json() {
        return Err(Error::new(Kind::Usage, "`-t` and `--json` do not go together")
            .hint("what a terminal shows is nothing for a program: leave one of them away"));
    }
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let wanted = aim::wanted(args)?;
    if wanted.len() > 1 {
        return Err(Error::new(Kind::Usage, "a command runs on one server").hint("give --server once"));
    }
    let servers = aim::servers(&env_name, project.env(&env_name)?, &wanted)?;
    let server = servers.into_iter().next().ok_or_else(|| Error::new(Kind::Config, "there is no server"))?;
    let stdin = on_terminal || args.flag("interactive") || !io::stdin().is_terminal();
    // Before anything is started for it.
    let raw = if on_terminal { Some(Raw::enter()?) } else { None };
    let tty = raw.as_ref().map(|_| {
        let (rows, cols) = terminal::size().unwrap_or((24, 80));
        let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
        Tty { rows, cols, term: term.unwrap_or_else(|| TERM.into()) }
    });
    let order = Run {
        app: aim::app(&project, &env_name),
        argv: args.all_positional().to_vec(),
        stdin,
        tty,
        release: args.value("release").map(str::to_string),
    };
    let name = order.argv.first().cloned().unwrap_or_default();
    let ended = carry(ui, &server, order, &interrupt, raw.as_ref());
    if let (Some(raw), Err(_)) = (&raw, &ended) {
        raw.clean_up();
    }
    // What is said from here on is for people again.
    drop(raw);
    let exit = match ended? {
        Some(ended) => conclude(ui, &server, &name, &ended),
        None => NOBODY_READS,
    };
    Ok(if exit == 0 { Exit::Done } else { Exit::Code(exit) })
}

/// `None` when nobody reads what it says.
fn carry(ui: &Ui, server: &Server, order: Run, interrupt: &Interrupt, raw: Option<&Raw>) -> Result<Option<Ended>> {
    let mut remote = Remote::connect(&Place::Ssh(server.clone()), interrupt)?;
    let (stdin, tty) = (order.stdin, order.tty.clone());
    let (id, inlet) = remote.begin(Request::Run(order))?;
    if stdin {
        let inlet = inlet.clone();
        // Not joined: it may sit in a read of our input for good when the command has ended.
        thread::Builder::new()
            .name("input".into())
            .spawn(move || inlet.pour(io::stdin()))
            .context(|| "start a thread".into())?;
    }
    if let Some(Tty { rows, cols, .. }) = tty {
        let resized = inlet.clone();
        terminal::on_resize(move |rows, cols| resized.send(Input::Size { rows, cols }))?;
        // It may have changed while we connected.
        if let Some((rows, cols)) = terminal::size().filter(|now| *now != (rows, cols)) {
            inlet.send(Input::Size { rows, cols });
        }
    }
    // A signal is for the command at first, so this call hears only that we give up.
    let (trigger, given_up) = Interrupt::apart();
    let trigger = Arc::new(Mutex::new(Some(trigger)));
    watch_signals(interrupt.clone(), inlet.clone(), trigger.clone(), raw.is_some())?;
    let mut output = Output { ui, lost: None, trigger };
    let heard = remote.hear_out(id, &given_up, &mut |notice| match notice {
        Notice::Output { stream, bytes } => output.write(stream, &bytes.0),
        Notice::Wants { bytes } => inlet.wants(bytes),
        Notice::Step { .. } | Notice::Doing { .. } | Notice::Live { .. } => {}
        Notice::Lines { .. } | Notice::Beat | Notice::Joined(_) => {}
    });
    match (output.lost, heard) {
        (Some(e), _) if e.kind() == ErrorKind::BrokenPipe => Ok(None),
        (Some(e), _) => Err(e).context(|| "write what the command said".into()),
        (None, Ok(Reply::Ran(ended))) => Ok(Some(ended)),
        (None, Ok(other)) => Err(remote.misunderstood(&other)),
        (None, Err(e)) if e.kind() == Kind::Interrupted => {
            Err(Error::new(Kind::Interrupted, format!("interrupted; {} ends the command", server.name)))
        }
        (None, Err(e)) if matches!(e.kind(), Kind::Unreachable | Kind::Timeout) => {
            Err(e.hint("the command is ended on the server when its connection is lost"))
        }
        (None, Err(e)) => at(server.name.as_str(), Err(e)),
    }
}

/// Ctrl-C ends the command, as it would end one here. On a terminal of its own it is a key like others, and whoever
/// sends a signal means us.
fn watch_signals(interrupt: Interrupt, inlet: Inlet, trigger: Shared, on_terminal: bool) -> Result<()> {
    let watch = move || {
        let [signal, sibling] = interrupt.bells();
        select! {
            recv(signal) -> _ => {}
            recv(sibling) -> _ => {}
        }
        if !on_terminal && inlet.send(Input::Signal(Signal::Int)) {
            thread::sleep(GRACE);
        }
        give_up(&trigger);
    };
    thread::Builder::new().name("interrupt".into()).spawn(watch).context(|| "start a thread".into())?;
    Ok(())
}

/// Given up by a signal, or because nobody reads what the command says.
type Shared = Arc<Mutex<Option<Trigger>>>;

fn give_up(trigger: &Shared) {
    trigger.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Where what it says goes: bytes as they come, or events.
struct Output<'a> {
    ui: &'a Ui,
    lost: Option<io::Error>,
    trigger: Shared,
}

impl Output<'_> {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.ui.is_json() {
            let content = match std::str::from_utf8(bytes) {
                Ok(text) => json!({ "stream": stream, "text": text }),
                Err(_) => json!({ "stream": stream, "base64": STANDARD.encode(bytes) }),
            };
            return self.ui.event("output", content);
        }
        if self.lost.is_some() {
            return;
        }
        let written = match stream {
            Stream::Out => all(&mut io::stdout().lock(), bytes),
            Stream::Err => all(&mut io::stderr().lock(), bytes),
        };
        self.lost = written.err();
        if self.lost.is_some() {
            give_up(&self.trigger);
        }
    }
}

fn all(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Tells what its output does not, and the exit code.
fn conclude(ui: &Ui, server: &Server, name: &str, ended: &Ended) -> u8 {
    let (code, server) = (ended.code(), &server.name);
    let signal = match ended {
        Ended::Signal(signal) => Some(*signal),
        Ended::Code(_) | Ended::OutOfTime(_) | Ended::NotStarted { .. } => None,
    };
    ui.event("result", json!({ "server": server, "command": name, "exit": code, "signal": signal }));
    match ended {
        Ended::NotStarted { code, why } => {
            let (kind, hint) = match *code {
                127 if name.contains(' ') => (Kind::NotFound, "give its words one by one, or as: tako run sh -c '…'"),
                127 => (Kind::NotFound, "`tako run sh -c 'echo $PATH; ls'` shows what is there"),
                _ => (Kind::Refused, "is it executable (chmod +x) in the project?"),
            };
            ui.error(&Error::new(kind, format!("{server}: {why}")).hint(hint));
        }
        Ended::Signal(9) => ui.note(&format!("{server}: the command was killed (signal 9); was it out of memory?")),
        Ended::Code(_) | Ended::Signal(_) | Ended::OutOfTime(_) => {}
    }
    code
}
