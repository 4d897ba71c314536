//! Why a connection failed, told from what `ssh` left behind: its exit status and the last lines of its log.
//!
//! The status alone says nothing: transport failures, a remote exit of 255 and a death by signal are all 255. So the
//! texts are matched, and every class has a test with a line that a real `ssh` wrote.

mod keys;
mod words;

use super::log::is_told;

/// How `tako-server` starts its last words.
const PROGRAM: &str = "tako-server: ";
/// What a shell says of a program that it has found and cannot start, or that a signal has ended.
const FOUND: std::ops::RangeInclusive<i32> = 126..=254;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Dns,
    Refused,
    Timeout,
    /// It took the connection and then said nothing: a machine or a sshd that is too busy.
    Silent,
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
    /// The login worked, and its shell printed something else than our program does.
    Shell,
    /// The login worked, and its shell ended, or goes on, without a word of our program.
    StartUp,
    /// The connection was up and is gone.
    Lost,
    /// The `ssh` on this machine does not know an option of ours.
    TooOld,
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
    /// Whether our own program there has said why it ended, or a shell that has found it.
    fn is_of_program(&self) -> bool {
        has_started(self.log) || self.exit.is_some_and(|exit| FOUND.contains(&exit))
    }
}

impl Class {
    pub fn of(ending: &Ending<'_>) -> Class {
        if ending.greeted {
            return Class::Lost;
        }
        let jump = is_by_jump(ending.log);
        let of_jump = |line: &str| jump && FRAME.iter().any(|text| line.contains(text));
        let mut frames = 0;
        let mut lines: Vec<&str> = Vec::new();
        for line in ending.log.iter().map(String::as_str).filter(|line| is_told(line)) {
            match of_jump(line) {
                true => frames += usize::from(line.starts_with(KEX)),
                false => lines.push(line),
            }
        }
        let found = TEXTS.iter().find(|(text, _)| lines.iter().any(|line| line.contains(text)));
        match (found, ending.exit) {
            // A login shell says 127 when there is no such command; the log is then that of a login that worked.
            (_, Some(127)) => Class::NotInstalled,
            (Some((_, class)), _) => *class,
            // Both the way to the jump host and the way through it ended like that: the jump host dropped us.
            (None, _) if frames > 1 => Class::Dropped,
            (None, _) if jump => Class::Jump,
            (None, Some(exit)) if exit != 255 && ending.is_of_program() => Class::Program,
            (None, Some(exit)) if exit != 255 => Class::StartUp,
            // It was still at it when we gave up.
            (None, None) if is_let_in(ending.log) => Class::StartUp,
            (None, _) => Class::Other,
        }
    }

    /// The same when the far side printed something that was no hello.
    pub fn after_noise(self) -> Class {
        match self {
            Class::StartUp | Class::Other => Class::Shell,
            known => known,
        }
    }

    /// Whether the same thing may work a moment later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Class::Dropped | Class::Silent)
    }
}

/// How `ssh` says that the login worked.
const LET_IN: &str = "Authenticated to ";

pub(super) fn is_let_in(log: &[String]) -> bool {
    log.iter().any(|line| line.starts_with(LET_IN))
}

/// Whether our own program there has said a word.
pub(super) fn has_started(log: &[String]) -> bool {
    log.iter().any(|line| line.starts_with(PROGRAM))
}

/// How `ssh` begins to say that the far side ended before its first message.
const KEX: &str = "kex_exchange_identification";
/// What `ssh` says when the program that is its way to the host ended; the reason is in other lines, if at all.
const FRAME: [&str; 3] = [KEX, "UNKNOWN port 65535", "stdio forwarding failed"];

/// Whether the way led through a jump host, or a program of the user's, and ended there.
fn is_by_jump(log: &[String]) -> bool {
    log.iter().any(|line| is_told(line) && FRAME[1..].iter().any(|text| line.contains(text)))
}

/// The first text that occurs decides, so the more telling come first.
const TEXTS: [(&str, Class); 23] = [
    ("Bad configuration option: sessiontype", Class::TooOld),
    ("Bad configuration option: stdinnull", Class::TooOld),
    ("Bad configuration option: forkafterauthentication", Class::TooOld),
    ("IDENTIFICATION HAS CHANGED", Class::HostKeyChanged),
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
    ("timed out during banner exchange", Class::Silent),
    ("timed out", Class::Timeout),
    ("No route to host", Class::Timeout),
    ("Network is unreachable", Class::Timeout),
    (KEX, Class::Dropped),
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
        check("Connection timed out during banner exchange\nConnection to 1.2.3.4 port 22 timed out", Class::Silent);
        check("banner exchange: Connection to 127.0.0.1 port 80: invalid format", Class::Dropped);
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
        check("command-line: line 0: Bad configuration option: sessiontype", Class::TooOld);
        check("subsystem request failed on channel 0", Class::NoSftp);
        check("Bad configuration option: x", Class::Other);
        check("", Class::Other);
    }

    #[test]
    fn what_went_wrong_on_the_way_to_a_jump_host_is_told_of_it() {
        let end =
            "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535";
        let check = |said: &str, expected: Class| {
            let log: Vec<String> = format!("{end}\n{said}").lines().map(Into::into).collect();
            let ending = Ending { exit: Some(255), log: &log, greeted: false, login: "ssh fra1" };
            assert_eq!(Class::of(&ending), expected, "{said}");
            let told = expected.error("fra1", &ending).to_string();
            assert!(told.contains("jump host"), "{told}");
        };
        check("", Class::Jump);
        check("ssh: connect to host 127.0.0.1 port 22991: Connection refused", Class::Refused);
        check("ssh: Could not resolve hostname nosuch.invalid: Name or service not known", Class::Dns);
        check("channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed", Class::Refused);
        check("root@127.0.0.1: Permission denied (publickey).", Class::Auth);
        check("kex_exchange_identification: Connection closed by remote host", Class::Dropped);
    }

    #[test]
    fn debug_lines_and_what_a_server_prints_there_decide_nothing() {
        assert_eq!(class(255, "debug1: kex_exchange_identification: banner line 0: hi", false), Class::Other);
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
        let log = "Authenticated to fra1\ntako-server: connect to /var/run/tako/tako.sock";
        assert_eq!(class(1, log, false), Class::Program);
        assert_eq!(Class::Program.after_noise(), Class::Program);
        let log = "Authenticated to fra1\nbash: line 1: /usr/bin/tako-server: Permission denied";
        assert_eq!(class(126, log, false), Class::Program);
        assert_eq!(class(137, "Authenticated to fra1", false), Class::Program);
    }

    #[test]
    fn a_login_that_was_cut_off_may_be_anything() {
        let inside = "Authenticated to 127.0.0.1 ([127.0.0.1]:2222) using \"publickey\".";
        assert_eq!(class(255, inside, false), Class::Other);
        assert_eq!(class(3, inside, false), Class::StartUp);
        assert_eq!(Class::StartUp.after_noise(), Class::Shell);
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
}
