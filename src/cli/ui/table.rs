//! A left-aligned table under a head, as lines of text. Columns that have no room beside the others go to lines of their
//! own, indented below their row: nothing is cut, and no terminal has to break a word.

use super::fold::fold;
use super::look::columns;

/// Between columns.
const GAP: usize = 2;
/// Before the columns that had no room.
const INDENT: usize = 4;

/// A table as lines; without a `room` it is as wide as it is. Rows may be shorter than the head; what is missing is empty.
pub(super) struct Lines {
    pub head: Vec<String>,
    pub rows: Vec<String>,
}

pub(super) fn lines(head: &[&str], rows: &[Vec<String>], room: Option<usize>) -> Lines {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len())
        .map(|c| rows.iter().map(|r| columns(&cell(r, c))).chain([columns(head[c])]).max().unwrap_or(0))
        .collect();
    let bands = bands(&widths, room.unwrap_or(usize::MAX));
    let row = |cells: Vec<String>| -> Vec<String> {
        let bands = bands.iter().enumerate();
        let lines = bands.map(|(n, band)| {
            let padded = band.iter().map(|c| format!("{}{}", cells[*c], " ".repeat(widths[*c] - columns(&cells[*c]))));
            let line = padded.collect::<Vec<_>>().join(&" ".repeat(GAP));
            (n, format!("{}{}", " ".repeat(if n == 0 { 0 } else { INDENT }), line.trim_end()))
        });
        // Below a row stands only what there is to say.
        let lines = lines.filter(|(n, line)| *n == 0 || !line.chars().all(|c| matches!(c, ' ' | '–' | '-'))).map(
            |(_, line)| match room {
                Some(room) => fold(line.trim_end(), room),
                None => line.trim_end().into(),
            },
        );
        lines.flat_map(|line| line.split('\n').map(str::to_string).collect::<Vec<_>>()).collect()
    };
    Lines {
        head: row(head.iter().map(|h| (*h).into()).collect()),
        rows: rows.iter().flat_map(|r| row((0..head.len()).map(|c| cell(r, c)).collect())).collect(),
    }
}

/// Which columns share a line.
fn bands(widths: &[usize], room: usize) -> Vec<Vec<usize>> {
    let mut bands: Vec<Vec<usize>> = vec![Vec::new()];
    let mut used = 0;
    for (column, width) in widths.iter().enumerate() {
        let last = bands.last_mut().expect("there is one from the start");
        let gap = if last.is_empty() { 0 } else { GAP };
        if !last.is_empty() && used + gap + width > room {
            bands.push(vec![column]);
            used = INDENT + width;
        } else {
            last.push(column);
            used += gap + width;
        }
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(head: &[&str], rows: &[Vec<String>], room: Option<usize>) -> Vec<String> {
        let Lines { head, rows } = lines(head, rows, room);
        [head, rows].concat()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["my-app".into(), "● live".into()], vec!["日本".into()], vec![]];
        let expected = ["APP     STATE", "my-app  ● live", "日本", ""];
        assert_eq!(all(&["APP", "STATE"], &rows, None), expected);
        assert_eq!(all(&["APP", "STATE"], &rows, Some(14)), expected);
    }

    #[test]
    fn what_has_no_room_goes_below() {
        let rows = [
            vec!["my-app".into(), "● live".into(), "4f2c9ab".into()],
            vec!["docs".into(), "○ idle".into(), "–".into()],
        ];
        let expected = ["APP     STATE", "    RELEASE", "my-app  ● live", "    4f2c9ab", "docs    ○ idle"];
        assert_eq!(all(&["APP", "STATE", "RELEASE"], &rows, Some(20)), expected);
        let long = [vec!["a".into(), "one two three four".into()]];
        assert_eq!(all(&["A", "TEXT"], &long, Some(14)), ["A", "    TEXT", "a", "    one two", "    three four"]);
    }
}
