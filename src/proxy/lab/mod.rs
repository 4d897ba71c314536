//! Lab: doors into the data plane for what lives outside of the crate and measures or attacks it. Only with the feature
//! `lab` and in tests; what is shipped has none of it.
//!
//! `serve` is the proxy alone, in front of one origin, for `make bench-proxy`; `parsers` is what reads foreign bytes,
//! and `exchange` whole exchanges of it, for `make fuzz`.

pub mod serve;
pub mod parsers;
pub mod exchange;
#[cfg(test)]
mod tests;
