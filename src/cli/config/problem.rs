//! Problem: something wrong in a file that a person wrote, with its place and a fix, and how all problems of a file
//! are told at once.
//!
//! ```text
//! error: unknown key `instancs` in [envs.production]
//!   tako.toml:14:1
//!    14 │ instancs = 2
//!       │ ^^^^^^^^ did you mean `instances`?
//! ```

use std::ops::Range;

use crate::error::{Error, Kind};

/// More than this many is one mistake told again and again.
const MOST_SHOWN: usize = 10;
/// Longest part of a line that is shown, in characters.
const WIDEST: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub message: String,
    /// Bytes of the file; `None` when the whole file or what is around it is meant.
    pub at: Option<Range<usize>>,
    pub fix: Option<String>,
}

impl Problem {
    pub fn at(span: &Range<usize>, message: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem { message: message.into(), at: Some(span.clone()), fix: Some(fix.into()) }
    }

    /// A problem that is told by an error: its message and its hint.
    pub fn of(span: &Range<usize>, error: &Error) -> Problem {
        Problem { message: error.to_string(), at: Some(span.clone()), fix: error.next_step().map(Into::into) }
    }
}

/// All problems of the file `name` with the content `text` as one error; `None` when there is none.
pub(crate) fn report(name: &str, text: &str, mut problems: Vec<Problem>) -> Option<Error> {
    problems.sort_by_key(|p| p.at.as_ref().map_or(usize::MAX, |at| at.start));
    let all = problems.len();
    problems.truncate(MOST_SHOWN);
    match &problems[..] {
        [] => None,
        [Problem { message, at: None, fix }] => {
            let error = Error::new(Kind::Config, message.clone());
            Some(fix.iter().fold(error, |e, fix| e.hint(fix.clone())))
        }
        [one] => Some(Error::new(Kind::Config, one.message.clone()).with_detail(place(name, text, one))),
        several => {
            let mut lines = Vec::new();
            for problem in several {
                lines.push(String::new());
                lines.push(problem.message.clone());
                lines.extend(place(name, text, problem).into_iter().map(|line| format!("  {line}")));
            }
            if all > MOST_SHOWN {
                lines.extend([String::new(), format!("and {} more", all - MOST_SHOWN)]);
            }
            Some(Error::new(Kind::Config, format!("{name} has {all} errors")).with_detail(lines))
        }
    }
}

/// `file:line:column`, the line, and a caret under the span.
fn place(name: &str, text: &str, problem: &Problem) -> Vec<String> {
    let fix = problem.fix.as_deref().unwrap_or("");
    let Some(at) = &problem.at else {
        return problem.fix.iter().map(|fix| format!("hint: {fix}")).collect();
    };
    let start = floor(text, at.start);
    let end = floor(text, at.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |n| n + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |n| start + n);
    let number = text[..start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;

    let line = text[line_start..line_end].trim_end_matches('\r');
    // A tab would be wider on a terminal than the caret's column can know.
    let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let marked = text[start..end.min(line_end)].trim_end().chars().count().max(1);
    let (shown, caret) = window(&shown, column - 1);

    let marked = marked.min(shown.chars().count().saturating_sub(caret).max(1));
    let gutter = number.to_string();
    vec![
        format!("{name}:{number}:{column}"),
        format!(" {gutter} │ {shown}").trim_end().to_string(),
        format!(" {} │ {}{} {fix}", " ".repeat(gutter.len()), " ".repeat(caret), "^".repeat(marked)).trim_end().into(),
    ]
}

/// The part of a long line around a column, and where that column is in it.
fn window(line: &str, column: usize) -> (String, usize) {
    if line.chars().count() <= WIDEST {
        return (line.into(), column);
    }
    let first = column.saturating_sub(WIDEST / 2);
    (line.chars().skip(first).take(WIDEST).collect(), column - first)
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::error_lines;

    fn told(text: &str, problems: Vec<Problem>) -> String {
        error_lines(&report("tako.toml", text, problems).unwrap()).join("\n")
    }

    #[test]
    fn one_problem_is_the_error_itself() {
        let text = "a = 1\nwrong = 2\r\n";
        let expected = "unknown key\n  tako.toml:2:1\n   2 │ wrong = 2\n     │ ^^^^^ did you mean `b`?";
        assert_eq!(told(text, vec![Problem::at(&(6..11), "unknown key", "did you mean `b`?")]), expected);
    }

    #[test]
    fn several_are_told_in_the_order_of_the_file_and_ten_at_most() {
        let text = "a\n".repeat(12);
        let problems = (0..12).rev().map(|n| Problem::at(&(n * 2..n * 2 + 1), format!("no {n}"), "fix")).collect();
        let told = told(&text, problems);
        assert!(
            told.starts_with(
                "tako.toml has 12 errors\n\n  no 0\n    tako.toml:1:1\n     1 │ a\n       │ ^ fix\n\n  no 1\n"
            ),
            "{told}"
        );
        assert!(told.ends_with("no 9\n    tako.toml:10:1\n     10 │ a\n        │ ^ fix\n\n  and 2 more"), "{told}");
    }

    #[test]
    fn odd_places_do_not_panic() {
        for (text, at) in [("", 0..0), ("", 5..9), ("é", 1..2), ("a\n", 2..2), ("x\ty", 1..2), ("ab\ncd", 0..5)] {
            told(text, vec![Problem::at(&at, "m", "f")]);
        }
        let long = format!("{}wrong{}", "x".repeat(300), "y".repeat(300));
        let told = told(&long, vec![Problem::at(&(300..305), "m", "f")]);
        assert!(told.contains("tako.toml:1:301") && told.lines().all(|l| l.chars().count() < 130), "{told}");
        let line = told.lines().nth(2).unwrap();
        let caret = told.lines().nth(3).unwrap().find("^^^^^").unwrap();
        assert_eq!(line.find("wrong").unwrap(), caret);
    }
}
