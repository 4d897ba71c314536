//! Prepare: the release is brought to each server, laid out there and made able to start. Nothing is live yet.

use crate::cli::build::{Built, fit};
use crate::cli::fanout::{self, CALLS};
use crate::cli::ui::{Task, Ui};
use crate::cli::upload::{Sent, Uploads};
use crate::error::Result;
use crate::proto::control::{Notice, Request};

use super::Shipment;
use super::bind::Bound;
use super::tell::{all, all_sent, at, end_badly, sent_to};

/// # Errors
/// What one of the servers says; then the others keep what they were sent, for the next time.
pub(super) fn all_servers(
    ui: &Ui,
    shipment: &Shipment<'_>,
    built: &[Built],
    bound: &mut [Bound],
    or_give_up: &(impl Fn(bool) + Sync),
) -> Result<()> {
    if bound.is_empty() {
        return Ok(());
    }
    let task = ui.task("Upload");
    let uploads = Uploads::new(ui, shipment.app(), &shipment.version, shipment.project.dir.join(".tako/upload"));
    // All lines are there before the first of them moves.
    let tasks: Vec<Task> = bound.iter().map(|b| task.child(b.place.name())).collect();
    let lines: Vec<(&mut Bound, Task)> = bound.iter_mut().zip(tasks).collect();
    let prepared = all(fanout::each(lines, CALLS, |(bound, line)| {
        let built = fit::pick(shipment.order, built, bound.place.name(), bound.remote.hello().target);
        let prepared = built.and_then(|built| prepare(&uploads, built, bound, shipment.build_anew, &line));
        let prepared = at(bound.place.name(), prepared);
        or_give_up(prepared.is_err());
        match &prepared {
            Ok(sent) => line.done(&sent_to(sent)),
            Err(e) => end_badly(line, e),
        }
        prepared
    }));
    match &prepared {
        Ok(sent) => task.done(&all_sent(sent)),
        // Why is told once, at the end.
        Err(_) => task.fail("nothing was changed"),
    }
    prepared.map(drop)
}

fn prepare(uploads: &Uploads<'_>, built: &Built, bound: &mut Bound, anew: bool, line: &Task) -> Result<Sent> {
    let Bound { place, remote, preflight, wish, .. } = bound;
    bound.sent = match preflight.complete {
        true => Sent::nothing(built.packed.bytes),
        false => uploads.bring(built, place, remote, &preflight.bases, line)?,
    };
    let order = Request::Prepare { manifest: wish.manifest.clone(), anew };
    bound.remote.order(order, &mut |notice| {
        if let Notice::Doing { what } = notice {
            line.set(&what);
        }
    })?;
    Ok(bound.sent.clone())
}
