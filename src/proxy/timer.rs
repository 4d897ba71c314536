//! Timer wheel: one deadline per conn, in slots of 128 ms.
//!
//! Deadlines move with every byte, so moving one later costs a store and nothing else: the node stays where it is and
//! is linked anew when its slot comes round. Only an earlier deadline is re-linked at once.
//!
//! **Invariant**: an armed index is linked in exactly one slot, not later than its deadline's (or the horizon); one
//! that is not armed is linked in none.

const SLOTS: u64 = 512;
/// Milliseconds a slot: no deadline of ours needs to be met more exactly.
const TICK: u64 = 128;
const NONE: u32 = u32::MAX;

pub(super) struct Wheel {
    heads: Box<[u32]>,
    nodes: Vec<Node>,
    /// The last tick that was visited.
    cursor: u64,
    /// No armed node is linked before this tick.
    earliest: u64,
    armed: usize,
}

#[derive(Clone, Copy)]
struct Node {
    prev: u32,
    next: u32,
    /// Where it is linked; 0 for nowhere, since tick 0 is never linked to.
    tick: u64,
    deadline: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Wheel { heads: vec![NONE; SLOTS as usize].into(), nodes: Vec::new(), cursor: 0, earliest: u64::MAX, armed: 0 }
    }

    /// Arms `index` for `deadline`, in milliseconds, replacing what it was armed for.
    pub fn set(&mut self, index: u32, deadline: u64) {
        if self.nodes.len() <= index as usize {
            self.nodes.resize(index as usize + 1, Node { prev: NONE, next: NONE, tick: 0, deadline: 0 });
        }
        let tick = self.tick_of(deadline);
        let node = &mut self.nodes[index as usize];
        node.deadline = deadline;
        if node.tick == 0 {
            self.armed += 1;
            self.link(index, tick);
        } else if tick < node.tick {
            self.unlink(index);
            self.link(index, tick);
        }
    }

    pub fn clear(&mut self, index: u32) {
        if self.nodes.get(index as usize).is_some_and(|n| n.tick != 0) {
            self.unlink(index);
            self.armed -= 1;
        }
    }

    /// Disarms everything whose deadline is not after `now` and appends it to `due`.
    pub fn expire(&mut self, now: u64, due: &mut Vec<u32>) {
        let until = now / TICK;
        if self.armed == 0 || self.earliest > until {
            self.cursor = self.cursor.max(until);
            return;
        }
        // After a long sleep every slot is visited once, not once per tick slept.
        let mut tick = self.earliest.max(self.cursor + 1).max(until.saturating_sub(SLOTS - 1));
        self.earliest = u64::MAX;
        self.cursor = self.cursor.max(until);
        while tick <= until {
            let mut index = std::mem::replace(&mut self.heads[(tick % SLOTS) as usize], NONE);
            while index != NONE {
                let node = &mut self.nodes[index as usize];
                let (next, deadline) = (node.next, node.deadline);
                node.tick = 0;
                if deadline <= now {
                    self.armed -= 1;
                    due.push(index);
                } else {
                    let later = self.tick_of(deadline);
                    self.link(index, later);
                }
                index = next;
            }
            tick += 1;
        }
        self.earliest = self.first_linked();
    }

    /// Milliseconds until something may be due.
    pub fn wait(&self, now: u64) -> Option<u64> {
        (self.armed > 0).then(|| (self.earliest * TICK).saturating_sub(now))
    }

    #[cfg(any(test, feature = "lab"))]
    pub fn is_armed(&self, index: u32) -> bool {
        self.nodes.get(index as usize).is_some_and(|n| n.tick != 0)
    }

    /// Panics unless every armed index is linked in one slot, where it is looked for in time.
    #[cfg(any(test, feature = "lab"))]
    pub fn check(&self) {
        let mut linked = 0;
        for (slot, head) in self.heads.iter().enumerate() {
            let (mut index, mut before) = (*head, NONE);
            while index != NONE {
                let node = self.nodes[index as usize];
                assert!(node.tick % SLOTS == slot as u64 && node.prev == before, "{index} is linked where it is not");
                assert!(node.tick <= node.deadline.div_ceil(TICK).max(self.cursor + 1), "{index} is late");
                assert!(node.tick > self.cursor && self.earliest <= node.tick, "{index} will be passed over");
                (before, index, linked) = (index, node.next, linked + 1);
                assert!(linked <= self.armed, "linked twice");
            }
        }
        assert_eq!(linked, self.armed, "armed and linked nowhere");
    }

    fn first_linked(&self) -> u64 {
        if self.armed == 0 {
            return u64::MAX;
        }
        let ahead = (self.cursor + 1..=self.cursor + SLOTS).find(|t| self.heads[(t % SLOTS) as usize] != NONE);
        ahead.expect("an armed node is linked within the horizon")
    }

    /// The first tick that is not before `deadline`, after the cursor and within the horizon.
    fn tick_of(&self, deadline: u64) -> u64 {
        deadline.div_ceil(TICK).clamp(self.cursor + 1, self.cursor + SLOTS - 1)
    }

    fn link(&mut self, index: u32, tick: u64) {
        let head = &mut self.heads[(tick % SLOTS) as usize];
        let next = std::mem::replace(head, index);
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next, node.tick) = (NONE, next, tick);
        if next != NONE {
            self.nodes[next as usize].prev = index;
        }
        self.earliest = self.earliest.min(tick);
    }

    fn unlink(&mut self, index: u32) {
        let Node { prev, next, tick, .. } = self.nodes[index as usize];
        match prev {
            NONE => self.heads[(tick % SLOTS) as usize] = next,
            _ => self.nodes[prev as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        self.nodes[index as usize].tick = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn due(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn a_deadline_moved_later_is_not_met_early() {
        let mut wheel = Wheel::new();
        wheel.set(7, 1_000);
        wheel.set(7, 5_000);
        assert!(due(&mut wheel, 1_200).is_empty());
        assert!(due(&mut wheel, 4_990).is_empty());
        assert_eq!(due(&mut wheel, 5_130), [7]);
        assert_eq!(wheel.wait(5_130), None);
    }

    #[test]
    fn a_deadline_moved_earlier_is_met_at_once() {
        let mut wheel = Wheel::new();
        wheel.set(1, 60_000);
        wheel.set(1, 300);
        assert!(wheel.wait(0).unwrap() <= 384);
        assert_eq!(due(&mut wheel, 400), [1]);
    }

    #[test]
    fn reaches_beyond_the_horizon() {
        let mut wheel = Wheel::new();
        wheel.set(3, 3_600_000);
        assert!(due(&mut wheel, 3_599_000).is_empty());
        assert_eq!(due(&mut wheel, 3_600_128), [3]);
    }

    proptest::proptest! {
        #[test]
        fn meets_every_deadline_once_and_none_early(steps in proptest::collection::vec((0u32..12, 0u64..200_000, 0u64..40_000, 0u8..4), 1..80)) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), HashMap::new(), 0);
            for (index, ahead, pass, clear) in steps {
                if clear == 0 {
                    wheel.clear(index);
                    model.remove(&index);
                } else {
                    wheel.set(index, now + ahead);
                    model.insert(index, now + ahead);
                }
                now += pass;
                for index in due(&mut wheel, now) {
                    let deadline = model.remove(&index).expect("was armed");
                    proptest::prop_assert!(deadline <= now);
                }
                // What is left is at most one slot late.
                for deadline in model.values() {
                    proptest::prop_assert!(*deadline + TICK > now);
                }
                proptest::prop_assert_eq!(wheel.wait(now).is_some(), !model.is_empty());
            }
        }
    }
}
