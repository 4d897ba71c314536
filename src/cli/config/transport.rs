//! `[ssh]` in `~/.tako/config.toml`: which programs carry us to a server, and how. Other sections belong to others.

use std::path::Path;

use super::problem::Problem;
use super::section::{Problems, Section, Spanned};
use super::settings;
use super::ssh_option::SshOption;
use crate::error::Result;

/// As written; nothing is set by default.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Transport {
    pub ssh_path: Option<String>,
    pub sftp_path: Option<String>,
    /// Of both.
    pub options: Vec<SshOption>,
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
    let options = options(&section, "options", problems);
    let mux = section.flag("mux").map(|mux| mux.value);
    section.finish();
    Transport { ssh_path, sftp_path, options, mux }
}

/// Those of the list `key`.
pub(super) fn options(section: &Section<'_>, key: &'static str, problems: &Problems) -> Vec<SshOption> {
    let written = section.texts(key).map(|list| list.value).unwrap_or_default();
    let read = |option: Spanned<String>| match SshOption::parse(&option.value) {
        Ok(option) => Some(option),
        Err(e) => {
            problems.add(Problem::of(&option.at, &e));
            None
        }
    };
    written.into_iter().filter_map(read).collect()
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
        let options = ["ConnectTimeout=30", "-F /a b", "-4", "-o ProxyCommand=nc %h %p"];
        check(
            all,
            Ok(Transport {
                ssh_path: Some("/s".into()),
                sftp_path: Some("/f".into()),
                options: options.map(|option| SshOption::parse(option).unwrap()).into(),
                mux: Some(false),
            }),
        );
        check("[ssh]\nmuxx = false\n", Err("unknown key `muxx` in [ssh]"));
        check("[ssh]\nmux = 1\n", Err("`ssh.mux` is a number"));
        check("[ssh]\nssh_path = \"\"\n", Err("`ssh_path` is empty"));
        check("[ssh]\noptions = [\"fast\"]\n", Err("`fast` is no option of ssh"));
        check("[ssh]\noptions = [\"--fast\"]\n", Err("`--fast` is no option of ssh"));
        check("[ssh]\noptions = [\"-p 22\"]\n", Err("`-p 22` is not an option of both"));
        check("[ssh]\noptions = [\"RequestTTY=force\"]\n", Err("`RequestTTY=force` is for tako to set"));
        check("[ssh]\noptions = \"-4\"\n", Err("`ssh.options` is a text"));
        assert_eq!(transport(Path::new("/nowhere")).unwrap(), Transport::default());
    }
}
