//! Ui: everything that a person or a program reads of `tako`. Results go to standard output, all else to standard
//! error; colour, animation, verbosity and `--json` are decided here once, per stream.
//!
//! Callers never think about streams, terminals or closed pipes, and hand over text from anywhere as it is: whatever
//! could move the cursor is taken out here.

pub(crate) mod units;
mod actions;
mod look;
mod fold;
mod tree;
mod screen;
pub(crate) mod waiting;
pub(crate) mod pager;
mod table;
mod ask;
#[cfg(test)]
mod tests;

use std::io::{self, Write, stdin};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::interrupt::Interrupt;
use crate::error::{Context, Error, Kind, Result};
use look::{Glyph, Look, Paint, clean, paint};
use screen::{Screen, Tasks};
use tree::{End, Id};

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
    pub no_input: bool,
    /// Questions of yes or no are answered with yes.
    pub yes: bool,
    pub color: Color,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// Cloneable; every method may be called from any thread.
#[derive(Clone)]
pub(crate) struct Ui {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    look: Look,
    shared: Arc<Shared>,
    /// Draws the tree and says the heartbeat; started with the first task.
    renderer: OnceLock<Mutex<Option<JoinHandle<()>>>>,
    /// One question at a time.
    asking: Mutex<()>,
}

/// The screen is locked while it is written to, on purpose: it is the terminal that cannot be shared.
struct Shared {
    screen: Mutex<Screen>,
    /// A first task, or the end.
    changed: Condvar,
}

/// A line of the progress tree: animated on a terminal, one plain line per change of state elsewhere, an event with
/// `--json`. Dropped without an end, it counts as stopped.
pub(crate) struct Task {
    ui: Ui,
    id: Id,
    ended: bool,
}

/// See [`Ui::phase`].
pub(crate) struct Phase {
    ui: Ui,
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.ui.screen().close_group();
    }
}

impl Ui {
    pub fn new(settings: Settings) -> Ui {
        let look = Look::here(&settings);
        Ui::with(settings, look, Box::new(io::stdout()), Box::new(io::stderr()))
    }

    fn with(settings: Settings, look: Look, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Ui {
        Ui::sized(settings, look, out, err, terminal_size)
    }

    /// `size` tells the rows and columns of the terminal.
    fn sized(
        settings: Settings,
        look: Look,
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        size: fn() -> (usize, usize),
    ) -> Ui {
        let tasks = match &settings {
            s if s.json => Tasks::Events,
            s if s.quiet => Tasks::Silent,
            _ if look.animated => Tasks::Drawn,
            _ => Tasks::Lines,
        };
        let screen = Mutex::new(Screen::new(out, err, look, tasks, size, Instant::now()));
        let shared = Arc::new(Shared { screen, changed: Condvar::new() });
        let inner = Inner { settings, look, shared, renderer: OnceLock::new(), asking: Mutex::new(()) };
        Ui { inner: Arc::new(inner) }
    }

    /// A line of the result, on standard output. Silent with `--json`.
    pub fn out(&self, line: &str) {
        if !self.is_json() {
            self.screen().out_line(line);
        }
    }

    /// What went well, as a line of the result.
    pub fn success(&self, line: &str) {
        let look = &self.inner.look;
        let mark = look.glyph(Glyph::Done, 0);
        let folded = self.folded(&format!("{mark} {line}"), look.terminal_out);
        let rest = folded.strip_prefix(mark).unwrap_or_default();
        self.screen().part_from_tasks();
        self.out(&format!("{}{rest}", paint(look.color_out, Paint::Green, mark)));
    }

    /// One NDJSON event on standard output, with `event` and `v` added; silent without `--json`.
    pub fn event(&self, name: &str, fields: serde_json::Value) {
        if self.is_json() {
            self.screen().event(name, &fields);
        }
    }

    /// A line about what is going on, on standard error; silent with `--quiet`.
    pub fn note(&self, line: &str) {
        if !self.inner.settings.quiet {
            let line = self.folded(&clean(line, false), self.inner.look.terminal_err);
            self.screen().err_line(&line);
        }
    }

    /// What a command is about, with room around it on a terminal.
    pub fn heading(&self, line: &str) {
        if !self.inner.settings.quiet && !self.is_json() {
            self.screen().part_from_tasks();
            self.screen().err_line(&paint(self.inner.look.color_err, Paint::Bold, &clean(line, false)));
            self.gap();
        }
    }

    /// A part of a long command, as GitHub Actions folds its lines; elsewhere it is not seen. It lasts as long as the value.
    pub fn phase(&self, name: &str) -> Phase {
        self.screen().open_group(name);
        Phase { ui: self.clone() }
    }

    /// Room between parts, where a person looks at a terminal.
    fn gap(&self) {
        self.screen().gap();
    }

    /// The same, only with `--verbose`.
    pub fn detail(&self, line: &str) {
        if self.inner.settings.verbose {
            let line = paint(self.inner.look.color_err, Paint::Dim, &clean(line, false));
            self.screen().err_line(&line);
        }
    }

    pub fn warn(&self, line: &str) {
        self.event("warning", json!({ "message": line }));
        self.explain("warning:", Paint::Yellow, line);
    }

    /// `error: …`, its detail indented, its hint, on standard error; with `--json` a final `error` event too.
    pub fn error(&self, error: &Error) {
        self.event(
            "error",
            json!({
                "kind": error.kind(),
                "message": error.to_string(),
                "hint": error.next_step(),
                "more": error.shows_more(),
                "detail": error.detail(),
            }),
        );
        self.screen().part_from_tasks();
        let told = Told::of(error);
        self.screen().annotate(&told.lines());
        self.explain("error:", Paint::Red, &told.message);
        for line in &told.detail {
            let line = clean(line, false);
            // What was printed stays as it was printed, and a caret below the right letter.
            let is_shown = line.contains('│') || line.trim_start().starts_with('^');
            let line = if is_shown { line } else { self.folded(&line, self.inner.look.terminal_err) };
            self.screen().err_line(&line);
        }
        for line in told.hint.iter().chain(&told.more) {
            let line = self.folded(&clean(line, false), self.inner.look.terminal_err);
            self.screen().err_line(&line);
        }
    }

    /// A line on standard error after a word in colour.
    fn explain(&self, word: &str, color: Paint, line: &str) {
        let look = &self.inner.look;
        let folded = self.folded(&format!("{word} {}", clean(line, false)), look.terminal_err);
        let rest = folded.strip_prefix(word).unwrap_or_default();
        self.screen().err_line(&format!("{}{rest}", paint(look.color_err, color, word)));
    }

    /// Prose for a terminal, broken at words; for anything else as it is.
    fn folded(&self, text: &str, terminal: bool) -> String {
        match self.room(terminal) {
            Some(room) => fold::fold(&self.inner.look.spell(text), room),
            None => text.into(),
        }
    }

    fn room(&self, terminal: bool) -> Option<usize> {
        terminal.then(|| (self.screen().size)().1)
    }

    /// A new line at the end of the progress tree; `label` is a word such as `Build`.
    pub fn task(&self, label: &str) -> Task {
        self.add_task(None, label)
    }

    pub fn is_json(&self) -> bool {
        self.inner.settings.json
    }

    /// Whether questions may be asked: a terminal on both sides, no CI, no `--no-input`, no `--json`.
    pub fn is_interactive(&self) -> bool {
        self.inner.look.interactive
    }

    /// Whether nobody reads standard output any more; a command that follows something ends then.
    pub fn is_closed(&self) -> bool {
        self.screen().is_out_closed() || look::nobody_reads(&io::stdout())
    }

    /// A yes/no question, default no.
    ///
    /// # Errors
    /// NeedsInput naming `flag` when nobody can answer.
    pub fn confirm(&self, question: &str, flag: &str) -> Result<bool> {
        if self.inner.settings.yes {
            return Ok(true);
        }
        self.must_be_interactive(question, flag)?;
        let answer = self.question(&format!("{question} [y/N]"))?;
        Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// A line of text; `default` on an empty answer.
    pub fn ask(&self, question: &str, default: Option<&str>, flag: &str) -> Result<String> {
        self.must_be_interactive(question, flag)?;
        let shown = match default {
            Some(default) => format!("{question} [{default}]:"),
            None => format!("{question}:"),
        };
        let answer = self.question(&shown)?;
        Ok(if answer.is_empty() { default.unwrap_or_default().into() } else { answer })
    }

    /// A secret, read without echo.
    pub fn ask_secret(&self, question: &str, flag: &str) -> Result<Zeroizing<String>> {
        self.must_be_interactive(question, flag)?;
        self.ask_secret_aside(question, &Interrupt::of_process()?)
    }

    /// A question that comes up in the middle of something, below lines about it. Whoever asks knows that somebody is
    /// there; it waits for its turn, and ends with `interrupt`.
    pub fn ask_aside(&self, above: &[String], question: &str, interrupt: &Interrupt) -> Result<String> {
        let _one = self.turn(interrupt)?;
        let mut screen = self.screen();
        above.iter().for_each(|line| screen.err_line(&clean(line, false)));
        screen.ask(question);
        drop(screen);
        let answer = ask::wait(interrupt).and_then(|()| ask::line(&mut stdin().lock()));
        self.screen().answered(!matches!(answer, Ok(Some(_))));
        answer?.ok_or_else(|| Error::new(Kind::Interrupted, "the input ended before the answer"))
    }

    /// The same for a secret, read without echo.
    pub fn ask_secret_aside(&self, question: &str, interrupt: &Interrupt) -> Result<Zeroizing<String>> {
        let _one = self.turn(interrupt)?;
        let answer = ask::hidden_line(interrupt, || self.screen().ask(&format!("{question} (not shown):")));
        self.screen().answered(true);
        answer
    }

    /// One question at a time.
    fn turn(&self, interrupt: &Interrupt) -> Result<MutexGuard<'_, ()>> {
        /// How soon somebody who waits hears that it is in vain.
        const LOOK: Duration = Duration::from_millis(50);
        loop {
            interrupt.check()?;
            match self.inner.asking.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) => thread::sleep(LOOK),
            }
        }
    }

    /// A left-aligned table under `head`, on standard output.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let look = &self.inner.look;
        // Before it is measured: what stands for a character may be longer.
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| look.spell(cell)).collect()).collect();
        let lines = table::lines(head, &rows, self.room(look.terminal_out));
        lines.head.iter().for_each(|line| self.out(&paint(look.color_out, Paint::Bold, line)));
        lines.rows.iter().for_each(|line| self.out(line));
    }

    /// What the table below it is about, on standard output.
    pub fn caption(&self, line: &str) {
        self.out("");
        self.out(&paint(self.inner.look.color_out, Paint::Bold, &self.inner.look.spell(line)));
    }

    /// The last picture stays, and nothing is drawn any more. Also done when the last clone goes.
    ///
    /// # Errors
    /// Io when the result could not be written, as on a full disk. A reader that went away is no error.
    pub fn close(&self) -> Result<()> {
        self.inner.close();
        self.screen().lost().map_or(Ok(()), Err).context(|| "write to standard output".into())
    }

    fn question(&self, question: &str) -> Result<String> {
        self.ask_aside(&[], question, &Interrupt::of_process()?)
    }

    fn must_be_interactive(&self, question: &str, flag: &str) -> Result<()> {
        if self.is_interactive() {
            return Ok(());
        }
        let question = question.trim_end_matches([':', '?', ' ']);
        Err(Error::new(Kind::NeedsInput, format!("nobody is there to answer: {question}"))
            .hint(format!("give {flag}, or run this on a terminal")))
    }

    fn add_task(&self, parent: Option<Id>, label: &str) -> Task {
        let id = self.screen().add(parent, label, Instant::now());
        self.inner.start_renderer();
        Task { ui: self.clone(), id, ended: false }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.inner.shared.screen()
    }
}

impl Task {
    /// A line below this one, such as a server.
    pub fn child(&self, label: &str) -> Task {
        self.ui.add_task(Some(self.id), label)
    }

    /// What it is doing now.
    pub fn set(&self, state: &str) {
        self.ui.screen().set(self.id, state, Instant::now());
    }

    /// How far: bytes of bytes.
    pub fn progress(&self, done: u64, total: u64) {
        self.ui.screen().progress(self.id, done, total, Instant::now());
    }

    pub fn done(mut self, result: &str) {
        self.end(End::Done, result);
    }

    pub fn fail(mut self, why: &str) {
        self.end(End::Failed, why);
    }

    fn end(&mut self, end: End, text: &str) {
        if !std::mem::replace(&mut self.ended, true) {
            self.ui.screen().end(self.id, end, text, Instant::now());
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end(End::Stopped, "");
    }
}

impl Inner {
    fn start_renderer(&self) {
        if !matches!(self.shared.screen().tasks, Tasks::Drawn | Tasks::Lines) {
            return;
        }
        self.renderer.get_or_init(|| {
            let shared = self.shared.clone();
            // Without the thread there is less to see and nothing is lost.
            Mutex::new(thread::Builder::new().name("ui".into()).spawn(move || shared.render()).ok())
        });
        self.shared.changed.notify_all();
    }

    fn close(&self) {
        self.shared.screen().stopped = true;
        self.shared.changed.notify_all();
        let renderer = self.renderer.get().and_then(|r| r.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(renderer) = renderer {
            let _ = renderer.join();
        }
        self.shared.screen().finish(Instant::now());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn screen(&self) -> MutexGuard<'_, Screen> {
        // A panic elsewhere is no reason to fall silent.
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render(&self) {
        let mut screen = self.screen();
        while !screen.stopped {
            screen = match screen.tick(Instant::now()) {
                Some(due) => self.changed.wait_timeout(screen, due).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(screen).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// An error as lines of plain text.
#[cfg(test)]
pub(crate) fn error_lines(error: &Error) -> Vec<String> {
    Told::of(error).lines()
}

/// An error as lines: the message, then detail, indented, then the hint, and where there is more.
struct Told {
    message: String,
    detail: Vec<String>,
    hint: Option<String>,
    more: Option<String>,
}

impl Told {
    fn of(error: &Error) -> Told {
        Told {
            message: error.to_string(),
            detail: error.detail().iter().map(|line| format!("  {line}").trim_end().to_string()).collect(),
            hint: error.next_step().map(|hint| format!("  hint: {hint}")),
            more: error.shows_more().map(|command| format!("  more: {command}")),
        }
    }

    fn lines(&self) -> Vec<String> {
        let Told { message, detail, hint, more } = self;
        [message].into_iter().chain(detail).chain(hint).chain(more).map(|line| clean(line, false)).collect()
    }
}

/// Rows and columns of the terminal behind standard error.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}
