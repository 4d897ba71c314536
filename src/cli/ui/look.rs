//! How output looks: colour, glyphs and animation, decided once per stream from the flags and the surroundings.
//!
//! Meaning never rests on colour or on a glyph: there is always a word too.

use std::env;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Color, Settings};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub color_out: bool,
    pub color_err: bool,
    /// Whether the locale can show more than ASCII.
    pub unicode: bool,
    /// Whether what is written there is read on a terminal, which breaks long lines anywhere.
    pub terminal_out: bool,
    pub terminal_err: bool,
    /// Whether lines on standard error may be redrawn.
    pub animated: bool,
    /// Whether somebody is there to answer.
    pub interactive: bool,
    /// Whether the lines are read by the runner of GitHub Actions.
    pub actions: bool,
}

/// What the flags do not tell.
pub(super) struct Surroundings<'a> {
    pub stdin_tty: bool,
    pub stdout_tty: bool,
    pub stderr_tty: bool,
    pub var: &'a dyn Fn(&str) -> Option<String>,
}

impl Look {
    pub fn here(settings: &Settings) -> Look {
        Look::of(
            settings,
            &Surroundings {
                stdin_tty: stdin().is_terminal(),
                stdout_tty: stdout().is_terminal(),
                stderr_tty: stderr().is_terminal(),
                var: &|name| env::var(name).ok(),
            },
        )
    }

    pub fn of(settings: &Settings, around: &Surroundings<'_>) -> Look {
        let set = |name: &str| (around.var)(name).filter(|v| !v.is_empty());
        let on = |name: &str| set(name).is_some_and(|v| v != "0" && v != "false");
        let dumb = set("TERM").is_some_and(|t| t == "dumb");
        let ci = on("CI");
        let color = |tty: bool| match settings.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => on("FORCE_COLOR") || on("CLICOLOR_FORCE") || (tty && !dumb && set("NO_COLOR").is_none()),
        };
        // POSIX: the first of these that is set decides about characters.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name)).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        Look {
            color_out: color(around.stdout_tty),
            color_err: color(around.stderr_tty),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            terminal_out: around.stdout_tty,
            terminal_err: around.stderr_tty,
            animated: around.stderr_tty && !dumb && !ci,
            interactive: around.stdin_tty && around.stderr_tty && !ci && !settings.no_input && !settings.json,
            actions: !settings.json && set("GITHUB_ACTIONS").is_some_and(|v| v == "true"),
        }
    }

    pub fn glyph(&self, glyph: Glyph, frame: usize) -> &'static str {
        const TURNING: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
        const TURNING_ASCII: [&str; 4] = ["|", "/", "-", "\\"];
        match (glyph, self.unicode) {
            (Glyph::Running, true) => TURNING[frame % TURNING.len()],
            (Glyph::Running, false) => TURNING_ASCII[frame % TURNING_ASCII.len()],
            (Glyph::Done, true) => "✓",
            (Glyph::Done, false) => "+",
            (Glyph::Failed, true) => "✗",
            (Glyph::Failed, false) => "x",
            (Glyph::Stopped, true) => "–",
            (Glyph::Stopped, false) => "-",
        }
    }

    /// `text` for this terminal: our own glyphs in ASCII where the locale has nothing else.
    pub fn spell(&self, text: &str) -> String {
        match self.unicode || text.is_ascii() {
            true => text.into(),
            false => text.chars().map(|c| ascii(c).map_or_else(|| c.to_string(), Into::into)).collect(),
        }
    }
}

/// Whether the far end of a pipe is closed: it is told without writing to it.
pub(super) fn nobody_reads(stream: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    let at_once = Timespec::default();
    poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Glyph {
    Running,
    Done,
    Failed,
    Stopped,
}

fn ascii(c: char) -> Option<&'static str> {
    Some(match c {
        '✓' => "+",
        '✗' => "x",
        '●' => "*",
        '○' => "o",
        '·' | '–' | '—' => "-",
        '…' => "...",
        '│' => "|",
        '├' => "|-",
        '└' => "`-",
        '→' | '➜' => "->",
        '↩' => "<",
        '≠' => "!=",
        '█' => "#",
        '░' => ".",
        _ => return None,
    })
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Paint {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

pub(super) fn paint(on: bool, paint: Paint, text: &str) -> String {
    let code = match paint {
        _ if !on || text.is_empty() => return text.into(),
        Paint::Bold => 1,
        Paint::Dim => 2,
        Paint::Red => 31,
        Paint::Green => 32,
        Paint::Yellow => 33,
        Paint::Cyan => 36,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// `text` without anything that moves the cursor or rings a bell: it may come from an app, a server or a file. Colours
/// pass when `colors` is on; line ends and tabs always do.
pub(super) fn clean(text: &str, colors: bool) -> String {
    if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return text.into();
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut colored = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(sequence) = escape_sequence(rest) {
            if colors && is_color(sequence) {
                cleaned.push_str(sequence);
                colored = !matches!(sequence, "\x1b[0m" | "\x1b[m");
            }
            rest = &rest[sequence.len()..];
            continue;
        }
        if !c.is_control() || c == '\n' || c == '\t' {
            cleaned.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    if colored {
        cleaned.push_str("\x1b[0m");
    }
    cleaned
}

/// The escape sequence that `text` starts with (ECMA-48 §5.4 and §5.6): a control sequence up to its final byte, a
/// string up to its terminator, else the escape and what follows it.
fn escape_sequence(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('\x1b')?;
    let length = match rest.chars().next() {
        None => 0,
        Some('[') => rest.char_indices().skip(1).find(|(_, c)| matches!(c, '@'..='~')).map_or(1, |(at, _)| at + 1),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let end = rest.find('\x07').map(|at| at + 1).into_iter().chain(rest.find("\x1b\\").map(|at| at + 2)).min();
            end.unwrap_or(1)
        }
        Some(c) => c.len_utf8(),
    };
    Some(&text[..1 + length])
}

fn is_color(sequence: &str) -> bool {
    let inner = sequence.strip_prefix("\x1b[").and_then(|s| s.strip_suffix('m'));
    inner.is_some_and(|s| s.len() <= 32 && s.bytes().all(|b| b.is_ascii_digit() || b == b';'))
}

/// Columns that `text` takes on a terminal: two for wide East Asian characters and pictures, none for marks.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// The longest start of `text` that fits into `room` columns; an ellipsis tells that there was more.
pub(super) fn fit(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.into();
    }
    let mut used = 0;
    let mut fitted = String::new();
    for c in text.chars() {
        used += width(c);
        if used + 1 > room {
            break;
        }
        fitted.push(c);
    }
    if room > 0 {
        fitted.push('…');
    }
    fitted
}

fn width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(settings: &Settings, tty: bool, vars: &[(&str, &str)]) -> Look {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string());
        Look::of(settings, &Surroundings { stdin_tty: tty, stdout_tty: tty, stderr_tty: tty, var: &var })
    }

    #[test]
    fn colour_follows_flag_then_force_then_terminal() {
        let check = |color, tty, vars: &[(&str, &str)], expected| {
            let look = look(&Settings { color, ..Settings::default() }, tty, vars);
            assert_eq!(look.color_out, expected, "{color:?} {tty} {vars:?}");
        };
        check(Color::Auto, true, &[], true);
        check(Color::Auto, false, &[], false);
        check(Color::Auto, true, &[("NO_COLOR", "1")], false);
        check(Color::Auto, true, &[("NO_COLOR", "")], true);
        check(Color::Auto, true, &[("TERM", "dumb")], false);
        check(Color::Auto, false, &[("FORCE_COLOR", "1")], true);
        check(Color::Auto, false, &[("CLICOLOR_FORCE", "1")], true);
        check(Color::Auto, false, &[("CLICOLOR_FORCE", "0")], false);
        check(Color::Auto, false, &[("FORCE_COLOR", "1"), ("NO_COLOR", "1")], true);
        check(Color::Auto, true, &[("CI", "true")], true);
        check(Color::Always, false, &[("NO_COLOR", "1")], true);
        check(Color::Never, true, &[("FORCE_COLOR", "1")], false);
    }

    #[test]
    fn a_pipe_without_a_reader_is_seen_without_a_write() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!nobody_reads(&writer));
        drop(reader);
        assert!(nobody_reads(&writer));
    }

    #[test]
    fn colour_is_decided_per_stream() {
        let around = Surroundings { stdin_tty: true, stdout_tty: false, stderr_tty: true, var: &|_| None };
        let look = Look::of(&Settings::default(), &around);
        assert!(!look.color_out && look.color_err && look.animated && look.interactive);
    }

    #[test]
    fn what_is_redrawn_and_what_is_for_a_runner_follows_the_surroundings() {
        let check = |json, tty, vars: &[(&str, &str)], animated, actions| {
            let look = look(&Settings { json, ..Settings::default() }, tty, vars);
            assert_eq!((look.animated, look.actions), (animated, actions), "{json} {tty} {vars:?}");
        };
        check(false, true, &[], true, false);
        check(false, false, &[], false, false);
        check(false, true, &[("NO_COLOR", "1")], true, false);
        check(false, true, &[("TERM", "dumb")], false, false);
        check(false, true, &[("CI", "1")], false, false);
        check(false, true, &[("CI", "0")], true, false);
        check(false, false, &[("CI", "true"), ("GITHUB_ACTIONS", "true")], false, true);
        check(true, false, &[("CI", "true"), ("GITHUB_ACTIONS", "true")], false, false);
        check(false, false, &[("GITHUB_ACTIONS", "")], false, false);
    }

    #[test]
    fn nobody_is_asked_in_ci_or_without_a_terminal() {
        let plain = Settings::default();
        assert!(look(&plain, true, &[]).interactive);
        assert!(!look(&plain, false, &[]).interactive);
        assert!(!look(&plain, true, &[("CI", "true")]).interactive);
        assert!(look(&plain, true, &[("CI", "false")]).interactive);
        assert!(!look(&Settings { no_input: true, ..Settings::default() }, true, &[]).interactive);
        assert!(!look(&Settings { json: true, ..Settings::default() }, true, &[]).interactive);
    }

    #[test]
    fn the_first_locale_variable_that_is_set_decides_about_glyphs() {
        let unicode = |vars: &[(&str, &str)]| look(&Settings::default(), true, vars).unicode;
        assert!(unicode(&[("LANG", "en_GB.UTF-8")]));
        assert!(unicode(&[("LC_ALL", ""), ("LANG", "C.utf8")]));
        assert!(!unicode(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(!unicode(&[]));
        assert_eq!(look(&Settings::default(), true, &[]).spell("│ a · b → ✓ é"), "| a - b -> + é");
    }

    #[test]
    fn nothing_that_moves_the_cursor_gets_through() {
        let check = |text: &str, plain: &str, colored: &str| {
            assert_eq!((clean(text, false).as_str(), clean(text, true).as_str()), (plain, colored), "{text:?}");
        };
        check("plain\ttext\n", "plain\ttext\n", "plain\ttext\n");
        check("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m");
        check("\x1b[31mred", "red", "\x1b[31mred\x1b[0m");
        check("a\x1b[2Jb\rc\x07\x08d", "abcd", "abcd");
        check("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy", "xy");
        check("\x1b[31", "31", "31");
        check("x\x1b", "x", "x");
        check("\x1b]never ends", "never ends", "never ends");
        check("a\u{9b}31mb", "a31mb", "a31mb");
    }

    #[test]
    fn text_is_cut_by_columns() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("ab", 0), "");
        assert_eq!(columns("e\u{301}"), 1);
    }

    proptest::proptest! {
        #[test]
        fn cleaned_text_has_no_control_characters(s in "(\\PC|[\u{1b}\\[\\]m;0-9\u{7}\u{9b}\\\\]){0,40}") {
            let cleaned = clean(&s, false);
            proptest::prop_assert!(!cleaned.contains(|c: char| c.is_control()), "{cleaned:?}");
        }
    }
}
