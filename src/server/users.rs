//! Users: the number under which each app runs, so that no app can look at or signal another, nor at what is ours.
//!
//! Numbers are given from a range that no distribution uses, one per app, and written into the app's folder, so that
//! its files stay its own. There is no entry in the password file: nothing that runs here needs a name. Where the first
//! number lies depends on the data directory, so that several servers of one machine hardly ever share one.
//!
//! **Invariant**: two apps of one data directory never have the same number.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::CapabilitySet;

use super::layout::Layout;
use super::{owner, state};
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::proto::name::AppId;
use crate::sys::User;

/// Between the numbers of people and services (below 65536) and those that containers are given (from 100000 by
/// shadow, from 524288 by systemd; see systemd's UIDS-GIDS).
const RANGE: RangeInclusive<u32> = 70_000..=99_999;
const MAX_FILE: u64 = 64;
/// To change to an app's user, to give it its folders, to look into them, and to end it.
const NEEDED: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::KILL);

pub(crate) struct Users {
    layout: Arc<Layout>,
    /// Why apps run as we do, if they do.
    shared: Option<String>,
    /// One allocation at a time.
    turn: Mutex<()>,
}

impl Users {
    /// `wanted` is what the command line says.
    pub fn new(layout: Arc<Layout>, wanted: bool) -> Users {
        let us = rustix::process::geteuid();
        // A container's root may have less.
        let may = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED));
        let shared = match (us.is_root(), may, wanted) {
            (true, true, true) => None,
            (true, true, false) => Some("apps run as root, because of --app-users off".into()),
            (true, false, _) => Some("apps run as root, which may not change to other users here".into()),
            (false, _, _) => Some(format!("apps run as the server's own user (uid {us}), which is not root")),
        };
        Users { layout, shared, turn: Mutex::default() }
    }

    /// Why apps run as we do, and so can reach all that we can; `None` when each has a user of its own.
    pub fn shared(&self) -> Option<&str> {
        self.shared.as_deref()
    }

    /// # Errors
    /// Refused when users of apps cannot get to the data directory.
    pub fn check(&self) -> Result<()> {
        let nobody = User { uid: *RANGE.start(), gid: *RANGE.start() };
        let data = self.layout.data();
        match owner::who_bars(data, nobody).filter(|_| self.shared.is_none()) {
            None => Ok(()),
            Some(step) => {
                let message = format!("{} keeps the apps' users out of the data directory {}", step, data.display());
                Err(Error::new(Kind::Refused, message).hint(
                    "let others pass through that folder (chmod o+x), choose another with --data-dir, or let apps run as \
                     root with --app-users off",
                ))
            }
        }
    }

    /// Whom the app runs as; `None` where this server may only run it as itself.
    ///
    /// # Errors
    /// Refused when the app's note of its number is damaged or the range is used up; those of the disk.
    pub fn of(&self, app: &AppId) -> Result<Option<User>> {
        if self.shared.is_some() {
            return Ok(None);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match read(&self.layout, app)? {
            Some(number) => number,
            None => self.allot(app)?,
        };
        Ok(Some(User { uid: number, gid: number }))
    }

    fn allot(&self, app: &AppId) -> Result<u32> {
        let others = state::apps(&self.layout)?;
        let taken: BTreeSet<u32> = others.iter().filter_map(|other| read(&self.layout, other).ok().flatten()).collect();
        let number = self.candidates().find(|n| !taken.contains(n)).ok_or_else(|| {
            Error::new(Kind::Refused, format!("all {} user numbers for apps are taken", RANGE.count()))
        })?;
        disk::make_dirs(&self.layout.app(app), 0o750)?;
        disk::write_atomic(&self.layout.user(app), format!("{number}\n").as_bytes(), 0o600)?;
        Ok(number)
    }

    /// All numbers, from the one on that the data directory's path leads to.
    fn candidates(&self) -> impl Iterator<Item = u32> {
        let mut hash = Sha256::new();
        hash.update(self.layout.data().as_os_str().as_encoded_bytes());
        let first = u32::from_str_radix(&hash.finish()[..7], 16).expect("a hash is hexadecimal digits");
        let count = RANGE.end() - RANGE.start() + 1;
        (0..count).map(move |n| RANGE.start() + (first % count + n) % count)
    }
}

fn read(layout: &Layout, app: &AppId) -> Result<Option<u32>> {
    let path = layout.user(app);
    let Some(bytes) = disk::read_if_there(&path, MAX_FILE)? else { return Ok(None) };
    let number = std::str::from_utf8(&bytes).ok().and_then(|s| s.trim().parse().ok()).filter(|n| RANGE.contains(n));
    number.map(Some).ok_or_else(|| {
        let message = format!("{} does not hold a user number of {} to {}", path.display(), RANGE.start(), RANGE.end());
        Error::new(Kind::Refused, message).hint("see who owns the app's data folder, and write that number there")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_app_keeps_a_number_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(dir.path().into()));
        let id = |s| AppId::parse(s).unwrap();
        disk::make_dirs(&layout.apps(), 0o750).unwrap();
        let users = |may: bool| {
            let shared = (!may).then(|| "in this test".to_owned());
            Users { layout: layout.clone(), shared, turn: Mutex::default() }
        };
        assert_eq!(users(false).of(&id("shop")).unwrap(), None);
        let first = users(true).of(&id("shop")).unwrap().unwrap();
        let second = users(true).of(&id("blog")).unwrap().unwrap();
        assert!(first.uid != second.uid && RANGE.contains(&first.uid) && first.uid == first.gid);
        assert_eq!(users(true).of(&id("shop")).unwrap(), Some(first));
        std::fs::write(layout.user(&id("blog")), "0\n").unwrap();
        assert_eq!(users(true).of(&id("blog")).unwrap_err().kind(), Kind::Refused);
        let all: BTreeSet<u32> = users(true).candidates().collect();
        assert!(all.len() == RANGE.count() && all.iter().all(|n| RANGE.contains(n)));
    }

    #[test]
    fn a_folder_that_keeps_apps_out_is_named_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(dir.path().join("data")));
        disk::make_dirs(layout.data(), 0o711).unwrap();
        disk::private_dir(dir.path()).unwrap();
        let users = |shared| Users { layout: layout.clone(), shared, turn: Mutex::default() };
        users(Some("in this test".into())).check().unwrap();
        let e = users(None).check().unwrap_err();
        assert!(e.to_string().starts_with(&format!("{} (mode 0700) keeps", dir.path().display())), "{e}");
    }
}
