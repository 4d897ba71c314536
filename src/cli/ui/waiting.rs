//! Waiting: what is going on while there is nothing to show yet, and the lines of a list whose items come one by one.
//!
//! **Invariant**: what was only waited for leaves no line behind, on a terminal or elsewhere; a long wait is still told
//! off a terminal, by the heartbeat.

use std::time::Instant;

use super::Ui;
use super::look::{Glyph, Paint, paint};
use super::tree::Id;

/// A line of the progress tree that goes away when this is dropped.
pub(crate) struct Waiting {
    ui: Ui,
    id: Id,
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
    fn items_line_up_and_long_ones_go_on_below_themselves() {
        let (ui, out, _) = Ui::captured_narrow(true);
        ui.item(Mark::Good, "tcp", 7, "203.0.113.7 answers");
        ui.item(Mark::Odd, "resolve", 7, "one two three four five six seven eight nine ten eleven");
        ui.item(Mark::Skipped, "é", 7, "");
        let expected = "✓ tcp      203.0.113.7 answers\n! resolve  one two three four five six seven eight nine ten\n           eleven\n– é\n";
        assert_eq!(out.text(), expected);
    }
}
