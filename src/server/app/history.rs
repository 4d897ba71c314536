//! History: what is kept of an app's log, read from the files as they were at one moment.
//!
//! The files are held open, so that it stays whole while the writer goes on, turns to a new file and removes the oldest.
//! Nothing is read before [`History::read`], which is for another thread than the writer's.
//!
//! **Invariant**: however much is kept, a few hundred kilobytes of it are in memory; a line without its end (what a crash
//! left) and what is no entry are passed over.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::entry::{self, Entry};
use super::sieve::Sieve;
use crate::server::rotating;

/// Read at once. Longer than any line: the longest text three times over, as when each byte of it is replaced.
const BUFFER: usize = 256 << 10;

pub(super) struct History {
    /// Oldest first.
    pieces: Vec<Piece>,
    parse: Parse,
}

/// What a line says, if it is one of ours.
type Parse = fn(&[u8]) -> Option<Entry<'_>>;

struct Piece {
    file: File,
    /// Nothing behind it is ours: it is told to those who follow.
    end: u64,
}

impl History {
    /// The files of the log at `path` as they are now.
    pub fn open(path: &Path, files: u32) -> History {
        History::of(path, files, entry::parse)
    }

    /// The same for files whose lines are of another sort.
    pub fn of(path: &Path, files: u32, parse: Parse) -> History {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut known = Vec::new();
        // The newest first: one that is turned into the next meanwhile is met again, and not missed.
        for n in 0..files {
            let Ok(file) = File::open(rotating::older(path, n)) else { continue };
            let Ok(about) = file.metadata() else { continue };
            let place = (about.dev(), about.ino());
            if !known.contains(&place) {
                known.push(place);
                pieces.push(Piece { file, end: about.len() });
            }
        }
        pieces.reverse();
        History { pieces, parse }
    }

    /// The file that is written to, and its end.
    pub fn newest(&self) -> Option<(File, u64)> {
        let newest = self.pieces.last()?;
        Some((newest.file.try_clone().ok()?, newest.end))
    }

    /// Tells what passes, oldest first; with `last` only so many of it. Stops when `tell` says that nobody listens.
    pub fn read(&self, sieve: &Sieve, last: Option<u32>, mut tell: impl FnMut(&Entry<'_>) -> bool) -> io::Result<()> {
        let (first, mut from) = match last {
            Some(count) => self.start_of(sieve, u64::from(count))?,
            None => (0, 0),
        };
        let mut buffer = vec![0; BUFFER];
        for piece in &self.pieces[first..] {
            // The first piece may begin in its middle; one that is not worth a look is none to begin in.
            if piece.may_hold(sieve, self.parse, &mut buffer)? {
                let goes_on = piece.lines(from, &mut buffer, |line| match (self.parse)(line) {
                    Some(entry) if sieve.passes(&entry) => tell(&entry),
                    _ => true,
                })?;
                if !goes_on {
                    break;
                }
            }
            from = 0;
        }
        Ok(())
    }

    /// Where the last `count` that pass begin: the number of the piece, and the place in it.
    fn start_of(&self, sieve: &Sieve, count: u64) -> io::Result<(usize, u64)> {
        let mut left = count;
        if left == 0 {
            return Ok((self.pieces.len(), 0));
        }
        let mut buffer = vec![0; BUFFER];
        for (number, piece) in self.pieces.iter().enumerate().rev() {
            if !piece.may_hold(sieve, self.parse, &mut buffer)? {
                continue;
            }
            let wanted = |line: &[u8]| (self.parse)(line).is_some_and(|entry| sieve.passes(&entry));
            if let Some(at) = piece.back(&mut buffer, |line| {
                left -= u64::from(wanted(line));
                left > 0
            })? {
                return Ok((number, at));
            }
        }
        Ok((0, 0))
    }
}

impl Piece {
    fn may_hold(&self, sieve: &Sieve, parse: Parse, buffer: &mut [u8]) -> io::Result<bool> {
        if !sieve.is_timed() {
            return Ok(true);
        }
        let mut last = None;
        self.back(buffer, |line| {
            last = parse(line).map(|entry| entry.at_ms);
            last.is_none()
        })?;
        let mut first = None;
        self.lines(0, buffer, |line| {
            first = parse(line).map(|entry| entry.at_ms);
            first.is_none()
        })?;
        // Without a single entry there is nothing to look for.
        Ok(first.zip(last).is_some_and(|(first, last)| sieve.may_be_within(first, last)))
    }

    /// Every whole line from `from` on. False when `each` wants no more.
    fn lines(&self, from: u64, buffer: &mut [u8], mut each: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
        let (mut at, mut held) = (from, 0);
        // Within a line that is longer than any of ours.
        let mut strange = false;
        loop {
            let room = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len() - held);
            let read = self.read_at(&mut buffer[held..held + room], at)?;
            if read == 0 {
                return Ok(true);
            }
            at += read as u64;
            held += read;
            let mut begin = 0;
            for end in memchr::memchr_iter(b'\n', &buffer[..held]) {
                let line = &buffer[begin..end];
                begin = end + 1;
                if !std::mem::take(&mut strange) && !each(line) {
                    return Ok(false);
                }
            }
            strange |= begin == 0 && held == buffer.len();
            if strange {
                held = 0;
            } else {
                buffer.copy_within(begin..held, 0);
                held -= begin;
            }
        }
    }

    /// Every whole line from the last to the first, until `each` wants no more; then the place where that line begins.
    fn back(&self, buffer: &mut [u8], mut each: impl FnMut(&[u8]) -> bool) -> io::Result<Option<u64>> {
        let mut to = self.end;
        while to > 0 {
            let from = to.saturating_sub(buffer.len() as u64);
            let bytes = &mut buffer[..(to - from) as usize];
            let read = self.read_at(bytes, from)?;
            let bytes = &bytes[..read];
            // The first line has begun before, unless this is the start of the file.
            let first = match memchr::memchr(b'\n', bytes) {
                _ if from == 0 => 0,
                Some(at) if at + 1 < bytes.len() => at + 1,
                _ => {
                    to = from;
                    continue;
                }
            };
            let whole = &bytes[first..];
            let mut end = memchr::memrchr(b'\n', whole).map_or(0, |at| at + 1);
            while end > 0 {
                let begin = memchr::memrchr(b'\n', &whole[..end - 1]).map_or(0, |at| at + 1);
                if !each(&whole[begin..end - 1]) {
                    return Ok(Some(from + (first + begin) as u64));
                }
                end = begin;
            }
            to = if from == 0 { 0 } else { from + first as u64 };
        }
        Ok(None)
    }

    /// As much as there is; less than asked for when somebody has cut the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], at + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::entry::Block;
    use super::*;
    use crate::proto::control::{LogQuery, Stream};
    use crate::proto::name::AppId;

    const HOUR_MS: u64 = 3600 * 1000;

    fn query() -> LogQuery {
        LogQuery::of(AppId::parse("shop").unwrap())
    }

    fn line(at_ms: u64, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        Block::new(at_ms, "v1".into(), 1, Stream::Out, format!("{text}\n")).print(&mut bytes);
        bytes
    }

    /// A log of these files, oldest first.
    fn kept(files: &[Vec<u8>]) -> (tempfile::TempDir, History) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        for (n, bytes) in files.iter().rev().enumerate() {
            fs::write(rotating::older(&path, n as u32), bytes).unwrap();
        }
        let history = History::open(&path, 5);
        (dir, history)
    }

    fn read(history: &History, query: &LogQuery) -> Vec<String> {
        let mut told = Vec::new();
        let tell = |e: &Entry<'_>| {
            told.push(String::from_utf8(e.text.to_vec()).unwrap());
            true
        };
        history.read(&Sieve::new(query, 0), query.lines, tell).unwrap();
        told
    }

    #[test]
    fn the_last_so_many_that_pass_are_found_across_files_and_buffers() {
        // A file of 2 MB: many buffers; every tenth line is of interest.
        let file = |part: u64| -> Vec<u8> {
            let text =
                |n: u64| format!("{part}/{n} {}{}", "x".repeat(150), if n.is_multiple_of(10) { " here" } else { "" });
            (0..10_000).flat_map(|n| line(part * 10_000 + n, &text(n))).collect()
        };
        let (_dir, history) = kept(&[file(0), file(1), file(2)]);
        let first = |told: &[String]| told[0].split_once(' ').unwrap().0.to_string();
        for (lines, grep, expected, count) in [
            (Some(1), None, "2/9999", 1),
            (Some(10_000), None, "2/0", 10_000),
            (Some(10_001), None, "1/9999", 10_001),
            (None, None, "0/0", 30_000),
            (Some(99_999), None, "0/0", 30_000),
            (Some(1), Some("here"), "2/9990", 1),
            (Some(1500), Some("here"), "1/5000", 1500),
            (None, Some("here"), "0/0", 3000),
            (Some(5), Some("0/7 "), "0/7", 1),
        ] {
            let told = read(&history, &LogQuery { lines, grep: grep.map(Into::into), ..query() });
            assert_eq!((first(&told).as_str(), told.len()), (expected, count), "{lines:?} {grep:?}");
        }
        assert!(read(&history, &LogQuery { lines: Some(0), ..query() }).is_empty());
        assert!(read(&history, &LogQuery { grep: Some("nowhere".into()), ..query() }).is_empty());
    }

    #[test]
    fn times_choose_within_files_and_among_them() {
        let file = |hour: u64| -> Vec<u8> {
            (0..10).flat_map(|n| line((hour + n) * HOUR_MS, &format!("hour {}", hour + n))).collect()
        };
        let (_dir, history) = kept(&[file(10), Vec::new(), file(20), file(30)]);
        let hours = |from: u64, to: u64| (from..=to).map(|h| format!("hour {h}")).collect::<Vec<_>>();
        let between = |since: Option<u64>, until: Option<u64>, lines| {
            let ms = |hour: Option<u64>| hour.map(|h| h * HOUR_MS);
            read(&history, &LogQuery { since_ms: ms(since), until_ms: ms(until), lines, ..query() })
        };
        assert_eq!(between(Some(25), None, None), hours(25, 39));
        assert_eq!(between(None, Some(12), None), hours(10, 12));
        assert_eq!(between(Some(18), Some(22), None), hours(18, 22));
        assert_eq!(between(Some(18), Some(22), Some(2)), hours(21, 22));
        assert_eq!(between(None, Some(19), Some(1)), hours(19, 19));
        assert_eq!(between(Some(12), None, Some(3)), hours(37, 39));
        assert!(between(Some(50), None, Some(3)).is_empty());
    }

    #[test]
    fn halves_and_garbage_are_passed_over() {
        let good = line(1, "good");
        let mut torn = good.clone();
        torn.extend_from_slice(b"2026-11-22T07:33:59.123Z out 1 v1 half a li");
        let mut zeros = vec![0; 5000];
        zeros.extend_from_slice(b"\n");
        zeros.extend_from_slice(&good);
        // Longer than the buffer, in the middle and at both ends.
        let huge =
            [good.clone(), vec![b'x'; 3 * BUFFER], b"\n".to_vec(), good.clone(), vec![b'y'; BUFFER + 7]].concat();
        let (_dir, history) = kept(&[torn, zeros, huge, Vec::new()]);
        for lines in [None, Some(4), Some(100)] {
            assert_eq!(read(&history, &LogQuery { lines, ..query() }), ["good"; 4]);
        }
        assert_eq!(read(&history, &LogQuery { lines: Some(1), since_ms: Some(1), ..query() }), ["good"]);
    }

    #[test]
    fn what_is_held_open_stays_whole_when_it_is_rotated_away() {
        let (dir, history) = kept(&[line(1, "old"), line(2, "new")]);
        for entry in fs::read_dir(dir.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(read(&history, &query()), ["old", "new"]);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_forward_and_backward_whatever_the_buffer(
            file in proptest::collection::vec("[a-z]{0,9}\n?", 0..20),
            size in 12usize..40,
        ) {
            let bytes = file.concat().into_bytes();
            let (_dir, history) = kept(std::slice::from_ref(&bytes));
            let mut buffer = vec![0; size];
            let (mut forward, mut backward) = (Vec::new(), Vec::new());
            let keep = |to: &mut Vec<Vec<u8>>, line: &[u8]| { to.push(line.to_vec()); true };
            history.pieces[0].lines(0, &mut buffer, |line| keep(&mut forward, line)).unwrap();
            history.pieces[0].back(&mut buffer, |line| keep(&mut backward, line)).unwrap();
            let mut expected: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            // What follows the last line feed is no whole line.
            expected.pop();
            // One that does not fit into the buffer is skipped, by each side at its own border.
            let fits = |lines: &[Vec<u8>]| -> Vec<Vec<u8>> {
                lines.iter().filter(|l| l.len() + 2 < size).cloned().collect()
            };
            prop_assert_eq!(fits(&forward), fits(&expected));
            backward.reverse();
            prop_assert_eq!(fits(&backward), fits(&expected));
        }
    }
}
