//! Merge: the lines of several servers in order of time. Pure; the time is an argument.
//!
//! A line is told once every server that still speaks has a later one, or has ended. One who follows cannot wait for a
//! server that is quiet: there a line is told when it has waited [`HOLD`], which is what servers may differ in being
//! fast.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::control::LogLine;

/// Longer than most networks take, shorter than a person notices.
const HOLD: Duration = Duration::from_millis(250);

#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Line(LogLine),
    /// So many lines are missing here.
    Missed(u64),
    /// Nothing more is heard, and why.
    Lost(String),
}

#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Of the server with this number.
    Piece(usize, Piece),
    /// For one of those that are lacking, and no longer than this.
    Wait(Option<Duration>),
    End,
}

pub(super) struct Merge {
    queues: Vec<Queue>,
    is_live: bool,
}

struct Queue {
    pieces: VecDeque<(Instant, Piece)>,
    has_ended: bool,
}

impl Merge {
    pub fn new(servers: usize, is_live: bool) -> Merge {
        let queues = (0..servers).map(|_| Queue { pieces: VecDeque::new(), has_ended: false });
        Merge { queues: queues.collect(), is_live }
    }

    pub fn push(&mut self, server: usize, pieces: Vec<Piece>, now: Instant) {
        self.queues[server].pieces.extend(pieces.into_iter().map(|piece| (now, piece)));
    }

    pub fn end(&mut self, server: usize) {
        self.queues[server].has_ended = true;
    }

    /// Those that speak and of whom we have nothing.
    pub fn lacking(&self) -> impl Iterator<Item = usize> {
        self.queues.iter().enumerate().filter(|(_, q)| q.pieces.is_empty() && !q.has_ended).map(|(n, _)| n)
    }

    pub fn next(&mut self, now: Instant) -> Next {
        let heads =
            self.queues.iter().enumerate().filter_map(|(n, q)| q.pieces.front().map(|(at, piece)| (n, at, piece)));
        // What is no line has no time; of one moment the first server's come first.
        let first = heads.min_by_key(|(_, _, piece)| match piece {
            Piece::Line(line) => line.at_ms,
            Piece::Missed(_) | Piece::Lost(_) => 0,
        });
        let Some((server, arrived, _)) = first else {
            return match self.lacking().next() {
                Some(_) => Next::Wait(None),
                None => Next::End,
            };
        };
        if self.lacking().next().is_some() {
            let waited = now.saturating_duration_since(*arrived);
            match self.is_live {
                false => return Next::Wait(None),
                true if waited < HOLD => return Next::Wait(Some(HOLD - waited)),
                true => {}
            }
        }
        match self.queues[server].pieces.pop_front() {
            Some((_, piece)) => Next::Piece(server, piece),
            None => Next::End,
        }
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
                Next::Piece(server, Piece::Missed(_) | Piece::Lost(_)) => told.push((server, 0)),
                last => return (told, last),
            }
        }
    }

    #[test]
    fn lines_come_in_order_of_time_once_every_server_has_spoken_or_ended() {
        let now = Instant::now();
        let mut merge = Merge::new(3, false);
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
    fn one_who_follows_waits_only_so_long_for_a_quiet_server() {
        let now = Instant::now();
        let mut merge = Merge::new(2, true);
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
        let mut merge = Merge::new(1, true);
        merge.push(0, vec![line(5), Piece::Missed(7), line(4)], now);
        assert_eq!(told(&mut merge, now), (vec![(0, 5), (0, 0), (0, 4)], Next::Wait(None)));
        merge.push(0, vec![Piece::Lost("gone".into())], now);
        merge.end(0);
        assert_eq!(told(&mut merge, now), (vec![(0, 0)], Next::End));
        assert_eq!(told(&mut Merge::new(0, true), now).1, Next::End);
    }
}
