//! Control: the management socket. One thread accepts, one serves each connection.
//!
//! **Invariant**: whatever a client sends or fails to read, it holds up its own thread and nothing else, and there are
//! [`MAX_CONNECTIONS`] of those at most.

mod attend;
mod connection;
mod hearing;

use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::daemon::Daemon;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Answer, Body};
use crate::proto::wire;
use crate::sys;
use connection::{Connection, hello};

/// Connections at a time: a thread each, and a deploy needs one.
const MAX_CONNECTIONS: usize = 64;
/// Out of descriptors: they come back when connections end.
const BREATHER: Duration = Duration::from_millis(100);

/// The bound socket. Clients that connect wait until [`Listener::serve`].
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// What we bound, so that a successor's socket is not removed in its place.
    inode: (u64, u64),
    group: u32,
}

/// The serving socket.
pub(crate) struct Control {
    /// Closed to end the thread.
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Takes the place of a socket that nobody listens on.
    ///
    /// # Errors
    /// Busy when another daemon answers there; Refused when something else lies there.
    pub fn bind(path: &Path) -> Result<Self> {
        let binding = || format!("listen on {}", path.display());
        make_room(path)?;
        if let Some(dir) = path.parent() {
            disk::make_dirs(dir, 0o750)?;
        }
        let listener = UnixListener::bind(path).context(binding)?;
        // The umask of the daemon kept everybody out until here; from here on the group is let in.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).context(binding)?;
        listener.set_nonblocking(true).context(binding)?;
        let meta = fs::symlink_metadata(path).context(binding)?;
        Ok(Listener { listener, path: path.into(), inode: (meta.dev(), meta.ino()), group: meta.gid() })
    }

    /// Starts the thread `control`.
    pub fn serve(self, daemon: Arc<Daemon>) -> Result<Control> {
        let (ended, stop) = io::pipe().context(|| "make a pipe".into())?;
        let run = move || self.accept(&daemon, &ended);
        let thread = thread::Builder::new().name("control".into()).spawn(run);
        Ok(Control { stop, thread: thread.context(|| "start the thread control".into())? })
    }

    fn accept(&self, daemon: &Arc<Daemon>, ended: &PipeReader) {
        let open = Arc::new(());
        for number in 1u64.. {
            let stream = match self.next(ended) {
                Ok(Some(stream)) => stream,
                Ok(None) => break,
                Err(e) => {
                    log::error!("control cannot accept: {e}");
                    thread::sleep(BREATHER);
                    continue;
                }
            };
            if let Err(e) = self.admit(&stream, Arc::strong_count(&open)) {
                log::warn!("control refused a client: {e}");
                turn_away(&stream, daemon, e);
                continue;
            }
            let (daemon, open) = (daemon.clone(), open.clone());
            let run = move || {
                Connection::new(&stream, &daemon).converse();
                drop(open);
            };
            if let Err(e) = thread::Builder::new().name(format!("control-{number}")).spawn(run) {
                log::error!("control cannot start a thread: {e}");
            }
        }
    }

    /// The next client; `None` when it is time to stop.
    fn next(&self, ended: &PipeReader) -> io::Result<Option<UnixStream>> {
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
                Err(e) => return Err(e),
            }
        }
    }

    /// The mode of the socket already keeps strangers out; this holds even when somebody has widened it.
    fn admit(&self, stream: &UnixStream, open: usize) -> Result<()> {
        let uid = sys::peer_uid(stream).context(|| "ask who connected".into())?;
        let ours = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if !ours && !sys::peer_in_group(stream, self.group).unwrap_or(false) {
            let message = format!("user {uid} may not manage this server");
            return Err(Error::new(Kind::Refused, message).hint(format!("be a member of group {}", self.group)));
        }
        // One of the references is the accepting thread's own.
        if open > MAX_CONNECTIONS {
            let message = format!("there are {MAX_CONNECTIONS} connections to this server already");
            return Err(Error::new(Kind::Busy, message).hint("try again in a moment"));
        }
        Ok(())
    }
}

/// Also when the daemon does not get as far as serving it.
impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Control {
    /// Takes no new connections; those that are open go on until the daemon ends.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn make_room(path: &Path) -> Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("look at {}", path.display())),
    };
    if !there.file_type().is_socket() {
        return Err(Error::new(Kind::Refused, format!("{} is in the way and is not a socket", path.display()))
            .hint("remove it, or choose another path with --socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::new(Kind::Busy, format!("another tako-server listens on {}", path.display()))
            .hint("stop it first, or choose another path with --socket")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context(|| format!("replace the stale socket {}", path.display()))
        }
        Err(e) => Err(e).context(|| format!("ask who listens on {}", path.display())),
    }
}

/// Says why in a way that a client finds, without waiting for it.
fn turn_away(stream: &UnixStream, daemon: &Daemon, why: Error) {
    if stream.set_nonblocking(true).is_ok() {
        let mut stream = stream;
        let _ = wire::send(&mut stream, &hello(daemon));
        let _ = wire::send(&mut stream, &Answer { id: 0, body: Body::Fault(why.into()) });
    }
}

#[cfg(test)]
mod tests;
