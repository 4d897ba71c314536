//! A verdict as it is told: what failed, the proof from the log, and the next step.

use super::super::log::{Facts, is_told};
use super::keys::{both_keys, let_in, tried};
use super::{Class, Ending, LET_IN, PROGRAM, is_by_jump};
use crate::error::{Error, Kind};

/// Lines of the log that are shown as proof.
const PROOF: usize = 6;

impl<'a> Ending<'a> {
    /// The last words of our own program there, and the next step that it names.
    fn said(&self) -> Option<(&'a str, Option<&'a str>)> {
        let at = self.log.iter().rposition(|line| line.starts_with(PROGRAM))?;
        let next = self.log[at..].iter().find_map(|line| line.trim_start().strip_prefix("hint: "));
        Some((&self.log[at][PROGRAM.len()..], next))
    }
}

impl Class {
    /// The failure in words, with what to do about it.
    pub fn error(self, server: &str, ending: &Ending<'_>) -> Error {
        let (why, mut hint) = self.words(ending.login);
        if self == Class::Program
            && let Some((said, next)) = ending.said()
        {
            let error = Error::new(Kind::Unreachable, format!("{server}: {why}: {said}"));
            return error.hint(next.map_or(hint, Into::into));
        }
        let told: Vec<&String> = ending.log.iter().filter(|line| is_told(line)).collect();
        // That the login worked is not why it failed.
        let last = told.iter().rfind(|line| !line.starts_with(LET_IN));
        let why = match (self, last, ending.exit) {
            (Class::Other | Class::Program | Class::StartUp, Some(last), _) => format!("{why}: {last}"),
            (Class::Program | Class::StartUp, None, Some(status)) => {
                format!("{why}: the login ended with status {status} and no word")
            }
            _ => why.to_string(),
        };
        // What is known of keys is of the server itself.
        let is_by_jump = self != Class::Jump && !ending.greeted && is_by_jump(ending.log);
        let way = if is_by_jump { "by way of the jump host: " } else { "" };
        let mut detail: Vec<String> =
            told[told.len().saturating_sub(PROOF)..].iter().map(ToString::to_string).collect();
        match self {
            Class::HostKeyChanged => detail = both_keys(ending.log, &detail),
            Class::HostKeyNew if is_by_jump => {
                hint =
                    "compare it with the jump host's own, and log in there once with `ssh`; or run this on a terminal"
                        .into();
            }
            Class::HostKeyNew => detail.extend(
                Facts::of(ending.log).host_key.map(|(kind, fingerprint)| format!("offered    {kind} {fingerprint}")),
            ),
            Class::KeyPermissions => {
                let file = told.iter().find_map(|line| line.strip_prefix("Load key \"")?.split('"').next());
                hint = file.map_or(hint, |file| format!("run `chmod 600 {file}`"));
            }
            Class::Auth if is_by_jump => hint = format!("does `{}` work?", ending.login),
            Class::Auth => {
                let facts = Facts::of(ending.log);
                hint = let_in(&facts, ending).unwrap_or(hint);
                detail.extend(tried(&facts));
            }
            _ => {}
        }
        Error::new(Kind::Unreachable, format!("{server}: {way}{why}")).with_detail(detail).hint(hint)
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
            Class::Silent => (
                "it took the connection and then said nothing",
                "it may be too busy, or not an SSH port; try again, or look with `tako servers check`".into(),
            ),
            Class::Dropped => (
                "the far side dropped the connection before the login",
                "too many connections at once, a ban after failed logins, or not an SSH port".into(),
            ),
            Class::HostKeyNew => (
                "its host key is not known here",
                "compare it with the server's own and run `tako servers add` on a terminal, or with \
                 `--fingerprint SHA256:…`"
                    .into(),
            ),
            Class::HostKeyChanged => (
                "its host key has changed",
                format!(
                    "somebody may be in between: find out why first. If the server was reinstalled, `{login}` tells how to remove its old key"
                ),
            ),
            Class::KeyPermissions => {
                ("ssh does not use a key that others can read", "run `chmod 600` on the key file".into())
            }
            Class::Auth => (
                "it does not let us in",
                format!(
                    "does `{login}` work? a key with a passphrase needs an agent (`ssh-add -l`) or a terminal to ask on"
                ),
            ),
            Class::Jump => ("the jump host ended the connection", format!("the fault is there: `{login}` shows more")),
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
            Class::Shell => (
                "its login shell prints other things and does not get to tako-server",
                format!("look at the shell's start-up files there: `{login} true` should print nothing"),
            ),
            Class::StartUp => (
                "its login shell does not get to tako-server",
                format!(
                    "probably a start-up file of the shell there, such as .bashrc, ends it, waits, or starts something \
                     else: `{login} true` should end at once with status 0"
                ),
            ),
            Class::TooOld => ("the ssh on this machine does not know an option", "use OpenSSH 8.0 or later".into()),
            Class::Lost => (
                "the connection was lost",
                "what the server had begun it finishes by itself; `tako status` shows how it ended".into(),
            ),
            Class::Other => ("the connection failed", format!("does `{login}` work?")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_changed_host_key_is_told_with_the_known_one() {
        let dir = tempfile::tempdir().unwrap();
        let known = dir.path().join("known_hosts");
        fs::write(
            &known,
            "# mine\nfra1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl x\n",
        )
        .unwrap();
        let log: Vec<String> = format!(
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n\
             The fingerprint for the ED25519 key sent by the remote host is\n\
             SHA256:3rnb2EcPp7da6gAC9Q5YMT1ogxYS/AjJGJVmzwdIJhc.\n\
             Offending ED25519 key in {}:2\nHost key verification failed.",
            known.display()
        )
        .lines()
        .map(Into::into)
        .collect();
        let ending = Ending { exit: Some(255), log: &log, greeted: false, login: "ssh fra1" };
        assert_eq!(Class::of(&ending), Class::HostKeyChanged);
        let e = Class::HostKeyChanged.error("fra1", &ending);
        assert_eq!(e.detail()[0], "offered    ED25519 SHA256:3rnb2EcPp7da6gAC9Q5YMT1ogxYS/AjJGJVmzwdIJhc");
        // That of GitHub, which publishes its fingerprint.
        let known =
            format!("known      ED25519 SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU, in {}:2", known.display());
        assert_eq!(e.detail()[1], known);
    }

    #[test]
    fn a_login_that_failed_tells_what_was_tried() {
        let log: Vec<String> = "debug1: get_agent_identities: agent returned 2 keys\n\
             debug1: Offering public key: /home/ana/.ssh/id ED25519 SHA256:AWf3 explicit\n\
             debug1: Authentications that can continue: publickey\nana@fra1: Permission denied (publickey)."
            .lines()
            .map(Into::into)
            .collect();
        let ending = Ending { exit: Some(255), log: &log, greeted: false, login: "ssh fra1" };
        assert_eq!(
            Class::of(&ending).error("fra1", &ending).detail(),
            [
                "ana@fra1: Permission denied (publickey).",
                "tried /home/ana/.ssh/id ED25519 SHA256:AWf3",
                "the agent has 2 keys",
                "the server lets in by publickey",
            ]
        );
    }

    #[test]
    fn the_next_step_of_a_login_that_failed_fits_what_was_tried() {
        let check = |log: &str, expected: &str| {
            let log: Vec<String> = log.lines().map(Into::into).collect();
            let ending = Ending { exit: Some(255), log: &log, greeted: false, login: "ssh fra1" };
            let e = Class::of(&ending).error("fra1", &ending);
            assert!(e.next_step().unwrap().contains(expected), "{expected}: {e} {:?}", e.next_step());
            assert!(!e.detail().iter().any(|line| line.starts_with("debug")), "{:?}", e.detail());
            e
        };
        let no = "ana@fra1: Permission denied (publickey).";
        let offered = "debug1: Offering public key: /home/ana/my keys/id ED25519 SHA256:AWf3 explicit agent";
        let user = "debug1: Authenticating to fra1:22 as 'ana'";
        check(no, "does `ssh fra1` work?");
        check(
            &format!("{user}\n{offered}\n{no}"),
            "`ana` there needs /home/ana/my keys/id.pub in ~/.ssh/authorized_keys",
        );
        let accepts = "debug1: Server accepts key: /home/ana/.ssh/id ED25519 SHA256:AWf3 explicit";
        check(&format!("{offered}\n{accepts}\n{no}"), "`ssh-add /home/ana/.ssh/id`");
        check(
            "debug1: Server accepts key: ana@laptop ED25519 SHA256:AWf3 agent\nPermission denied (p)",
            "with `ssh-add`,",
        );
        check("Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures", "IdentitiesOnly yes");
        // Of the keys of a jump host nothing is known here.
        let jump = "root@bastion: Permission denied (publickey).\nConnection closed by UNKNOWN port 65535";
        let e = check(jump, "does `ssh fra1` work?");
        assert!(!e.detail().iter().any(|line| line.contains("key was tried")), "{:?}", e.detail());
        let e = check("Host key verification failed.\nConnection closed by UNKNOWN port 65535", "jump host's own");
        assert!(!e.next_step().unwrap().contains("--fingerprint"));
    }

    #[test]
    fn a_login_without_a_word_of_our_program_is_laid_to_the_start_up_files_of_its_shell() {
        let check = |exit: Option<i32>, log: &str, expected: &str| {
            let log: Vec<String> = log.lines().map(Into::into).collect();
            let ending = Ending { exit, log: &log, greeted: false, login: "ssh fra1" };
            assert_eq!(Class::of(&ending), Class::StartUp, "{exit:?} {log:?}");
            let e = Class::StartUp.error("fra1", &ending);
            assert_eq!(e.to_string(), format!("fra1: its login shell does not get to tako-server: {expected}"));
            assert!(e.next_step().unwrap().contains(".bashrc"), "{:?}", e.next_step());
        };
        let inside = "Authenticated to 127.0.0.1 ([127.0.0.1]:2222) using \"publickey\".";
        check(Some(3), inside, "the login ended with status 3 and no word");
        check(Some(0), inside, "the login ended with status 0 and no word");
        check(Some(1), &format!("{inside}\nnvm: broken"), "nvm: broken");
        check(None, &format!("{inside}\nno word for 40 s"), "no word for 40 s");
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
    fn the_error_names_the_server_shows_proof_and_a_next_step() {
        let log: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
        let ending = Ending { exit: Some(255), log: &log, greeted: false, login: "ssh -p 2222 fra1" };
        let e = Class::Other.error("fra1", &ending);
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unreachable, "fra1: the connection failed: line 19"));
        assert_eq!(e.detail(), &log[14..]);
        assert_eq!(e.next_step(), Some("does `ssh -p 2222 fra1` work?"));
    }
}
