//! Deploy locks: one client at a time changes an app.
//!
//! A lock lives in memory and belongs to a live connection, so it can never be stale. A file `.deploy_lock` in the
//! app's folder tells people who holds it, from where, since when and how far they are, and whoever tidies up which
//! release is about to come; who has the lock is never decided by that file. It is replaced in one step, so it is whole
//! at any moment, and what a crash leaves of it goes at the next start.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::crash;
use super::layout::Layout;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::proto::name::AppId;
use crate::proto::version::Version;

/// A name, a version and a time.
const MAX_FILE: u64 = 16 << 10;

pub(crate) struct Locks {
    layout: Arc<Layout>,
    held: Mutex<BTreeMap<AppId, Holder>>,
}

/// What a lock is taken for, as `shop is being … by ana@laptop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Deploy,
    Rollback,
    Scale,
    Delete,
    Secrets,
}

/// The lock on one app; gives it back when dropped.
pub(crate) struct Held {
    locks: Arc<Locks>,
    pub app: AppId,
    /// Who writes the file has this.
    pen: Mutex<()>,
    /// The file lacks what is known.
    is_behind: AtomicBool,
}

struct Holder {
    who: String,
    purpose: Purpose,
    version: Option<Version>,
    since: Instant,
    since_told: jiff::Timestamp,
    /// How far it is.
    step: Option<String>,
}

/// What the file says.
#[derive(Serialize, Deserialize)]
struct Told {
    who: String,
    doing: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

/// Which releases somebody with the lock may be laying out.
pub(crate) enum Coming {
    None,
    One(Version),
    Any,
}

impl Coming {
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Coming::None => false,
            Coming::One(version) => version.as_str() == name,
            Coming::Any => true,
        }
    }
}

/// What the file of the app's lock tells of what is coming; a file that says nothing of use tells that anything may.
pub(crate) fn coming(layout: &Layout, app: &AppId) -> Coming {
    match disk::read_if_there(&layout.deploy_lock(app), MAX_FILE) {
        Ok(None) => Coming::None,
        Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
            Ok(Told { version: Some(version), .. }) => Coming::One(version),
            Ok(Told { doing, .. }) if doing != Purpose::Deploy.as_str() => Coming::None,
            Ok(Told { .. }) | Err(_) => Coming::Any,
        },
        Err(_) => Coming::Any,
    }
}

impl Locks {
    pub fn new(layout: Arc<Layout>) -> Arc<Self> {
        Arc::new(Locks { layout, held: Mutex::default() })
    }

    /// # Errors
    /// Busy, saying who has it, for how long, why, and how far they are.
    pub fn take(self: &Arc<Self>, app: &AppId, who: &str, purpose: Purpose, version: Option<&Version>) -> Result<Held> {
        {
            let mut held = self.held();
            if let Some(holder) = held.get(app) {
                return Err(holder.busy(app, Instant::now(), purpose));
            }
            let holder = Holder {
                who: who.into(),
                purpose,
                version: version.cloned(),
                since: Instant::now(),
                since_told: jiff::Timestamp::now(),
                step: purpose.first_step().map(Into::into),
            };
            held.insert(app.clone(), holder);
        }
        // From here on nobody else touches the file.
        let lock =
            Held { locks: self.clone(), app: app.clone(), pen: Mutex::default(), is_behind: AtomicBool::default() };
        crash::point("lock: taken and not told");
        lock.tell();
        crash::point("lock: told");
        Ok(lock)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<AppId, Holder>> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Held {
    /// What is being done now, for those who find it locked and for those who look at the file.
    pub fn at(&self, step: &str) {
        match self.locks.held().get_mut(&self.app) {
            Some(holder) if holder.step.as_deref() != Some(step) => holder.step = Some(step.into()),
            _ => return,
        }
        self.tell();
    }

    /// Brings the file up to what is known. One writes at a time and nobody waits: who finds another at it leaves it to
    /// that one, so that an older step never comes over a newer one.
    fn tell(&self) {
        self.is_behind.store(true, Ordering::SeqCst);
        while self.is_behind.load(Ordering::SeqCst) {
            let Ok(_pen) = self.pen.try_lock() else { return };
            self.is_behind.store(false, Ordering::SeqCst);
            let told = self.locks.held().get(&self.app).map(Holder::told);
            told.iter().for_each(|told| self.write(told));
        }
    }

    /// The file is a courtesy: failing to write it is no reason not to deploy. It need not survive a power cut either, and
    /// so no step waits for the disk.
    fn write(&self, told: &Told) {
        let layout = &self.locks.layout;
        let written = disk::make_dirs(&layout.app(&self.app), 0o750).and_then(|()| {
            let mut text = serde_json::to_vec(&told).unwrap_or_default();
            text.push(b'\n');
            disk::replace(&layout.deploy_lock(&self.app), &text, 0o640)
        });
        if let Err(e) = written {
            log::warn!("app={} cannot tell who holds its lock: {e}", self.app);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let layout = &self.locks.layout;
        let _ = fs::remove_file(layout.deploy_lock(&self.app));
        // Only an app of which nothing else came to be has an empty folder.
        let _ = fs::remove_dir(layout.app(&self.app));
        self.locks.held().remove(&self.app);
    }
}

impl Holder {
    fn told(&self) -> Told {
        Told {
            who: self.who.clone(),
            doing: self.purpose.as_str().into(),
            version: self.version.clone(),
            since: format!("{:.0}", self.since_told),
            step: self.step.clone(),
        }
    }

    /// What is told to one who wants it for `wanted`.
    fn busy(&self, app: &AppId, now: Instant, wanted: Purpose) -> Error {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        let known: Vec<&str> =
            self.version.iter().map(Version::as_str).chain(self.step.iter().map(String::as_str)).collect();
        let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        let doing = self.purpose.as_str();
        let error = Error::new(Kind::Busy, format!("{app} is being {doing} by {} for {seconds}s{known}", self.who));
        error.hint(match wanted {
            Purpose::Deploy => "wait for it with `tako deploy --wait 5m`",
            Purpose::Rollback | Purpose::Scale | Purpose::Delete | Purpose::Secrets => {
                "try again when it is done; `tako status` shows how far it is"
            }
        })
    }
}

impl Purpose {
    /// Who deploys sends the release first.
    fn first_step(self) -> Option<&'static str> {
        match self {
            Purpose::Deploy => Some("uploading"),
            Purpose::Rollback | Purpose::Scale | Purpose::Delete | Purpose::Secrets => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Purpose::Deploy => "deployed",
            Purpose::Rollback => "rolled back",
            Purpose::Scale => "scaled",
            Purpose::Delete => "deleted",
            Purpose::Secrets => "given new secrets",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn locks() -> (tempfile::TempDir, Arc<Locks>) {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(Arc::new(Layout::new(dir.path().into())));
        (dir, locks)
    }

    #[test]
    fn one_holder_at_a_time_and_the_other_is_told_who_it_is() {
        let (_dir, locks) = locks();
        let shop = AppId::parse("shop").unwrap();
        let version = Version::parse("4f2c9ab").unwrap();
        let held = locks.take(&shop, "ana@laptop", Purpose::Deploy, Some(&version)).unwrap();
        let e = locks.take(&shop, "bo@ci", Purpose::Scale, None).err().unwrap();
        assert_eq!(e.kind(), Kind::Busy);
        assert_eq!(e.to_string(), "shop is being deployed by ana@laptop for 0s (4f2c9ab, uploading)");
        assert!(e.next_step().unwrap().starts_with("try again"));
        held.at("rolling 1/2");
        let e = locks.take(&shop, "bo@ci", Purpose::Deploy, None).err().unwrap();
        assert_eq!(e.to_string(), "shop is being deployed by ana@laptop for 0s (4f2c9ab, rolling 1/2)");
        assert!(e.next_step().unwrap().contains("--wait"));
        assert!(locks.take(&AppId::parse("blog").unwrap(), "bo@ci", Purpose::Scale, None).is_ok());
        drop(held);
        assert!(locks.take(&shop, "bo@ci", Purpose::Scale, None).is_ok());
    }

    #[test]
    fn the_file_names_the_holder_and_goes_with_the_lock() {
        let (dir, locks) = locks();
        let shop = AppId::parse("shop").unwrap();
        let held = locks.take(&shop, "ana@laptop", Purpose::Rollback, None).unwrap();
        let text = fs::read_to_string(dir.path().join("apps/shop/.deploy_lock")).unwrap();
        assert!(text.contains("\"ana@laptop\"") && text.contains("rolled back"), "{text}");
        drop(held);
        assert!(!dir.path().join("apps/shop").exists());
        fs::create_dir_all(dir.path().join("apps/shop/releases")).unwrap();
        drop(locks.take(&shop, "ana@laptop", Purpose::Deploy, None).unwrap());
        assert!(dir.path().join("apps/shop/releases").exists());
    }

    fn file(dir: &tempfile::TempDir) -> serde_json::Value {
        let bytes = fs::read(dir.path().join("apps/shop/.deploy_lock")).unwrap();
        assert!(bytes.ends_with(b"}\n"), "one line for `cat`");
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn the_file_tells_the_step_and_stays_as_it_is_otherwise() {
        let (dir, locks) = locks();
        let shop = AppId::parse("shop").unwrap();
        let version = Version::parse("4f2c9ab").unwrap();
        let held = locks.take(&shop, "ana@laptop", Purpose::Deploy, Some(&version)).unwrap();
        let mut expected = file(&dir);
        assert_eq!((&expected["who"], &expected["step"]), (&"ana@laptop".into(), &"uploading".into()));
        held.at("rolling 1/2");
        expected["step"] = "rolling 1/2".into();
        assert_eq!(file(&dir), expected);
        assert!(coming(&locks.layout, &shop).includes("4f2c9ab"), "a step hides nothing from who tidies up");
    }

    #[test]
    fn whoever_tells_last_is_in_the_file_and_it_is_whole_at_any_moment() {
        let (dir, locks) = locks();
        let held = locks.take(&AppId::parse("shop").unwrap(), "ana@laptop", Purpose::Deploy, None).unwrap();
        std::thread::scope(|scope| {
            for teller in 0..4 {
                let held = &held;
                scope.spawn(move || (0..50).for_each(|n| held.at(&format!("step {n} of {teller}"))));
            }
            (0..50).for_each(|_| assert_eq!(file(&dir)["who"], "ana@laptop"));
        });
        let step = locks.held().values().next().unwrap().step.clone();
        assert_eq!(file(&dir)["step"].as_str(), step.as_deref());
        let names: Vec<_> =
            fs::read_dir(dir.path().join("apps/shop")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [".deploy_lock"], "nothing is left beside it");
    }

    #[test]
    fn says_how_long_it_has_been() {
        let (since, since_told) = (Instant::now(), jiff::Timestamp::UNIX_EPOCH);
        let holder =
            Holder { who: "ana".into(), purpose: Purpose::Deploy, version: None, since, since_told, step: None };
        let e = holder.busy(&AppId::parse("shop").unwrap(), since + Duration::from_millis(40_900), Purpose::Scale);
        assert_eq!(e.to_string(), "shop is being deployed by ana for 40s");
    }
}
