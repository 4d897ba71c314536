//! Pure: when an instance that ended by itself is started again.
//!
//! The delay doubles from 0.1 s to 30 s and starts over once a process stayed up for a minute, so that a passing
//! fault costs nothing and a broken release costs little.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// Up for this long, an earlier failure is history.
pub(super) const STABLE: Duration = Duration::from_secs(60);
/// So many ends in a row are a loop and no accident.
const LOOPING: u32 = 3;

/// The failures in a row of one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restarts {
    in_a_row: u32,
    ever: u32,
}

impl Restarts {
    /// It ended after having been up for so long; returns how long to wait.
    pub fn ended(&mut self, up: Duration) -> Duration {
        if up >= STABLE {
            self.in_a_row = 0;
        }
        let delay = FIRST.saturating_mul(1u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX)).min(LONGEST);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.ever = self.ever.saturating_add(1);
        delay
    }

    /// How often it ended by itself.
    pub fn count(&self) -> u32 {
        self.ever
    }

    /// Whether it ends again and again; `up` is how long it has been up now.
    pub fn is_looping(&self, up: Duration) -> bool {
        self.in_a_row >= LOOPING && up < STABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_to_a_limit_and_starts_over_after_a_quiet_minute() {
        let mut restarts = Restarts::default();
        let short = Duration::from_secs(1);
        let delays: Vec<u128> = (0..11).map(|_| restarts.ended(short).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert!(restarts.is_looping(short) && !restarts.is_looping(STABLE));
        assert_eq!(restarts.ended(STABLE).as_millis(), 100);
        assert!(!restarts.is_looping(short));
        assert_eq!(restarts.count(), 12);
    }

    #[test]
    fn never_overflows() {
        let mut restarts = Restarts { in_a_row: u32::MAX, ever: u32::MAX };
        assert_eq!(restarts.ended(Duration::ZERO), LONGEST);
        assert_eq!(restarts.ended(Duration::ZERO), LONGEST);
    }
}
