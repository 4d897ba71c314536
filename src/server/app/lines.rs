//! Lines: what an instance prints, cut into lines however it arrives.
//!
//! **Invariant**: at most [`MAX_LINE`] bytes are held; a longer line is cut between two characters, and bytes that are
//! no UTF-8 are replaced.

/// A longer line is a dump and no message.
pub(crate) const MAX_LINE: usize = 16 << 10;

#[derive(Default)]
pub(crate) struct Lines {
    part: Vec<u8>,
}

impl Lines {
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.take(&bytes[..end], &mut line);
            self.flush_part(&mut line, true);
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, &mut line);
    }

    /// The last line, when it has no end.
    pub fn end(&mut self, mut line: impl FnMut(String)) {
        self.flush_part(&mut line, false);
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(String)) {
        while self.part.len() + bytes.len() > MAX_LINE {
            let (now, rest) = bytes.split_at(MAX_LINE - self.part.len());
            self.part.extend_from_slice(now);
            let keep = self.part.split_off(boundary(&self.part));
            self.flush_part(line, false);
            self.part = keep;
            bytes = rest;
        }
        self.part.extend_from_slice(bytes);
    }

    fn flush_part(&mut self, line: &mut impl FnMut(String), even_empty: bool) {
        let text = self.part.strip_suffix(b"\r").unwrap_or(&self.part);
        if even_empty || !text.is_empty() {
            line(String::from_utf8_lossy(text).into_owned());
        }
        self.part.clear();
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
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece, |l| out.push(l));
        }
        lines.end(|l| out.push(l));
        out
    }

    #[test]
    fn cuts_the_same_lines_wherever_the_bytes_are_split() {
        let text = "one\r\n\ntwo é€🎉\nlast".as_bytes();
        for at in 0..=text.len() {
            assert_eq!(cut(&[&text[..at], &text[at..]]), ["one", "", "two é€🎉", "last"], "split at {at}");
        }
    }

    #[test]
    fn a_huge_line_is_cut_between_characters() {
        for pad in 0..4 {
            let text = "x".repeat(pad) + &"€".repeat(MAX_LINE);
            let out = cut(&[text.as_bytes()]);
            assert_eq!(out.concat(), text);
            assert!(out.len() > 2 && out.iter().all(|l| l.len() <= MAX_LINE));
        }
    }

    #[test]
    fn what_is_not_text_is_replaced() {
        assert_eq!(cut(&[b"a\xff\xfeb\n"]), ["a\u{fffd}\u{fffd}b"]);
        assert!(cut(&[&[0x80; 3 * MAX_LINE]]).len() >= 3);
    }
}
