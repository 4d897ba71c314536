//! Journal: a worker's access lines on their way to whoever keeps them, and the time that they say.
//!
//! Lines gather in one buffer and are handed over as a batch when there are enough, or a moment after the first.
//!
//! **Invariant**: the worker never waits for the keeper. Batches are as many as the channel takes; a line that finds no
//! room is left out and counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::access::MAX_LINE;

/// Bytes of one batch; it is not grown.
const BATCH: usize = 64 << 10;
/// A batch this full is handed over at the end of the pass.
const FULL: usize = BATCH / 2;
/// How long a line may wait for others, in milliseconds: a person who watches does not notice, and a write to a file
/// serves many lines.
const PATIENCE: u64 = 100;
/// Batches that wait for the keeper, of all workers: 2 MiB.
const WAITING: usize = 32;
/// At the end a worker gives the keeper so much time to take the last batch.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// Lines of one worker, in the order they came true.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    parts: Vec<(Option<Arc<str>>, usize)>,
}

/// The workers' end.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    full: Sender<Batch>,
    empty: Receiver<Batch>,
}

/// The keeper's end. It ends when no worker is left.
#[derive(Debug)]
pub(crate) struct Inlet {
    full: Receiver<Batch>,
    empty: Sender<Batch>,
}

pub(crate) fn channel() -> (Outlet, Inlet) {
    let (full, filled) = bounded(WAITING);
    let (empty, emptied) = bounded(WAITING);
    (Outlet { full, empty: emptied }, Inlet { full: filled, empty })
}

#[cfg(test)]
impl Outlet {
    pub fn offer(&self, batch: Batch) -> Result<(), crossbeam_channel::TrySendError<Batch>> {
        self.full.try_send(batch)
    }
}

impl Inlet {
    /// The next batch, as soon as there is one; `None` at the end.
    pub fn next(&self) -> Option<Batch> {
        self.full.recv().ok()
    }

    /// Gives a batch that has been read back, to be filled again.
    pub fn give_back(&self, mut batch: Batch) {
        batch.clear();
        let _ = self.empty.try_send(batch); // one too many is not kept
    }
}

impl Batch {
    /// Whole lines with the upstream they belong to; `None` are the requests of no app.
    pub fn parts(&self) -> impl Iterator<Item = (Option<&Arc<str>>, &[u8])> {
        let mut start = 0;
        self.parts.iter().map(move |(app, end)| {
            let lines = &self.bytes[start..*end];
            start = *end;
            (app.as_ref(), lines)
        })
    }

    /// Adds lines of one upstream, as a worker does.
    #[cfg(test)]
    pub fn push(&mut self, app: Option<&Arc<str>>, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
        self.extend_to(app, self.bytes.len());
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }

    /// What was added up to `end` is of `app`.
    fn extend_to(&mut self, app: Option<&Arc<str>>, end: usize) {
        match self.parts.last_mut() {
            Some((last, to)) if last.as_ref().map(Arc::as_ptr) == app.map(Arc::as_ptr) => *to = end,
            _ => self.parts.push((app.cloned(), end)),
        }
    }
}

pub(super) struct Journal {
    outlet: Option<Outlet>,
    batch: Batch,
    /// When the first line of the batch came, in milliseconds.
    since: u64,
    clock: WallClock,
}

impl Journal {
    pub fn new(outlet: Option<Outlet>) -> Self {
        Journal { outlet, batch: Batch::default(), since: 0, clock: WallClock::new() }
    }

    pub fn is_on(&self) -> bool {
        self.outlet.is_some()
    }

    /// Adds the line that `write` appends, given the time in words. False when there is no room for it.
    pub fn add(&mut self, app: Option<&Arc<str>>, now_us: u64, write: impl FnOnce(&mut Vec<u8>, &[u8])) -> bool {
        if self.batch.bytes.len() + MAX_LINE > BATCH && !self.hand_over() {
            return false;
        }
        if self.batch.bytes.is_empty() {
            self.since = now_us / 1000;
            self.batch.bytes.reserve_exact(BATCH);
        }
        write(&mut self.batch.bytes, self.clock.stamp(now_us));
        let end = self.batch.bytes.len();
        self.batch.extend_to(app, end);
        true
    }

    /// When there is something to hand over, in milliseconds.
    pub fn due(&self) -> Option<u64> {
        (!self.batch.bytes.is_empty()).then_some(self.since + PATIENCE)
    }

    /// At the end of a pass. A keeper that is behind is tried again after a while.
    pub fn settle(&mut self, now: u64) {
        if (self.batch.bytes.len() >= FULL || self.due().is_some_and(|at| at <= now)) && !self.hand_over() {
            self.since = now;
        }
    }

    fn hand_over(&mut self) -> bool {
        let Some(outlet) = self.outlet.as_ref().filter(|outlet| !outlet.full.is_full()) else { return false };
        let batch = std::mem::replace(&mut self.batch, outlet.empty.try_recv().unwrap_or_default());
        // Another worker may have been faster; a keeper that has gone takes nothing, and is the end of us anyway.
        match outlet.full.try_send(batch) {
            Ok(()) => true,
            Err(e) => {
                self.batch = e.into_inner();
                false
            }
        }
    }

    /// The last batch, when the worker ends.
    pub fn finish(&mut self) {
        if let Some(outlet) = self.outlet.take().filter(|_| !self.batch.bytes.is_empty()) {
            // Whoever keeps nothing any more has said so by going.
            let _ = outlet.full.send_timeout(std::mem::take(&mut self.batch), LAST_CHANCE);
        }
    }
}

/// Turns the worker's clock into RFC 3339 with milliseconds. The system's clock is read once a second.
struct WallClock {
    /// Of our clock, when it was last compared.
    compared: u64,
    /// What our clock must be moved by, in microseconds since 1970.
    offset: u64,
    /// The second that `text` says.
    second: u64,
    text: Vec<u8>,
}

impl WallClock {
    fn new() -> Self {
        WallClock { compared: u64::MAX, offset: 0, second: u64::MAX, text: Vec::new() }
    }

    fn stamp(&mut self, now_us: u64) -> &[u8] {
        if self.compared != now_us / 1_000_000 {
            self.compared = now_us / 1_000_000;
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
            self.offset = wall.saturating_sub(now_us);
        }
        self.say((now_us + self.offset) / 1000)
    }

    fn say(&mut self, wall_ms: u64) -> &[u8] {
        let (second, ms) = (wall_ms / 1000, wall_ms % 1000);
        if self.second != second {
            self.second = second;
            let at = jiff::Timestamp::from_second(second as i64).unwrap_or_default();
            self.text.clear();
            self.text.extend_from_slice(at.to_string().trim_end_matches('Z').as_bytes());
            self.text.extend_from_slice(b".000Z");
        }
        let at = self.text.len() - 4;
        for (i, unit) in [100, 10, 1].into_iter().enumerate() {
            self.text[at + i] = b'0' + (ms / unit % 10) as u8;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(journal: &mut Journal, app: Option<&Arc<str>>, line: &str, now_us: u64) -> bool {
        journal.add(app, now_us, |out, _| out.extend_from_slice(line.as_bytes()))
    }

    #[test]
    fn a_batch_keeps_lines_by_app_and_in_order() {
        let (outlet, inlet) = channel();
        let mut journal = Journal::new(Some(outlet));
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        for (app, line) in [(Some(&a), "1\n"), (Some(&a), "2\n"), (None, "3\n"), (Some(&b), "4\n"), (Some(&a), "5\n")] {
            assert!(add(&mut journal, app, line, 7_000));
        }
        assert_eq!(journal.due(), Some(7 + PATIENCE));
        journal.settle(7 + PATIENCE - 1);
        assert!(inlet.full.is_empty(), "it waits for others");
        journal.settle(7 + PATIENCE);
        assert_eq!(journal.due(), None);
        let batch = inlet.next().unwrap();
        let parts: Vec<_> =
            batch.parts().map(|(app, l)| (app.map(|a| a.to_string()), String::from_utf8(l.into()).unwrap())).collect();
        let part = |app: Option<&str>, lines: &str| (app.map(String::from), lines.to_string());
        assert_eq!(
            parts,
            [part(Some("a"), "1\n2\n"), part(None, "3\n"), part(Some("b"), "4\n"), part(Some("a"), "5\n")]
        );
        inlet.give_back(batch);
        assert!(add(&mut journal, None, "6\n", 0));
        journal.finish();
        assert_eq!(inlet.next().unwrap().parts().map(|(_, l)| l.to_vec()).collect::<Vec<_>>(), [b"6\n"]);
        drop(journal);
        assert!(inlet.next().is_none());
    }

    #[test]
    fn a_keeper_that_is_behind_costs_lines_and_not_time_or_memory() {
        let (outlet, inlet) = channel();
        let mut journal = Journal::new(Some(outlet));
        let line = "x".repeat(1000);
        let (mut kept, mut lost) = (0, 0);
        for _ in 0..(WAITING + 2) * BATCH / 1000 {
            match add(&mut journal, None, &line, 0) {
                true => kept += 1,
                false => lost += 1,
            }
            assert!(journal.batch.bytes.capacity() <= BATCH);
        }
        assert_eq!(inlet.full.len(), WAITING);
        assert!(lost > 0 && kept * 1000 <= (WAITING + 1) * BATCH, "{kept} kept, {lost} lost");
        // As soon as there is room it goes on.
        let batch = inlet.next().unwrap();
        assert!(batch.bytes.len() <= BATCH);
        inlet.give_back(batch);
        assert!(add(&mut journal, None, &line, 0));
        let left = kept + 1 - BATCH_LINES;
        let rest = std::iter::from_fn(|| inlet.full.try_recv().ok()).map(|b| b.bytes.len() / 1000).sum::<usize>();
        assert_eq!(rest + journal.batch.bytes.len() / 1000, left, "nothing that was taken is lost");
    }

    /// Lines of 1000 bytes that one batch holds.
    const BATCH_LINES: usize = (BATCH - MAX_LINE) / 1000 + 1;

    #[test]
    fn time_is_told_in_utc_with_milliseconds() {
        let mut clock = WallClock::new();
        let mut say = |ms| String::from_utf8(clock.say(ms).to_vec()).unwrap();
        assert_eq!(say(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(say(1_767_323_045_078), "2026-01-02T03:04:05.078Z");
        assert_eq!(say(1_767_323_045_999), "2026-01-02T03:04:05.999Z");
        assert_eq!(say(1_767_323_046_000), "2026-01-02T03:04:06.000Z");
        let stamp = String::from_utf8(clock.stamp(5).to_vec()).unwrap();
        let told: jiff::Timestamp = stamp.parse().unwrap();
        assert!(told.duration_until(jiff::Timestamp::now()).as_millis().abs() < 5_000, "{stamp}");
    }
}
