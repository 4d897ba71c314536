//! Ship: one version of an app to all its servers, as a transaction over many machines as far as that is possible.
//!
//! ```text
//! build ───────────────┐
//! connect, preflight ──┴─ room? ─ lock ─ upload, unpack, prepare ─ release command ─┬─ deploy, each on its own ─ unlock
//!                             all servers, or nothing is changed ───────────────────┘
//! ```
//!
//! `bind` connects and asks, `lock` keeps others out, `prepare` brings the release, `there` asks who had to wait whether it
//! is still there, `live` puts it live and hears how
//! that ends, also after Ctrl-C or when the connection was lost; `tell` has the words.
//!
//! **Invariant**: until every server has the release ready to start, an error leaves all of them as they were; after
//! that each server commits or rolls back alone, and the result says which did what. A server that serves all of it
//! already is not touched.

pub(crate) mod bind;
mod lock;
mod prepare;
mod release_command;
mod there;
pub(crate) mod live;
pub(crate) mod tell;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::build::{self, Built, Order, Said, fit};
use super::interrupt::{Interrupt, interrupted};
use super::project::{Env, Project};
use super::remote::Place;
use super::ui::{Task, Ui};
use super::upload::Sent;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deployed, Preflight, Secrets};
use crate::proto::manifest::{Limits, Manifest};
use crate::proto::name::{AppId, EnvName, ServerName};
use crate::proto::version::Version;
use bind::{Bound, bind, check_room};
use tell::{all, end_badly, rejected, telling};

/// What is shipped, and where to.
pub(crate) struct Shipment<'a> {
    pub project: &'a Project,
    pub env_name: &'a EnvName,
    pub env: &'a Env,
    pub order: &'a Order,
    /// Whatever the cache has.
    pub build_anew: bool,
    /// Also where all of it is live already.
    pub force: bool,
    /// How long somebody else's deploy is waited for.
    pub wait: Duration,
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
    pub stand: Stand,
    pub result: Result<Deployed>,
}

/// What is known of a server afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    Live,
    /// It was live before, and nothing was done.
    Untouched,
    /// What served before serves on.
    Kept,
    /// It was lost, or left to itself.
    Unknown,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub build: Duration,
    /// Until the last server was connected and asked; beside the build.
    pub connect: Duration,
    pub upload: Duration,
    pub deploy: Duration,
}

impl Shipment<'_> {
    pub fn app(&self) -> AppId {
        AppId::new(self.project.name.clone(), self.env_name.clone())
    }

    pub fn on(&self, place: &Place) -> (u32, Limits) {
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
    pub fn secrets_for(&self, preflight: &Preflight) -> Option<Secrets> {
        (!self.secrets.are(preflight.secrets_hash.as_deref())).then(|| self.secrets.clone())
    }

    /// Whether there is nothing to do on a server that says this. Who wants it built anew, or by force, wants it done.
    pub fn is_live(&self, preflight: &Preflight) -> bool {
        let wants_more = self.force || self.build_anew;
        !wants_more && preflight.serves_this && self.secrets_for(preflight).is_none()
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
    let phase = ui.phase("Build and connect");
    let (build_task, connect_task) = (ui.task("Build"), ui.task("Connect"));
    let needless = AtomicBool::new(false);
    let (built, bound) = thread::scope(|scope| {
        let build = scope.spawn(|| {
            let built = build_step(ui, shipment, build_task, &working, &needless);
            or_give_up(built.is_err());
            built.map(|built| (built, start.elapsed()))
        });
        let bound = bind(ui, shipment, connect_task, &working, &or_give_up);
        if bound.as_ref().is_ok_and(|all| all.iter().all(|b| shipment.is_live(&b.preflight))) {
            // What is built here is there already.
            needless.store(true, Ordering::Relaxed);
            or_give_up(true);
        }
        let bound = bound.map(|bound| (bound, start.elapsed()));
        (build.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the build thread ended by itself"))), bound)
    });
    drop(phase);
    let ((built, build), (bound, connect)) = match (built, bound) {
        (Ok(built), Ok(bound)) => (built, bound),
        // Nothing is to be brought anywhere: what became of the build is no matter.
        (Err(_), Ok((bound, connect))) if needless.load(Ordering::Relaxed) => ((Vec::new(), connect), (bound, connect)),
        (built, bound) => {
            return Err(telling(built.err().into_iter().chain(bound.err().map(rejected))));
        }
    };
    if interrupt.is_heard() {
        return Err(interrupted());
    }
    let (live, mut bound): (Vec<Bound>, Vec<Bound>) = bound.into_iter().partition(|b| shipment.is_live(&b.preflight));
    let mut ends: Vec<(usize, End)> = live.into_iter().map(|b| leave_alone(ui, b)).collect();
    let mut times = Times { build, connect, ..Times::default() };
    if !bound.is_empty() {
        let artifacts =
            bound.iter().map(|b| fit::pick(shipment.order, &built, b.place.name(), b.remote.hello().target));
        let artifacts: Vec<&Built> = all(artifacts.collect())?;
        check_room(&bound, &artifacts.iter().map(|built| &built.packed).collect::<Vec<_>>()).map_err(rejected)?;
        let uploading = Instant::now();
        let phase = ui.phase("Upload");
        let became_live = lock::all_servers(ui, shipment, &mut bound, &working)?;
        ends.extend(became_live.into_iter().map(|b| leave_alone(ui, b)));
        prepare::all_servers(ui, shipment, &built, &mut bound, &or_give_up).map_err(rejected)?;
        there::still(&mut bound)?;
        release_command::run(ui, shipment, &mut bound).map_err(rejected)?;
        there::still(&mut bound)?;
        drop(phase);
        times.upload = uploading.elapsed();
        interrupt.check()?;

        let deploying = Instant::now();
        let _phase = ui.phase("Deploy");
        ends.extend(live::all_servers(ui, shipment, bound, interrupt)?);
        times.deploy = deploying.elapsed();
    }
    ends.sort_by_key(|(at, _)| *at);
    Ok(Shipped { built, ends: ends.into_iter().map(|(_, end)| end).collect(), times })
}

/// The end of a server that has nothing to do.
fn leave_alone(ui: &Ui, bound: Bound) -> (usize, End) {
    let Bound { at, place, wish, .. } = bound;
    ui.task(place.name()).done("live already, nothing to do");
    let version = wish.manifest.version;
    let deployed = Deployed { version: version.clone(), previous: None, instances: wish.instances, swaps: Vec::new() };
    let (server, sent) = (place.name().into(), Sent::nothing(0));
    (at, End { server, previous: Some(version), sent, stand: Stand::Untouched, result: Ok(deployed) })
}

fn build_step(
    ui: &Ui,
    shipment: &Shipment<'_>,
    task: Task,
    interrupt: &Interrupt,
    needless: &AtomicBool,
) -> Result<Vec<Built>> {
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
        Err(_) if needless.load(Ordering::Relaxed) => task.done("not needed"),
        Err(e) => end_badly(task, e),
    }
    built
}
