//! Pipes to and from a program that is about to start; the end that is read comes first.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

/// A pipe holds this much unread at most (`/proc/sys/fs/pipe-max-size` for everybody), so a bootstrap message up to
/// this size is written before the program starts and nobody waits for anybody.
pub(crate) const MAX_BOOTSTRAP: usize = 1 << 20;

pub(super) fn plain_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Its writing end reads as well (fifo(7)), so the pipe always has a reader: who writes is never told that nobody
/// listens, and waits at most for room. For the reading end it is over when the last writing end is closed, as ever.
pub(super) fn lasting_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let itself = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let both = OpenOptions::new().read(true).write(true).open(itself)?;
    Ok((reader.into(), both.into()))
}

/// The read end of a pipe that already holds `bytes` and whose write end is closed.
pub(super) fn filled_pipe(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() > MAX_BOOTSTRAP {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the bootstrap message is too large"));
    }
    let (reader, mut writer) = io::pipe()?;
    if bytes.len() > 64 << 10 {
        rustix::pipe::fcntl_setpipe_size(&writer, bytes.len())?;
    }
    writer.write_all(bytes)?;
    Ok(reader.into())
}
