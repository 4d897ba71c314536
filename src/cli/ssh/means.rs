//! Means: which `ssh` and `sftp` we run, with which options of the user's, whether connections are kept and who can be
//! asked. The same for the whole process, so it is said once, at its start.
//!
//! The environment wins over `[ssh]` of the user's config: who sets a variable means it.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::askpass;
use crate::cli::child::{Owned, Tail};
use crate::cli::config::ssh_option::SshOption;
use crate::cli::config::transport::{Transport, transport};
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::proto::paths;

/// The variables that say so, each in place of a key of the user's file or besides it.
pub(crate) const SSH: &str = "TAKO_SSH";
pub(crate) const SFTP: &str = "TAKO_SFTP";
pub(crate) const OPTIONS: &str = "TAKO_SSH_OPTIONS";
/// What a program takes to say its version; one that takes longer does not tell.
const VERSION_TIME: Duration = Duration::from_secs(3);
/// A wrapper may have something to say, too.
const VERSION_LINES: usize = 10;

#[derive(Default)]
pub(super) struct Means {
    written: Transport,
    /// Arguments of both programs that the environment gives.
    environment: Vec<String>,
    /// Whether a connection is kept for the next command.
    pub keep: bool,
}

struct Said {
    ui: Ui,
    no_mux: bool,
}

static SAID: OnceLock<Said> = OnceLock::new();
static MEANS: OnceLock<Means> = OnceLock::new();

/// What the command line says, before anything connects.
pub(crate) fn set_up(ui: &Ui, no_mux: bool) {
    // A second call could only be a second command in one process; there is none.
    let _ = SAID.set(Said { ui: ui.clone(), no_mux });
}

/// Whoever can be told what is going on, and maybe asked.
pub(super) fn ui() -> Option<&'static Ui> {
    SAID.get().map(|said| &said.ui)
}

/// A line for who asked for all of them.
pub(crate) fn tell(line: &str) {
    if let Some(ui) = ui() {
        ui.detail(line);
    }
}

impl Means {
    /// # Errors
    /// Config, when the user's file is wrong.
    pub fn of_process() -> Result<&'static Means> {
        if MEANS.get().is_none() {
            // Losing a race leaves what was read twice.
            let _ = MEANS.set(Means::read()?);
        }
        Ok(MEANS.get_or_init(Means::default))
    }

    fn read() -> Result<Means> {
        let written = transport(&paths::home()?)?;
        let environment = env::var(OPTIONS).unwrap_or_default();
        let environment = environment.split_whitespace().map(Into::into).collect();
        let keep = written.mux != Some(false) && SAID.get().is_some_and(|said| !said.no_mux);
        Ok(Means { written, environment, keep })
    }

    /// What the user gives both programs to reach a server that has these options. In ssh the first value of an option
    /// wins: those of the environment come first, then the server's, then those for all.
    pub fn arguments(&self, of_server: &[SshOption]) -> Vec<String> {
        let written = of_server.iter().chain(&self.written.options).flat_map(SshOption::arguments);
        self.environment.iter().chain(written).cloned().collect()
    }

    /// Of the `ssh` that we run; `None` when it is another program or does not say.
    pub fn version(&self) -> Option<(u32, u32)> {
        static VERSION: OnceLock<Option<(u32, u32)>> = OnceLock::new();
        *VERSION.get_or_init(|| {
            let mut command = Command::new(self.path(SSH, "ssh"));
            command.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut ssh = Owned::spawn(&mut command).ok()?;
            let said = Tail::of(ssh.child.stderr.take()?, VERSION_LINES);
            version_in(&said.last_lines(VERSION_TIME).join("\n"))
        })
    }

    fn path(&self, variable: &str, default: &str) -> OsString {
        let written = match default {
            "sftp" => &self.written.sftp_path,
            _ => &self.written.ssh_path,
        };
        let set = env::var_os(variable).filter(|v| !v.is_empty());
        set.or_else(|| written.as_ref().map(OsString::from)).unwrap_or_else(|| default.into())
    }

    /// Whatever besides the server decides where a connection leads and as whom. A change of ssh_config or of the agent
    /// is another connection; of the files that ssh_config includes we do not know.
    pub fn key(&self, arguments: &[String]) -> Vec<String> {
        let mut key = vec![self.path(SSH, "ssh").to_string_lossy().into_owned()];
        key.extend(arguments.iter().cloned());
        key.push(env::var("SSH_AUTH_SOCK").unwrap_or_default());
        let users = env::home_dir().map(|home| home.join(".ssh/config"));
        let given = arguments.iter().filter_map(|option| match option.strip_prefix("-F") {
            Some("") | None => None,
            Some(path) => Some(path),
        });
        let after = arguments.iter().zip(arguments.iter().skip(1)).filter(|(o, _)| *o == "-F").map(|(_, p)| &**p);
        for file in users.into_iter().chain(given.chain(after).map(PathBuf::from)) {
            let stamp = file.metadata().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
            key.push(format!("{} {:?}", file.display(), stamp.ok()));
        }
        key
    }
}

/// `ssh` or what the user says instead, with the user's arguments in front.
pub(super) fn program(variable: &str, default: &str, arguments: &[String]) -> Command {
    let read;
    // Whoever starts a session has seen the error of a wrong file.
    let means = match Means::of_process() {
        Ok(means) => means,
        Err(_) => {
            read = Means::default();
            &read
        }
    };
    let mut command = Command::new(means.path(variable, default));
    command.args(arguments);
    // The texts that the verdict looks for are those of the C locale.
    command.env("LC_ALL", "C");
    // Also of what it starts in its turn: the `ssh` to a jump host knows nothing of our options.
    askpass::nobody(&mut command);
    command
}

/// `OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19`.
pub(super) fn version_in(text: &str) -> Option<(u32, u32)> {
    let number =
        text.split_once("OpenSSH_")?.1.split(|c: char| c != '.' && !c.is_ascii_digit()).find(|n| !n.is_empty());
    let (major, minor) = number?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_ssh() {
        let check = |text: &str, expected| assert_eq!(version_in(text), expected, "{text}");
        check("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026\n", Some((9, 2)));
        check("OpenSSH_10.0p2, LibreSSL 3.3.6", Some((10, 0)));
        check("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", Some((8, 1)));
        check("Dropbear v2022.83", None);
        check("", None);
    }
}
