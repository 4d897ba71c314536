//! An option of `ssh` as a person writes it in our files: `ConnectTimeout=30`, or with its letter, `-F /path`. What it
//! means is for `ssh`; here is decided what may be given to `ssh` and `sftp` alike without taking our channel away.

use crate::error::{Error, Kind, Result};

/// Letters that mean the same to both programs. Another one of `ssh`'s means something else to `sftp`, or nothing: its
/// `-p` keeps times, and the number behind it would be the host.
const LETTERS: &str = "46CFJciov";
/// What would put something else on our channel, end it, or hide why it ended. In small letters.
const OURS: [&str; 13] = [
    "controlmaster",
    "controlpath",
    "controlpersist",
    "escapechar",
    "forkafterauthentication",
    "localcommand",
    "loglevel",
    "permitlocalcommand",
    "remotecommand",
    "requesttty",
    "sessiontype",
    "stdinnull",
    "tunnel",
];
/// Longest option: a ProxyCommand with all that it needs.
const MAX_OPTION: usize = 1000;

/// One that may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshOption {
    written: String,
    arguments: Vec<String>,
}

impl SshOption {
    /// # Errors
    /// Config, with the way to write it.
    pub fn parse(written: &str) -> Result<SshOption> {
        let shown: String = written.chars().take(80).flat_map(char::escape_debug).collect();
        let fail = |why: &str, hint: &str| Err(Error::new(Kind::Config, format!("`{shown}` {why}")).hint(hint));
        let hint = "write it as \"ConnectTimeout=30\", or with its letter as \"-F /path\"";
        let Some(arguments) = arguments(written).filter(|_| written.len() <= MAX_OPTION) else {
            return fail("is no option of ssh", hint);
        };
        let letter = arguments[0].trim_start_matches('-');
        if !LETTERS.contains(letter) {
            return fail("is not an option of both ssh and sftp", "write it by its name, such as \"Port=2222\" for -p");
        }
        let name = match letter {
            "o" => name(arguments.get(1).map_or("", String::as_str)),
            _ => String::new(),
        };
        if letter == "o" && name.is_empty() {
            return fail("is no option of ssh", hint);
        }
        match OURS.contains(&name.as_str()) {
            true => fail("is for tako to set: its channel to the server depends on it", "leave it out"),
            false => Ok(SshOption { written: written.into(), arguments }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// As `ssh` and `sftp` take it.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }
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

/// `Name=value`, `Name value` and `"Name" value` are one to `ssh`, in letters of any size.
fn name(option: &str) -> String {
    let option = option.trim_start_matches([' ', '"']);
    let end = option.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(option.len());
    option[..end].to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn becomes_arguments_that_both_programs_take() {
        let check = |written: &str, expected: &[&str]| {
            let option = SshOption::parse(written).unwrap();
            assert_eq!((option.as_str(), option.arguments().join("|")), (written, expected.join("|")));
        };
        check("ConnectTimeout=30", &["-o", "ConnectTimeout=30"]);
        check("IdentityFile ~/my keys/id", &["-o", "IdentityFile ~/my keys/id"]);
        check("-F /a b", &["-F", "/a b"]);
        check("-4", &["-4"]);
        check("-o ProxyCommand=nc %h %p", &["-o", "ProxyCommand=nc %h %p"]);
    }

    #[test]
    fn what_is_no_option_or_would_take_the_channel_away_is_refused() {
        let check = |written: &str, expected: &str| {
            let e = SshOption::parse(written).unwrap_err();
            assert_eq!(e.kind(), Kind::Config);
            assert!(e.to_string().contains(expected) && e.next_step().is_some(), "{written}: {e}");
        };
        for bad in ["", "fast", "--fast", "-", "-o", "-o  ", "=1", "A=\n", "-FF /x", "- x"] {
            check(bad, "is no option of ssh");
        }
        check(&format!("User={}", "a".repeat(MAX_OPTION)), "is no option of ssh");
        for bad in ["-p 22", "-t", "-N", "-f", "-W host:22", "-l ana", "-E /log", "-S none", "-L 1:a:1", "-q"] {
            check(bad, "is not an option of both ssh and sftp");
        }
        for bad in [
            "RemoteCommand=x",
            "remotecommand x",
            " RemoteCommand=x",
            "\"RemoteCommand\" x",
            "RequestTTY\t=force",
            "-o RequestTTY=force",
            "ControlPath /tmp/x",
            "LOGLEVEL=QUIET",
            "SessionType=none",
        ] {
            let expected = if bad.contains('\t') { "is no option" } else { "is for tako to set" };
            check(bad, expected);
        }
    }
}
