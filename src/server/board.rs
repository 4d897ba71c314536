//! Board: what every app wants served, and the one place where tables are made from it.
//!
//! App actors post their routes and endpoints; the Board checks that no two apps own one pattern, builds the next
//! Table and publishes it under its lock (microseconds, no I/O), and passes the proxy's notices on to the apps. Keys
//! are fetched before the lock is taken, and made already at the claim, so that a post in the middle of a rollout
//! waits for no disk.
//!
//! **Invariant**: a pattern is posted or claimed by one app at most.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustls::sign::CertifiedKey;

use super::certs::{self, Folder};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::name::AppId;
use crate::proto::route::Route;
use crate::proxy::certs::Certs;
use crate::proxy::counters::Metrics;
use crate::proxy::files::root::Root;
use crate::proxy::table::{Endpoint, Standing, Table, Upstream};
use crate::proxy::{Notice, Proxy};

/// An app with more routes than this is a mistake, and a table that every request would pay for.
pub(crate) const MAX_ROUTES: usize = 1000;
/// How soon a certificate file that was replaced is noticed.
const CERT_CHECK: Duration = Duration::from_secs(60);

/// A cloneable way to the one Board.
#[derive(Clone)]
pub(crate) struct Board {
    inner: Arc<Inner>,
}

/// All that one app has in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Posting {
    pub routes: Vec<Route>,
    pub endpoints: Vec<Endpoint>,
    /// What a request meets when there are none.
    pub standing: Standing,
    /// Largest request body in bytes.
    pub body_limit: u64,
    /// Folders of files that are served without asking the app, in the order they are looked in.
    pub assets: Vec<Root>,
}

/// Routes kept for an app while its deploy is under way; given back when dropped.
pub(crate) struct Claim {
    inner: Arc<Inner>,
    number: u64,
}

/// Where tables go: the proxy, and a record in tests.
pub(crate) trait Publish: Send {
    fn publish(&self, table: Table) -> u64;
    fn metrics(&self) -> Metrics;
    fn stop(self: Box<Self>, deadline: Instant);
}

struct Inner {
    folder: Folder,
    state: Mutex<State>,
    subscribers: Mutex<BTreeMap<AppId, Sender<Notice>>>,
    /// Dropped to end the thread that looks after certificates.
    alive: Mutex<Option<Sender<()>>>,
}

struct State {
    /// Gone once the proxy is stopped; posts are kept and go nowhere then.
    proxy: Option<Box<dyn Publish>>,
    generation: u64,
    posted: BTreeMap<AppId, Posted>,
    claims: BTreeMap<u64, (AppId, Vec<Route>)>,
    next_claim: u64,
    certs: Arc<Certs>,
}

struct Posted {
    name: Arc<str>,
    posting: Posting,
    keys: Vec<(String, Arc<CertifiedKey>)>,
}

impl Publish for Proxy {
    fn publish(&self, table: Table) -> u64 {
        Proxy::publish(self, table)
    }

    fn metrics(&self) -> Metrics {
        Proxy::metrics(self)
    }

    fn stop(self: Box<Self>, deadline: Instant) {
        Proxy::stop(*self, deadline);
    }
}

impl Board {
    /// Publishes an empty table, so that what comes before the first app is answered, and starts the threads `board`
    /// and `certs`.
    pub fn start(proxy: Box<dyn Publish>, notices: Receiver<Notice>, folder: Folder) -> Result<Self> {
        let certs = Arc::new(Certs { by_name: HashMap::new(), default: folder.fallback().clone() });
        let mut state = State {
            proxy: Some(proxy),
            generation: 0,
            posted: BTreeMap::new(),
            claims: BTreeMap::new(),
            next_claim: 0,
            certs,
        };
        state.publish();
        let (alive, ended) = bounded(0);
        let inner =
            Inner { folder, state: Mutex::new(state), subscribers: Mutex::default(), alive: Mutex::new(Some(alive)) };
        let board = Board { inner: Arc::new(inner) };
        let (one, other) = (board.clone(), board.clone());
        spawn("board", move || one.pass_on(&notices))?;
        spawn("certs", move || other.look_after_certs(&ended))?;
        Ok(board)
    }

    /// Which routes of other apps are more specific than one of these (allowed), as `route (app)`.
    ///
    /// # Errors
    /// Conflict, naming the other app, when one owns or has claimed the same pattern.
    pub fn check(&self, app: &AppId, routes: &[Route]) -> Result<Vec<String>> {
        self.state().check(app, routes)
    }

    /// Keeps `routes` for `app` until the claim is dropped, besides those it has posted.
    ///
    /// # Errors
    /// As [`Board::check`].
    pub fn claim(&self, app: &AppId, routes: &[Route]) -> Result<Claim> {
        let number = {
            let mut state = self.state();
            state.check(app, routes)?;
            state.next_claim += 1;
            let number = state.next_claim;
            state.claims.insert(number, (app.clone(), routes.to_vec()));
            number
        };
        let claim = Claim { inner: self.inner.clone(), number };
        for name in names(routes) {
            self.inner.folder.refresh(&name, SystemTime::now());
        }
        Ok(claim)
    }

    /// Replaces the app's posting and publishes the new table in one step; returns its generation.
    pub fn post(&self, app: &AppId, posting: Posting) -> u64 {
        let keys = self.keys(&posting.routes);
        self.state().post(app, posting, keys)
    }

    /// Takes the app off the table. It still hears notices: those that tell when its endpoints are drained.
    pub fn remove(&self, app: &AppId) -> u64 {
        let mut state = self.state();
        if state.posted.remove(app).is_some() {
            state.collect_certs(self.inner.folder.fallback());
            state.publish();
        }
        state.generation
    }

    /// From now on `to` hears the notices of the proxy: acks of any table, drained and failed endpoints of any app, and
    /// what is said of this one by name.
    /// Replaces an earlier subscription of `app`; ends when the receiver is gone. Sending never blocks.
    pub fn subscribe(&self, app: &AppId, to: Sender<Notice>) {
        self.subscribers().insert(app.clone(), to);
    }

    /// Removes certificates that were made for `routes` and that no app needs any more.
    pub fn forget_certs(&self, routes: &[Route]) {
        let needed = self.names();
        for name in names(routes).difference(&needed) {
            self.inner.folder.remove(name);
        }
    }

    /// Looks at every certificate again and publishes if one has changed.
    pub fn refresh_certs(&self, now: SystemTime) {
        let names = self.names();
        let fresh: HashMap<&String, _> = names.iter().map(|n| (n, self.inner.folder.refresh(n, now))).collect();
        self.inner.folder.keep_only(&self.names());
        self.state().replace_keys(&fresh, self.inner.folder.fallback());
    }

    /// Names whose own certificate cannot be used, each with the reason.
    pub fn cert_problems(&self) -> Vec<String> {
        let problem = |name: String| Some(format!("{name}: {}", self.inner.folder.problem(&name)?));
        self.names().into_iter().filter_map(problem).collect()
    }

    /// The proxy's numbers; `None` once it is stopped.
    pub fn metrics(&self) -> Option<Metrics> {
        self.state().proxy.as_ref().map(|proxy| proxy.metrics())
    }

    /// Stops the proxy; from now on posts go nowhere.
    pub fn stop(&self, deadline: Instant) {
        self.inner.alive.lock().unwrap_or_else(|e| e.into_inner()).take();
        let proxy = self.state().proxy.take();
        if let Some(proxy) = proxy {
            proxy.stop(deadline);
        }
    }

    /// The names that routes of any app, posted or claimed, need a certificate for.
    fn names(&self) -> BTreeSet<String> {
        let state = self.state();
        let posted = state.posted.values().flat_map(|p| &p.posting.routes);
        posted.chain(state.claims.values().flat_map(|(_, routes)| routes)).map(certs::name_of).collect()
    }

    fn keys(&self, routes: &[Route]) -> Vec<(String, Arc<CertifiedKey>)> {
        names(routes).into_iter().map(|name| (self.inner.folder.key(&name), name)).map(|(k, n)| (n, k)).collect()
    }

    /// The thread `board`: ends with the proxy.
    fn pass_on(&self, notices: &Receiver<Notice>) {
        for notice in notices {
            let named = match &notice {
                Notice::Wake(name) | Notice::Activity(name) => AppId::parse(name).ok(),
                Notice::Acked(_) | Notice::Drained(_) | Notice::Failed(_) => None,
            };
            let is_for = |app: &AppId| named.as_ref().is_none_or(|name| name == app);
            self.subscribers().retain(|app, to| !is_for(app) || pass(&notice, app, to));
        }
    }

    /// The thread `certs`: ends with [`Board::stop`].
    fn look_after_certs(&self, ended: &Receiver<()>) {
        while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = ended.recv_timeout(CERT_CHECK) {
            self.refresh_certs(SystemTime::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn subscribers(&self) -> MutexGuard<'_, BTreeMap<AppId, Sender<Notice>>> {
        self.inner.subscribers.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner.state.lock().unwrap_or_else(|e| e.into_inner()).claims.remove(&self.number);
    }
}

impl State {
    fn check(&self, app: &AppId, routes: &[Route]) -> Result<Vec<String>> {
        if routes.len() > MAX_ROUTES {
            let message = format!("{app} has {} routes; there can be {MAX_ROUTES}", routes.len());
            return Err(Error::new(Kind::Refused, message));
        }
        let clashes: Vec<(&Route, &AppId)> =
            routes.iter().filter_map(|r| self.owner(app, r).map(|owner| (r, owner))).collect();
        if let Some((route, owner)) = clashes.first() {
            let more = clashes[1..].iter().map(|(r, owner)| format!("{r} belongs to {owner}")).collect();
            return Err(Error::new(Kind::Conflict, format!("{app} cannot have route {route}: it belongs to {owner}"))
                .hint(format!("choose another route, or take it out of the tako.toml of {owner} and deploy that first"))
                .with_detail(more));
        }
        let overlaps = self.others(app).filter(|(other, _)| routes.iter().any(|r| takes_from(other, r)));
        let shown: BTreeSet<String> = overlaps.map(|(route, owner)| format!("{route} ({owner})")).collect();
        Ok(shown.into_iter().collect())
    }

    fn owner<'a>(&'a self, app: &'a AppId, route: &Route) -> Option<&'a AppId> {
        self.others(app).find(|(other, _)| *other == route).map(|(_, owner)| owner)
    }

    /// Every route that an app other than `app` has posted or claimed.
    fn others<'a>(&'a self, app: &'a AppId) -> impl Iterator<Item = (&'a Route, &'a AppId)> {
        let posted = self.posted.iter().map(|(id, p)| (id, &p.posting.routes));
        let claimed = self.claims.values().map(|(id, routes)| (id, routes));
        posted.chain(claimed).filter(move |(id, _)| *id != app).flat_map(|(id, rs)| rs.iter().map(move |r| (r, id)))
    }

    fn post(&mut self, app: &AppId, mut posting: Posting, keys: Vec<(String, Arc<CertifiedKey>)>) -> u64 {
        // A deploy has claimed its routes; a clash can come only from state files that were changed by hand.
        let before = posting.routes.len();
        let ours: Vec<Route> = posting.routes.drain(..).filter(|r| self.owner(app, r).is_none()).collect();
        posting.routes = ours;
        if posting.routes.len() < before {
            log::error!("app={app} does not get {} routes that belong to others", before - posting.routes.len());
        }
        let name = Arc::from(app.to_string());
        let new = Posted { name, posting, keys };
        let same_keys = self.posted.get(app).is_some_and(|old| same(&old.keys, &new.keys));
        let fallback = self.certs.default.clone();
        self.posted.insert(app.clone(), new);
        if !same_keys {
            self.collect_certs(&fallback);
        }
        self.publish()
    }

    fn replace_keys(&mut self, fresh: &HashMap<&String, Arc<CertifiedKey>>, fallback: &Arc<CertifiedKey>) {
        let mut changed = false;
        for (name, key) in self.posted.values_mut().flat_map(|p| &mut p.keys) {
            if let Some(new) = fresh.get(name).filter(|new| !Arc::ptr_eq(new, key)) {
                *key = (*new).clone();
                changed = true;
            }
        }
        if changed {
            self.collect_certs(fallback);
            self.publish();
        }
    }

    fn collect_certs(&mut self, fallback: &Arc<CertifiedKey>) {
        let by_name = self.posted.values().flat_map(|p| p.keys.iter().cloned()).collect();
        self.certs = Arc::new(Certs { by_name, default: fallback.clone() });
    }

    fn publish(&mut self) -> u64 {
        let mut table =
            Table { entries: Vec::new(), upstreams: Vec::new(), certs: self.certs.clone(), challenges: Arc::default() };
        for posted in self.posted.values() {
            let at = table.upstreams.len();
            table.entries.extend(posted.posting.routes.iter().map(|r| (r.clone(), at)));
            table.upstreams.push(Upstream {
                name: posted.name.clone(),
                endpoints: posted.posting.endpoints.clone(),
                standing: posted.posting.standing,
                body_limit: posted.posting.body_limit,
                assets: posted.posting.assets.clone(),
            });
        }
        if let Some(proxy) = &self.proxy {
            self.generation = proxy.publish(table);
        }
        self.generation
    }
}

/// False when nobody listens any more.
fn pass(notice: &Notice, app: &AppId, to: &Sender<Notice>) -> bool {
    match to.try_send(notice.clone()) {
        Ok(()) => true,
        Err(TrySendError::Disconnected(_)) => false,
        Err(TrySendError::Full(_)) => {
            log::warn!("app={app} does not keep up with the proxy; lost {notice:?}");
            true
        }
    }
}

/// Whether some request that `route` matches goes to `other` instead, because `other` is more specific.
fn takes_from(other: &Route, route: &Route) -> bool {
    let below = |host: &str, suffix: &str| host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    let hosts_meet = match (route.is_wildcard(), other.is_wildcard()) {
        (true, false) => route.matches_host(other.host()),
        (same, also) if same == also => other.host() == route.host() || (same && below(other.host(), route.host())),
        _ => false,
    };
    let path = |r: &Route| if r.path_prefix().is_empty() { "/".to_owned() } else { r.path_prefix().to_owned() };
    let paths_meet = route.matches_path(&path(other)) || other.matches_path(&path(route));
    hosts_meet && paths_meet && other.precedence() < route.precedence()
}

fn names(routes: &[Route]) -> BTreeSet<String> {
    routes.iter().map(certs::name_of).collect()
}

fn same(a: &[(String, Arc<CertifiedKey>)], b: &[(String, Arc<CertifiedKey>)]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((n, k), (m, l))| n == m && Arc::ptr_eq(k, l))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.into()).spawn(run).context(|| format!("start the thread {name}"))?;
    Ok(())
}

#[cfg(test)]
mod tests;
