//! `[presets]` in `~/.tako/config.toml`: where presets are fetched from. Other sections belong to others.

use std::path::Path;

use super::edit::without_bom;
use super::problem::report;
use super::section::{Problems, Section, parse};
use crate::disk::read_if_there;
use crate::error::{Error, Kind, Result};

const FILE: &str = "config.toml";
/// Far beyond what a person writes.
const MAX_FILE: u64 = 1 << 20;

/// `[presets] url`, as written.
///
/// # Errors
/// Config, with file, line and fix.
pub(crate) fn presets(home: &Path) -> Result<Option<String>> {
    let path = home.join(FILE);
    let bytes = read_if_there(&path, MAX_FILE)?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::new(Kind::Config, format!("{} is not UTF-8", path.display())).hint("save the file as UTF-8")
    })?;
    let text = without_bom(&text);
    let fail = |problems| match report(&path.display().to_string(), text, problems) {
        Some(e) => Err(e),
        None => Ok(()),
    };
    let document = match parse(text) {
        Ok(document) => document,
        Err(problem) => return fail(vec![problem]).map(|()| None),
    };
    let problems = Problems::default();
    let url = Section::root(&document, &problems).section("presets").and_then(|presets| {
        let url = presets.text("url");
        presets.finish();
        url
    });
    fail(problems.into_vec())?;
    Ok(url.map(|url| url.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_section_alone() {
        let check = |text: &str, expected: std::result::Result<Option<&str>, &str>| {
            let home = tempfile::tempdir().unwrap();
            std::fs::write(home.path().join(FILE), text).unwrap();
            match (presets(home.path()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{text}"),
                (Err(e), Err(said)) => assert!(e.to_string().contains(said), "{text}: {e}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("", Ok(None));
        check("[[servers]]\nname = 1\n[editor]\nx = 1\n", Ok(None));
        check("[presets]\nurl = \"https://a.test\"\n", Ok(Some("https://a.test")));
        check("[presets]\nurl = 1\n", Err("`presets.url` is a number"));
        check("[presets]\nulr = \"x\"\n", Err("unknown key `ulr` in [presets]"));
        check("[presets\n", Err("not TOML"));
        assert_eq!(presets(Path::new("/nowhere")).unwrap(), None);
    }
}
