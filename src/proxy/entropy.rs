//! Entropy: what rustls draws for a handshake's public values, fetched from the kernel for many handshakes at once.
//!
//! **Invariant**: nothing from here is a secret. A server draws its hello's random, session ids, and the nonces and ages
//! of tickets, all of which the peer is sent; keys and signatures are made by ring, which asks the
//! kernel itself. So five calls a handshake become one in a few, and reading ahead gives nothing away.

use std::cell::RefCell;

use rustls::crypto::{GetRandomFailed, SecureRandom};

use crate::crypto;

/// Some five handshakes.
const AHEAD: usize = 512;

#[derive(Debug)]
pub(super) struct Ahead;

struct Pool {
    bytes: [u8; AHEAD],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; AHEAD], used: AHEAD }) };
}

impl SecureRandom for Ahead {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        POOL.with_borrow_mut(|pool| {
            for part in out.chunks_mut(AHEAD) {
                pool.fill(part)?;
            }
            Ok(())
        })
    }
}

impl Pool {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        if AHEAD - self.used < out.len() {
            self.bytes = crypto::random().map_err(|_| GetRandomFailed)?;
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + out.len()];
        out.copy_from_slice(taken);
        taken.fill(0); // never the same twice, whatever goes wrong
        self.used += out.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn never_gives_the_same_bytes_twice() {
        let mut seen = HashSet::new();
        let mut draw = |len: usize| {
            let mut out = vec![0; len];
            Ahead.fill(&mut out).unwrap();
            for part in out.chunks_exact(16) {
                assert!(seen.insert(part.to_vec()), "{part:?}");
            }
        };
        for len in [32, 16, 496, 512, 513, 1_600, 48].into_iter().cycle().take(200) {
            draw(len);
        }
    }
}
