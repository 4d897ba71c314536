//! Cell: the walls around one app: its user and its folders, the kernel's groups that its instances run in, and their
//! limits. What this machine cannot give is left out and told, never pretended.
//!
//! **Invariant**: an instance starts inside of all its walls or not at all.

use std::path::PathBuf;

use rustix::process::Pid;

use crate::crypto;
use crate::error::{Context, Result};
use crate::proto::manifest::{Limits, Manifest, Runtime};
use crate::proto::name::AppId;
use crate::server::cgroup::{Caps, Leaf, Tree};
use crate::server::layout::Layout;
use crate::server::owner;
use crate::server::users::Users;
use crate::sys::{self, User};

/// Processes and threads of an instance whose app sets no limit: no web app comes near it, and a fork bomb leaves the
/// machine some thousands.
const PROCESSES: u32 = 4096;

#[derive(Clone)]
pub(crate) struct Cell {
    user: Option<User>,
    tree: Tree,
    /// Why it has no user of its own.
    shared: Option<String>,
}

/// What one instance is started with.
pub(crate) struct Room {
    pub leaf: Option<Leaf>,
    pub limits: sys::Limits,
}

impl Cell {
    pub fn of(id: &AppId, users: &Users, tree: &Tree) -> Result<Cell> {
        Ok(Cell { user: users.of(id)?, tree: tree.clone(), shared: users.shared().map(str::to_owned) })
    }

    pub fn user(&self) -> Option<User> {
        self.user
    }

    /// What the app is told to be its home; without a user of its own it has ours, like the tools that we run for it.
    pub fn home(&self, layout: &Layout, id: &AppId) -> Option<PathBuf> {
        self.user.map(|_| layout.app_home(id))
    }

    /// Ends what is left of the app but `keep`, and puts its folders right. To be called before anything is started.
    pub fn tidy(&self, layout: &Layout, id: &AppId, keep: &[Leaf]) {
        self.tree.clear(id, keep);
        if !layout.app(id).exists() {
            return;
        }
        let tidied = owner::arrange(layout, id, self.user).and_then(|()| owner::put_right(layout, id, self.user));
        let emptied = tidied.and_then(|()| match keep {
            [] => owner::empty_tmp(layout, id, self.user),
            _ => Ok(()),
        });
        if let Err(e) = emptied {
            log::error!("app={id} its folders are not in order error={e}");
        }
    }

    /// The group that a process of an earlier server is in.
    pub fn leaf_of(&self, id: &AppId, pid: u32) -> Option<Leaf> {
        self.tree.leaf_of(id, pid)
    }

    /// Ends what is left of the app in any group, when all of its instances have ended.
    pub fn clear(&self, id: &AppId) {
        self.tree.clear(id, &[]);
    }

    /// Makes room for an instance, which runs beside `others`.
    pub fn enter(&self, layout: &Layout, manifest: &Manifest, number: u32, others: &[&Leaf]) -> Result<Room> {
        let Manifest { app, limits, .. } = manifest;
        owner::arrange(layout, app, self.user)?;
        let caps = Caps {
            memory: limits.memory,
            cpu_milli: limits.cpu_milli,
            processes: Some(limits.processes.unwrap_or(PROCESSES)),
        };
        let label = format!("{number}-{}", crypto::hex(&crypto::random::<4>()?));
        let leaf = self.tree.leaf(app, &label, &caps).context(|| format!("make a group for an instance of {app}"))?;
        let rlimits = self.rlimits(manifest, others.len() as u64 + 1);
        if let Some(processes) = rlimits.processes {
            // The number is of the user, so that more instances need more, also those that are there.
            for pid in others.iter().flat_map(|leaf| leaf.pids()) {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                // It may have ended since.
                let _ = pid.map(|pid| sys::limit_processes(pid, processes));
            }
        }
        Ok(Room { leaf, limits: rlimits })
    }

    /// The instance has ended, or was never started.
    pub fn leave(&self, leaf: Option<Leaf>) {
        leaf.into_iter().for_each(|leaf| self.tree.bury(leaf));
    }

    /// What its app should know about walls that are lower than they should be.
    pub fn remarks(&self, manifest: &Manifest) -> Vec<String> {
        let Limits { memory, cpu_milli, processes, .. } = manifest.limits;
        let mut remarks = Vec::new();
        if let Some(why) = &self.shared {
            remarks.push(format!("{why}: it can reach the files and the management socket of tako-server"));
        }
        let why = self.tree.missing().unwrap_or("this machine has no such controller on cgroup v2");
        if self.tree.missing().is_some() {
            remarks.push(format!("what leaves the process group of an instance may outlive it: {why}"));
        }
        if memory.is_some() && !self.tree.keeps("memory") {
            remarks.push(format!("`memory` limits each process by itself: {why}"));
        }
        if cpu_milli.is_some() && !self.tree.keeps("cpu") {
            remarks.push(format!("`cpu` limits nothing: {why}"));
        }
        if processes.is_some() && !self.tree.keeps("pids") {
            remarks.push(match self.user {
                Some(_) => format!("`processes` limits all instances together: {why}"),
                None => format!("`processes` limits nothing: {why}"),
            });
        }
        remarks
    }

    /// What stands in where the kernel's groups keep a limit not.
    fn rlimits(&self, manifest: &Manifest, instances: u64) -> sys::Limits {
        let Limits { memory, processes, .. } = manifest.limits;
        // Counted for each user: ours has other programs, among them ourselves.
        let own = self.user.is_some() && !self.tree.keeps("pids");
        let each = u64::from(processes.unwrap_or(PROCESSES));
        sys::Limits {
            // One more, for the one that replaces another.
            processes: own.then_some(each * (instances + 1)),
            data: memory
                .filter(|_| !self.tree.keeps("memory"))
                .map(|bytes| bytes.saturating_add(reserve(manifest.runtime))),
            nice: 0,
        }
    }
}

/// What a runtime sets aside at its start without ever using it, which the kernel counts all the same. Measured with
/// Node 22, Bun 1.4 and Deno 2.
fn reserve(runtime: Runtime) -> u64 {
    match runtime {
        Runtime::Binary => 0,
        Runtime::Node => 128 << 20,
        Runtime::Bun => 512 << 20,
        Runtime::Deno => 1 << 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "cgroup v2 is not mounted";

    fn cell(user: bool) -> Cell {
        let user = user.then_some(User { uid: 71_001, gid: 71_001 });
        let shared = user.is_none().then(|| "apps run as root".to_owned());
        Cell { user, tree: Tree::none(WHY), shared }
    }

    fn manifest(runtime: &str, limits: &str) -> Manifest {
        let json = format!(r#"{{"app":"shop","version":"v1","runtime":"{runtime}","main":"x","limits":{limits}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    const ALL: &str = r#"{"memory":1048576,"cpu_milli":500,"processes":32}"#;

    #[test]
    fn what_the_kernel_does_not_keep_is_kept_otherwise_or_told() {
        let own = cell(true).remarks(&manifest("node", ALL));
        let told = ["what leaves", "`memory` limits each process", "`cpu` limits nothing", "`processes` limits all"];
        assert_eq!(own.len(), told.len(), "{own:?}");
        assert!(own.iter().zip(told).all(|(line, start)| line.starts_with(start) && line.ends_with(WHY)), "{own:?}");
        let shared = cell(false).remarks(&manifest("node", ALL));
        assert!(shared[0].starts_with("apps run as root: it can reach the files"), "{shared:?}");
        assert!(shared[4].starts_with("`processes` limits nothing"), "{shared:?}");
        // A limit that nobody asked for is not missed.
        assert_eq!(cell(true).remarks(&manifest("node", "{}")).len(), 1);
    }

    #[test]
    fn the_number_of_a_users_processes_grows_with_its_instances() {
        let check = |user, limits: &str, instances, expected| {
            assert_eq!(cell(user).rlimits(&manifest("binary", limits), instances).processes, expected);
        };
        check(true, ALL, 1, Some(64));
        check(true, ALL, 3, Some(128));
        check(true, "{}", 1, Some(2 * u64::from(PROCESSES)));
        // It would count the server's own.
        check(false, ALL, 1, None);
    }

    #[test]
    fn a_runtime_may_set_aside_what_it_does_not_use() {
        let data = |runtime| cell(true).rlimits(&manifest(runtime, ALL), 1).data;
        assert_eq!(data("binary"), Some(1 << 20));
        assert_eq!(data("bun"), Some((1 << 20) + (512 << 20)));
        assert_eq!(cell(true).rlimits(&manifest("bun", "{}"), 1).data, None);
    }
}
