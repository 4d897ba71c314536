//! Pace: whether a client that we wait for moves at all, judged by windows of time.
//!
//! ```text
//!   Nothing ─▶ Body | Reading: a window of grace ─▶ counted ─▶ another window … or too slow
//!      ▲─────────────────┘ the wait is over
//! ```
//! One byte now and then is progress to a limit on silence, and would hold a place in the app, or our memory, for ever.
//! A rate counts only while the client alone holds things up: not while an endpoint is slow to take a body, not while a
//! stream is silent, and not once the app has begun to answer a body that still comes, for then it is a conversation,
//! and how fast that goes is theirs.
//!
//! What moved is the kernel's count, asked for once a window and passed in: nothing is counted per byte, and a client
//! that drains a large socket buffer slowly is seen to do so before that buffer has room again.
//!
//! **Invariant**: a wait that lasts two windows has moved enough in each but the first.

use std::time::Duration;

/// What the client, and nobody else, is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Send its body.
    Body,
    /// Read.
    Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    wait: Wait,
    /// When this window began.
    since: u64,
    /// What had moved by then; unknown in the first window.
    moved: Option<u64>,
}

impl Pace {
    pub fn new() -> Self {
        Pace { wait: Wait::Nothing, since: 0, moved: None }
    }

    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// What is waited for now. The same as before changes nothing.
    pub fn on(&mut self, wait: Wait, now: u64) {
        if self.wait != wait {
            *self = Pace { wait, since: now, moved: None };
        }
    }

    /// When to call [`Pace::judge`].
    pub fn deadline(&self, window: Duration) -> Option<u64> {
        (self.wait != Wait::Nothing).then(|| self.since + window.as_millis() as u64)
    }

    /// A window is over, by the end of which `moved` bytes have moved in all. True if it may go on.
    pub fn judge(&mut self, moved: u64, enough: u64, now: u64) -> bool {
        let before = self.moved.replace(moved);
        self.since = now;
        self.wait == Wait::Nothing || before.is_none_or(|before| moved.saturating_sub(before) >= enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);
    const ENOUGH: u64 = 100;

    /// Whether a wait that has moved so much by the end of each window is borne.
    fn check(moved: &[u64], borne: &[bool]) {
        let mut pace = Pace::new();
        pace.on(Wait::Reading, 5);
        let mut now = 5;
        for (moved, expected) in moved.iter().zip(borne) {
            now += 10_000;
            assert_eq!(pace.deadline(WINDOW), Some(now));
            assert_eq!(pace.judge(*moved, ENOUGH, now), *expected, "at {now}");
        }
    }

    #[test]
    fn each_window_but_the_first_must_bring_enough() {
        check(&[0, 0], &[true, false]);
        check(&[0, 99], &[true, false]);
        check(&[0, 100, 200, 299], &[true, true, true, false]);
        check(&[1 << 40, (1 << 40) + 1], &[true, false]);
        check(&[5, 2], &[true, false]);
    }

    #[test]
    fn a_wait_for_something_else_begins_anew() {
        let mut pace = Pace::new();
        assert_eq!(pace.deadline(WINDOW), None);
        pace.on(Wait::Body, 0);
        assert!(pace.judge(0, ENOUGH, 10_000));
        pace.on(Wait::Body, 12_000);
        assert_eq!(pace.deadline(WINDOW), Some(20_000), "the same wait goes on");
        pace.on(Wait::Nothing, 13_000);
        assert_eq!(pace.deadline(WINDOW), None, "the app is slow, not the client");
        pace.on(Wait::Body, 14_000);
        assert!(pace.judge(0, ENOUGH, 24_000), "grace again");
    }
}
