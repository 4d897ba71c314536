//! One error type for everything that is not on the data plane.
//!
//! An [`Error`] says what was being done, to what, why it failed and what to do next. Its [`Kind`] crosses the
//! management socket (as a `proto::fault::Fault`), chooses the exit code of the CLI and decides on retries; callers
//! never match on text.
//!
//! Invariant: a message names the thing, is lower case and has no full stop; a hint is a next step, never a cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is, as far as a program cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// A file of the user's, or the state of the project, is wrong.
    Config,
    /// The named thing is not there.
    NotFound,
    /// It clashes with something that is there (a route of another app, an existing name).
    Conflict,
    /// Somebody else is at it; later it may work.
    Busy,
    /// We will not do it: not allowed, not safe, malformed.
    Refused,
    /// It did not happen in time.
    Timeout,
    /// A server cannot be reached or does not let us in.
    Unreachable,
    /// The two sides share no protocol version.
    Incompatible,
    /// The build on this machine failed.
    Build,
    /// A new release did not come up; what ran before still runs.
    Rejected,
    /// A question would have to be asked, and nobody is there to answer.
    NeedsInput,
    /// The user interrupted it.
    Interrupted,
    /// The operating system said no.
    Io,
    /// A kind that this version does not know, or a promise of ours that was broken.
    #[serde(other)]
    Bug,
}

/// A failure told for a person, with a kind for programs.
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    /// A command that shows more. A box is smaller than a `String`: an error is passed up by value.
    more: Option<Box<str>>,
    /// Lines of proof: the last output of a program, a list of clashes.
    detail: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `message` says what went wrong, naming the thing.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, more: None, detail: Vec::new(), source: None }
    }

    /// Adds the next step a person can take.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the command that shows more; it is told last of all.
    #[must_use]
    pub fn more(mut self, command: impl Into<Box<str>>) -> Self {
        self.more = Some(command.into());
        self
    }

    /// Adds lines of proof, shown indented below the message.
    #[must_use]
    pub fn with_detail(mut self, lines: Vec<String>) -> Self {
        self.detail = lines;
        self
    }

    /// Wraps a cause; the kind stays that of `self`.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// Changes the kind, for a caller who knows better what the failure means to its user.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub fn shows_more(&self) -> Option<&str> {
        self.more.as_deref()
    }

    pub fn detail(&self) -> &[String] {
        &self.detail
    }
}

/// The whole chain on one line: what was being done, then each cause.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&on_one_line(&self.message))?;
        if let Some(source) = &self.source {
            write!(f, ": {}", on_one_line(&plain(source.as_ref())))?;
        }
        Ok(())
    }
}

/// The text with its control characters escaped: a file may have a name that ends a line or drives a terminal, and who
/// reads of it has to find it.
pub(crate) fn on_one_line(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        false => text.into(),
        true => {
            let escaped = |c: char| match c.is_control() {
                true => c.escape_default().to_string(),
                false => c.to_string(),
            };
            text.chars().map(escaped).collect::<String>().into()
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// Says what was being done when a lower layer failed.
pub trait Context<T> {
    /// Wraps the error as the cause of a failure to do `doing`, e.g. `read /etc/tako/server.toml`.
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T, io::Error> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let is_full = matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            let error = Error::new(kind_of(&e), doing()).because(e);
            match is_full {
                true => error.hint("make room there, then run it again"),
                false => error,
            }
        })
    }
}

impl<T> Context<T> for Result<T, rustix::io::Errno> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(io::Error::from).context(doing)
    }
}

impl<T> Context<T> for Result<T, serde_json::Error> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(Kind::Refused, doing()).because(e))
    }
}

impl<T> Context<T> for Result<T, Error> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error {
            kind: e.kind,
            message: format!("{}: {}", doing(), e.message),
            hint: e.hint,
            more: e.more,
            detail: e.detail,
            source: e.source,
        })
    }
}

fn kind_of(e: &io::Error) -> Kind {
    match e.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::TimedOut => Kind::Timeout,
        _ => Kind::Io,
    }
}

/// An operating system's error without the `(os error 2)` that tells a person nothing.
fn plain(e: &(dyn StdError + 'static)) -> String {
    let text = e.to_string();
    match text.find(" (os error ") {
        Some(at) => lower_first(&text[..at]),
        None => text,
    }
}

fn lower_first(s: &str) -> String {
    let mut chars = s.chars();
    match chars.next() {
        Some(c) => c.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_whole_chain_on_one_line() {
        let e = std::fs::read("/nowhere/x").context(|| "read /nowhere/x".into()).unwrap_err();
        assert_eq!(e.to_string(), "read /nowhere/x: no such file or directory");
        assert_eq!(e.kind(), Kind::NotFound);
    }

    #[test]
    fn a_full_disk_comes_with_the_next_step() {
        let full = || Err::<(), _>(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        let e = full().context(|| "write /x".into()).unwrap_err();
        assert_eq!(e.to_string(), "write /x: no space left on device");
        assert!(e.next_step().unwrap().contains("make room"));
    }

    #[test]
    fn a_name_that_would_break_the_line_is_escaped() {
        let e = Error::new(Kind::Refused, "it's `\\` and caf\u{e9}").with_kind(Kind::Io);
        assert_eq!(e.to_string(), "it's `\\` and caf\u{e9}");
        let e = Err::<(), _>(Error::new(Kind::Io, "no")).context(|| "pack a\nb\u{1b}[2J\u{9b}".into()).unwrap_err();
        assert_eq!(e.to_string(), r"pack a\nb\u{1b}[2J\u{9b}: no");
        // Told once more by another one, it is the same.
        assert_eq!(Error::new(Kind::Io, format!("x: {e}")).to_string(), format!("x: {e}"));
    }

    #[test]
    fn keeps_hint_and_detail_when_wrapped() {
        let e = Error::new(Kind::Busy, "locked").hint("wait").with_detail(vec!["x".into()]);
        let e = Err::<(), _>(e).context(|| "deploy a".into()).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.next_step(), e.kind()), ("deploy a: locked", Some("wait"), Kind::Busy));
        assert_eq!(e.detail(), ["x"]);
    }
}
