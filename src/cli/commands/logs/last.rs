//! Last: of the lines that pass in order of time, those that were asked for, until the last of them is known. Pure.
//!
//! Each server tells its own last N; which of them are the last N of all is known when all have told theirs.
//!
//! **Invariant**: at most [`MAX_BYTES`] are held, however many were asked for; what does not fit is counted.

use std::collections::VecDeque;

use super::same::Line;
use crate::proto::control::LogLine;

/// More than a person reads, little for the machine of a person; one server keeps some 50 MB of an app's lines.
const MAX_BYTES: usize = 64 << 20;

pub(super) struct Last {
    wanted: usize,
    max_bytes: usize,
    lines: VecDeque<Line>,
    bytes: usize,
    seen: usize,
}

impl Last {
    pub fn new(wanted: u32) -> Last {
        Last::of(wanted, MAX_BYTES)
    }

    fn of(wanted: u32, max_bytes: usize) -> Last {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        Last { wanted, max_bytes, lines: VecDeque::new(), bytes: 0, seen: 0 }
    }

    pub fn push(&mut self, line: Line) {
        self.seen = self.seen.saturating_add(1);
        self.bytes += size(&line);
        self.lines.push_back(line);
        while self.lines.len() > self.wanted || self.bytes > self.max_bytes {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= size(&oldest);
        }
    }

    /// The lines, and how many of those that were asked for were before them and did not fit.
    pub fn end(self) -> (VecDeque<Line>, usize) {
        let lacking = self.seen.min(self.wanted) - self.lines.len();
        (self.lines, lacking)
    }
}

fn size((_, line): &Line) -> usize {
    line.text.len() + line.release.len() + size_of::<LogLine>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Stream;

    fn line(at_ms: u64) -> Line {
        let text = "x".repeat(1000);
        (0, LogLine { at_ms, release: "v1".into(), instance: 1, stream: Stream::Out, text })
    }

    #[test]
    fn the_last_of_all_are_kept_and_what_does_not_fit_is_counted() {
        let check = |wanted: u32, room: usize, passed: u64, expected: std::ops::Range<u64>, lacking: usize| {
            let mut last = Last::of(wanted, room * size(&line(0)));
            (0..passed).for_each(|at| last.push(line(at)));
            let (lines, left_out) = last.end();
            let times: Vec<u64> = lines.iter().map(|(_, line)| line.at_ms).collect();
            assert_eq!((times, left_out), (expected.collect(), lacking), "{wanted} of {passed}, room for {room}");
        };
        check(3, 10, 7, 4..7, 0);
        check(3, 10, 2, 0..2, 0);
        check(0, 10, 7, 0..0, 0);
        check(3, 10, 0, 0..0, 0);
        // Six were asked for, and the last four fit.
        check(6, 4, 9, 5..9, 2);
        check(6, 4, 5, 1..5, 1);
        // A line that is larger than all room is none that can be held.
        check(1, 0, 2, 0..0, 1);
        check(u32::MAX, 10, 5, 0..5, 0);
    }
}
