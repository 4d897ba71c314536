//! Edits of TOML files that people write: comments, order and line ends stay as they are.

use toml_edit::{DocumentMut, Item, TableLike, Value};

use crate::error::{Error, Kind, Result};

const BOM: char = '\u{feff}';

/// A file's text without a byte order mark, which some editors put there and nobody sees.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// `text` after `change`.
///
/// # Errors
/// Config when `text` is no TOML; those of `change`.
pub(crate) fn edited(text: &str, change: impl FnOnce(&mut DocumentMut) -> Result<()>) -> Result<String> {
    let mut document: DocumentMut = without_bom(text).parse().map_err(|e: toml_edit::TomlError| {
        Error::new(Kind::Config, "edit the file").because(e.message().to_string())
    })?;
    change(&mut document)?;
    let mut written = document.to_string();
    // The parser makes every line end a line feed; a file with others had them on purpose.
    if text.contains("\r\n") {
        written = written.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    if text.starts_with(BOM) {
        written.insert(0, BOM);
    }
    Ok(written)
}

/// Sets a value; a comment behind the old one stays.
pub(crate) fn put(table: &mut dyn TableLike, key: &str, new: impl Into<Value>) {
    let mut new = new.into();
    match table.get_mut(key) {
        Some(item) => {
            if let Some(old) = item.as_value() {
                *new.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(new);
        }
        None => {
            table.insert(key, Item::Value(new));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_comments_line_ends_and_mark() {
        let check = |before: &str, after: &str| {
            let edited = edited(before, |d| {
                put(d.as_table_mut(), "b", 2);
                Ok(())
            });
            assert_eq!(edited.unwrap(), after);
        };
        check("# top\na = 1 # one\n", "# top\na = 1 # one\nb = 2\n");
        check("# top\r\na = 1\r\nb = 1 # x\r\n", "# top\r\na = 1\r\nb = 2 # x\r\n");
        check("\u{feff}a = 1\n", "\u{feff}a = 1\nb = 2\n");
        check("", "b = 2\n");
    }
}
