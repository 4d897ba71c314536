//! Waiting: what is going on while there is nothing to show yet, and the lines of a list whose items come one by one.
//!
//! **Invariant**: what was only waited for leaves no line behind, on a terminal or elsewhere; a long wait is still told
//! off a terminal, by the heartbeat.

use std::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::look::{Glyph, Paint, paint};
use super::tree::Id;
use super::{Task, Ui};

/// A line of the progress tree that goes away when this is dropped.
pub(crate) struct Waiting {
    ui: Ui,
    id: Id,
}

/// A state that a task has when this still lives after a while: what is over in a moment needs no word.
pub(crate) struct Late {
    done: Option<Sender<Infallible>>,
    clock: Option<JoinHandle<()>>,
}

/// How one item of a list turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Bad,
    /// It was not looked at, and that is fine.
    Skipped,
    /// It works, and somebody should know about it.
    Odd,
}

impl Ui {
    /// `label` is what is waited for, such as a server; `text` what it is at.
    pub fn waiting(&self, label: &str, text: &str) -> Waiting {
        let id = self.screen().wait(label, text, Instant::now());
        self.inner.start_renderer();
        Waiting { ui: self.clone(), id }
    }

    /// `text` for standard output in the colour that goes with a number, to tell one server's lines from another's.
    pub fn tinted(&self, number: usize, text: &str) -> String {
        const TINTS: [Paint; 4] = [Paint::Cyan, Paint::Yellow, Paint::Green, Paint::Bold];
        paint(self.inner.look.color_out, TINTS[number % TINTS.len()], text)
    }

    /// An item of a list on standard output: `✓ resolve      ana@fra1`. The label takes at least `width` columns, and what
    /// has no room beside it goes on below itself.
    pub fn item(&self, mark: Mark, label: &str, width: usize, text: &str) {
        if self.is_json() {
            return;
        }
        let look = &self.inner.look;
        let (glyph, color) = match mark {
            Mark::Good => (look.glyph(Glyph::Done, 0), Paint::Green),
            Mark::Bad => (look.glyph(Glyph::Failed, 0), Paint::Red),
            Mark::Skipped => (look.glyph(Glyph::Stopped, 0), Paint::Dim),
            Mark::Odd => ("!", Paint::Yellow),
        };
        // The glyph, a blank, the label, two blanks.
        let hang = width + 4;
        let lines = match self.room(look.terminal_out) {
            Some(room) if room >= 2 * hang => super::fold::fold(&look.spell(text), room - hang),
            _ => look.spell(text),
        };
        let text = lines.replace('\n', &format!("\n{}", " ".repeat(hang)));
        let line = format!("{} {label:width$}  {text}", paint(look.color_out, color, glyph));
        self.out(line.trim_end());
    }
}

impl Task {
    pub fn set_after(&self, delay: Duration, state: &str) -> Late {
        let (done, over) = bounded(0);
        let (ui, id, state) = (self.ui.clone(), self.id, state.to_string());
        let clock = thread::spawn(move || {
            if over.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
                ui.screen().set(id, &state, Instant::now());
            }
        });
        Late { done: Some(done), clock: Some(clock) }
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.done.take();
        if let Some(clock) = self.clock.take() {
            // It only waits and writes; there is nothing to do about its panic that was not done.
            let _ = clock.join();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.ui.screen().forget(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Settings;

    #[test]
    fn what_was_waited_for_leaves_nothing_behind() {
        let (ui, out, err) = Ui::captured(Settings::default());
        drop(ui.waiting("fra1", "asking"));
        ui.close().unwrap();
        assert_eq!((out.text(), err.text()), (String::new(), String::new()));
    }

    #[test]
    fn what_takes_longer_is_told() {
        let (ui, _, err) = Ui::captured(Settings::default());
        let task = ui.task("Check");
        drop(task.set_after(Duration::from_secs(3600), "never said"));
        let late = task.set_after(Duration::ZERO, "reading the sources");
        let until = Instant::now() + Duration::from_secs(20);
        while !err.text().contains("check reading the sources") {
            assert!(Instant::now() < until, "{}", err.text());
            thread::yield_now();
        }
        drop(late);
        task.done("config");
        assert!(!err.text().contains("never said"));
    }

    #[test]
    fn items_line_up_and_long_ones_go_on_below_themselves() {
        let (ui, out, _) = Ui::captured_narrow(true);
        ui.item(Mark::Good, "tcp", 7, "203.0.113.7 answers");
        ui.item(Mark::Odd, "resolve", 7, "one two three four five six seven eight nine ten eleven");
        ui.item(Mark::Skipped, "é", 7, "");
        let expected = "✓ tcp      203.0.113.7 answers\n! resolve  one two three four five six seven eight nine ten\n           eleven\n– é\n";
        assert_eq!(out.text(), expected);
    }
}
