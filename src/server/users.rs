//! Users: the number under which each app runs, so that no app can look at or signal another, nor at what is ours.
//!
//! Numbers are given from a range that no distribution uses, one per app, and written into the app's folder, so that
//! its files stay its own. There is no entry in the password file: nothing that runs here needs a name.
//!
//! **Invariant**: two apps of one data directory never have the same number.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use super::layout::Layout;
use super::state;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::proto::name::AppId;
use crate::sys::User;

/// Between the numbers of people and services (below 65536) and those that containers are given (from 100000 by
/// shadow, from 524288 by systemd; see systemd's UIDS-GIDS).
const RANGE: RangeInclusive<u32> = 70_000..=99_999;
const MAX_FILE: u64 = 64;

pub(crate) struct Users {
    layout: Arc<Layout>,
    /// Whether we may change to another user at all.
    may: bool,
    /// One allocation at a time.
    turn: Mutex<()>,
}

impl Users {
    pub fn new(layout: Arc<Layout>) -> Users {
        Users { layout, may: rustix::process::geteuid().is_root(), turn: Mutex::default() }
    }

    /// Whom the app runs as; `None` where this server may only run it as itself.
    ///
    /// # Errors
    /// Refused when the app's note of its number is damaged or the range is used up; those of the disk.
    pub fn of(&self, app: &AppId) -> Result<Option<User>> {
        if !self.may {
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
        let number = RANGE.into_iter().find(|n| !taken.contains(n)).ok_or_else(|| {
            Error::new(Kind::Refused, format!("all {} user numbers for apps are taken", RANGE.count()))
        })?;
        disk::make_dirs(&self.layout.app(app), 0o750)?;
        disk::write_atomic(&self.layout.user(app), format!("{number}\n").as_bytes(), 0o600)?;
        Ok(number)
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
        let users = |may| Users { layout: layout.clone(), may, turn: Mutex::default() };
        assert_eq!(users(false).of(&id("shop")).unwrap(), None);
        let first = users(true).of(&id("shop")).unwrap().unwrap();
        let second = users(true).of(&id("blog")).unwrap().unwrap();
        assert!(first.uid != second.uid && RANGE.contains(&first.uid) && first.uid == first.gid);
        assert_eq!(users(true).of(&id("shop")).unwrap(), Some(first));
        std::fs::write(layout.user(&id("blog")), "0\n").unwrap();
        assert_eq!(users(true).of(&id("blog")).unwrap_err().kind(), Kind::Refused);
    }
}
