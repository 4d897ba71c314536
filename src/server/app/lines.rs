//! Lines: what an instance prints, cut into lines however it arrives.
//!
//! A line ends with LF, CR LF or a CR alone, so that every state of a progress bar is a line of its own and none can
//! overwrite what was said before it. What comes out is text on one line: bytes that are no UTF-8, and NUL, become
//! U+FFFD; other control characters (ANSI colours, tabs) stay as they were said, and whoever shows them to a terminal
//! takes them out. A line of more than [`MAX_LINE`] bytes is told in pieces.
//!
//! **Invariant**: at most [`MAX_LINE`] bytes are held, no piece is cut within a character, and the same bytes make the
//! same lines wherever they are split on their way.

use std::borrow::Cow;

/// A longer line is a dump and no message; it is told as several lines.
pub(crate) const MAX_LINE: usize = 16 << 10;

pub(crate) struct Lines {
    part: Vec<u8>,
    /// A CR has just ended a line: an LF right behind it belongs to it.
    after_cr: bool,
    max: usize,
}

impl Lines {
    pub fn new() -> Lines {
        Lines::cut_at(MAX_LINE)
    }

    fn cut_at(max: usize) -> Lines {
        Lines { part: Vec::new(), after_cr: false, max }
    }

    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (before, end) = (&bytes[..at], bytes[at]);
            bytes = &bytes[at + 1..];
            self.after_cr &= before.is_empty();
            match (self.part.is_empty() && before.is_empty(), end) {
                // A carriage that goes back twice ends nothing.
                (true, b'\r') => {}
                (true, _) if self.after_cr => self.after_cr = false,
                _ => {
                    self.finish(before, &mut line);
                    self.after_cr = end == b'\r';
                }
            }
        }
        self.after_cr &= bytes.is_empty();
        self.take(bytes, &mut line);
    }

    /// The last line, when it has no end.
    pub fn end(&mut self, mut line: impl FnMut(&str)) {
        if !self.part.is_empty() {
            self.finish(&[], &mut line);
        }
    }

    /// `bytes` are the rest of a line.
    fn finish(&mut self, bytes: &[u8], line: &mut impl FnMut(&str)) {
        if self.part.is_empty() && bytes.len() <= self.max {
            // Most lines arrive whole: no copy.
            return line(&text(bytes));
        }
        self.take(bytes, line);
        line(&text(&self.part));
        self.part.clear();
    }

    /// More of a line whose end is not here.
    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&str)) {
        while self.part.len() + bytes.len() > self.max {
            let (now, rest) = bytes.split_at(self.max - self.part.len());
            self.part.extend_from_slice(now);
            let keep = self.part.split_off(boundary(&self.part));
            line(&text(&self.part));
            self.part = keep;
            bytes = rest;
        }
        self.part.extend_from_slice(bytes);
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    match memchr::memchr(0, text.as_bytes()) {
        None => text,
        // A NUL would make a binary file of the log, for `grep` and for editors.
        Some(_) => text.replace('\0', "\u{fffd}").into(),
    }
}

/// The longest prefix that does not end within a character; all of it when the end is no UTF-8 anyway.
fn boundary(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needed = match bytes[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return bytes.len(),
        };
        return if needed > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn cut(max: usize, pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut out) = (Lines::cut_at(max), Vec::new());
        for piece in pieces {
            lines.feed(piece, |l| out.push(l.to_string()));
            assert!(lines.part.len() <= max);
        }
        lines.end(|l| out.push(l.to_string()));
        out
    }

    fn check(said: &str, expected: &[&str]) {
        for at in 0..=said.len() {
            let (a, b) = said.as_bytes().split_at(at);
            assert_eq!(cut(MAX_LINE, &[a, b]), expected, "{said:?} split at {at}");
        }
    }

    #[test]
    fn cuts_the_same_lines_wherever_the_bytes_are_split() {
        check("one\r\n\ntwo é€🎉\nlast", &["one", "", "two é€🎉", "last"]);
        check("\n\n", &["", ""]);
        check("\r\n\r\nx", &["", "", "x"]);
        check("a\r\r\nb", &["a", "b"]);
        check("a\r\n\nb", &["a", "", "b"]);
    }

    #[test]
    fn every_state_of_a_progress_bar_is_a_line() {
        check("\r 10 %\r 50 %\r100 %\ndone\n", &[" 10 %", " 50 %", "100 %", "done"]);
    }

    #[test]
    fn a_line_of_100_mb_is_told_in_pieces_that_are_not_kept() {
        let (mut lines, mut count, mut size) = (Lines::new(), 0, 0);
        let chunk = "€uro ".repeat(10_000);
        while size < 100 << 20 {
            lines.feed(chunk.as_bytes(), |l| {
                assert!(l.len() > MAX_LINE - 4 && l.len() <= MAX_LINE && !l.contains('\u{fffd}'));
                count += l.len();
            });
            size += chunk.len();
            assert!(lines.part.capacity() <= 4 * MAX_LINE);
        }
        lines.end(|l| count += l.len());
        assert_eq!(count, size);
    }

    #[test]
    fn what_is_not_text_is_replaced_and_colours_stay() {
        assert_eq!(cut(MAX_LINE, &[b"a\xff\xfeb\0\n"]), ["a\u{fffd}\u{fffd}b\u{fffd}"]);
        assert_eq!(cut(MAX_LINE, &[b"\x1b[31mred\x1b[0m\t\x07\n"]), ["\x1b[31mred\x1b[0m\t\x07"]);
        assert!(cut(MAX_LINE, &[&[0x80; 3 * MAX_LINE]]).len() >= 3);
    }

    /// Bytes in which everything that matters is frequent.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just("é€🎉".as_bytes().to_vec()),
            Just(b"\x1b[1m\0".to_vec()),
            vec(any::<u8>(), 1..4),
            "[a-z]{1,12}".prop_map(String::into_bytes),
        ];
        vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_make_the_same_lines_at_every_split(bytes in bytes(), max in 4usize..20) {
            let whole = cut(max, &[&bytes]);
            for at in 0..=bytes.len() {
                prop_assert_eq!(&cut(max, &[&bytes[..at], &bytes[at..]]), &whole);
            }
            let drops: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&cut(max, &drops), &whole);
            prop_assert!(whole.iter().all(|l| !l.contains(['\n', '\r', '\0'])));
        }

        #[test]
        fn of_text_nothing_is_lost_and_no_character_is_cut(said in "([a-z é€🎉\n]|\r\n){0,60}", max in 4usize..20) {
            let whole = cut(max, &[said.as_bytes()]);
            prop_assert!(whole.iter().all(|l| l.len() <= max));
            prop_assert_eq!(whole.concat(), said.replace(['\n', '\r'], ""));
        }
    }
}
