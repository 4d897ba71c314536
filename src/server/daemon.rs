//! Daemon: the running apps by id, and what the verbs need besides: the layout, the Board, the deploy locks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::app::Handle;
use super::board::Board;
use super::crash;
use super::layout::Layout;
use super::lock::Locks;
use super::release;
use super::runtime::Runtimes;
use super::state::{self, Desired};
use super::users::Users;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::name::AppId;
use crate::proto::target::Target;

pub(crate) struct Daemon {
    pub layout: Arc<Layout>,
    pub board: Board,
    pub users: Arc<Users>,
    pub runtimes: Arc<Runtimes>,
    pub locks: Arc<Locks>,
    pub about: About,
    start: Start,
    clear: Clear,
    apps: Mutex<BTreeMap<AppId, Handle>>,
    stopping: AtomicBool,
    began: Instant,
}

/// What does not change while the daemon runs.
pub(crate) struct About {
    pub target: Target,
    pub http: Vec<String>,
    pub https: Vec<String>,
}

/// How the actor of an app is started.
pub(crate) type Start = Box<dyn Fn(AppId, Option<Desired>) -> Result<Handle> + Send + Sync>;

/// How what an earlier server left running of an app is ended, when its actor is not.
pub(crate) type Clear = Box<dyn Fn(&AppId) + Send + Sync>;

impl Daemon {
    #[allow(clippy::too_many_arguments)] // All of them are fields; a struct for them would be this one again.
    pub fn new(
        layout: Arc<Layout>,
        board: Board,
        users: Arc<Users>,
        runtimes: Arc<Runtimes>,
        about: About,
        start: Start,
        clear: Clear,
    ) -> Self {
        let locks = Locks::new(layout.clone());
        Daemon {
            layout,
            board,
            users,
            runtimes,
            locks,
            about,
            start,
            clear,
            apps: Mutex::default(),
            stopping: AtomicBool::new(false),
            began: Instant::now(),
        }
    }

    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Starts every app that has a state; of one that is damaged the files are left alone. Returns how many run.
    pub fn boot(&self) -> Result<usize> {
        self.finish_deletions();
        let mut strays = Vec::new();
        for id in state::apps(&self.layout)? {
            release::tidy(&self.layout, &id);
            // Nobody holds a lock now: a file that says so is of a daemon that was killed.
            let _ = fs::remove_file(self.layout.deploy_lock(&id));
            let started = match state::load(&self.layout, &id) {
                Ok(Some(desired)) => {
                    let releases: Vec<_> = desired.releases.iter().map(|r| &r.manifest.version).collect();
                    release::remove_strangers(&self.layout, &id, &releases);
                    (self.start)(id.clone(), Some(desired))
                }
                Ok(None) => {
                    self.unmake(&id);
                    release::remove_strangers(&self.layout, &id, &[]);
                    strays.push(id);
                    continue;
                }
                Err(e) => {
                    strays.push(id.clone());
                    Err(e)
                }
            };
            match started {
                Ok(handle) => drop(self.apps().insert(id, handle)),
                Err(e) => log::error!("app={id} is left alone: {e}"),
            }
        }
        // What runs of the others nobody can serve or stop. It may take its time to end, which holds no app up by now.
        strays.iter().for_each(&self.clear);
        Ok(self.apps().len())
    }

    /// # Errors
    /// NotFound when nothing by that name was ever deployed here.
    pub fn find(&self, id: &AppId) -> Result<Handle> {
        let handle = self.apps().get(id).cloned();
        handle.filter(|h| !h.is_empty()).ok_or_else(|| not_here(id))
    }

    /// The app's actor even when its first deploy has not succeeded yet.
    pub fn find_any(&self, id: &AppId) -> Option<Handle> {
        self.apps().get(id).cloned()
    }

    /// The app's actor; started when this is its first deploy.
    pub fn find_or_start(&self, id: &AppId) -> Result<Handle> {
        if let Some(handle) = self.find_any(id) {
            return Ok(handle);
        }
        // A state that could not be started at boot must not be written over.
        let desired = state::load(&self.layout, id)?;
        let handle = (self.start)(id.clone(), desired)?;
        Ok(self.apps().entry(id.clone()).or_insert(handle).clone())
    }

    pub fn all(&self) -> Vec<Handle> {
        self.apps().values().cloned().collect()
    }

    /// Whether there is anything of the app: an actor, or files.
    pub fn knows(&self, id: &AppId) -> bool {
        self.apps().contains_key(id) || self.layout.state(id).exists() || self.layout.releases(id).exists()
    }

    /// Forgets an app whose actor has ended, and removes all of its files.
    pub fn remove(&self, id: &AppId) -> Result<()> {
        self.apps().remove(id);
        let (app, gone) = (self.layout.app(id), self.layout.deleted(id));
        // Of an earlier deletion that could not be finished.
        disk::remove_tree(&gone)?;
        if !app.exists() {
            return Ok(());
        }
        crash::point("delete: the folder is to be renamed");
        // In one step: after a crash all of it is there, or nothing that anybody takes for an app.
        disk::rename(&app, &gone)?;
        crash::point("delete: the folder is renamed");
        disk::remove_tree(&gone)
    }

    fn finish_deletions(&self) {
        let entries = fs::read_dir(self.layout.apps()).into_iter().flatten().flatten();
        let is_one = |name: &str| name.starts_with('.') && name.ends_with(".deleted");
        for entry in entries.filter(|e| e.file_name().to_str().is_some_and(is_one)) {
            if let Err(e) = disk::remove_tree(&entry.path()) {
                log::warn!("a deleted app is not removed in full: {e}");
            }
        }
    }

    /// Of an app that has no state nothing is current; its first deploy was cut short.
    fn unmake(&self, id: &AppId) {
        if let Err(e) = remove_file(&self.layout.current(id)) {
            log::warn!("app={id} {e}");
        }
    }

    /// From now on nothing is changed any more, and the apps are stopped side by side.
    pub fn stop(&self) {
        std::thread::scope(|scope| {
            for handle in self.all() {
                scope.spawn(move || handle.stop());
            }
        });
    }

    pub fn refuse_changes(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// Busy when the daemon is on its way out.
    pub fn may_change(&self) -> Result<()> {
        match self.stopping.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::new(Kind::Busy, "tako-server is stopping").hint("try again in a moment")),
        }
    }

    /// Bytes that can still be written under the data directory.
    pub fn free_bytes(&self) -> Result<u64> {
        disk::free_bytes(self.layout.data())
    }

    fn apps(&self) -> MutexGuard<'_, BTreeMap<AppId, Handle>> {
        self.apps.lock().unwrap_or_else(|e| e.into_inner())
    }
}

pub(crate) fn not_here(id: &AppId) -> Error {
    Error::new(Kind::NotFound, format!("there is no app {id} on this server"))
        .hint("`tako status --all` lists those there are")
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {

    use crossbeam_channel::bounded;

    use super::*;
    use crate::proxy::table::Table;
    use crate::server::board::Publish;
    use crate::server::certs::Folder;

    struct Nowhere;

    impl Publish for Nowhere {
        fn publish(&self, _table: Table) -> u64 {
            0
        }

        fn metrics(&self) -> crate::proxy::counters::Metrics {
            crate::proxy::counters::Metrics::default()
        }

        fn stop(self: Box<Self>, _deadline: Instant) {}
    }

    /// A daemon that notes which apps it would start, and starts none.
    fn daemon(layout: &Arc<Layout>) -> (Daemon, Arc<Mutex<Vec<String>>>) {
        let (_, notices) = bounded(0);
        let board = Board::start(Box::new(Nowhere), notices, Folder::open(layout.clone()).unwrap()).unwrap();
        let about = About { target: Target::of_this_machine().unwrap(), http: vec![], https: vec![] };
        let started = Arc::new(Mutex::new(Vec::new()));
        let note = started.clone();
        let start = Box::new(move |id: AppId, desired: Option<Desired>| {
            note.lock().unwrap().push(format!("{id} {}", desired.map_or("anew".into(), |d| d.live.to_string())));
            Err(Error::new(Kind::Refused, "not in this test"))
        });
        let runtimes = Arc::new(Runtimes::new(layout.clone(), about.target, None));
        let users = Arc::new(Users::new(layout.clone(), true));
        let clear = Box::new(|_: &AppId| {});
        (Daemon::new(layout.clone(), board, users, runtimes, about, start, clear), started)
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn boots_what_has_a_state_tidies_up_and_leaves_a_damaged_app_alone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(dir.path().into()));
        let id = |s| AppId::parse(s).unwrap();
        let manifest = r#"{"app":"good","version":"v1","runtime":"binary","main":"run"}"#;
        let record = format!(r#"{{"manifest":{manifest},"routes":[],"deployed_ms":1,"by":"ana"}}"#);
        let state = format!(r#"{{"format":1,"app":"good","instances":1,"live":"v1","releases":[{record}]}}"#);
        write(&layout.state(&id("good")), &state);
        write(&layout.deploy_lock(&id("good")), "{}");
        write(&layout.releases(&id("good")).join(".v2.0.staging/x"), "half");
        write(&layout.state(&id("damaged")), "{");
        write(&layout.releases(&id("good")).join("v1/run"), "x");
        write(&layout.releases(&id("good")).join("v0/run"), "of a deploy that a crash ended");
        write(&layout.releases(&id("damaged")).join("v1/run"), "x");
        write(&layout.releases(&id("never-live")).join("v1/x"), "x");
        write(&layout.apps().join("Not An App/state.json"), &state);

        let (daemon, started) = daemon(&layout);
        daemon.boot().unwrap();
        assert_eq!(*started.lock().unwrap(), ["good v1"]);
        assert!(!layout.deploy_lock(&id("good")).exists());
        assert!(!layout.releases(&id("good")).join(".v2.0.staging").exists());
        assert!(layout.releases(&id("good")).join("v1").exists() && !layout.releases(&id("good")).join("v0").exists());
        assert!(!layout.releases(&id("never-live")).join("v1").exists());
        assert_eq!(fs::read(layout.state(&id("damaged"))).unwrap(), b"{");
        assert!(layout.releases(&id("damaged")).join("v1").exists());
        // Nor is it started anew over what is there.
        assert_eq!(daemon.find_or_start(&id("damaged")).err().unwrap().kind(), Kind::Refused);
        assert_eq!(*started.lock().unwrap(), ["good v1"]);
    }

    #[test]
    fn removing_an_app_leaves_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(dir.path().into()));
        let id = AppId::parse("shop").unwrap();
        write(&layout.secrets(&id, "1"), "sealed");
        write(&layout.releases(&id).join("v1/x"), "x");
        let (daemon, _) = daemon(&layout);
        assert!(daemon.knows(&id));
        daemon.remove(&id).unwrap();
        daemon.remove(&id).unwrap();
        assert!(!daemon.knows(&id) && !layout.app(&id).exists());
    }

    #[test]
    fn says_no_to_changes_once_it_is_stopping() {
        let dir = tempfile::tempdir().unwrap();
        let (daemon, _) = daemon(&Arc::new(Layout::new(dir.path().into())));
        daemon.may_change().unwrap();
        daemon.refuse_changes();
        assert_eq!(daemon.may_change().unwrap_err().kind(), Kind::Busy);
    }
}
