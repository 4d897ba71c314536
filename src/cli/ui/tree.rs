//! The tasks under way as a tree, and the lines that show it. Pure: the time is an argument, nothing is written here.
//!
//! ```text
//! ✓ Build     412 files · 2.4 MB                                      3.2s
//! ⠹ Deploy    1 of 2 servers live                                     5.2s
//!   ├ ✓ fra1  live · 2 instances                                      3.9s
//!   └ ⠹ nyc1  uploading ███████░░░░░ 58%   1.4/2.4 MB   1.1 MB/s
//! ```

use std::time::{Duration, Instant};

use super::look::{Glyph, Look, Paint, columns, fit, paint};
use super::units;

/// Where the time stands, at most: lines stay readable on a wide terminal.
const WIDEST: usize = 76;
/// Shortest column of labels among tasks without a parent, so that they line up while new ones come.
const LABELS: usize = 8;
/// Cells of a progress bar.
const BAR: u64 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u64);

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Stopped,
}

#[derive(Default)]
pub(super) struct Tree {
    tasks: Vec<Task>,
    next: u64,
    ended: bool,
}

struct Task {
    id: Id,
    parent: Option<Id>,
    label: String,
    text: String,
    bar: Option<Bar>,
    started: Instant,
    ended: Option<(End, Duration)>,
}

struct Bar {
    since: Instant,
    first: u64,
    done: u64,
    total: u64,
}

impl Tree {
    pub fn add(&mut self, parent: Option<Id>, label: &str, now: Instant) -> Id {
        self.next += 1;
        let id = Id(self.next);
        let label = label.into();
        self.tasks.push(Task { id, parent, label, text: String::new(), bar: None, started: now, ended: None });
        id
    }

    pub fn forget(&mut self, id: Id) {
        self.tasks.retain(|task| task.id != id);
    }

    /// Whether this says something new. A new state ends a progress bar.
    pub fn set(&mut self, id: Id, text: &str) -> bool {
        let Some(task) = self.task_mut(id) else { return false };
        let new = task.text != text;
        if new {
            task.text = text.into();
            task.bar = None;
        }
        new
    }

    pub fn progress(&mut self, id: Id, done: u64, total: u64, now: Instant) {
        let Some(task) = self.task_mut(id) else { return };
        let bar = task.bar.get_or_insert(Bar { since: now, first: done, done, total });
        (bar.done, bar.total) = (done.min(total), total);
    }

    /// How long it took.
    pub fn end(&mut self, id: Id, end: End, text: &str, now: Instant) -> Duration {
        self.ended = true;
        let Some(task) = self.task_mut(id) else { return Duration::ZERO };
        let took = now.saturating_duration_since(task.started);
        if !text.is_empty() {
            task.text = text.into();
        }
        task.bar = None;
        task.ended = Some((end, took));
        if end == End::Done {
            self.fold(id);
        }
        took
    }

    /// What is below a task that went well is of no interest any more, as far as it went well itself.
    fn fold(&mut self, id: Id) {
        let family = self.family(id);
        let well = |t: &Task| matches!(t.ended, Some((End::Done, _)));
        if family.iter().all(|id| self.task(*id).is_some_and(well)) {
            self.tasks.retain(|t| t.id == id || !family.contains(&t.id));
        }
    }

    /// The task's name for a line of its own: that of its parents and its own, `fra1 upload`.
    pub fn name(&self, id: Id) -> String {
        let mut names: Vec<&str> = Vec::new();
        let mut at = Some(id);
        while let Some(task) = at.and_then(|id| self.task(id)) {
            names.push(&task.label);
            at = task.parent;
        }
        names.reverse();
        names.join(" ")
    }

    /// An error names its server or its step, and so does its line: once is enough.
    pub fn without_label<'t>(&self, id: Id, text: &'t str) -> &'t str {
        let split = text
            .split_once(": ")
            .filter(|(first, _)| self.task(id).is_some_and(|task| task.label.to_lowercase() == first.to_lowercase()));
        split.map_or(text, |(_, rest)| rest)
    }

    /// Whether a task ever ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Names of what is under way and has nothing under way below it.
    pub fn running(&self) -> Vec<String> {
        let running = |t: &Task| t.ended.is_none();
        let leaf = |t: &Task| !self.tasks.iter().any(|c| c.parent == Some(t.id) && running(c));
        self.tasks.iter().filter(|t| running(t) && leaf(t)).map(|t| self.name(t.id)).collect()
    }

    /// Forgets the tasks at the front that ended with all that is below them, and returns their last lines.
    pub fn take_ended(&mut self, now: Instant, room: usize, look: &Look) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(root) = self.tasks.iter().find(|t| t.parent.is_none()).map(|t| t.id) {
            let family = self.family(root);
            if family.iter().any(|id| self.task(*id).is_some_and(|t| t.ended.is_none())) {
                break;
            }
            lines.extend(self.lines_of(root, now, room, look));
            self.tasks.retain(|t| !family.contains(&t.id));
        }
        lines
    }

    pub fn lines(&self, now: Instant, room: usize, look: &Look) -> Vec<String> {
        let roots: Vec<Id> = self.tasks.iter().filter(|t| t.parent.is_none()).map(|t| t.id).collect();
        roots.into_iter().flat_map(|root| self.lines_of(root, now, room, look)).collect()
    }

    fn lines_of(&self, root: Id, now: Instant, room: usize, look: &Look) -> Vec<String> {
        let mut lines = Vec::new();
        self.draw(root, "", "", now, room, look, &mut lines);
        lines
    }

    #[expect(clippy::too_many_arguments, reason = "a recursion that carries what every line needs")]
    fn draw(&self, id: Id, lead: &str, below: &str, now: Instant, room: usize, look: &Look, out: &mut Vec<String>) {
        let Some(task) = self.task(id) else { return };
        let labels = self.tasks.iter().filter(|t| t.parent == task.parent).map(|t| columns(&t.label));
        let least = if task.parent.is_none() { LABELS } else { 0 };
        out.push(task.line(lead, labels.chain([least]).max().unwrap_or(least), now, room, look));

        let children: Vec<Id> = self.tasks.iter().filter(|t| t.parent == Some(id)).map(|t| t.id).collect();
        for (i, child) in children.iter().enumerate() {
            let (branch, stem) = if i + 1 == children.len() { ("└ ", "  ") } else { ("├ ", "│ ") };
            let (lead, below) = (format!("{below}  {branch}"), format!("{below}  {stem}"));
            self.draw(*child, &lead, &below, now, room, look, out);
        }
    }

    fn family(&self, root: Id) -> Vec<Id> {
        let mut family = vec![root];
        // A child is always added after its parent.
        for task in &self.tasks {
            if task.parent.is_some_and(|p| family.contains(&p)) {
                family.push(task.id);
            }
        }
        family
    }

    fn task(&self, id: Id) -> Option<&Task> {
        self.tasks.iter().find(|t| t.id == id)
    }

    fn task_mut(&mut self, id: Id) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|t| t.id == id)
    }
}

impl Task {
    fn line(&self, lead: &str, labels: usize, now: Instant, room: usize, look: &Look) -> String {
        /// One turn of the spinner's ten pictures a second.
        const FRAME_MS: u128 = 100;
        let took = self.ended.map_or_else(|| now.saturating_duration_since(self.started), |(_, took)| took);
        let (glyph, color) = match self.ended {
            None => (Glyph::Running, Paint::Cyan),
            Some((End::Done, _)) => (Glyph::Done, Paint::Green),
            Some((End::Failed, _)) => (Glyph::Failed, Paint::Red),
            Some((End::Stopped, _)) => (Glyph::Stopped, Paint::Yellow),
        };
        let frame = usize::try_from(took.as_millis() / FRAME_MS).unwrap_or(0);
        let glyph = paint(look.color_err, color, look.glyph(glyph, frame));

        let lead = look.spell(lead);
        let label = look.spell(&self.label);
        let pad = " ".repeat(labels.saturating_sub(columns(&label)));
        let time = units::duration(took);
        let before = columns(&lead) + 2 + labels + 2;
        let text_room = room.min(WIDEST).saturating_sub(before + 1 + columns(&time));
        let text = fit(&look.spell(&self.shown(now)), text_room);
        let gap = " ".repeat(text_room.saturating_sub(columns(&text)) + 1);
        let label = paint(look.color_err, Paint::Bold, &label);
        format!("{lead}{glyph} {label}{pad}  {text}{gap}{}", paint(look.color_err, Paint::Dim, &time))
    }

    fn shown(&self, now: Instant) -> String {
        match &self.bar {
            None => self.text.clone(),
            Some(bar) => format!("{} {}", self.text, bar.shown(now)).trim_start().into(),
        }
    }
}

impl Bar {
    fn shown(&self, now: Instant) -> String {
        let total = self.total.max(1);
        let part = |of: u64| u64::try_from(u128::from(self.done) * u128::from(of) / u128::from(total)).unwrap_or(of);
        let full = part(BAR);
        let cells: String = (0..BAR).map(|cell| if cell < full { '█' } else { '░' }).collect();
        let mut shown = format!("{cells} {}%   {} of {}", part(100), units::size(self.done), units::size(self.total));
        let took = now.saturating_duration_since(self.since).as_millis();
        // A rate over less than a moment is noise.
        if took >= 500 {
            let rate = u128::from(self.done.saturating_sub(self.first)) * 1000 / took;
            shown += &format!("   {}/s", units::size(u64::try_from(rate).unwrap_or(u64::MAX)));
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look {
        color_out: false,
        color_err: false,
        unicode: true,
        terminal_out: true,
        terminal_err: true,
        animated: true,
        interactive: true,
        actions: false,
    };

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn sample(start: Instant) -> Tree {
        let mut tree = Tree::default();
        let build = tree.add(None, "Build", start);
        tree.end(build, End::Done, "412 files · 2.4 MB", after(start, 3200));
        let deploy = tree.add(None, "Deploy", start);
        tree.set(deploy, "1 of 3 servers live");
        let fra = tree.add(Some(deploy), "fra1", start);
        tree.end(fra, End::Done, "live · 2 instances", after(start, 3900));
        let nyc = tree.add(Some(deploy), "nyc-12", start);
        tree.end(nyc, End::Failed, "instance 1 of 2 not ready after 30s", after(start, 4000));
        let sin = tree.add(Some(deploy), "sin1", after(start, 3000));
        tree.set(sin, "uploading");
        tree.progress(sin, 0, 2_400_000, after(start, 4000));
        tree.progress(sin, 1_400_000, 2_400_000, after(start, 5000));
        tree
    }

    #[test]
    fn draws_the_tree_as_reviewed() {
        let start = Instant::now();
        let drawn = sample(start).lines(after(start, 5250), 100, &LOOK).join("\n");
        let expected = "\
✓ Build     412 files · 2.4 MB                                          3.2s
⠹ Deploy    1 of 3 servers live                                         5.2s
  ├ ✓ fra1    live · 2 instances                                        3.9s
  ├ ✗ nyc-12  instance 1 of 2 not ready after 30s                       4.0s
  └ ⠹ sin1    uploading ███████░░░░░ 58%   1.4 MB of 2.4 MB   1.1 MB/s  2.2s";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn draws_in_ascii_and_never_wider_than_the_terminal() {
        let start = Instant::now();
        let look = Look { unicode: false, ..LOOK };
        let lines = sample(start).lines(after(start, 5250), 40, &look);
        assert_eq!(lines[0], "+ Build     412 files - 2.4 MB      3.2s");
        for line in &lines {
            assert!(columns(line) <= 40, "{line}");
        }
        for line in sample(start).lines(start, 3, &LOOK) {
            assert!(columns(&line) < 60, "{line}");
        }
    }

    #[test]
    fn what_ended_at_the_front_is_taken_and_what_runs_stays() {
        let start = Instant::now();
        let mut tree = sample(start);
        assert_eq!(tree.take_ended(start, 80, &LOOK).len(), 1);
        assert_eq!(tree.take_ended(start, 80, &LOOK).len(), 0);
        assert_eq!(tree.lines(start, 80, &LOOK).len(), 4);
        assert_eq!(tree.running(), ["Deploy sin1"]);
    }

    #[test]
    fn a_task_that_went_well_says_it_in_one_line() {
        let start = Instant::now();
        let mut tree = Tree::default();
        let upload = tree.add(None, "Upload", start);
        let one = tree.add(Some(upload), "fra1", start);
        let two = tree.add(Some(upload), "nyc1", start);
        tree.end(one, End::Done, "sent", start);
        tree.end(two, End::Done, "sent", start);
        assert_eq!(tree.lines(start, 80, &LOOK).len(), 3);
        tree.end(upload, End::Done, "2.4 MB sent", start);
        assert_eq!(tree.lines(start, 80, &LOOK).len(), 1);
        let mixed = tree.add(None, "Upload", start);
        let child = tree.add(Some(mixed), "fra1", start);
        tree.end(child, End::Failed, "no", start);
        tree.end(mixed, End::Done, "", start);
        assert_eq!(tree.lines(start, 80, &LOOK).len(), 3);
    }

    #[test]
    fn a_progress_beyond_the_total_is_full_and_an_empty_one_is_not_a_division() {
        let start = Instant::now();
        let mut tree = Tree::default();
        let id = tree.add(None, "Upload", start);
        tree.progress(id, 10, 0, start);
        tree.lines(start, 80, &LOOK);
        tree.progress(id, u64::MAX, 5, start);
        assert!(tree.lines(start, 80, &LOOK)[0].contains("100%"));
    }
}
