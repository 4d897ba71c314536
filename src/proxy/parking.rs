//! Parking: requests whose upstream is asleep, in the order in which they came, until a table brings endpoints.
//!
//! A request has a place, counted over all workers, and a ticket in the lot of its worker. A table that changes what it
//! would meet opens its queue: group by group requests are called, that is, they leave the lot and get a turn, and
//! choose again like any other. One that finds the upstream asleep again comes back with its ticket.
//!
//! The lot is pure: it knows keys and numbers, not conns. **Invariant**: a ticket is in the lot exactly while its
//! request waits uncalled, and a queue is open exactly if the adopted table (or a stop) lets its requests go, so
//! nobody waits for a table that has come already.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::token::Key;
use super::tools::Tools;

/// Called at once per queue and pass of the loop: a runtime that has just begun must not meet a thousand at once.
const GROUP: usize = 32;

/// The waiting requests of one worker.
#[derive(Default)]
pub(super) struct Lot {
    /// By the lasting number of the upstream; none is empty.
    queues: HashMap<u32, Queue>,
    next: u64,
}

#[derive(Default)]
struct Queue {
    /// Tickets grow, so this is the order in which they came.
    waiting: BTreeMap<u64, Key>,
    open: bool,
}

/// One of the places that an upstream has for waiting requests; free again when dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None` when `max` are taken.
    pub fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let more = |n| (n < max).then_some(n + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lot {
    /// A ticket for one that comes now.
    pub fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// `key` waits for the upstream `number`, where its ticket says.
    pub fn wait(&mut self, number: u32, ticket: u64, key: Key) {
        self.queues.entry(number).or_default().waiting.insert(ticket, key);
    }

    pub fn is_waiting(&self, number: u32, ticket: u64) -> bool {
        self.queues.get(&number).is_some_and(|queue| queue.waiting.contains_key(&ticket))
    }

    /// Waits no more, if it did.
    pub fn leave(&mut self, number: u32, ticket: u64) {
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.waiting.remove(&ticket);
            if queue.waiting.is_empty() {
                self.queues.remove(&number);
            }
        }
    }

    /// Somebody can be called.
    pub fn is_open(&self) -> bool {
        self.queues.values().any(|queue| queue.open)
    }

    /// Calls the next of each open queue.
    pub fn call(&mut self) -> Vec<Key> {
        let mut called = Vec::new();
        for queue in self.queues.values_mut().filter(|queue| queue.open) {
            called.extend((0..GROUP).map_while(|_| queue.waiting.pop_first()).map(|(_, key)| key));
        }
        if !called.is_empty() {
            self.queues.retain(|_, queue| !queue.waiting.is_empty());
        }
        called
    }

    /// Opens the queues that `may_go` names and closes the others, whose numbers are returned.
    fn review(&mut self, may_go: impl Fn(u32) -> bool) -> Vec<u32> {
        self.queues.iter_mut().for_each(|(number, queue)| queue.open = may_go(*number));
        self.queues.iter().filter(|(_, queue)| !queue.open).map(|(number, _)| *number).collect()
    }
}

impl Tools {
    /// To be called when the table or the wish to stop is new. Who goes on waiting asks for a wake once more: it may
    /// be another sleep than the one in which it was said.
    pub fn review_parked(&mut self) {
        let Some(index) = self.index().cloned() else { return };
        let stopping = self.stopping.is_some();
        for number in self.lot.review(|number| stopping || !index.is_asleep(number)) {
            self.shared.wake(number);
        }
    }

    /// A place to wait for the upstream `number`, if there is one left.
    pub fn place(&self, number: u32) -> Option<Place> {
        let index = self.index()?;
        Place::take(&index.lasting[index.place_of(number)?].waiting, self.limits.parked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::token::Slab;

    #[test]
    fn calls_in_the_order_of_tickets_and_in_groups() {
        let (mut slab, mut lot) = (Slab::new(), Lot::default());
        let keys: Vec<Key> = (0..100).map(|i| slab.insert_with(|_| i)).collect();
        let tickets: Vec<u64> = keys.iter().map(|_| lot.ticket()).collect();
        // Whatever the order in which they come back.
        for i in (0..100).rev() {
            lot.wait(7, tickets[i], keys[i]);
        }
        assert!(lot.call().is_empty() && !lot.is_open());
        assert_eq!(lot.review(|_| false), [7]);
        assert!(lot.review(|number| number == 7).is_empty());
        lot.leave(7, tickets[1]);
        assert!(!lot.is_waiting(7, tickets[1]) && lot.is_waiting(7, tickets[2]));
        let first = lot.call();
        assert_eq!((first.len(), first[0], first[1]), (GROUP, keys[0], keys[2]));
        lot.wait(7, tickets[0], keys[0]);
        assert_eq!(lot.call()[0], keys[0], "who comes back is the first again");
        let rest: usize = std::iter::repeat_with(|| lot.call().len()).take_while(|n| *n > 0).sum();
        assert_eq!(rest, 99 - 2 * GROUP + 1);
        assert!(!lot.is_open() && lot.queues.is_empty());
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let taken = Arc::default();
        let places: Vec<_> = (0..3).map(|_| Place::take(&taken, 2)).collect();
        assert!(places[1].is_some() && places[2].is_none());
        drop(places);
        assert_eq!(taken.load(Ordering::SeqCst), 0);
    }
}
