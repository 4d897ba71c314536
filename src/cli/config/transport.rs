//! `[ssh]` in `~/.tako/config.toml`: which programs carry us to a server, and how. Other sections belong to others.

use std::path::Path;

use super::problem::Problem;
use super::section::{Problems, Section};
use super::settings;
use crate::error::Result;

/// As written; nothing is set by default.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Transport {
    pub ssh_path: Option<String>,
    pub sftp_path: Option<String>,
    /// Arguments of both, each option with its value apart.
    pub options: Vec<String>,
    /// Whether a connection is kept for the next command.
    pub mux: Option<bool>,
}

/// # Errors
/// Config, with file, line and fix.
pub(crate) fn transport(home: &Path) -> Result<Transport> {
    Ok(settings::section(home, "ssh", read)?.unwrap_or_default())
}

fn read(section: Section<'_>, problems: &Problems) -> Transport {
    let path = |key| {
        let path = section.text(key)?;
        if path.value.is_empty() {
            problems.add(Problem::at(&path.at, format!("`{key}` is empty"), "leave it out to use the one on PATH"));
        }
        Some(path.value)
    };
    let (ssh_path, sftp_path) = (path("ssh_path"), path("sftp_path"));
    let mut options = Vec::new();
    for option in section.texts("options").map(|list| list.value).unwrap_or_default() {
        match arguments(&option.value) {
            Some(arguments) => options.extend(arguments),
            None => problems.add(Problem::at(
                &option.at,
                format!("`{}` is no option of ssh", option.value.escape_debug()),
                "write it as \"ConnectTimeout=30\", or with its letter as \"-F /path\"",
            )),
        }
    }
    let mux = section.flag("mux").map(|mux| mux.value);
    section.finish();
    Transport { ssh_path, sftp_path, options, mux }
}

/// `Name=value` is given with `-o`; `-X value` is taken apart.
fn arguments(option: &str) -> Option<Vec<String>> {
    if option.contains(char::is_control) {
        return None;
    }
    match option.strip_prefix('-') {
        None => option.contains(['=', ' ']).then(|| vec!["-o".into(), option.into()]),
        Some(_) => {
            let (letter, value) = option.split_once(' ').unwrap_or((option, ""));
            let is_letter = letter.len() == 2 && letter.ends_with(|c: char| c.is_ascii_alphanumeric());
            let value = Some(value.trim().to_string()).filter(|value| !value.is_empty());
            is_letter.then(|| std::iter::once(letter.to_string()).chain(value).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::settings::FILE;
    use super::*;
    use crate::error::Kind;

    #[test]
    fn reads_its_own_section_alone() {
        let check = |text: &str, expected: std::result::Result<Transport, &str>| {
            let home = tempfile::tempdir().unwrap();
            std::fs::write(home.path().join(FILE), text).unwrap();
            match (transport(home.path()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(e), Err(said)) => {
                    assert!(e.kind() == Kind::Config && e.to_string().contains(said), "{text}: {e}");
                    let place = e.detail().first().map_or("", |line| line.trim());
                    assert!(place.contains("config.toml:"), "{text}: {place}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("", Ok(Transport::default()));
        check("[editor]\nx = 1\n", Ok(Transport::default()));
        let all = "[ssh]\nssh_path = \"/s\"\nsftp_path = \"/f\"\nmux = false\n\
                   options = [\"ConnectTimeout=30\", \"-F /a b\", \"-4\", \"-o ProxyCommand=nc %h %p\"]\n";
        let options = ["-o", "ConnectTimeout=30", "-F", "/a b", "-4", "-o", "ProxyCommand=nc %h %p"];
        check(
            all,
            Ok(Transport {
                ssh_path: Some("/s".into()),
                sftp_path: Some("/f".into()),
                options: options.map(Into::into).into(),
                mux: Some(false),
            }),
        );
        check("[ssh]\nmuxx = false\n", Err("unknown key `muxx` in [ssh]"));
        check("[ssh]\nmux = 1\n", Err("`ssh.mux` is a number"));
        check("[ssh]\nssh_path = \"\"\n", Err("`ssh_path` is empty"));
        check("[ssh]\noptions = [\"fast\"]\n", Err("`fast` is no option of ssh"));
        check("[ssh]\noptions = [\"--fast\"]\n", Err("`--fast` is no option of ssh"));
        check("[ssh]\noptions = \"-4\"\n", Err("`ssh.options` is a text"));
        assert_eq!(transport(Path::new("/nowhere")).unwrap(), Transport::default());
    }
}
