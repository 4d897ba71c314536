//! Crowd: how many connections this worker has from each address. It knows no limit; who asks does.
//!
//! **Invariant**: an address is in it as long as it has connections here, so it is never larger than the worker's number
//! of connections, and [`Crowd::enter`] and [`Crowd::leave`] come in pairs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

#[derive(Default)]
pub(super) struct Crowd {
    counts: HashMap<Source, usize>,
}

/// Who is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    /// A /64: one customer has at least as much (RFC 6177 §2), and every address in it for the asking.
    V6([u8; 8]),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Source::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Crowd {
    /// Counts one more from `address`, unless there are `limit` already.
    pub fn enter(&mut self, address: IpAddr, limit: usize) -> bool {
        match self.counts.entry(Source::of(address)) {
            Entry::Occupied(count) if *count.get() >= limit => false,
            entry => {
                *entry.or_default() += 1;
                true
            }
        }
    }

    /// The counterpart of an [`Crowd::enter`] that said yes.
    pub fn leave(&mut self, address: IpAddr) {
        let Entry::Occupied(mut count) = self.counts.entry(Source::of(address)) else {
            debug_assert!(false, "left more often than entered");
            return;
        };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }

    #[cfg(debug_assertions)]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn counts_addresses_of_v4_and_networks_of_v6() {
        let mut crowd = Crowd::default();
        for address in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(crowd.enter(at(address), 2), "{address}");
        }
        assert!(!crowd.enter(at("192.0.2.1"), 2));
        assert!(crowd.enter(at("192.0.2.2"), 2));
        assert!(crowd.enter(at("2001:db8::1"), 2));
        assert!(crowd.enter(at("2001:db8::ffff:ffff:ffff:ffff"), 2));
        assert!(!crowd.enter(at("2001:db8::2"), 2));
        assert!(crowd.enter(at("2001:db8:0:1::1"), 2));
    }

    proptest::proptest! {
        #[test]
        fn nobody_is_forgotten_and_nobody_kept(steps in proptest::collection::vec((0u8..4, proptest::bool::ANY), 0..200)) {
            let (mut crowd, mut inside) = (Crowd::default(), [0usize; 4]);
            for (who, enters) in steps {
                let (address, count) = (IpAddr::from([192, 0, 2, who]), &mut inside[usize::from(who)]);
                if enters {
                    let let_in = crowd.enter(address, 3);
                    proptest::prop_assert_eq!(let_in, *count < 3);
                    *count += usize::from(let_in);
                } else if *count > 0 {
                    crowd.leave(address);
                    *count -= 1;
                }
            }
            proptest::prop_assert_eq!(crowd.counts.len(), inside.iter().filter(|n| **n > 0).count());
        }
    }
}
