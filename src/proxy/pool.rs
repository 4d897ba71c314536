//! Pool: this worker's idle links, per endpoint, the latest used first. Pure bookkeeping: the links themselves live
//! in the worker's slab.
//!
//! **Invariant**: a link is in exactly one stack while it is idle, and each stack is in the order of its times.

use std::collections::HashMap;

use super::table::EndpointId;
use super::token::Key;

#[derive(Default)]
pub(super) struct Pool {
    stacks: HashMap<EndpointId, Vec<(Key, u64)>>,
    len: usize,
}

impl Pool {
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a link that became idle at `now`; returns the oldest one if there are more than `max`.
    pub fn put(&mut self, endpoint: EndpointId, key: Key, now: u64, max: usize) -> Option<Key> {
        let stack = self.stacks.entry(endpoint).or_default();
        stack.push((key, now));
        self.len += 1;
        (stack.len() > max).then(|| {
            self.len -= 1;
            stack.remove(0).0
        })
    }

    /// The latest link, if it has been idle for less than `max_age`.
    pub fn take(&mut self, endpoint: EndpointId, now: u64, max_age: u64) -> Option<Key> {
        let stack = self.stacks.get_mut(&endpoint)?;
        let key = stack.pop_if(|(_, since)| *since + max_age > now)?.0;
        self.len -= 1;
        if stack.is_empty() {
            self.stacks.remove(&endpoint);
        }
        Some(key)
    }

    /// Forgets a link that the endpoint closed.
    pub fn forget(&mut self, endpoint: EndpointId, key: Key) {
        if let Some(stack) = self.stacks.get_mut(&endpoint) {
            let before = stack.len();
            stack.retain(|(other, _)| *other != key);
            self.len -= before - stack.len();
            if stack.is_empty() {
                self.stacks.remove(&endpoint);
            }
        }
    }

    /// Removes and returns the links to endpoints that `keep` does not name, and those idle since before `oldest`.
    pub fn prune(&mut self, keep: impl Fn(EndpointId) -> bool, oldest: u64) -> Vec<Key> {
        let mut pruned = Vec::new();
        self.stacks.retain(|endpoint, stack| {
            let young = if keep(*endpoint) { stack.partition_point(|(_, since)| *since < oldest) } else { stack.len() };
            pruned.extend(stack.drain(..young).map(|(key, _)| key));
            !stack.is_empty()
        });
        self.len -= pruned.len();
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
        assert_eq!(pool.put(X, keys[0], 10, 2), None);
        assert_eq!(pool.put(X, keys[1], 20, 2), None);
        assert_eq!(pool.put(X, keys[2], 30, 2), Some(keys[0]));
        assert_eq!(pool.put(Y, keys[3], 30, 2), None);
        assert_eq!(pool.take(X, 40, 10), None, "too old for this request");
        assert_eq!(pool.take(X, 40, 11), Some(keys[2]));
        assert_eq!(pool.prune(|_| true, 21), [keys[1]]);
        pool.forget(X, keys[1]);
        assert_eq!(pool.len(), 1);
        assert_eq!(pool.prune(|id| id != Y, 0), [keys[3]]);
        assert_eq!((pool.is_empty(), pool.len()), (true, 0));
    }
}
