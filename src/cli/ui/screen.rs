//! Screen: the two streams and what stands on them. Everything that is written passes here, one caller at a time, so
//! that a line of text never lands inside the tree that is being redrawn.
//!
//! **Invariant**: below the last line of text stand exactly `drawn` lines of the tree, and the cursor below them. A
//! write that fails is dropped and remembered: nobody reads any more, and that is no reason to stop a deploy.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use super::actions;
use super::look::{Look, Paint, clean, fit, paint};
use super::tree::{End, Id, Tree};
use super::units;

/// Ten pictures a second look alive; more only cost.
const FRAME: Duration = Duration::from_millis(100);
/// A log without a line for this long looks dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How tasks are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    /// A tree on standard error, redrawn.
    Drawn,
    /// One plain line per change of state, on standard error.
    Lines,
    /// Events on standard output.
    Events,
    Silent,
}

pub(super) struct Screen {
    pub out: Box<dyn Write + Send>,
    pub err: Box<dyn Write + Send>,
    pub look: Look,
    pub tasks: Tasks,
    /// Rows and columns of the terminal, asked anew for each picture.
    pub size: fn() -> (usize, usize),
    pub started: Instant,
    tree: Tree,
    drawn: usize,
    last_frame: Option<Instant>,
    last_line: Instant,
    /// The runner of GitHub Actions folds what is written now.
    is_group_open: bool,
    /// A question stands below the text: nothing may be drawn.
    asking: bool,
    /// Why standard output takes nothing any more.
    out_failed: Option<io::Error>,
    pub stopped: bool,
}

impl Screen {
    pub fn new(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        look: Look,
        tasks: Tasks,
        size: fn() -> (usize, usize),
        now: Instant,
    ) -> Screen {
        Screen {
            out,
            err,
            look,
            tasks,
            size,
            started: now,
            tree: Tree::default(),
            drawn: 0,
            last_frame: None,
            last_line: now,
            is_group_open: false,
            asking: false,
            out_failed: None,
            stopped: false,
        }
    }

    /// A line of the result.
    pub fn out_line(&mut self, line: &str) {
        self.clear();
        let text = clean(line, self.look.color_out) + "\n";
        self.write_out(&text);
    }

    /// A line about what is going on.
    pub fn err_line(&mut self, line: &str) {
        self.clear();
        let line = self.look.spell(line);
        let line = if self.look.actions { actions::harmless(&line) } else { line };
        self.write_err(&(line + "\n"));
        self.last_line = Instant::now();
    }

    /// There is one group at a time.
    pub fn open_group(&mut self, name: &str) {
        self.close_group();
        if self.look.actions && self.tasks == Tasks::Lines {
            self.write_err(&(actions::group(name) + "\n"));
            self.is_group_open = true;
        }
    }

    pub fn close_group(&mut self) {
        if std::mem::take(&mut self.is_group_open) {
            self.write_err(&format!("{}\n", actions::END));
        }
    }

    /// For the page of the run, besides the lines of the error.
    pub fn annotate(&mut self, lines: &[String]) {
        self.close_group();
        if self.look.actions {
            self.write_err(&(actions::error("tako", lines) + "\n"));
        }
    }

    /// Room between parts, where somebody looks at a terminal.
    pub fn gap(&mut self) {
        if self.tasks == Tasks::Drawn {
            self.err_line("");
        }
    }

    /// The same, if there are tasks above.
    pub fn part_from_tasks(&mut self) {
        if self.tree.has_ended() {
            self.gap();
        }
    }

    /// One NDJSON event: `v` and `event` first, then the fields of the object `fields`.
    pub fn event(&mut self, name: &str, fields: &serde_json::Value) {
        let fields = fields.to_string();
        let fields = fields.strip_prefix('{').and_then(|f| f.strip_suffix('}')).unwrap_or("");
        let comma = if fields.is_empty() { "" } else { "," };
        let line = format!("{{\"v\":1,\"event\":{}{comma}{fields}}}\n", json!(name));
        self.write_out(&line);
    }

    /// Whether nobody can read the result any more.
    pub fn is_out_closed(&self) -> bool {
        self.out_failed.is_some()
    }

    /// Why the result was lost, unless its reader went away on purpose, as `head` does.
    pub fn lost(&mut self) -> Option<io::Error> {
        self.out_failed.take_if(|e| e.kind() != io::ErrorKind::BrokenPipe)
    }

    /// Results go to `out` again; that nobody read what was written elsewhere is forgotten.
    pub fn out_again(&mut self, out: Box<dyn Write + Send>) {
        self.out = out;
        self.out_failed = None;
    }

    pub fn add(&mut self, parent: Option<Id>, label: &str, now: Instant) -> Id {
        self.tree.add(parent, &one_line(label), now)
    }

    /// A task that is told of nowhere but in the tree, until it is forgotten.
    pub fn wait(&mut self, label: &str, text: &str, now: Instant) -> Id {
        let id = self.tree.add(None, &one_line(label), now);
        self.tree.set(id, &one_line(text));
        id
    }

    pub fn forget(&mut self, id: Id) {
        self.tree.forget(id);
        // Nothing else would take away its picture.
        if self.tree.is_empty() {
            self.clear();
        }
    }

    pub fn set(&mut self, id: Id, text: &str, now: Instant) {
        let text = one_line(text);
        if self.tree.set(id, &text) {
            self.report(id, "running", &text, None, now);
        }
    }

    pub fn progress(&mut self, id: Id, done: u64, total: u64, now: Instant) {
        self.tree.progress(id, done, total, now);
    }

    pub fn end(&mut self, id: Id, end: End, text: &str, now: Instant) {
        let text = one_line(text);
        let text = self.tree.without_label(id, &text);
        let took = self.tree.end(id, end, text, now);
        let state = match end {
            End::Done => "ok",
            End::Failed => "failed",
            End::Stopped => "stopped",
        };
        self.report(id, state, text, Some(took), now);
        if self.tasks != Tasks::Drawn {
            self.tree.take_ended(now, 0, &self.look);
        }
    }

    /// A change of state, where the tree is not drawn.
    fn report(&mut self, id: Id, state: &str, text: &str, took: Option<Duration>, now: Instant) {
        let name = self.tree.name(id);
        match self.tasks {
            Tasks::Drawn | Tasks::Silent => {}
            Tasks::Events => {
                let took_ms = took.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
                self.event("task", &json!({ "task": name, "state": state, "text": text, "took_ms": took_ms }));
            }
            Tasks::Lines => {
                let what = match state {
                    "running" => format!(" {text}"),
                    "failed" => format!(" failed: {text}"),
                    other if text.is_empty() => format!(" {other}"),
                    other => format!(" {other} {text}"),
                };
                self.stamped(&format!("{}{what}", lower_first(&name)), now);
            }
        }
    }

    fn stamped(&mut self, text: &str, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        self.err_line(&format!("[{:>5}] {text}", units::duration(since)));
        self.last_line = now;
    }

    /// Draws or says what is due and tells when to come again; `None` when nothing is under way.
    pub fn tick(&mut self, now: Instant) -> Option<Duration> {
        if self.tree.is_empty() {
            return None;
        }
        match self.tasks {
            Tasks::Drawn => {
                let due = self.last_frame.map_or(Duration::ZERO, |last| FRAME.saturating_sub(now - last));
                if due.is_zero() {
                    self.draw(now);
                    return Some(FRAME);
                }
                Some(due)
            }
            Tasks::Lines => {
                let due = HEARTBEAT.saturating_sub(now.saturating_duration_since(self.last_line));
                if due.is_zero() {
                    let running = self.tree.running().join(", ");
                    self.stamped(&format!("still at it: {}", lower_first(&running)), now);
                    return Some(HEARTBEAT);
                }
                Some(due)
            }
            Tasks::Events | Tasks::Silent => None,
        }
    }

    /// The last picture stays.
    pub fn finish(&mut self, now: Instant) {
        if self.tasks == Tasks::Drawn && !self.tree.is_empty() {
            self.draw(now);
            self.drawn = 0;
        }
        let _ = self.out.flush();
        let _ = self.err.flush();
    }

    /// Makes room for a question, which is written by `question` and answered below the text.
    pub fn ask(&mut self, question: &str) {
        self.clear();
        self.asking = true;
        let text = paint(self.look.color_err, Paint::Bold, &self.look.spell(&clean(question, false)));
        self.write_err(&(text + " "));
    }

    pub fn answered(&mut self, unseen: bool) {
        self.asking = false;
        if unseen {
            self.write_err("\n");
        }
    }

    /// One write, so that a slow terminal never shows half a picture.
    fn draw(&mut self, now: Instant) {
        if self.asking {
            return;
        }
        let (rows, columns) = (self.size)();
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\r\x1b[{}A", self.drawn);
        }
        // The last column stays free: some terminals wrap when it is filled.
        let room = columns.saturating_sub(1);
        for line in self.tree.take_ended(now, room, &self.look) {
            text += &format!("{line}\x1b[K\n");
        }
        let mut lines = self.tree.lines(now, room, &self.look);
        let most = rows.saturating_sub(2).max(1);
        if lines.len() > most {
            let hidden = lines.len() - most + 1;
            lines.truncate(most - 1);
            lines.push(fit(&self.look.spell(&format!("… and {hidden} more")), room));
        }
        for line in &lines {
            text += &format!("{line}\x1b[K\n");
        }
        text += "\x1b[J";
        self.write_err(&text);
        self.drawn = lines.len();
        self.last_frame = Some(now);
    }

    /// Takes the tree away so that text can stand in its place; the next tick draws it again, below. What ended
    /// before the text stays above it.
    fn clear(&mut self) {
        if self.tasks != Tasks::Drawn || self.asking {
            return;
        }
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\r\x1b[{}A\x1b[J", self.drawn);
        }
        let room = (self.size)().1.saturating_sub(1);
        for line in self.tree.take_ended(Instant::now(), room, &self.look) {
            text += &format!("{line}\n");
        }
        self.drawn = 0;
        self.last_frame = None;
        if !text.is_empty() {
            self.write_err(&text);
        }
    }

    fn write_out(&mut self, text: &str) {
        if self.out_failed.is_none() {
            self.out_failed = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).err();
        }
    }

    fn write_err(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}

/// Text of a task, from wherever it came, as one line without control characters.
fn one_line(text: &str) -> String {
    clean(text, false).replace(['\n', '\t'], " ")
}

fn lower_first(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}
