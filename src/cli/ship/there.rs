//! There: whether all servers still are, before the first of them swaps.
//!
//! One that was ready early may have waited for minutes, for a slow one or for the release command. When it went away
//! meanwhile, that is known here and not in the middle of the swaps, where the others would be live already. One that
//! has just spoken is not asked: where nobody waits, this costs nothing.

use std::time::Duration;

use crate::cli::fanout::{self, CALLS};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Request;

use super::bind::Bound;
use super::tell::{all, at};

/// A word that is older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(1);

/// # Errors
/// That of the connection that is gone; no server has swapped then.
pub(super) fn still(bound: &mut [Bound]) -> Result<()> {
    let quiet = bound.iter_mut().filter(|b| b.remote.silent_for() > FRESH).collect();
    let asked = fanout::each(quiet, CALLS, |b: &mut Bound| {
        at(b.place.name(), b.remote.call(Request::Info, &mut |_| {})).map_err(gone)
    });
    all(asked).map(drop)
}

fn gone(e: Error) -> Error {
    match e.kind() {
        Kind::Unreachable | Kind::Timeout => Error::new(e.kind(), format!("{e}, when all servers were ready"))
            .with_detail(e.detail().to_vec())
            .hint("no server was changed; `tako deploy` goes on from here once it is back"),
        _ => e,
    }
}
