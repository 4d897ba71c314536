//! Globs of `[build]`: which paths of the app `include` and `exclude` mean.
//!
//! A glob is matched against a whole path, relative to the app, with `/` between names:
//!
//! | in a glob    | stands for |
//! | ---          | --- |
//! | `*` `?`      | any characters, one character, within one name; a dot at its start is a character like any other |
//! | `**`         | any number of folders, none included; it has a place between `/` to itself |
//! | `[ab]` `[a-z]` `[!a]` | one character of these, or none of them |
//! | `{a,b}`      | either, also nested, and with folders in it |
//! | `[[]` `[*]` `[{]` or `\x` | this character and nothing special; TOML wants `\\x` where it is in double quotes |
//! | a folder     | itself and all below it; a `/` at its end changes nothing |
//!
//! Capitals and small letters differ, on every machine. What other tools have and this one does not (a leading `/` or
//! `!`, `[^a]`) is refused with the way to write it, because it would match nothing without a word.

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Kind, Result};

/// What one pattern with braces may become; more is a mistake.
const MAX_EXPANSIONS: usize = 256;
const MAX_PATTERN: usize = 1024;
/// Of a glob in a message, in characters.
const MAX_SHOWN: usize = 80;

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
            let shown: String = glob.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
            let fail = |wrong: Wrong| {
                Error::new(Kind::Config, format!("`{shown}` is not a glob: {}", wrong.why)).hint(wrong.fix)
            };
            check(glob).map_err(fail)?;
            for glob in expand(glob).map_err(fail)? {
                patterns.extend(compiled(&glob).map_err(fail)?);
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

/// What is wrong with a glob, and how to write it.
#[derive(Clone, Copy)]
struct Wrong {
    why: &'static str,
    fix: &'static str,
}

const fn wrong(why: &'static str, fix: &'static str) -> Wrong {
    Wrong { why, fix }
}

fn check(glob: &str) -> Result<(), Wrong> {
    match glob {
        "" => Err(wrong("it is empty", "write a path such as `dist/**`, or remove it")),
        _ if glob.len() > MAX_PATTERN => Err(wrong("it is longer than 1024 bytes", "write several shorter ones")),
        _ if glob.starts_with('/') => Err(wrong("it begins with `/`", "leave that out: it begins at the app anyway")),
        _ if glob.starts_with('!') => {
            Err(wrong("it begins with `!`", "nothing can be taken back: write what is meant into the other list"))
        }
        _ if glob.contains("[^") => Err(wrong("it has `[^`", "write `[!` for a character that is none of these")),
        _ => Ok(()),
    }
}

/// One glob without braces: what it names, and all below it.
fn compiled(glob: &str) -> Result<[Pattern; 2], Wrong> {
    if glob.split('/').any(|part| part == "..") {
        return Err(wrong("it leaves the app's directory", "write a path inside the app, without `..`"));
    }
    let glob = glob.strip_prefix("./").unwrap_or(glob).trim_end_matches('/');
    let glob = unescaped(if glob == "." { "**" } else { glob })?;
    let pattern = |glob: &str| {
        Pattern::new(glob).map_err(|e| match e.msg {
            "invalid range pattern" => {
                wrong("a `[` is not closed or has nothing in it", "close it, or write `[[]` for the character")
            }
            _ => wrong("`**` stands beside something else", "give it a place of its own: `a/**/b`"),
        })
    };
    Ok([pattern(&glob)?, pattern(&format!("{glob}/**"))?])
}

/// `\x` as the class of this one character, which is how the crate spells it.
fn unescaped(glob: &str) -> Result<String, Wrong> {
    let (mut text, mut chars) = (String::new(), glob.chars());
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (c, false) => text.push(c),
            (_, true) => match chars.next() {
                Some(c @ ('*' | '?' | '[' | ']')) => text.extend(['[', c, ']']),
                Some(c) => text.push(c),
                None => return Err(wrong("it ends with `\\`", "write the character that is meant behind it")),
            },
        }
    }
    Ok(text)
}

/// Every reading of a pattern's braces, in order.
fn expand(glob: &str) -> Result<Vec<String>, Wrong> {
    let mut done = Vec::new();
    let mut open = vec![glob.to_string()];
    while let Some(glob) = open.pop() {
        if done.len() + open.len() >= MAX_EXPANSIONS {
            return Err(wrong("its braces stand for more than 256 globs", "use `*` for some of them"));
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
fn first_braces(glob: &str) -> Result<Option<Braces<'_>>, Wrong> {
    let (mut depth, mut start, mut choices) = (0, 0, Vec::new());
    let mut opened = 0;
    let mut skipped = 0;
    for (at, c) in glob.char_indices() {
        if skipped > 0 {
            skipped -= 1;
            continue;
        }
        match c {
            '\\' => skipped = 1,
            '[' if ["[{]", "[}]", "[,]"].iter().any(|class| glob[at..].starts_with(class)) => skipped = 2,
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
            '}' if depth == 0 => {
                return Err(wrong("a `}` has no `{` before it", "remove it, or write `[}]` for the character"));
            }
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
    match depth {
        0 => Ok(None),
        _ => Err(wrong("a `{` is never closed", "close it, or write `[{]` for the character")),
    }
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
        // Within one name.
        check("*.js", "a.js", true);
        check("*.js", ".eslintrc.js", true);
        check("*.js", "a/b.js", false);
        check("a?.js", "ab.js", true);
        check("a?.js", "a.js", false);
        check("a?.js", "aé.js", true);
        check("a?b", "a/b", false);
        check("a[0-9]?.js", "a1b.js", true);
        check("a[!0-9].js", "a1.js", false);
        check("a[!0-9].js", "ab.js", true);
        check("*", "a", true);
        check("*", "a/b", true);
        // Over folders.
        check("**/*", "a.js", true);
        check("**/*", "a/b/c.js", true);
        check("**", ".hidden/x", true);
        check("**/*.js", "a.js", true);
        check("**/*.js", "a/b/c.js", true);
        check("**/*.js", "a/b/c.ts", false);
        check("src/**/test.js", "src/test.js", true);
        check("src/**/test.js", "src/a/b/test.js", true);
        check("src/**/test.js", "src/a/b/test.ts", false);
        // A folder is all below it.
        check("dist", "dist", true);
        check("dist", "dist/a/b.js", true);
        check("dist/", "dist/a/b.js", true);
        check("dist/**", "dist/a/b.js", true);
        check("./dist", "dist/a.js", true);
        check("dist", "distant/a.js", false);
        check("dist", "a/dist/b.js", false);
        check("**/test", "a/test/b.js", true);
        check("*/test", "a/test/b.js", true);
        check("*/test", "a/b/test/c.js", false);
        check(".", "a/b.js", true);
        check(".output/**", ".output/server/index.mjs", true);
        // Either.
        check("*.{js,css}", "a.css", true);
        check("*.{js,css}", "a.html", false);
        check("{src,lib}/**/*.{ts,{j,t}sx}", "lib/a/b.tsx", true);
        check("{src,lib}/*.ts", "bin/a.ts", false);
        check("{a/b,c}/*.js", "a/b/x.js", true);
        check("a{,.min}.js", "a.js", true);
        check("a{,.min}.js", "a.min.js", true);
        // Letters as they are.
        check("Dist", "dist/a", false);
        check("README.MD", "README.md", false);
        check("a b/é", "a b/é", true);
        check("routes/\\[id\\].ts", "routes/[id].ts", true);
        check("routes/\\[id\\].ts", "routes/i.ts", false);
        check("routes/[id].ts", "routes/i.ts", true);
        check("a\\{b\\}", "a{b}", true);
        check("a[{]b[}]{c[,],d}", "a{b}c,", true);
        check("routes/[[]id].ts", "routes/[id].ts", true);
        check("a\\*b", "a*b", true);
        check("a\\*b", "axb", false);
    }

    #[test]
    fn braces_are_expanded_in_order() {
        let expand = |glob| expand(glob).map_err(|wrong| wrong.why);
        assert_eq!(expand("a{b,c{d,e},}f").unwrap(), ["abf", "acdf", "acef", "af"]);
        assert_eq!(expand("plain").unwrap(), ["plain"]);
        assert!(expand("{a").is_err() && expand("a}").is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_way_to_write_it() {
        let check = |glob: &str, expected: &str| {
            let e = Globs::parse(&[glob.to_string()]).unwrap_err();
            let said = format!("{e} / {}", e.next_step().unwrap());
            assert!(e.kind() == Kind::Config && said.contains(expected), "{said}");
            assert!(said.len() < 300, "{said}");
        };
        check("", "it is empty");
        check("/etc/*", "it begins at the app anyway");
        check("!*.map", "into the other list");
        check("../x", "without `..`");
        check("a/../../x", "without `..`");
        check("{a,..}/x", "without `..`");
        check("a**b", "a place of its own");
        check("**.js", "a place of its own");
        check("[", "`[[]` for the character");
        check("[]", "`[[]` for the character");
        check("a[^b]", "write `[!`");
        check("{a", "a `{` is never closed");
        check("a}", "a `}` has no `{`");
        check("a\\", "it ends with `\\`");
        check(&"{a,b}".repeat(9), "more than 256");
        check(&"x".repeat(2000), "longer than 1024");
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
