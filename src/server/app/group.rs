//! Process groups as the kernel shows them: who is in one, and on which port it listens (proc_pid_stat(5), proc_net(5)).
//!
//! A number of a process may come to mean another one at any time; what is read here is a look and no hold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::iter::{once, successors};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::net::{getsockname, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// No environment that we gave to a program is larger.
const MAX_ENVIRONMENT: u64 = 4 << 20;
/// A second of the kernel's clock for people (USER_HZ, time(7)).
pub(crate) const TICKS: u64 = 100;
/// No starter of a starter is further away; what is read while processes come and go might even be a circle.
const MAX_DEPTH: usize = 32;
/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

pub(crate) struct Stat {
    state: char,
    parent: u32,
    pub group: u32,
    /// Clock ticks from boot to its start.
    pub started: u64,
    /// Clock ticks that it ran, and that those of its children ran which it has waited for.
    pub ticks: u64,
    /// Resident memory.
    pub pages: u64,
}

/// Every process of the machine that can be looked at.
pub(crate) fn stats() -> impl Iterator<Item = (u32, Stat)> {
    everybody().filter_map(|pid| Some((pid, stat(pid)?)))
}

/// The live processes of a group; one that has ended and is not reaped is not there any more.
pub(crate) fn members(group: u32) -> Vec<u32> {
    everybody().filter(|pid| is_member(*pid, group)).collect()
}

fn is_member(pid: u32, group: u32) -> bool {
    stat(pid).is_some_and(|s| s.group == group && !matches!(s.state, 'Z' | 'X'))
}

/// All processes of the machine.
pub(crate) fn everybody() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Clock ticks from boot to the start of a process; `None` when there is none.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|s| s.started)
}

/// Whom a process runs as.
pub(crate) fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// Whether a process was started with this in its environment.
pub(crate) fn was_given(pid: u32, name: &str, value: &Path) -> bool {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    let wanted = [name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat();
    read.is_ok() && environment.split(|b| *b == 0).any(|variable| variable == wanted)
}

/// Whether a group that has lost its leader is of the app with this data folder. Its number stays taken as long as
/// anybody is in it, but all may have ended and another group may have come and lost its leader since.
pub(crate) fn is_given(group: u32, data: &Path) -> bool {
    members(group).into_iter().any(|pid| was_given(pid, "TAKO_DATA_DIR", data))
}

/// Opens the reading end of a pipe, by the number of its inode, where a process of the group holds it; `None` when none
/// of them does.
///
/// # Errors
/// When we may not look.
pub(crate) fn open_pipe(leader: u32, inode: u64) -> io::Result<Option<File>> {
    // Looked for only when it is not the leader itself.
    let others = once(()).flat_map(|()| members(leader)).filter(|pid| *pid != leader);
    for pid in once(leader).chain(others) {
        let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => descriptors,
            // It has ended since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in descriptors.flatten() {
            if !fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == format!("pipe:[{inode}]").as_str()) {
                continue;
            }
            let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(entry.path()) {
                Ok(file) => file,
                // It has been closed since.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            // The descriptor may have become another one between the two looks.
            let there = file.metadata()?;
            if there.file_type().is_fifo() && there.ino() == inode {
                return Ok(Some(file));
            }
        }
    }
    Ok(None)
}

/// Whether `leader`, its group or a child of theirs is among those who listen on `port`; `None` when nobody does, or it
/// cannot be told.
pub(crate) fn listens(leader: u32, port: u16) -> Option<bool> {
    // Nearly always it is the leader itself; the kernel's tables take milliseconds to read, and a swap waits for this.
    if has_listener(leader, port) {
        return Some(true);
    }
    let sockets = sockets_of_table(port)?;
    if holds(leader, &sockets)? {
        return Some(true);
    }
    let mut others = members(leader).into_iter().filter(|pid| *pid != leader);
    if others.try_fold(false, |found, pid| Some(found || holds(pid, &sockets)?))? {
        return Some(true);
    }
    // Some starters give each of their children a group of its own.
    Some(everybody().any(|pid| holds(pid, &sockets) == Some(true) && descends(pid, leader)))
}

/// Whether `leader` is among those who started `pid`, as far as they live.
fn descends(pid: u32, leader: u32) -> bool {
    let parents = successors(Some(pid), |pid| stat(*pid).map(|s| s.parent));
    parents.take(MAX_DEPTH).any(|parent| parent == leader)
}

/// Where the group of `leader`, and what else it started, listens for TCP; `None` when nobody is left or none of them may
/// be looked at.
pub(crate) fn listening(leader: u32) -> Option<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut looked = false;
    for pid in everybody().filter(|pid| is_member(*pid, leader) || descends(*pid, leader)) {
        if let Some(listeners) = own_listeners(pid) {
            looked = true;
            found.extend(listeners);
        }
    }
    found.sort();
    found.dedup();
    looked.then_some(found)
}

/// A process that listens on `port`, of all that there are.
pub(crate) fn listener(port: u16) -> Option<u32> {
    let sockets = sockets_of_table(port)?;
    everybody().find(|pid| holds(*pid, &sockets) == Some(true))
}

/// Looks at the process's own sockets; false also where the kernel does not let us.
fn has_listener(pid: u32, port: u16) -> bool {
    own_listeners(pid).is_some_and(|mut listeners| listeners.any(|at| at.port() == port))
}

fn own_listeners(pid: u32) -> Option<impl Iterator<Item = SocketAddr>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).ok()?.flatten();
    let numbers = descriptors.filter(is_socket).filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Some(numbers.filter_map(move |number| {
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let address = SocketAddr::try_from(getsockname(&socket).ok()?).ok()?;
        sockopt::socket_acceptconn(&socket).unwrap_or(false).then_some(address)
    }))
}

fn is_socket(entry: &fs::DirEntry) -> bool {
    fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"socket:"))
}

/// Who listens on `port`, of all processes; `None` when nobody does.
fn sockets_of_table(port: u16) -> Option<Vec<String>> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|table| File::open(table).ok());
    let sockets: Vec<String> = tables.flat_map(|file| listeners(BufReader::new(file), port)).collect();
    (!sockets.is_empty()).then_some(sockets)
}

/// Whether one of the sockets is open in the process; `None` when we may not look.
fn holds(pid: u32, sockets: &[String]) -> Option<bool> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Some(links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str())))
}

/// The sockets that listen on `port`, named as the links of descriptors name them. The kernel lists those that listen
/// first, so that the connections of a busy machine are not read.
fn listeners(table: impl BufRead, port: u16) -> Vec<String> {
    let lines = table.lines().map_while(Result::ok).skip(1);
    let listening = lines.map_while(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        (words.get(3) == Some(&LISTEN))
            .then(|| Some((words[1].rsplit_once(':')?.1.to_owned(), words.get(9)?.to_string())))
    });
    let ours = format!("{port:04X}");
    listening.flatten().filter(|(port, _)| *port == ours).map(|(_, inode)| format!("socket:[{inode}]")).collect()
}

/// The process that a line of proc_pid_stat(5) is about, and when it started.
pub(crate) fn identity(line: &str) -> Option<(u32, u64)> {
    Some((line.split(' ').next()?.parse().ok()?, parse_stat(line)?.started))
}

/// Clock ticks since boot.
pub(crate) fn ticks_now() -> Option<u64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
    Some((seconds * TICKS as f64) as u64)
}

fn stat(pid: u32) -> Option<Stat> {
    // One read: the kernel gives the whole line, of fifty-two numbers at most, and there may be hundreds of processes.
    let mut line = [0; 2 << 10];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    parse_stat(&String::from_utf8_lossy(&line[..length]))
}

fn parse_stat(stat: &str) -> Option<Stat> {
    // The second field is the program's name in parentheses, and may hold anything, also parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        ticks: fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum(),
        pages: fields.get(21)?.parse().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::{self, Spawn};

    #[test]
    fn reads_who_listens_and_stops_at_the_first_who_does_not() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 111 1 0 100 0 0 10 0\n\
             1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 222 1 0 100 0 0 10 0\n\
             2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 333 1 0 100 0 0 10 0\n\
             3: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 444 1 0 100 0 0 10 0\n";
        assert_eq!(listeners(table.as_bytes(), 8080), ["socket:[111]"]);
        assert_eq!(listeners(table.as_bytes(), 80), ["socket:[222]"]);
        assert!(listeners(table.as_bytes(), 8081).is_empty());
        assert!(listeners("garbage\nmore\n".as_bytes(), 80).is_empty());
    }

    /// Its leader prints elsewhere, one that it started does not.
    #[test]
    fn finds_a_pipe_with_whoever_of_the_group_holds_it() {
        let argv = sys::shell("(echo up; exec sleep 600) & exec >/dev/null 2>&1; wait");
        let birth = tempfile::tempfile().unwrap();
        let outlives_us = Some(birth.as_fd());
        let mut spawned = sys::spawn(&Spawn { outlives_us, ..Spawn::plain(&argv) }).unwrap();
        let (id, out) = (spawned.child.id(), File::from(OwnedFd::from(spawned.stdout)));
        let inode = out.metadata().unwrap().ino();
        drop(out);
        let mut found = open_pipe(id, inode).unwrap().expect("it is held");
        let mut heard = [0; 3];
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(e) = found.read_exact(&mut heard) {
            assert!(e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline, "{e}");
            std::thread::yield_now();
        }
        assert_eq!(&heard, b"up\n");
        assert!(open_pipe(id, 1).unwrap().is_none());
        sys::kill_group(spawned.pid, rustix::process::Signal::KILL).unwrap();
        spawned.child.wait().unwrap();
        // The other one is not ours to wait for.
        while open_pipe(id, inode).unwrap().is_some() {
            assert!(Instant::now() < deadline, "somebody is left");
            std::thread::yield_now();
        }
    }

    #[test]
    fn knows_our_own_socket_from_that_of_another_group() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listens(std::process::id(), port), Some(true));
        assert_eq!(sockets_of_table(port).map(|s| holds(std::process::id(), &s)), Some(Some(true)));
        let argv = sys::shell("sleep 600 & sleep 600");
        let env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("TAKO_DATA_DIR".into(), "/d".into())];
        let mut other = sys::spawn(&Spawn { env, ..Spawn::plain(&argv) }).unwrap();
        let id = other.child.id();
        assert_eq!(listens(id, port), Some(false));
        assert!(members(id).contains(&id));
        assert!(was_given(id, "TAKO_DATA_DIR", Path::new("/d")) && !was_given(id, "TAKO_DATA_DIR", Path::new("/")));
        sys::kill_group(other.pid, rustix::process::Signal::KILL).unwrap();
        other.child.wait().unwrap();
        drop(listener);
        assert_eq!(listens(id, port), None);
    }
}
