//! Instance: what an app's actor knows of one of its places, and the process in it.
//!
//! A place has a number and a role and is filled again when its process ends; a process has an endpoint that is never
//! used twice. Starting one is here, what becomes of it is decided by `lifecycle`, and the process itself is owned by
//! the `watch` thread.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use zeroize::Zeroizing;

use super::cell::{Cell, Room};
use super::check::{Bad, Check, Verdict};
use super::environment::environment;
use super::evidence;
use super::held::Held;
use super::leftover::{self, Left, Note};
use super::lifecycle::Lifecycle;
use super::logs::{Source, Voice};
use super::port::Reserved;
use super::restart::Restarts;
use super::spec::Spec;
use super::watch::{Exit, Watched};
use super::{Threads, group, secrets};
use crate::crypto;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Manifest;
use crate::proxy::table::{Endpoint, EndpointId};
use crate::server::cgroup::Leaf;
use crate::server::crash;
use crate::server::layout::Layout;
use crate::server::owner;
use crate::server::runtime::Launch;
use crate::sys::{self, Spawn, Spawned};

/// What the watch and probe threads tell about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It listens on this port.
    Ready(u16),
    Probed(Verdict),
    /// The gist of what it answered, of a bad answer; nothing since it was good.
    Answered(String),
    /// It has ended by itself, and others whom it had started had not.
    LeftOthers,
    Exited(Exit),
}

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Of the live release: in balancing when healthy, started again when it ends.
    Serving,
    /// Of a rollout, not in balancing yet.
    Fresh,
    /// Of a rollout, in balancing, to be taken back if the rollout fails.
    Joined,
    /// Of the live release, out of balancing until the rollout is committed or restored.
    Benched,
    /// Of the live release, idle: out of balancing, and to end once nothing is in flight.
    Dozing,
    /// On its way out.
    Leaving,
}

pub(crate) struct Instance {
    pub number: u32,
    pub role: Role,
    pub spec: Arc<Spec>,
    pub restarts: Restarts,
    pub run: Run,
}

/// What the proxy sends to a process, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// It never was in balancing.
    Never,
    In,
    /// Taken out by this post; requests may be in flight.
    Out {
        since: u64,
    },
    /// Nothing is in flight since it was last taken out.
    Drained,
}

impl Traffic {
    /// The proxy called it drained, after all it said about tables up to `acked`. What it says of a post is heard
    /// after the ack of that post, so a word without it is about an earlier time out, and in balancing since.
    pub fn drained(self, acked: u64) -> Traffic {
        match self {
            Traffic::Out { since } if since <= acked => Traffic::Drained,
            other => other,
        }
    }
}

pub(crate) enum Run {
    /// No process; the next one is started then.
    Waiting(Instant),
    Up(Box<Process>),
}

pub(crate) struct Process {
    pub endpoint: EndpointId,
    pub pid: u32,
    pub life: Lifecycle,
    pub voice: Voice,
    pub started: Instant,
    /// When it said so, or first answered.
    pub ready: Option<Instant>,
    pub addr: Option<SocketAddr>,
    pub last_bad: Option<Bad>,
    pub answered: String,
    pub traffic: Traffic,
    /// Where its group listened when it was given up, which is looked at before it is told to end.
    pub listened: Option<Vec<SocketAddr>>,
    /// It ended by itself, and others whom it had started were still there.
    pub left_others: bool,
    /// What the machine had counted before.
    pub machine_oom_kills: Option<u64>,
    /// The group that it is in with all that it starts, where there are groups.
    pub leaf: Option<Leaf>,
    /// An earlier server started it.
    pub inherited: bool,
    /// The inodes of what it prints to.
    pipes: [u64; 2],
    token: Zeroizing<String>,
    /// Given back when the process is gone.
    _port: Option<Reserved>,
}

/// Where and for whom a process is started.
pub(crate) struct Place<'a> {
    pub layout: &'a Layout,
    pub threads: &'a Threads,
    pub cell: &'a Cell,
    /// The groups of the app's other instances.
    pub others: &'a [&'a Leaf],
    pub log: &'a Arc<Source>,
    pub to: &'a Sender<(EndpointId, Event)>,
    pub number: u32,
    /// How long it may take to be healthy.
    pub startup: Duration,
}

impl Instance {
    /// A place without a process, which gets one then.
    pub fn waiting(number: u32, role: Role, spec: Arc<Spec>, until: Instant) -> Instance {
        Instance { number, role, spec, restarts: Restarts::default(), run: Run::Waiting(until) }
    }

    pub fn process(&self) -> Option<&Process> {
        match &self.run {
            Run::Up(process) => Some(process),
            Run::Waiting(_) => None,
        }
    }

    pub fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.run {
            Run::Up(process) => Some(process),
            Run::Waiting(_) => None,
        }
    }

    pub fn is(&self, endpoint: EndpointId) -> bool {
        self.process().is_some_and(|p| p.endpoint == endpoint)
    }

    /// Where requests may be sent, if they may.
    pub fn in_balancing(&self) -> Option<Endpoint> {
        let process = self.process()?;
        let wanted = matches!(self.role, Role::Serving | Role::Joined) && process.life.is_healthy();
        Some(Endpoint { id: process.endpoint, addr: process.addr.filter(|_| wanted)? })
    }
}

impl Process {
    /// # Errors
    /// When it cannot be spawned: no such program, no port, a secret too large.
    pub fn start(spec: &Spec, launch: &Launch, place: &Place<'_>) -> Result<Process> {
        let Place { layout, threads, cell, others, log, to, number, startup } = *place;
        let manifest = spec.manifest();
        let reserved = if manifest.has_sdk() { None } else { Some(threads.ports.reserve()?) };
        let port = reserved.as_ref().map_or(0, |r| r.port);
        let token = Zeroizing::new(crypto::hex(&crypto::random::<16>()?));
        let bootstrap = secrets::payload(&token, spec.secrets.as_deref())?;
        let room = cell.enter(layout, manifest, number, others)?;
        let birth = leftover::birth(layout, &manifest.app, number)?;
        crash::point("start: not spawned yet");

        let started = Instant::now();
        let spawned = spawn(spec, launch, port, &bootstrap, place, &room, &birth);
        if spawned.is_err() {
            cell.leave(room.leaf.clone());
        }
        let spawned = spawned?;

        crash::point("start: spawned and not noted");

        let held = Held::from(spawned);
        let endpoint = next_endpoint();
        let voice = Voice::new(&threads.logs, log, manifest.version.as_str(), number);
        let process = Process {
            endpoint,
            pid: held.number(),
            life: Lifecycle::new(startup, started),
            voice: voice.clone(),
            started,
            ready: None,
            addr: reserved.as_ref().map(|r| loopback(r.port)),
            last_bad: None,
            answered: String::new(),
            traffic: Traffic::Never,
            listened: None,
            left_others: false,
            machine_oom_kills: evidence::machine_oom_kills(),
            leaf: room.leaf.clone(),
            inherited: false,
            pipes: [&held.stdout, &held.stderr].map(leftover::inode),
            token,
            _port: reserved,
        };
        process.note(layout, spec, number);
        crash::point("start: noted and not watched");
        threads.watch.add(Watched { id: endpoint, held, leaf: room.leaf, was_ready: false, voice, to: to.clone() });
        if process.addr.is_some() {
            // Without a ready signal the first good answer is it.
            process.probe(spec, threads, to);
        }
        Ok(process)
    }

    /// One that an earlier server started, which must answer within `place.startup`. It was spawned when the kernel says.
    pub fn inherited(spec: &Spec, left: Left, pipes: [Option<File>; 2], place: &Place<'_>) -> Process {
        let Place { layout, threads, cell, others: _, log, to, number, startup } = *place;
        let (manifest, now) = (spec.manifest(), Instant::now());
        let (token, port) = left.note.as_ref().map_or_else(Default::default, |note| (note.token.clone(), note.port));
        let ticks = group::ticks_now().map_or(0, |ticks| ticks.saturating_sub(left.started));
        let started = now.checked_sub(Duration::from_secs_f64(ticks as f64 / group::TICKS as f64)).unwrap_or(now);
        let leaf = cell.leaf_of(&manifest.app, left.id());
        let held = left.hold(pipes, &layout.app_data(&manifest.app));
        let endpoint = next_endpoint();
        let voice = Voice::new(&threads.logs, log, manifest.version.as_str(), number);
        let process = Process {
            endpoint,
            pid: held.number(),
            life: Lifecycle::inherited(now + startup),
            voice: voice.clone(),
            started,
            ready: Some(started),
            addr: (port != 0).then(|| loopback(port)),
            last_bad: None,
            answered: String::new(),
            traffic: Traffic::Never,
            listened: None,
            left_others: false,
            machine_oom_kills: evidence::machine_oom_kills(),
            leaf: leaf.clone(),
            inherited: true,
            pipes: [&held.stdout, &held.stderr].map(leftover::inode),
            token,
            _port: if port == 0 || manifest.has_sdk() { None } else { threads.ports.hold(port) },
        };
        threads.watch.add(Watched { id: endpoint, held, leaf, was_ready: true, voice, to: to.clone() });
        process.probe(spec, threads, to);
        process
    }

    /// It said where it listens.
    pub fn is_ready(&mut self, port: u16, now: Instant) {
        self.ready.get_or_insert(now);
        self.addr = Some(loopback(port));
    }

    /// Whether nothing speaks against it that `port` is its own.
    pub fn may_listen(&self, port: u16) -> bool {
        group::listens(self.pid, port) != Some(false)
    }

    /// The same of the port that it was told.
    pub fn holds_its_port(&self) -> bool {
        self.addr.is_none_or(|addr| self.may_listen(addr.port()))
    }

    /// It is about to be told to end: what it listens on is seen now or never.
    pub fn look(&mut self) {
        self.listened = group::listening(self.pid);
    }

    pub fn probe(&self, spec: &Spec, threads: &Threads, to: &Sender<(EndpointId, Event)>) {
        if let Some(addr) = self.addr {
            threads.probe.add(self.endpoint, addr, check(spec, &self.token), to.clone());
        }
    }

    /// What is asked for its health, as the start of a sentence.
    pub fn subject(&self, spec: &Spec) -> String {
        check(spec, &self.token).subject().to_owned()
    }

    pub fn note(&self, layout: &Layout, spec: &Spec, number: u32) {
        let (started, boot) = leftover::identity(self.pid);
        let note = Note {
            pid: self.pid,
            started,
            boot,
            token: self.token.clone(),
            port: self.addr.map_or(0, |a| a.port()),
            release: Some(spec.manifest().version.clone()),
            deployed_ms: spec.record.deployed_ms,
            secrets: spec.secrets.as_ref().map(|s| s.hash.clone()),
            pipes: self.pipes,
        };
        let app = &spec.manifest().app;
        if let Err(e) = note.write(layout, app, number) {
            // It runs all the same; only a crash of ours would lose sight of it.
            log::warn!("app={app} no note about a running instance error={e}");
        }
    }

    /// It has ended.
    pub fn forget(&self, threads: &Threads, cell: &Cell, layout: &Layout, manifest: &Manifest, number: u32) {
        threads.probe.forget(self.endpoint);
        cell.leave(self.leaf.clone());
        leftover::forget(layout, &manifest.app, number);
    }
}

/// Never used twice.
fn next_endpoint() -> EndpointId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    EndpointId(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn spawn(
    spec: &Spec,
    launch: &Launch,
    port: u16,
    bootstrap: &[u8],
    place: &Place<'_>,
    room: &Room,
    birth: &File,
) -> Result<Spawned> {
    let Place { layout, cell, .. } = *place;
    let manifest = spec.manifest();
    let doing = || format!("start `{}`", command_line(&launch.argv));
    let group = room.leaf.as_ref().map(Leaf::open).transpose().context(doing)?;
    let home = cell.home(layout, &manifest.app);
    let spawned = sys::spawn(&Spawn {
        argv: &launch.argv,
        dir: layout.app_dir(manifest),
        env: environment(manifest, &launch.path, port, layout, home, |name| env::var_os(name)),
        bootstrap: Some(bootstrap),
        user: cell.user(),
        cgroup: group.as_ref().map(AsFd::as_fd),
        limits: room.limits,
        outlives_us: Some(birth.as_fd()),
    });
    let denied = spawned.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    let program = launch.argv.first().map(Path::new);
    let bars = program.zip(cell.user()).filter(|_| denied).and_then(|(program, user)| owner::who_bars(program, user));
    match bars {
        None => spawned.context(doing),
        Some(step) => {
            let message = format!("{}: {step} keeps the app's user out", doing());
            Err(Error::new(Kind::Refused, message).hint("install the runtime where every user can run it"))
        }
    }
}

fn check(spec: &Spec, token: &Zeroizing<String>) -> Check {
    let manifest = spec.manifest();
    match &manifest.health {
        Some(path) => Check::Http { path: path.clone(), host: spec.host(), token: None, redirects: true },
        None if manifest.has_sdk() => Check::Http {
            path: "/status".into(),
            host: "tako.internal".into(),
            token: Some(token.clone()),
            redirects: false,
        },
        None => Check::Tcp,
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn command_line(argv: &[OsString]) -> String {
    argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
