//! Lock: on all servers or on none, before the first byte is sent. The locks end with the connections.
//!
//! Who waits holds nothing meanwhile, so that two clients with the same servers in different orders cannot wait for each
//! other; and each waits for a while of its own, so that they do not go on meeting.

use std::time::{Duration, Instant};

use crossbeam_channel::select;

use crate::cli::fanout::{self, CALLS};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::cli::ui::units;
use crate::cli::ui::{Task, Ui};
use crate::crypto;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Request;

use super::Shipment;
use super::bind::Bound;
use super::tell::{all, at, without_age};

/// Between two attempts, and up to as much again.
const PAUSE: Duration = Duration::from_millis(400);
/// Attempts of who does not want to wait, while it gets some of the locks and not all: two that begin at once meet like
/// that, and neither of them would be served.
const CLASHES: u32 = 3;

/// Takes the locks of all of `bound`, and asks each server again: nobody else changes it from here on. Those that serve
/// all of it by now are let go, and returned.
///
/// # Errors
/// Busy saying who has one of them; those of the connections.
pub(super) fn all_servers(
    ui: &Ui,
    shipment: &Shipment<'_>,
    bound: &mut Vec<Bound>,
    interrupt: &Interrupt,
) -> Result<Vec<Bound>> {
    let until = Instant::now() + shipment.wait;
    let mut waiting: Option<Task> = None;
    let mut clashes = 0;
    loop {
        let Some((busy, got)) = take_all(shipment, bound)? else { break };
        let is_clash = got > 0 && clashes < CLASHES && shipment.wait.is_zero();
        clashes += 1;
        if Instant::now() >= until && !is_clash {
            return Err(match shipment.wait.is_zero() {
                true => busy,
                false => {
                    let waited = units::duration(shipment.wait);
                    Error::new(Kind::Busy, format!("{busy}, after {waited} of waiting"))
                        .hint("`tako status` shows what is going on there")
                }
            });
        }
        give_back(shipment, bound);
        if !shipment.wait.is_zero() {
            waiting.get_or_insert_with(|| ui.task("Wait")).set(&without_age(&busy.to_string()));
        }
        pause(interrupt)?;
    }
    if let Some(task) = waiting {
        task.done("it is our turn");
    }
    let asked = fanout::each(bound.iter_mut().collect(), CALLS, |b: &mut Bound| b.ask_again(shipment));
    all(asked)?;
    let (live, rest) = bound.drain(..).partition(|b| shipment.is_live(&b.preflight));
    *bound = rest;
    Ok(live)
}

/// Why not, and how many were got all the same; of several that are busy, the first is told.
fn take_all(shipment: &Shipment<'_>, bound: &mut [Bound]) -> Result<Option<(Error, usize)>> {
    let locked = fanout::each(bound.iter_mut().collect(), CALLS, |b: &mut Bound| {
        let request = Request::Lock { app: shipment.app(), version: Some(shipment.version.clone()) };
        at(b.place.name(), b.remote.order(request, &mut |_| {}))
    });
    // A server that is lost is worse than one that is busy: it is no use to wait for the others.
    let (busy, others): (Vec<_>, Vec<_>) =
        locked.into_iter().partition(|l| matches!(l, Err(e) if e.kind() == Kind::Busy));
    let got = all(others)?.len();
    Ok(all(busy).err().map(|busy| (busy, got)))
}

/// A server that does not answer has let go by itself, or will with the connection; the next attempt tells.
fn give_back(shipment: &Shipment<'_>, bound: &mut [Bound]) {
    fanout::each(bound.iter_mut().collect(), CALLS, |b: &mut Bound| {
        let _ = b.remote.order(Request::Unlock { app: shipment.app() }, &mut |_| {});
    });
}

fn pause(interrupt: &Interrupt) -> Result<()> {
    let [random] = crypto::random::<1>()?;
    let pause = PAUSE + PAUSE * u32::from(random) / 255;
    let [signal, sibling] = interrupt.bells();
    select! {
        recv(signal) -> _ => Err(interrupted()),
        recv(sibling) -> _ => Err(interrupted()),
        default(pause) => Ok(()),
    }
}
