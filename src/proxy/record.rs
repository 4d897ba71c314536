//! Record: where each request ends, whoever answered it: one call that counts it and writes its line.
//!
//! **Invariant**: a [`Visit`] is taken from here and comes back once, so each request is told once and the steady path
//! asks for no memory.

use std::time::Instant;

use super::access::{By, Visit};
use super::tools::Tools;

/// Visits kept for the next requests, with at most this much text each: half a megabyte a worker.
const KEPT: usize = 128;
const KEPT_TEXT: usize = 4 << 10;

impl Tools {
    /// For a request whose head has just come. `own_id` is the id that it brings, if it is one.
    pub fn visit(&mut self, own_id: Option<&[u8]>, sent_before: u64) -> Box<Visit> {
        let mut visit = self.visits.pop().unwrap_or_default();
        match own_id {
            Some(id) => visit.begin(id, sent_before, self.now_us),
            None => visit.begin(&self.request_id(), sent_before, self.now_us),
        }
        visit
    }

    /// The request is over; its visit comes back.
    pub fn record(&mut self, mut visit: Box<Visit>, by: By) {
        self.tell(&mut visit, by);
        self.shelve(visit);
    }

    /// The request is over. Its end is the one moment for which the clock is read anew: what has happened since the
    /// pass began is our own work, which its time should show.
    pub fn tell(&mut self, visit: &mut Visit, by: By) {
        let now_us = self.us(Instant::now());
        if matches!(by, By::Client | By::Timeout) {
            visit.leave(); // a timeout after which we say nothing is that of a client that does not read
        }
        let place = visit.upstream.and_then(|number| self.index()?.place_of(number));
        if visit.upstream.is_some() {
            let book = place.and_then(|place| self.books.get(place));
            book.map_or(self.counters.rest(), |book| book).enter(visit, by, now_us);
        }
        if let Some(why) = visit.why {
            self.counters.answers.count(visit.status, why);
        }
        if self.journal.is_on() {
            let index = self.index.as_ref();
            let app = place.zip(index).map(|(place, index)| &index.upstreams[place].name);
            if !self.journal.add(app, now_us, |out, time| visit.write(out, time, by, now_us)) {
                self.counters.lost_lines.up();
            }
        }
    }

    /// Keeps the memory of a visit that was told.
    pub fn shelve(&mut self, visit: Box<Visit>) {
        if self.visits.len() < KEPT && visit.text_room() <= KEPT_TEXT {
            self.visits.push(visit);
        }
    }

    /// At the end of a pass of the loop.
    pub fn settle(&mut self) {
        let end_us = self.us(Instant::now());
        let took = end_us.saturating_sub(self.now_us);
        if self.counters.pass_took(took, end_us) && self.may_log() {
            log::warn!("proxy-{} was busy for {} ms without a pause", self.worker, took / 1000);
        }
        self.counters.buffered.set(self.io.spare.lent() as u64);
        self.counters.idle_links.set(self.idle_links() as u64);
        self.journal.settle(end_us / 1000);
    }
}
