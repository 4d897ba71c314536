//! Bridge: `tako-server ctl`, which is what ssh runs: copies between stdin, stdout and the management socket.
//!
//! It understands nothing of what it carries. When stdin ends the daemon is told, and may still answer; when the
//! daemon ends the connection, or nobody reads any more, that is all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use crate::error::{Context, Error, Kind, Result};

/// Larger than nearly every message.
const BUFFER: usize = 64 << 10;

/// # Errors
/// Unreachable when no daemon listens on `socket`.
pub(crate) fn run(socket: &Path) -> Result<()> {
    // Raw files: the buffers of the standard library would hold bytes back.
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned().context(|| "open stdin".into())?);
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned().context(|| "open stdout".into())?);
    carry(socket, stdin, stdout)
}

fn carry(socket: &Path, input: impl Read + Send + 'static, output: impl Write) -> Result<()> {
    let stream = connect(socket)?;
    let up = stream.try_clone().context(|| "set up the bridge".into())?;
    // Not joined: it may sit in a read of stdin for good when the daemon has ended the connection.
    thread::Builder::new()
        .name("up".into())
        .spawn(move || {
            copy(input, &up);
            let _ = up.shutdown(Shutdown::Write);
        })
        .context(|| "start a thread".into())?;
    copy(&stream, output);
    Ok(())
}

fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::PermissionDenied => "log in as the user of tako-server, or join its group",
            _ => "is tako-server running? look at `systemctl status tako-server`",
        };
        Error::new(Kind::Unreachable, format!("connect to {}", socket.display())).because(e).hint(hint)
    })
}

/// Until either side is at its end; which one, and why, is nobody's concern.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if to.write_all(&buffer[..read]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn carries_both_ways_and_hears_the_answer_after_its_own_input_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).unwrap();
            write!(stream, "heard {heard}").unwrap();
        });
        let mut output = Vec::new();
        carry(&path, &b"question"[..], &mut output).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "heard question");
        server.join().unwrap();
    }

    #[test]
    fn ends_with_the_daemon_although_stdin_is_still_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"bye").unwrap());
        let (never, _open) = io::pipe().unwrap();
        let mut output = Vec::new();
        carry(&path, never, &mut output).unwrap();
        assert_eq!(output, b"bye");
        server.join().unwrap();
    }

    #[test]
    fn asks_whether_the_daemon_runs() {
        let e = carry(Path::new("/nowhere/tako.sock"), io::empty(), io::sink()).unwrap_err();
        assert_eq!(e.kind(), Kind::Unreachable);
        assert!(e.next_step().unwrap().starts_with("is tako-server running?"));
    }
}
