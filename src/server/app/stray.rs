//! Strays: processes that an instance started and that have left its group, as a daemon does that goes into the
//! background. The signals to a group do not reach them, so they are found by what they were given.
//!
//! **Invariant**: only what was started with the app's data folder and with a port that is reserved for this very
//! instance is ended; the port keeps other instances of the app apart.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::group;

/// Ends all strays of an instance whose group has ended; says how many there were.
pub(crate) fn end(data: &Path, port: u16) -> usize {
    let port = port.to_string();
    let is_stray =
        |pid: u32| group::was_given(pid, "PORT", Path::new(&port)) && group::was_given(pid, "TAKO_DATA_DIR", data);
    let ended = group::everybody().filter(|pid| is_stray(*pid) && kill(*pid, || is_stray(*pid)));
    ended.count()
}

/// By a descriptor: between the look and the signal the number may have come to mean another process.
fn kill(pid: u32, still: impl Fn() -> bool) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    still() && pidfd_send_signal(&process, Signal::KILL).is_ok()
}
