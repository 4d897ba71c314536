//! Crash: named points at which a test has this program killed, as a power cut or the kernel would, to see what the next
//! start makes of it.
//!
//! `TAKO_CRASH` names a file. When it holds the name of the point that is passed, that is the end; otherwise the name is
//! added to `<file>.passed`. A build without debug assertions, as every release is, has none of this. The tests read
//! this file as well (`tests/it/crashes.rs`) and go through [`POINTS`], so that one that is added here is tested.
//!
//! **Invariant**: every point in the code is in the list, and every point in the list is passed by a test.

/// Where, and what has just been done or is just about to be.
#[cfg_attr(not(debug_assertions), allow(dead_code))]
pub const POINTS: &[&str] = &[
    "lock: taken and not told",
    "lock: told",
    "unpack: begins",
    "unpack: rebuilt by a delta",
    "unpack: to be kept as a base",
    "unpack: the upload is to be removed",
    "packages: to be taken",
    "packages: taken and not recorded",
    "packages: to be recorded",
    "prepare: to be described",
    "prepare: to be marked",
    "discard: not complete any more",
    "unpack: laid out aside",
    "unpack: complete and without its name",
    "delete: files removed",
    "work: done and not answered",
    "delete: the folder is to be renamed",
    "delete: the folder is renamed",
    "boot: notes are to be read",
    "boot: processes are taken over",
    "boot: files are tidy",
    "boot: one is to be ended",
    "start: not spawned yet",
    "start: spawned and not noted",
    "start: noted and not watched",
    "ready signal: heard and not noted",
    "roll: healthy",
    "roll: planned",
    "roll: to be swapped",
    "roll: swapped",
    "shrink: to be saved",
    "shrink: saved",
    "shrink: posted",
    "ready: to be described",
    "ready: secrets to be saved",
    "ready: state to be staged",
    "ready: state staged",
    "write: current to be swapped",
    "write: state to be put",
    "write: state put",
    "commit: to be posted",
    "commit: posted",
    "commit: old ones retired",
    "restore: begins",
    "restore: new ones retired",
    "restore: given up on",
    "finish: to be told",
    "finish: files are tidy",
    "tidy: old secrets to be removed",
    "prune: state to be saved",
    "delete: begins",
    "delete: off the routes",
    "delete: instances have ended",
];

#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::io::Write;
    use std::{env, fs, path, sync};

    static FILE: sync::LazyLock<Option<path::PathBuf>> =
        sync::LazyLock::new(|| env::var_os("TAKO_CRASH").map(Into::into));
    assert!(POINTS.contains(&name), "{name} is not in the list");
    let Some(wanted) = FILE.as_ref().and_then(|file| fs::read_to_string(file).ok()) else { return };
    if wanted == name {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // It is not heard of before the kernel gets to it.
        loop {
            std::thread::park();
        }
    }
    let passed = FILE.as_ref().map(|file| file.with_extension("passed"));
    let file = passed.map(|file| fs::OpenOptions::new().create(true).append(true).open(file));
    if let Some(Ok(mut file)) = file {
        let _ = file.write_all(format!("{name}\n").as_bytes());
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &'static str) {}
