//! The rules of a `.gitignore`, for a machine without git: what people meant to keep to themselves must not travel
//! because of that. With git it is git that is asked; a test compares the two.
//!
//! It knows paths below the folder of the file, as bytes, and no disk. Matching takes no more than pattern times path.

/// One file of rules.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    negated: bool,
    folders_only: bool,
    /// It is matched against the whole path, not against the name.
    anchored: bool,
    /// What a whole path begins with, up to the first wildcard. Git compares this by itself, so that a `**` right behind
    /// it stands at a beginning, as if there were a slash before: `x/a**/b` fits `x/ab`.
    start: Vec<u8>,
    parts: Vec<Part>,
}

/// What a pattern says between two slashes.
#[derive(Debug)]
enum Part {
    /// `**`: any folders, or none.
    Folders,
    Name(Vec<Token>),
}

#[derive(Debug)]
enum Token {
    Is(u8),
    Any,
    /// Any bytes, or none.
    Star,
    /// One of these.
    Set(Box<[bool; 256]>),
}

impl Rules {
    pub fn parse(text: &[u8]) -> Rules {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Rules(
            text.split(|b| *b == b'\n')
                .filter_map(|line| Rule::parse(line.strip_suffix(b"\r").unwrap_or(line)))
                .collect(),
        )
    }

    /// Whether the last rule that fits `path` ignores it; `None` when no rule does.
    pub fn say(&self, path: &[u8], is_folder: bool) -> Option<bool> {
        self.0.iter().rev().find(|rule| rule.fits(path, is_folder)).map(|rule| !rule.negated)
    }
}

impl Rule {
    /// `None` for what can never fit.
    fn parse(line: &[u8]) -> Option<Rule> {
        if line.starts_with(b"#") {
            return None;
        }
        let line = without_blanks(line);
        let (negated, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
        let (folders_only, line) = line.strip_suffix(b"/").map_or((false, line), |rest| (true, rest));
        let anchored = line.contains(&b'/');
        let pattern = line.strip_prefix(b"/").unwrap_or(line);
        let wild = pattern.iter().position(|b| b"*?[\\".contains(b)).unwrap_or(pattern.len());
        let (start, pattern) = pattern.split_at(if anchored { wild } else { 0 });
        let parts = parts(pattern)?;
        (!line.is_empty()).then_some(Rule { negated, folders_only, anchored, start: start.into(), parts })
    }

    fn fits(&self, path: &[u8], is_folder: bool) -> bool {
        if self.folders_only && !is_folder {
            return false;
        }
        let path = match self.anchored {
            true => path.strip_prefix(&self.start[..]),
            false => path.rsplit(|b| *b == b'/').next(),
        };
        path.is_some_and(|path| {
            let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
            fits_path(&self.parts, &names)
        })
    }
}

/// Without the blanks at its end, but for those behind a backslash.
fn without_blanks(line: &[u8]) -> &[u8] {
    let (mut end, mut at) = (0, 0);
    while let Some(byte) = line.get(at) {
        match byte {
            b' ' => at += 1,
            b'\\' => {
                // One at the very end keeps the line as it is.
                at += 2;
                end = at.min(line.len());
            }
            _ => {
                at += 1;
                end = at;
            }
        }
    }
    &line[..end]
}

fn parts(pattern: &[u8]) -> Option<Vec<Part>> {
    let (mut parts, mut name, mut stars) = (Vec::new(), Vec::new(), 0);
    let mut rest = pattern;
    let end = |name: &mut Vec<Token>, stars: usize| match (stars, name.len()) {
        (2.., 1) => Part::Folders,
        _ => Part::Name(std::mem::take(name)),
    };
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' => {
                stars += 1;
                if !matches!(name.last(), Some(Token::Star)) {
                    name.push(Token::Star);
                }
                continue;
            }
            b'/' => {
                parts.push(end(&mut name, stars));
                name.clear();
            }
            b'?' => name.push(Token::Any),
            b'[' => {
                let (set, after) = set(rest)?;
                name.push(Token::Set(set));
                rest = after;
            }
            b'\\' => {
                let (&byte, after) = rest.split_first()?;
                name.push(Token::Is(byte));
                rest = after;
            }
            byte => name.push(Token::Is(byte)),
        }
        stars = 0;
    }
    parts.push(end(&mut name, stars));
    if let Some(Part::Folders) = parts.last() {
        // At the end it means what is in a folder, and not the folder.
        parts.push(Part::Name(vec![Token::Star]));
    }
    Some(parts)
}

/// What stands in brackets, from behind the first one, and what follows them; `None` when they are never closed.
fn set(pattern: &[u8]) -> Option<(Box<[bool; 256]>, &[u8])> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut set = Box::new([false; 256]);
    let mut at = usize::from(negated);
    // The byte before a `-`, unless it ended a range or a class itself.
    let mut before = None;
    let mut first = true;
    loop {
        let mut byte = *pattern.get(at)?;
        at += 1;
        match byte {
            b']' if !first => break,
            b'-' if before.is_some() && pattern.get(at).is_some_and(|b| *b != b']') => {
                let mut last = pattern[at];
                at += 1;
                if last == b'\\' {
                    last = *pattern.get(at)?;
                    at += 1;
                }
                let from = before.take().unwrap_or(last);
                (from..=last).for_each(|b| set[usize::from(b)] = true);
                first = false;
                continue;
            }
            b'[' if pattern.get(at) == Some(&b':') => {
                let name = &pattern[at + 1..];
                let length = name.iter().position(|b| *b == b']')?;
                if let Some(class) = name[..length].strip_suffix(b":") {
                    let class = class_of(class)?;
                    (0..=255u8).filter(class).for_each(|b| set[usize::from(b)] = true);
                    at += 1 + length + 1;
                    (before, first) = (None, false);
                    continue;
                }
            }
            b'\\' => {
                byte = *pattern.get(at)?;
                at += 1;
            }
            _ => {}
        }
        set[usize::from(byte)] = true;
        (before, first) = (Some(byte), false);
    }
    if negated {
        set.iter_mut().for_each(|is| *is = !*is);
    }
    Some((set, &pattern[at..]))
}

fn class_of(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |b| matches!(b, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |b| matches!(b, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

fn fits_path(parts: &[Part], names: &[&[u8]]) -> bool {
    let is_many = |part: &Part| matches!(part, Part::Folders);
    fits_all(parts, names, is_many, |part, name| match part {
        Part::Folders => true,
        Part::Name(tokens) => fits_name(tokens, name),
    })
}

fn fits_name(tokens: &[Token], name: &[u8]) -> bool {
    let is_many = |token: &Token| matches!(token, Token::Star);
    fits_all(tokens, name, is_many, |token, byte| match token {
        Token::Is(is) => is == byte,
        Token::Any | Token::Star => true,
        Token::Set(set) => set[usize::from(*byte)],
    })
}

/// Whether all of `things` fit `pattern`, in which some may stand for any number of things. Only the last of those that
/// has been met is ever tried again, so that it takes pattern times things at most.
fn fits_all<P, T>(pattern: &[P], things: &[T], is_many: impl Fn(&P) -> bool, fits: impl Fn(&P, &T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    loop {
        match (pattern.get(p), things.get(t)) {
            (Some(many), _) if is_many(many) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(one), Some(thing)) if fits(one, thing) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            (None, None) => return true,
            (Some(_), None) => return false,
            (_, Some(_)) => {}
        }
        match retry {
            Some((after, from)) => {
                retry = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_fits_decides() {
        let check = |rules: &str, path: &str, expected: Option<bool>| {
            let (path, is_folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
            assert_eq!(Rules::parse(rules.as_bytes()).say(path.as_bytes(), is_folder), expected, "{rules:?} {path:?}");
        };
        let (yes, no) = (Some(true), Some(false));
        check("a", "a", yes);
        check("a", "b/a", yes);
        check("/a", "b/a", None);
        check("b/a", "c/b/a", None);
        check("a/", "a", None);
        check("a/", "b/a/", yes);
        check("*.log\n!keep.log", "x/keep.log", no);
        check("!keep.log\n*.log", "keep.log", yes);
        check("# a\n\\#a\n\n \n", "#a", yes);
        check("# a", "a", None);
        check("a   \nb\\ ", "a", yes);
        check("b\\ ", "b ", yes);
        check("a\r\nb\r\n", "a", yes);
        check("\u{feff}a", "a", yes);
        check("**/a", "a", yes);
        check("**/a", "b/c/a", yes);
        check("a/**/b", "a/b", yes);
        check("a/**/b", "a/x/y/b", yes);
        check("a/**", "a/", None);
        check("a/**", "a/b/c", yes);
        check("a/*", "a/b/c", None);
        check("a**b", "axyb", yes);
        check("x/a**/b", "x/ab", yes);
        check("a?c", "abc", yes);
        check("a[b-d]", "ac", yes);
        check("a[!b-d]", "ac", None);
        check("a[]x]", "a]", yes);
        check("a[[:digit:]-]", "a-", yes);
        check("a[", "a[", None);
        check("a\\", "a\\", None);
        check("a\\*", "a*", yes);
        check("a\\*", "ab", None);
    }

    #[test]
    fn no_rule_takes_for_ever() {
        let rules = Rules::parse(format!("{}b\n{}b", "*a".repeat(200), "**/a/".repeat(200)).as_bytes());
        assert_eq!(rules.say(["a"; 400].join("/").as_bytes(), false), None);
        assert_eq!(rules.say("a".repeat(4000).as_bytes(), false), None);
    }
}
