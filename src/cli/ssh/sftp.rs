//! One upload by the system `sftp`, on the connection that a [`Session`](super::Session) has open.
//!
//! The talk with `sftp -b -` is a conversation: it reads the next command when it is done with the last. So it is told the
//! final name only once all bytes are there: an `sftp` whose `tako` was killed meanwhile ends without giving it.
//!
//! **Invariant**: only plain paths go into a command, and a file has its final name only when it is whole.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};

use super::means::program;
use super::verdict::{Class, Ending};
use super::{ENDING, KEPT_LINES, MAX_LOG, Session, cannot_start, control_option};
use crate::cli::child::{Owned, Tail};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Artifact, part_of};

/// An incoming folder longer than this is no path of ours.
const MAX_REMOTE_PATH: usize = 1024;

/// A running `sftp`, ended on drop.
pub(crate) struct Upload {
    server: String,
    login: String,
    sftp: Owned,
    stderr: Tail,
    /// Whether sftp did all that it was told.
    tell: Receiver<bool>,
}

impl Session {
    /// Begins to put `file` into the server's `incoming` folder as `artifact.file`: under the name of a part first, then
    /// by a rename. With `is_rest` only what is behind the bytes that are there already, which are those of the file.
    pub fn start_upload(&self, file: &Path, incoming: &str, artifact: &Artifact, is_rest: bool) -> Result<Upload> {
        let remote = remote_path(incoming, &artifact.file)?;
        let part = remote_path(incoming, &part_of(&artifact.file))?;
        let (folder, name) = file
            .parent()
            .zip(file.file_name().and_then(|n| n.to_str()))
            .ok_or_else(|| Error::new(Kind::Bug, format!("{} is not a file's path", file.display())))?;
        let mut command = program("TAKO_SFTP", "sftp", &self.destination.arguments);
        command.args(["-b", "-", "-o", "ControlMaster=no"]);
        let control =
            self.files.control.as_ref().map_or_else(|| "ControlPath=none".into(), |path| control_option(path));
        command.arg("-o").arg(control);
        for option in &self.destination.options {
            command.arg("-o").arg(option);
        }
        command.args(["--", &self.destination.for_sftp()]).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut sftp = Owned::spawn(&mut command).map_err(|e| cannot_start("sftp", "TAKO_SFTP", e))?;
        let stdin = sftp.child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = sftp.child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = Tail::of(sftp.child.stderr.take().expect("stderr was asked to be a pipe"), KEPT_LINES);

        // The talk with sftp blocks, so it has a thread; dropping `sftp` ends both.
        let batch = Batch { remote, part, name: name.into(), is_rest };
        let (told, tell) = bounded(1);
        thread::spawn(move || {
            // Nobody listens any more after an interrupt.
            let _ = told.send(batch.run(stdin, stdout).is_some());
        });
        let (server, login) = (self.server.clone(), self.destination.login.clone());
        Ok(Upload { server, login, sftp, stderr, tell })
    }
}

impl Upload {
    /// How it ended, if it does within `limit`.
    ///
    /// # Errors
    /// Interrupted; then it is stopped.
    pub fn wait(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<Option<Result<()>>> {
        let [signal, sibling] = interrupt.bells();
        let is_done = select! {
            recv(self.tell) -> told => told.unwrap_or(false),
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(limit) => return Ok(None),
        };
        let exit = self.sftp.wait_for(ENDING).and_then(|status| status.code());
        Ok(Some(match (is_done, exit) {
            (true, Some(0)) => Ok(()),
            _ => Err(self.failed(exit, &self.stderr.lines())),
        }))
    }

    fn failed(&self, exit: Option<i32>, log: &[String]) -> Error {
        let ending = Ending { exit, log, greeted: false, login: &self.login };
        match Class::of(&ending) {
            Class::Other | Class::Program | Class::NotInstalled => {
                let why = log.last().map_or("sftp ended without a word", String::as_str);
                Error::new(Kind::Unreachable, format!("{}: upload the artifact: {why}", self.server))
                    .with_detail(log.to_vec())
                    .hint("may the SSH user write into the server's incoming folder, and is the disk full?")
            }
            class => class.error(&self.server, &ending),
        }
    }
}

/// One conversation with `sftp -b -`.
struct Batch {
    remote: String,
    part: String,
    /// Of the local file, in the folder that sftp runs in. Ours, so free of characters that sftp gives a meaning.
    name: String,
    is_rest: bool,
}

impl Batch {
    /// `None` when sftp ended early.
    fn run(&self, mut stdin: ChildStdin, stdout: ChildStdout) -> Option<()> {
        let mut lines = BufReader::new(stdout.take(MAX_LOG)).lines().map_while(std::result::Result::ok);
        let put = if self.is_rest { "reput" } else { "put" };
        // What `pwd` says, without asking the server, tells us that the command before it is done.
        writeln!(stdin, "{put} \"{}\" \"{}\"\npwd", self.name, self.part).ok()?;
        lines.by_ref().find(|line| line.starts_with("Remote working directory"))?;
        writeln!(stdin, "rename \"{}\" \"{}\"", self.part, self.remote).ok()?;
        drop(stdin);
        lines.for_each(drop);
        Some(())
    }
}

/// A server says where uploads go; only a plain path goes into a command for sftp.
fn remote_path(incoming: &str, file: &str) -> Result<String> {
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@,=".contains(&b));
    if incoming.len() > MAX_REMOTE_PATH || !incoming.starts_with('/') || !plain(incoming) || !plain(file) {
        let message = format!("the server's incoming folder `{}` has a name we do not use", incoming.escape_debug());
        return Err(
            Error::new(Kind::Refused, message).hint("move its data to a path of letters, digits, `.`, `_`, `-`")
        );
    }
    Ok(format!("{}/{file}", incoming.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_remote_path_reaches_sftp() {
        assert_eq!(remote_path("/opt/tako/incoming/", "a.tar.zst").unwrap(), "/opt/tako/incoming/a.tar.zst");
        for bad in ["", "incoming", "/a\nrm x", "/a\"b", "/a b", "/a*", &format!("/{}", "a".repeat(2000))] {
            assert!(remote_path(bad, "x").is_err(), "{bad:?}");
        }
        assert!(remote_path("/a", "x\n!sh").is_err());
    }
}
