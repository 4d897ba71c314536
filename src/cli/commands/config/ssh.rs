//! How the servers of an environment are reached: what of it somebody has set, and where. Pure but for [`Given::read`].
//!
//! It belongs to the user and not to the project, so in a `tako.toml` it is a remark.
//!
//! **Invariant**: of what is said twice only that stands here which counts; of options all do, in the order that `ssh` hears
//! them.

use std::env;

use serde_json::{Value, json};

use crate::cli::args::Args;
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::config::ssh_option::SshOption;
use crate::cli::config::transport::{Transport, transport};
use crate::cli::project::lines::Lines;
use crate::cli::ssh::means::{OPTIONS, SFTP, SSH};
use crate::error::Result;
use crate::proto::name::ServerName;
use crate::proto::paths;

/// What was found.
pub(super) struct Given {
    /// The user's file.
    pub file: String,
    pub lines: Lines,
    pub written: Transport,
    /// Variables that are set, by their names.
    pub variables: Vec<(&'static str, String)>,
    pub no_mux: bool,
}

/// One thing that is set.
#[derive(Debug, PartialEq)]
pub(super) struct Way {
    /// For this server only.
    pub server: Option<ServerName>,
    pub key: &'static str,
    pub value: Value,
    pub from: String,
}

impl Given {
    pub fn read(args: &Args, inventory: &Inventory) -> Result<Given> {
        let (path, text) = inventory.file();
        let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty()).map(|value| (name, value));
        Ok(Given {
            file: path.display().to_string(),
            lines: Lines::of(text),
            written: transport(&paths::home()?)?,
            variables: [SSH, SFTP, OPTIONS].into_iter().filter_map(set).collect(),
            no_mux: args.flag("no-mux"),
        })
    }

    /// Of these servers.
    pub fn ways(&self, servers: &[&Server]) -> Vec<Way> {
        let way = |key, value, from| Way { server: None, key, value, from };
        let mut ways = Vec::new();
        for (key, variable, path) in
            [("ssh_path", SSH, &self.written.ssh_path), ("sftp_path", SFTP, &self.written.sftp_path)]
        {
            match (self.variable(variable), path) {
                (Some(value), _) => ways.push(way(key, json!(value), variable.into())),
                (None, Some(path)) => ways.push(way(key, json!(path), self.at(key))),
                (None, None) => {}
            }
        }
        if self.no_mux {
            ways.push(way("mux", json!(false), "--no-mux".into()));
        } else if let Some(mux) = self.written.mux {
            ways.push(way("mux", json!(mux), self.at("mux")));
        }
        if let Some(options) = self.variable(OPTIONS) {
            ways.push(way("options", json!(options.split_whitespace().collect::<Vec<_>>()), OPTIONS.into()));
        }
        for server in servers.iter().filter(|server| !server.ssh_options.is_empty()) {
            let from = self.place(self.lines.of_server(server.name.as_str(), "ssh_options"));
            let value = texts(&server.ssh_options);
            ways.push(Way { server: Some(server.name.clone()), ..way("ssh_options", value, from) });
        }
        if !self.written.options.is_empty() {
            ways.push(way("options", texts(&self.written.options), self.at("options")));
        }
        ways
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.as_str())
    }

    fn at(&self, key: &str) -> String {
        self.place(self.lines.of_key(&["ssh", key]))
    }

    fn place(&self, line: Option<usize>) -> String {
        line.map_or_else(|| self.file.clone(), |line| format!("{}:{line}", self.file))
    }
}

fn texts(options: &[SshOption]) -> Value {
    options.iter().map(SshOption::as_str).collect::<Vec<_>>().into()
}

/// A line for each, and what decides where several name one option.
pub(super) fn remarks(ways: &[Way]) -> Vec<String> {
    let mut remarks: Vec<String> = ways.iter().map(remark).collect();
    if ways.iter().filter(|way| way.key.ends_with("options")).count() > 1 {
        remarks.push("ssh: of an option that is given more than once, the first one counts".into());
    }
    remarks
}

fn remark(Way { server, key, value, from }: &Way) -> String {
    let to = server.as_ref().map_or_else(String::new, |server| format!(" to {server}"));
    format!("ssh{to}: {key} = {value} ({from})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, options: &[&str]) -> Server {
        Server {
            name: ServerName::parse(name).unwrap(),
            host: name.into(),
            port: None,
            user: None,
            description: None,
            target: None,
            ssh_options: options.iter().map(|option| SshOption::parse(option).unwrap()).collect(),
        }
    }

    fn given(text: &str, variables: &[(&'static str, &str)], no_mux: bool) -> Given {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config.toml"), text).unwrap();
        Given {
            file: "~/c.toml".into(),
            lines: Lines::of(text),
            written: transport(home.path()).unwrap(),
            variables: variables.iter().map(|(name, value)| (*name, (*value).into())).collect(),
            no_mux,
        }
    }

    const TEXT: &str = "[ssh]\nssh_path = \"/opt/ssh\"\nmux = false\noptions = [\"ConnectTimeout=30\"]\n\n\
                        [[servers]]\nname = \"fra1\"\nhost = \"fra1\"\nssh_options = [\"-F /a b\", \"-4\"]\n";

    #[test]
    fn each_setting_is_told_with_its_place_and_options_in_the_order_that_counts() {
        let (fra1, nyc1) = (server("fra1", &["-F /a b", "-4"]), server("nyc1", &[]));
        let check = |given: &Given, expected: &[&str]| assert_eq!(remarks(&given.ways(&[&fra1, &nyc1])), expected);
        let first = "ssh: of an option that is given more than once, the first one counts";
        check(
            &given(TEXT, &[], false),
            &[
                "ssh: ssh_path = \"/opt/ssh\" (~/c.toml:2)",
                "ssh: mux = false (~/c.toml:3)",
                "ssh to fra1: ssh_options = [\"-F /a b\",\"-4\"] (~/c.toml:9)",
                "ssh: options = [\"ConnectTimeout=30\"] (~/c.toml:4)",
                first,
            ],
        );
        check(
            &given(TEXT, &[(SSH, "/bin/ssh"), (SFTP, "/bin/sftp"), (OPTIONS, "-v  -4")], true),
            &[
                "ssh: ssh_path = \"/bin/ssh\" (TAKO_SSH)",
                "ssh: sftp_path = \"/bin/sftp\" (TAKO_SFTP)",
                "ssh: mux = false (--no-mux)",
                "ssh: options = [\"-v\",\"-4\"] (TAKO_SSH_OPTIONS)",
                "ssh to fra1: ssh_options = [\"-F /a b\",\"-4\"] (~/c.toml:9)",
                "ssh: options = [\"ConnectTimeout=30\"] (~/c.toml:4)",
                first,
            ],
        );
        assert_eq!(remarks(&given("", &[], false).ways(&[&nyc1])), [""; 0]);
    }
}
