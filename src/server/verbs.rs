//! Verbs: one short function per Request. They check that the caller may, call the one who does it, and decide nothing.

pub(crate) mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::app::course::Who;
use super::app::{Event, Told};
use super::crash;
use super::daemon::{Daemon, not_here};
use super::lock::{Held, Purpose};
use super::release::Preparing;
use super::{incoming, release, state, vet};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{
    Artifact, Deploy, Info, Joined, LogQuery, Notice, Piece, Preflight, Reply, Request, Secrets, Wish,
};
use crate::proto::manifest::Manifest;
use crate::proto::name::AppId;
use crate::proto::route::Route;
use crate::proto::status::AppState;
use crate::proto::version::Version;

/// One client changes a handful of apps at a time; more locks than this are a mistake.
const MAX_LOCKS: usize = 64;
/// Notices that wait for a slow client; what is over is dropped, because none of them is needed.
const NOTICES: usize = 64;

/// One client: who it is, and what it holds until it goes away.
pub(crate) struct Session {
    pub who: String,
    locks: BTreeMap<AppId, Arc<Held>>,
    /// Tells the work that was started for this client that it need not go on.
    gone: Arc<AtomicBool>,
    /// It has claimed what is there of an upload, and not asked for its unpacking.
    uploading: bool,
}

/// What is lost to others while a client is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Nothing,
    Something,
    /// The same, and what it says now comes behind the bytes of an upload.
    Upload,
}

/// How a request goes on.
pub(crate) enum Outcome {
    Reply(Reply),
    /// An actor is at it, and goes on without us.
    Events(Receiver<Event>),
    /// The same, of what somebody else began.
    Joined(Joined, Receiver<Event>),
    /// A thread of our own is at it.
    Work(Receiver<Said>),
    /// The app's output; endless when it is followed.
    Lines {
        heard: Receiver<Result<Told>>,
        endless: bool,
    },
    /// To be started and carried by the connection.
    Command(Box<running::Command>),
    /// It was said too late to be of use to anybody.
    Nothing,
}

pub(crate) enum Said {
    Notice(Notice),
    Done(Result<Reply>),
}

pub(crate) fn serve(daemon: &Arc<Daemon>, session: &mut Session, request: Request) -> Result<Outcome> {
    match request {
        Request::Info => info(daemon),
        Request::Preflight { app, version, routes, wish } => {
            preflight(daemon, &app, &version, &routes, wish.as_deref())
        }
        Request::Lock { app, version } => lock(daemon, session, app, version.as_ref()),
        Request::Unlock { app } => unlock(session, &app),
        Request::Incoming { file } => arrived(daemon, &file),
        Request::Unpack { app, version, artifact } => unpack(daemon, session, app, version, artifact),
        Request::Prepare { manifest, anew } => prepare(daemon, session, manifest, anew),
        Request::Deploy(order) => deploy(daemon, session, order),
        Request::Status { app } => status(daemon, app.as_ref()),
        Request::Logs(query) => logs(daemon, &query),
        Request::Releases { app } => Ok(Outcome::Reply(Reply::Releases(daemon.find(&app)?.releases()?))),
        Request::Rollback { app, version } => rollback(daemon, session, &app, version),
        Request::Scale { app, instances } => scale(daemon, session, &app, instances),
        Request::Delete { app } => delete(daemon, session, app),
        Request::Run(order) => running::run(daemon, session, order),
        Request::RunRelease(order) => running::release(daemon, session, order),
        // Of a command that ended meanwhile.
        Request::Input(_) => Ok(Outcome::Nothing),
        // It was heard, which is all.
        Request::Beat => Ok(Outcome::Nothing),
        Request::Discard { app, version } => running::discard(daemon, session, &app, version),
        Request::SecretsHash { app } => secrets_hash(daemon, &app),
        Request::Secrets { app, secrets: new } => secrets(daemon, session, &app, new),
        Request::Claim { app, file, of } => claim(daemon, session, &app, file, of),
        Request::Put(piece) => put(daemon, session, &piece),
        Request::Attach { app } => attach(daemon, &app),
        Request::Cancel { app, version } => cancel(daemon, session, &app, version),
    }
}

fn info(daemon: &Daemon) -> Result<Outcome> {
    Ok(Outcome::Reply(Reply::Info(Info {
        server: env!("CARGO_PKG_VERSION").into(),
        target: daemon.about.target,
        pid: std::process::id(),
        http: daemon.about.http.clone(),
        https: daemon.about.https.clone(),
        data_dir: daemon.layout.data().display().to_string(),
        free_bytes: daemon.free_bytes()?,
        up_ms: Some(daemon.uptime().as_millis().try_into().unwrap_or(u64::MAX)),
        cert_problems: daemon.board.cert_problems(),
    })))
}

fn preflight(
    daemon: &Daemon,
    app: &AppId,
    version: &Version,
    routes: &[Route],
    wish: Option<&Wish>,
) -> Result<Outcome> {
    let overlaps = daemon.board.check(app, routes)?;
    let desired = state::load(&daemon.layout, app)?;
    let complete = release::is_complete(&daemon.layout, app, version);
    let is_live =
        |wish: &Wish| desired.as_ref().is_some_and(|d| d.is_live(&wish.manifest, routes, wish.instances)) && complete;
    Ok(Outcome::Reply(Reply::Preflight(Preflight {
        complete,
        serves_this: wish.is_some_and(is_live) && is_well(daemon, app),
        live: desired.map(|d| d.live),
        secrets_hash: daemon.find_any(app).and_then(|h| h.secrets_hash()),
        free_bytes: daemon.free_bytes()?,
        overlaps,
        bases: release::bases::kept(&daemon.layout, app),
    })))
}

fn is_well(daemon: &Daemon, app: &AppId) -> bool {
    let status = daemon.find_any(app).and_then(|handle| handle.status().ok());
    status.is_some_and(|status| matches!(status.state, AppState::Live | AppState::Asleep))
}

fn lock(daemon: &Daemon, session: &mut Session, app: AppId, version: Option<&Version>) -> Result<Outcome> {
    daemon.may_change()?;
    if session.locks.contains_key(&app) {
        return Ok(Outcome::Reply(Reply::Done));
    }
    if session.locks.len() >= MAX_LOCKS {
        return Err(Error::new(Kind::Refused, format!("one client can lock {MAX_LOCKS} apps at most")));
    }
    let held = daemon.locks.take(&app, &session.who, Purpose::Deploy, version)?;
    session.locks.insert(app, Arc::new(held));
    Ok(Outcome::Reply(Reply::Done))
}

fn unlock(session: &mut Session, app: &AppId) -> Result<Outcome> {
    session.locks.remove(app);
    Ok(Outcome::Reply(Reply::Done))
}

fn arrived(daemon: &Daemon, file: &str) -> Result<Outcome> {
    Ok(Outcome::Reply(Reply::Incoming { bytes: incoming::size(&daemon.layout, file)?, sha256: None }))
}

fn claim(daemon: &Arc<Daemon>, session: &mut Session, app: &AppId, file: String, of: u64) -> Result<Outcome> {
    daemon.may_change()?;
    let held = session.held(app)?;
    session.uploading = true;
    let (daemon, gone) = (daemon.clone(), session.gone.clone());
    work(held, move |_| {
        let incoming::Claimed { bytes, sha256 } = incoming::claim(&daemon.layout, &file, of, &gone)?;
        Ok(Reply::Incoming { bytes, sha256 })
    })
}

/// On the connection's own thread: what it does not take in time waits at the client.
fn put(daemon: &Daemon, session: &Session, piece: &Piece) -> Result<Outcome> {
    daemon.may_change()?;
    session.held(&piece.app)?;
    Ok(Outcome::Reply(Reply::Incoming { bytes: incoming::put(&daemon.layout, piece)?, sha256: None }))
}

fn unpack(
    daemon: &Arc<Daemon>,
    session: &mut Session,
    app: AppId,
    version: Version,
    artifact: Artifact,
) -> Result<Outcome> {
    daemon.may_change()?;
    let held = session.held(&app)?;
    let (layout, user) = (daemon.layout.clone(), daemon.users.of(&app)?);
    held.at("unpacking");
    session.uploading = false;
    work(held, move |_| release::unpack(&layout, &app, &version, &artifact, user).map(|()| Reply::Done))
}

fn prepare(daemon: &Arc<Daemon>, session: &Session, manifest: Manifest, anew: bool) -> Result<Outcome> {
    daemon.may_change()?;
    vet::manifest(&manifest)?;
    let held = session.held(&manifest.app)?;
    let (daemon, gone, lock) = (daemon.clone(), session.gone.clone(), held.clone());
    held.at("preparing");
    work(held, move |said| {
        let mut say = |what: String| {
            lock.at(&what);
            drop(said.try_send(Said::Notice(Notice::Doing { what })));
        };
        let Daemon { layout, runtimes, users, .. } = &*daemon;
        let user = users.of(&manifest.app)?;
        Preparing { layout, runtimes, manifest: &manifest, user, anew, gone: &gone }.run(&mut say)?;
        // From here on it may wait for the other servers.
        lock.at("prepared");
        Ok(Reply::Done)
    })
}

fn deploy(daemon: &Daemon, session: &Session, order: Deploy) -> Result<Outcome> {
    daemon.may_change()?;
    vet::deploy(&order)?;
    let app = &order.manifest.app;
    let held = session.held(app)?;
    if !release::is_complete(&daemon.layout, app, &order.manifest.version) {
        let message = format!("{} of {app} is not on this server", order.manifest.version);
        return Err(Error::new(Kind::Refused, message).hint("upload and unpack it first"));
    }
    let handle = daemon.find_or_start(app)?;
    Ok(Outcome::Events(handle.deploy(order, session.holding(held))))
}

fn status(daemon: &Daemon, app: Option<&AppId>) -> Result<Outcome> {
    let apps = match app {
        Some(app) => vec![daemon.find_any(app).ok_or_else(|| not_here(app))?.status()?],
        None => daemon
            .all()
            .iter()
            .map(|h| Ok((h.status()?, h.is_empty())))
            .filter(|s| s.as_ref().map_or(true, |(s, empty)| !empty || s.state == AppState::Deploying))
            .map(|s| s.map(|(status, _)| status))
            .collect::<Result<_>>()?,
    };
    Ok(Outcome::Reply(Reply::Status(apps)))
}

/// Also of an app whose first deploy failed: its output says why.
fn logs(daemon: &Daemon, query: &LogQuery) -> Result<Outcome> {
    vet::logs(query)?;
    let handle = daemon.find_any(&query.app).ok_or_else(|| not_here(&query.app))?;
    Ok(Outcome::Lines { heard: handle.logs(query)?, endless: query.follow })
}

fn rollback(daemon: &Daemon, session: &Session, app: &AppId, version: Option<Version>) -> Result<Outcome> {
    daemon.may_change()?;
    let handle = daemon.find(app)?;
    let held = session.lock_for(daemon, app, Purpose::Rollback, version.as_ref())?;
    Ok(Outcome::Events(handle.rollback(version, session.holding(held))))
}

fn scale(daemon: &Daemon, session: &Session, app: &AppId, instances: u32) -> Result<Outcome> {
    daemon.may_change()?;
    vet::instances(instances)?;
    let handle = daemon.find(app)?;
    let held = session.lock_for(daemon, app, Purpose::Scale, None)?;
    Ok(Outcome::Events(handle.scale(instances, session.holding(held))))
}

fn secrets_hash(daemon: &Daemon, app: &AppId) -> Result<Outcome> {
    Ok(Outcome::Reply(Reply::SecretsHash { hash: daemon.find(app)?.secrets_hash() }))
}

fn secrets(daemon: &Daemon, session: &Session, app: &AppId, secrets: Secrets) -> Result<Outcome> {
    daemon.may_change()?;
    vet::secrets(app, &secrets)?;
    let handle = daemon.find(app)?;
    let held = session.lock_for(daemon, app, Purpose::Secrets, None)?;
    Ok(Outcome::Events(handle.renew(secrets, session.holding(held))))
}

/// Runs to its end whatever becomes of the client: half an app must not come back at the next boot.
fn delete(daemon: &Arc<Daemon>, session: &Session, app: AppId) -> Result<Outcome> {
    daemon.may_change()?;
    if !daemon.knows(&app) {
        return Err(not_here(&app));
    }
    let held = session.lock_for(daemon, &app, Purpose::Delete, None)?;
    let daemon = daemon.clone();
    log::info!("app={app} delete by={}", session.who);
    work(held, move |said| delete_all(&daemon, &app, said).map(|()| Reply::Done))
}

fn delete_all(daemon: &Daemon, app: &AppId, said: &Sender<Said>) -> Result<()> {
    let routes: Vec<Route> = match state::load(&daemon.layout, app) {
        Ok(Some(desired)) => desired.releases.into_iter().flat_map(|r| r.routes).collect(),
        // Deleting is the way out of a state that cannot be read.
        Ok(None) | Err(_) => Vec::new(),
    };
    if let Some(handle) = daemon.find_any(app) {
        for event in handle.delete() {
            match event {
                Event::Notice(notice) => drop(said.try_send(Said::Notice(notice))),
                Event::Done(done) => drop(done?),
            }
        }
    }
    daemon.board.remove(app);
    daemon.remove(app)?;
    crash::point("delete: files removed");
    daemon.board.forget_certs(&routes);
    log::info!("app={app} deleted");
    Ok(())
}

fn attach(daemon: &Daemon, app: &AppId) -> Result<Outcome> {
    let handle = daemon.find_any(app).ok_or_else(|| not_here(app))?;
    let (joined, events) = handle.attach().ok_or_else(|| {
        Error::new(Kind::NotFound, format!("nothing of {app} was deployed since tako-server started"))
            .hint("`tako status` shows what is live")
    })?;
    Ok(Outcome::Joined(joined, events))
}

/// Needs no lock: whoever may deploy may call it off, and it is asked for on another connection than that of the deploy,
/// whose calls are served in order.
fn cancel(daemon: &Daemon, session: &Session, app: &AppId, version: Version) -> Result<Outcome> {
    let handle = daemon.find_any(app).ok_or_else(|| not_here(app))?;
    handle.cancel(version, session.who.clone())?;
    Ok(Outcome::Reply(Reply::Done))
}

/// Does `job` on a thread of its own. The lock stays with the job: two of them must never be at one release.
fn work(held: Arc<Held>, job: impl FnOnce(&Sender<Said>) -> Result<Reply> + Send + 'static) -> Result<Outcome> {
    let (said, heard) = bounded(NOTICES);
    let name = format!("work-{}", held.app);
    let run = move || {
        let done = job(&said);
        // Before the client hears of the end: it may unlock and lock again at once.
        drop(held);
        crash::point("work: done and not answered");
        // A client that is gone does not mind.
        let _ = said.send(Said::Done(done));
    };
    thread::Builder::new().name(name.clone()).spawn(run).context(|| format!("start the thread {name}"))?;
    Ok(Outcome::Work(heard))
}

impl Session {
    pub fn new(who: String) -> Self {
        Session { who, locks: BTreeMap::new(), gone: Arc::default(), uploading: false }
    }

    /// What an actor is told of this client: it keeps the lock for as long as it is at it, whatever becomes of us.
    fn holding(&self, held: Arc<Held>) -> Who {
        Who { name: self.who.clone(), hold: Some(Box::new(move |step| held.at(step))) }
    }

    pub fn holds(&self) -> Holds {
        match (self.locks.is_empty(), self.uploading) {
            (true, _) => Holds::Nothing,
            (false, false) => Holds::Something,
            (false, true) => Holds::Upload,
        }
    }

    /// The client is gone: what it held is free, and what was done for it alone ends.
    pub fn let_go(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        self.locks.clear();
    }

    fn held(&self, app: &AppId) -> Result<Arc<Held>> {
        self.locks.get(app).cloned().ok_or_else(|| {
            Error::new(Kind::Refused, format!("{app} is not locked by this connection")).hint("take the lock first")
        })
    }

    /// The lock for the duration of one verb, or that which this client has anyway.
    fn lock_for(&self, daemon: &Daemon, app: &AppId, purpose: Purpose, version: Option<&Version>) -> Result<Arc<Held>> {
        match self.locks.get(app) {
            Some(held) => Ok(held.clone()),
            None => daemon.locks.take(app, &self.who, purpose, version).map(Arc::new),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.let_go();
    }
}
