//! Refusal: why a host key was not taken, in words. The server's own key and that of a host on the way to it are two
//! things: what was pinned, by `--fingerprint` for example, is the server's.

use super::question::Offer;
use crate::error::{Error, Kind};

/// A host key that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::ssh) struct Refusal {
    pub whose: Whose,
    /// As `ssh` names it.
    pub host: String,
    /// `ED25519 SHA256:…`
    pub offered: String,
    pub why: Why,
}

/// Which host shows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::ssh) enum Whose {
    Server,
    /// A jump host's, between us and the server.
    Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::ssh) enum Why {
    /// A person did not want it.
    Declined,
    /// Another one was expected.
    Differs { expected: String },
    /// Nobody is there to be asked.
    Unknown,
}

impl Refusal {
    pub(super) fn of(whose: Whose, offer: &Offer, why: Why) -> Refusal {
        Refusal { whose, host: offer.host.clone(), offered: format!("{} {}", offer.kind, offer.fingerprint), why }
    }

    pub fn error(&self, server: &str) -> Error {
        let Refusal { host, offered, .. } = self;
        let whose = match self.whose {
            Whose::Server => "its host key".to_string(),
            Whose::Way => format!("the host key of {host}, which the way there leads through,"),
        };
        let (what, expected) = match &self.why {
            Why::Declined => ("was not accepted", None),
            Why::Differs { expected } => ("is not the expected one", Some(format!("expected   {expected}"))),
            Why::Unknown => ("is not known here", None),
        };
        let offered = format!("offered    {offered}, by {host}");
        let hint = match (self.whose, &self.why) {
            (Whose::Server, Why::Differs { .. }) => {
                "somebody may be in between, or it is another of the server's keys: on the server, `ssh-keygen -lf` shows each of /etc/ssh/ssh_host_*_key.pub".into()
            }
            (Whose::Way, Why::Differs { .. }) => {
                "somebody may be in between, or it is another of that host's keys: there, `ssh-keygen -lf` shows each of /etc/ssh/ssh_host_*_key.pub".into()
            }
            (Whose::Server, Why::Declined | Why::Unknown) => {
                "compare it with the server's own: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there, or the provider's console".into()
            }
            (Whose::Way, Why::Declined | Why::Unknown) => format!(
                "compare it with that host's own, then let ssh know it: `{}`, or run this on a terminal; a \
                 `--fingerprint` is the server's, not that host's",
                login(host)
            ),
        };
        let detail = std::iter::once(offered).chain(expected).collect();
        Error::new(Kind::Unreachable, format!("{server}: {whose} {what}")).with_detail(detail).hint(hint)
    }
}

/// What a person types to log in to a host that `ssh` names so: `[127.0.0.1]:2222`, `bastion (10.0.0.1)`.
fn login(host: &str) -> String {
    let host = host.split(' ').next().unwrap_or(host);
    match host.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((host, port)) => format!("ssh -p {port} {host}"),
        None => format!("ssh {host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_whose_key_it_is_and_what_to_do() {
        let refusal =
            |whose, why| Refusal { whose, host: "[10.0.0.1]:2222".into(), offered: "ED25519 SHA256:ab".into(), why };
        let check = |refusal: Refusal, message: &str, hint: &str| {
            let e = refusal.error("fra1");
            assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unreachable, message));
            assert!(e.next_step().unwrap().contains(hint), "{:?}", e.next_step());
            assert_eq!(e.detail()[0], "offered    ED25519 SHA256:ab, by [10.0.0.1]:2222");
            e.detail().get(1).cloned()
        };
        let differs = || Why::Differs { expected: "SHA256:cd".into() };
        check(refusal(Whose::Server, Why::Declined), "fra1: its host key was not accepted", "provider's console");
        let expected =
            check(refusal(Whose::Server, differs()), "fra1: its host key is not the expected one", "in between");
        assert_eq!(expected.as_deref(), Some("expected   SHA256:cd"));
        let way = "fra1: the host key of [10.0.0.1]:2222, which the way there leads through,";
        check(refusal(Whose::Way, Why::Unknown), &format!("{way} is not known here"), "`ssh -p 2222 10.0.0.1`");
        check(refusal(Whose::Way, differs()), &format!("{way} is not the expected one"), "that host's keys");
        assert_eq!((login("bastion"), login("bastion (10.0.0.1)")), ("ssh bastion".into(), "ssh bastion".into()));
    }
}
