//! Merge: the lines of several servers in order of time. Pure; the time is an argument.
//!
//! A line of the past is told once every server that still speaks of it has a later one, or has told all of it. One who
//! follows cannot wait for a server that is quiet: there a line is told when it has waited [`HOLD`], which is what
//! servers may differ in being fast. The present begins when all servers have told what they kept; one that says nothing
//! for [`CATCHING_UP`] is not waited for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::control::LogLine;

/// Longer than most networks take, shorter than a person notices.
const HOLD: Duration = Duration::from_millis(250);
/// Of a server's silence before all that it kept is told. It finds the end of 50 MB of lines in a fraction of this.
const CATCHING_UP: Duration = Duration::from_secs(4);

#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Line(LogLine),
    /// So many lines are missing here.
    Missed(u64),
    /// All that was kept is told.
    UpToDate,
    /// The connection is lost, and why; another one is tried.
    Broken(String),
    /// There is another one.
    Back,
    /// Nothing more is heard, and why.
    Lost(String),
}

#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Of the server with this number.
    Piece(usize, Piece),
    /// The past is told, for one who follows; only once.
    Live,
    /// For one of those that are lacking, and no longer than this.
    Wait(Option<Duration>),
    End,
}

pub(super) struct Merge {
    queues: Vec<Queue>,
    time: Time,
}

#[derive(Clone, Copy, PartialEq)]
enum Time {
    /// Nothing else is asked for.
    Past,
    /// The past, and then the present.
    PastFirst,
    Present,
}

struct Queue {
    pieces: VecDeque<(Instant, Piece)>,
    has_ended: bool,
    heard: Instant,
}

impl Merge {
    pub fn new(servers: usize, follows: bool, now: Instant) -> Merge {
        let queues = (0..servers).map(|_| Queue { pieces: VecDeque::new(), has_ended: false, heard: now });
        Merge { queues: queues.collect(), time: if follows { Time::PastFirst } else { Time::Past } }
    }

    pub fn push(&mut self, server: usize, pieces: Vec<Piece>, now: Instant) {
        let queue = &mut self.queues[server];
        queue.heard = now;
        queue.pieces.extend(pieces.into_iter().map(|piece| (now, piece)));
    }

    pub fn end(&mut self, server: usize) {
        self.queues[server].has_ended = true;
    }

    /// Those that speak and of whom we have nothing.
    pub fn lacking(&self) -> impl Iterator<Item = usize> {
        self.queues.iter().enumerate().filter(|(_, q)| q.pieces.is_empty() && !q.has_ended).map(|(n, _)| n)
    }

    pub fn next(&mut self, now: Instant) -> Next {
        if self.time == Time::PastFirst {
            // Of those that are silent for too long what they kept is not waited for.
            let silences = self.queues.iter().filter(|q| q.pieces.is_empty() && !q.has_ended);
            let patience = silences.map(|q| CATCHING_UP.saturating_sub(now.saturating_duration_since(q.heard)));
            match patience.max() {
                Some(patience) if !patience.is_zero() => return Next::Wait(Some(patience)),
                _ => {}
            }
        }
        let heads =
            self.queues.iter().enumerate().filter_map(|(n, q)| q.pieces.front().map(|(at, piece)| (n, at, piece)));
        // What is no line has no time; of one moment the first server's come first. What is said now comes after all that
        // was kept.
        let first = heads.min_by_key(|(_, _, piece)| match piece {
            Piece::Line(line) => line.at_ms,
            Piece::UpToDate if self.time == Time::PastFirst => u64::MAX,
            Piece::Missed(_) | Piece::Broken(_) | Piece::Back | Piece::Lost(_) | Piece::UpToDate => 0,
        });
        let is_past = first.as_ref().is_some_and(|(_, _, piece)| match piece {
            Piece::Line(line) => !self.keeps_waiting(line.at_ms, now),
            Piece::Missed(_) | Piece::Broken(_) | Piece::Back | Piece::Lost(_) => true,
            Piece::UpToDate => false,
        });
        if self.time == Time::PastFirst && !is_past {
            self.time = Time::Present;
            for queue in &mut self.queues {
                if matches!(queue.pieces.front(), Some((_, Piece::UpToDate))) {
                    queue.pieces.pop_front();
                }
            }
            return Next::Live;
        }
        let Some((server, arrived, _)) = first else {
            return match self.lacking().next() {
                Some(_) => Next::Wait(None),
                None => Next::End,
            };
        };
        if self.lacking().next().is_some() {
            let waited = now.saturating_duration_since(*arrived);
            match self.time {
                Time::Past => return Next::Wait(None),
                Time::Present if waited < HOLD => return Next::Wait(Some(HOLD - waited)),
                // There it was waited for all that are worth it.
                Time::Present | Time::PastFirst => {}
            }
        }
        match self.queues[server].pieces.pop_front() {
            Some((_, piece)) => Next::Piece(server, piece),
            None => Next::End,
        }
    }
}

impl Merge {
    /// Whether another server's present is older than a line of this time and has waited for long: then that is the
    /// present, too, and its server an older one that never says so.
    fn keeps_waiting(&self, at_ms: u64, now: Instant) -> bool {
        self.queues.iter().any(|queue| {
            let mut pieces = queue.pieces.iter();
            matches!(pieces.next(), Some((at, Piece::UpToDate)) if now.saturating_duration_since(*at) >= CATCHING_UP)
                && matches!(pieces.next(), Some((_, Piece::Line(line))) if line.at_ms < at_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Stream;

    fn line(at_ms: u64) -> Piece {
        Piece::Line(LogLine { at_ms, release: "v1".into(), instance: 1, stream: Stream::Out, text: String::new() })
    }

    /// What comes until it waits or ends: server and time, and that last word.
    fn told(merge: &mut Merge, now: Instant) -> (Vec<(usize, u64)>, Next) {
        let mut told = Vec::new();
        loop {
            match merge.next(now) {
                Next::Piece(server, Piece::Line(line)) => told.push((server, line.at_ms)),
                Next::Piece(server, Piece::Missed(_) | Piece::Broken(_) | Piece::Back | Piece::Lost(_)) => {
                    told.push((server, 0));
                }
                Next::Piece(_, Piece::UpToDate) => {}
                last => return (told, last),
            }
        }
    }

    #[test]
    fn lines_come_in_order_of_time_once_every_server_has_spoken_or_ended() {
        let now = Instant::now();
        let mut merge = Merge::new(3, false, now);
        merge.push(0, vec![line(1), line(4), line(9)], now);
        merge.push(1, vec![line(2), line(4)], now);
        assert_eq!(told(&mut merge, now + 9 * HOLD), (vec![], Next::Wait(None)));
        assert_eq!(merge.lacking().collect::<Vec<_>>(), [2]);
        merge.push(2, vec![line(3)], now);
        assert_eq!(told(&mut merge, now), (vec![(0, 1), (1, 2), (2, 3)], Next::Wait(None)));
        merge.end(2);
        assert_eq!(told(&mut merge, now), (vec![(0, 4), (1, 4)], Next::Wait(None)));
        merge.end(1);
        merge.end(0);
        assert_eq!(told(&mut merge, now), (vec![(0, 9)], Next::End));
    }

    #[test]
    fn the_present_begins_when_all_servers_have_told_what_they_kept() {
        let now = Instant::now();
        let mut merge = Merge::new(3, true, now);
        merge.push(0, vec![line(5), Piece::UpToDate, line(8)], now);
        merge.push(1, vec![Piece::UpToDate], now);
        assert_eq!(told(&mut merge, now), (vec![], Next::Wait(Some(CATCHING_UP))));
        merge.push(2, vec![line(3)], now + HOLD);
        // The line that was said just now waits behind all that was kept.
        assert_eq!(told(&mut merge, now + HOLD), (vec![(2, 3)], Next::Wait(Some(CATCHING_UP))));
        merge.push(2, vec![line(6), Piece::UpToDate], now + 2 * HOLD);
        assert_eq!(told(&mut merge, now + 2 * HOLD), (vec![(0, 5), (2, 6)], Next::Live));
        assert_eq!(told(&mut merge, now + 2 * HOLD), (vec![(0, 8)], Next::Wait(None)));
    }

    #[test]
    fn one_that_never_says_where_its_past_ends_keeps_nobody_waiting_for_long() {
        let now = Instant::now();
        let mut merge = Merge::new(3, true, now);
        merge.push(0, vec![line(5), Piece::UpToDate], now);
        merge.end(2);
        assert_eq!(told(&mut merge, now + HOLD), (vec![], Next::Wait(Some(CATCHING_UP - HOLD))));
        assert_eq!(told(&mut merge, now + CATCHING_UP), (vec![(0, 5)], Next::Live));
        merge.push(1, vec![line(4)], now + CATCHING_UP);
        assert_eq!(told(&mut merge, now + CATCHING_UP), (vec![], Next::Wait(Some(HOLD))));
        assert_eq!(told(&mut merge, now + CATCHING_UP + HOLD), (vec![(1, 4)], Next::Wait(None)));
    }

    #[test]
    fn one_that_never_says_so_and_never_rests_does_not_keep_others_from_being_heard() {
        let now = Instant::now();
        let mut merge = Merge::new(2, true, now);
        merge.push(0, vec![line(5), Piece::UpToDate, line(8)], now);
        merge.push(1, vec![line(6), line(9)], now);
        // It may be the past that takes so long.
        assert_eq!(told(&mut merge, now), (vec![(0, 5), (1, 6), (1, 9)], Next::Wait(Some(CATCHING_UP))));
        let later = now + CATCHING_UP;
        merge.push(1, vec![line(7)], later);
        assert_eq!(told(&mut merge, later), (vec![(1, 7)], Next::Wait(Some(CATCHING_UP))));
        merge.push(1, vec![line(10)], later);
        assert_eq!(told(&mut merge, later), (vec![], Next::Live));
        assert_eq!(told(&mut merge, later).0, [(0, 8)]);
        assert_eq!(told(&mut merge, later + HOLD).0, [(1, 10)]);
    }

    /// Of servers that had kept nothing.
    fn present(servers: usize, now: Instant) -> Merge {
        let mut merge = Merge::new(servers, true, now);
        (0..servers).for_each(|n| merge.push(n, vec![Piece::UpToDate], now));
        assert_eq!(told(&mut merge, now), (vec![], Next::Live));
        assert_eq!(told(&mut merge, now), (vec![], if servers == 0 { Next::End } else { Next::Wait(None) }));
        merge
    }

    #[test]
    fn one_who_follows_waits_only_so_long_for_a_quiet_server() {
        let now = Instant::now();
        let mut merge = present(2, now);
        merge.push(0, vec![line(5)], now);
        assert_eq!(told(&mut merge, now), (vec![], Next::Wait(Some(HOLD))));
        merge.push(1, vec![line(3)], now + HOLD / 2);
        // The one that came late, and then nothing is known of it again.
        assert_eq!(told(&mut merge, now + HOLD / 2), (vec![(1, 3)], Next::Wait(Some(HOLD / 2))));
        assert_eq!(told(&mut merge, now + HOLD), (vec![(0, 5)], Next::Wait(None)));
    }

    #[test]
    fn of_one_server_nothing_waits_and_gaps_keep_their_place() {
        let now = Instant::now();
        let mut merge = present(1, now);
        merge.push(0, vec![line(5), Piece::Missed(7), line(4)], now);
        assert_eq!(told(&mut merge, now), (vec![(0, 5), (0, 0), (0, 4)], Next::Wait(None)));
        merge.push(0, vec![Piece::Lost("gone".into())], now);
        merge.end(0);
        assert_eq!(told(&mut merge, now), (vec![(0, 0)], Next::End));
        present(0, now);
    }

    #[test]
    fn one_that_is_lost_and_comes_back_keeps_nobody_waiting() {
        let now = Instant::now();
        let mut merge = present(2, now);
        merge.push(0, vec![line(5), Piece::Broken("gone".into())], now);
        assert_eq!(told(&mut merge, now + HOLD), (vec![(0, 5), (0, 0)], Next::Wait(None)));
        merge.push(1, vec![line(9)], now + HOLD);
        assert_eq!(told(&mut merge, now + 2 * HOLD), (vec![(1, 9)], Next::Wait(None)));
        // What was said meanwhile, and then what comes.
        merge.push(0, vec![Piece::Back, line(7), Piece::UpToDate, line(10)], now + 2 * HOLD);
        assert_eq!(told(&mut merge, now + 3 * HOLD), (vec![(0, 0), (0, 7), (0, 10)], Next::Wait(None)));
    }
}
