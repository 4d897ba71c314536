//! A left-aligned table under a head, as lines of text.

use super::look::columns;

/// Rows may be shorter than the head; what is missing is empty.
pub(super) fn lines(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len())
        .map(|c| rows.iter().map(|r| columns(&cell(r, c))).chain([columns(head[c])]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c}{}", " ".repeat(w.saturating_sub(columns(c)))));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    std::iter::once(line(head.iter().map(|h| (*h).into()).collect()))
        .chain(rows.iter().map(|row| line((0..head.len()).map(|c| cell(row, c)).collect())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["my-app".into(), "● live".into()], vec!["日本".into()], vec![]];
        let expected = ["APP     STATE", "my-app  ● live", "日本", ""];
        assert_eq!(lines(&["APP", "STATE"], &rows), expected);
    }
}
