//! Lines: where in `tako.toml`, or in the user's own file, a value stands, for who wants to know where it came from. What the values mean is not its
//! business, and neither is whether they are right.

use toml_edit::{Document, Item, TableLike};

/// A file that was read, and was TOML.
pub(crate) struct Lines {
    text: String,
    document: Option<Document<String>>,
}

impl Lines {
    /// A text that is no TOML has no lines.
    pub fn of(text: &str) -> Lines {
        Lines { text: text.into(), document: Document::parse(text.to_string()).ok() }
    }

    /// The line of a key, by its path from the root: `["envs", "production", "route"]`.
    pub fn of_key(&self, path: &[&str]) -> Option<usize> {
        let mut table: &dyn TableLike = self.document.as_ref()?.as_table();
        let (last, sections) = path.split_last()?;
        for section in sections {
            table = table.get(section)?.as_table_like()?;
        }
        let item = table.get(last)?;
        let key = table.key(last).and_then(toml_edit::Key::span);
        let at = key.or_else(|| item.span())?;
        Some(self.number(at.start))
    }

    /// That of the nth table of `[[build.stages]]`.
    pub fn of_stage(&self, n: usize) -> Option<usize> {
        let stages = self.document.as_ref()?.as_table().get("build")?.as_table_like()?.get("stages")?;
        let at = match stages {
            Item::ArrayOfTables(tables) => tables.get(n)?.span(),
            other => other.as_array()?.get(n)?.span(),
        }?;
        Some(self.number(at.start))
    }

    /// That of a key of the table of `[[servers]]` that has this name.
    pub fn of_server(&self, name: &str, key: &str) -> Option<usize> {
        let tables = self.document.as_ref()?.as_table().get("servers")?.as_array_of_tables()?;
        let table = tables.iter().find(|table| table.get("name").and_then(Item::as_str) == Some(name))?;
        Some(self.number(table.key(key)?.span()?.start))
    }

    fn number(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_key_however_it_is_written() {
        let lines = Lines::of(
            "name = \"a\"\nvars.A = 1\n\n[envs.production]\nroute = \"a\"\n[envs.production.server.fra1]\ninstances = 2\n\
             [envs.staging]\nserver = { nyc1 = { instances = 3 } }\n[[build.stages]]\nrun = \"x\"\n[[build.stages]]\nrun = \"y\"\n",
        );
        let check = |path: &[&str], expected| assert_eq!(lines.of_key(path), expected, "{path:?}");
        check(&["name"], Some(1));
        check(&["vars", "A"], Some(2));
        check(&["envs", "production"], Some(4));
        check(&["envs", "production", "route"], Some(5));
        check(&["envs", "production", "server", "fra1", "instances"], Some(7));
        check(&["envs", "staging", "server", "nyc1", "instances"], Some(9));
        check(&["main"], None);
        check(&["name", "x"], None);
        check(&[], None);
        assert_eq!([lines.of_stage(0), lines.of_stage(1), lines.of_stage(2)], [Some(10), Some(12), None]);
        let servers = Lines::of("[[servers]]\nname = \"a\"\n[[servers]]\nname = \"b\"\nssh_options = []\n");
        let at = |name| servers.of_server(name, "ssh_options");
        assert_eq!([at("a"), at("b"), at("c")], [None, Some(5), None]);
        assert_eq!(Lines::of("servers = 1").of_server("a", "name"), None);
        assert_eq!(Lines::of("stages = ").of_key(&["stages"]), None);
        assert_eq!(Lines::of("[build]\nstages = [\n{ run = \"x\" },\n{ run = \"y\" }]\n").of_stage(1), Some(4));
    }
}
