//! Sim: one worker's data plane between scripted clients and endpoints, without sockets and with a clock that is moved
//! by hand. Only in tests and in the lab.
#![cfg_attr(not(test), allow(dead_code))]

mod net;

pub(super) use net::{Net, Stream};
