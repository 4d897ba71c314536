//! Destination: how one server is named to `ssh` and `sftp`, and the options that both are given.

use std::sync::atomic::{AtomicBool, Ordering};

use super::means::Means;
use crate::cli::config::inventory::Server;
use crate::error::{Error, Kind, Result};

/// What keeps a ssh_config from changing what goes over our channel, and a dead network from hanging us.
///
/// What stays the user's: whatever finds the host and opens the way to it (HostName, Port, User, ProxyJump, ProxyCommand
/// and how that one hands over its socket), keys, certificates, agents and known hosts.
const OPTIONS: [&str; 16] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    // zstd data gets several times slower with it.
    "Compression=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "VisualHostKey=no",
    "SendEnv=-*",
    "EscapeChar=none",
    "Tunnel=no",
    "LogLevel=VERBOSE",
];

/// The same, of options that came with OpenSSH 8.7: an older one stops at a name that it does not know.
const NEWER: [&str; 2] = ["StdinNull=no", "ForkAfterAuthentication=no"];
/// Whether the `ssh` here is older; found out by trying.
pub(super) static OLD: AtomicBool = AtomicBool::new(false);

/// What goes to `ssh` and `sftp` alike to reach one server.
pub(super) struct Destination {
    pub host: String,
    /// What the user gives, before all options of ours.
    pub arguments: Vec<String>,
    pub options: Vec<String>,
    /// The same for a person to type.
    pub login: String,
}

impl Destination {
    pub fn of(server: &Server) -> Result<Destination> {
        check_word("host", &server.host, b"._-:")?;
        let mut options: Vec<String> = OPTIONS.map(Into::into).into();
        if !OLD.load(Ordering::Acquire) {
            options.extend(NEWER.map(Into::into));
        }
        if let Some(user) = &server.user {
            check_word("user", user, b"._-+@")?;
            options.push(format!("User={user}"));
        }
        if let Some(port) = server.port {
            options.push(format!("Port={port}"));
        }
        let arguments = Means::of_process()?.arguments(&server.ssh_options);
        let login = login(server, &arguments);
        Ok(Destination { host: server.host.clone(), arguments, options, login })
    }

    /// What of it decides where a connection leads.
    pub fn key(&self) -> Vec<String> {
        let set = self.options.iter().filter(|o| o.starts_with("User=") || o.starts_with("Port="));
        set.chain([&self.host]).cloned().collect()
    }

    /// `sftp` takes what follows a colon for a path.
    pub fn for_sftp(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }
}

/// All that was set by flags and variables; the rest is in ssh_config for both.
fn login(server: &Server, arguments: &[String]) -> String {
    let mut words = vec!["ssh".to_string()];
    words.extend(arguments.iter().map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    }));
    words.extend(server.port.map(|port| format!("-p {port}")));
    words.push(match &server.user {
        Some(user) => format!("{user}@{}", server.host),
        None => server.host.clone(),
    });
    words.join(" ")
}

/// Letters, digits and `also`, not starting like an option.
fn check_word(what: &str, word: &str, also: &[u8]) -> Result<()> {
    let good = (1..=253).contains(&word.len())
        && !word.starts_with('-')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || also.contains(&b));
    match good {
        true => Ok(()),
        false => Err(Error::new(Kind::Config, format!("`{}` is not a valid SSH {what}", word.escape_debug()))
            .hint("give such a host an alias in ~/.ssh/config and use that")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::name::ServerName;

    fn server(host: &str, user: Option<&str>) -> Server {
        Server {
            name: ServerName::parse("fra1").unwrap(),
            host: host.into(),
            port: Some(2222),
            user: user.map(Into::into),
            description: None,
            target: None,
            ssh_options: Vec::new(),
        }
    }

    #[test]
    fn a_host_or_user_that_could_pass_for_an_option_or_a_command_is_refused() {
        for bad in ["", "-oProxyCommand=x", "a b", "a;b", "a%h", "a`b`", "$(x)", "a/b", "a@b", "a\nb"] {
            assert_eq!(Destination::of(&server(bad, None)).err().map(|e| e.kind()), Some(Kind::Config), "{bad:?}");
        }
        for bad in ["", "-l", "a b", "a;b", "a%r"] {
            assert!(Destination::of(&server("fra1", Some(bad))).is_err(), "{bad:?}");
        }
        for good in ["fra1.example.com", "10.0.0.1", "fe80::1", "my_alias"] {
            assert!(Destination::of(&server(good, Some("ana"))).is_ok(), "{good}");
        }
    }

    #[test]
    fn user_and_port_of_the_inventory_go_in_as_options() {
        let destination = Destination::of(&server("fe80::1", Some("ana"))).unwrap();
        assert!(destination.options.contains(&"User=ana".into()) && destination.options.contains(&"Port=2222".into()));
        assert_eq!((destination.host.as_str(), destination.for_sftp().as_str()), ("fe80::1", "[fe80::1]"));
    }
}
