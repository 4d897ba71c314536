//! Slab with generations: where conns and links live, and the tokens under which the kernel reports on them.
//!
//! A token is `generation (31) | index (31) | kind (2)`. **Invariant**: an event that was queued for a slot's former
//! tenant never reaches the next one, because removing a tenant raises the slot's generation.

use mio::Token;

/// Thirty-one bits, so that two of them and a kind fit a token.
const MASK: u64 = (1 << 31) - 1;

/// Names one tenant of a [`Slab`], for good: never equal to a later tenant's of the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub index: u32,
    generation: u32,
}

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Bell,
    Listener(usize),
    Conn(Key),
    Link(Key),
}

impl Target {
    pub fn token(self) -> Token {
        let pack = |key: Key, kind: u64| (u64::from(key.generation) << 33) | (u64::from(key.index) << 2) | kind;
        let bits = match self {
            Target::Bell => 0,
            Target::Listener(i) => ((i as u64) << 2) | 1,
            Target::Conn(key) => pack(key, 2),
            Target::Link(key) => pack(key, 3),
        };
        Token(bits as usize)
    }

    pub fn of(token: Token) -> Self {
        let bits = token.0 as u64;
        let key = Key { index: ((bits >> 2) & MASK) as u32, generation: (bits >> 33) as u32 };
        match bits & 3 {
            0 => Target::Bell,
            1 => Target::Listener((bits >> 2) as usize),
            2 => Target::Conn(key),
            _ => Target::Link(key),
        }
    }
}

/// A growing array of slots; what is removed leaves its slot to the next tenant.
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    tenant: Option<T>,
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// `make` is told the key, so that a tenant may know its own name.
    pub fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, tenant: None });
            (self.slots.len() - 1) as u32
        });
        debug_assert!(u64::from(index) <= MASK, "descriptors run out long before slots do");
        let slot = &mut self.slots[index as usize];
        let key = Key { index, generation: slot.generation };
        slot.tenant = Some(make(key));
        key
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.tenant.as_mut() } else { None }
    }

    /// Whoever lives at `index` now.
    pub fn at(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.tenant.as_mut()
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?;
        let tenant = slot.tenant.take()?;
        slot.generation = (slot.generation + 1) & MASK as u32;
        self.free.push(key.index);
        Some(tenant)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|s| s.tenant.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_misses_the_next_tenant_of_the_slot() {
        let mut slab = Slab::new();
        let old = slab.insert_with(|_| 'a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert_with(|_| 'b');
        assert_eq!(new.index, old.index);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 'b'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn tokens_survive_the_way_through_the_kernel() {
        let key = Key { index: 0x7fff_fffe, generation: 0x7fff_fffd };
        for target in [Target::Bell, Target::Listener(3), Target::Conn(key), Target::Link(key)] {
            assert_eq!(Target::of(target.token()), target);
        }
    }
}
