//! Logs: what instances print, in files of limited size, for one thread to write and to read.
//!
//! `{data}/apps/<id>/shared/logs/app.log` and four older ones, each line `time stream instance release text`. They
//! outlive instances, releases and this program. One thread has all the files, so a reader who follows sees every line
//! once and in order.
//!
//! **Invariant**: whoever says a line never waits: what a slow disk leaves in the queue beyond [`MAX_QUEUED`] is
//! dropped, counted, and the count is written when there is room again.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};

use super::tail;
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::control::{LogLine, Stream};

/// Size of one file, and how many there are: 50 MiB an app.
const FILE_SIZE: u64 = 10 << 20;
pub(super) const FILES: u32 = 5;
/// Lines of one app that are written at once, in bytes: who says more must not fill our memory with it.
const WRITE: usize = 64 << 10;
/// Bytes of lines that wait for the disk, of all apps together.
const MAX_QUEUED: usize = 8 << 20;
/// Lines sent to a reader at once, in bytes: as JSON it must fit a control message, where a byte may become six.
const CHUNK: usize = 128 << 10;
/// Chunks that may wait for a reader; a whole tail fits. Who is slower than that misses lines.
const MAX_CHUNKS: usize = 2 * tail::MAX_TAIL / CHUNK;
/// So often a reader that follows gets an empty chunk when there is nothing to tell: it shows who has gone.
const BEAT: Duration = Duration::from_secs(5);
/// Lines of each instance kept in memory, for the report when it fails.
const LAST_LINES: usize = 40;
/// Characters of each; it is a report and not the log.
const LAST_WIDTH: usize = 1 << 10;

/// A cloneable way to the thread.
#[derive(Clone)]
pub(crate) struct Logs(Arc<Inner>);

struct Inner {
    to: Sender<Order>,
    queued: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One app's log.
pub(crate) struct Source {
    dir: PathBuf,
    file_size: u64,
    dropped: AtomicU64,
}

/// One instance's way to its app's log.
#[derive(Clone)]
pub(crate) struct Voice {
    logs: Logs,
    source: Arc<Source>,
    release: Arc<str>,
    instance: u32,
    last: Arc<Mutex<VecDeque<String>>>,
}

pub(super) struct Entry {
    pub at_ms: u64,
    pub release: Arc<str>,
    pub instance: u32,
    pub stream: Stream,
    pub text: String,
}

enum Order {
    Line(Arc<Source>, Entry),
    Read { source: Arc<Source>, lines: u32, follow: bool, to: Sender<Vec<LogLine>> },
    Close(Arc<Source>),
    End,
}

impl Logs {
    pub fn start() -> Result<Logs> {
        // Bounded in bytes by `queued`; orders that are no lines are as few as their callers.
        let (to, orders) = unbounded();
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = Writer { queued: queued.clone(), files: HashMap::new(), followers: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || writer.run(&orders))
            .context(|| "start the log thread".into())?;
        Ok(Logs(Arc::new(Inner { to, queued, thread: Mutex::new(Some(thread)) })))
    }

    /// The last `lines`, and with `follow` what comes after, until the receiver is dropped. A chunk may be empty.
    pub fn read(&self, source: &Arc<Source>, lines: u32, follow: bool) -> Receiver<Vec<LogLine>> {
        let (to, chunks) = bounded(MAX_CHUNKS);
        let _ = self.0.to.send(Order::Read { source: source.clone(), lines, follow, to });
        chunks
    }

    /// Lets go of the app's files; its folder is about to be removed.
    pub fn close(&self, source: &Arc<Source>) {
        let _ = self.0.to.send(Order::Close(source.clone()));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.to.send(Order::End);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Source {
    pub fn new(dir: PathBuf) -> Arc<Source> {
        Source::sized(dir, FILE_SIZE)
    }

    fn sized(dir: PathBuf, file_size: u64) -> Arc<Source> {
        Arc::new(Source { dir, file_size, dropped: AtomicU64::new(0) })
    }

    /// `app.log`, or the n-th older one.
    pub(super) fn path(&self, n: u32) -> PathBuf {
        match n {
            0 => self.dir.join("app.log"),
            n => self.dir.join(format!("app.log.{n}")),
        }
    }
}

impl Voice {
    pub fn new(logs: &Logs, source: &Arc<Source>, release: &str, instance: u32) -> Voice {
        let last = Arc::new(Mutex::new(VecDeque::with_capacity(LAST_LINES)));
        Voice { logs: logs.clone(), source: source.clone(), release: release.into(), instance, last }
    }

    pub fn say(&self, stream: Stream, text: String) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(text.chars().take(LAST_WIDTH).collect());
        }
        self.log(stream, text);
    }

    /// A remark of ours: written, but not part of what the instance said.
    pub fn remark(&self, text: &str) {
        self.log(Stream::Err, format!("tako: {text}"));
    }

    pub fn last_lines(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn log(&self, stream: Stream, text: String) {
        let size = text.len() + size_of::<Order>();
        let inner = &self.logs.0;
        if inner.queued.fetch_add(size, Ordering::Relaxed) + size > MAX_QUEUED {
            inner.queued.fetch_sub(size, Ordering::Relaxed);
            self.source.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let entry = Entry { at_ms: now_ms(), release: self.release.clone(), instance: self.instance, stream, text };
        let _ = inner.to.send(Order::Line(self.source.clone(), entry));
    }
}

/// The thread's own.
struct Writer {
    queued: Arc<AtomicUsize>,
    files: HashMap<PathBuf, Open>,
    followers: Vec<Follower>,
}

struct Open {
    source: Arc<Source>,
    file: File,
    size: u64,
    buffer: Vec<u8>,
}

struct Follower {
    dir: PathBuf,
    to: Sender<Vec<LogLine>>,
    chunk: Vec<LogLine>,
    bytes: usize,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let timeout = if self.followers.is_empty() { Duration::MAX } else { BEAT };
            match orders.recv_timeout(timeout) {
                Ok(order) => {
                    let mut next = Some(order);
                    // Lines that came meanwhile are one write.
                    while let Some(order) = next {
                        if !self.serve(order) {
                            self.flush();
                            return;
                        }
                        next = orders.try_recv().ok();
                    }
                    self.flush();
                }
                Err(RecvTimeoutError::Timeout) => self.followers.retain_mut(|f| f.send(Vec::new())),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn serve(&mut self, order: Order) -> bool {
        match order {
            Order::Line(source, entry) => {
                self.queued.fetch_sub(entry.text.len() + size_of::<Order>(), Ordering::Relaxed);
                let dropped = source.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let text = format!("tako: {dropped} lines were dropped because the disk was slow or full");
                    let remark = Entry { stream: Stream::Err, release: entry.release.clone(), text, ..entry };
                    if !self.write(&source, remark) {
                        source.dropped.fetch_add(dropped, Ordering::Relaxed);
                    }
                }
                if !self.write(&source, entry) {
                    // Told in the file once it can be opened.
                    source.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Order::Read { source, lines, follow, to } => {
                self.flush();
                let mut reader = Follower { dir: source.dir.clone(), to, chunk: Vec::new(), bytes: 0 };
                tail::tail(&source, lines).into_iter().for_each(|line| reader.push(line));
                if reader.flush() && follow {
                    self.followers.push(reader);
                }
            }
            Order::Close(source) => {
                self.flush();
                self.files.remove(&source.dir);
                self.followers.retain(|f| f.dir != source.dir);
            }
            Order::End => return false,
        }
        true
    }

    /// False when there is no file for it.
    fn write(&mut self, source: &Arc<Source>, entry: Entry) -> bool {
        let open = match self.files.get_mut(&source.dir) {
            Some(open) => open,
            None => match Open::at(source) {
                Ok(open) => self.files.entry(source.dir.clone()).or_insert(open),
                Err(_) => return false,
            },
        };
        open.append(&entry);
        if open.size + open.buffer.len() as u64 >= source.file_size {
            open.flush();
            self.files.remove(&source.dir);
            rotate(source);
        } else if open.buffer.len() >= WRITE && !open.flush() {
            self.files.remove(&source.dir);
        }
        for follower in self.followers.iter_mut().filter(|f| f.dir == source.dir) {
            follower.push(entry.to_line());
        }
        true
    }

    fn flush(&mut self) {
        self.files.retain(|_, open| open.flush());
        self.followers.retain_mut(Follower::flush);
    }
}

impl Open {
    fn at(source: &Arc<Source>) -> Result<Open> {
        disk::make_dirs(&source.dir, 0o700)?;
        let path = source.path(0);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.context(|| format!("open {}", path.display()))?;
        let size = file.metadata().map_or(0, |m| m.len());
        Ok(Open { source: source.clone(), file, size, buffer: Vec::new() })
    }

    fn append(&mut self, entry: &Entry) {
        tail::print(&mut self.buffer, entry);
    }

    /// False when the file should be opened anew: it cannot be written, or somebody removed it.
    fn flush(&mut self) -> bool {
        if self.buffer.is_empty() {
            return true;
        }
        let written = self.file.write_all(&self.buffer);
        if written.is_err() {
            let lost = memchr::memchr_iter(b'\n', &self.buffer).count();
            self.source.dropped.fetch_add(lost as u64, Ordering::Relaxed);
        }
        self.size += self.buffer.len() as u64;
        self.buffer.clear();
        written.is_ok() && self.file.metadata().is_ok_and(|m| m.nlink() > 0)
    }
}

impl Follower {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len() + line.release.len() + 32;
        self.chunk.push(line);
        if self.bytes >= CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) -> bool {
        let chunk = std::mem::take(&mut self.chunk);
        self.bytes = 0;
        chunk.is_empty() || self.send(chunk)
    }

    /// False when the reader has gone. One that is too slow misses this chunk.
    fn send(&mut self, chunk: Vec<LogLine>) -> bool {
        !matches!(self.to.try_send(chunk), Err(TrySendError::Disconnected(_)))
    }
}

impl Entry {
    fn to_line(&self) -> LogLine {
        LogLine {
            at_ms: self.at_ms,
            release: self.release.to_string(),
            instance: self.instance,
            stream: self.stream,
            text: self.text.clone(),
        }
    }
}

fn rotate(source: &Source) {
    for n in (0..FILES - 1).rev() {
        let _ = fs::rename(source.path(n), source.path(n + 1));
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(logs: &Logs, source: &Arc<Source>, lines: u32) -> Vec<String> {
        logs.read(source, lines, false).iter().flatten().map(|l| l.text).collect()
    }

    #[test]
    fn tells_the_last_lines_across_rotated_files_and_keeps_only_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::sized(dir.path().join("logs"), 1000);
        let voice = Voice::new(&logs, &source, "v1", 2);
        for n in 0..200 {
            voice.say(Stream::Out, format!("line {n} é"));
        }
        let expected: Vec<String> = (170..200).map(|n| format!("line {n} é")).collect();
        assert_eq!(read(&logs, &source, 30), expected);
        let kept = read(&logs, &source, 1000).len();
        assert!((50..150).contains(&kept), "{kept} lines of 200 are kept");
        let files = fs::read_dir(dir.path().join("logs")).unwrap().count();
        assert!((4..=5).contains(&files), "{files} files");
        assert_eq!(voice.last_lines().len(), LAST_LINES);
        assert_eq!(voice.last_lines().last().unwrap(), "line 199 é");
    }

    #[test]
    fn a_line_is_read_as_it_was_said_also_by_the_next_server() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(dir.path().into());
        let logs = Logs::start().unwrap();
        let before = now_ms();
        Voice::new(&logs, &source, "v1", 7).say(Stream::Err, "  a b  c".into());
        drop(logs);
        let lines: Vec<LogLine> =
            Logs::start().unwrap().read(&Source::new(dir.path().into()), 9, false).iter().flatten().collect();
        assert_eq!(lines.len(), 1);
        let LogLine { at_ms, release, instance, stream, text } = &lines[0];
        assert_eq!((release.as_str(), *instance, *stream, text.as_str()), ("v1", 7, Stream::Err, "  a b  c"));
        assert!((before..=now_ms()).contains(at_ms));
    }

    #[test]
    fn who_follows_sees_the_tail_and_then_every_line_once() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let voice = Voice::new(&logs, &source, "v1", 1);
        (0..5).for_each(|n| voice.say(Stream::Out, n.to_string()));
        let chunks = logs.read(&source, 2, true);
        (5..8).for_each(|n| voice.say(Stream::Out, n.to_string()));
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.extend(chunks.recv_timeout(Duration::from_secs(5)).unwrap().into_iter().map(|l| l.text));
        }
        assert_eq!(seen, ["3", "4", "5", "6", "7"]);
    }

    #[test]
    fn a_removed_folder_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().join("logs"));
        let voice = Voice::new(&logs, &source, "v1", 1);
        voice.say(Stream::Out, "one".into());
        assert_eq!(read(&logs, &source, 9), ["one"]);
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        // The line that finds the file removed is lost with it; the next one is not.
        voice.say(Stream::Out, "two".into());
        assert!(read(&logs, &source, 9).is_empty());
        voice.say(Stream::Out, "three".into());
        assert_eq!(read(&logs, &source, 9), ["three"]);
    }

    const DROPPED_2: &str = "tako: 2 lines were dropped because the disk was slow or full";

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let voice = Voice::new(&logs, &source, "v1", 1);
        std::os::unix::fs::symlink("/dev/full", source.path(0)).unwrap();
        voice.say(Stream::Out, "one".into());
        // Who reads makes the thread write first.
        logs.read(&source, 0, false).iter().for_each(drop);
        voice.say(Stream::Out, "two".into());
        logs.read(&source, 0, false).iter().for_each(drop);
        fs::remove_file(source.path(0)).unwrap();
        // The count is told with the next line that finds a file.
        voice.say(Stream::Out, "kept".into());
        let told = read(&logs, &source, 9);
        let lost: u64 =
            told.iter().filter_map(|l| l.strip_prefix("tako: ")?.split(' ').next()?.parse::<u64>().ok()).sum();
        assert!(told.last().unwrap() == "kept" && lost >= 2, "{told:?}");
    }

    #[test]
    fn a_flood_is_not_kept_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(dir.path().into());
        let queued = Arc::new(AtomicUsize::new(usize::MAX / 2));
        let mut writer = Writer { queued, files: HashMap::new(), followers: Vec::new() };
        for n in 0..1000 {
            let text = format!("{n} {}", "x".repeat(1000));
            let entry = Entry { at_ms: 0, release: "v1".into(), instance: 1, stream: Stream::Out, text };
            // Never a pause in which all would be written.
            writer.serve(Order::Line(source.clone(), entry));
            assert!(writer.files[&source.dir].buffer.len() < 2 * WRITE);
        }
    }

    #[test]
    fn whoever_speaks_never_waits_and_drops_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let voice = Voice::new(&logs, &source, "v1", 1);
        // As if the disk had left the queue full.
        logs.0.queued.store(MAX_QUEUED, Ordering::Relaxed);
        voice.say(Stream::Out, "lost".into());
        voice.say(Stream::Out, "lost".into());
        logs.0.queued.store(0, Ordering::Relaxed);
        voice.say(Stream::Out, "kept".into());
        assert_eq!(read(&logs, &source, 9), [DROPPED_2, "kept"]);
    }
}
