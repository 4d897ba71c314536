//! `tako servers check`: the way to one server walked step by step, each told with what was found, up to the first that
//! fails; and the same for all servers at once, a line each.
//!
//! **Invariant**: it looks and changes nothing but the target in our own inventory; every step has a deadline.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::bounded;
use serde_json::json;

use super::server_name;
use crate::cli::args::Args;
use crate::cli::commands::{Exit, aim};
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::hello::incompatible;
use crate::cli::remote::{Place, Remote};
use crate::cli::ssh::inspect::{self, Login, Reached, Resolved};
use crate::cli::ui::waiting::{Mark, Waiting};
use crate::cli::ui::{Ui, units};
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
/// Columns of the longest step's name.
const WIDTH: usize = 11;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
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
enum Found {
    Fine(String),
    /// It works, and this is worth a word.
    Odd(String),
    /// Not looked at, and why.
    Skipped(String),
}

/// Where a walk ended.
type Failed = (Step, Error);

/// What is known at the end of a walk.
struct Well {
    hello: Hello,
    info: Info,
    odd: usize,
}

/// `tako servers check [NAME]`. A target that was not known is kept.
pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let inventory = Inventory::load()?;
    let interrupt = Interrupt::of_process()?;
    match args.positional(0) {
        Some(name) => one(ui, inventory.find(&server_name(name)?)?.clone(), inventory, &interrupt),
        None => all(ui, inventory, &interrupt),
    }
}

fn one(ui: &Ui, server: Server, mut inventory: Inventory, interrupt: &Interrupt) -> Result<Exit> {
    let mut waiting: Option<Waiting> = None;
    let walked = Walk { server: &server, interrupt }.run(&mut |step, said| {
        waiting = None;
        match said {
            None => waiting = Some(ui.waiting(step.word(), "…")),
            Some(said) => tell(ui, &server, step, said),
        }
    });
    drop(waiting);
    let result = json!({ "servers": [summary(&server, &walked)] });
    ui.event("result", result);
    match walked {
        Ok(well) => {
            keep_target(&mut inventory, vec![(server, well.hello)])?;
            Ok(Exit::Done)
        }
        Err((_, e)) => Err(e),
    }
}

fn all(ui: &Ui, mut inventory: Inventory, interrupt: &Interrupt) -> Result<Exit> {
    let servers = inventory.servers().to_vec();
    if servers.is_empty() {
        ui.note("no servers yet: run `tako servers add HOST`");
    }
    let width = servers.iter().map(|s| s.name.as_str().chars().count()).max().unwrap_or(0);
    let walked = fanout::each(servers, CONNECTS, |server| {
        let _waiting = ui.waiting(server.name.as_str(), "checking");
        let walked = Walk { server: &server, interrupt }.run(&mut |step, said| {
            if ui.is_json()
                && let Some(said) = said
            {
                tell(ui, &server, step, said);
            }
        });
        (server, walked)
    });
    interrupt.check()?;
    ui.event("result", json!({ "servers": walked.iter().map(|(s, w)| summary(s, w)).collect::<Vec<_>>() }));
    let count = walked.len();
    let (mut well, mut failed) = (Vec::new(), Vec::new());
    for (server, walked) in walked {
        match walked {
            Ok(found) => {
                let (mark, more) = match found.odd {
                    0 => (Mark::Good, String::new()),
                    odd => {
                        (Mark::Odd, format!(" · {}: `tako servers check {}`", units::count(odd, "remark"), server.name))
                    }
                };
                let Hello { server: version, target, .. } = &found.hello;
                let free = units::size(found.info.free_bytes);
                ui.item(
                    mark,
                    server.name.as_str(),
                    width,
                    &format!("tako-server {version} · {target} · {free} free{more}"),
                );
                well.push((server, found.hello));
            }
            Err((step, e)) => {
                ui.item(Mark::Bad, server.name.as_str(), width, &format!("{}: {}", step.word(), without(&server, &e)));
                failed.push((server.name, e));
            }
        }
    }
    keep_target(&mut inventory, well)?;
    let several = failed.len() > 1;
    match aim::failure(failed, count) {
        None => Ok(Exit::Done),
        Some(e) if several && e.next_step().is_none() => Err(e.hint("`tako servers check NAME` tells more about one")),
        Some(e) => Err(e),
    }
}

/// What a server says of itself is written down where it was not known, or was something else.
fn keep_target(inventory: &mut Inventory, well: Vec<(Server, Hello)>) -> Result<()> {
    let news: Vec<_> = well.into_iter().filter(|(server, hello)| server.target != Some(hello.target)).collect();
    for (server, hello) in &news {
        inventory.put(Server { target: Some(hello.target), ..server.clone() })?;
    }
    match news.is_empty() {
        true => Ok(()),
        false => inventory.save(),
    }
}

fn tell(ui: &Ui, server: &Server, step: Step, said: Result<&Found, &Error>) {
    let (mark, state, text) = match said {
        Ok(Found::Fine(text)) => (Mark::Good, "ok", text.clone()),
        Ok(Found::Odd(text)) => (Mark::Odd, "odd", text.clone()),
        Ok(Found::Skipped(text)) => (Mark::Skipped, "skipped", text.clone()),
        Err(e) => (Mark::Bad, "failed", without(server, e)),
    };
    ui.item(mark, step.word(), WIDTH, &text);
    ui.event("step", json!({ "server": server.name, "step": step.word(), "state": state, "found": text }));
}

/// An error names its server, and so does its line.
fn without(server: &Server, e: &Error) -> String {
    let text = e.to_string();
    text.strip_prefix(&format!("{}: ", server.name)).map_or(text.clone(), Into::into)
}

fn summary(server: &Server, walked: &Result<Well, Failed>) -> serde_json::Value {
    match walked {
        Ok(Well { hello, info, odd }) => json!({
            "server": server.name,
            "ok": true,
            "version": hello.server,
            "target": hello.target,
            "remarks": odd,
            "free_bytes": info.free_bytes,
            "http": info.http,
            "https": info.https,
        }),
        Err((step, e)) => json!({
            "server": server.name,
            "ok": false,
            "step": step.word(),
            "kind": e.kind(),
            "why": e.to_string(),
            "hint": e.next_step(),
        }),
    }
}

impl Step {
    fn word(self) -> &'static str {
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

struct Walk<'a> {
    server: &'a Server,
    interrupt: &'a Interrupt,
}

/// Hears of each step when it begins, and of how it ended.
type Say<'a> = dyn FnMut(Step, Option<Result<&Found, &Error>>) + 'a;

impl Walk<'_> {
    fn run(&self, say: &mut Say<'_>) -> Result<Well, Failed> {
        let mut odd = 0;
        let mut say = |step, said: Option<Result<&Found, &Error>>| {
            odd += usize::from(matches!(said, Some(Ok(Found::Odd(_)))));
            say(step, said);
        };
        let say: &mut Say<'_> = &mut say;
        let to = step(say, Step::Resolve, || self.resolve())?;
        let direct = to.by_way_of.is_none();
        let stream = step(say, Step::Tcp, || match direct {
            true => tcp(self.server, &to).map(|(stream, found)| (Some(stream), found)),
            false => Ok((None, not_ours("it is reached", &to))),
        })?;
        step(say, Step::Banner, || match stream {
            Some(stream) => Ok(((), Found::Fine(banner(self.server, stream)?))),
            None => Ok(((), not_ours("it is heard", &to))),
        })?;
        say(Step::HostKey, None);
        let login = inspect::login(self.server, self.interrupt).map_err(|e| {
            say(Step::HostKey, Some(Err(&e)));
            (Step::HostKey, e)
        })?;
        for (at, found) in judge(&login) {
            step(say, at, || found.map(|found| ((), found)))?;
        }
        let hello = step(say, Step::Version, || {
            let hello = login.hello.clone().ok_or_else(|| login.error())?;
            let found = version(self.server, &hello)?;
            Ok((hello, found))
        })?;
        step(say, Step::Clock, || Ok(((), clock(&hello, SystemTime::now()))))?;
        let info = step(say, Step::Disk, || {
            let info = info(&mut Remote::connect(&Place::Ssh(self.server.clone()), self.interrupt)?)?;
            let found = disk(&info);
            Ok((info, found))
        })?;
        step(say, Step::Proxy, || Ok(((), proxy(&info))))?;
        Ok(Well { hello, info, odd })
    }

    fn resolve(&self) -> Result<(Resolved, Found)> {
        let to = inspect::resolve(self.server, self.interrupt)?;
        let addresses = match to.by_way_of {
            None => addresses(self.server, &to)?,
            Some(_) => Vec::new(),
        };
        let found = Found::Fine(resolved(&to, &addresses, |key| key_file(key).is_some_and(|path| path.exists())));
        Ok((to, found))
    }
}

fn step<T>(say: &mut Say<'_>, step: Step, walk: impl FnOnce() -> Result<(T, Found)>) -> Result<T, Failed> {
    say(step, None);
    match walk() {
        Ok((value, found)) => {
            say(step, Some(Ok(&found)));
            Ok(value)
        }
        Err(e) => {
            say(step, Some(Err(&e)));
            Err((step, e))
        }
    }
}

fn not_ours(what: &str, to: &Resolved) -> Found {
    Found::Skipped(format!("{what} by way of {}", to.by_way_of.as_deref().unwrap_or_default()))
}

/// What `ssh` makes of the server's name, in words.
fn resolved(to: &Resolved, addresses: &[IpAddr], is_there: impl Fn(&str) -> bool) -> String {
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
fn key_file(key: &str) -> Option<std::path::PathBuf> {
    match key.strip_prefix("~/") {
        Some(rest) => Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(rest)),
        None => Some(key.into()),
    }
}

/// In a thread of its own, which may stay behind: a resolver has deadlines, but its own.
fn addresses(server: &Server, to: &Resolved) -> Result<Vec<IpAddr>> {
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

fn tcp(server: &Server, to: &Resolved) -> Result<(TcpStream, Found)> {
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
fn banner(server: &Server, stream: TcpStream) -> Result<String> {
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
fn read_banner(stream: impl Read) -> Option<String> {
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
fn judge(login: &Login) -> Vec<(Step, Result<Found>)> {
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
        (Step::Shell, Reached::LoggedIn, &shell),
        (Step::Program, Reached::Program, &program),
        (Step::Socket, Reached::Hello, &socket),
    ];
    let mut steps = Vec::new();
    for (step, needs, found) in all {
        if reached >= needs {
            steps.push((step, Ok(found())));
            continue;
        }
        let e = login.error();
        let e = match (step, login.offered()) {
            (Step::Login, Some(ways)) => {
                let detail = [e.detail(), &[format!("it takes: {ways}")]].concat();
                e.with_detail(detail)
            }
            _ => e,
        };
        steps.push((step, Err(e)));
        break;
    }
    steps
}

fn version(server: &Server, hello: &Hello) -> Result<Found> {
    match PROTOCOL.common(hello.protocol) {
        Some(protocol) => {
            Ok(Found::Fine(format!("tako-server {} · {} · protocol {protocol}", hello.server, hello.target)))
        }
        None => Err(incompatible(server.name.as_str(), hello)),
    }
}

/// How far the server's clock is from ours; `None` when nobody needs to know.
pub(super) fn skew(hello: &Hello, now: SystemTime) -> Option<Duration> {
    Some(apart(hello, now)).filter(|skew| *skew > MAX_SKEW)
}

fn apart(hello: &Hello, now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().abs_diff(Duration::from_millis(hello.clock_ms))
}

fn clock(hello: &Hello, now: SystemTime) -> Found {
    match skew(hello, now) {
        Some(skew) => Found::Odd(format!("{} away from this one; certificates depend on it", units::duration(skew))),
        None => Found::Fine(format!("{} away from this one", units::duration(apart(hello, now)))),
    }
}

pub(super) fn info(remote: &mut Remote) -> Result<Info> {
    match remote.call(Request::Info, &mut |_| {})? {
        Reply::Info(info) => Ok(info),
        other => Err(remote.misunderstood(&other)),
    }
}

fn disk(info: &Info) -> Found {
    let words = format!("{} free in {}", units::size(info.free_bytes), info.data_dir);
    match info.free_bytes < LITTLE_SPACE {
        true => Found::Odd(format!("only {words}; a deploy may need more")),
        false => Found::Fine(words),
    }
}

fn proxy(info: &Info) -> Found {
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
