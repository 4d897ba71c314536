//! What lies in the project, as far as the defaults depend on it: whether there is something to build, and whether what
//! it needs is installed.
//!
//! It runs nothing. A `package.json` that cannot be read is an error, since all that follows hangs on it; Deno's own file
//! says nothing then, and Deno says what is wrong with it.

use std::path::Path;

use serde_json::Value;

use crate::cli::build::bundle::Source;
use crate::cli::project::Project;
use crate::disk;
use crate::error::{Context, Kind, Result};
use crate::proto::manifest::Runtime;

/// Larger files are something else.
const MAX_JSON: u64 = 1 << 20;
const DENO: [&str; 2] = ["deno.json", "deno.jsonc"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `package.json` has a `build` script, or Deno's file a `build` task.
    pub build_script: bool,
    /// One of them names packages that a build may need.
    pub dependencies: bool,
    /// `package.json` names packages that the app needs when it runs.
    pub in_production: bool,
    /// `node_modules` lies in the app or the source root.
    pub installed: bool,
}

impl Facts {
    pub fn of(project: &Project, source: &Source) -> Result<Facts> {
        let path = project.dir.join("package.json");
        let package: Value = match disk::read_if_there(&path, MAX_JSON)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .context(|| format!("understand {}", path.display()))
                .map_err(|e| e.with_kind(Kind::Config))?,
            None => Value::Null,
        };
        let deno = if project.runtime == Runtime::Deno { of_deno(&project.dir) } else { Value::Null };
        let some = |value: &Value| value.as_object().is_some_and(|o| !o.is_empty());
        let command = |value: &Value| value.as_str().is_some_and(|s| !s.trim().is_empty());
        let task = &deno["tasks"]["build"];
        let there = |name: &str| project.dir.join(name).exists() || source.root.join(name).exists();
        Ok(Facts {
            // A task of Deno's may be an object, with a command or with tasks that come first.
            build_script: command(&package["scripts"]["build"]) || command(task) || some(task),
            dependencies: some(&package["dependencies"]) || some(&package["devDependencies"]) || some(&deno["imports"]),
            in_production: some(&package["dependencies"]),
            installed: there("node_modules"),
        })
    }
}

fn of_deno(dir: &Path) -> Value {
    let read = |name: &str| disk::read_if_there(&dir.join(name), MAX_JSON).ok().flatten();
    let bytes = DENO.into_iter().find_map(read).unwrap_or_default();
    serde_json::from_str(&plain(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
}

/// JSON with comments and trailing commas, as Deno takes it, without them.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let token = match c {
            '"' => string(rest),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            _ => c.len_utf8(),
        };
        let (this, next) = rest.split_at(token);
        rest = next;
        match c {
            '/' if token > 1 => continue,
            '}' | ']' => {
                let kept = plain.trim_end().trim_end_matches(',').len();
                plain.truncate(kept);
            }
            _ => {}
        }
        plain.push_str(this);
    }
    plain
}

/// The length of the string in quotes that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_trailing_commas_are_left_out_and_strings_stay() {
        let check = |text: &str, expected: &str| {
            let value: Value = serde_json::from_str(&plain(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(value, serde_json::from_str::<Value>(expected).unwrap(), "{text}");
        };
        check("{}", "{}");
        check("{ // a, \"\n \"a\": 1, /* } */ }", r#"{"a":1}"#);
        check(r#"{"a": "http://x/*,]*/\"//", "b": ["\\", ], }"#, r#"{"a":"http://x/*,]*/\"//","b":["\\"]}"#);
        check("[\"ä,}\", \"],\" /* ü */ , ]", r#"["ä,}","],"]"#);
        check("// before\n[] // after", "[]");
        check("[/*/ 1, */ 2]", "[2]");
        for torn in ["\"", "\"\\", "/*", "/", "//", "{\"a\": \"b", "/*/", "ü"] {
            assert!(plain(torn).len() <= torn.len(), "{torn}");
        }
    }
}
