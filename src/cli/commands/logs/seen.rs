//! Seen: which of a server's lines were told, so that after a lost connection it can be asked for what came since. Pure.
//!
//! A line has no number. What it has is the time at which the server heard it; lines are told nearly in that order, so it is
//! enough to ask from a little before the latest one, and to pass over those that are known. Of lines that are equal to the
//! millisecond so many are passed over as were told.
//!
//! **Invariant**: no line is told twice that is still remembered, and none is asked for that may have been told and is not.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::proto::control::{LogLine, Stream};

/// By so much a line may come later than one with a later time: instances are heard by several threads and written by one.
const SLACK_MS: u64 = 2000;
/// Remembered lines, of 16 bytes each; a flood brings as many in a second or two.
const MAX_LINES: usize = 200_000;

/// A line, small: its time, and what it is.
type Mark = (u64, u64);

pub(super) struct Seen {
    /// In the order in which they were told.
    recent: VecDeque<Mark>,
    latest_ms: Option<u64>,
    /// What is older was not wanted, or is forgotten.
    from_ms: Option<u64>,
    max_lines: usize,
}

/// Those to pass over, each so often.
pub(super) struct Known(HashMap<Mark, u32>);

impl Seen {
    pub fn new() -> Seen {
        Seen { recent: VecDeque::new(), latest_ms: None, from_ms: None, max_lines: MAX_LINES }
    }

    /// A line was told. The first is where the story begins: others of its past were left out.
    pub fn on(&mut self, line: &LogLine) {
        self.begin(line.at_ms);
        let latest = self.latest_ms.unwrap_or(0).max(line.at_ms);
        self.latest_ms = Some(latest);
        self.recent.push_back(mark(line));
        while let Some((at_ms, _)) = self.recent.front().copied() {
            let is_full = self.recent.len() > self.max_lines;
            if !is_full && at_ms.saturating_add(SLACK_MS) >= latest {
                break;
            }
            self.recent.pop_front();
            if is_full {
                self.from_ms = self.from_ms.max(Some(at_ms.saturating_add(1)));
            }
        }
    }

    /// All that was kept is told, and it was asked for at this time of the server's.
    pub fn begin(&mut self, asked_ms: u64) {
        self.from_ms.get_or_insert(asked_ms);
    }

    /// From when on to ask; `None` when nothing is known yet, and all is to be asked anew.
    pub fn since_ms(&self) -> Option<u64> {
        let latest = self.latest_ms.map(|latest| latest.saturating_sub(SLACK_MS));
        self.from_ms.map(|from| latest.unwrap_or(0).max(from))
    }

    pub fn known(&self) -> Known {
        let mut known = HashMap::new();
        for mark in &self.recent {
            *known.entry(*mark).or_insert(0) += 1;
        }
        Known(known)
    }
}

impl Known {
    /// Whether it was told; each time it is asked that counts for one.
    pub fn has(&mut self, line: &LogLine) -> bool {
        // As nearly always.
        if self.0.is_empty() {
            return false;
        }
        let Entry::Occupied(mut left) = self.0.entry(mark(line)) else { return false };
        *left.get_mut() -= 1;
        if *left.get() == 0 {
            left.remove();
        }
        true
    }
}

fn mark(line: &LogLine) -> Mark {
    let mut hash = DefaultHasher::new();
    (&line.release, line.instance, line.stream == Stream::Err, &line.text).hash(&mut hash);
    (line.at_ms, hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ms: u64, text: &str) -> LogLine {
        LogLine { at_ms, release: "v1".into(), instance: 1, stream: Stream::Out, text: text.into() }
    }

    fn seen(lines: &[(u64, &str)]) -> Seen {
        let mut seen = Seen::new();
        lines.iter().for_each(|(at, text)| seen.on(&line(*at, text)));
        seen
    }

    /// What is told of a log that is asked again.
    fn told<'a>(seen: &Seen, log: &[(u64, &'a str)]) -> Vec<(u64, &'a str)> {
        let (since, mut known) = (seen.since_ms().unwrap_or(0), seen.known());
        log.iter().copied().filter(|(at, text)| *at >= since && !known.has(&line(*at, text))).collect()
    }

    #[test]
    fn after_a_gap_every_line_is_told_that_was_not_and_no_other() {
        // The first was left out of the last so many that were asked for.
        let log =
            [(5, "old"), (10, "a"), (10, "a"), (9000, "b"), (8999, "late"), (9000, "a"), (9000, "a"), (9001, "c")];
        for told_before in 1..log.len() {
            assert_eq!(told(&seen(&log[1..told_before + 1]), &log), log[told_before + 1..], "{told_before}");
        }
    }

    #[test]
    fn equal_lines_of_one_moment_are_counted_and_other_ones_are_not_taken_for_them() {
        let told_before = seen(&[(7, "x"), (7, "x")]);
        assert_eq!(told(&told_before, &[(7, "x"), (7, "x"), (7, "x"), (7, "y")]), [(7, "x"), (7, "y")]);
        let mut known = told_before.known();
        assert!(!known.has(&LogLine { stream: Stream::Err, ..line(7, "x") }));
        assert!(!known.has(&LogLine { instance: 2, ..line(7, "x") }));
    }

    #[test]
    fn what_is_forgotten_is_not_asked_for() {
        let mut few = Seen { max_lines: 2, ..Seen::new() };
        [(1, "a"), (2, "b"), (3, "c")].into_iter().for_each(|(at, text)| few.on(&line(at, text)));
        assert_eq!(told(&few, &[(1, "a"), (2, "b"), (3, "c"), (4, "d")]), [(4, "d")]);
        // Those that are older than any that may come late take no room.
        let long = seen(&[(1, "a"), (1 + SLACK_MS, "b"), (2 + SLACK_MS, "c")]);
        assert_eq!((long.recent.len(), long.since_ms()), (2, Some(2)));
    }

    #[test]
    fn where_nothing_was_told_it_begins_when_it_was_asked() {
        let mut seen = Seen::new();
        assert_eq!(seen.since_ms(), None);
        seen.begin(500);
        assert_eq!(seen.since_ms(), Some(500));
        seen.begin(900);
        assert_eq!(told(&seen, &[(499, "a"), (500, "b")]), [(500, "b")]);
    }
}
