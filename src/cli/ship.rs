//! Ship: one version of an app to all its servers, as a transaction over many machines as far as that is possible.
//!
//! ```text
//! build ───────────────┐
//! connect, preflight ──┴─ room? ─ lock ─ upload, unpack, prepare ─┬─ deploy, each server on its own ─ unlock
//!                             all servers, or nothing is changed ─┘
//! ```
//!
//! **Invariant**: until every server has the release ready to start, an error leaves all of them as they were; after
//! that each server commits or rolls back alone, and the result says which did what.

pub(crate) mod tell;

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use super::build::{self, Built, Order, Said, fit};
use super::fanout::{self, CALLS, CONNECTS};
use super::interrupt::Interrupt;
use super::project::{Env, Project};
use super::remote::{Place, Remote};
use super::ui::{Task, Ui};
use super::upload::{Sent, Uploads};
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deploy, Deployed, Notice, Preflight, Reply, Request, Secrets};
use crate::proto::manifest::{Limits, Manifest};
use crate::proto::name::{AppId, EnvName, ServerName};
use crate::proto::status::AppState;
use crate::proto::target::Target;
use crate::proto::version::Version;
use tell::{all, all_sent, at, end_badly, sent_to, step_words, telling, went_live};

/// Left free beside what a release needs, for logs and the apps' own data.
const SPARE: u64 = 64 << 20;
/// How long we ask a server that was lost in the middle of a deploy how it ended.
const SETTLING: Duration = Duration::from_secs(60);

/// What is shipped, and where to.
pub(crate) struct Shipment<'a> {
    pub project: &'a Project,
    pub env_name: &'a EnvName,
    pub env: &'a Env,
    pub order: &'a Order,
    /// Whatever the cache has.
    pub build_anew: bool,
    pub version: Version,
    pub secrets: Secrets,
    pub places: &'a [Place],
}

/// What came of it.
pub(crate) struct Shipped {
    pub built: Vec<Built>,
    /// In the order of the places.
    pub ends: Vec<End>,
    pub times: Times,
}

/// How it ended on one server.
pub(crate) struct End {
    pub server: String,
    /// What served before.
    pub previous: Option<Version>,
    pub sent: Sent,
    pub result: Result<Deployed>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub build: Duration,
    /// Until the last server was connected and asked; beside the build.
    pub connect: Duration,
    pub upload: Duration,
    pub deploy: Duration,
}

/// A server that is connected and has nothing against the deploy.
struct Bound {
    place: Place,
    remote: Remote,
    preflight: Preflight,
    /// For the release; known once it is prepared.
    sent: Sent,
}

impl Shipment<'_> {
    pub fn app(&self) -> AppId {
        AppId::new(self.project.name.clone(), self.env_name.clone())
    }

    fn on(&self, place: &Place) -> (u32, Limits) {
        let (instances, limits) = match ServerName::parse(place.name()) {
            Ok(name) => self.env.on(&name),
            Err(_) => (self.env.instances, self.env.limits.clone()),
        };
        (instances, limits)
    }

    fn manifest(&self, place: &Place) -> Result<Manifest> {
        let (source, recipe) = (&self.order.source, &self.order.recipe);
        Ok(Manifest {
            app: self.app(),
            version: self.version.clone(),
            runtime: self.project.runtime,
            runtime_version: self.order.runtime_version.clone(),
            dir: source.app_dir()?,
            main: recipe.main.value.clone(),
            start: recipe.start.as_ref().map(|start| start.value.clone()),
            install: recipe.install.as_ref().map(|install| install.value.clone()),
            health: self.project.health.clone(),
            vars: self.env.vars.clone(),
            limits: self.on(place).1,
            commit_message: source.subject.clone(),
            git_dirty: source.dirty,
        })
    }

    /// They travel only when the server has others.
    fn secrets_for(&self, preflight: &Preflight) -> Option<Secrets> {
        (!self.secrets.are(preflight.secrets_hash.as_deref())).then(|| self.secrets.clone())
    }
}

/// # Errors
/// Whatever kept it from starting; then every server is as it was. What happened after that is in the ends.
pub(crate) fn ship(ui: &Ui, shipment: &Shipment<'_>, interrupt: &Interrupt) -> Result<Shipped> {
    let start = Instant::now();
    let (trigger, working) = interrupt.or_trigger();
    // Whoever fails first pulls it, so that nobody waits for work that is in vain.
    let trigger = Mutex::new(Some(trigger));
    let or_give_up = |failed: bool| {
        if failed {
            trigger.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    };
    let (build_task, connect_task) = (ui.task("Build"), ui.task("Connect"));
    let (built, bound) = thread::scope(|scope| {
        let build = scope.spawn(|| {
            let built = build_step(ui, shipment, build_task, &working);
            or_give_up(built.is_err());
            built.map(|built| (built, start.elapsed()))
        });
        let bound = connect_step(ui, shipment, connect_task, &working, &or_give_up);
        let bound = bound.map(|bound| (bound, start.elapsed()));
        (build.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the build thread ended by itself"))), bound)
    });
    let ((built, build), (mut bound, connect)) = match (built, bound) {
        (Ok(built), Ok(bound)) => (built, bound),
        (built, bound) => return Err(telling(built.err().into_iter().chain(bound.err()))),
    };
    let fitting = bound.iter().map(|b| fit::pick(shipment.order, &built, b.place.name(), b.remote.hello().target));
    let fitting = all(fitting.collect())?;
    check_room(&bound, &fitting)?;

    let uploading = Instant::now();
    prepare_step(ui, shipment, &fitting, &mut bound, &or_give_up)?;
    let upload = uploading.elapsed();

    let deploying = Instant::now();
    let lines: Vec<(&mut Bound, Task)> =
        bound.iter_mut().map(|b| (ui.task(b.place.name()), b)).map(|(t, b)| (b, t)).collect();
    let ends = fanout::each(lines, CALLS, |(bound, task)| deploy_to(shipment, bound, task, &working));
    let times = Times { build, connect, upload, deploy: deploying.elapsed() };
    Ok(Shipped { built, ends, times })
}

fn build_step(ui: &Ui, shipment: &Shipment<'_>, task: Task, interrupt: &Interrupt) -> Result<Vec<Built>> {
    let say = |said: Said<'_>| match said {
        Said::Doing(what) => ui.detail(what),
        Said::Waiting(whom) => ui.note(whom),
        Said::Warning(words) => ui.warn(words),
        Said::Running(command) => {
            task.set(command);
            ui.detail(&format!("$ {command}"));
        }
        Said::Output(line) => ui.detail(&format!("  {line}")),
    };
    let built = build::build(shipment.project, shipment.order, shipment.build_anew, interrupt, &say);
    match &built {
        Ok(built) => task.done(&tell::made(built)),
        Err(e) => end_badly(task, e),
    }
    built
}

fn connect_step(
    ui: &Ui,
    shipment: &Shipment<'_>,
    task: Task,
    interrupt: &Interrupt,
    or_give_up: &(impl Fn(bool) + Sync),
) -> Result<Vec<Bound>> {
    let results = fanout::each(shipment.places.iter().collect(), CONNECTS, |place: &Place| {
        let bound = connect(shipment, place, interrupt);
        or_give_up(bound.is_err());
        bound
    });
    let bound = match all(results) {
        Ok(bound) => bound,
        Err(e) => {
            end_badly(task, &e);
            return Err(e);
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

fn connect(shipment: &Shipment<'_>, place: &Place, interrupt: &Interrupt) -> Result<Bound> {
    let mut remote = Remote::connect(place, interrupt)?;
    if let Place::Ssh(server) = place {
        check_target(place.name(), server.target, remote.hello().target)?;
    }
    fit::check(shipment.order, place.name(), remote.hello().target)?;
    let request = Request::Preflight {
        app: shipment.app(),
        version: shipment.version.clone(),
        routes: shipment.env.routes.clone(),
    };
    match at(place.name(), remote.call(request, &mut |_| {}))? {
        Reply::Preflight(preflight) => Ok(Bound { place: place.clone(), remote, preflight, sent: Sent::nothing(0) }),
        other => Err(remote.misunderstood(&other)),
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

/// `built` are those for the servers, in their order.
fn check_room(bound: &[Bound], built: &[&Built]) -> Result<()> {
    let needed = |built: &Built| built.packed.bytes + built.packed.unpacked + SPARE;
    let mut all = bound.iter().zip(built.iter().map(|built| needed(built)));
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

/// Locks, then uploads, lays out and prepares the release everywhere. The locks end with the connections.
fn prepare_step(
    ui: &Ui,
    shipment: &Shipment<'_>,
    built: &[&Built],
    bound: &mut [Bound],
    or_give_up: &(impl Fn(bool) + Sync),
) -> Result<()> {
    let task = ui.task("Upload");
    let app = shipment.app();
    let uploads = Uploads::new(ui, app, &shipment.version, shipment.project.dir.join(".tako/upload"));
    let children: Vec<(&mut Bound, &Built, Task)> = bound
        .iter_mut()
        .zip(built)
        .map(|(b, &built)| (task.child(b.place.name()), b, built))
        .map(|(t, b, u)| (b, u, t))
        .collect();
    // All locks before the first byte: a deploy of somebody else ends this one early.
    let locked = fanout::each(children, CALLS, |(bound, built, line)| {
        let request = Request::Lock { app: shipment.app(), version: Some(shipment.version.clone()) };
        let locked = at(bound.place.name(), bound.remote.order(request, &mut |_| {}));
        or_give_up(locked.is_err());
        locked.map(|()| (bound, built, line))
    });
    let prepared = all(locked).and_then(|children| {
        all(fanout::each(children, CALLS, |(bound, built, line)| {
            let prepared = prepare(shipment, &uploads, built, bound, &line);
            let prepared = at(bound.place.name(), prepared);
            or_give_up(prepared.is_err());
            match &prepared {
                Ok(sent) => line.done(&sent_to(sent)),
                Err(e) => end_badly(line, e),
            }
            prepared
        }))
    });
    match &prepared {
        Ok(sent) => task.done(&all_sent(sent)),
        // Why is told once, at the end.
        Err(_) => task.fail("nothing was changed"),
    }
    prepared.map(drop)
}

fn prepare(
    shipment: &Shipment<'_>,
    uploads: &Uploads<'_>,
    built: &Built,
    bound: &mut Bound,
    line: &Task,
) -> Result<Sent> {
    let Bound { place, remote, preflight, .. } = bound;
    bound.sent = match preflight.complete {
        true => Sent::nothing(built.packed.bytes),
        false => uploads.bring(built, place, remote, &preflight.bases, line)?,
    };
    let manifest = shipment.manifest(&bound.place)?;
    bound.remote.order(Request::Prepare { manifest }, &mut |notice| {
        if let Notice::Doing { what } = notice {
            line.set(&what);
        }
    })?;
    Ok(bound.sent.clone())
}

fn deploy_to(shipment: &Shipment<'_>, bound: &mut Bound, task: Task, interrupt: &Interrupt) -> End {
    let result = deploy(shipment, bound, &task);
    let result = match result {
        // The server owns the deploy once it has it: what we lost is the news of it.
        Err(e) if matches!(e.kind(), Kind::Unreachable | Kind::Timeout) => {
            task.set("lost the connection, asking how it ended");
            settle(shipment, bound, interrupt).unwrap_or(Err(e))
        }
        other => other,
    };
    match &result {
        Ok(deployed) => {
            task.done(&went_live(deployed));
            // Nothing is left to do if it fails: the lock ends with the connection.
            let _ = bound.remote.order(Request::Unlock { app: shipment.app() }, &mut |_| {});
        }
        Err(e) => end_badly(task, e),
    }
    let (server, previous) = (bound.place.name().into(), bound.preflight.live.clone());
    End { server, previous, sent: bound.sent.clone(), result }
}

fn deploy(shipment: &Shipment<'_>, bound: &mut Bound, task: &Task) -> Result<Deployed> {
    let order = Deploy {
        manifest: shipment.manifest(&bound.place)?,
        routes: shipment.env.routes.clone(),
        instances: shipment.on(&bound.place).0,
        secrets: shipment.secrets_for(&bound.preflight),
    };
    let reply = bound.remote.call(Request::Deploy(order), &mut |notice| {
        if let Some(words) = step_words(&notice) {
            task.set(&words);
        }
    })?;
    match reply {
        Reply::Deployed(deployed) => Ok(deployed),
        other => Err(bound.remote.misunderstood(&other)),
    }
}

/// Asks a server again that was lost while it deployed, until it is done; `None` when it cannot be found out.
fn settle(shipment: &Shipment<'_>, bound: &mut Bound, interrupt: &Interrupt) -> Option<Result<Deployed>> {
    let until = Instant::now() + SETTLING;
    while Instant::now() < until && !interrupt.is_heard() {
        if let Ok(remote) = Remote::connect(&bound.place, interrupt) {
            bound.remote = remote;
            if let Some(ended) = how_it_ended(shipment, bound) {
                return Some(ended);
            }
        }
        let [signal, sibling] = interrupt.bells();
        select! {
            recv(signal) -> _ => return None,
            recv(sibling) -> _ => return None,
            default(Duration::from_secs(1)) => {}
        }
    }
    None
}

/// `None` while it is not over.
fn how_it_ended(shipment: &Shipment<'_>, bound: &mut Bound) -> Option<Result<Deployed>> {
    let reply = bound.remote.call(Request::Status { app: Some(shipment.app()) }, &mut |_| {}).ok()?;
    let Reply::Status(apps) = reply else { return None };
    let app = apps.into_iter().find(|app| app.app == shipment.app())?;
    if app.state == AppState::Deploying {
        return None;
    }
    let name = bound.place.name();
    Some(match app.version {
        Some(version) if version == shipment.version => {
            let previous = bound.preflight.live.clone();
            Ok(Deployed { version, previous, instances: app.wanted, swaps: Vec::new() })
        }
        _ => Err(tell::did_not_come_up(name, app.last_failure.filter(|f| f.release == shipment.version))),
    })
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
