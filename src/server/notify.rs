//! Telling the service manager how we are: one datagram to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `state`, such as `READY=1`, if anybody asked to be told. A service manager that does not listen is its own
/// problem: we run all the same.
pub(crate) fn tell(state: &str) {
    if let Some(name) = env::var_os("NOTIFY_SOCKET")
        && let Err(e) = send(&name, state)
    {
        log::warn!("cannot tell the service manager {state}: {e}");
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let addr = match name.as_bytes().strip_prefix(b"@") {
        Some(hidden) => SocketAddr::from_abstract_name(hidden)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_to_sockets_with_a_path_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("tako-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&hidden).unwrap()).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        send(OsStr::new(&format!("@{hidden}")), "STOPPING=1").unwrap();
        let mut heard = [0; 32];
        let n = by_path.recv(&mut heard).unwrap();
        assert_eq!(&heard[..n], b"READY=1");
        let n = by_name.recv(&mut heard).unwrap();
        assert_eq!(&heard[..n], b"STOPPING=1");
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error_and_no_more() {
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }
}
