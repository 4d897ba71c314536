//! Bind: a connection to each server, and what it says of the deploy before anything is done.
//!
//! **Invariant**: nothing here changes a server.

use crate::archive::Packed;
use crate::cli::build::fit;
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::cli::ui::units;
use crate::cli::ui::{Task, Ui};
use crate::cli::upload::Sent;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Preflight, Reply, Request, Wish};
use crate::proto::target::Target;
use crate::proto::version::Version;

use super::Shipment;
use super::tell::{all, alone, at, end_badly, or};

/// Left free beside what a release needs, for logs and the apps' own data.
const SPARE: u64 = 64 << 20;

/// A server that is connected and has nothing against the deploy.
pub(crate) struct Bound {
    /// Among the places.
    pub at: usize,
    pub place: Place,
    pub remote: Remote,
    /// What it is asked to serve.
    pub wish: Box<Wish>,
    pub preflight: Preflight,
    /// For the release; known once it is prepared.
    pub sent: Sent,
}

/// Connects to all servers and asks each.
pub(crate) fn bind(
    ui: &Ui,
    shipment: &Shipment<'_>,
    task: Task,
    interrupt: &Interrupt,
    or_give_up: &(impl Fn(bool) + Sync),
) -> Result<Vec<Bound>> {
    let results = fanout::each(shipment.places.iter().enumerate().collect(), CONNECTS, |(at, place)| {
        let bound = connect(shipment, at, place, interrupt);
        or_give_up(bound.is_err());
        bound
    });
    let lost: Vec<bool> = results.iter().map(|r| r.as_ref().is_err_and(|e| e.kind() == Kind::Unreachable)).collect();
    let bound = match all(results) {
        Ok(bound) => bound,
        Err(e) => {
            end_badly(task, &e);
            return Err(or_without(e, shipment, &lost));
        }
    };
    task.done(&bound.iter().map(|b| b.place.name()).collect::<Vec<_>>().join(", "));
    for bound in &bound {
        let (hello, preflight) = (bound.remote.hello(), &bound.preflight);
        let live = preflight.live.as_ref().map_or("nothing", Version::as_str);
        let free = units::size(preflight.free_bytes);
        let name = bound.place.name();
        ui.detail(&format!("{name}: tako-server {} on {}, {live} live, {free} free", hello.server, hello.target));
        for overlap in &bound.preflight.overlaps {
            ui.note(&format!("{}: {overlap} is more specific and keeps its requests", bound.place.name()));
        }
    }
    Ok(bound)
}

/// A server that is down must not keep the others from what they need: how to leave it out.
fn or_without(e: Error, shipment: &Shipment<'_>, lost: &[bool]) -> Error {
    let others = || shipment.places.iter().zip(lost).filter(|(_, lost)| !**lost).map(|(place, _)| place.name());
    if e.kind() != Kind::Unreachable || others().next().is_none() {
        return e;
    }
    let way = format!("`tako deploy{}` leaves it out", alone(shipment.env_name, others()));
    or(e, &way)
}

fn connect(shipment: &Shipment<'_>, index: usize, place: &Place, interrupt: &Interrupt) -> Result<Bound> {
    let mut remote = Remote::connect(place, interrupt)?;
    if let Place::Ssh(server) = place {
        check_target(place.name(), server.target, remote.hello().target)?;
    }
    fit::check(shipment.order, place.name(), remote.hello().target)?;
    let wish = Box::new(Wish { manifest: shipment.manifest(place)?, instances: shipment.on(place).0 });
    let preflight = ask(shipment, place, &mut remote, wish.clone())?;
    Ok(Bound { at: index, place: place.clone(), remote, wish, preflight, sent: Sent::nothing(0) })
}

fn ask(shipment: &Shipment<'_>, place: &Place, remote: &mut Remote, wish: Box<Wish>) -> Result<Preflight> {
    let request = Request::Preflight {
        app: shipment.app(),
        version: shipment.version.clone(),
        routes: shipment.env.routes.clone(),
        wish: Some(wish),
    };
    match at(place.name(), remote.call(request, &mut |_| {}))? {
        Reply::Preflight(preflight) => Ok(preflight),
        other => Err(remote.misunderstood(&other)),
    }
}

impl Bound {
    /// What it says now: somebody else may have changed it since.
    pub fn ask_again(&mut self, shipment: &Shipment<'_>) -> Result<()> {
        self.preflight = ask(shipment, &self.place, &mut self.remote, self.wish.clone())?;
        Ok(())
    }
}

fn check_target(name: &str, recorded: Option<Target>, found: Target) -> Result<()> {
    match recorded {
        Some(recorded) if recorded != found => {
            Err(Error::new(Kind::Config, format!("{name}: it is {found} now and was {recorded} when it was added"))
                .hint(format!("is it the right machine? run `tako servers check {name}`")))
        }
        _ => Ok(()),
    }
}

/// `packed` are the artifacts for the servers, in their order.
pub(crate) fn check_room(bound: &[Bound], packed: &[&Packed]) -> Result<()> {
    let needed = |packed: &Packed| packed.bytes + packed.unpacked + SPARE;
    let mut all = bound.iter().zip(packed.iter().map(|packed| needed(packed)));
    let full = all.find(|(b, needed)| !b.preflight.complete && b.preflight.free_bytes < *needed);
    match full {
        None => Ok(()),
        Some((b, needed)) => {
            let (needed, free) = (units::size(needed), units::size(b.preflight.free_bytes));
            Err(Error::new(
                Kind::Refused,
                format!("{}: {needed} of disk are needed and {free} are free", b.place.name()),
            )
            .hint("make room on the server; old releases go by themselves after a deploy"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_became_another_machine_is_refused() {
        let target = |s| Target::parse(s).unwrap();
        let (one, other) = (target("linux-x86_64-glibc"), target("linux-x86_64-musl"));
        assert!(check_target("fra1", Some(one), one).is_ok() && check_target("fra1", None, other).is_ok());
        assert_eq!(check_target("fra1", Some(one), other).unwrap_err().kind(), Kind::Config);
    }
}
