//! The actor of one App: a thread that owns its desired state, its instances and its rollout.
//!
//! ```text
//!   Handle ─verbs→ ┌───────┐ ─posts→ Board ─tables→ proxy
//!   watch ─exits→  │ actor │ ←acked, drained, failed──┘
//!   probe ─verdicts→└───────┘ ─lines→ logs
//! ```
//! Reading order: the pure parts (`lifecycle`, `restart`, `rollout`, `scale`), what is run (`spec`, `environment`,
//! `instance`, `secrets`, `port`), inside of which walls (`cell`), what a killed server left (`held`, `leftover`,
//! `adopt`), the three threads that all apps share (`watch` with `lines`, `probe` with `check`, `logs` with `writer`, and what is read
//! of them: `entry`, `sieve`, `history`, `reading`), and the actor: its loop, its start (`boot`), what it tells
//! (`status` with `usage`), its rollouts, planned in `plan`, performed in `roll` and told in `course`, `renew` for secrets
//! alone, its sleep (`demand`), and its failures (`failing`), whose reasons `cause` finds in what `evidence` reads. A `task`
//! is a command that runs beside.
//!
//! **Invariant**: nothing outside the actor's thread changes what it owns; a [`Handle`] sends and waits.

mod lifecycle;
mod restart;
mod rollout;
mod scale;
mod spec;
mod environment;
mod instance;
pub(crate) mod secrets;
mod port;
mod group;
mod held;
mod usage;
mod stray;
mod leftover;
mod adopt;
mod poller;
mod watch;
mod lines;
mod check;
mod probe;
mod probing;
mod logs;
mod writer;
mod entry;
mod sieve;
mod history;
mod reading;
mod requests;
mod cell;
mod cause;
mod evidence;
mod stage;
pub(crate) mod course;
mod actor;
mod boot;
mod assets;
mod posting;
mod ending;
mod demand;
mod failing;
mod status;
mod plan;
mod roll;
mod commit;
mod task;
mod renew;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::board::Board;
use super::cgroup::Tree;
use super::layout::Layout;
use super::state::Desired;
use super::users::Users;
use crate::crypto::Key;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Deploy, Deployed, Joined, LogLine, LogQuery, Notice, Secrets};
use crate::proto::name::AppId;
use crate::proto::status::{AppStatus, Release};
use crate::proto::version::Version;
use actor::Actor;
use cell::Cell;
use course::{Latest, Teller, Who};
use logs::{Logs, Source};
use port::Ports;
use probe::Probe;
use stage::Stage;
use usage::Meter;
use watch::Watch;

// What the management socket carries.
pub(crate) use task::{Of, Running, Task};

/// What every app needs of the daemon.
#[derive(Clone)]
pub(crate) struct World {
    pub layout: Arc<Layout>,
    pub board: Board,
    pub users: Arc<Users>,
    pub tree: Tree,
    /// Seals secrets at rest.
    pub host_key: Key,
    threads: Threads,
}

/// The threads that all apps share; they end with the last of these.
#[derive(Clone)]
pub(crate) struct Threads {
    watch: Watch,
    probe: Probe,
    logs: Logs,
    ports: Ports,
    meter: Meter,
    /// Commands that run beside instances, of all apps.
    tasks: Arc<AtomicUsize>,
}

/// A cloneable way to an app's actor.
#[derive(Clone)]
pub(crate) struct Handle {
    id: AppId,
    to: Sender<Message>,
    logs: Logs,
    log: Arc<Source>,
    latest: Latest,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What a long verb says while it works; `Done` is the last. A receiver that is dropped changes nothing.
pub(crate) enum Event {
    Notice(Notice),
    Done(Result<Deployed>),
}

/// A part of an app's output, for one who reads it.
#[derive(Debug)]
pub(crate) struct Told {
    /// So many lines before these came faster than the reader took them.
    pub missed: u64,
    /// May be none, now and then, to see whether somebody still listens.
    pub lines: Vec<LogLine>,
    /// With these all that was kept is told; the next ones are told as they are said.
    pub up_to_date: bool,
}

/// What a [`Handle`] asks of the actor.
enum Message {
    Deploy { order: Box<Deploy>, by: String, to: Teller },
    Rollback { version: Option<Version>, by: String, to: Teller },
    Scale { instances: u32, to: Teller },
    Cancel { version: Version, by: String, to: Sender<Result<()>> },
    Delete { to: Sender<Event> },
    Renew { secrets: Box<Secrets>, by: String, to: Teller },
    Stop,
    Status(Sender<AppStatus>),
    Releases(Sender<Vec<Release>>),
    SecretsHash(Sender<Option<String>>),
    IsEmpty(Sender<bool>),
    Task { of: Of, to: Sender<Result<Task>> },
}

/// Starts the shared threads (`watch`, `probe`, `logs`) once per daemon.
pub(crate) fn world(layout: Arc<Layout>, board: Board, users: Arc<Users>, tree: Tree, host_key: Key) -> Result<World> {
    Ok(World { layout, board, users, tree, host_key, threads: Threads::start()? })
}

/// Starts the actor; with a desired state it starts the instances too (boot). `None` is an app about to be deployed
/// for the first time.
pub(crate) fn start(id: AppId, desired: Option<Desired>, world: &World) -> Result<Handle> {
    let World { layout, board, users, tree, host_key, threads } = world.clone();
    let cell = Cell::of(&id, &users, &tree)?;
    run(actor_on(board, id, desired, layout, host_key, threads, cell))
}

fn run<S: Stage>((actor, handle): (Actor<S>, Handle)) -> Result<Handle> {
    let thread = std::thread::Builder::new()
        .name(format!("app-{}", handle.id))
        .spawn(move || actor.run())
        .context(|| format!("start the thread of {}", handle.id))?;
    *handle.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(handle)
}

/// An actor that does not run yet, and the handle to it.
fn actor_on<S: Stage>(
    stage: S,
    id: AppId,
    desired: Option<Desired>,
    layout: Arc<Layout>,
    host_key: Key,
    threads: Threads,
    cell: Cell,
) -> (Actor<S>, Handle) {
    // Bounded by the callers: each waits for its answer.
    let (to, messages) = unbounded();
    let log = Source::new(layout.logs(&id));
    let logs = threads.logs.clone();
    let latest = Latest::default();
    let handle = Handle { id: id.clone(), to, logs, log: log.clone(), latest: latest.clone(), thread: Arc::default() };
    (Actor::new(stage, id, desired, layout, host_key, threads, cell, log, latest, messages), handle)
}

/// Ends what an earlier server left running of an app that has no state, and blocks until it is gone.
pub(crate) fn end_leftovers(id: &AppId, world: &World) {
    leftover::end_all(&world.layout, id);
    world.tree.clear(id, &[]);
}

impl Threads {
    fn start() -> Result<Threads> {
        let meter = Meter::default();
        let (watch, probe, logs) = (Watch::start()?, Probe::start(meter.clone())?, Logs::start()?);
        Ok(Threads { watch, probe, logs, ports: Ports::default(), meter, tasks: Arc::default() })
    }
}

impl Handle {
    pub fn deploy(&self, order: Deploy, by: Who) -> Receiver<Event> {
        self.begin(by, |by, to| Message::Deploy { order: Box::new(order), by, to })
    }

    pub fn rollback(&self, to: Option<Version>, by: Who) -> Receiver<Event> {
        let version = to;
        self.begin(by, |by, to| Message::Rollback { version, by, to })
    }

    pub fn scale(&self, instances: u32, by: Who) -> Receiver<Event> {
        self.begin(by, |_, to| Message::Scale { instances, to })
    }

    /// The rollout that is under way, or else the last one, from its start; `None` before the first.
    pub fn attach(&self) -> Option<(Joined, Receiver<Event>)> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        latest.map(|course| course.join())
    }

    /// # Errors
    /// Conflict when it is live already, NotFound when nothing by that version is being deployed.
    pub fn cancel(&self, version: Version, by: String) -> Result<()> {
        self.ask(|to| Message::Cancel { version, by, to })?
    }

    /// Other secrets for the live release.
    pub fn renew(&self, secrets: Secrets, by: Who) -> Receiver<Event> {
        self.begin(by, |by, to| Message::Renew { secrets: Box::new(secrets), by, to })
    }

    /// Stops every instance and takes the app off the board; the actor ends. Files are the caller's to remove.
    pub fn delete(&self) -> Receiver<Event> {
        let (to, events) = unbounded();
        if self.to.send(Message::Delete { to: to.clone() }).is_err() {
            let _ = to.send(Event::Done(Err(self.ended())));
        }
        events
    }

    /// Stops the instances for the end of the daemon: TERM, grace, KILL. Desired state is untouched.
    pub fn stop(&self) {
        let _ = self.to.send(Message::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    pub fn status(&self) -> Result<AppStatus> {
        self.ask(Message::Status)
    }

    pub fn releases(&self) -> Result<Vec<Release>> {
        self.ask(Message::Releases)
    }

    /// Hash of the secrets held, for preflight.
    pub fn secrets_hash(&self) -> Option<String> {
        self.ask(Message::SecretsHash).ok().flatten()
    }

    /// Whether nothing was ever deployed here.
    pub fn is_empty(&self) -> bool {
        self.ask(Message::IsEmpty).unwrap_or(true)
    }

    /// Room for one command, to be started by the thread that waits for it.
    pub fn task(&self, of: Of) -> Result<Task> {
        self.ask(|to| Message::Task { of, to })?
    }

    /// The app's output or its requests, until its end or until the receiver is dropped; an error is the last of it.
    pub fn logs(&self, query: &LogQuery) -> Result<Receiver<Result<Told>>> {
        self.logs.read(&self.log, query)
    }

    fn begin(&self, by: Who, message: impl FnOnce(String, Teller) -> Message) -> Receiver<Event> {
        let name = by.name.clone();
        let (to, events) = Teller::begin(by);
        match self.to.send(message(name, to)) {
            Ok(()) => events,
            // The teller went with the message, so that nothing would ever be heard.
            Err(_) => {
                let (to, events) = bounded(1);
                let _ = to.send(Event::Done(Err(self.ended())));
                events
            }
        }
    }

    fn ask<T>(&self, message: impl FnOnce(Sender<T>) -> Message) -> Result<T> {
        let (to, answer) = bounded(1);
        self.to.send(message(to)).map_err(|_| self.ended())?;
        answer.recv().map_err(|_| self.ended())
    }

    fn ended(&self) -> Error {
        Error::new(Kind::NotFound, format!("{} is not there any more", self.id))
    }
}
