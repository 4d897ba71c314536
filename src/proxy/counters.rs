//! Counters: what one worker counts, and the sum over all of them.
//!
//! Each worker has its own, on cache lines of its own, and is their only writer: counting is a load and a store, and
//! whoever sums may read at any time. [`Metrics`] is what leaves the data plane: plain numbers.
//!
//! **Invariant**: what is counted by name is bounded: apps of the table, at most [`MAX_APPS`] of them, and reasons that
//! are literals of this program. Never an address, a path, or anything else that a client can choose.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::access::{By, Visit};
use super::table::Index;

/// Apps with numbers of their own; a server with more counts the rest together.
const MAX_APPS: usize = 200;
/// What the rest is called; no app can have this name. Requests that outlive their app are in it too.
const REST: &str = "_other";
/// Different reasons of one kind; there are some seventy literals.
const MAX_REASONS: usize = 128;
/// A pass of the loop that takes longer holds up everybody: a bug, or a machine that is out of breath.
pub(super) const STALL_US: u64 = 50_000;
/// The slowest pass is told for one to two of these, in microseconds.
const WINDOW_US: u64 = 10_000_000;

/// Upper bounds of the histograms, in microseconds: from an app on loopback to a client that gives up.
pub(crate) const BUCKETS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 2_500_000, 10_000_000];

/// A number with one writer.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    pub fn up(&self) {
        self.add(1);
    }

    pub fn down(&self) {
        self.set(self.get().saturating_sub(1));
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts. Two lines of the cache, since processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub accepted: Count,
    pub accept_pauses: Count,
    /// Idle conns closed to make room, and those closed because their time was over.
    pub evicted: Count,
    pub idled: Count,
    pub tunnels: Count,
    pub idle_links: Count,
    /// Bytes that wait in chunks.
    pub buffered: Count,
    /// Clients that took their answers too slowly.
    pub cut: Count,
    pub full_handshakes: Count,
    pub resumed_handshakes: Count,
    pub panics: Count,
    pub stalls: Count,
    pub lost_lines: Count,
    slowest: Slowest,
    /// What we answered ourselves, by status and reason.
    pub answers: Reasons,
    /// By reason; the status is 0.
    pub failed_handshakes: Reasons,
    books: Mutex<Vec<(Arc<str>, Arc<Book>)>>,
    rest: Arc<Book>,
}

/// What one worker counts of one app.
#[derive(Debug, Default)]
pub(super) struct Book {
    classes: [Count; 6],
    ends: [Count; 5],
    bytes_in: Count,
    bytes_out: Count,
    retries: Count,
    failures: Count,
    reused: Count,
    opened: Count,
    duration: Buckets,
    upstream: Buckets,
}

#[derive(Debug, Default)]
struct Buckets {
    counts: [Count; BUCKETS.len() + 1],
    sum_us: Count,
}

/// The slowest pass of this window and of the one before.
#[derive(Debug, Default)]
struct Slowest {
    window: Count,
    now: Count,
    before: Count,
}

/// How often what happened, by status and a literal.
#[derive(Debug)]
pub(super) struct Reasons([(OnceLock<(u16, &'static str)>, Count); MAX_REASONS]);

impl Default for Reasons {
    fn default() -> Self {
        Reasons(std::array::from_fn(|_| Default::default()))
    }
}

impl Reasons {
    pub fn count(&self, status: u16, why: &'static str) {
        let slot = self.0.iter().find(|(key, _)| *key.get_or_init(|| (status, why)) == (status, why));
        debug_assert!(slot.is_some(), "more than {MAX_REASONS} reasons");
        if let Some((_, count)) = slot {
            count.up();
        }
    }

    fn add_to(&self, sum: &mut BTreeMap<(u16, &'static str), u64>) {
        for (key, count) in self.0.iter().map_while(|(key, count)| key.get().map(|key| (key, count))) {
            *sum.entry(*key).or_default() += count.get();
        }
    }
}

impl Counters {
    /// The books for the upstreams of `index`, in its order. Those of apps that it does not have are closed.
    pub fn adopt(&self, index: &Index) -> Vec<Arc<Book>> {
        let mut books = self.books();
        let old = std::mem::take(&mut *books);
        let named = index.upstreams.iter().take(MAX_APPS).map(|upstream| {
            let kept = old.iter().find(|(name, _)| *name == upstream.name);
            (upstream.name.clone(), kept.map_or_else(Arc::default, |(_, book)| book.clone()))
        });
        books.extend(named);
        let rest = std::iter::repeat_n(&self.rest, index.upstreams.len().saturating_sub(MAX_APPS));
        books.iter().map(|(_, book)| book).chain(rest).cloned().collect()
    }

    /// For a request whose app has left the table.
    pub fn rest(&self) -> &Book {
        &self.rest
    }

    /// A pass of the loop has taken `us`. True when that is too long.
    pub fn pass_took(&self, us: u64, now_us: u64) -> bool {
        self.slowest.note(us, now_us / WINDOW_US);
        let stalled = us > STALL_US;
        if stalled {
            self.stalls.up();
        }
        stalled
    }

    fn books(&self) -> MutexGuard<'_, Vec<(Arc<str>, Arc<Book>)>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what this worker has counted.
    pub fn add_to(&self, sum: &mut Metrics) {
        for (from, to) in [
            (&self.accepted, &mut sum.accepted),
            (&self.accept_pauses, &mut sum.accept_pauses),
            (&self.evicted, &mut sum.evicted),
            (&self.idled, &mut sum.idled),
            (&self.tunnels, &mut sum.tunnels),
            (&self.idle_links, &mut sum.idle_links),
            (&self.buffered, &mut sum.buffered),
            (&self.cut, &mut sum.cut),
            (&self.full_handshakes, &mut sum.full_handshakes),
            (&self.resumed_handshakes, &mut sum.resumed_handshakes),
            (&self.panics, &mut sum.panics),
            (&self.stalls, &mut sum.stalls),
            (&self.lost_lines, &mut sum.lost_lines),
        ] {
            *to += from.get();
        }
        sum.slowest_pass_us = sum.slowest_pass_us.max(self.slowest.get());
        self.answers.add_to(&mut sum.answers);
        self.failed_handshakes.add_to(&mut sum.failed_handshakes);
        for (name, book) in self.books().iter() {
            // A worker may not have heard yet that an app has gone.
            if let Some(app) = sum.apps.get_mut(name) {
                book.add_to(app);
            }
        }
        if self.rest.classes.iter().any(|class| class.get() > 0) {
            self.rest.add_to(sum.apps.entry(REST.into()).or_default());
        }
    }
}

impl Book {
    /// Enters a request that has ended.
    pub fn enter(&self, visit: &Visit, by: By, now_us: u64) {
        self.classes[usize::from(visit.status / 100).min(5)].up();
        self.ends[by as usize].up();
        self.bytes_in.add(visit.bytes_in);
        self.bytes_out.add(visit.bytes_out);
        self.retries.add(u64::from(visit.retries()));
        self.failures.add(u64::from(visit.failures));
        self.reused.add(u64::from(visit.reused));
        self.opened.add(u64::from(visit.opened));
        if !visit.switched {
            self.duration.note(now_us.saturating_sub(visit.began)); // that of a tunnel says how long people stay
        }
        if let Some(us) = visit.upstream_us() {
            self.upstream.note(us);
        }
    }

    fn add_to(&self, app: &mut App) {
        let add = |to: &mut [u64], from: &[Count]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from.get());
        add(&mut app.classes, &self.classes);
        add(&mut app.ends, &self.ends);
        app.bytes_in += self.bytes_in.get();
        app.bytes_out += self.bytes_out.get();
        app.retries += self.retries.get();
        app.failures += self.failures.get();
        app.reused += self.reused.get();
        app.opened += self.opened.get();
        for (to, from) in [(&mut app.duration, &self.duration), (&mut app.upstream, &self.upstream)] {
            add(&mut to.counts, &from.counts);
            to.sum_us += from.sum_us.get();
        }
    }
}

impl Buckets {
    fn note(&self, us: u64) {
        let at = BUCKETS.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS.len());
        self.counts[at].up();
        self.sum_us.add(us);
    }
}

impl Slowest {
    fn note(&self, us: u64, window: u64) {
        if self.window.get() != window {
            let next = self.window.get() + 1 == window;
            self.before.set(if next { self.now.get() } else { 0 });
            self.now.set(0);
            self.window.set(window);
        }
        if us > self.now.get() {
            self.now.set(us);
        }
    }

    fn get(&self) -> u64 {
        self.now.get().max(self.before.get())
    }
}

/// The numbers of the data plane at one moment. Times are in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metrics {
    /// The apps of the newest table, and the rest when there is one.
    pub apps: BTreeMap<Arc<str>, App>,
    /// Answers of our own by status and reason.
    pub answers: BTreeMap<(u16, &'static str), u64>,
    pub connections: u64,
    pub max_connections: u64,
    pub accepted: u64,
    pub accept_pauses: u64,
    pub evicted: u64,
    pub idled: u64,
    pub tunnels: u64,
    pub idle_links: u64,
    pub buffered: u64,
    pub cut: u64,
    /// Requests that wait for a sleeping app.
    pub parked: u64,
    pub full_handshakes: u64,
    pub resumed_handshakes: u64,
    pub failed_handshakes: BTreeMap<(u16, &'static str), u64>,
    pub panics: u64,
    pub stalls: u64,
    /// Of the last ten to twenty seconds.
    pub slowest_pass_us: u64,
    /// Access lines for which there was no room.
    pub lost_lines: u64,
    pub tables: u64,
}

/// The numbers of one app.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct App {
    /// In balancing.
    pub endpoints: u64,
    /// Requests by the first digit of their status; 0 are those that got none.
    pub classes: [u64; 6],
    /// Requests by who ended them, in the order of [`ENDS`].
    pub ends: [u64; 5],
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub retries: u64,
    pub failures: u64,
    pub reused: u64,
    pub opened: u64,
    pub duration: Histogram,
    pub upstream: Histogram,
}

/// The words for [`App::ends`].
pub(crate) const ENDS: [&str; 5] = ["done", "client", "endpoint", "timeout", "proxy"];

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    /// By [`BUCKETS`], and beyond the last.
    pub counts: [u64; BUCKETS.len() + 1],
    pub sum_us: u64,
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::index;
    use super::*;

    fn visit(status: u16) -> Visit {
        let mut visit = Visit::default();
        visit.begin(b"id", 0, 1000);
        visit.ask(false, 1000);
        (visit.status, visit.bytes_in, visit.bytes_out) = (status, 2, 3);
        visit
    }

    fn sum(counters: &Counters, apps: &[&str]) -> Metrics {
        let apps = apps.iter().map(|name| (Arc::from(*name), App::default())).collect();
        let mut sum = Metrics { apps, ..Metrics::default() };
        counters.add_to(&mut sum);
        sum
    }

    #[test]
    fn an_app_keeps_its_numbers_from_table_to_table_and_loses_them_with_its_place() {
        let counters = Counters::default();
        let books = counters.adopt(&index(&["a.b", "c.d"]));
        books[1].enter(&visit(204), By::Nobody, 1500);
        let books = counters.adopt(&index(&["0.b", "a.b", "c.d"]));
        books[2].enter(&visit(503), By::Proxy, 1501);
        let app = &sum(&counters, &["a.b", "c.d"]).apps["c.d"];
        assert_eq!((app.classes, app.ends), ([0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1]));
        assert_eq!((app.bytes_in, app.bytes_out, app.opened), (4, 6, 2));
        assert_eq!((app.duration.counts[..2].to_vec(), app.duration.sum_us), (vec![1, 1], 1001));
        assert_eq!(sum(&counters, &["a.b"]).apps.len(), 1, "nothing is told of an app that the table lacks");
        counters.adopt(&index(&["a.b"]));
        counters.adopt(&index(&["a.b", "c.d"]));
        assert_eq!(sum(&counters, &["c.d"]).apps["c.d"], App::default());
    }

    #[test]
    fn too_many_apps_are_counted_together() {
        let names: Vec<String> = (0..MAX_APPS + 3).map(|n| format!("a{n}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let counters = Counters::default();
        let books = counters.adopt(&index(&names));
        assert_eq!(books.len(), names.len());
        books.iter().for_each(|book| book.enter(&visit(200), By::Nobody, 0));
        let sum = sum(&counters, &names);
        assert_eq!(sum.apps[REST].classes[2], 3);
        assert_eq!(sum.apps[names[0]].classes[2], 1);
    }

    #[test]
    fn reasons_are_counted_one_by_one() {
        let reasons = Reasons::default();
        for (status, why) in [(400, "a"), (400, "b"), (431, "a"), (400, "a")] {
            reasons.count(status, why);
        }
        let mut sum = BTreeMap::new();
        reasons.add_to(&mut sum);
        assert_eq!(sum, BTreeMap::from([((400, "a"), 2), ((400, "b"), 1), ((431, "a"), 1)]));
    }

    #[test]
    fn the_slowest_pass_is_forgotten_after_two_windows() {
        let counters = Counters::default();
        assert!(!counters.pass_took(STALL_US, 5));
        assert!(counters.pass_took(STALL_US + 1, 6));
        let slowest = |now_us| {
            counters.pass_took(10, now_us);
            sum(&counters, &[]).slowest_pass_us
        };
        assert_eq!(slowest(WINDOW_US), STALL_US + 1);
        assert_eq!(slowest(2 * WINDOW_US), 10);
        assert_eq!(slowest(9 * WINDOW_US), 10);
        assert_eq!(sum(&counters, &[]).stalls, 1);
    }

    #[test]
    fn every_end_has_its_word() {
        for by in [By::Nobody, By::Client, By::Endpoint, By::Timeout, By::Proxy] {
            assert_eq!(ENDS[by as usize], by.word().unwrap_or("done"));
        }
    }
}
