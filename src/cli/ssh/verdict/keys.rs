//! Keys: what the log of a login that failed tells of them: the host's, and those that were shown to it; and what to do.
//!
//! **Invariant**: files, kinds and fingerprints are told, never a key.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::Ending;
use crate::cli::ssh::log::{Agent, Facts};
use crate::crypto::Sha256;

/// The key that the host shows and the one that is known, as `ssh` tells of them, or what it says instead.
pub(super) fn both_keys(log: &[String], proof: &[String]) -> Vec<String> {
    let offending = log.iter().find_map(|line| {
        let (kind, place) = line.strip_prefix("Offending ")?.split_once(" key in ")?;
        Some((kind.to_string(), place.to_string()))
    });
    let said = || {
        let at = log.iter().position(|line| line.contains("key sent by the remote host is"))?;
        let kind = log[at].strip_prefix("The fingerprint for the ")?.split(' ').next()?;
        Some((kind.to_string(), log.get(at + 1)?.trim_end_matches('.').to_string()))
    };
    let Some((kind, offered)) = said().or_else(|| Facts::of(log).host_key) else { return proof.to_vec() };
    let mut keys = vec![format!("offered    {kind} {offered}")];
    if let Some((kind, place)) = offending {
        let known = known_key(&place).unwrap_or_else(|| "a key that could not be read".into());
        keys.push(format!("known      {kind} {known}, in {place}"));
    }
    keys
}

/// The fingerprint of the key in a line of a known_hosts file, named as `FILE:LINE`.
fn known_key(place: &str) -> Option<String> {
    /// Larger than any that a person has.
    const MAX_FILE: u64 = 16 << 20;
    let (file, line) = place.rsplit_once(':')?;
    let line: usize = line.parse().ok()?;
    if fs::metadata(file).ok()?.len() > MAX_FILE {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let mut words = text.lines().nth(line.checked_sub(1)?)?.split_whitespace();
    // `@cert-authority` or `@revoked` may come first; then names, kind, key.
    let first = words.next()?;
    let key = words.nth(if first.starts_with('@') { 2 } else { 1 })?;
    let mut hash = Sha256::new();
    hash.update(&STANDARD.decode(key).ok()?);
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(hash.digest())))
}

/// What would let us in, where the log is clear about it.
pub(super) fn let_in(facts: &Facts, ending: &Ending<'_>) -> Option<String> {
    // `PATH KIND FINGERPRINT`; a key of an agent's that is in no file has a comment there.
    let file = |key: &str| {
        let (path, _) = key.split_once(" SHA256:")?.0.rsplit_once(' ')?;
        path.starts_with('/').then(|| path.to_string())
    };
    if ending.log.iter().any(|line| line.contains("Too many authentication failures")) {
        return Some(
            "it was shown too many keys: name the right one in ~/.ssh/config, with `IdentityFile` and \
             `IdentitiesOnly yes`"
                .into(),
        );
    }
    if let Some(key) = &facts.accepted {
        let unlock = file(key).map_or_else(|| "`ssh-add`".into(), |file| format!("`ssh-add {file}`"));
        return Some(format!(
            "give it to an agent with {unlock}, or run this on a terminal to be asked for the passphrase"
        ));
    }
    let key = facts.offered.iter().find_map(|key| file(key))?;
    let user = facts.user.as_deref().map_or_else(|| "the user".into(), |user| format!("`{user}`"));
    Some(format!(
        "is that the right user? {user} there needs {key}.pub in ~/.ssh/authorized_keys; try `{}`",
        ending.login
    ))
}

/// What was tried to log in.
pub(super) fn tried(facts: &Facts) -> Vec<String> {
    let user = facts.user.as_ref().map_or_else(String::new, |user| format!(", as {user}"));
    let mut lines: Vec<String> = facts.offered.iter().map(|key| format!("tried {key}{user}")).collect();
    if lines.is_empty() {
        lines.push("no key was tried: none was found, or none could be read without its passphrase".into());
    }
    if let Some(key) = &facts.accepted {
        lines.push(format!("the server takes {key}: it could not be used without its passphrase"));
    }
    lines.push(match facts.agent {
        Agent::Unknown => "no agent was asked".into(),
        Agent::None => "no agent is running (SSH_AUTH_SOCK)".into(),
        Agent::Keys(0) => "the agent has no keys".into(),
        Agent::Keys(1) => "the agent has 1 key".into(),
        Agent::Keys(n) => format!("the agent has {n} keys"),
    });
    lines.extend(facts.methods.as_ref().map(|methods| format!("the server lets in by {methods}")));
    lines
}
