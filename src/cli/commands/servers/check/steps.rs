//! The single steps of a check: each looks at one thing and says what it found, or the error that ends the walk. None knows
//! what comes before or after it.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::bounded;

use crate::cli::config::inventory::Server;
use crate::cli::remote::Remote;
use crate::cli::remote::hello::incompatible;
use crate::cli::ssh::inspect::{Login, Reached, Resolved};
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::PROTOCOL;
use crate::proto::control::{Hello, Info, Reply, Request};

/// For a name, a connection and the far side's first line, each: what `ssh` itself gives a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of what a server may say before its version (RFC 4253 §4.2), in bytes.
const MAX_BANNER: u64 = 8 << 10;
/// Certificates and tokens begin to fail when clocks differ by more.
const MAX_SKEW: Duration = Duration::from_secs(30);
/// A release, its upload and what it installs need about this; less is worth a word before a deploy fails.
const LITTLE_SPACE: u64 = 1_000_000_000;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Resolve,
    Tcp,
    Banner,
    HostKey,
    Login,
    Shell,
    Program,
    Socket,
    Version,
    Clock,
    Disk,
    Proxy,
}

/// What a step found, when it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Fine(String),
    /// It works, and this is worth a word.
    Odd(String),
    /// Not looked at, and why.
    Skipped(String),
}

impl Step {
    pub fn word(self) -> &'static str {
        match self {
            Step::Resolve => "resolve",
            Step::Tcp => "tcp",
            Step::Banner => "banner",
            Step::HostKey => "host key",
            Step::Login => "login",
            Step::Shell => "shell",
            Step::Program => "tako-server",
            Step::Socket => "socket",
            Step::Version => "version",
            Step::Clock => "clock",
            Step::Disk => "disk",
            Step::Proxy => "proxy",
        }
    }
}

pub(super) fn not_ours(what: &str, to: &Resolved) -> Found {
    Found::Skipped(format!("{what} by way of {}", to.by_way_of.as_deref().unwrap_or_default()))
}

/// What `ssh` makes of the server's name, in words.
pub(super) fn resolved(to: &Resolved, addresses: &[IpAddr], is_there: impl Fn(&str) -> bool) -> String {
    let mut words = format!("{}@{} port {}", to.user, to.host, to.port);
    let others: Vec<String> = addresses.iter().map(ToString::to_string).filter(|a| *a != to.host).collect();
    if !others.is_empty() {
        words += &format!(" ({})", others.join(", "));
    }
    if let Some(way) = &to.by_way_of {
        words += &format!(" · by way of {way}");
    }
    let keys: Vec<&str> = to.keys.iter().map(String::as_str).filter(|key| is_there(key)).collect();
    words += &match keys.as_slice() {
        [] => " · no key file, so an agent's".to_string(),
        [key] => format!(" · key {key}"),
        keys => format!(" · keys {}", keys.join(", ")),
    };
    words
}

/// `ssh -G` leaves the home folder as it is written.
pub(super) fn key_file(key: &str) -> Option<std::path::PathBuf> {
    match key.strip_prefix("~/") {
        Some(rest) => Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(rest)),
        None => Some(key.into()),
    }
}

/// In a thread of its own, which may stay behind: a resolver has deadlines, but its own.
pub(super) fn addresses(server: &Server, to: &Resolved) -> Result<Vec<IpAddr>> {
    let (found, addresses) = bounded(1);
    let name = (to.host.clone(), to.port);
    thread::spawn(move || found.send(name.to_socket_addrs().map(|all| all.map(|a| a.ip()).collect::<Vec<_>>())));
    let hint = format!(
        "check the host with `tako servers ls`, and the network; `ssh -G {}` shows what ssh makes of it",
        server.host
    );
    let fail = |why: String| Error::new(Kind::Unreachable, format!("{}: {why}", server.name)).hint(hint);
    match addresses.recv_timeout(PATIENCE) {
        Ok(Ok(found)) if !found.is_empty() => Ok(found),
        Ok(Ok(_)) => Err(fail(format!("`{}` has no address", to.host))),
        Ok(Err(e)) => Err(fail(format!("`{}` cannot be resolved", to.host)).because(e)),
        Err(_) => Err(fail(format!("`{}` was not resolved within {} s", to.host, PATIENCE.as_secs()))),
    }
}

pub(super) fn tcp(server: &Server, to: &Resolved) -> Result<(TcpStream, Found)> {
    let mut failed = Vec::new();
    for address in addresses(server, to)? {
        let place = SocketAddr::new(address, to.port);
        match TcpStream::connect_timeout(&place, PATIENCE) {
            Ok(stream) => return Ok((stream, Found::Fine(format!("{place} answers")))),
            Err(e) => failed.push((place, e)),
        }
    }
    let refused = failed.iter().any(|(_, e)| e.kind() == std::io::ErrorKind::ConnectionRefused);
    let lines = failed.iter().map(|(place, e)| format!("{place}: {e}")).collect();
    let (why, hint) = match refused {
        true => ("the connection was refused", "is sshd running there, and is the port right?"),
        false => ("no answer in time", "is a firewall or VPN in between, and is the server up?"),
    };
    let message = format!("{}: port {} of {}: {why}", server.name, to.port, to.host);
    Err(Error::new(Kind::Unreachable, message).with_detail(lines).hint(hint))
}

/// The far side's first line that says what it is.
pub(super) fn banner(server: &Server, stream: TcpStream) -> Result<String> {
    let fail = |why: String| {
        Error::new(Kind::Unreachable, format!("{}: {why}", server.name))
            .hint("something else may listen on that port; or sshd turns away new connections, as after failed logins")
    };
    let (to, said) = bounded(1);
    let watched = stream.try_clone().map_err(|e| fail(format!("the connection ended: {e}")))?;
    thread::spawn(move || to.send(read_banner(stream)));
    let said = said.recv_timeout(PATIENCE);
    // Ends the thread, too.
    let _ = watched.shutdown(std::net::Shutdown::Both);
    match said {
        Ok(Some(version)) => Ok(version),
        Ok(None) => Err(fail("what answers there does not speak SSH".into())),
        Err(_) => Err(fail(format!("it accepts the connection and says nothing for {} s", PATIENCE.as_secs()))),
    }
}

/// Other lines may come before it (RFC 4253 §4.2).
pub(super) fn read_banner(stream: impl Read) -> Option<String> {
    let mut lines = BufReader::new(stream.take(MAX_BANNER));
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let line = crate::cli::child::plain(line.trim_ascii_end());
        if line.starts_with("SSH-") {
            return Some(line);
        }
    }
}

/// The steps that one login walks, in order, up to the one that it did not pass.
pub(super) fn judge(login: &Login) -> Vec<(Step, Result<Found>)> {
    let reached = login.reached();
    let shell = || match login.noise {
        0 => Found::Fine("silent without a terminal, as it should be".into()),
        bytes => Found::Odd(format!(
            "prints {bytes} bytes before our program starts, from `{}` on; it should be silent without a terminal",
            login.sample
        )),
    };
    let host_key = || {
        let key = login.host_key().unwrap_or_else(|| "its key".into());
        let exchange = login.exchange().map(|name| format!(" · {name}")).unwrap_or_default();
        Found::Fine(format!("{key} is known here{exchange}"))
    };
    let program = || Found::Fine("is there".into());
    let socket = || Found::Fine("its daemon answers".into());
    let in_by = || Found::Fine(login.way_in().unwrap_or_else(|| "let in".into()));
    let all: [(Step, Reached, &dyn Fn() -> Found); 5] = [
        (Step::HostKey, Reached::HostKey, &host_key),
        (Step::Login, Reached::LoggedIn, &in_by),
        (Step::Shell, Reached::Shell, &shell),
        (Step::Program, Reached::Program, &program),
        (Step::Socket, Reached::Hello, &socket),
    ];
    let mut steps = Vec::new();
    for (step, needs, found) in all {
        if reached >= needs {
            steps.push((step, Ok(found())));
            continue;
        }
        steps.push((step, Err(login.error())));
        break;
    }
    steps
}

pub(super) fn version(server: &Server, hello: &Hello) -> Result<Found> {
    match PROTOCOL.common(hello.protocol) {
        Some(protocol) => {
            Ok(Found::Fine(format!("tako-server {} · {} · protocol {protocol}", hello.server, hello.target)))
        }
        None => Err(incompatible(server.name.as_str(), hello)),
    }
}

/// How far the server's clock is from ours; `None` when nobody needs to know.
pub(crate) fn skew(hello: &Hello, now: SystemTime) -> Option<Duration> {
    Some(apart(hello, now)).filter(|skew| *skew > MAX_SKEW)
}

pub(super) fn apart(hello: &Hello, now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().abs_diff(Duration::from_millis(hello.clock_ms))
}

pub(super) fn clock(hello: &Hello, now: SystemTime) -> Found {
    match skew(hello, now) {
        Some(skew) => Found::Odd(format!("{} away from this one; certificates depend on it", units::duration(skew))),
        None => Found::Fine(format!("{} away from this one", units::duration(apart(hello, now)))),
    }
}

pub(crate) fn info(remote: &mut Remote) -> Result<Info> {
    match remote.call(Request::Info, &mut |_| {})? {
        Reply::Info(info) => Ok(info),
        other => Err(remote.misunderstood(&other)),
    }
}

pub(super) fn disk(info: &Info) -> Found {
    let words = format!("{} free in {}", units::size(info.free_bytes), info.data_dir);
    match info.free_bytes < LITTLE_SPACE {
        true => Found::Odd(format!("only {words}; a deploy may need more")),
        false => Found::Fine(words),
    }
}

pub(super) fn proxy(info: &Info) -> Found {
    let on = |scheme: &str, places: &[String]| match places {
        [] => format!("nothing for {scheme}"),
        places => format!("{scheme} on {}", places.join(", ")),
    };
    let words = format!("{} · {}", on("http", &info.http), on("https", &info.https));
    match info.http.is_empty() || info.https.is_empty() {
        true => Found::Odd(words),
        false => Found::Fine(words),
    }
}

#[cfg(test)]
mod tests;
