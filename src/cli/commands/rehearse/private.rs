//! A private `tako-server`: on loopback ports of its own, with a data folder that goes when it goes.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::cli::child::{Owned, Tail};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::crypto;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Info, Reply, Request};

const STARTING: Duration = Duration::from_secs(15);
/// It stops its instances first, each of which may finish its requests and then has a grace of its own. Killed too
/// early it would leave them behind.
const STOPPING: Duration = Duration::from_secs(45);
const KEPT_LINES: usize = 60;
const PREFIX: &str = "tako-rehearsal-";
const SOCKET: &str = "tako.sock";
/// A younger folder may be that of a server which is about to listen.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(10);

/// Stopped and removed on drop, in that order of fields' owners: the process, then its folder.
pub(super) struct Private {
    server: Owned,
    /// The server stops when this closes, so it ends with us even when we are killed. It is kept until the server has
    /// ended, because an orderly stop is told by a signal.
    _stdin: ChildStdin,
    stderr: Tail,
    program: PathBuf,
    folder: Folder,
}

/// Removed on drop.
struct Folder(PathBuf);

impl Private {
    /// Starts the `tako-server` that lies beside this program and waits until it answers.
    pub fn start(interrupt: &Interrupt) -> Result<Private> {
        let program = beside_us("tako-server")?;
        sweep(&temp(), SystemTime::now());
        let folder = Folder::new()?;
        let mut command = Command::new(&program);
        command.arg("--data-dir").arg(folder.0.join("data")).arg("--socket").arg(folder.socket());
        command.args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--stop-with-stdin"]);
        // It is one person's own, in a folder that nobody else can enter, also when that person is root.
        command.args(["--app-users", "off"]);
        command.current_dir(&folder.0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Owned::spawn(&mut command).context(|| format!("start {}", program.display()))?;
        let stderr = Tail::of(server.child.stderr.take().expect("stderr was asked to be a pipe"), KEPT_LINES);
        let stdin = server.child.stdin.take().expect("stdin was asked to be a pipe");
        let mut private = Private { server, _stdin: stdin, stderr, program, folder };
        private.wait_until_it_listens(interrupt)?;
        Ok(private)
    }

    pub fn place(&self) -> Place {
        Place::Here { name: "here".into(), program: self.program.clone(), socket: self.folder.socket() }
    }

    pub fn info(&self, interrupt: &Interrupt) -> Result<Info> {
        let mut remote = Remote::connect(&self.place(), interrupt)?;
        match remote.call(Request::Info, &mut |_| {})? {
            Reply::Info(info) => Ok(info),
            other => Err(remote.misunderstood(&other)),
        }
    }

    /// All that it has on disk.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// What it wrote to its log last.
    pub fn log(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.server.wait_for(Duration::ZERO).is_some()
    }

    fn wait_until_it_listens(&mut self, interrupt: &Interrupt) -> Result<()> {
        let until = Instant::now() + STARTING;
        while UnixStream::connect(self.folder.socket()).is_err() {
            interrupt.check()?;
            let ended = self.has_ended();
            if ended || Instant::now() >= until {
                let why = if ended { "ended at once" } else { "does not answer" };
                return Err(Error::new(Kind::Io, format!("the private tako-server {why}")).with_detail(self.log()));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.server.stop_within(STOPPING);
    }
}

impl Folder {
    fn new() -> Result<Folder> {
        let name: String = crypto::random::<6>()?.iter().map(|b| format!("{b:02x}")).collect();
        let dir = temp().join(format!("{PREFIX}{name}"));
        fs::create_dir(&dir).context(|| format!("create {}", dir.display()))?;
        let folder = Folder(dir);
        disk::private_dir(&folder.0)?;
        Ok(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A socket's path has about a hundred characters; a long temporary folder leaves too few.
fn temp() -> PathBuf {
    Some(env::temp_dir()).filter(|t| t.as_os_str().len() < 60).unwrap_or_else(|| "/tmp".into())
}

/// Removes what rehearsals that were killed have left in `temp`, installed packages included: ours, old, and nobody
/// answers in it. Failing at it harms nobody.
fn sweep(temp: &Path, now: SystemTime) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let dir = entry.path();
        let is_one = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let Some(found) = entry.metadata().ok().filter(|found| is_one && found.is_dir()) else { continue };
        let is_old = found.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFT_BEHIND));
        let is_ours = found.uid() == rustix::process::getuid().as_raw();
        if is_old && is_ours && UnixStream::connect(dir.join(SOCKET)).is_err() {
            let _ = disk::remove_tree(&dir);
        }
    }
}

/// Our programs are installed together.
fn beside_us(name: &str) -> Result<PathBuf> {
    let us = env::current_exe().and_then(|p| p.canonicalize()).context(|| "find this program".into())?;
    let program = us.parent().unwrap_or_else(|| Path::new("/")).join(name);
    match program.is_file() {
        true => Ok(program),
        false => Err(Error::new(Kind::NotFound, format!("there is no {name} beside {}", us.display()))
            .hint("install all of Tako's programs into one folder")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_a_killed_rehearsal_left_goes_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = temp.path().join(name);
            fs::create_dir_all(dir.join("data/apps")).unwrap();
            dir
        };
        let (left, other) = (dir("tako-rehearsal-1"), dir("other"));
        // The socket of a server that was killed stays.
        drop(UnixListener::bind(left.join(SOCKET)).unwrap());
        let alive = dir("tako-rehearsal-2");
        let _listens = UnixListener::bind(alive.join(SOCKET)).unwrap();
        let link = temp.path().join("tako-rehearsal-3");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        sweep(temp.path(), SystemTime::now());
        assert!(left.exists(), "it is young");
        sweep(temp.path(), SystemTime::now() + 2 * LEFT_BEHIND);
        assert!(!left.exists());
        assert!(alive.exists() && other.join("data/apps").exists() && link.exists());
    }
}
