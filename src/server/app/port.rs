//! Ports for programs that cannot tell which one they took.
//!
//! They come from below the range that the kernel gives to outgoing connections, so that none of those can slip in
//! between our look and the program's bind; what other programs hold is found by trying.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto;
use crate::error::{Error, Kind, Result};

const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

#[derive(Clone, Default)]
pub(crate) struct Ports(Arc<Mutex<BTreeSet<u16>>>);

/// Nobody else gets this port from us until it is dropped.
pub(crate) struct Reserved {
    pub port: u16,
    ports: Ports,
}

impl Ports {
    pub fn reserve(&self) -> Result<Reserved> {
        // Not one after the other: a port that was just given back may still be in use by what did not end.
        let start = u16::from_le_bytes(crypto::random()?) % COUNT;
        for n in 0..COUNT {
            let port = FIRST + (start + n) % COUNT;
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if free && self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
                return Ok(Reserved { port, ports: self.clone() });
            }
        }
        Err(Error::new(Kind::Io, format!("no port from {FIRST} to {} is free", FIRST + COUNT - 1)))
    }

    /// The port of a program that has it already.
    pub fn hold(&self, port: u16) -> Option<Reserved> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        is_new.then(|| Reserved { port, ports: self.clone() })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.ports.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_free_and_given_once() {
        let ports = Ports::default();
        let held: Vec<Reserved> = (0..200).map(|_| ports.reserve().unwrap()).collect();
        let different: BTreeSet<u16> = held.iter().map(|r| r.port).collect();
        assert_eq!(different.len(), held.len());
        drop(held);
        let one = ports.hold(FIRST).unwrap();
        assert!(ports.hold(FIRST).is_none());
        drop(one);
        assert!(ports.0.lock().unwrap().is_empty());
    }
}
