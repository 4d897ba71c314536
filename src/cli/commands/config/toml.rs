//! Parts as the text of a `tako.toml`: what is a value is one that could be written there, all else is a comment.

use serde_json::Value;
use toml_edit::{Array, Key, Value as Toml};

use super::parts::{Part, Set};

/// A list that makes its line longer gets lines of its own.
const WIDEST: usize = 80;
/// Where the sources stand; a longer value pushes its own to the right.
const COLUMN: usize = 40;

pub(super) fn lines(parts: &[Part]) -> Vec<String> {
    let mut lines = Vec::new();
    for part in parts {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        if !part.name.is_empty() {
            lines.push(part.head());
        }
        lines.extend(part.sets.iter().flat_map(set_lines));
        lines.extend(part.remarks.iter().map(|remark| format!("# {}", plain(remark))));
    }
    lines
}

/// One line, or one for each element of a list that would be too long.
fn set_lines(set: &Set) -> Vec<String> {
    let key = Key::new(&set.key).display_repr().into_owned();
    let whole = with_source(&format!("{key} = {}", toml(&set.value)), set);
    match &set.value {
        Value::Array(all) if whole.chars().count() > WIDEST && all.len() > 1 => {
            let elements = all.iter().map(|value| format!("  {},", toml(value)));
            [with_source(&format!("{key} = ["), set)].into_iter().chain(elements).chain(["]".into()]).collect()
        }
        _ => vec![whole],
    }
}

fn with_source(said: &str, set: &Set) -> String {
    let room = COLUMN.saturating_sub(said.chars().count());
    format!("{said}{}  # {}", " ".repeat(room), plain(&set.from))
}

fn toml(value: &Value) -> Toml {
    match value {
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(all) => all.iter().map(toml).collect::<Array>().into(),
        // No value of ours is one.
        Value::Null | Value::Object(_) => "".into(),
    }
}

/// A comment ends with its line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
