//! What two processes must agree on, and nothing else: the words (names, versions, targets, routes), the manifest of
//! a release, and the messages between `tako` and `tako-server`.
//!
//! Reading order: `name`, `version`, `target`, `route` are parsed once at the edge and valid from then on;
//! `manifest` is what a release says of itself, `packages` how its dependencies are installed; `control` is everything
//! that may be asked and answered, `task` the part of it that is about commands; `fault` is an error that travels; `wire` puts them on a stream, one JSON object a
//! line; `paths` is where both sides look.
//!
//! **Invariant**: a peer's bytes become one of these types or an error; nothing here panics, and no line is read
//! past its limit.

pub(crate) mod control;
pub(crate) mod status;
pub(crate) mod fault;
pub(crate) mod manifest;
pub(crate) mod name;
pub(crate) mod packages;
pub(crate) mod paths;
pub(crate) mod route;
pub(crate) mod target;
pub(crate) mod task;
pub(crate) mod version;
pub(crate) mod wire;

use serde::{Deserialize, Serialize};

/// The control protocol versions that this build speaks. Raise `max` with a change that old peers would misread;
/// raise `min` only when the old way is dropped.
pub(crate) const PROTOCOL: Range = Range { min: 1, max: 1 };

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub min: u32,
    pub max: u32,
}

impl Range {
    /// The newest version that both sides speak.
    pub fn common(self, other: Range) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ranges_meet_at_the_newest_version_both_speak() {
        let check = |a: (u32, u32), b: (u32, u32), expected| {
            let range = |(min, max)| Range { min, max };
            assert_eq!(range(a).common(range(b)), expected);
            assert_eq!(range(b).common(range(a)), expected);
        };
        check((1, 1), (1, 1), Some(1));
        check((1, 3), (2, 5), Some(3));
        check((1, 1), (2, 2), None);
        check((4, 5), (1, 9), Some(5));
    }
}
