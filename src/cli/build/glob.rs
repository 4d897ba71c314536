//! Globs of `[build]`: `*` and `?` stay within one name, `**` spans folders, `{a,b}` is either. A folder's name stands
//! for all below it.

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Kind, Result};

/// What one pattern with braces may become; more is a mistake.
const MAX_EXPANSIONS: usize = 256;
const MAX_PATTERN: usize = 1024;

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

#[derive(Debug, Clone)]
pub(crate) struct Globs {
    patterns: Vec<Pattern>,
}

impl Globs {
    /// # Errors
    /// Config, naming the pattern and what is wrong with it.
    pub fn parse(globs: &[String]) -> Result<Globs> {
        let mut patterns = Vec::new();
        for glob in globs {
            let fail =
                |why: &str| Error::new(Kind::Config, format!("`{}` is not a valid glob: {why}", glob.escape_debug()));
            if glob.is_empty() || glob.len() > MAX_PATTERN {
                return Err(fail("it must have 1 to 1024 characters"));
            }
            if glob.starts_with('/') || glob.split('/').any(|part| part == "..") {
                return Err(
                    fail("it must be relative and stay inside the app").hint("leave out `/` and `..` at its start")
                );
            }
            for glob in expand(glob).map_err(fail)? {
                let glob = glob.strip_prefix("./").unwrap_or(&glob).trim_end_matches('/').to_string();
                for glob in [format!("{glob}/**"), glob] {
                    patterns.push(Pattern::new(&glob).map_err(|e| fail(e.msg))?);
                }
            }
        }
        Ok(Globs { patterns })
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// `path` is relative to the app, with `/` between names.
    pub fn matches(&self, path: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches_with(path, OPTIONS))
    }
}

/// Every reading of a pattern's braces, in order.
fn expand(glob: &str) -> Result<Vec<String>, &'static str> {
    let mut done = Vec::new();
    let mut open = vec![glob.to_string()];
    while let Some(glob) = open.pop() {
        if done.len() + open.len() >= MAX_EXPANSIONS {
            return Err("its braces stand for too many patterns");
        }
        let Some((before, choices, after)) = first_braces(&glob)? else {
            done.push(glob);
            continue;
        };
        // The stack gives them back in the order they were written.
        open.extend(choices.iter().rev().map(|choice| format!("{before}{choice}{after}")));
    }
    Ok(done)
}

type Braces<'a> = (&'a str, Vec<&'a str>, &'a str);

/// What is before the first brace, the choices inside, and what is after the one that closes it.
fn first_braces(glob: &str) -> Result<Option<Braces<'_>>, &'static str> {
    let (mut depth, mut start, mut choices) = (0, 0, Vec::new());
    let mut opened = 0;
    for (at, c) in glob.char_indices() {
        match c {
            '{' => {
                if depth == 0 {
                    (opened, start) = (at, at + 1);
                }
                depth += 1;
            }
            ',' if depth == 1 => {
                choices.push(&glob[start..at]);
                start = at + 1;
            }
            '}' if depth == 0 => return Err("a brace is closed that was never opened"),
            '}' => {
                depth -= 1;
                if depth == 0 {
                    choices.push(&glob[start..at]);
                    return Ok(Some((&glob[..opened], choices, &glob[at + 1..])));
                }
            }
            _ => {}
        }
    }
    if depth > 0 { Err("a brace is never closed") } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_people_expect() {
        let check = |glob: &str, path: &str, expected| {
            let globs = Globs::parse(&[glob.to_string()]).unwrap();
            assert_eq!(globs.matches(path), expected, "{glob} against {path}");
        };
        check("**/*", "a.js", true);
        check("**/*", "a/b/c.js", true);
        check("*.js", "a.js", true);
        check("*.js", "a/b.js", false);
        check("**/*.js", "a.js", true);
        check("**/*.js", "a/b/c.js", true);
        check("**/*.js", "a/b/c.ts", false);
        check("dist", "dist/a/b.js", true);
        check("dist/", "dist/a/b.js", true);
        check("dist/**", "dist/a/b.js", true);
        check("./dist", "dist/a.js", true);
        check("dist", "distant/a.js", false);
        check("dist", "a/dist/b.js", false);
        check("**/test", "a/test/b.js", true);
        check("*.{js,css}", "a.css", true);
        check("{src,lib}/**/*.{ts,{j,t}sx}", "lib/a/b.tsx", true);
        check("{src,lib}/*.ts", "bin/a.ts", false);
        check("a?[0-9].js", "ab3.js", true);
        check(".output/**", ".output/server/index.mjs", true);
        check("**", ".hidden/x", true);
    }

    #[test]
    fn braces_are_expanded_in_order() {
        assert_eq!(expand("a{b,c{d,e},}f").unwrap(), ["abf", "acdf", "acef", "af"]);
        assert_eq!(expand("plain").unwrap(), ["plain"]);
        assert!(expand("{a").is_err() && expand("a}").is_err());
    }

    #[test]
    fn refuses_what_leaves_the_app_or_has_no_end() {
        for bad in ["", "/etc/*", "../x", "a/../../x", "a**b", "[", "{a", &"{a,b}".repeat(9), &"x".repeat(2000)] {
            assert_eq!(Globs::parse(&[bad.to_string()]).unwrap_err().kind(), Kind::Config, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(s in "[a-z*?{},/.\\[\\]-]{0,40}", path in "[a-z/.]{0,20}") {
            if let Ok(globs) = Globs::parse(&[s]) {
                globs.matches(&path);
            }
        }
    }
}
