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
pub(super) mod refusal;

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

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{Signal, getpid, getppid, getuid, kill_process};
use zeroize::{Zeroize, Zeroizing};

use super::{hex8, inspect};
use crate::cli::config::inventory::Server;
use crate::cli::interrupt::{Interrupt, Trigger};
use crate::cli::ui::Ui;
use crate::error::{Context, Kind, Result};
use crate::sys;
use question::{Offer, Question, is_fingerprint};
use refusal::{Refusal, Whose, Why};

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
    // The `ssh` that asks has started us.
    let asker = getppid().map_or(0, |ssh| ssh.as_raw_nonzero().get());
    write!(stream, "{token}\n{asker}\n{hint}\n{text}").ok()?;
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

/// Who answers.
pub(super) struct Answers {
    pub to: Server,
    /// `None` when there is nobody to ask.
    pub ui: Option<Ui>,
    /// The only host key of the server that will do; it says nothing of a jump host's.
    pub pin: Option<String>,
}

/// Hears the questions of one `ssh`, until it is dropped.
pub(super) struct Relay {
    socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Says which process is our `ssh`.
    ours: Option<Sender<u32>>,
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
        let (ours, asks) = bounded(1);
        let mut relay =
            Relay { socket, shared: shared.clone(), thread: None, ours: Some(ours), trigger: Some(trigger) };
        let mut ear = Ear { token, answers, shared, interrupt, asks, ours: None, last: String::new() };
        let hear = move || {
            for stream in listener.incoming() {
                if ear.shared.closed.load(Ordering::Acquire) {
                    return;
                }
                // One that could not be heard or told is a question without an answer.
                let _ = stream.map(|stream| ear.hear(stream));
            }
        };
        let thread = thread::Builder::new().name("askpass".into()).spawn(hear).context(|| "start a thread".into())?;
        relay.thread = Some(thread);
        Ok(relay)
    }

    /// Which process it is that asks for the server itself.
    pub fn belongs_to(&mut self, ssh: u32) {
        if let Some(ours) = self.ours.take() {
            // The thread has ended only if it failed, and then nothing is asked.
            let _ = ours.send(ssh);
        }
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
        self.ours = None;
        // It waits for the next question; this is none.
        let woken = UnixStream::connect(&self.socket);
        let _ = fs::remove_file(&self.socket);
        // The terminal is as it was once the thread has ended.
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// What hears the questions.
struct Ear {
    token: String,
    answers: Answers,
    shared: Arc<Shared>,
    interrupt: Interrupt,
    /// Says, once, which process is our `ssh`.
    asks: Receiver<u32>,
    ours: Option<u32>,
    /// The text of the question before: `ssh` asks again what was answered wrongly.
    last: String,
}

impl Ear {
    fn hear(&mut self, mut stream: UnixStream) -> Option<()> {
        if sys::peer_uid(&stream).ok()? != getuid().as_raw() {
            return None;
        }
        stream.set_read_timeout(Some(TELLING)).ok()?;
        let mut told = Vec::new();
        (&stream).take(MAX_QUESTION).read_to_end(&mut told).ok()?;
        let told = String::from_utf8_lossy(&told);
        let mut parts = told.splitn(4, '\n');
        if parts.next()? != self.token {
            return None;
        }
        let (asker, hint, text) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let again = std::mem::replace(&mut self.last, text.to_string()) == text;
        let question = Question::read(text, hint);
        let whose = match &question {
            Question::HostKey(_) => self.whose(asker),
            Question::Confirm(_) | Question::Notice(_) | Question::Secret(_) => Whose::Server,
        };
        let Ear { answers, interrupt, .. } = &*self;
        // Whom nobody can answer is not waited for.
        let _waiting = answers.ui.is_some().then(|| Waiting::start(self.shared.open.clone()));
        let answer = match question {
            Question::HostKey(offer) => self.host_key(&offer, whose),
            Question::Confirm(text) => asked(answers, interrupt, |ui| {
                let answer = ui.ask_aside(&[], &format!("{}: {text} [y/N]", answers.to.name), interrupt)?;
                Ok(is_yes(&answer).then(|| Zeroizing::new("yes".to_string())))
            }),
            Question::Secret(what) => asked(answers, interrupt, |ui| {
                let wrong = if again { "that was not it; once more, the " } else { "" };
                ui.ask_secret_aside(&format!("{}: {wrong}{what}", answers.to.name), interrupt).map(Some)
            }),
            Question::Notice(text) => {
                answers.ui.as_ref()?.note(&format!("{}: {text}", answers.to.name));
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

    /// Whose key it is, is told by which `ssh` asks: ours asks for the server, and each on the way has an `ssh` of its
    /// own. Their questions look alike, and both hosts may have one name.
    fn whose(&mut self, asker: u32) -> Whose {
        self.ours = self.ours.or_else(|| self.asks.recv().ok());
        if self.ours == Some(asker) {
            return Whose::Server;
        }
        // Where `ssh` is a program that starts the real one, that one asks. Without a way there is only the server.
        match inspect::resolve(&self.answers.to, &self.interrupt) {
            Ok(to) if to.by_way_of.is_none() => Whose::Server,
            Ok(_) | Err(_) => Whose::Way,
        }
    }

    fn host_key(&self, offer: &Offer, whose: Whose) -> Option<Zeroizing<String>> {
        let Ear { answers, shared, interrupt, .. } = self;
        let refuse = |why| {
            let refusal = Refusal::of(whose, offer, why);
            *shared.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
            Some(Zeroizing::new("no".to_string()))
        };
        let compared = |expected: &str| match expected == offer.fingerprint {
            true => Some(Zeroizing::new("yes".to_string())),
            false => refuse(Why::Differs { expected: expected.into() }),
        };
        if let (Whose::Server, Some(pin)) = (whose, &answers.pin) {
            return compared(pin);
        }
        if answers.ui.is_none() {
            return refuse(Why::Unknown);
        }
        let answer = asked(answers, interrupt, |ui| {
            let (first, question) = match whose {
                Whose::Server => (
                    format!("{} ({}) is new.", answers.to.name, offer.host),
                    "  matches the fingerprint your provider shows?  [y/N/paste fingerprint]",
                ),
                Whose::Way => (
                    format!("{} is reached by way of {}, which is new.", answers.to.name, offer.host),
                    "  matches the fingerprint of that host?  [y/N/paste fingerprint]",
                ),
            };
            let mut above = vec![first, format!("  {}  {}", offer.kind, offer.fingerprint)];
            above.extend(offer.known_as.iter().map(|name| format!("  the same key as {name}")));
            ui.ask_aside(&above, question, interrupt).map(|answer| Some(Zeroizing::new(answer)))
        })?;
        match answer.trim() {
            yes if is_yes(yes) => Some(Zeroizing::new("yes".to_string())),
            pasted if is_fingerprint(pasted) => compared(pasted),
            // As some consoles show it.
            pasted if is_fingerprint(&format!("SHA256:{pasted}")) => compared(&format!("SHA256:{pasted}")),
            _ => refuse(Why::Declined),
        }
    }
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
