//! The system `ssh` and `sftp`: one connection per server that is master and control channel at once.
//!
//! The remote command is a constant; whatever varies travels as JSON on its standard input, so nothing is ever quoted
//! for a remote shell. Host, user, port, keys, agent and jump hosts stay the user's, from ssh_config; everything that
//! could put other bytes on our channel is switched off.
//!
//! **Invariant**: nothing of a session outlives its [`Session`]: no process, no control socket, no log file.

mod destination;
mod sftp;
mod verdict;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::child::{Owned, Tail, plain};
use super::config::inventory::Server;
use crate::crypto::{self, Sha256};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use destination::Destination;
use verdict::{Class, Ending};

/// All that is ever run on a server.
const COMMAND: &str = "tako-server ctl";

/// `ssh` appends 17 characters to a control path, and macOS allows 104 in all.
const MAX_CONTROL_PATH: usize = 86;
/// Lines of standard error and of the log that are kept for the verdict.
const KEPT_LINES: usize = 40;
const MAX_LOG: u64 = 16 << 10;
/// What `ssh` may take to end once its channel has.
const ENDING: Duration = Duration::from_secs(3);
/// A running `ssh`.
pub(crate) struct Session {
    server: String,
    ssh: Owned,
    stderr: Tail,
    files: Files,
    destination: Destination,
}

/// The control socket and the log of one session, removed on drop.
struct Files {
    /// `None` when no folder with a path short enough was found; then `sftp` makes a connection of its own.
    control: Option<PathBuf>,
    log: PathBuf,
}

impl Session {
    /// Starts `ssh`; whether it gets through shows on the returned streams.
    ///
    /// # Errors
    /// Config for a host or user that must not become an argument; NotFound without an `ssh` on this machine.
    pub fn start(server: &Server) -> Result<(Session, ChildStdin, ChildStdout)> {
        let destination = Destination::of(server)?;
        let files = Files::new(&runtime_dir()?)?;
        let mut command = program("TAKO_SSH", "ssh");
        command.arg("-E").arg(&files.log);
        if let Some(control) = &files.control {
            command.arg("-o").arg("ControlMaster=yes").arg("-o").arg(control_option(control));
        }
        for option in &destination.options {
            command.arg("-o").arg(option);
        }
        command.args(["--", &destination.host, COMMAND]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ssh = Owned::spawn(&mut command).map_err(|e| cannot_start("ssh", "TAKO_SSH", e))?;
        let stdin = ssh.child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = ssh.child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = Tail::of(ssh.child.stderr.take().expect("stderr was asked to be a pipe"), KEPT_LINES);
        let server = server.name.to_string();
        Ok((Session { server, ssh, stderr, files, destination }, stdin, stdout))
    }

    /// Why the channel ended, and whether another try may help. `greeted` tells whether it ever worked.
    pub fn verdict(&mut self, greeted: bool) -> (Error, bool) {
        let exit = self.ssh.wait_for(ENDING).and_then(|status| status.code());
        let mut log = self.files.read_log();
        log.extend(self.stderr.lines());
        let ending = Ending { exit, log: &log, greeted, login: &self.destination.login };
        let class = Class::of(&ending);
        (class.error(&self.server, &ending), class.is_retryable())
    }
}

impl Files {
    fn new(dir: &Path) -> Result<Files> {
        let name = hex8()? + &hex8()?;
        let control = dir.join(&name);
        let short = control.as_os_str().len() <= MAX_CONTROL_PATH;
        Ok(Files { control: short.then_some(control), log: dir.join(name + ".log") })
    }

    fn read_log(&self) -> Vec<String> {
        let Ok(mut file) = File::open(&self.log) else { return Vec::new() };
        let length = file.metadata().map_or(0, |m| m.len());
        let mut bytes = Vec::new();
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG)));
        let _ = file.take(MAX_LOG).read_to_end(&mut bytes);
        let lines: Vec<String> = bytes.split(|b| *b == b'\n').map(plain).filter(|l| tells_something(l)).collect();
        lines[lines.len().saturating_sub(KEPT_LINES)..].to_vec()
    }
}

/// Not the farewell of every session, nor the frame around a warning.
fn tells_something(line: &str) -> bool {
    let frame = line.bytes().all(|b| b == b'@');
    !(frame || line.starts_with("Transferred: ") || line.starts_with("Bytes per second: "))
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in self.control.iter().chain([&self.log]) {
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

/// `ssh` or what the environment says instead, with the extra options of the environment in front: in ssh the first
/// value of an option wins, and who sets the variable means it.
fn program(variable: &str, default: &str) -> Command {
    let chosen = env::var_os(variable).filter(|v| !v.is_empty()).unwrap_or_else(|| OsString::from(default));
    let mut command = Command::new(chosen);
    command.args(env::var("TAKO_SSH_OPTIONS").unwrap_or_default().split_whitespace());
    // The texts that the verdict looks for are those of the C locale.
    command.env("LC_ALL", "C");
    command
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
        let short = Files::new(Path::new("/run/user/1000/tako")).unwrap();
        assert!(short.control.as_ref().is_some_and(|c| c.as_os_str().len() <= MAX_CONTROL_PATH));
        assert!(Files::new(Path::new(&format!("/{}", "a".repeat(80)))).unwrap().control.is_none());
    }
}
