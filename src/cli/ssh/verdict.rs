//! Why a connection failed, told from what `ssh` left behind: its exit status and the last lines of its log.
//!
//! The status alone says nothing: transport failures, a remote exit of 255 and a death by signal are all 255. So the
//! texts are matched, and every class has a test with a line that a real `ssh` wrote.

use crate::error::{Error, Kind};

/// How `tako-server` starts its last words.
const PROGRAM: &str = "tako-server: ";
/// Lines of the log that are shown as proof.
const PROOF: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Dns,
    Refused,
    Timeout,
    /// Before authentication; too many connections at once look like this, so it is worth another try.
    Dropped,
    HostKeyNew,
    HostKeyChanged,
    KeyPermissions,
    Auth,
    Jump,
    NoSftp,
    NotInstalled,
    /// The login worked, and `tako-server ctl` ended without a word of the protocol.
    Program,
    /// The connection was up and is gone.
    Lost,
    Other,
}

/// What is known about a connection that ended.
pub(crate) struct Ending<'a> {
    pub exit: Option<i32>,
    /// The log of `ssh`, then what the far side wrote to standard error.
    pub log: &'a [String],
    /// The server's hello was seen.
    pub greeted: bool,
    /// What a person would type to log in there.
    pub login: &'a str,
}

impl<'a> Ending<'a> {
    /// The last words of our own program there, and the next step that it names.
    fn said(&self) -> Option<(&'a str, Option<&'a str>)> {
        let at = self.log.iter().rposition(|line| line.starts_with(PROGRAM))?;
        let next = self.log[at..].iter().find_map(|line| line.trim_start().strip_prefix("hint: "));
        Some((&self.log[at][PROGRAM.len()..], next))
    }
}

impl Class {
    pub fn of(ending: &Ending<'_>) -> Class {
        if ending.greeted {
            return Class::Lost;
        }
        let found = TEXTS.iter().find(|(text, _)| ending.log.iter().any(|line| line.contains(text)));
        match (found, ending.exit) {
            // A login shell says 127 when there is no such command; the log is then that of a login that worked.
            (_, Some(127)) => Class::NotInstalled,
            (Some((_, class)), _) => *class,
            (None, Some(exit)) if exit != 255 => Class::Program,
            (None, _) => Class::Other,
        }
    }

    /// Whether the same thing may work a moment later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Class::Dropped)
    }

    /// The failure in words, with what to do about it.
    pub fn error(self, server: &str, ending: &Ending<'_>) -> Error {
        let (why, hint) = self.words(ending.login);
        if self == Class::Program
            && let Some((said, next)) = ending.said()
        {
            let error = Error::new(Kind::Unreachable, format!("{server}: {why}: {said}"));
            return error.hint(next.map_or(hint, Into::into));
        }
        let why = match (self, ending.log.last()) {
            (Class::Other | Class::Program, Some(last)) => format!("{why}: {last}"),
            _ => why.to_string(),
        };
        let proof = &ending.log[ending.log.len().saturating_sub(PROOF)..];
        Error::new(Kind::Unreachable, format!("{server}: {why}")).with_detail(proof.to_vec()).hint(hint)
    }

    fn words(self, login: &str) -> (&'static str, String) {
        match self {
            Class::Dns => {
                ("the host name cannot be resolved", "check the host with `tako servers ls`, and the network".into())
            }
            Class::Refused => ("the connection was refused", "is sshd running there, and is the port right?".into()),
            Class::Timeout => (
                "no answer in time",
                "is a firewall or VPN in between? try again, or look with `tako servers check`".into(),
            ),
            Class::Dropped => (
                "the far side dropped the connection before the login",
                "too many connections at once, a ban after failed logins, or not an SSH port".into(),
            ),
            Class::HostKeyNew => (
                "its host key is not known here",
                format!(
                    "run `{login}`, compare the fingerprint that it shows with the server's own, answer yes; then try again"
                ),
            ),
            Class::HostKeyChanged => (
                "its host key has changed",
                format!(
                    "find out why before anything else; if the server was reinstalled, `{login}` tells how to remove its old key"
                ),
            ),
            Class::KeyPermissions => {
                ("ssh does not use a key that others can read", "run `chmod 600` on the key file".into())
            }
            Class::Auth => (
                "it does not let us in",
                format!(
                    "does `{login}` work without a question? a key with a passphrase needs an agent: see `ssh-add -l`"
                ),
            ),
            Class::Jump => ("the jump host ended the connection", "check the jump host of your ssh_config".into()),
            Class::NoSftp => {
                ("its sshd offers no sftp", "add `Subsystem sftp internal-sftp` to the server's sshd_config".into())
            }
            Class::NotInstalled => (
                "tako-server is not installed there",
                format!("put the one file tako-server where `{login} tako-server --version` finds it, and start it"),
            ),
            Class::Program => (
                "tako-server does not answer there",
                format!(
                    "is it running, and may the SSH user reach its socket? `{login} tako-server ctl` shows what it says"
                ),
            ),
            Class::Lost => (
                "the connection was lost",
                "what the server had begun it finishes by itself; `tako status` shows how it ended".into(),
            ),
            Class::Other => ("the connection failed", format!("does `{login}` work?")),
        }
    }
}

/// The first text that occurs decides, so the more telling come first.
const TEXTS: [(&str, Class); 23] = [
    ("IDENTIFICATION HAS CHANGED", Class::HostKeyChanged),
    ("Connection closed by UNKNOWN port 65535", Class::Jump),
    ("stdio forwarding failed", Class::Jump),
    ("UNPROTECTED PRIVATE KEY", Class::KeyPermissions),
    ("bad permissions", Class::KeyPermissions),
    ("Host key verification failed", Class::HostKeyNew),
    ("host key is known for", Class::HostKeyNew),
    ("Could not resolve hostname", Class::Dns),
    ("Name or service not known", Class::Dns),
    ("Permission denied (", Class::Auth),
    ("Too many authentication failures", Class::Auth),
    ("subsystem request failed", Class::NoSftp),
    ("Connection refused", Class::Refused),
    ("timed out during banner exchange", Class::Timeout),
    ("Connection timed out", Class::Timeout),
    ("Operation timed out", Class::Timeout),
    ("No route to host", Class::Timeout),
    ("Network is unreachable", Class::Timeout),
    ("kex_exchange_identification", Class::Dropped),
    ("banner exchange", Class::Dropped),
    ("Connection reset by", Class::Dropped),
    ("Connection closed by", Class::Dropped),
    ("Timeout, server", Class::Timeout),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn class(exit: i32, log: &str, greeted: bool) -> Class {
        let log: Vec<String> = log.lines().map(Into::into).collect();
        Class::of(&Ending { exit: Some(exit), log: &log, greeted, login: "ssh fra1" })
    }

    #[test]
    fn tells_the_class_from_what_ssh_wrote() {
        let check = |log: &str, expected| assert_eq!(class(255, log, false), expected, "{log}");
        check("ssh: Could not resolve hostname fra1: Name or service not known", Class::Dns);
        check("ssh: connect to host 127.0.0.1 port 2299: Connection refused", Class::Refused);
        check("ssh: connect to host 203.0.113.7 port 22: Connection timed out", Class::Timeout);
        check("Connection timed out during banner exchange\nConnection to 1.2.3.4 port 22 timed out", Class::Timeout);
        check("ssh: connect to host 10.0.0.9 port 22: No route to host", Class::Timeout);
        check(
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 1.2.3.4 port 22",
            Class::Dropped,
        );
        check("kex_exchange_identification: Connection closed by remote host", Class::Dropped);
        check(
            "No ED25519 host key is known for fra1 and you have requested strict checking.\nHost key verification failed.",
            Class::HostKeyNew,
        );
        check(
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            Class::HostKeyChanged,
        );
        check("ana@fra1: Permission denied (publickey,password).", Class::Auth);
        check("Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures", Class::Auth);
        check(
            "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nana@fra1: Permission denied (publickey).",
            Class::KeyPermissions,
        );
        check("Load key \"id\": bad permissions\nana@fra1: Permission denied (publickey).", Class::KeyPermissions);
        check("Connection closed by UNKNOWN port 65535", Class::Jump);
        check("subsystem request failed on channel 0", Class::NoSftp);
        check("Bad configuration option: x", Class::Other);
        check("", Class::Other);
    }

    #[test]
    fn a_missing_program_is_told_by_the_status_of_the_shell() {
        assert_eq!(
            class(127, "Authenticated to fra1\nbash: line 1: tako-server: command not found", false),
            Class::NotInstalled
        );
    }

    #[test]
    fn a_program_that_failed_after_the_login_is_not_a_failed_login() {
        assert_eq!(class(1, "Authenticated to fra1\nerror: connect /var/run/tako/tako.sock", false), Class::Program);
    }

    #[test]
    fn the_last_words_of_our_own_program_are_told_once() {
        let log: Vec<String> =
            ["Authenticated to fra1", "tako-server: connect to /s: no such file", "  hint: start it"]
                .map(Into::into)
                .into();
        let ending = Ending { exit: Some(1), log: &log, greeted: false, login: "ssh fra1" };
        let e = Class::Program.error("fra1", &ending);
        assert_eq!(e.to_string(), "fra1: tako-server does not answer there: connect to /s: no such file");
        assert_eq!((e.next_step(), e.detail().len()), (Some("start it"), 0));
    }

    #[test]
    fn after_the_hello_every_end_is_a_lost_connection() {
        assert_eq!(class(255, "Timeout, server fra1 not responding.", true), Class::Lost);
        assert_eq!(class(0, "", true), Class::Lost);
    }

    #[test]
    fn only_what_may_work_a_moment_later_is_tried_again() {
        assert!(class(255, "kex_exchange_identification: Connection closed by remote host", false).is_retryable());
        for log in ["Host key verification failed.", "Permission denied (publickey).", "Could not resolve hostname x"] {
            assert!(!class(255, log, false).is_retryable(), "{log}");
        }
    }

    #[test]
    fn the_error_names_the_server_shows_proof_and_a_next_step() {
        let log: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
        let ending = Ending { exit: Some(255), log: &log, greeted: false, login: "ssh -p 2222 fra1" };
        let e = Class::Other.error("fra1", &ending);
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unreachable, "fra1: the connection failed: line 19"));
        assert_eq!(e.detail(), &log[14..]);
        assert_eq!(e.next_step(), Some("does `ssh -p 2222 fra1` work?"));
    }
}
