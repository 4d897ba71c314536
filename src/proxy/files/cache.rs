//! Cache: what was found below which root, for a short while. One worker's.
//!
//! A fixed number of places, two for each name to be in; the older of the two gives way. So it is bounded, and a flood
//! of names that nobody has costs no more than a look at the disk for each.
//!
//! **Invariant**: nothing is kept for longer than [`LIFE`] or beyond its root; an open file is at most so long in use
//! after its name has gone. That nothing lies there is believed for as long, so a file that an app writes *after* it was
//! asked for in vain is seen within [`LIFE`].

use std::hash::{BuildHasher, RandomState};

use super::asset::Asset;

/// Milliseconds.
const LIFE: u64 = 1000;
/// Places; a page of an app has some dozens of files.
const PLACES: usize = 512;
/// Descriptors of one worker. The limit of the process leaves room for them.
pub(in crate::proxy) const MAX_OPEN: usize = 256;

pub(super) struct Cache {
    places: Vec<Place>,
    hashes: RandomState,
    open: usize,
}

#[derive(Default)]
struct Place {
    root: u64,
    name: Vec<u8>,
    /// 0 when there is nothing in it.
    until: u64,
    found: Option<Asset>,
}

impl Cache {
    pub fn new() -> Self {
        Cache { places: Vec::new(), hashes: RandomState::new(), open: 0 }
    }

    /// What is known: a file, or that there is none.
    pub fn get(&self, root: u64, name: &[u8], now: u64) -> Option<Option<&Asset>> {
        let [one, other] = self.places_of(root, name);
        let is_it = |place: &&Place| place.until > now && place.root == root && place.name == name;
        let place = [self.places.get(one)?, self.places.get(other)?].into_iter().find(is_it)?;
        Some(place.found.as_ref())
    }

    pub fn put(&mut self, root: u64, name: &[u8], found: Option<Asset>, now: u64) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, Place::default);
        }
        if self.open + found.as_ref().map_or(0, |a| a.descriptors()) > MAX_OPEN {
            self.close(|_| true); // rare, and all of it is soon found again
        }
        let [one, other] = self.places_of(root, name);
        let same = |place: &Place| place.root == root && place.name == name;
        let at = match (same(&self.places[one]), same(&self.places[other])) {
            (true, _) => one,
            (_, true) => other,
            _ if self.places[one].until <= self.places[other].until => one,
            _ => other,
        };
        self.empty(at);
        self.open += found.as_ref().map_or(0, |a| a.descriptors());
        let place = &mut self.places[at];
        place.name.clear();
        place.name.extend_from_slice(name);
        (place.root, place.until, place.found) = (root, now + LIFE, found);
    }

    /// Forgets what lies below other roots.
    pub fn keep(&mut self, is_wanted: impl Fn(u64) -> bool) {
        self.close(|place| !is_wanted(place.root));
    }

    /// Closes what is too old. True while something is open.
    pub fn sweep(&mut self, now: u64) -> bool {
        if self.open > 0 {
            self.close(|place| place.until <= now);
        }
        self.open > 0
    }

    pub fn holds_open(&self) -> bool {
        self.open > 0
    }

    fn close(&mut self, is_over: impl Fn(&Place) -> bool) {
        for at in 0..self.places.len() {
            if self.places[at].until > 0 && is_over(&self.places[at]) {
                self.empty(at);
            }
        }
    }

    fn empty(&mut self, at: usize) {
        self.places[at].until = 0;
        if let Some(asset) = self.places[at].found.take() {
            self.open -= asset.descriptors();
        }
    }

    fn places_of(&self, root: u64, name: &[u8]) -> [usize; 2] {
        let place = self.hashes.hash_one((root, name)) as usize % PLACES;
        [place, place ^ 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_name_for_its_life_and_below_its_root_only() {
        let mut cache = Cache::new();
        assert!(cache.get(1, b"a", 5).is_none());
        cache.put(1, b"a", None, 5);
        assert!(matches!(cache.get(1, b"a", 5 + LIFE - 1), Some(None)));
        assert!(cache.get(1, b"a", 5 + LIFE).is_none());
        assert!(cache.get(2, b"a", 5).is_none() && cache.get(1, b"b", 5).is_none());
        cache.keep(|root| root == 2);
        assert!(cache.get(1, b"a", 5).is_none());
    }

    #[test]
    fn a_flood_of_names_takes_no_more_places() {
        let mut cache = Cache::new();
        for i in 0..10_000u32 {
            cache.put(1, &i.to_le_bytes(), None, 5);
            assert!(matches!(cache.get(1, &i.to_le_bytes(), 5), Some(None)), "the newest is always known");
        }
        assert_eq!(cache.places.len(), PLACES);
    }
}
