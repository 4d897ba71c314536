//! Entry: a line of an app's log as it lies on disk, for people with `grep` and `less` as much as for us.
//!
//! ```text
//! 2026-11-22T07:33:59.123Z out 2 4f2c9ab listening on 3000
//! time                     │   │ │       text, as the instance said it; see `lines` for what that may be
//!                          │   │ release
//!                          │   number of the instance
//!                          out or err; err too for remarks of ours, which begin with `tako: `
//! ```
//! The time is UTC, to the millisecond, and always as long as here. An entry ends with LF and has none within.
//!
//! **Invariant**: what is printed is parsed to the same; whatever else is in a file is no entry, and nobody's error.

use std::fmt::Write;
use std::sync::Arc;

use crate::proto::control::{LogLine, Stream};

/// Bytes of the time.
const TIME: usize = 24;

/// Lines that one instance said at one moment on one stream.
pub(super) struct Block {
    pub at_ms: u64,
    pub release: Arc<str>,
    pub instance: u32,
    pub stream: Stream,
    /// Each with its LF.
    pub text: String,
    pub lines: u64,
}

pub(super) struct Entry<'a> {
    pub at_ms: u64,
    pub stream: Stream,
    pub instance: u32,
    pub release: &'a [u8],
    pub text: &'a [u8],
}

impl Block {
    pub fn new(at_ms: u64, release: Arc<str>, instance: u32, stream: Stream, text: String) -> Block {
        let lines = memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64;
        Block { at_ms, release, instance, stream, text, lines }
    }

    /// What it takes in memory, more or less.
    pub fn size(&self) -> usize {
        self.text.len() + size_of::<Block>()
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let Block { at_ms, release, instance, stream, text, .. } = self;
        text.split_terminator('\n').map(|text| Entry {
            at_ms: *at_ms,
            stream: *stream,
            instance: *instance,
            release: release.as_bytes(),
            text: text.as_bytes(),
        })
    }

    /// Adds its lines as they are to lie on disk.
    pub fn print(&self, to: &mut Vec<u8>) {
        let at = jiff::Timestamp::from_millisecond(i64::try_from(self.at_ms).unwrap_or(0)).unwrap_or_default();
        let mut head = String::with_capacity(80);
        // A string takes everything.
        let _ = write!(head, "{at:.3} {} {} {} ", word(self.stream), self.instance, self.release);
        to.reserve(self.text.len() + self.lines as usize * (head.len() + 1));
        for line in self.text.split_inclusive('\n') {
            to.extend_from_slice(head.as_bytes());
            to.extend_from_slice(line.as_bytes());
        }
    }
}

impl Entry<'_> {
    pub fn to_line(&self) -> LogLine {
        LogLine {
            at_ms: self.at_ms,
            release: String::from_utf8_lossy(self.release).into_owned(),
            instance: self.instance,
            stream: self.stream,
            text: String::from_utf8_lossy(self.text).into_owned(),
        }
    }
}

/// A line of a file, without its end.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let at_ms = time(line)?;
    let mut words = line.get(TIME + 1..)?.splitn(4, |b| *b == b' ');
    let stream = match words.next()? {
        b"out" => Stream::Out,
        b"err" => Stream::Err,
        _ => return None,
    };
    let instance = words.next()?.iter().try_fold(0u32, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })?;
    Some(Entry { at_ms, stream, instance, release: words.next()?, text: words.next()? })
}

/// The time at the start of a line. By hand, because a search looks at every line that is kept.
pub(super) fn time(line: &[u8]) -> Option<u64> {
    if line.get(TIME) == Some(&b' ') { clock(line) } else { None }
}

/// The time that `line` begins with, whatever comes behind it.
pub(super) fn clock(line: &[u8]) -> Option<u64> {
    let fixed = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if line.len() < TIME || fixed.iter().any(|(at, byte)| line[*at] != *byte) {
        return None;
    }
    let number = |from: usize, to: usize| {
        line[from..to].iter().try_fold(0u64, |n, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59
    {
        return None;
    }
    Some(((((days(year, month, day) * 24) + hour) * 60 + minute) * 60 + second) * 1000 + ms)
}

/// Days since 1970. The year begins in March here, so that the leap day is its last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn word(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "out",
        Stream::Err => "err",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(at_ms: u64, text: &str) -> Block {
        Block::new(at_ms, "4f2c9ab".into(), 12, Stream::Err, text.into())
    }

    #[test]
    fn lies_on_disk_as_the_head_of_this_file_says() {
        let mut bytes = Vec::new();
        block(1_795_332_839_123, "one\n\n  two  \n").print(&mut bytes);
        let expected = "2026-11-22T07:33:59.123Z err 12 4f2c9ab one\n2026-11-22T07:33:59.123Z err 12 4f2c9ab \n\
                        2026-11-22T07:33:59.123Z err 12 4f2c9ab   two  \n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_no_entry_is_none() {
        let good = "2026-11-22T07:33:59.123Z err 12 4f2c9ab x";
        assert!(parse(good.as_bytes()).is_some());
        // Every half of it that has lost its release's end.
        for end in 0..good.len() - 1 {
            assert!(parse(&good.as_bytes()[..end]).is_none(), "{}", &good[..end]);
        }
        for bad in ["", "\0\0\0\0", "2026-13-22T07:33:59.123Z err 1 v x", "2026-11-22T07:33:59.123Z in 1 v x"] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
        assert!(parse(b"2026-11-22T07:33:59.123Z err 99999999999 v x").is_none());
        assert!(parse(b"2026-11-22T07:33:59.123Z err -1 v x").is_none());
    }

    proptest! {
        // Up to the year 9999.
        #[test]
        fn what_is_printed_is_read_as_the_same(at_ms in 0u64..253_402_300_000_000, text in "[^\n]{0,40}") {
            let mut bytes = Vec::new();
            block(at_ms, &format!("{text}\n")).print(&mut bytes);
            let entry = parse(bytes.strip_suffix(b"\n").unwrap()).unwrap();
            prop_assert_eq!((entry.at_ms, entry.instance, entry.stream), (at_ms, 12, Stream::Err));
            prop_assert_eq!((entry.release, entry.text), (&b"4f2c9ab"[..], text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_an_entry_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
