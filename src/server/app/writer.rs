//! Writer: the thread that has the log files of all apps, and the only one that writes to them.
//!
//! **Invariant**: it waits for nothing but the disk: one who follows and is slow misses lines, and is told how many. A
//! line is told to those who follow after they were handed the files that end before it, so that nobody is told it twice
//! or not at all.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::entry::Block;
use super::history::History;
use super::logs::{Source, now_ms};
use crate::disk;
use crate::proto::control::Stream;
use crate::server::rotating::Rotating;

/// Bytes of one app that are written at once.
const WRITE: usize = 64 << 10;
/// Bytes that wait for one who follows: what an app says while a connection is slow to take it.
const MAX_WAITING: usize = 1 << 20;

pub(super) enum Order {
    Block(Arc<Source>, Block),
    /// Lines of this release and instance, and maybe others', are missing from here on.
    Dropped(Arc<Source>, Arc<str>, u32),
    Read(Arc<Source>, Ask),
    Close(Arc<Source>),
    End,
}

pub(super) struct Ask {
    pub follow: bool,
    pub answer: Sender<Answer>,
}

/// What is kept, and right behind it what is said from now on.
pub(super) struct Answer {
    pub history: History,
    pub live: Option<Live>,
}

/// The end of one who follows.
pub(super) struct Live {
    heard: Receiver<Heard>,
    behind: Arc<Behind>,
}

pub(super) enum Heard {
    Block(Arc<Block>),
    /// So many lines are missing from here on.
    Missed(u64),
    /// The app was deleted.
    Closed,
}

/// How far one who follows is behind.
#[derive(Default)]
struct Behind {
    waiting: AtomicUsize,
    missed: AtomicU64,
}

pub(super) struct Writer {
    queued: Arc<AtomicUsize>,
    logs: HashMap<PathBuf, Log>,
    followers: Vec<Follower>,
}

struct Log {
    source: Arc<Source>,
    /// None until it can be opened, and again when it cannot be written to.
    file: Option<Rotating>,
    buffer: Vec<u8>,
    /// Lines in the buffer.
    buffered: u64,
    /// Lines that the disk did not take, and the file does not tell of yet.
    lost: u64,
    /// Who spoke last, as which a remark is written.
    release: Arc<str>,
    instance: u32,
}

struct Follower {
    dir: PathBuf,
    to: Sender<Heard>,
    behind: Arc<Behind>,
}

impl Writer {
    pub fn new(queued: Arc<AtomicUsize>) -> Writer {
        Writer { queued, logs: HashMap::new(), followers: Vec::new() }
    }

    pub fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let mut next = Some(order);
            // What came meanwhile is one write.
            while let Some(order) = next {
                if !self.serve(order) {
                    return self.flush();
                }
                next = orders.try_recv().ok();
            }
            self.flush();
        }
    }

    fn serve(&mut self, order: Order) -> bool {
        match order {
            Order::Block(source, block) => {
                source.queued.fetch_sub(block.size(), Ordering::Relaxed);
                self.queued.fetch_sub(block.size(), Ordering::Relaxed);
                self.write(&source, block);
            }
            Order::Dropped(source, release, instance) => {
                let dropped = source.dropped.swap(0, Ordering::Relaxed);
                self.write(&source, remark(dropped, "they came faster than the disk took them", release, instance));
            }
            Order::Read(source, ask) => self.read(&source, ask),
            Order::Close(source) => {
                self.logs.remove(&source.dir);
                self.followers.retain(|f| {
                    let is_its = f.dir == source.dir;
                    if is_its {
                        let _ = f.to.send(Heard::Closed);
                    }
                    !is_its
                });
            }
            Order::End => return false,
        }
        true
    }

    fn write(&mut self, source: &Arc<Source>, block: Block) {
        // The last words of an instance of an app that is deleted must not bring its folder back.
        if source.closed.load(Ordering::Relaxed) {
            return;
        }
        let log = self.logs.entry(source.dir.clone()).or_insert_with(|| Log::new(source, &block));
        log.append(&block);
        if self.followers.iter().any(|f| f.dir == source.dir) {
            let block = Arc::new(block);
            self.followers.retain(|f| f.dir != source.dir || f.tell(&block));
        }
    }

    fn read(&mut self, source: &Arc<Source>, ask: Ask) {
        // Those of quiet apps are never told a line, and would stay for ever.
        self.followers.retain(Follower::is_there);
        if let Some(log) = self.logs.get_mut(&source.dir) {
            log.flush();
        }
        let history = History::open(&source.path(), source.sizes.files);
        let live = ask.follow.then(|| {
            // Bounded in bytes by `waiting`.
            let (to, heard) = unbounded();
            let behind = Arc::<Behind>::default();
            if source.closed.load(Ordering::Relaxed) {
                let _ = to.send(Heard::Closed);
            }
            self.followers.push(Follower { dir: source.dir.clone(), to, behind: behind.clone() });
            Live { heard, behind }
        });
        // One who has gone meanwhile needs no answer.
        let _ = ask.answer.send(Answer { history, live });
    }

    fn flush(&mut self) {
        self.logs.values_mut().for_each(Log::flush);
    }
}

impl Log {
    fn new(source: &Arc<Source>, first: &Block) -> Log {
        let (release, instance) = (first.release.clone(), first.instance);
        Log { source: source.clone(), file: None, buffer: Vec::new(), buffered: 0, lost: 0, release, instance }
    }

    fn append(&mut self, block: &Block) {
        (self.release, self.instance) = (block.release.clone(), block.instance);
        block.print(&mut self.buffer);
        self.buffered += block.lines;
        // Where files are small so is what is written at once: it decides how well they are filled.
        if self.buffer.len() >= WRITE.min(self.source.sizes.file as usize / 8) {
            self.flush();
        }
    }

    /// What cannot be written is counted, and told of with the next that can.
    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.lost > 0 {
            let lines = std::mem::take(&mut self.buffer);
            remark(self.lost, "the disk did not take them", self.release.clone(), self.instance)
                .print(&mut self.buffer);
            self.buffer.extend_from_slice(&lines);
        }
        match self.put() {
            Ok(()) => self.lost = 0,
            Err(e) => {
                if self.lost == 0 {
                    log::warn!("cannot write {} error={e}", self.source.path().display());
                }
                self.file = None;
                self.lost += self.buffered;
            }
        }
        self.buffer.clear();
        // One burst must not be held for ever.
        self.buffer.shrink_to(2 * WRITE);
        self.buffered = 0;
    }

    fn put(&mut self) -> io::Result<()> {
        match &mut self.file {
            None => self.file.insert(open(&self.source)?).append(&self.buffer),
            Some(file) => match file.append(&self.buffer) {
                // Somebody has removed it, and the lines with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    *file = open(&self.source)?;
                    file.append(&self.buffer)
                }
                other => other,
            },
        }
    }
}

impl Follower {
    /// False when it has gone. What it has no room for is counted.
    fn tell(&self, block: &Arc<Block>) -> bool {
        let Behind { waiting, missed } = &*self.behind;
        if waiting.load(Ordering::Relaxed) + block.size() <= MAX_WAITING {
            waiting.fetch_add(block.size(), Ordering::Relaxed);
            return self.to.send(Heard::Block(block.clone())).is_ok();
        }
        // Where the first of them is missing, and once: the count is taken when this is heard.
        missed.fetch_add(block.lines, Ordering::Relaxed) > 0 || self.to.send(Heard::Missed(0)).is_ok()
    }

    fn is_there(&self) -> bool {
        // The other one is its `Live`.
        Arc::strong_count(&self.behind) > 1
    }
}

impl Live {
    /// # Errors
    /// Timeout, or Disconnected when the writer has ended.
    pub fn next(&self, patience: std::time::Duration) -> Result<Heard, crossbeam_channel::RecvTimeoutError> {
        let heard = self.heard.recv_timeout(patience)?;
        Ok(match heard {
            Heard::Block(block) => {
                self.behind.waiting.fetch_sub(block.size(), Ordering::Relaxed);
                Heard::Block(block)
            }
            Heard::Missed(_) => Heard::Missed(self.behind.missed.swap(0, Ordering::Relaxed)),
            Heard::Closed => Heard::Closed,
        })
    }
}

fn open(source: &Source) -> io::Result<Rotating> {
    disk::make_dirs(&source.dir, 0o700).map_err(io::Error::other)?;
    Rotating::open(source.path(), source.sizes)
}

fn remark(lines: u64, why: &str, release: Arc<str>, instance: u32) -> Block {
    let text = format!("tako: {lines} lines are missing here: {why}\n");
    Block::new(now_ms(), release, instance, Stream::Err, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn block(text: &str) -> Block {
        Block::new(0, "v1".into(), 1, Stream::Out, format!("{text}\n"))
    }

    fn follow(writer: &mut Writer, source: &Arc<Source>) -> Live {
        let (answer, asked) = crossbeam_channel::bounded(1);
        writer.serve(Order::Read(source.clone(), Ask { follow: true, answer }));
        asked.recv().unwrap().live.unwrap()
    }

    fn say(writer: &mut Writer, source: &Arc<Source>, block: Block) {
        source.queued.fetch_add(block.size(), Ordering::Relaxed);
        writer.queued.fetch_add(block.size(), Ordering::Relaxed);
        writer.serve(Order::Block(source.clone(), block));
    }

    fn world() -> (tempfile::TempDir, Arc<Source>, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(dir.path().into());
        (dir, source, Writer::new(Arc::default()))
    }

    #[test]
    fn a_flood_is_not_kept_in_memory() {
        let (_dir, source, mut writer) = world();
        for n in 0..1000 {
            // Never a pause in which all would be written.
            say(&mut writer, &source, block(&format!("{n} {}", "x".repeat(1000))));
            assert!(writer.logs[&source.dir].buffer.capacity() < 3 * WRITE);
        }
    }

    #[test]
    fn one_who_is_slow_misses_lines_and_hears_how_many_and_where() {
        let (_dir, source, mut writer) = world();
        let live = follow(&mut writer, &source);
        let text = "x".repeat(10_000);
        let fit = MAX_WAITING / block(&text).size();
        (0..fit + 20).for_each(|_| say(&mut writer, &source, block(&text)));
        assert!(live.behind.waiting.load(Ordering::Relaxed) <= MAX_WAITING);
        let next = || live.next(Duration::ZERO);
        for _ in 0..fit {
            assert!(matches!(next(), Ok(Heard::Block(_))));
        }
        say(&mut writer, &source, block("there is room again"));
        assert!(matches!(next(), Ok(Heard::Missed(20))));
        assert!(matches!(next(), Ok(Heard::Block(b)) if b.text == "there is room again\n"));
        assert!(next().is_err());
    }

    #[test]
    fn one_who_has_gone_is_forgotten_even_when_the_app_is_quiet() {
        let (_dir, source, mut writer) = world();
        drop(follow(&mut writer, &source));
        drop(follow(&mut writer, &source));
        let _live = follow(&mut writer, &source);
        assert_eq!(writer.followers.len(), 1);
        say(&mut writer, &source, block("one"));
        drop(_live);
        say(&mut writer, &source, block("two"));
        assert!(writer.followers.is_empty());
    }

    #[test]
    fn of_an_app_that_is_deleted_nothing_comes_back() {
        let (dir, source, mut writer) = world();
        say(&mut writer, &source, block("one"));
        let live = follow(&mut writer, &source);
        source.closed.store(true, Ordering::Relaxed);
        writer.serve(Order::Close(source.clone()));
        std::fs::remove_dir_all(dir.path()).unwrap();
        say(&mut writer, &source, block("last words"));
        writer.flush();
        assert!(!dir.path().exists());
        assert!(matches!(live.next(Duration::ZERO), Ok(Heard::Closed)));
        assert!(matches!(follow(&mut writer, &source).next(Duration::ZERO), Ok(Heard::Closed)));
    }
}
