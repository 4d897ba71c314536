//! Exchange: whole exchanges between scripted peers, decided by bytes, for the fuzzer. See `proxy::sim`.

use crate::proxy::sim;

/// Plays the run that `bytes` decide.
///
/// # Panics
/// When the data plane breaks a promise.
pub fn play(bytes: &[u8]) {
    sim::play(bytes);
}
