//! Live: the release is put live on each server by itself, and how that ended is found out: also when we are interrupted,
//! or when the connection is lost.
//!
//! A server owns a deploy once it has it. Ctrl-C asks each to call it off, over a second connection: the calls of the
//! first are served in order, so that it would have to read while it follows, and it may be the one that is lost. A
//! connection that shares its master costs one round trip. What is committed by then stays so. The second Ctrl-C leaves
//! the servers to it.
//!
//! **Invariant**: a server is called live or kept only if it said so itself.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};

use crate::cli::fanout::{self, CALLS};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::cli::remote::{Place, Remote};
use crate::cli::ui::{Task, Ui};
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deploy, Deployed, Joined, Notice, Reply, Request};
use crate::proto::name::AppId;
use crate::proto::status::{AppState, AppStatus};
use crate::proto::version::Version;

use super::bind::Bound;
use super::tell::{did_not_come_up, end_badly, step_words, went_live};
use super::{End, Shipment, Stand};

/// How long we ask a server that was lost in the middle of a deploy how it ended.
const SETTLING: Duration = Duration::from_secs(60);
/// Between two questions to a server that does not answer, or has not begun.
const PAUSE: Duration = Duration::from_millis(300);
/// What two clocks may differ in, in counting since when a deploy goes.
const SLACK: Duration = Duration::from_secs(2);

/// A server on its way, as far as who cancels it must know.
struct Going<'a> {
    place: &'a Place,
    over: AtomicBool,
}

/// Puts it live everywhere.
///
/// # Errors
/// When signals cannot be heard; nothing was begun then.
pub(super) fn all_servers(
    ui: &Ui,
    shipment: &Shipment<'_>,
    bound: Vec<Bound>,
    interrupt: &Interrupt,
) -> Result<Vec<(usize, End)>> {
    // From here on the first signal is for the servers, and only the second one for us.
    let second = Interrupt::second()?;
    let places: Vec<Place> = bound.iter().map(|b| b.place.clone()).collect();
    let going: Vec<Going<'_>> = places.iter().map(|place| Going { place, over: AtomicBool::new(false) }).collect();
    // All lines are there before the first of them moves.
    let tasks: Vec<Task> = bound.iter().map(|b| ui.task(b.place.name())).collect();
    let lines = bound.into_iter().zip(tasks).zip(&going).collect();
    let (all_over, ended) = bounded::<Infallible>(0);
    Ok(thread::scope(|scope| {
        scope.spawn(|| cancel_when_heard(ui, shipment, &going, interrupt, &second, &ended));
        let ends = fanout::each(lines, CALLS, |((bound, task), going): ((Bound, Task), &Going<'_>)| {
            let end = deploy_to(shipment, bound, task, &second);
            going.over.store(true, Ordering::Relaxed);
            end
        });
        drop(all_over);
        ends
    }))
}

fn deploy_to(shipment: &Shipment<'_>, mut bound: Bound, task: Task, second: &Interrupt) -> (usize, End) {
    bound.remote.hear_only(second);
    let began = Instant::now();
    let result = match deploy(shipment, &mut bound, &task) {
        // What we lost is the news of it.
        Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::Timeout) => {
            task.set("lost the connection, asking how it ended");
            settle(shipment, &mut bound, began, &task, second).unwrap_or(Err(e))
        }
        other => other,
    };
    let stand = stand(&result, second);
    let kept = bound.preflight.live.clone();
    match &result {
        Ok(deployed) => {
            task.done(&went_live(deployed));
            // Nothing is left to do if it fails: the lock ends with the connection.
            let _ = bound.remote.order(Request::Unlock { app: shipment.app() }, &mut |_| {});
        }
        Err(e) if stand == Stand::Kept && e.kind() == Kind::Interrupted => {
            let serves = kept.as_ref().map_or_else(String::new, |kept| format!(", {kept} keeps serving"));
            task.fail(&format!("{e}{serves}"));
        }
        Err(e) => end_badly(task, e),
    }
    let server = bound.place.name().into();
    (bound.at, End { server, previous: kept, sent: bound.sent, stand, result })
}

/// A server that fell silent, or that we left, may have gone on.
pub(crate) fn stand(result: &Result<Deployed>, left: &Interrupt) -> Stand {
    match result {
        Ok(_) => Stand::Live,
        Err(e) => match e.kind() {
            Kind::Unreachable | Kind::Timeout => Stand::Unknown,
            Kind::Interrupted if left.is_heard() => Stand::Unknown,
            _ => Stand::Kept,
        },
    }
}

fn deploy(shipment: &Shipment<'_>, bound: &mut Bound, task: &Task) -> Result<Deployed> {
    let order = Deploy {
        manifest: bound.wish.manifest.clone(),
        routes: shipment.env.routes.clone(),
        instances: bound.wish.instances,
        secrets: shipment.secrets_for(&bound.preflight),
    };
    let reply = bound.remote.call(Request::Deploy(order), &mut |notice| show(task, &notice))?;
    match reply {
        Reply::Deployed(deployed) => Ok(deployed),
        other => Err(bound.remote.misunderstood(&other)),
    }
}

fn show(task: &Task, notice: &Notice) {
    if let Some(words) = step_words(notice) {
        task.set(&words);
    }
}

fn cancel_when_heard(
    ui: &Ui,
    shipment: &Shipment<'_>,
    going: &[Going<'_>],
    interrupt: &Interrupt,
    second: &Interrupt,
    ended: &Receiver<Infallible>,
) {
    let [signal, sibling] = interrupt.bells();
    select! {
        recv(signal) -> _ => {}
        recv(sibling) -> _ => {}
        recv(ended) -> _ => return,
    }
    ui.note("cancelling: the servers go back to what they served (Ctrl-C again leaves them to it)");
    fanout::each(going.iter().collect(), CALLS, |going: &Going<'_>| {
        while !going.over.load(Ordering::Relaxed) && !second.is_heard() {
            match cancel(shipment, going.place, second) {
                Ok(()) => return,
                // Then it is too late, and the deploy itself says so.
                Err(e) if e.kind() == Kind::Conflict => return,
                // Our request may have come before the deploy's own.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => ui.detail(&format!("{}: not cancelled yet: {e}", going.place.name())),
            }
            if pause(second).is_err() {
                return;
            }
        }
    });
}

fn cancel(shipment: &Shipment<'_>, place: &Place, second: &Interrupt) -> Result<()> {
    let mut remote = Remote::connect(place, second)?;
    remote.order(Request::Cancel { app: shipment.app(), version: shipment.version.clone() }, &mut |_| {})
}

/// Asks a server again that was lost while it deployed, until it is done; `None` when it cannot be found out.
fn settle(
    shipment: &Shipment<'_>,
    bound: &mut Bound,
    began: Instant,
    task: &Task,
    second: &Interrupt,
) -> Option<Result<Deployed>> {
    let until = Instant::now() + SETTLING;
    while Instant::now() < until {
        if let Ok(remote) = Remote::connect(&bound.place, second) {
            bound.remote = remote;
            if let Some(ended) = how_it_ended(shipment, bound, began, task) {
                return Some(ended);
            }
        }
        if pause(second).is_err() {
            return Some(Err(interrupted()));
        }
    }
    None
}

/// `None` while it is not over.
fn how_it_ended(shipment: &Shipment<'_>, bound: &mut Bound, began: Instant, task: &Task) -> Option<Result<Deployed>> {
    let attached = attach(&mut bound.remote, shipment.app(), task);
    // An earlier one is not the one that we began.
    let is_ours = |joined: &Joined| {
        joined.version.as_ref() == Some(&shipment.version)
            && Duration::from_millis(joined.since_ms) <= began.elapsed() + SLACK
    };
    match attached {
        (Some(joined), result) if is_ours(&joined) => match result {
            Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::Timeout) => return None,
            ended => return Some(ended),
        },
        // It was started anew, or is older than this question: then what is live tells.
        (_, _) => {}
    }
    let app = status(&mut bound.remote, &shipment.app()).ok()??;
    if app.state == AppState::Deploying {
        return None;
    }
    let name = bound.place.name();
    Some(match app.version {
        Some(version) if version == shipment.version => {
            let previous = bound.preflight.live.clone();
            Ok(Deployed { version, previous, instances: app.wanted, swaps: Vec::new() })
        }
        _ => Err(did_not_come_up(name, app.last_failure.filter(|f| f.release == shipment.version))),
    })
}

/// Joins the app's rollout until its end, or hears how the last one went.
pub(crate) fn attach(remote: &mut Remote, app: AppId, task: &Task) -> (Option<Joined>, Result<Deployed>) {
    let mut about = None;
    let reply = remote.call(Request::Attach { app }, &mut |notice| match notice {
        Notice::Joined(joined) => {
            let version = joined.version.as_ref().map_or("a release", Version::as_str);
            task.set(&format!("{version} of {}", joined.who));
            about = Some(joined);
        }
        notice => show(task, &notice),
    });
    let result = match reply {
        Ok(Reply::Deployed(deployed)) => Ok(deployed),
        Ok(other) => Err(remote.misunderstood(&other)),
        Err(e) => Err(e),
    };
    (about, result)
}

/// How the app stands there; `None` when there is no such app.
pub(crate) fn status(remote: &mut Remote, app: &AppId) -> Result<Option<AppStatus>> {
    match remote.call(Request::Status { app: Some(app.clone()) }, &mut |_| {}) {
        Ok(Reply::Status(apps)) => Ok(apps.into_iter().find(|status| status.app == *app)),
        Ok(other) => Err(remote.misunderstood(&other)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn pause(interrupt: &Interrupt) -> Result<(), Error> {
    let [signal, sibling] = interrupt.bells();
    select! {
        recv(signal) -> _ => Err(interrupted()),
        recv(sibling) -> _ => Err(interrupted()),
        default(PAUSE) => Ok(()),
    }
}
