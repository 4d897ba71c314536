//! Folding: lines that are too long for a terminal are broken at words, by us, because a terminal breaks them anywhere.
//! Pure; what is not for a terminal is never folded, so that a program finds each thing on one line.

use super::look::columns;

/// What an explanation starts with; the lines below it line up with what comes after.
const LEADS: [&str; 11] = ["error: ", "warning: ", "hint: ", "! ", "≠ ", "!= ", "· ", "- ", "* ", "✓ ", "+ "];

/// `text` with every line in at most `room` columns, as far as its words allow. A command in backticks stays on one line
/// where that is possible: it is there to be copied.
pub(super) fn fold(text: &str, room: usize) -> String {
    text.split('\n').map(|line| fold_line(line, room)).collect::<Vec<_>>().join("\n")
}

fn fold_line(line: &str, room: usize) -> String {
    if columns(line) <= room {
        return line.into();
    }
    let said = line.trim_start_matches(' ');
    let lead = LEADS.iter().find(|lead| said.starts_with(**lead)).map_or(0, |lead| columns(lead));
    let indent = line.len() - said.len();
    let hang = if indent + lead <= room / 2 { indent + lead } else { 0 };
    let mut folded = " ".repeat(indent);
    let mut used = indent;
    for word in words(said).into_iter().flat_map(|word| match columns(word) + hang <= room {
        true => vec![word],
        // Too long for any line.
        false => word.split(' ').collect(),
    }) {
        if used > indent.max(hang) || (used > indent && folded.trim() != "") {
            if used + 1 + columns(word) <= room {
                folded.push(' ');
                used += 1;
            } else {
                folded.push('\n');
                folded.push_str(&" ".repeat(hang));
                used = hang;
            }
        }
        folded.push_str(word);
        used += columns(word);
    }
    folded
}

/// The words of a line; what is in backticks is one.
fn words(line: &str) -> Vec<&str> {
    // A stray backtick quotes nothing.
    let quotes = line.matches('`').count().is_multiple_of(2);
    let (mut words, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, c) in line.char_indices() {
        match c {
            '`' if quotes => quoted = !quoted,
            ' ' if !quoted => {
                words.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&line[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_at_words_and_lines_up() {
        let check = |text: &str, room, expected: &str| assert_eq!(fold(text, room), expected, "{text:?} in {room}");
        check("short", 20, "short");
        check("one two three four", 9, "one two\nthree\nfour");
        check("  hint: one two three", 16, "  hint: one two\n        three");
        check("  indented one two", 12, "  indented\n  one two");
        check("error: `a b c` is what `d e` says", 16, "error: `a b c`\n       is what\n       `d e`\n       says");
        check("run `a very long command line` now", 12, "run `a very\nlong command\nline` now");
        check("a `stray one two", 10, "a `stray\none two");
        check("an-address-that-has-no-end and more", 10, "an-address-that-has-no-end\nand more");
        check("first\nsecond line", 7, "first\nsecond\nline");
        check("日本語 日本語", 8, "日本語\n日本語");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_and_lines_fit_as_far_as_words_allow(text in "[ab`]{1,6}( [ab`]{1,6}){0,12}", room in 7_usize..40) {
            let folded = fold(&text, room);
            proptest::prop_assert!(folded.lines().all(|line| columns(line) <= room), "{folded:?}");
            let plain = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
            proptest::prop_assert_eq!(plain(&folded), plain(&text));
        }
    }
}
