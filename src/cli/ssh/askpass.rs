//! Askpass: the questions of `ssh`, asked by us. `ssh` runs `tako` as its SSH_ASKPASS program; that one hands the
//! question to the `tako` that started the connection, over a private socket, and prints the answer for `ssh`.
//!
//! ```text
//! tako ── starts ──► ssh ── starts ──► tako (helper)
//!  ▲ asks on the terminal, spinners pause    │
//!  └──────── socket, with a random token ◄───┘
//! ```
//!
//! **Invariant**: what was typed is in memory only, wiped when it is handed on, and is never written or shown. Where
//! nobody can be asked, nothing is: no `ssh`, not even that of a jump host, reads from the terminal by itself.

pub(in crate::cli) mod question;

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Signal, getpid, getuid, kill_process};
use zeroize::{Zeroize, Zeroizing};

use super::hex8;
use crate::cli::interrupt::{Interrupt, Trigger};
use crate::cli::ui::Ui;
use crate::error::{Context, Error, Kind, Result};
use crate::sys;
use question::{Offer, Question, is_fingerprint};

/// Tells the helper where to ask: the token, a colon, the socket. [`NOBODY`] when nobody can be asked.
const DOOR: &str = "TAKO_ASKPASS";
const NOBODY: &str = "nobody";
/// Longer than any question of `ssh`; what a server adds to one is cut.
const MAX_QUESTION: u64 = 8 << 10;
/// Longest answer: that of the longest secret that is asked for.
const MAX_ANSWER: u64 = 64 << 10;
/// What a helper may take to tell its question, which it knows before it connects.
const TELLING: Duration = Duration::from_secs(5);

/// The helper's whole life, if that is what this process is.
pub(crate) fn helper() -> Option<ExitCode> {
    let door = env::var(DOOR).ok().filter(|door| !door.is_empty())?;
    let text = env::args().nth(1).unwrap_or_default();
    let hint = env::var("SSH_ASKPASS_PROMPT").unwrap_or_default();
    let answer = match door.split_once(':') {
        Some((token, socket)) => ask_parent(token, Path::new(socket), &hint, &text),
        None => None,
    };
    // Without an answer `ssh` goes on as after an empty line that was never typed.
    let Some(answer) = answer else { return Some(ExitCode::FAILURE) };
    let mut out = std::io::stdout().lock();
    let told = out.write_all(&answer).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    Some(if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `None` when there is no answer: the question was declined, or nobody is there any more.
fn ask_parent(token: &str, socket: &Path, hint: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut stream = UnixStream::connect(socket).ok()?;
    write!(stream, "{token}\n{hint}\n{text}").ok()?;
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    // All of it at once: a buffer that grows leaves copies behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(MAX_ANSWER as usize + 1));
    stream.take(MAX_ANSWER + 1).read_to_end(&mut answer).ok()?;
    (answer.first() == Some(&b'+')).then(|| Zeroizing::new(answer[1..].to_vec()))
}

/// Makes every question of `command` and of what it starts fail at once.
pub(super) fn nobody(command: &mut Command) {
    if let Ok(tako) = env::current_exe() {
        command.env("SSH_ASKPASS", tako).env("SSH_ASKPASS_REQUIRE", "force").env(DOOR, NOBODY);
    }
}

/// Why a question was not answered as `ssh` wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A person did not want the key.
    Declined { host: String, offered: String },
    /// Another one was expected.
    Differs { host: String, offered: String, expected: String },
}

/// Who answers.
pub(super) struct Answers {
    /// As the user calls it.
    pub server: String,
    /// `None` when there is nobody to ask.
    pub ui: Option<Ui>,
    /// The only host key that will do.
    pub pin: Option<String>,
}

/// Hears the questions of one `ssh`, until it is dropped.
pub(super) struct Relay {
    socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Ends a question that stands.
    trigger: Option<Trigger>,
}

struct Shared {
    closed: AtomicBool,
    /// Questions that somebody has to answer now.
    open: Arc<AtomicUsize>,
    refusal: Mutex<Option<Refusal>>,
}

impl Relay {
    /// Sets up `command` so that its questions come here.
    pub fn start(dir: &Path, command: &mut Command, answers: Answers, interrupt: &Interrupt) -> Result<Relay> {
        let tako = env::current_exe().context(|| "find this program".into())?;
        let (socket, token) = (dir.join(hex8()?), hex8()? + &hex8()?);
        let listener = UnixListener::bind(&socket).context(|| format!("listen on {}", socket.display()))?;
        command.env("SSH_ASKPASS", tako).env("SSH_ASKPASS_REQUIRE", "force");
        command.env(DOOR, format!("{token}:{}", socket.display()));
        let shared =
            Arc::new(Shared { closed: AtomicBool::new(false), open: Arc::default(), refusal: Mutex::new(None) });
        let (trigger, interrupt) = interrupt.or_trigger();
        let mut relay = Relay { socket, shared: shared.clone(), thread: None, trigger: Some(trigger) };
        let hear = move || {
            let mut last = String::new();
            for stream in listener.incoming() {
                if shared.closed.load(Ordering::Acquire) {
                    return;
                }
                // One that could not be heard or told is a question without an answer.
                let _ = stream.map(|stream| hear(stream, &token, &answers, &shared, &interrupt, &mut last));
            }
        };
        let thread = thread::Builder::new().name("askpass".into()).spawn(hear).context(|| "start a thread".into())?;
        relay.thread = Some(thread);
        Ok(relay)
    }

    /// Counts the questions that wait for a person.
    pub fn open(&self) -> Arc<AtomicUsize> {
        self.shared.open.clone()
    }

    pub fn refusal(&self) -> Option<Refusal> {
        self.shared.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.trigger = None;
        // It waits for the next question; this is none.
        let woken = UnixStream::connect(&self.socket);
        let _ = fs::remove_file(&self.socket);
        // The terminal is as it was once the thread has ended.
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// One question. `last` is the text of the one before: `ssh` asks again what was answered wrongly.
fn hear(
    mut stream: UnixStream,
    token: &str,
    answers: &Answers,
    shared: &Shared,
    interrupt: &Interrupt,
    last: &mut String,
) -> Option<()> {
    if sys::peer_uid(&stream).ok()? != getuid().as_raw() {
        return None;
    }
    stream.set_read_timeout(Some(TELLING)).ok()?;
    let mut told = Vec::new();
    (&stream).take(MAX_QUESTION).read_to_end(&mut told).ok()?;
    let told = String::from_utf8_lossy(&told);
    let mut parts = told.splitn(3, '\n');
    if parts.next()? != token {
        return None;
    }
    let (hint, text) = (parts.next()?, parts.next()?);
    let again = std::mem::replace(last, text.to_string()) == text;
    let _waiting = Waiting::start(shared.open.clone());
    let answer = match Question::read(text, hint) {
        Question::HostKey(offer) => host_key(&offer, answers, shared, interrupt),
        Question::Confirm(text) => asked(answers, interrupt, |ui| {
            let answer = ui.ask_aside(&[], &format!("{}: {text} [y/N]", answers.server), interrupt)?;
            Ok(is_yes(&answer).then(|| Zeroizing::new("yes".to_string())))
        }),
        Question::Secret(what) => asked(answers, interrupt, |ui| {
            let wrong = if again { "that was not it; once more, the " } else { "" };
            ui.ask_secret_aside(&format!("{}: {wrong}{what}", answers.server), interrupt).map(Some)
        }),
        Question::Notice(text) => {
            if let Some(ui) = &answers.ui {
                ui.note(&format!("{}: {text}", answers.server));
            }
            // Until `ssh` has what it waits for and ends the helper, which is the end of this stream.
            let _ = stream.set_read_timeout(None);
            let _ = stream.read(&mut [0]);
            return Some(());
        }
    };
    if let Some(answer) = answer {
        let mut line = Zeroizing::new(Vec::with_capacity(answer.len() + 1));
        line.push(b'+');
        line.extend_from_slice(answer.as_bytes());
        stream.write_all(&line).ok()?;
        line.zeroize();
    }
    Some(())
}

/// What somebody typed; `None` when nobody did. Ctrl-C at a question is Ctrl-C of the command.
fn asked(
    answers: &Answers,
    interrupt: &Interrupt,
    ask: impl FnOnce(&Ui) -> Result<Option<Zeroizing<String>>>,
) -> Option<Zeroizing<String>> {
    match ask(answers.ui.as_ref()?) {
        Ok(answer) => answer,
        Err(e) => {
            // While nothing is shown a terminal sends no signals, so the one that was meant is sent here. After one that
            // was heard it would be the second, which ends us at once.
            if e.kind() == Kind::Interrupted && !interrupt.is_heard() {
                let _ = kill_process(getpid(), Signal::INT);
            }
            None
        }
    }
}

fn host_key(offer: &Offer, answers: &Answers, shared: &Shared, interrupt: &Interrupt) -> Option<Zeroizing<String>> {
    let refuse = |refusal| *shared.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    let (host, offered) = (offer.host.clone(), format!("{} {}", offer.kind, offer.fingerprint));
    let no = || Some(Zeroizing::new("no".to_string()));
    let compared = |expected: &str| match expected == offer.fingerprint {
        true => Some(Zeroizing::new("yes".to_string())),
        false => {
            refuse(Refusal::Differs { host: host.clone(), offered: offered.clone(), expected: expected.into() });
            no()
        }
    };
    if let Some(pin) = &answers.pin {
        return compared(pin);
    }
    let answer = asked(answers, interrupt, |ui| {
        let mut above = vec![
            format!("{} ({}) is new.", answers.server, offer.host),
            format!("  {}  {}", offer.kind, offer.fingerprint),
        ];
        above.extend(offer.known_as.iter().map(|name| format!("  the same key as {name}")));
        let question = "  matches the fingerprint your provider shows?  [y/N/paste fingerprint]";
        ui.ask_aside(&above, question, interrupt).map(|answer| Some(Zeroizing::new(answer)))
    })?;
    match answer.trim() {
        yes if is_yes(yes) => Some(Zeroizing::new("yes".to_string())),
        pasted if is_fingerprint(pasted) => compared(pasted),
        // As some consoles show it.
        pasted if is_fingerprint(&format!("SHA256:{pasted}")) => compared(&format!("SHA256:{pasted}")),
        _ => {
            refuse(Refusal::Declined { host, offered });
            no()
        }
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Counts as a question that waits, until it is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn start(open: Arc<AtomicUsize>) -> Waiting {
        open.fetch_add(1, Ordering::AcqRel);
        Waiting(open)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Refusal {
    pub fn error(&self, server: &str) -> Error {
        match self {
            Refusal::Declined { host, offered } => {
                Error::new(Kind::Unreachable, format!("{server}: its host key was not accepted"))
                    .with_detail(vec![format!("offered    {offered}, by {host}")])
                    .hint("compare it with the server's own: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there, or the provider's console")
            }
            Refusal::Differs { host, offered, expected } => {
                Error::new(Kind::Unreachable, format!("{server}: its host key is not the expected one"))
                    .with_detail(vec![format!("offered    {offered}, by {host}"), format!("expected   {expected}")])
                    .hint("somebody may be in between, or it is another of the server's keys: on the server, `ssh-keygen -lf` shows each of /etc/ssh/ssh_host_*_key.pub")
            }
        }
    }
}
