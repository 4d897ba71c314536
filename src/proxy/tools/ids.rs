//! Ids for requests that bring none.

use crate::crypto;

/// 128 bits that are never the same twice: random at the start, then counted. They name, they do not protect.
pub(super) struct RequestIds {
    base: [u8; 16],
    count: u64,
}

impl RequestIds {
    pub fn new() -> Self {
        // Without randomness two runs may use the same ids, which confuses logs and nothing else.
        RequestIds { base: crypto::random().unwrap_or_default(), count: 0 }
    }

    pub fn next(&mut self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.count = self.count.wrapping_add(1);
        let id = u128::from_le_bytes(self.base).wrapping_add(u128::from(self.count));
        let mut hex = [0; 32];
        for (i, digit) in hex.iter_mut().enumerate() {
            *digit = DIGITS[(id >> (124 - 4 * i)) as usize & 15];
        }
        hex
    }
}
