//! Sim: one worker's data plane between scripted clients and endpoints, without sockets and with a clock that is moved
//! by hand. Only in tests and in the lab.
//!
//! A run is decided by its bytes ([`Dice`](dice::Dice)): a `script` of requests and replies, who moves when, how much arrives at once,
//! what the clock does. `net` is a TCP that reports as sparsely as epoll; `client` and `endpoint` are the peers, and
//! read with a parser of their own (`message`) what came through; `world` drives the worker and watches it.
//!
//! **Invariant**: the loop, the conns, the timers are those that are shipped; only sockets and clock are not.

mod dice;
mod message;
mod net;
mod script;
mod client;
mod endpoint;
mod world;
#[cfg(test)]
mod tests;

pub(super) use net::{Net, Stream};

/// Plays the run that `bytes` decide, and panics where the data plane breaks a promise.
pub(super) fn play(bytes: &[u8]) {
    world::World::new(bytes).play();
}
