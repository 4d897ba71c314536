//! Quick: maps whose keys are ours (numbers we count, hosts of our own routes), so that no stranger can choose them to
//! collide. Strangers look up in them and never insert, so they need no hash that resists them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;
pub(super) type Set<K> = HashSet<K, BuildHasherDefault<Quick>>;

/// Odd, with bits well spread: the golden ratio (Knuth, TAOCP 6.4).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Default)]
pub(super) struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let tail = rest.iter().rev().fold(bytes.len() as u64, |tail, b| tail << 8 | u64::from(*b));
        self.write_u64(tail);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n)); // the end mark of a string
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(FACTOR).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in() {
        let mut map = Map::default();
        for n in 0..1000u64 {
            map.insert(format!("host-{n}.example.com").into_boxed_str(), n);
        }
        for n in 0..1000u64 {
            assert_eq!(map.get(format!("host-{n}.example.com").as_str()), Some(&n));
        }
        assert_eq!(map.get("host-1000.example.com"), None);
    }

    /// The table takes the low bits for the place and the high ones for a tag: both must differ.
    #[test]
    fn counted_numbers_and_likely_hosts_spread() {
        use std::hash::BuildHasher;
        let hash = BuildHasherDefault::<Quick>::default();
        let numbers = (1..=1024u64).map(|n| hash.hash_one(n));
        let hosts = (1..=1024u64).map(|n| hash.hash_one(format!("app{n}.example.com").as_str()));
        for hashes in [numbers.collect::<Vec<_>>(), hosts.collect()] {
            for shift in [0, 54] {
                let places: HashSet<u64> = hashes.iter().map(|h| h >> shift & 1023).collect();
                assert!(places.len() > 512, "only {} places at shift {shift}", places.len());
            }
        }
    }
}
