//! Reading: the thread of one who reads a log: first what is kept, then, when it is followed, what is being said.
//!
//! **Invariant**: a reader costs one thread and a bounded part of memory, however long the log is and however slowly it is
//! taken, and there are [`MAX_READERS`] at most. It hears every line that its sieve passes once and in order, or, of lines
//! that came while it was too slow, how many are missing and where.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Told;
use super::entry::Entry;
use super::history::History;
use super::requests::Tail;
use super::sieve::Sieve;
use super::writer::{Heard, Live};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{LogLine, LogQuery};
use crate::proto::name::AppId;

/// Each may hold two megabytes, and the files of a log that is long rotated away.
pub(super) const MAX_READERS: usize = 32;
/// Lines told at once, in bytes.
const CHUNK: usize = 64 << 10;
/// Chunks that wait to be taken; then the reading waits.
const MAX_CHUNKS: usize = 4;
/// So often one that follows is sent at least an empty chunk: it shows who has gone.
const BEAT: Duration = Duration::from_secs(1);

/// The right to be one of the readers; given back on drop.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Slot {
    pub fn take(readers: &Arc<AtomicUsize>) -> Option<Slot> {
        let slot = Slot(readers.clone());
        (readers.fetch_add(1, Ordering::Relaxed) < MAX_READERS).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is kept, and how it goes on.
pub(super) struct Kept {
    pub history: History,
    pub live: Option<Going>,
}

pub(super) enum Going {
    /// The writer tells.
    Said(Live),
    /// A file is looked at.
    Asked(Tail),
}

/// Starts the thread; `ask` says what there is, and nothing once the writer has ended.
pub(super) fn start(
    query: &LogQuery,
    now_ms: u64,
    slot: Slot,
    ask: impl FnOnce(bool) -> Option<Kept> + Send + 'static,
) -> Result<Receiver<Result<Told>>> {
    let (to, told) = bounded(MAX_CHUNKS);
    let (sieve, last, follow, app) = (Sieve::new(query, now_ms), query.lines, query.follow, query.app.clone());
    let run = move || {
        let _slot = slot;
        let mut out = Out { to, lines: Vec::new(), bytes: 0, missed: 0, said: Instant::now() };
        let read = match ask(follow) {
            Some(Kept { history, live }) => {
                let kept = history.read(&sieve, last, |entry| out.push(entry));
                let kept = kept.context(|| format!("read the log of {app}"));
                // The files are not held any longer than they are read.
                drop(history);
                let is_heard = out.flush() && (live.is_none() || kept.is_err() || out.up_to_date());
                match (is_heard, kept, live) {
                    (_, Err(e), _) => Err(e),
                    (true, Ok(()), Some(Going::Said(live))) => listen(&live, &sieve, &mut out, &app),
                    (true, Ok(()), Some(Going::Asked(tail))) => look(tail, &sieve, &mut out, &app),
                    (_, Ok(()), _) => Ok(()),
                }
            }
            None => Err(stopping()),
        };
        if let Err(e) = read {
            // One who has gone does not mind.
            let _ = out.to.send(Err(e));
        }
    };
    std::thread::Builder::new()
        .name("logs-read".into())
        .spawn(run)
        .context(|| "start a thread to read a log".into())?;
    Ok(told)
}

/// Until nobody listens any more, or there is nothing left to hear.
fn listen(live: &Live, sieve: &Sieve, out: &mut Out, app: &AppId) -> Result<()> {
    loop {
        let mut patience = BEAT;
        // What is there already is one chunk.
        loop {
            match live.next(patience) {
                Ok(Heard::Block(block)) => {
                    if !block.entries().filter(|entry| sieve.passes(entry)).all(|entry| out.push(&entry)) {
                        return Ok(());
                    }
                }
                Ok(Heard::Missed(lines)) => {
                    if !out.miss(lines) {
                        return Ok(());
                    }
                }
                Ok(Heard::Closed) => {
                    out.flush();
                    return Err(deleted(app));
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    out.flush();
                    return Err(stopping());
                }
            }
            patience = Duration::ZERO;
            // Of a flood nothing may pass, and who waits for it may have gone.
            if out.said.elapsed() >= BEAT {
                break;
            }
        }
        if !out.flush() || !out.beat() {
            return Ok(());
        }
    }
}

/// The same of a file.
fn look(mut tail: Tail, sieve: &Sieve, out: &mut Out, app: &AppId) -> Result<()> {
    loop {
        let goes_on = tail.next(|entry| !sieve.passes(entry) || out.push(entry));
        if !goes_on.context(|| format!("read the access log of {app}"))? || !out.flush() || !out.beat() {
            return Ok(());
        }
        if tail.is_closed() {
            return Err(deleted(app));
        }
    }
}

fn deleted(app: &AppId) -> Error {
    Error::new(Kind::NotFound, format!("{app} was deleted, and its log with it"))
}

fn stopping() -> Error {
    Error::new(Kind::Busy, "tako-server is stopping").hint("try again in a moment")
}

/// The way to the one who reads.
struct Out {
    to: Sender<Result<Told>>,
    lines: Vec<LogLine>,
    bytes: usize,
    missed: u64,
    said: Instant,
}

impl Out {
    /// False when nobody listens; so are the others.
    fn push(&mut self, entry: &Entry<'_>) -> bool {
        let line = entry.to_line();
        self.bytes += line.text.len() + line.release.len() + size_of::<LogLine>();
        self.lines.push(line);
        self.bytes < CHUNK || self.flush()
    }

    fn miss(&mut self, lines: u64) -> bool {
        let is_told = self.flush();
        self.missed += lines;
        is_told
    }

    fn flush(&mut self) -> bool {
        (self.lines.is_empty() && self.missed == 0) || self.send()
    }

    fn beat(&mut self) -> bool {
        self.said.elapsed() < BEAT || self.send()
    }

    /// All that was kept is told.
    fn up_to_date(&mut self) -> bool {
        self.tell(true)
    }

    fn send(&mut self) -> bool {
        self.tell(false)
    }

    fn tell(&mut self, up_to_date: bool) -> bool {
        let lines = std::mem::take(&mut self.lines);
        let told = Told { missed: std::mem::take(&mut self.missed), lines, up_to_date };
        self.bytes = 0;
        let is_told = self.to.send(Ok(told)).is_ok();
        self.said = Instant::now();
        is_told
    }
}
