//! `[presets]` in `~/.tako/config.toml`: where presets are fetched from. Other sections belong to others.

use std::path::Path;

use super::settings;
use crate::error::Result;

/// `[presets] url`, as written.
///
/// # Errors
/// Config, with file, line and fix.
pub(crate) fn presets(home: &Path) -> Result<Option<String>> {
    let url = settings::section(home, "presets", |presets, _| {
        let url = presets.text("url");
        presets.finish();
        url
    });
    Ok(url?.flatten().map(|url| url.value))
}

#[cfg(test)]
mod tests {
    use super::settings::FILE;
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
