//! Cipher: AES-GCM comes first where ChaCha20 did only because nobody said otherwise. Where both sides have AES in hardware, as
//! every x86-64 server has, an upload takes less time of both, and on a small server that is time of the apps there.
//!
//! **Invariant**: which ciphers may be used is what the user's `ssh` says. Their order changes only where it is the one that
//! OpenSSH comes with: who has chosen another one has a reason.

use std::time::Duration;

use super::destination::Destination;
use super::inspect;
use crate::cli::config::inventory::Server;
use crate::cli::interrupt::Interrupt;
use crate::error::{Kind, Result};
use crate::proto::target::Arch;

/// What OpenSSH says of itself (`Ciphers` in ssh_config(5)), from 7.6 and from 10.0 on.
const DEFAULTS: [&str; 2] = [
    "chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr",
];
/// `ssh -G` takes some milliseconds. One that takes longer runs a program for a `Match exec`, and nobody waits for that twice.
const ASKING: Duration = Duration::from_secs(1);

/// The option for a new connection, if it is worth one.
///
/// # Errors
/// Interrupted.
pub(super) fn option(server: &Server, destination: &Destination, interrupt: &Interrupt) -> Result<Option<String>> {
    let has_aes = server.target.is_some_and(|target| target.arch == Arch::X86_64) && has_aes();
    if !has_aes {
        return Ok(None);
    }
    match inspect::configuration(destination, ASKING, interrupt) {
        Ok(asked) => Ok(asked.text.lines().find_map(|line| line.strip_prefix("ciphers ")).and_then(faster_first)),
        Err(e) if e.kind() == Kind::Interrupted => Err(e),
        // Whatever is wrong is told when it connects.
        Err(_) => Ok(None),
    }
}

fn faster_first(ciphers: &str) -> Option<String> {
    let is_default = DEFAULTS.contains(&ciphers.trim());
    let (faster, others): (Vec<&str>, Vec<&str>) = ciphers.trim().split(',').partition(|name| name.contains("-gcm@"));
    is_default.then(|| format!("Ciphers={}", [faster, others].concat().join(",")))
}

/// Whether this machine does AES in hardware.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_order_that_nobody_chose_is_changed_and_none_is_added_or_left_out() {
        for default in DEFAULTS {
            let option = faster_first(default).unwrap();
            let list = option.strip_prefix("Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20").unwrap();
            assert!(list.ends_with("aes128-ctr,aes192-ctr,aes256-ctr"), "{option}");
            let sorted = |list: &str| {
                let mut names: Vec<String> = list.split(',').map(Into::into).collect();
                names.sort();
                names
            };
            assert_eq!(sorted(option.strip_prefix("Ciphers=").unwrap()), sorted(default));
        }
        for chosen in [
            "",
            "chacha20-poly1305@openssh.com",
            "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-gcm@openssh.com,aes128-ctr",
        ] {
            assert_eq!(faster_first(chosen), None, "{chosen}");
        }
    }
}
