//! Same: equal neighbouring lines told as one, with how often they came. Pure; the time is an argument.
//!
//! One who looks at the past is told each line once it is known how often it came. One who follows is told a line at once,
//! and what repeats it when something else comes, or after [`PATIENCE`].

use std::time::{Duration, Instant};

use crate::proto::control::LogLine;

/// How long one who follows may not know that a line is still being repeated.
const PATIENCE: Duration = Duration::from_secs(2);

/// A line of one server, by its number among them.
pub(super) type Line = (usize, LogLine);

pub(super) struct Same {
    is_live: bool,
    held: Option<Held>,
}

struct Held {
    line: Line,
    /// How often it came since it was told last.
    count: u64,
    since: Instant,
}

impl Same {
    pub fn new(is_live: bool) -> Same {
        Same { is_live, held: None }
    }

    /// From the past to the present: what was repeated is told, and what repeats it yet is told as what comes now.
    pub fn go_live(&mut self, now: Instant) -> Vec<(Line, u64)> {
        self.is_live = true;
        let Some(held) = &mut self.held else { return Vec::new() };
        held.since = now;
        vec![(held.line.clone(), std::mem::take(&mut held.count))]
    }

    /// What is told now: lines, each with how often it came.
    pub fn on(&mut self, line: Line, now: Instant) -> Vec<(Line, u64)> {
        if let Some(held) = &mut self.held
            && is_same(&held.line, &line)
        {
            held.count += 1;
            // The last one's time says until when it went on.
            if self.is_live {
                held.line = line;
            }
            return if self.is_live { self.due(now) } else { Vec::new() };
        }
        let mut told = self.end();
        let count = u64::from(!self.is_live);
        if self.is_live {
            told.push((line.clone(), 1));
        }
        self.held = Some(Held { line, count, since: now });
        told
    }

    /// What has waited too long.
    pub fn due(&mut self, now: Instant) -> Vec<(Line, u64)> {
        match &mut self.held {
            Some(held) if self.is_live && held.count > 0 && now >= held.since + PATIENCE => {
                held.since = now;
                vec![(held.line.clone(), std::mem::take(&mut held.count))]
            }
            _ => Vec::new(),
        }
    }

    /// Until something is due.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        let held = self.held.as_ref().filter(|held| self.is_live && held.count > 0)?;
        Some((held.since + PATIENCE).saturating_duration_since(now))
    }

    /// What is left at the end, or before something that is no line.
    pub fn end(&mut self) -> Vec<(Line, u64)> {
        self.held.take().filter(|held| held.count > 0).map(|held| (held.line, held.count)).into_iter().collect()
    }
}

fn is_same((server, a): &Line, (other, b): &Line) -> bool {
    let of = |line: &LogLine| (line.instance, line.stream);
    server == other && of(a) == of(b) && a.release == b.release && a.text == b.text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Stream;

    fn line(server: usize, at_ms: u64, text: &str) -> Line {
        (server, LogLine { at_ms, release: "v1".into(), instance: 1, stream: Stream::Out, text: text.into() })
    }

    fn shown(told: Vec<(Line, u64)>) -> Vec<String> {
        told.into_iter()
            .map(|((server, line), count)| format!("{server} {} {} × {count}", line.at_ms, line.text))
            .collect()
    }

    #[test]
    fn of_the_past_each_line_is_told_with_how_often_it_came() {
        let now = Instant::now();
        let mut same = Same::new(false);
        let lines =
            [line(0, 1, "a"), line(0, 2, "a"), line(0, 3, "a"), line(1, 4, "a"), line(1, 5, "b"), line(1, 6, "a")];
        let mut told: Vec<String> = lines.into_iter().flat_map(|line| shown(same.on(line, now))).collect();
        told.extend(shown(same.end()));
        assert_eq!(told, ["0 1 a × 3", "1 4 a × 1", "1 5 b × 1", "1 6 a × 1"]);
        assert!(same.end().is_empty());
    }

    #[test]
    fn the_past_is_told_before_the_present_and_its_last_line_may_go_on() {
        let now = Instant::now();
        let mut same = Same::new(false);
        assert!(same.go_live(now).is_empty());
        let mut same = Same::new(false);
        assert!(same.on(line(0, 1, "a"), now).is_empty() && same.on(line(0, 2, "a"), now).is_empty());
        assert_eq!(shown(same.go_live(now)), ["0 1 a × 2"]);
        assert!(same.on(line(0, 3, "a"), now).is_empty());
        assert_eq!(shown(same.due(now + PATIENCE)), ["0 3 a × 1"]);
        assert_eq!(shown(same.on(line(0, 4, "b"), now + PATIENCE)), ["0 4 b × 1"]);
    }

    #[test]
    fn one_who_follows_is_told_at_once_and_of_repetitions_now_and_then() {
        let now = Instant::now();
        let mut same = Same::new(true);
        assert_eq!(shown(same.on(line(0, 1, "a"), now)), ["0 1 a × 1"]);
        assert_eq!(same.patience(now), None);
        assert!(same.on(line(0, 2, "a"), now).is_empty() && same.on(line(0, 3, "a"), now).is_empty());
        assert_eq!(same.patience(now), Some(PATIENCE));
        assert!(same.due(now).is_empty());
        assert_eq!(shown(same.due(now + PATIENCE)), ["0 3 a × 2"]);
        assert_eq!(same.patience(now + PATIENCE), None);
        // Nothing is told twice.
        assert_eq!(shown(same.on(line(0, 4, "b"), now + PATIENCE)), ["0 4 b × 1"]);
        assert!(same.on(line(0, 5, "b"), now + PATIENCE).is_empty());
        assert_eq!(shown(same.on(line(0, 6, "c"), now + PATIENCE)), ["0 5 b × 1", "0 6 c × 1"]);
        assert!(same.end().is_empty());
    }
}
