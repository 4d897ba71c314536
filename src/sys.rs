//! The system calls that the standard library lacks, and the only `unsafe` of the crate, with that of `birth` below.
//!
//! Policy lives elsewhere: this starts what it is told to start and says what the kernel said. It is Linux for now; what `tako` and `tako-dev-server` need on macOS is to be gated here and nowhere else.
#![allow(unsafe_code)]

mod attach;
mod birth;
mod pipes;
mod spawn;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll;
use rustix::process::{Pid, Resource, Rlimit, Signal};

// One room, in five files for its length.
pub(crate) use attach::{Attach, Attached, Ends, Size, attach, resize};
pub(crate) use pipes::MAX_BOOTSTRAP;
#[cfg(test)]
pub(crate) use spawn::shell;
pub(crate) use spawn::{BOOTSTRAP_FD, Child, Limits, Spawn, Spawned, User, spawn};

/// Sends `signal` to every process of the group that [`spawn`] made; a group that is gone is fine.
pub(crate) fn kill_group(pid: Pid, signal: Signal) -> io::Result<()> {
    match rustix::process::kill_process_group(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Changes how many processes the user of a running program may have, as that program sees it.
pub(crate) fn limit_processes(pid: Pid, processes: u64) -> io::Result<()> {
    let most = Some(allowed(Resource::Nproc, processes));
    rustix::process::prlimit(Some(pid), Resource::Nproc, Rlimit { current: most, maximum: most })?;
    Ok(())
}

/// Keeps programs of our own user out of our memory and descriptors (ptrace(2)), where apps run as that user.
pub(crate) fn hide_memory() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// The user at the other end of a unix socket, as the kernel says.
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Whether the process at the other end of a unix socket is in group `gid`, by its primary or another group.
pub(crate) fn peer_in_group(stream: &UnixStream, gid: u32) -> io::Result<bool> {
    if rustix::net::sockopt::socket_peercred(stream)?.gid.as_raw() == gid {
        return Ok(true);
    }
    // Linux lets a process be in this many groups (limits.h, NGROUPS_MAX).
    let mut groups: Vec<libc::gid_t> = vec![0; 65536];
    let mut size = libc::socklen_t::try_from(size_of_val(groups.as_slice())).expect("256 KiB fit");
    // SAFETY: the kernel writes at most `size` bytes, the length of the vector, and says in `size` how many.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut size,
        )
    })?;
    Ok(groups.iter().take(size as usize / size_of::<libc::gid_t>()).any(|g| *g == gid))
}

/// Watches a listening socket for one worker of several: a new connection wakes one of them (EPOLLEXCLUSIVE,
/// epoll_ctl(2)). Level-triggered, so that what one worker leaves wakes the next. To pause, [`unwatch`] it.
pub(crate) fn watch_exclusive(poll: &mio::Poll, fd: impl AsFd, token: mio::Token) -> io::Result<()> {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
    Ok(epoll::add(borrow(poll), fd, epoll::EventData::new_u64(token.0 as u64), flags)?)
}

pub(crate) fn unwatch(poll: &mio::Poll, fd: impl AsFd) -> io::Result<()> {
    Ok(epoll::delete(borrow(poll), fd)?)
}

/// What a TCP connection has moved since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Bytes that the peer's kernel has acknowledged.
    pub acked: u64,
    /// Bytes that have come, read or not.
    pub received: u64,
}

/// Asks the kernel what `stream` has moved (tcp(7), TCP_INFO). `None` when it does not say, as before Linux 4.1.
pub(crate) fn tcp_moved(stream: impl AsFd) -> Option<Moved> {
    /// Up to and with `tcpi_bytes_received` of `struct tcp_info` (linux/tcp.h), which only ever grows at its end.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        states: [u8; 8],
        counters: [u32; 24],
        pacing_rates: [u64; 2],
        acked: u64,
        received: u64,
    }
    let mut info = Info::default();
    let mut size = libc::socklen_t::try_from(size_of::<Info>()).expect("136 fits");
    // SAFETY: the kernel writes at most `size` bytes, the length of `info`, and any bytes are a valid one.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    let known = check(result).is_ok() && size as usize == size_of::<Info>();
    known.then_some(Moved { acked: info.acked, received: info.received })
}

/// Lets the kernel hold at most about `bytes` that it has not yet sent for `socket`; a listener hands that on to what it
/// accepts (tcp(7), TCP_NOTSENT_LOWAT).
pub(crate) fn limit_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<u32>()).expect("4 fits");
    // SAFETY: the kernel reads `size` bytes, the size of what is pointed at.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size,
        )
    })
}

/// Bytes of memory that this machine has.
pub(crate) fn memory() -> Option<u64> {
    // SAFETY: both read a number.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    Some(u64::try_from(pages).ok()? * u64::try_from(page).ok()?)
}

/// Raises the limit of open descriptors as far as allowed and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// As much of `wanted` as may be given: more than we have ourselves takes CAP_SYS_RESOURCE, which even root may lack.
fn allowed(resource: Resource, wanted: u64) -> u64 {
    rustix::process::getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted))
}

/// No handler runs in this thread until [`restore_signals`].
fn block_signals() -> libc::sigset_t {
    // SAFETY: a set is plain numbers; both calls write to one that outlives them.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: it is a set that the kernel gave us.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

fn borrow(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to `poll`, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Counts what each thread asks of the allocator, so that a test can say that the steady path asks nothing.
#[cfg(test)]
pub(crate) mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static ASKED: Cell<u64> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    /// How often this thread has asked for memory.
    pub fn here() -> u64 {
        ASKED.with(Cell::get)
    }

    fn count() {
        // A thread that is ending has no count any more.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
    }

    // SAFETY: everything is passed on to the system's allocator as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller keeps to the contract, which is the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(memory, layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count();
            // SAFETY: as above.
            unsafe { System.realloc(memory, layout, size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn knows_the_groups_of_a_peer() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(peer_in_group(&ours, rustix::process::getegid().as_raw()).unwrap());
        // The kernel keeps this id for `no group` (setresgid(2)), so nobody is in it.
        assert!(!peer_in_group(&ours, u32::MAX).unwrap());
        for gid in rustix::process::getgroups().unwrap() {
            assert!(peer_in_group(&ours, gid.as_raw()).unwrap());
        }
    }

    #[test]
    fn knows_what_a_connection_has_moved() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        let (sent, got) = (tcp_moved(&client).unwrap(), tcp_moved(&server).unwrap());
        assert_eq!((sent.received, got.received), (0, 1000));
        assert!((1000..1002).contains(&sent.acked), "{sent:?}, where the SYN may count for one");
        assert!(memory().unwrap() > 1 << 20);
    }
}
