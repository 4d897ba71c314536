//! Access: keeps the proxy's access lines, one file per app beside what its instances print, and one for the requests of
//! no app.
//!
//! **Invariant**: the proxy never waits for the disk: batches wait in a channel of limited length, and what is lost here
//! is counted. Nothing is written for an app that has no state any more: its folder is about to be removed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::rotating::{PER_APP, Rotating};
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::name::AppId;
use crate::proxy::journal::{self, Batch, Inlet, Outlet};

/// Files that are open at once; with more apps than this they are opened anew now and then.
const MAX_OPEN: usize = 128;
/// How often lost lines are told of.
const COMPLAINT: Duration = Duration::from_secs(60);

/// The thread `access`. It ends with the proxy.
pub(crate) struct Keeper {
    thread: JoinHandle<()>,
    lost: Arc<AtomicU64>,
}

/// Starts the thread; the proxy gets the other end.
pub(crate) fn start(layout: Arc<Layout>) -> Result<(Outlet, Keeper)> {
    let (outlet, inlet) = journal::channel();
    disk::make_dirs(&layout.own_logs(), 0o750)?;
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer { layout, files: HashMap::new(), lost: lost.clone(), complained: None };
    let thread = thread::Builder::new().name("access".into()).spawn(move || writer.run(&inlet));
    Ok((outlet, Keeper { thread: thread.context(|| "start the thread access".into())?, lost }))
}

impl Keeper {
    /// Lines that could not be written, counted from now on.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    /// Waits for the last lines. The proxy must have been stopped.
    pub fn finish(self) {
        if self.thread.join().is_err() {
            log::error!("the thread access ended by a panic");
        }
    }
}

struct Writer {
    layout: Arc<Layout>,
    files: HashMap<Option<Arc<str>>, Rotating>,
    lost: Arc<AtomicU64>,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self, inlet: &Inlet) {
        while let Some(batch) = inlet.next() {
            self.write(&batch);
            inlet.give_back(batch);
        }
    }

    fn write(&mut self, batch: &Batch) {
        // One write per app and batch, however its lines lie in it.
        let mut by_app: HashMap<Option<Arc<str>>, Vec<u8>> = HashMap::new();
        for (app, lines) in batch.parts() {
            by_app.entry(app.cloned()).or_default().extend_from_slice(lines);
        }
        for (app, lines) in by_app {
            if let Err(e) = self.append(app.clone(), &lines) {
                self.files.remove(&app);
                self.lose(app.as_deref(), &lines, &e);
            }
        }
    }

    fn append(&mut self, app: Option<Arc<str>>, lines: &[u8]) -> std::io::Result<()> {
        if let Some(file) = self.files.get_mut(&app) {
            return file.append(lines);
        }
        let Some(path) = self.path(app.as_deref()) else { return Ok(()) };
        if self.files.len() >= MAX_OPEN {
            self.files.clear();
        }
        self.files.entry(app).or_insert(Rotating::open(path, PER_APP)?).append(lines)
    }

    /// `None` when the app is gone, and its lines with it.
    fn path(&self, app: Option<&str>) -> Option<PathBuf> {
        let Some(app) = app else { return Some(self.layout.own_access_log()) };
        let id = AppId::parse(app).ok()?;
        self.layout.state(&id).exists().then(|| self.layout.access_log(&id))
    }

    fn lose(&mut self, app: Option<&str>, lines: &[u8], e: &std::io::Error) {
        let count = memchr::memchr_iter(b'\n', lines).count();
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAINT) {
            self.complained = Some(Instant::now());
            log::warn!("app={} lost {count} access lines: {e}", app.unwrap_or("-"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn world() -> (tempfile::TempDir, Arc<Layout>, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(dir.path().into()));
        fs::create_dir_all(layout.own_logs()).unwrap();
        let lost = Arc::default();
        let writer = Writer { layout: layout.clone(), files: HashMap::new(), lost, complained: None };
        (dir, layout, writer)
    }

    fn deployed(layout: &Layout, app: &str) -> AppId {
        let id = AppId::parse(app).unwrap();
        fs::create_dir_all(layout.logs(&id)).unwrap();
        fs::write(layout.state(&id), "{}").unwrap();
        id
    }

    fn batch(lines: &[(Option<&str>, &str)]) -> Batch {
        let mut batch = Batch::default();
        lines.iter().for_each(|(app, line)| batch.push(app.map(Arc::from).as_ref(), line.as_bytes()));
        batch
    }

    #[test]
    fn every_app_has_its_file_and_what_is_left_the_servers() {
        let (_dir, layout, mut writer) = world();
        let (a, b) = (deployed(&layout, "a"), deployed(&layout, "b"));
        writer.write(&batch(&[(Some("a"), "1\n"), (None, "2\n"), (Some("b"), "3\n"), (Some("a"), "4\n")]));
        writer.write(&batch(&[(Some("b"), "5\n")]));
        let read = |path| fs::read_to_string(path).unwrap();
        assert_eq!(read(layout.access_log(&a)), "1\n4\n");
        assert_eq!(read(layout.access_log(&b)), "3\n5\n");
        assert_eq!(read(layout.own_access_log()), "2\n");
        assert_eq!(writer.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nothing_is_made_anew_for_an_app_that_was_removed() {
        let (_dir, layout, mut writer) = world();
        let id = deployed(&layout, "a");
        writer.write(&batch(&[(Some("a"), "1\n")]));
        fs::remove_dir_all(layout.app(&id)).unwrap();
        for _ in 0..2 {
            writer.write(&batch(&[(Some("a"), "2\n"), (Some("never-there"), "3\n")]));
        }
        assert!(!layout.app(&id).exists());
        // And when it comes back its lines are kept again.
        deployed(&layout, "a");
        writer.write(&batch(&[(Some("a"), "4\n")]));
        assert_eq!(fs::read_to_string(layout.access_log(&id)).unwrap(), "4\n");
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted() {
        let (_dir, layout, mut writer) = world();
        let id = deployed(&layout, "a");
        std::os::unix::fs::symlink("/dev/full", layout.access_log(&id)).unwrap();
        writer.write(&batch(&[(Some("a"), "1\n"), (Some("a"), "2\n")]));
        writer.write(&batch(&[(Some("a"), "3\n")]));
        assert_eq!(writer.lost.load(Ordering::Relaxed), 3);
        fs::remove_file(layout.access_log(&id)).unwrap();
        writer.write(&batch(&[(Some("a"), "4\n")]));
        assert_eq!(fs::read_to_string(layout.access_log(&id)).unwrap(), "4\n");
    }

    #[test]
    fn the_thread_writes_what_was_handed_over_and_ends_with_the_last_worker() {
        let (_dir, layout, _) = world();
        let id = deployed(&layout, "a");
        let (outlet, keeper) = start(layout.clone()).unwrap();
        outlet.offer(batch(&[(Some("a"), "1\n")])).unwrap();
        drop(outlet);
        keeper.finish();
        assert_eq!(fs::read_to_string(layout.access_log(&id)).unwrap(), "1\n");
    }
}
