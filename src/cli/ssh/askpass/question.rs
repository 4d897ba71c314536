//! Question: what `ssh` wants to know, read from the text that it would show. The texts are those of OpenSSH's
//! `readpass` and `confirm` calls in the C locale; one that we do not know is taken for a secret, which is always safe.

/// What `ssh` asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// May this key be the host's?
    HostKey(Offer),
    /// Yes or no, such as for the use of a key by an agent.
    Confirm(String),
    /// Nothing is asked: touch a key, for example. The asker is ended when it is done.
    Notice(String),
    /// A passphrase, a password, a PIN: never shown.
    Secret(String),
}

/// A key that nobody knows yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// As `ssh` names it: `203.0.113.7`, `[127.0.0.1]:2222`.
    pub host: String,
    /// `ED25519`.
    pub kind: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Under which other names the key is known already.
    pub known_as: Vec<String>,
}

impl Question {
    /// `hint` is what `ssh` says in SSH_ASKPASS_PROMPT.
    pub fn read(text: &str, hint: &str) -> Question {
        let line = || text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches(':').to_string();
        match (offer(text), hint) {
            (Some(offer), _) => Question::HostKey(offer),
            (None, "none") => Question::Notice(line()),
            (None, "confirm") => Question::Confirm(line()),
            (None, _) if text.contains("(yes/no") || text.trim_end().ends_with("fingerprint:") => {
                Question::Confirm(line())
            }
            (None, _) => Question::Secret(secret(&line())),
        }
    }
}

/// `passphrase for key /home/ana/.ssh/id_ed25519`, `ana@fra1's password`.
fn secret(line: &str) -> String {
    let line = line.strip_prefix("Enter ").unwrap_or(line);
    line.replace('\'', "").replace("s password", "'s password")
}

fn offer(text: &str) -> Option<Offer> {
    let host = text.split_once("authenticity of host '")?.1.split_once('\'')?.0;
    // `name (address)`; the address alone where both are the same.
    let host = match host.split_once(" (") {
        Some((name, address)) if address.trim_end_matches(')') == name => name,
        // Behind a jump host there is none.
        Some((name, address)) if address.starts_with("<no hostip") => name,
        _ => host,
    };
    let line = text.lines().find(|line| line.contains(" key fingerprint is "))?;
    let (kind, fingerprint) = line.split_once(" key fingerprint is ")?;
    let fingerprint = fingerprint.trim().trim_end_matches('.');
    let known_as = text.lines().skip_while(|line| !line.contains("following other names")).skip(1);
    let known_as = known_as.take_while(|line| line.starts_with("    ")).map(|line| line.trim().to_string()).collect();
    let offer = Offer { host: host.into(), kind: kind.trim().into(), fingerprint: fingerprint.into(), known_as };
    is_fingerprint(fingerprint).then_some(offer)
}

/// `SHA256:` and the 43 characters of 32 bytes in base64 without its padding.
pub(in crate::cli) fn is_fingerprint(text: &str) -> bool {
    text.strip_prefix("SHA256:").is_some_and(|digest| {
        digest.len() == 43 && digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "SHA256:xk19lTb1IxZUo1y+zaurMYsBLy9ugkcwG3G3f3wXGyQ";

    #[test]
    fn reads_what_ssh_asks() {
        let check = |text: &str, hint: &str, expected: Question| assert_eq!(Question::read(text, hint), expected);
        let secret = |text: &str| Question::Secret(text.into());
        check("Enter passphrase for key '/home/ana/.ssh/id': ", "", secret("passphrase for key /home/ana/.ssh/id"));
        check("ana@fra1's password: ", "", secret("ana@fra1's password"));
        check("(ana@fra1) One-time code: ", "", secret("(ana@fra1) One-time code"));
        check("", "", secret(""));
        check(
            "Add key /home/ana/.ssh/id (ana@laptop) to agent?",
            "confirm",
            Question::Confirm("Add key /home/ana/.ssh/id (ana@laptop) to agent?".into()),
        );
        check(
            "Confirm user presence for key ED25519-SK",
            "none",
            Question::Notice("Confirm user presence for key ED25519-SK".into()),
        );
        check(
            "Please type 'yes', 'no' or the fingerprint: ",
            "",
            Question::Confirm("Please type 'yes', 'no' or the fingerprint".into()),
        );
    }

    #[test]
    fn reads_the_key_that_a_host_offers() {
        let text = format!(
            "The authenticity of host '[127.0.0.1]:22990 ([127.0.0.1]:22990)' can't be established.\n\
             ED25519 key fingerprint is {FINGERPRINT}.\nThis host key is known by the following other names/addresses:\n    \
             ~/.ssh/known_hosts:3: fra1.example.com\n\
             Are you sure you want to continue connecting (yes/no/[fingerprint])? "
        );
        let offer = Offer {
            host: "[127.0.0.1]:22990".into(),
            kind: "ED25519".into(),
            fingerprint: FINGERPRINT.into(),
            known_as: vec!["~/.ssh/known_hosts:3: fra1.example.com".into()],
        };
        assert_eq!(Question::read(&text, ""), Question::HostKey(offer));
        let other = text.replace("([127.0.0.1]:22990)", "(10.0.0.1)").replace(" key is known", "");
        let Question::HostKey(offer) = Question::read(&other, "") else { panic!("{other}") };
        assert_eq!(offer.host, "[127.0.0.1]:22990 (10.0.0.1)");
        let behind = text.replace("([127.0.0.1]:22990)", "(<no hostip for proxy command>)");
        let Question::HostKey(offer) = Question::read(&behind, "") else { panic!("{behind}") };
        assert_eq!(offer.host, "[127.0.0.1]:22990");
        // A text that only looks like one is shown to nobody as a key that could be accepted.
        let broken = text.replace(FINGERPRINT, "SHA256:short");
        assert!(matches!(Question::read(&broken, ""), Question::Confirm(_)));
    }

    #[test]
    fn knows_a_fingerprint() {
        assert!(is_fingerprint(FINGERPRINT));
        for bad in ["", "SHA256:", "MD5:aa:bb", &FINGERPRINT[7..], &format!("{FINGERPRINT}=")] {
            assert!(!is_fingerprint(bad), "{bad}");
        }
    }
}
