//! The system `ssh` and `sftp`: one connection per server, with the control channel of a command on it.
//!
//! The remote command is a constant; whatever varies travels as JSON on its standard input, so nothing is ever quoted
//! for a remote shell. Host, user, port, keys, agent and jump hosts stay the user's, from ssh_config; everything that
//! could put other bytes on our channel is switched off.
//!
//! ```text
//! kept     ssh (ours) ── mux ──► ssh [mux], in the background ──► sshd     the next command uses it, for a minute
//! private  ssh (ours) ───────────────────────────────────────► sshd      --no-mux; ends with the command
//! ```
//!
//! **Invariant**: a session's channel ends with its [`Session`], and with it whatever the server holds for it; so do our
//! processes and our log file. Only a kept connection and its socket outlive it, by [`kept::PERSIST`] at most.

pub(crate) mod askpass;
pub(crate) mod means;
pub(crate) mod inspect;
mod cipher;
mod destination;
mod kept;
mod log;
mod sftp;
mod verdict;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::child::{Owned, Tail};
use super::config::inventory::Server;
use super::interrupt::Interrupt;
use crate::crypto::{self, Sha256};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use askpass::question::is_fingerprint;
use askpass::refusal::{Refusal, Whose, Why};
use askpass::{Answers, Relay};
use destination::Destination;
use kept::Kept;
use log::Facts;
use means::{Means, program};
use verdict::{Class, Ending};

/// All that is ever run on a server.
const COMMAND: &str = "tako-server ctl";

/// `ssh` appends 17 characters to a control path, and macOS allows 104 in all.
const MAX_CONTROL_PATH: usize = 86;
/// Lines of standard error and of the log that are kept for the verdict.
const KEPT_LINES: usize = 40;
/// Of the talk with `sftp`.
const MAX_LOG: u64 = 16 << 10;
/// What `ssh` may take to end once its channel has.
const ENDING: Duration = Duration::from_secs(3);
/// What its last words may take to come through the pipe.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The first OpenSSH that asks a program although there is a terminal (SSH_ASKPASS_REQUIRE).
const ASKS_A_PROGRAM: (u32, u32) = (8, 4);

/// Which host keys will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostKeys {
    /// Those that the user's ssh lets pass.
    AsConfigured,
    /// Also one of a host that is not known yet; never another one of a host that is.
    AcceptNew,
    /// Only the one with this fingerprint.
    Pinned(String),
}

impl HostKeys {
    /// # Errors
    /// Usage.
    pub fn pinned(fingerprint: &str) -> Result<HostKeys> {
        let full = match fingerprint.starts_with("SHA256:") {
            true => fingerprint.to_string(),
            false => format!("SHA256:{fingerprint}"),
        };
        let full = full.trim_end_matches('=');
        match is_fingerprint(full) {
            true => Ok(HostKeys::Pinned(full.into())),
            false => {
                let message = format!("`{}` is not the fingerprint of a host key", fingerprint.escape_debug());
                Err(Error::new(Kind::Usage, message)
                    .hint("it begins with SHA256:, as `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows it"))
            }
        }
    }
}

/// Whether another attempt may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Never,
    /// A moment later.
    Soon,
    /// At once, with a connection of our own: what went wrong on the way to a jump host is told to no other, because
    /// `ssh` silences the program that is its way to the host when it keeps the connection.
    Alone,
}

/// A running `ssh`.
pub(crate) struct Session {
    server: String,
    ssh: Owned,
    stderr: Tail,
    files: Files,
    destination: Destination,
    /// Until the connection stands.
    relay: Option<Relay>,
    pin: Option<String>,
    /// Somebody is there to be asked, and the `ssh` here cannot ask through us.
    is_mute: bool,
}

/// The control socket and the log of one session. What is ours alone is removed on drop.
struct Files {
    /// `None` when no folder with a path short enough was found; then `sftp` makes a connection of its own.
    control: Option<PathBuf>,
    /// The place on the connection, when the socket is that of a kept one.
    kept: Option<Kept>,
    log_path: PathBuf,
    log: File,
}

impl Session {
    /// Starts `ssh`; whether it gets through shows on the returned streams.
    ///
    /// # Errors
    /// Config for a host or user that must not become an argument; NotFound without an `ssh` on this machine;
    /// Interrupted while another command was opening the connection.
    pub fn start(
        server: &Server,
        host_keys: &HostKeys,
        alone: bool,
        interrupt: &Interrupt,
    ) -> Result<(Session, ChildStdin, ChildStdout)> {
        let means = Means::of_process()?;
        let mut destination = Destination::of(server)?;
        let dir = runtime_dir()?;
        kept::sweep(&dir, SystemTime::now());
        // A connection that stands shows no host key, so whoever asks about it makes one.
        let kept = match means.keep && !alone && *host_keys == HostKeys::AsConfigured {
            true => Kept::find(&dir, &[means.key(&destination.arguments), destination.key()].concat(), interrupt)?,
            false => None,
        };
        let files = Files::new(&dir, kept)?;
        if !files.is_reused() {
            destination.options.extend(cipher::option(server, &destination, interrupt)?);
        }
        let mut command = program("TAKO_SSH", "ssh", &destination.arguments);
        let mut options = files.options();
        options.extend(match host_keys {
            HostKeys::AsConfigured => None,
            HostKeys::AcceptNew => Some("StrictHostKeyChecking=accept-new".to_string()),
            HostKeys::Pinned(_) => Some("StrictHostKeyChecking=ask".to_string()),
        });
        let pin = match host_keys {
            HostKeys::Pinned(fingerprint) => Some(fingerprint.clone()),
            HostKeys::AsConfigured | HostKeys::AcceptNew => None,
        };
        let ui = means::ui().filter(|ui| ui.is_interactive());
        // With nobody to ask and nothing to compare, our `ssh` asks nothing. That of a jump host does, which is heard to be
        // refused in words.
        let asks = ui.is_some() || pin.is_some();
        let is_mute = asks && !files.is_reused() && !asks_a_program(means.version());
        let mut relay = None;
        if !files.is_reused() && !is_mute {
            let answers = Answers { to: server.clone(), ui: ui.cloned(), pin: pin.clone() };
            relay = Some(Relay::start(&dir, &mut command, answers, interrupt)?);
            options.extend(asks.then(|| "BatchMode=no".to_string()));
        }
        if !destination::OLD.load(Ordering::Acquire) {
            // `sftp` has a session type of its own.
            options.push("SessionType=default".into());
        }
        // In ssh the first value of an option wins, so these come before all others of ours.
        options.extend(destination.options.iter().cloned());
        command.arg("-E").arg(&files.log_path);
        for option in &options {
            command.arg("-o").arg(option);
        }
        command.args(["--", &destination.host, COMMAND]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        means::tell(&format!("{}: {}", server.name, spelled(&command)));
        let mut ssh = Owned::spawn(&mut command).map_err(|e| cannot_start("ssh", "TAKO_SSH", e))?;
        if let Some(relay) = &mut relay {
            relay.belongs_to(ssh.child.id());
        }
        let stdin = ssh.child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = ssh.child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = Tail::of(ssh.child.stderr.take().expect("stderr was asked to be a pipe"), KEPT_LINES);
        let server = server.name.to_string();
        Ok((Session { server, ssh, stderr, files, destination, relay, pin, is_mute }, stdin, stdout))
    }

    /// Whether the connection was there before us.
    pub fn is_reused(&self) -> bool {
        self.files.is_reused()
    }

    /// Counts the questions that a person has yet to answer; while there are any, nobody is to be hurried.
    pub fn questions(&self) -> Arc<AtomicUsize> {
        self.relay.as_ref().map_or_else(Arc::default, Relay::open)
    }

    /// The far side has said hello: others may use the connection, and nothing is asked any more.
    ///
    /// # Errors
    /// Unreachable when the host key is not the one that was asked for.
    pub fn stands(&mut self) -> Result<()> {
        self.relay = None;
        if let Some(kept) = &mut self.files.kept {
            // The way through a jump host is a program in the group of our `ssh`, and carries the connection.
            self.ssh.spare_group();
            kept.opened();
        }
        // It is open on both sides, and so still read and written.
        let _ = fs::remove_file(&self.files.log_path);
        let Some(pin) = self.pin.take() else { return Ok(()) };
        let log = log::read(&self.files.log);
        let facts = Facts::of(&log);
        match facts.host_key {
            Some((_, offered)) if offered == pin => Ok(()),
            offered => Err(Refusal {
                whose: Whose::Server,
                host: self.destination.host.clone(),
                offered: offered.map_or_else(|| "none that ssh tells of".into(), |(kind, key)| format!("{kind} {key}")),
                why: Why::Differs { expected: pin },
            }
            .error(&self.server)),
        }
    }

    /// The connection was there before us, and is of no use: whoever comes next makes another.
    pub fn give_up_kept(&self) {
        if let Some(kept) = &self.files.kept {
            kept.discard();
        }
    }

    /// Why the channel ended, and whether another try may help. `greeted` tells whether it ever worked,
    /// `printed` whether anything came that was no hello.
    pub fn verdict(&mut self, greeted: bool, printed: bool) -> (Error, Retry) {
        let exit = self.ssh.wait_for(ENDING).and_then(|status| status.code());
        let mut log = log::read(&self.files.log);
        log.extend(self.stderr.last_lines(LAST_WORDS));
        log.iter().for_each(|line| means::tell(&format!("{}: {line}", self.server)));
        let ending = Ending { exit, log: &log, greeted, login: &self.destination.login };
        let class = match (Class::of(&ending), printed) {
            (class, true) => class.after_noise(),
            (class, false) => class,
        };
        if let Some(refusal) = self.relay.as_ref().and_then(Relay::refusal) {
            return (refusal.error(&self.server), Retry::Never);
        }
        // Once is enough to know it; then the options that only newer ones have are left out.
        if class == Class::TooOld && !destination::OLD.swap(true, Ordering::AcqRel) {
            return (class.error(&self.server, &ending), Retry::Soon);
        }
        let in_vain = self.is_reused()
            && !greeted
            && !matches!(class, Class::NotInstalled | Class::Program | Class::Shell | Class::StartUp);
        if in_vain {
            self.give_up_kept();
        }
        let retry = match class {
            Class::Jump if self.files.kept.is_some() => Retry::Alone,
            class if in_vain || class.is_retryable() => Retry::Soon,
            _ => Retry::Never,
        };
        let error = class.error(&self.server, &ending);
        let old = "the ssh on this machine is older than OpenSSH 8.4 and cannot ask through tako";
        let error = match class {
            Class::HostKeyNew if self.is_mute => error.hint(format!(
                "{old}: run `{}` once, compare the key that it shows, and try again",
                self.destination.login
            )),
            Class::Auth if self.is_mute => error.hint(format!("{old}: give it an agent that has the key (`ssh-add`)")),
            _ => error,
        };
        (error, retry)
    }
}

impl Files {
    fn new(dir: &Path, kept: Option<Kept>) -> Result<Files> {
        let name = hex8()? + &hex8()?;
        let own = dir.join(&name);
        let short = own.as_os_str().len() <= MAX_CONTROL_PATH;
        let control = kept.as_ref().map(|kept| kept.path.clone()).or_else(|| short.then_some(own));
        let log_path = dir.join(name + ".log");
        let log = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&log_path);
        let log = log.context(|| format!("make {}", log_path.display()))?;
        Ok(Files { control, kept, log_path, log })
    }

    fn is_reused(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_reused)
    }

    /// Those about the connection itself, and about what is written of it.
    fn options(&self) -> Vec<String> {
        let [master, persist] = match (&self.kept, &self.control) {
            (Some(_), _) => ["ControlMaster=auto".into(), format!("ControlPersist={}", kept::PERSIST.as_secs())],
            (None, Some(_)) => ["ControlMaster=yes", "ControlPersist=no"].map(Into::into),
            (None, None) => ["ControlMaster=no", "ControlPersist=no"].map(Into::into),
        };
        let path = self.control.as_ref().map_or_else(|| "ControlPath=none".into(), |path| control_option(path));
        // Which keys are tried and which one the host shows is told at this level only. It goes to the log alone; what a
        // kept connection adds to it is a kilobyte a command, in a file without a name.
        vec![master, persist, path, "LogLevel=DEBUG1".into()]
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let control = self.control.iter().filter(|_| self.kept.is_none());
        for file in control.chain([&self.log_path]) {
            let _ = fs::remove_file(file);
        }
    }
}

/// A private folder for sockets with a short path: that of the login session, else one of our own.
fn runtime_dir() -> Result<PathBuf> {
    let own = || PathBuf::from(format!("/tmp/tako-{}", rustix::process::getuid().as_raw()));
    let dir = match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        // Sixteen digits and a slash go below it.
        Some(dir) if dir.is_dir() && dir.as_os_str().len() + "/tako/".len() + 16 <= MAX_CONTROL_PATH => {
            dir.join("tako")
        }
        _ => own(),
    };
    disk::make_dirs(&dir, 0o700)?;
    let found = fs::symlink_metadata(&dir).context(|| format!("look at {}", dir.display()))?;
    if !found.is_dir() || found.uid() != rustix::process::getuid().as_raw() {
        return Err(Error::new(Kind::Refused, format!("{} is not a folder of ours", dir.display()))
            .hint("remove it, or set XDG_RUNTIME_DIR"));
    }
    disk::private_dir(&dir)?;
    Ok(dir)
}

/// Whether an `ssh` of this version asks the program that we name. An older one, or one that does not tell, is asked for
/// nothing on a terminal of its own: it runs in batch mode and fails with what it lacks.
fn asks_a_program(version: Option<(u32, u32)>) -> bool {
    version.is_some_and(|version| version >= ASKS_A_PROGRAM)
}

/// For a person to read.
fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn cannot_start(program: &str, variable: &str, e: std::io::Error) -> Error {
    let failed: Result<()> = Err(e).context(|| format!("start {program}"));
    failed.expect_err("an error stays one").hint(format!("install OpenSSH, or say where it is with {variable}"))
}

/// In an option's value `ssh` expands `%`, which our paths have only if the user's runtime folder has.
fn control_option(path: &Path) -> String {
    format!("ControlPath={}", path.display().to_string().replace('%', "%%"))
}

fn hex8() -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(&crypto::random::<16>()?);
    Ok(hash.finish()[..8].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_path_that_is_too_long_is_done_without() {
        let dir = tempfile::tempdir().unwrap();
        let short = Files::new(dir.path(), None).unwrap();
        assert!(short.control.as_ref().is_some_and(|c| c.as_os_str().len() <= MAX_CONTROL_PATH));
        assert!(short.options().contains(&"ControlMaster=yes".into()));
        let long = dir.path().join("a".repeat(80));
        fs::create_dir(&long).unwrap();
        let without = Files::new(&long, None).unwrap();
        assert!(without.control.is_none());
        // Not the one of the user's ssh_config either.
        assert!(without.options().contains(&"ControlPath=none".into()), "{:?}", without.options());
    }

    #[test]
    fn only_an_ssh_that_asks_a_program_is_made_to_ask() {
        let check = |said: &str, expected: bool| {
            assert_eq!(asks_a_program(means::version_in(said)), expected, "{said}");
        };
        // Debian 10, 11 and 12.
        check("OpenSSH_7.9p1 Debian-10+deb10u4, OpenSSL 1.1.1n  15 Mar 2022", false);
        check("OpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w  11 Sep 2023", true);
        check("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026", true);
        // CentOS 7 and 8, Ubuntu 20.04.
        check("OpenSSH_7.4p1, OpenSSL 1.0.2k-fips  26 Jan 2017", false);
        check("OpenSSH_8.0p1, OpenSSL 1.1.1k  FIPS 25 Mar 2021", false);
        check("OpenSSH_8.2p1 Ubuntu-4ubuntu0.13, OpenSSL 1.1.1f  31 Mar 2020", false);
        // macOS 10.15, 12 and 15.
        check("OpenSSH_8.1p1, LibreSSL 2.7.3", false);
        check("OpenSSH_8.6p1, LibreSSL 3.3.6", true);
        check("OpenSSH_9.9p2, LibreSSL 3.3.6", true);
        check("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", false);
        check("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5.1 1 Jul 2025", true);
        check("a wrapper says hello\nOpenSSH_9.2p1, OpenSSL 3.0.19", true);
        for other in [
            "Dropbear v2022.83",
            "Sun_SSH_2.2, SSH protocols 1.5/2.0",
            "",
            "OpenSSH_",
            "OpenSSH_x.y",
            "OpenSSH_9",
            "OpenSSH_99999999999999999999.1p1",
            "OpenSSH_.4",
            "\u{0}\u{fffd}OpenSSH",
        ] {
            check(other, false);
        }
    }

    #[test]
    fn only_a_whole_fingerprint_is_pinned() {
        let digest = "xk19lTb1IxZUo1y+zaurMYsBLy9ugkcwG3G3f3wXGyQ";
        let pinned = HostKeys::Pinned(format!("SHA256:{digest}"));
        for good in [format!("SHA256:{digest}"), digest.into(), format!("SHA256:{digest}=")] {
            assert_eq!(HostKeys::pinned(&good).unwrap(), pinned);
        }
        for bad in ["", "SHA256:", "MD5:00:11", &digest[1..]] {
            assert_eq!(HostKeys::pinned(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
