//! Wire: what lies beneath a [`Socket`](super::transport::Socket): the kernel's streams, and the queue that reports on
//! them.
//!
//! In tests and in the lab a simulated network (`sim`) can take the kernel's place, under everything else unchanged. What is
//! shipped has one variant of each, so the choice costs nothing there.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::{SendFlags, sockopt};

#[cfg(any(test, feature = "lab"))]
use super::sim;
use crate::sys;

pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(any(test, feature = "lab"))]
    Sim(sim::Stream),
}

/// Where streams to endpoints come from, and who reports on all of them.
pub(super) enum Net {
    Kernel(Registry),
    #[cfg(any(test, feature = "lab"))]
    Sim(sim::Net),
}

/// What was reported on a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ready {
    pub readable: bool,
    pub writable: bool,
    pub read_closed: bool,
    pub write_closed: bool,
    pub error: bool,
}

impl From<&Event> for Ready {
    fn from(event: &Event) -> Self {
        Ready {
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            write_closed: event.is_write_closed(),
            error: event.is_error(),
        }
    }
}

impl Net {
    /// Begins a connection, which may stand already.
    pub fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        match self {
            Net::Kernel(_) => {
                let stream = TcpStream::connect(addr)?;
                let _ = stream.set_nodelay(true); // slower without, not wrong
                Ok(Stream::Tcp(stream))
            }
            #[cfg(any(test, feature = "lab"))]
            Net::Sim(net) => net.connect(addr).map(Stream::Sim),
        }
    }

    /// Reports on `stream` from now on: both directions, edge-triggered, once and for good.
    pub fn register(&self, stream: &mut Stream, token: Token) -> io::Result<()> {
        match (self, stream) {
            (Net::Kernel(registry), Stream::Tcp(stream)) => {
                registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
            }
            #[cfg(any(test, feature = "lab"))]
            (Net::Sim(_), Stream::Sim(stream)) => {
                stream.register(token);
                Ok(())
            }
            #[cfg(any(test, feature = "lab"))]
            (Net::Kernel(_) | Net::Sim(_), Stream::Tcp(_) | Stream::Sim(_)) => {
                unreachable!("a stream belongs to the network it came from")
            }
        }
    }
}

impl Stream {
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        #[cfg(test)]
        calls::count();
        match self {
            Stream::Tcp(stream) => stream.read(room),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.read(room),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(test)]
        calls::count();
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.write(bytes),
        }
    }

    /// As [`Stream::write`], and more follows at once: the kernel may wait for it to fill the packet.
    pub fn write_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(test)]
        calls::count();
        match self {
            Stream::Tcp(stream) => Ok(rustix::net::send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.write(bytes),
        }
    }

    /// Writes what `file` has from `at` on, which is moved, without passing through our memory.
    pub fn send_file(&mut self, file: impl AsFd, at: &mut u64, length: usize) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => Ok(rustix::fs::sendfile(stream, file, Some(at), length)?),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => {
                let mut room = vec![0; length];
                let n = rustix::io::pread(file, &mut room, *at)?;
                let n = stream.write(&room[..n])?;
                *at += n as u64;
                Ok(n)
            }
        }
    }

    pub fn peek(&self, room: &mut [u8]) -> io::Result<usize> {
        #[cfg(test)]
        calls::count();
        match self {
            Stream::Tcp(stream) => stream.peek(room),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.peek(room),
        }
    }

    /// Says that nothing follows.
    pub fn shut(&self) -> io::Result<()> {
        #[cfg(test)]
        calls::count();
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.shut(),
        }
    }

    /// Makes the coming close a reset.
    pub fn reset_on_close(&self) {
        match self {
            Stream::Tcp(stream) => {
                // If it cannot be had, the missing close_notify, last chunk or length still tells.
                let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            }
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.reset_on_close(),
        }
    }

    /// What the kernel says that the connection has moved since it began.
    pub fn moved(&self) -> Option<sys::Moved> {
        match self {
            Stream::Tcp(stream) => sys::tcp_moved(stream),
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.moved(),
        }
    }

    /// Lets the kernel find out that a silent peer is gone: after a minute and a half, where its default is two hours.
    pub fn keep_alive(&self) {
        match self {
            Stream::Tcp(stream) => {
                let _ = sockopt::set_socket_keepalive(stream, true);
                let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(45));
                let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15));
                let _ = sockopt::set_tcp_keepcnt(stream, 3);
            }
            #[cfg(any(test, feature = "lab"))]
            Stream::Sim(stream) => stream.keep_alive(),
        }
    }
}

/// How often this thread has called the kernel for a stream.
#[cfg(test)]
pub(super) mod calls {
    use std::cell::Cell;

    thread_local! {
        static MADE: Cell<u64> = const { Cell::new(0) };
    }

    pub fn here() -> u64 {
        MADE.with(Cell::get)
    }

    pub(super) fn count() {
        MADE.with(|made| made.set(made.get() + 1));
    }
}
