//! Ui: everything that a person or a program reads of `tako`. Results go to standard output, all else to standard
//! error; colour, animation, verbosity and `--json` are decided here once, per stream.

use crate::error::{Error, Result};

/// Cloneable; every method may be called from any thread.
#[derive(Clone)]
pub(crate) struct Ui {}

/// A line of the progress tree: animated on a terminal, one plain line per change of state elsewhere, an event with
/// `--json`. Dropped without an end, it counts as stopped.
pub(crate) struct Task {}

impl Ui {
    /// A line of the result, on standard output. Silent with `--json`.
    pub fn out(&self, _line: &str) {
        unimplemented!()
    }

    /// One NDJSON event on standard output, with `event` and `v` added; silent without `--json`.
    pub fn event(&self, _name: &str, _fields: serde_json::Value) {
        unimplemented!()
    }

    /// A line about what is going on, on standard error; silent with `--quiet`.
    pub fn note(&self, _line: &str) {
        unimplemented!()
    }

    /// The same, only with `--verbose`.
    pub fn detail(&self, _line: &str) {
        unimplemented!()
    }

    pub fn warn(&self, _line: &str) {
        unimplemented!()
    }

    /// `error: …`, its detail indented, its hint, on standard error; with `--json` a final `error` event too.
    pub fn error(&self, _error: &Error) {
        unimplemented!()
    }

    /// A new line at the end of the progress tree; `label` is a word such as `Build`.
    pub fn task(&self, _label: &str) -> Task {
        unimplemented!()
    }

    pub fn is_json(&self) -> bool {
        unimplemented!()
    }

    /// Whether questions may be asked: a terminal on both sides, no CI, no `--no-input`.
    pub fn is_interactive(&self) -> bool {
        unimplemented!()
    }

    /// A yes/no question, default no.
    ///
    /// # Errors
    /// NeedsInput naming `flag` when nobody can answer.
    pub fn confirm(&self, _question: &str, _flag: &str) -> Result<bool> {
        unimplemented!()
    }

    /// A line of text; `default` on an empty answer.
    pub fn ask(&self, _question: &str, _default: Option<&str>, _flag: &str) -> Result<String> {
        unimplemented!()
    }

    /// A secret, read without echo.
    pub fn ask_secret(&self, _question: &str, _flag: &str) -> Result<zeroize::Zeroizing<String>> {
        unimplemented!()
    }

    /// A left-aligned table under `head`, on standard output.
    pub fn table(&self, _head: &[&str], _rows: &[Vec<String>]) {
        unimplemented!()
    }
}

impl Task {
    /// A line below this one, such as a server.
    pub fn child(&self, _label: &str) -> Task {
        unimplemented!()
    }

    /// What it is doing now.
    pub fn set(&self, _state: &str) {
        unimplemented!()
    }

    /// How far: bytes of bytes.
    pub fn progress(&self, _done: u64, _total: u64) {
        unimplemented!()
    }

    pub fn done(self, _result: &str) {
        unimplemented!()
    }

    pub fn fail(self, _why: &str) {
        unimplemented!()
    }
}
