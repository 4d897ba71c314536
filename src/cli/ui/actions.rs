//! GitHub Actions: what its log viewer makes of some lines, and what it must not make of others. Pure.
//!
//! A line that starts with `::`, also after blanks, is a command to the runner.
//!
//! **Invariant**: only what is made here is one: a line of an app or of a build cannot.

/// Folds the lines up to [`END`] under `name`.
pub(super) fn group(name: &str) -> String {
    format!("::group::{}", data(name))
}

pub(super) const END: &str = "::endgroup::";

/// An error that is shown on the page of the run; `lines` are the message and what belongs to it.
pub(super) fn error(title: &str, lines: &[String]) -> String {
    format!("::error title={}::{}", property(title), data(&lines.join("\n")))
}

/// `line` as text, whatever it starts with.
pub(super) fn harmless(line: &str) -> String {
    let start = line.len() - line.trim_start().len();
    match line[start..].strip_prefix("::") {
        Some(rest) => format!("{}: :{rest}", &line[..start]),
        None => line.into(),
    }
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_command_is_escaped() {
        assert_eq!(group("Build, 100%\nand more"), "::group::Build, 100%25%0Aand more");
        let lines = ["nyc1: 50% up".to_string(), "  │ a,b".to_string()];
        assert_eq!(
            error("tako: deploy, failed", &lines),
            "::error title=tako%3A deploy%2C failed::nyc1: 50%25 up%0A  │ a,b"
        );
    }

    #[test]
    fn what_an_app_prints_is_no_command() {
        let check = |line: &str, expected: &str| assert_eq!(harmless(line), expected);
        check("::add-mask::x", ": :add-mask::x");
        check("  \t::error::x", "  \t: :error::x");
        check("a ::error::x", "a ::error::x");
        check("::", ": :");
        check("", "");
    }
}
