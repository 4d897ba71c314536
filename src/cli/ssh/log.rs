//! The log of one `ssh`: its lines, and the facts that only its debug lines tell.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cli::child::plain;

/// A login through a few keys takes some ten kilobytes; of more, the end is what matters.
const MAX_LOG: u64 = 64 << 10;
/// How a line begins that is for who looks for a mistake in `ssh`.
const DEBUG: &str = "debug1: ";
/// So many keys are told of; nobody has more that matter.
const MAX_KEYS: usize = 8;

/// The last lines of a log.
pub(super) fn read(file: &File) -> Vec<String> {
    let length = file.metadata().map_or(0, |m| m.len());
    let start = length.saturating_sub(MAX_LOG);
    let mut bytes = vec![0; usize::try_from(length - start).unwrap_or(0)];
    let mut read = 0;
    while let Ok(more) = file.read_at(&mut bytes[read..], start + read as u64) {
        read += more;
        if more == 0 || read == bytes.len() {
            break;
        }
    }
    bytes.truncate(read);
    bytes.split(|b| *b == b'\n').map(plain).filter(|line| tells_something(line)).collect()
}

/// Not the farewell of every session, nor the frame around a warning.
fn tells_something(line: &str) -> bool {
    let frame = line.bytes().all(|b| b == b'@');
    !(frame || line.starts_with("Transferred: ") || line.starts_with("Bytes per second: "))
}

/// Whether a line is for people.
pub(super) fn is_told(line: &str) -> bool {
    !["debug1: ", "debug2: ", "debug3: "].iter().any(|mark| line.starts_with(mark))
}

/// What a log tells beside why it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// What the host shows: `ED25519`, `SHA256:…`.
    pub host_key: Option<(String, String)>,
    /// As whom.
    pub user: Option<String>,
    /// Keys that were shown to the server, as `ssh` names them.
    pub offered: Vec<String>,
    /// The one that it would take, if its owner can use it.
    pub accepted: Option<String>,
    pub agent: Agent,
    /// What the server would take: `publickey,password`.
    pub methods: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Agent {
    #[default]
    Unknown,
    None,
    Keys(usize),
}

impl Facts {
    pub fn of(log: &[String]) -> Facts {
        let mut facts = Facts::default();
        for line in log.iter().filter_map(|line| line.strip_prefix(DEBUG)) {
            let word = |text: &str, n: usize| text.split(' ').nth(n).unwrap_or_default().to_string();
            if let Some(key) = line.strip_prefix("Server host key: ") {
                facts.host_key = Some((kind_of(&word(key, 0)), word(key, 1)));
            } else if let Some(key) = line.strip_prefix("Offering public key: ") {
                if facts.offered.len() < MAX_KEYS {
                    facts.offered.push(named(key));
                }
            } else if let Some(to) = line.strip_prefix("Authenticating to ") {
                facts.user = to.rsplit_once(" as ").map(|(_, user)| user.trim_matches('\'').to_string());
            } else if let Some(key) = line.strip_prefix("Server accepts key: ") {
                facts.accepted = Some(named(key));
            } else if let Some(methods) = line.strip_prefix("Authentications that can continue: ") {
                facts.methods = Some(methods.into());
            } else if line.starts_with("get_agent_identities: ssh_get_authentication_socket") {
                facts.agent = Agent::None;
            } else if let Some(count) = line.strip_prefix("get_agent_identities: agent returned ") {
                facts.agent = count.split(' ').next().and_then(|n| n.parse().ok()).map_or(Agent::Unknown, Agent::Keys);
            }
        }
        facts
    }
}

/// A key with its file, kind and fingerprint, as `ssh` writes it; that it was named explicitly is of no interest.
fn named(key: &str) -> String {
    key.trim_end_matches(" explicit").into()
}

/// `ssh-ed25519` as a person knows it.
fn kind_of(name: &str) -> String {
    let short = name.trim_start_matches("sk-").trim_start_matches("ssh-").trim_start_matches("ecdsa-sha2-");
    match short {
        curve if curve.starts_with("nistp") => "ECDSA".into(),
        other => other.split(['-', '@']).next().unwrap_or(other).to_ascii_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(log: &str) -> Facts {
        Facts::of(&log.lines().map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn reads_the_facts_of_a_refused_login() {
        let found = facts(
            "debug1: Server host key: ssh-ed25519 SHA256:3rnb2EcPp7da6gAC9Q5YMT1ogxYS/AjJGJVmzwdIJhc\n\
             debug1: Authenticating to fra1:22 as 'ana'\n\
             debug1: get_agent_identities: bound agent to hostkey\n\
             debug1: get_agent_identities: agent returned 2 keys\n\
             debug1: Authentications that can continue: publickey,password\n\
             debug1: Offering public key: /home/ana/.ssh/id ED25519 SHA256:AWf3 explicit\n\
             debug1: Server accepts key: ana@laptop ED25519 SHA256:BWf4 agent\n\
             ana@fra1: Permission denied (publickey).",
        );
        let key = ("ED25519".to_string(), "SHA256:3rnb2EcPp7da6gAC9Q5YMT1ogxYS/AjJGJVmzwdIJhc".to_string());
        assert_eq!(found.host_key, Some(key));
        assert_eq!(found.user.as_deref(), Some("ana"));
        assert_eq!(found.offered, ["/home/ana/.ssh/id ED25519 SHA256:AWf3"]);
        assert_eq!(found.accepted.as_deref(), Some("ana@laptop ED25519 SHA256:BWf4 agent"));
        assert_eq!(found.agent, Agent::Keys(2));
        assert_eq!(found.methods.as_deref(), Some("publickey,password"));
        let without = "debug1: get_agent_identities: ssh_get_authentication_socket: No such file or directory";
        assert_eq!(facts(without).agent, Agent::None);
        assert_eq!(facts("Server host key: ssh-ed25519 SHA256:x"), Facts::default(), "only ssh itself is believed");
    }

    #[test]
    fn names_a_kind_of_key_as_people_do() {
        let check = |name: &str, expected: &str| assert_eq!(kind_of(name), expected);
        check("ssh-ed25519", "ED25519");
        check("ssh-rsa", "RSA");
        check("ecdsa-sha2-nistp256", "ECDSA");
        check("sk-ssh-ed25519@openssh.com", "ED25519");
    }

    #[test]
    fn a_long_log_is_read_from_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, "x\n".repeat(1 << 17).as_bytes()).unwrap();
        std::io::Write::write_all(&mut file, b"@@@@\nTransferred: 1\nlast words").unwrap();
        let lines = read(&file);
        assert!(lines.len() <= 1 << 15, "{}", lines.len());
        assert_eq!(lines.last().map(String::as_str), Some("last words"));
    }
}
