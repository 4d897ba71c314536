//! One upload by the system `sftp`, on the connection that a [`Session`](super::Session) has open.
//!
//! The talk with `sftp -b -` is a conversation: it echoes each command and reads the next when it is done with the last.
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
use super::{ENDING, KEPT_LINES, MAX_LOG, Session, cannot_start, control_option, hex8};
use crate::cli::child::{Owned, Tail};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Artifact;

/// An incoming folder longer than this is no path of ours.
const MAX_REMOTE_PATH: usize = 1024;

/// A running `sftp`, ended on drop.
pub(crate) struct Upload {
    server: String,
    login: String,
    part: String,
    sftp: Owned,
    stderr: Tail,
    /// Whether bytes were sent; `None` when sftp ended early.
    tell: Receiver<Option<bool>>,
}

impl Session {
    /// Begins to put `file` into the server's `incoming` folder as `artifact.file`: under a name of its own first, then
    /// by a rename. Without `again`, one that lies there with the right size is left alone.
    pub fn start_upload(&self, file: &Path, incoming: &str, artifact: &Artifact, again: bool) -> Result<Upload> {
        let remote = remote_path(incoming, &artifact.file)?;
        let part = format!("{}.{}.part", artifact.file, hex8()?);
        let (folder, name) = file
            .parent()
            .zip(file.file_name().and_then(|n| n.to_str()))
            .ok_or_else(|| Error::new(Kind::Bug, format!("{} is not a file's path", file.display())))?;
        let mut command = program("TAKO_SFTP", "sftp");
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
        let part_path = remote_path(incoming, &part)?;
        let batch = Batch { remote, part: part_path, name: name.into(), bytes: artifact.bytes, again };
        let (told, tell) = bounded(1);
        thread::spawn(move || {
            // Nobody listens any more after an interrupt.
            let _ = told.send(batch.run(stdin, stdout));
        });
        let (server, login) = (self.server.clone(), self.destination.login.clone());
        Ok(Upload { server, login, part, sftp, stderr, tell })
    }
}

impl Upload {
    /// The name in the incoming folder under which the bytes arrive.
    pub fn part(&self) -> &str {
        &self.part
    }

    /// How it ended, if it does within `limit`: whether bytes were sent.
    ///
    /// # Errors
    /// Interrupted; then it is stopped.
    pub fn wait(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<Option<Result<bool>>> {
        let [signal, sibling] = interrupt.bells();
        let sent = select! {
            recv(self.tell) -> sent => sent.unwrap_or(None),
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(limit) => return Ok(None),
        };
        let exit = self.sftp.wait_for(ENDING).and_then(|status| status.code());
        Ok(Some(match (sent, exit) {
            (Some(sent), Some(0)) => Ok(sent),
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

/// One conversation with `sftp -b -`. It echoes each command and reads the next when it is done with the last.
struct Batch {
    remote: String,
    part: String,
    /// Of the local file, in the folder that sftp runs in. Ours, so free of characters that sftp gives a meaning.
    name: String,
    bytes: u64,
    again: bool,
}

impl Batch {
    /// Whether bytes were sent; `None` when sftp ended early.
    fn run(&self, mut stdin: ChildStdin, stdout: ChildStdout) -> Option<bool> {
        let mut lines = BufReader::new(stdout.take(MAX_LOG)).lines().map_while(std::result::Result::ok);
        if !self.again {
            // The dash lets the batch go on when there is no such file. `pwd` tells us that the listing is over.
            write!(stdin, "-ls -ln \"{}\"\npwd\n", self.remote).ok()?;
            let mut there = false;
            loop {
                match lines.next()? {
                    line if line.starts_with("Remote working directory") => break,
                    line => there |= listed_size(&line, &self.remote) == Some(self.bytes),
                }
            }
            if there {
                return Some(false);
            }
        }
        writeln!(stdin, "put \"{}\" \"{}\"", self.name, self.part).ok()?;
        writeln!(stdin, "rename \"{}\" \"{}\"", self.part, self.remote).ok()?;
        drop(stdin);
        lines.for_each(drop);
        Some(true)
    }
}

/// The size in a line of `ls -ln`, if the line is about `path`.
fn listed_size(line: &str, path: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [mode, _links, _uid, _gid, size, .., name] = fields[..] else { return None };
    (mode.starts_with('-') && name == path).then(|| size.parse().ok())?
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

    #[test]
    fn reads_the_size_of_the_listed_file_alone() {
        let line = "-rw-r--r--    1 0        0            1234 Oct  3 10:00 /in/x.tar.zst";
        assert_eq!(listed_size(line, "/in/x.tar.zst"), Some(1234));
        assert_eq!(listed_size(line, "/in/y.tar.zst"), None);
        assert_eq!(listed_size("sftp> -ls -ln \"/in/x.tar.zst\"", "/in/x.tar.zst"), None);
        assert_eq!(listed_size("drwxr-xr-x 2 0 0 4096 Oct 3 10:00 /in/x", "/in/x"), None);
    }
}
