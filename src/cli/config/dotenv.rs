//! Dotenv: `NAME=value` lines as people keep them in `.env` files, read for their secrets.
//!
//! ```text
//! # a comment
//! export NAME = plain text # and a comment
//! NAME='as it is, also over several lines'       (` does the same)
//! NAME="with \n, \t, \r, \", \\, \$ and \`, also over several lines"
//! ```
//! Nothing is expanded: a `$` is a `$`. It never knows what a name may be called, or what is done with a value.
//!
//! **Invariant**: a problem names its line and never shows any of it: what looks like a name may be a piece of a value.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// More problems than this are one: the file is something else.
const MAX_PROBLEMS: usize = 10;

/// The values by name. `check` says whether a name may be used; the name is shown with its problem then.
///
/// # Errors
/// Refused with a line for every problem, up to a few.
pub(crate) fn parse(
    text: &str,
    check: impl Fn(&str, &str) -> Result<()>,
) -> Result<BTreeMap<String, Zeroizing<String>>> {
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut values: BTreeMap<String, (usize, Zeroizing<String>)> = BTreeMap::new();
    let mut problems = Vec::new();
    while problems.len() < MAX_PROBLEMS {
        let Some(found) = reader.next() else { break };
        match found {
            Ok(Entry { line, name, value }) => match (values.get(name), check(name, &value)) {
                (Some((first, _)), _) => {
                    problems.push(format!("line {line}: {name} is there already, on line {first}"))
                }
                (None, Err(e)) => problems.push(format!("line {line}: {e}")),
                (None, Ok(())) => drop(values.insert(name.into(), (line, value))),
            },
            Err((line, what)) => problems.push(format!("line {line}: {what}")),
        }
    }
    if problems.is_empty() {
        return Ok(values.into_iter().map(|(name, (_, value))| (name, value)).collect());
    }
    Err(Error::new(Kind::Refused, "the dotenv file cannot be taken as it is; nothing was set")
        .with_detail(problems)
        .hint("correct these lines or leave them out"))
}

struct Entry<'a> {
    line: usize,
    name: &'a str,
    value: Zeroizing<String>,
}

type Found<'a> = std::result::Result<Entry<'a>, (usize, &'static str)>;

struct Reader<'a> {
    rest: &'a str,
    /// Of `rest`, from 1.
    line: usize,
}

impl<'a> Reader<'a> {
    /// The next entry or problem; after a problem it goes on with the next line.
    fn next(&mut self) -> Option<Found<'a>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let line = self.line;
            let at_line = self.rest;
            let content = self.take_line().trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let content = content.strip_prefix("export").filter(|c| c.starts_with([' ', '\t'])).unwrap_or(content);
            let Some((name, value)) = content.split_once('=') else { return Some(Err((line, "there is no `=`"))) };
            let (name, value) = (name.trim(), value.trim_start());
            if !is_name(name) {
                return Some(Err((line, "what is before the `=` is no name: use capital letters, digits and `_`")));
            }
            let value = match value.chars().next() {
                Some(quote @ ('"' | '\'' | '`')) => {
                    // It may end on a later line.
                    let (_, behind) = at_line.split_once('=').expect("the line has one, as found above");
                    self.quoted(&behind.trim_start()[1..], quote, line)
                }
                _ => Ok(plain(value)),
            };
            return Some(value.map(|value| Entry { line, name, value }).map_err(|what| (line, what)));
        }
    }

    /// Without its end.
    fn take_line(&mut self) -> &'a str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += 1;
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// `from` is what follows the opening quote, on line `line`.
    fn quoted(
        &mut self,
        from: &'a str,
        quote: char,
        line: usize,
    ) -> std::result::Result<Zeroizing<String>, &'static str> {
        let Some(end) = closing(from, quote) else {
            // Whatever follows may be a part of the value: it is not looked at.
            self.rest = "";
            return Err("the quote that begins here is never closed");
        };
        let (inner, behind) = (&from[..end], &from[end + 1..]);
        self.rest = behind;
        self.line = line + inner.matches('\n').count();
        let tail = self.take_line().trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err("there is text behind the closing quote");
        }
        Ok(match quote {
            '"' => unescaped(inner),
            _ => Zeroizing::new(inner.replace("\r\n", "\n")),
        })
    }
}

/// As the vault has it, so that nothing else is ever shown.
fn is_name(name: &str) -> bool {
    super::vault::is_name(name)
}

/// Where the value ends; a backslash before a double quote keeps it open.
fn closing(from: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    from.char_indices()
        .find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = quote == '"' && *c == '\\' && !escaped;
            ends
        })
        .map(|(at, _)| at)
}

/// Up to a comment, which needs a blank before it.
fn plain(value: &str) -> Zeroizing<String> {
    let is_comment = |at: &usize| *at == 0 || value[..*at].ends_with([' ', '\t']);
    let end = value.match_indices('#').map(|(at, _)| at).find(is_comment).unwrap_or(value.len());
    Zeroizing::new(value[..end].trim_end().into())
}

/// A backslash before anything else is itself.
fn unescaped(inner: &str) -> Zeroizing<String> {
    // Never longer than what it is made of: growing would leave copies behind.
    let mut value = Zeroizing::new(String::with_capacity(inner.len()));
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        let meant = match (c, next) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some(same @ ('"' | '\\' | '$' | '`'))) => Some(same),
            ('\r', Some('\n')) => Some('\n'),
            _ => None,
        };
        if meant.is_some() {
            chars.next();
        }
        value.push(meant.unwrap_or(c));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>> {
        let checked = |name: &str, _: &str| match name {
            "PORT" => Err(Error::new(Kind::Config, "PORT is set by Tako itself")),
            _ => Ok(()),
        };
        Ok(parse(text, checked)?.into_iter().map(|(name, value)| (name, value.to_string())).collect())
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        assert_eq!(read(text).unwrap(), expected, "{text:?}");
    }

    fn refuses(text: &str, expected: &[&str]) {
        let error = read(text).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(error.detail(), expected, "{text:?}");
        assert!(!format!("{error} {:?} {:?}", error.detail(), error.next_step()).contains("hunter"), "{error}");
    }

    #[test]
    fn plain_values_end_with_the_line_or_a_comment() {
        check("", &[]);
        check("# only\n\n   # comments\r\n", &[]);
        check("A=1", &[("A", "1")]);
        check("A=1\nB=2\n", &[("A", "1"), ("B", "2")]);
        check("\u{feff}A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]);
        check("  export A = one two \t\nexport\tB=x", &[("A", "one two"), ("B", "x")]);
        check("A=one # comment\nB=a#b\nC= # nothing\nD=#no", &[("A", "one"), ("B", "a#b"), ("C", ""), ("D", "")]);
        check("URL=postgres://u:p=q@h/db?x=1&y=$HOME\\n", &[("URL", "postgres://u:p=q@h/db?x=1&y=$HOME\\n")]);
        check("EXPORTED=1\nA=it's \"x\"", &[("A", "it's \"x\""), ("EXPORTED", "1")]);
    }

    #[test]
    fn quoted_values_keep_what_is_in_them() {
        check("A='a # b' # c", &[("A", "a # b")]);
        check(r"A='a\nb\'", &[("A", r"a\nb\")]);
        check("A=\"\"\nB=''", &[("A", ""), ("B", "")]);
        check(r#"A="a\nb\tc\r\"d\" \\ \$x \` \q""#, &[("A", "a\nb\tc\r\"d\" \\ $x ` \\q")]);
        check("A=\"one\ntwo = 2\n# three\n\"\nB=1", &[("A", "one\ntwo = 2\n# three\n"), ("B", "1")]);
        check("A=\"one\r\ntwo\"\r\nB='x\r\ny'", &[("A", "one\ntwo"), ("B", "x\ny")]);
        check("A=\"\\\\\"\nB=`a'\"b`", &[("A", "\\"), ("B", "a'\"b")]);
        check("A=\"é\u{1f980}\"  # done\nB=é", &[("A", "é\u{1f980}"), ("B", "é")]);
    }

    #[test]
    fn problems_are_told_by_line_and_without_a_value() {
        refuses("A=1\nhunter2", &["line 2: there is no `=`"]);
        let no_name = "what is before the `=` is no name: use capital letters, digits and `_`";
        refuses("hunter2=\n=hunter2", &[&format!("line 1: {no_name}"), &format!("line 2: {no_name}")]);
        refuses("A=1\n\nA=hunter2", &["line 3: A is there already, on line 1"]);
        refuses("A=\"hunter2\nB=1\n", &["line 1: the quote that begins here is never closed"]);
        refuses("A=\"hunter2\\\"", &["line 1: the quote that begins here is never closed"]);
        refuses(
            "A='1' hunter2\nB=2\nPORT=hunter2",
            &["line 1: there is text behind the closing quote", "line 3: PORT is set by Tako itself"],
        );
        // Lines are counted through values of several lines.
        refuses("A=\"1\n2\n3\"\nhunter2\n", &["line 4: there is no `=`"]);
        assert_eq!(read(&"x\n".repeat(1000)).unwrap_err().detail().len(), MAX_PROBLEMS);
    }

    #[test]
    fn whatever_it_is_given_it_ends() {
        let pieces = ["A", "=", "\"", "'", "\\", "\n", "\r", "#", " ", "é", "export ", "`"];
        let mut state = 7_u64;
        for _ in 0..5000 {
            let text: String = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    pieces[(state >> 33) as usize % pieces.len()]
                })
                .collect();
            let _ = parse(&text, |_, _| Ok(()));
        }
    }
}
