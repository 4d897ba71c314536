//! Pool: this worker's idle links, per endpoint, the latest used first. Pure bookkeeping: the links themselves live
//! in the worker's slab.
//!
//! **Invariant**: a link is in exactly one stack while it is idle, and each stack is in the order of its times.
//! None is used at or after the time its endpoint may close it.

use super::quick::Map;
use super::table::EndpointId;
use super::token::Key;

#[derive(Default)]
pub(super) struct Pool {
    /// An empty stack stays until its endpoint is pruned: the next link is a request away.
    stacks: Map<EndpointId, Vec<Idle>>,
    idle: usize,
}

#[derive(Clone, Copy)]
struct Idle {
    key: Key,
    since: u64,
    until: u64,
}

impl Pool {
    pub fn is_empty(&self) -> bool {
        self.idle == 0
    }

    pub fn len(&self) -> usize {
        self.idle
    }

    /// Adds a link that became idle at `now` and is of use until `until`; returns the oldest one if there are more than
    /// `max`.
    pub fn put(&mut self, endpoint: EndpointId, key: Key, now: u64, until: u64, max: usize) -> Option<Key> {
        let stack = self.stacks.entry(endpoint).or_default();
        stack.push(Idle { key, since: now, until });
        let oldest = (stack.len() > max).then(|| stack.remove(0).key);
        self.idle += usize::from(oldest.is_none());
        oldest
    }

    /// The latest link, if it has been idle for less than `max_age`.
    pub fn take(&mut self, endpoint: EndpointId, now: u64, max_age: u64) -> Option<Key> {
        let stack = self.stacks.get_mut(&endpoint)?;
        let key = stack.pop_if(|idle| idle.since + max_age > now && idle.until > now)?.key;
        self.idle -= 1;
        Some(key)
    }

    /// Forgets a link that the endpoint closed.
    pub fn forget(&mut self, endpoint: EndpointId, key: Key) {
        if let Some(stack) = self.stacks.get_mut(&endpoint) {
            let before = stack.len();
            stack.retain(|idle| idle.key != key);
            self.idle -= before - stack.len();
        }
    }

    /// Removes and returns the links to endpoints that `keep` does not name, and those whose time is over at `now`.
    pub fn prune(&mut self, keep: impl Fn(EndpointId) -> bool, now: u64) -> Vec<Key> {
        let mut pruned = Vec::new();
        self.stacks.retain(|endpoint, stack| {
            let kept = keep(*endpoint);
            stack.retain(|idle| {
                let stays = kept && idle.until > now;
                pruned.extend((!stays).then_some(idle.key));
                stays
            });
            kept
        });
        self.idle -= pruned.len();
        pruned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::token::Slab;

    const X: EndpointId = EndpointId(1);
    const Y: EndpointId = EndpointId(2);

    #[test]
    fn lends_the_latest_and_drops_the_oldest() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..4).map(|i| slab.insert_with(|_| i)).collect();
        let mut pool = Pool::default();
        assert_eq!(pool.put(X, keys[0], 10, 50, 2), None);
        assert_eq!(pool.put(X, keys[1], 20, 60, 2), None);
        assert_eq!(pool.put(X, keys[2], 30, 70, 2), Some(keys[0]));
        assert_eq!(pool.put(Y, keys[3], 30, 70, 2), None);
        assert_eq!(pool.take(X, 40, 10), None, "too old for this request");
        assert_eq!(pool.take(X, 40, 11), Some(keys[2]));
        assert_eq!(pool.take(X, 60, 100), None, "its endpoint may close it now");
        assert_eq!(pool.prune(|_| true, 60), [keys[1]]);
        pool.forget(X, keys[1]);
        assert_eq!(pool.len(), 1);
        assert_eq!(pool.prune(|id| id != Y, 0), [keys[3]]);
        assert_eq!((pool.is_empty(), pool.len()), (true, 0));
    }
}
