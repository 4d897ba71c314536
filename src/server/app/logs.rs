//! Logs: what instances print, kept in files of limited size, for many to read.
//!
//! ```text
//!   watch ─Voice.say→ [queue] → writer ─bytes→ {data}/apps/<id>/shared/logs/app.log, app.log.1 … .4
//!                                  └──blocks→ [queue of each that follows] → reading → control
//! ```
//! The files outlive instances, releases and this program; what a line of them looks like is said in `entry`. One thread
//! writes, so that who follows can be told of every line once and in order; who reads has a thread of its own, so that
//! the writer never waits for a reader, nor for what is read.
//!
//! **Invariant**: whoever says a line never waits. What comes faster than the disk takes it is dropped where it would
//! grow the queue beyond its bound, counted, and the count is written where the lines are missing.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Told;
use super::entry::Block;
use super::reading::{self, Going, Kept, MAX_READERS, Slot};
use super::requests;
use super::writer::{Answer, Ask, Order, Writer};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{LogQuery, Stream};
use crate::server::rotating::{PER_APP, Sizes};

/// Bytes that wait for the disk, of all apps together: beyond it an app has only its share.
const MAX_QUEUED: usize = 8 << 20;
/// What may wait of each app however much the others say, so that a flood does not silence its neighbours.
const SHARE: usize = 256 << 10;
/// Lines of each instance kept in memory, for the report when it fails.
const LAST_LINES: usize = 40;
/// Characters of each; it is a report and not the log.
const LAST_WIDTH: usize = 1 << 10;

/// A cloneable way to the writer's thread.
#[derive(Clone)]
pub(crate) struct Logs(Arc<Inner>);

struct Inner {
    to: Sender<Order>,
    queued: Arc<AtomicUsize>,
    readers: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One app's log.
pub(crate) struct Source {
    pub(super) dir: PathBuf,
    pub(super) sizes: Sizes,
    /// Bytes of it in the queue.
    pub(super) queued: AtomicUsize,
    /// Lines that the queue had no room for, and nobody was told of yet.
    pub(super) dropped: AtomicU64,
    /// The app is deleted: nothing is written any more.
    pub(super) closed: AtomicBool,
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

impl Logs {
    pub fn start() -> Result<Logs> {
        // Bounded in bytes by `queued`; orders that are no lines are as few as their callers.
        let (to, orders) = unbounded();
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = Writer::new(queued.clone());
        let thread = std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || writer.run(&orders))
            .context(|| "start the log thread".into())?;
        Ok(Logs(Arc::new(Inner { to, queued, readers: Arc::default(), thread: Mutex::new(Some(thread)) })))
    }

    /// What the query asks for, oldest first, until its end or until the receiver is dropped.
    ///
    /// # Errors
    /// Busy when too many are reading.
    pub fn read(&self, source: &Arc<Source>, query: &LogQuery) -> Result<Receiver<Result<Told>>> {
        let slot = Slot::take(&self.0.readers).ok_or_else(|| {
            Error::new(Kind::Busy, format!("{MAX_READERS} clients are reading logs on this server"))
                .hint("end a `tako logs --tail` that nobody looks at, or try again in a moment")
        })?;
        let (to, source) = (self.0.to.clone(), source.clone());
        if query.access {
            return reading::start(query, now_ms(), slot, move |follow| Some(requests::kept(&source, follow)));
        }
        let ask = move |follow| {
            let (answer, asked) = crossbeam_channel::bounded(1);
            let _ = to.send(Order::Read(source, Ask { follow, answer }));
            let Answer { history, live } = asked.recv().ok()?;
            Some(Kept { history, live: live.map(Going::Said) })
        };
        reading::start(query, now_ms(), slot, ask)
    }

    /// Lets go of the app's files; its folder is about to be removed. Who follows it is told.
    pub fn close(&self, source: &Arc<Source>) {
        source.closed.store(true, Ordering::Relaxed);
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
        Source::sized(dir, PER_APP)
    }

    pub(super) fn sized(dir: PathBuf, sizes: Sizes) -> Arc<Source> {
        let (queued, dropped, closed) = Default::default();
        Arc::new(Source { dir, sizes, queued, dropped, closed })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("app.log")
    }
}

impl Voice {
    pub fn new(logs: &Logs, source: &Arc<Source>, release: &str, instance: u32) -> Voice {
        let last = Arc::new(Mutex::new(VecDeque::with_capacity(LAST_LINES)));
        Voice { logs: logs.clone(), source: source.clone(), release: release.into(), instance, last }
    }

    /// Lines that came together, each with its LF.
    pub fn say(&self, stream: Stream, lines: String) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = lines.strip_suffix('\n').unwrap_or(&lines).rsplit('\n').take(LAST_LINES);
            let mut newest: Vec<String> = newest.map(|line| line.chars().take(LAST_WIDTH).collect()).collect();
            newest.reverse();
            let too_many = (last.len() + newest.len()).saturating_sub(LAST_LINES);
            last.drain(..too_many);
            last.extend(newest);
        }
        self.log(stream, lines);
    }

    /// A remark of ours: written, but not part of what the instance said.
    pub fn remark(&self, text: &str) {
        self.log(Stream::Err, format!("tako: {}\n", text.replace(['\n', '\r'], " ")));
    }

    pub fn last_lines(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn log(&self, stream: Stream, lines: String) {
        let Voice { logs: Logs(inner), source, release, instance, .. } = self;
        let block = Block::new(now_ms(), release.clone(), *instance, stream, lines);
        let size = block.size();
        let own = source.queued.fetch_add(size, Ordering::Relaxed) + size;
        let all = inner.queued.fetch_add(size, Ordering::Relaxed) + size;
        if own <= SHARE || all <= MAX_QUEUED {
            let _ = inner.to.send(Order::Block(source.clone(), block));
            return;
        }
        source.queued.fetch_sub(size, Ordering::Relaxed);
        inner.queued.fetch_sub(size, Ordering::Relaxed);
        if source.dropped.fetch_add(block.lines, Ordering::Relaxed) == 0 {
            // In the queue where the first of them is missing, and once: the count is taken when this is served.
            let _ = inner.to.send(Order::Dropped(source.clone(), release.clone(), *instance));
        }
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::proto::control::LogLine;
    use crate::proto::name::AppId;

    fn query(lines: Option<u32>, follow: bool) -> LogQuery {
        LogQuery { lines, follow, ..LogQuery::of(AppId::parse("shop").unwrap()) }
    }

    fn read(logs: &Logs, source: &Arc<Source>, query: &LogQuery) -> Vec<LogLine> {
        logs.read(source, query).unwrap().iter().flat_map(|told| told.unwrap().lines).collect()
    }

    fn texts(logs: &Logs, source: &Arc<Source>) -> Vec<String> {
        read(logs, source, &query(None, false)).into_iter().map(|l| l.text).collect()
    }

    /// The texts that one who follows hears, until there are so many.
    fn hear(told: &Receiver<Result<Told>>, count: usize) -> Vec<String> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let told = told.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
            assert_eq!(told.missed, 0);
            heard.extend(told.lines.into_iter().map(|l| l.text));
        }
        heard
    }

    fn say(voice: &Voice, text: &str) {
        voice.say(Stream::Out, format!("{text}\n"));
    }

    #[test]
    fn tells_the_last_lines_across_rotated_files_and_keeps_only_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::sized(dir.path().join("logs"), Sizes { file: 1000, files: 5 });
        let voice = Voice::new(&logs, &source, "v1", 2);
        (0..200).for_each(|n| say(&voice, &format!("line {n} é")));
        let told: Vec<String> = read(&logs, &source, &query(Some(30), false)).into_iter().map(|l| l.text).collect();
        assert_eq!(told, (170..200).map(|n| format!("line {n} é")).collect::<Vec<_>>());
        let kept = texts(&logs, &source).len();
        assert!((50..120).contains(&kept), "{kept} lines of 200 are kept");
        let sizes: Vec<u64> =
            fs::read_dir(dir.path().join("logs")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() == 5 && sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        assert_eq!(voice.last_lines().len(), LAST_LINES);
        assert_eq!(voice.last_lines().last().unwrap(), "line 199 é");
    }

    #[test]
    fn a_line_is_read_as_it_was_said_also_by_the_next_server() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(dir.path().into());
        let logs = Logs::start().unwrap();
        let before = now_ms();
        Voice::new(&logs, &source, "v1", 7).say(Stream::Err, "  a b  c\n".into());
        drop(logs);
        let lines = read(&Logs::start().unwrap(), &Source::new(dir.path().into()), &query(Some(9), false));
        assert_eq!(lines.len(), 1);
        let LogLine { at_ms, release, instance, stream, text } = &lines[0];
        assert_eq!((release.as_str(), *instance, *stream, text.as_str()), ("v1", 7, Stream::Err, "  a b  c"));
        assert!((before..=now_ms()).contains(at_ms));
    }

    #[test]
    fn the_last_lines_of_an_instance_are_kept_for_its_report() {
        let dir = tempfile::tempdir().unwrap();
        let voice = Voice::new(&Logs::start().unwrap(), &Source::new(dir.path().into()), "v1", 1);
        voice.say(Stream::Out, "one\n\n".into());
        assert_eq!(voice.last_lines(), ["one", ""]);
        voice.say(Stream::Out, (0..100).map(|n| format!("{n}\n")).collect());
        voice.say(Stream::Out, format!("{}\n", "é".repeat(2 * LAST_WIDTH)));
        voice.remark("is not of what it said");
        let last = voice.last_lines();
        assert_eq!((last.len(), last[0].as_str()), (LAST_LINES, "61"));
        assert_eq!(last[LAST_LINES - 1], "é".repeat(LAST_WIDTH));
    }

    #[test]
    fn who_follows_sees_the_tail_and_then_every_line_once() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let voice = Voice::new(&logs, &source, "v1", 1);
        (0..5).for_each(|n| say(&voice, &n.to_string()));
        let told = logs.read(&source, &query(Some(2), true)).unwrap();
        let mut heard = hear(&told, 2);
        (5..8).for_each(|n| say(&voice, &n.to_string()));
        heard.extend(hear(&told, 3));
        assert_eq!(heard, ["3", "4", "5", "6", "7"]);
    }

    /// Many come at any moment of a writing that rotates all the time.
    #[test]
    fn at_the_seam_of_kept_and_said_no_line_is_lost_or_told_twice() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        // Nothing of it is rotated away while it is read, but into many files.
        let source = Source::sized(dir.path().into(), Sizes { file: 20_000, files: 60 });
        let voice = Voice::new(&logs, &source, "v1", 1);
        const LINES: usize = 8_000;
        let expected: Vec<String> = (0..LINES).map(|n| n.to_string()).collect();
        let odd = LogQuery { grep: Some("1".into()), ..query(None, true) };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..10)
                .map(|n| {
                    let (logs, source, expected, odd) = (&logs, &source, &expected, &odd);
                    scope.spawn(move || {
                        // Each a little later than the other, by what was said and not by a clock.
                        while !(source.path().exists() && read(logs, source, &query(None, false)).len() >= n * 200) {
                            std::thread::yield_now();
                        }
                        let told = logs.read(source, &query(None, true)).unwrap();
                        assert_eq!(&hear(&told, LINES), expected);
                        let wanted: Vec<String> = expected.iter().filter(|l| l.contains('1')).cloned().collect();
                        let told = logs.read(source, odd).unwrap();
                        assert_eq!(hear(&told, wanted.len()), wanted);
                    })
                })
                .collect();
            expected.iter().for_each(|line| say(&voice, line));
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }

    #[test]
    fn wishes_hold_for_what_is_kept_and_for_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let [one, two] = [1, 2].map(|n| Voice::new(&logs, &source, &format!("v{n}"), n));
        let all = || {
            for (voice, stream) in [(&one, Stream::Out), (&two, Stream::Out), (&two, Stream::Err)] {
                voice.say(stream, "GET /\nfail here\n".into());
            }
        };
        all();
        let wish = LogQuery {
            grep: Some("FAIL".into()),
            ignore_case: true,
            release: Some("v2".into()),
            instance: Some(2),
            stream: Some(Stream::Err),
            ..query(Some(100), true)
        };
        let told = logs.read(&source, &wish).unwrap();
        assert_eq!(hear(&told, 1), ["fail here"]);
        all();
        all();
        assert_eq!(hear(&told, 2), ["fail here", "fail here"]);
        drop(told);
        assert_eq!(read(&logs, &source, &LogQuery { follow: false, ..wish }).len(), 3);
    }

    #[test]
    fn who_follows_an_app_that_is_deleted_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let told = logs.read(&source, &query(None, true)).unwrap();
        // It follows once it has been told a line.
        let voice = Voice::new(&logs, &source, "v1", 1);
        say(&voice, "one");
        assert_eq!(hear(&told, 1), ["one"]);
        logs.close(&source);
        let end = told.iter().find_map(Result::err).unwrap();
        assert_eq!((end.kind(), end.to_string().as_str()), (Kind::NotFound, "shop was deleted, and its log with it"));
        assert!(told.recv().is_err());
    }

    #[test]
    fn there_are_only_so_many_readers() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let mut readers: Vec<_> = (0..MAX_READERS).map(|_| logs.read(&source, &query(None, true)).unwrap()).collect();
        assert_eq!(logs.read(&source, &query(None, false)).unwrap_err().kind(), Kind::Busy);
        readers.pop();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while logs.read(&source, &query(None, false)).is_err() {
            assert!(std::time::Instant::now() < deadline, "one who has gone is noticed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_removed_folder_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().join("logs"));
        let voice = Voice::new(&logs, &source, "v1", 1);
        say(&voice, "one");
        assert_eq!(texts(&logs, &source), ["one"]);
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        say(&voice, "two");
        assert_eq!(texts(&logs, &source), ["two"]);
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let source = Source::new(dir.path().into());
        let voice = Voice::new(&logs, &source, "v1", 1);
        std::os::unix::fs::symlink("/dev/full", source.path()).unwrap();
        for line in ["one\n", "two\nthree\n"] {
            voice.say(Stream::Out, line.into());
            // Who reads makes the thread write first; of an endless device nothing is asked.
            read(&logs, &source, &query(Some(0), false));
        }
        fs::remove_file(source.path()).unwrap();
        say(&voice, "kept");
        assert_eq!(texts(&logs, &source), ["tako: 3 lines are missing here: the disk did not take them", "kept"]);
    }

    #[test]
    fn whoever_speaks_never_waits_and_drops_are_counted_where_they_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start().unwrap();
        let [source, neighbour] = ["a", "b"].map(|name| Source::new(dir.path().join(name)));
        let voice = Voice::new(&logs, &source, "v1", 1);
        say(&voice, "before");
        // As if the disk had left the queue full, and most of it were this app's.
        let full = |bytes| {
            source.queued.store(bytes, Ordering::Relaxed);
            logs.0.queued.store(bytes, Ordering::Relaxed);
        };
        assert_eq!(texts(&logs, &source), ["before"]);
        full(MAX_QUEUED);
        say(&voice, "lost");
        voice.say(Stream::Out, "lost\nlost\n".into());
        // Who says little has its share.
        say(&Voice::new(&logs, &neighbour, "v1", 1), "heard");
        assert_eq!(texts(&logs, &neighbour), ["heard"]);
        full(0);
        say(&voice, "kept");
        // Nobody has to say another word to have it told.
        let told = texts(&logs, &source);
        let lost = |line: &String| line.strip_prefix("tako: ")?.split(' ').next()?.parse::<u64>().ok();
        assert_eq!(told.iter().filter_map(lost).sum::<u64>(), 3, "{told:?}");
        assert_eq!((told.first().unwrap().as_str(), told.last().unwrap().as_str()), ("before", "kept"));
    }
}
