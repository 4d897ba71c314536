//! Ledger: who has adopted which table and who still holds what, so that an endpoint is called drained exactly once
//! and never too early. Pure: events in, notices out.
//!
//! **Invariant**: [`Notice::Drained`] for X is said when every worker has adopted a table not older than the one that
//! removed X, and none holds an exchange on X since. A table that puts X back takes the removal back with it.

use super::Notice;
use super::quick::{Map, Set};
use super::table::EndpointId;

pub(super) struct Ledger {
    generation: u64,
    acked: u64,
    present: Set<EndpointId>,
    /// Removed and not yet drained, with the generation that removed it.
    leaving: Map<EndpointId, u64>,
    seats: Vec<Seat>,
}

/// One worker's word.
#[derive(Default)]
struct Seat {
    adopted: u64,
    /// Endpoints it still holds although its table lacks them.
    holding: Set<EndpointId>,
}

impl Ledger {
    pub fn new(workers: usize) -> Self {
        Ledger {
            generation: 0,
            acked: 0,
            present: Set::default(),
            leaving: Map::default(),
            seats: (0..workers).map(|_| Seat::default()).collect(),
        }
    }

    /// A new table with these endpoints; returns its generation.
    pub fn publish(&mut self, endpoints: &Set<EndpointId>) -> u64 {
        self.generation += 1;
        for gone in self.present.difference(endpoints) {
            self.leaving.insert(*gone, self.generation);
        }
        self.leaving.retain(|id, _| !endpoints.contains(id));
        self.present.clone_from(endpoints);
        self.generation
    }

    /// `worker` chooses by table `generation` from now on, and still holds `holding`, which that table lacks.
    pub fn adopted(&mut self, worker: usize, generation: u64, holding: Set<EndpointId>) -> Vec<Notice> {
        let seat = &mut self.seats[worker];
        debug_assert!(generation >= seat.adopted, "a worker went back to an older table");
        *seat = Seat { adopted: generation, holding };
        let acked = self.seats.iter().map(|s| s.adopted).min().unwrap_or(0);
        let mut notices: Vec<_> = (self.acked + 1..=acked).map(Notice::Acked).collect();
        self.acked = acked;
        let mut leaving: Vec<_> = self.leaving.keys().copied().collect();
        leaving.sort_unstable();
        notices.extend(leaving.into_iter().filter_map(|id| self.settle(id)));
        notices
    }

    /// `worker` no longer holds `id`, which its table lacks.
    pub fn released(&mut self, worker: usize, id: EndpointId) -> Option<Notice> {
        self.seats[worker].holding.remove(&id);
        self.settle(id)
    }

    fn settle(&mut self, id: EndpointId) -> Option<Notice> {
        let since = *self.leaving.get(&id)?;
        let done = self.seats.iter().all(|s| s.adopted >= since && !s.holding.contains(&id));
        done.then(|| {
            self.leaving.remove(&id);
            Notice::Drained(id)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const X: EndpointId = EndpointId(1);
    const Y: EndpointId = EndpointId(2);

    fn set(ids: &[EndpointId]) -> Set<EndpointId> {
        ids.iter().copied().collect()
    }

    #[test]
    fn drained_waits_for_the_last_worker_and_its_last_exchange() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.publish(&set(&[X])), 1);
        assert_eq!(ledger.adopted(0, 1, set(&[])), []);
        assert_eq!(ledger.adopted(1, 1, set(&[])), [Notice::Acked(1)]);
        assert_eq!(ledger.publish(&set(&[Y])), 2);
        assert_eq!(ledger.adopted(0, 2, set(&[X])), []);
        assert_eq!(ledger.released(0, X), None, "the other worker may still choose it");
        assert_eq!(ledger.adopted(1, 2, set(&[X])), [Notice::Acked(2)]);
        assert_eq!(ledger.released(1, X), Some(Notice::Drained(X)));
        assert_eq!(ledger.released(1, X), None, "said once");
    }

    #[test]
    fn an_endpoint_without_traffic_is_drained_with_the_last_ack() {
        let mut ledger = Ledger::new(2);
        ledger.publish(&set(&[X]));
        ledger.publish(&set(&[]));
        assert_eq!(ledger.adopted(0, 2, set(&[])), []);
        assert_eq!(ledger.adopted(1, 2, set(&[])), [Notice::Acked(1), Notice::Acked(2), Notice::Drained(X)]);
    }

    #[test]
    fn a_rollback_takes_the_removal_back() {
        let mut ledger = Ledger::new(1);
        ledger.publish(&set(&[X]));
        ledger.adopted(0, 1, set(&[]));
        ledger.publish(&set(&[Y]));
        assert_eq!(ledger.adopted(0, 2, set(&[X])), [Notice::Acked(2)]);
        ledger.publish(&set(&[X]));
        assert_eq!(ledger.released(0, X), None, "it is in the table again");
        assert_eq!(ledger.adopted(0, 3, set(&[])), [Notice::Acked(3), Notice::Drained(Y)]);
        ledger.publish(&set(&[]));
        assert_eq!(ledger.adopted(0, 4, set(&[])), [Notice::Acked(4), Notice::Drained(X)]);
    }

    /// Workers that hold exchanges, adopt when they like and skip tables, against the words of the invariant.
    #[derive(Default, Clone)]
    struct Worker {
        adopted: u64,
        held: HashMap<EndpointId, u32>,
    }

    proptest::proptest! {
        #[test]
        fn drained_is_said_once_per_removal_and_never_while_held(steps in proptest::collection::vec((0u8..4, 0usize..3, 0u64..3), 1..120)) {
            let mut ledger = Ledger::new(3);
            let mut tables = vec![Set::default()];
            let mut workers = vec![Worker::default(); 3];
            let mut owed: HashSet<EndpointId> = HashSet::new(); // removed, Drained not yet said
            for (what, w, x) in steps {
                let x = EndpointId(x);
                let mut notices = Vec::new();
                match what {
                    0 => {
                        let mut next: Set<_> = tables[tables.len() - 1].clone();
                        if !next.remove(&x) { next.insert(x); owed.remove(&x); } else { owed.insert(x); }
                        ledger.publish(&next);
                        tables.push(next);
                    }
                    1 => {
                        workers[w].adopted = tables.len() as u64 - 1;
                        let table = &tables[tables.len() - 1];
                        let holding = workers[w].held.keys().filter(|id| !table.contains(id)).copied().collect();
                        notices = ledger.adopted(w, workers[w].adopted, holding);
                    }
                    2 if tables[workers[w].adopted as usize].contains(&x) => *workers[w].held.entry(x).or_default() += 1,
                    3 => if let Some(n) = workers[w].held.get_mut(&x) {
                        *n -= 1;
                        if *n == 0 {
                            workers[w].held.remove(&x);
                            if !tables[workers[w].adopted as usize].contains(&x) {
                                notices.extend(ledger.released(w, x));
                            }
                        }
                    },
                    _ => {}
                }
                for notice in notices {
                    if let Notice::Drained(id) = notice {
                        proptest::prop_assert!(owed.remove(&id), "said twice, or while in the table");
                        proptest::prop_assert!(workers.iter().all(|w| !w.held.contains_key(&id)));
                        proptest::prop_assert!(workers.iter().all(|w| !tables[w.adopted as usize].contains(&id)));
                    }
                }
            }
            // At rest everything owed is said.
            let last = tables.len() as u64 - 1;
            for w in 0..3 {
                for notice in ledger.adopted(w, last, Set::default()) {
                    if let Notice::Drained(id) = notice {
                        proptest::prop_assert!(owed.remove(&id));
                    }
                }
            }
            proptest::prop_assert!(owed.is_empty());
        }
    }
}
