//! Deliver: a file into a server's incoming folder, through whatever happens on the way.
//!
//! ```text
//! claim ── send the rest ──┬─ done
//!   ▲                      ├─ sftp failed, the server answers ── it brought something: once more with it
//!   │                      │                                  └─ nothing: over the control connection from now on
//!   └──── lock ── connect ─┴─ the connection is lost, or silent
//! ```
//!
//! The lock ends with its connection, so it is taken anew; what was sent is [claimed](Remote::claim) from whoever may still
//! be writing it.
//!
//! **Invariant**: an attempt that brings nothing is followed by [`VAIN`] more at most, and one that brings less than
//! [`WORTH_IT`] brings nothing; so it ends, and where it goes on it is nearer to its end.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use super::Uploads;
use crate::cli::interrupt::interrupted;
use crate::cli::remote::{Parcel, Place, Remote};
use crate::cli::ui::{Task, units};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Request;

/// Attempts in a row that bring nothing.
const VAIN: u32 = 3;
/// Bytes for which it is worth to come back any number of times.
const WORTH_IT: u64 = 256 << 10;
/// Before the first, the second and every further attempt to connect again: a network that is gone for a moment, one that
/// changes, one that needs somebody to look.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(3), Duration::from_secs(10)];
/// How long the server may take to notice that our last connection, which has the lock, is no more: where its end did not
/// get through, that is the silence after which it takes us for gone, and some.
const UNLOCKING: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(250);

impl Uploads<'_> {
    /// Brings the parcel there, to be unpacked. The bytes that were sent. With `anew` nothing that lies there is made use of.
    pub(super) fn deliver(
        &self,
        parcel: &Parcel<'_>,
        place: &Place,
        remote: &mut Remote,
        anew: bool,
        line: &Task,
    ) -> Result<u64> {
        let all = parcel.artifact.bytes;
        let name = place.name();
        line.set("uploading");
        let mut from = match remote.claim(parcel, anew) {
            Ok(from) => from,
            Err(e) if is_lost(&e) => self.come_back(parcel, place, remote, &e)?,
            Err(e) => return Err(e),
        };
        if from > 0 && from < all {
            self.ui.note(&format!("{name}: going on with an earlier upload, {} are there", of(from, all)));
        }
        let (mut sent, mut vain) = (0, 0);
        // That sftp does not work is news once the other way does: a disk that takes nothing fails on both, and the server's
        // own words are the reason.
        let is_other_way = Cell::new(false);
        while from < all {
            let begun = Instant::now();
            let on = |bytes| {
                if bytes > from && is_other_way.take() {
                    let way = "sftp does not work there, so the upload goes over the control connection";
                    self.ui.note(&format!("{name}: {way}"));
                }
                line.progress(bytes, all);
            };
            let failed = match remote.send(parcel, from, &on) {
                Ok(()) => {
                    let (bytes, ms) = (units::size(all - from), begun.elapsed().as_millis());
                    self.ui.detail(&format!("{name}: {bytes} arrived in {ms} ms"));
                    return Ok(sent + all - from);
                }
                Err(e) if !is_lost(&e) && !is_missing(&e) => return Err(e),
                Err(e) => e,
            };
            // Whether only sftp has failed, the server tells: it answers or does not.
            let (there, is_back) = match remote.claim(parcel, false) {
                Ok(there) => (there, false),
                Err(e) if is_lost(&e) => (self.come_back(parcel, place, remote, &e)?, true),
                Err(e) => return Err(e),
            };
            let brought = there.saturating_sub(from);
            sent += brought;
            vain = if brought < WORTH_IT { vain + 1 } else { 0 };
            if is_back {
                self.ui.note(&match there {
                    0 => format!("{name}: connection lost, starting the upload anew"),
                    _ => format!("{name}: connection lost at {}, going on from there", percent(there, all)),
                });
            } else if brought < WORTH_IT && remote.do_without_sftp() {
                is_other_way.set(true);
                failed.detail().iter().for_each(|why| self.ui.detail(&format!("{name}: {why}")));
                self.ui.detail(&format!("{failed}"));
            }
            if vain > VAIN {
                return Err(failed);
            }
            from = there;
        }
        Ok(sent)
    }

    /// Connects again and takes the lock; what is there then.
    fn come_back(&self, parcel: &Parcel<'_>, place: &Place, remote: &mut Remote, lost: &Error) -> Result<u64> {
        self.ui.detail(&format!("{lost}; connecting again"));
        let mut pauses = PAUSES.iter();
        loop {
            let Some(pause) = pauses.next() else { return Err(self.connection_stays_lost(place, lost)) };
            wait(remote, *pause)?;
            let back = Remote::connect(place, remote.interrupt()).and_then(|new| {
                // The old one ends with this, and its lock with it.
                *remote = new;
                self.lock_again(remote)?;
                remote.claim(parcel, false)
            });
            match back {
                Err(e) if is_lost(&e) => self.ui.detail(&format!("{e}")),
                back => return back,
            }
        }
    }

    fn lock_again(&self, remote: &mut Remote) -> Result<()> {
        let until = Instant::now() + UNLOCKING;
        loop {
            let request = Request::Lock { app: self.app.clone(), version: Some(self.version.clone()) };
            match remote.order(request, &mut |_| {}) {
                Err(e) if e.kind() == Kind::Busy && Instant::now() < until => wait(remote, LOOK)?,
                other => return other,
            }
        }
    }

    fn connection_stays_lost(&self, place: &Place, lost: &Error) -> Error {
        let message = format!("{}: the connection was lost during the upload and does not come back", place.name());
        Error::new(lost.kind(), message)
            .with_detail(lost.detail().to_vec())
            .hint("nothing was changed; the next `tako deploy` goes on from where this one was")
    }
}

fn is_lost(e: &Error) -> bool {
    matches!(e.kind(), Kind::Unreachable | Kind::Timeout)
}

/// There is no `sftp` on this machine.
fn is_missing(e: &Error) -> bool {
    e.kind() == Kind::NotFound
}

fn wait(remote: &Remote, pause: Duration) -> Result<()> {
    let [signal, sibling] = remote.interrupt().bells();
    select! {
        recv(signal) -> _ => Err(interrupted()),
        recv(sibling) -> _ => Err(interrupted()),
        default(pause) => Ok(()),
    }
}

fn of(bytes: u64, all: u64) -> String {
    format!("{} of {}", units::size(bytes), units::size(all))
}

/// Rounded down: not all is there.
fn percent(bytes: u64, all: u64) -> String {
    format!("{} %", u128::from(bytes) * 100 / u128::from(all.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_never_told_as_all_of_it() {
        assert_eq!(percent(99_999, 100_000), "99 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100 %");
        assert_eq!(of(1_400_000, 2_400_000), "1.4 MB of 2.4 MB");
    }
}
