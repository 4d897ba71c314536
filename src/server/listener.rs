//! Listening TCP sockets: owned by the control plane, lent to the proxy.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};

use super::settings::Listen;
use crate::error::{Context, Error, Result};

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds every address; an optional one that this host cannot have is left out.
pub(crate) fn bind_all(addrs: &[Listen]) -> Result<Vec<Arc<TcpListener>>> {
    let mut bound = Vec::new();
    for listen in addrs {
        match bind_one(listen.addr) {
            Ok(listener) => bound.push(Arc::new(listener)),
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if listen.optional => {}
            Err(e) => return Err(explain(e, listen.addr)),
        }
    }
    Ok(bound)
}

/// As people read them: where the sockets listen, with the port that was picked for port 0.
pub(crate) fn shown(listeners: &[Arc<TcpListener>]) -> Vec<String> {
    listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string()).collect()
}

/// The standard library's bind has a backlog of 128 and takes both families at once where the host says so.
fn bind_one(addr: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // A restart must not wait for the connections of the last run to be forgotten.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn explain(e: Errno, addr: SocketAddr) -> Error {
    let error = Err::<(), _>(e).context(|| format!("listen on {addr}")).expect_err("it was made of an error");
    match e {
        Errno::ACCESS => error.hint("ports below 1024 need CAP_NET_BIND_SERVICE; or choose --http and --https above"),
        Errno::ADDRINUSE => error.hint(format!("another program listens there; `ss -ltnp sport = :{}`", addr.port())),
        Errno::ADDRNOTAVAIL => error.hint("this host has no such address"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(addr: &str, optional: bool) -> Listen {
        Listen { addr: addr.parse().unwrap(), optional }
    }

    #[test]
    fn picks_a_port_and_says_which() {
        let bound = bind_all(&[on("127.0.0.1:0", false)]).unwrap();
        let addr: SocketAddr = shown(&bound)[0].parse().unwrap();
        assert_ne!(addr.port(), 0);
        assert!(std::net::TcpStream::connect(addr).is_ok());
    }

    #[test]
    fn says_who_is_in_the_way() {
        let bound = bind_all(&[on("127.0.0.1:0", false)]).unwrap();
        let addr = &shown(&bound)[0];
        let e = bind_all(&[on(addr, false)]).unwrap_err();
        assert!(e.to_string().starts_with(&format!("listen on {addr}: ")), "{e}");
        assert!(e.next_step().unwrap().contains("another program"));
    }

    #[test]
    fn does_without_an_optional_address() {
        // TEST-NET-1 (RFC 5737) is nobody's.
        assert!(bind_all(&[on("192.0.2.1:0", true)]).unwrap().is_empty());
        assert!(bind_all(&[on("192.0.2.1:0", false)]).is_err());
    }
}
