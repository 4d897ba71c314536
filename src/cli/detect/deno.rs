//! Deno's own file: its tasks and what it imports. It is JSON as Deno takes it, with comments and trailing commas.
//!
//! It runs nothing. A file that cannot be read says nothing here; Deno says what is wrong with it.

use std::path::Path;

use serde_json::Value;

use crate::disk::read_if_there;

/// Larger files are something else.
const MAX_JSON: u64 = 1 << 20;
const NAMES: [&str; 2] = ["deno.json", "deno.jsonc"];

/// A `deno.json` or `deno.jsonc`.
pub(crate) struct DenoFile {
    pub name: &'static str,
    said: Value,
}

impl DenoFile {
    /// That of `dir`, if there is one; of two, the one that Deno takes.
    pub fn of(dir: &Path) -> Option<DenoFile> {
        NAMES.into_iter().find_map(|name| {
            let bytes = read_if_there(&dir.join(name), MAX_JSON).ok().flatten()?;
            let said = serde_json::from_str(&plain(&String::from_utf8_lossy(&bytes))).unwrap_or_default();
            Some(DenoFile { name, said })
        })
    }

    /// Whether it has such a task: a command, or an object with a command or with tasks that come first.
    pub fn has_task(&self, name: &str) -> bool {
        let task = &self.said["tasks"][name];
        task.as_str().is_some_and(|command| !command.trim().is_empty())
            || task.as_object().is_some_and(|o| !o.is_empty())
    }

    pub fn imports_any(&self) -> bool {
        self.said["imports"].as_object().is_some_and(|imports| !imports.is_empty())
    }

    /// Whether it imports `package` of npm or JSR, under whatever name.
    pub fn imports(&self, package: &str) -> bool {
        let imports = self.said["imports"].as_object();
        imports.is_some_and(|all| all.values().filter_map(Value::as_str).filter_map(package_of).any(|p| p == package))
    }
}

/// The name in a specifier such as `npm:@sveltejs/kit@^2/vite`; what is no package of a registry has none.
fn package_of(specifier: &str) -> Option<&str> {
    let rest = specifier.strip_prefix("npm:").or_else(|| specifier.strip_prefix("jsr:"))?.trim_start_matches('/');
    let scope = if rest.starts_with('@') { rest.find('/')? + 1 } else { 0 };
    let end = rest[scope..].find(['@', '/']).map_or(rest.len(), |end| scope + end);
    rest.get(..end)
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
    fn a_package_is_imported_whatever_it_is_called_here() {
        let check =
            |specifier: &str, expected: Option<&str>| assert_eq!(package_of(specifier), expected, "{specifier}");
        check("npm:astro", Some("astro"));
        check("npm:astro@5.1.0", Some("astro"));
        check("npm:/astro@5/config", Some("astro"));
        check("npm:astro/config", Some("astro"));
        check("npm:@sveltejs/kit@^2/vite", Some("@sveltejs/kit"));
        check("jsr:@hono/hono@4", Some("@hono/hono"));
        check("jsr:@hono/hono", Some("@hono/hono"));
        check("npm:@torn", None);
        check("npm:", Some(""));
        check("./astro.ts", None);
        check("https://esm.sh/astro@5", None);
    }

    #[test]
    fn a_file_tells_its_tasks_and_imports_and_a_torn_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("deno.jsonc"), text).unwrap();
            DenoFile::of(dir.path()).unwrap()
        };
        let file = read(
            "{ // ours\n \"imports\": {\"web\": \"npm:astro@5\", \"@std/\": \"jsr:@std/\"},\n \"tasks\": {\"a\": \"x\", \"b\": \" \"}, }",
        );
        assert_eq!((file.name, file.imports_any()), ("deno.jsonc", true));
        assert_eq!(["astro", "web", "astro@5"].map(|package| file.imports(package)), [true, false, false]);
        assert_eq!(["a", "b", "c"].map(|task| file.has_task(task)), [true, false, false]);
        for torn in ["", "{ torn", "[]", r#"{"imports":["npm:astro"],"tasks":"x"}"#] {
            let file = read(torn);
            assert!(!file.imports_any() && !file.imports("astro") && !file.has_task("a"), "{torn}");
        }
        assert!(DenoFile::of(&dir.path().join("none")).is_none());
    }

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
