//! Pure: new instances for old, one at a time, or back.
//!
//! ```text
//! Booting k ─healthy→ swap ─→ Settling k ─acked→ Booting k+1 …
//!     last k ─healthy→ Writing ─written→ commit ─→ Landing ─acked→ done
//!     any failure before `written` ─→ restore
//! ```
//! A swap is one post that puts a new instance in and takes an old one out; the old one is benched: it gets no new
//! requests but lives until the commit. So a restore is one post as well, and it is whole: nothing that it needs was
//! given up. The last swap is the commit: it carries routes and limits too, and follows the write to disk.
//!
//! **Invariant**: after `Commit` nothing is restored; before it everything can be.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting(u32),
    Settling(u32),
    Writing,
    Landing,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The instance that is booting passed its first probe.
    Healthy,
    /// The last post is what every proxy worker chooses by.
    Acked,
    /// The new state is on disk.
    Written,
    /// A new instance failed, the state could not be written, or the rollout is called off.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start new instance `k`, from 1.
    Start(u32),
    /// One post: new instance `k` in, and one old one benched if there is one.
    Swap(u32),
    /// Write the new state; answer `Written` or `Failed`.
    Write,
    /// One post: the last new instance in, all old ones out, routes and limits. The old ones may go.
    Commit,
    /// One post: all old ones back in, the new ones out. The new ones may go.
    Restore,
    /// Say that it is done.
    Finish,
}

#[derive(Debug)]
pub(crate) struct Rollout {
    total: u32,
    phase: Phase,
}

impl Rollout {
    /// `total` new instances, at least one; the first is to be started.
    pub fn new(total: u32) -> (Self, Action) {
        (Rollout { total: total.max(1), phase: Phase::Booting(1) }, Action::Start(1))
    }

    pub fn total(&self) -> u32 {
        self.total
    }

    /// Which new instance it is about, from 1.
    pub fn number(&self) -> u32 {
        match self.phase {
            Phase::Booting(k) | Phase::Settling(k) => k,
            Phase::Writing | Phase::Landing | Phase::Over => self.total,
        }
    }

    pub fn is_committed(&self) -> bool {
        matches!(self.phase, Phase::Landing | Phase::Over)
    }

    pub fn on(&mut self, event: Event) -> Option<Action> {
        let (phase, action) = match (self.phase, event) {
            (Phase::Booting(k), Event::Healthy) if k < self.total => (Phase::Settling(k), Action::Swap(k)),
            (Phase::Booting(_), Event::Healthy) => (Phase::Writing, Action::Write),
            (Phase::Settling(k), Event::Acked) => (Phase::Booting(k + 1), Action::Start(k + 1)),
            (Phase::Writing, Event::Written) => (Phase::Landing, Action::Commit),
            (Phase::Landing, Event::Acked) => (Phase::Over, Action::Finish),
            (Phase::Booting(_) | Phase::Settling(_) | Phase::Writing, Event::Failed) => (Phase::Over, Action::Restore),
            (Phase::Booting(_), Event::Acked | Event::Written)
            | (Phase::Settling(_), Event::Healthy | Event::Written)
            | (Phase::Writing, Event::Healthy | Event::Acked)
            // What fails after the commit is replaced like any other instance.
            | (Phase::Landing, Event::Healthy | Event::Written | Event::Failed)
            | (Phase::Over, Event::Healthy | Event::Acked | Event::Written | Event::Failed) => return None,
        };
        self.phase = phase;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(total: u32, events: &[Event], expected: &[Action]) {
        let (mut rollout, first) = Rollout::new(total);
        let actions: Vec<Action> = [first].into_iter().chain(events.iter().filter_map(|e| rollout.on(*e))).collect();
        assert_eq!(actions, expected, "{total} instances, {events:?}");
    }

    #[test]
    fn one_instance_is_one_swap_and_that_is_the_commit() {
        use Action::*;
        use Event::*;
        check(1, &[Healthy, Written, Acked], &[Start(1), Write, Commit, Finish]);
        check(0, &[Healthy, Written, Acked], &[Start(1), Write, Commit, Finish]);
    }

    #[test]
    fn instances_follow_one_another_and_only_the_last_swap_commits() {
        use Action::*;
        use Event::*;
        check(
            3,
            &[Healthy, Acked, Healthy, Acked, Healthy, Written, Acked],
            &[Start(1), Swap(1), Start(2), Swap(2), Start(3), Write, Commit, Finish],
        );
    }

    #[test]
    fn any_failure_before_the_commit_restores_everything() {
        use Action::*;
        use Event::*;
        check(2, &[Failed], &[Start(1), Restore]);
        check(2, &[Healthy, Failed], &[Start(1), Swap(1), Restore]);
        check(2, &[Healthy, Acked, Failed], &[Start(1), Swap(1), Start(2), Restore]);
        check(2, &[Healthy, Acked, Healthy, Failed], &[Start(1), Swap(1), Start(2), Write, Restore]);
        check(1, &[Failed, Healthy, Acked, Written, Failed], &[Start(1), Restore]);
    }

    #[test]
    fn nothing_is_restored_after_the_commit() {
        use Action::*;
        use Event::*;
        check(1, &[Healthy, Written, Failed, Acked, Failed], &[Start(1), Write, Commit, Finish]);
    }

    /// Every phase against every event.
    #[test]
    fn every_phase_knows_what_to_do_with_every_event() {
        use Action::*;
        use Phase::*;
        let columns = [Event::Healthy, Event::Acked, Event::Written, Event::Failed];
        type Row = (Phase, [Option<(Phase, Action)>; 4]);
        let table: [Row; 6] = [
            (Booting(1), [Some((Settling(1), Swap(1))), None, None, Some((Over, Restore))]),
            (Booting(2), [Some((Writing, Write)), None, None, Some((Over, Restore))]),
            (Settling(1), [None, Some((Booting(2), Start(2))), None, Some((Over, Restore))]),
            (Writing, [None, None, Some((Landing, Commit)), Some((Over, Restore))]),
            (Landing, [None, Some((Over, Finish)), None, None]),
            (Over, [None, None, None, None]),
        ];
        for (phase, row) in table {
            for (event, expected) in columns.into_iter().zip(row) {
                let mut rollout = Rollout { total: 2, phase };
                let action = rollout.on(event);
                assert_eq!(action, expected.map(|(_, a)| a), "{phase:?} on {event:?}");
                assert_eq!(rollout.phase, expected.map_or(phase, |(p, _)| p), "{phase:?} on {event:?}");
            }
        }
    }
}
