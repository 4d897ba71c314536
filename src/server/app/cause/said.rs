//! What an app printed before it failed: from its words to a reason and a next step, by the `rules`.
//!
//! The last line that is known counts, because what came before it was survived. Lines that only repeat an error
//! (frames, its properties, the source) are not looked at. A name in a reason is always one that the line holds.
//!
//! **Invariant**: no line makes this fail, whatever is in it; what is not known is `None`.

use super::Holder;
use super::rules::{self, Reason};

/// Lines from the end that are looked at; what is further up was survived.
pub(super) const LOOK: usize = 40;
/// Lines after an error in which its first frame of the app's own is looked for.
const FRAMES: usize = 12;

/// What the words are judged by.
pub(crate) struct Words<'a> {
    pub lines: &'a [String],
    /// Names of vars and secrets that the app has.
    pub given: &'a [&'a str],
    pub holder: Option<&'a Holder>,
    /// Folder of the release, with a slash at its end.
    pub dir: &'a str,
    /// The port that the app should take.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub why: String,
    pub proof: Vec<String>,
    pub hint: String,
}

/// What is known by name.
pub(crate) fn find(words: &Words<'_>) -> Option<Said> {
    last(words, |line| rules::RULES.iter().find_map(|rule| rule(line, words)))
}

/// Any error that a runtime says nobody caught.
pub(crate) fn uncaught(words: &Words<'_>) -> Option<Said> {
    last(words, |line| {
        let hint = "see where it was thrown; `tako logs` has all that it printed";
        let (how, error) = thrown(line, words)?;
        Some((format!("{how} `{error}`"), hint.into()))
    })
}

/// The port that a line says is taken.
pub(crate) fn taken_port(lines: &[String]) -> Option<u16> {
    lines.iter().rev().take(LOOK).filter(|line| is_taken(line)).find_map(|line| {
        let mut numbers = line.split(|c: char| !c.is_ascii_digit()).rev().filter_map(|n| n.parse::<u16>().ok());
        // `os error 98` is no port; of `127.0.0.1:80` the last number is.
        let of_error = line.contains("(os error 98)") || line.contains("[Errno 98]");
        numbers.find(|n| *n > 0 && !(of_error && *n == 98))
    })
}

pub(super) fn is_taken(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let asked = lower.contains("is port ") && lower.contains(" in use?");
    asked || lower.contains("eaddrinuse") || lower.contains("address already in use")
}

/// Without what colours it on a terminal, which some runtimes send to anybody.
pub(crate) fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48: parameters, then one letter.
            '\u{1b}' => drop(chars.by_ref().find(char::is_ascii_alphabetic)),
            c if c.is_control() && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

fn last(words: &Words<'_>, reason: impl Fn(&str) -> Option<Reason>) -> Option<Said> {
    let from = words.lines.len().saturating_sub(LOOK);
    (from..words.lines.len()).rev().filter(|at| !is_echo(&words.lines[*at])).find_map(|at| {
        let (why, hint) = reason(&words.lines[at])?;
        let frames = words.lines[at + 1..].iter().take(FRAMES);
        let own = |line: &&String| {
            let frame = line.trim_start();
            let foreign = ["node:", "ext:", "internal", "native:", "/node_modules/", "<anonymous>)"];
            frame.starts_with("at ") && !foreign.iter().any(|f| frame.contains(f))
        };
        let frame = frames.into_iter().find(own).cloned();
        Some(Said { why, proof: [words.lines[at].clone()].into_iter().chain(frame).collect(), hint })
    })
}

/// A frame, a property of an error, or a line of source: it repeats what another line says.
fn is_echo(line: &str) -> bool {
    let line = line.trim_start();
    let properties = ["at ", "code:", "errno:", "syscall:", "path:", "address:", "port:", "hostname:", "requireStack:"];
    let source = line.split_once(" | ").is_some_and(|(n, _)| n.bytes().all(|b| b.is_ascii_digit()));
    source || properties.iter().any(|p| line.starts_with(p)) || line.starts_with("Require stack:")
}

/// How it was thrown, and the error. Only a runtime that ends by it can tell that nobody caught it.
fn thrown<'a>(line: &'a str, words: &Words<'_>) -> Option<(&'static str, &'a str)> {
    let line = line.trim();
    let rest = line.strip_prefix("error: ").unwrap_or(line);
    if let Some(error) = rest.strip_prefix("Uncaught (in promise) ") {
        return Some(("nobody handled the rejection", error));
    }
    if rest.contains("UnhandledPromiseRejection") {
        let reason = rest.split_once("with the reason ").map(|(_, reason)| reason.trim_end_matches('.'));
        return Some(("nobody handled the rejection", reason.unwrap_or(rest).trim_matches('"')));
    }
    if line.starts_with("panic: ") || line.contains(" panicked at ") {
        return Some(("it panicked:", line));
    }
    let ended_by_it = words.lines.iter().rev().take(3).any(|l| l.starts_with("Node.js v") || l.starts_with("Bun v"));
    let how = match rest.starts_with("Uncaught ") || ended_by_it {
        true => "nobody caught",
        false => "its last error is",
    };
    let error = rest.strip_prefix("Uncaught ").unwrap_or(rest);
    let kind = error.split_once(": ")?.0.split(' ').next()?;
    let named = ["Error", "Exception"].iter().any(|end| kind.ends_with(end)) && kind.len() < 64;
    (named || rest.len() < line.len()).then_some((how, error))
}

/// What stands between the first two quotation marks of any sort.
pub(super) fn quoted(text: &str) -> Option<&str> {
    let marks = ['\'', '"', '`', '\u{2018}', '\u{2019}'];
    let (_, rest) = text.split_once(marks)?;
    rest.split_once(marks).map(|(name, _)| name).filter(|name| !name.is_empty())
}

/// A host or an address with a port.
pub(super) fn address(text: &str) -> Option<&str> {
    let words = text.split([' ', ',', '"', '\'', '(', ')', '/', ';']);
    let mut words = words.map(|word| word.trim_end_matches(['.', ':']));
    words.find(|word| {
        let Some((host, port)) = word.rsplit_once(':') else { return false };
        !host.is_empty() && port.parse::<u16>().is_ok() && host.contains(['.', ']', ':'])
            || word.starts_with("localhost:")
    })
}
