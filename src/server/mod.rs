//! The daemon `tako-server`: what starts in which order, and what stops in which.
//!
//! Start: descriptor limit, data directory (folders, lock, host key), management socket bound, SDK laid out, traffic
//! sockets bound, proxy, Board, apps, management socket served, ready. Stop (SIGTERM, SIGINT): no new management
//! connections and no changes, proxy drained, apps stopped. A second signal ends at once.
//!
//! Reading order: `args` and `settings` are the command line; `layout` and `home` the data directory; `control`,
//! `verbs` and `daemon` what a client can ask; `access`, `metrics` and `scrape` what is told of traffic; `board`, `certs` and `mint` what the proxy is told; `users` whom apps run as, `owner` whose their folders are, `cgroup` the groups of the kernel that they run in;
//! `release`, `install` and `runtime` what lies on disk; `app` runs it.

pub(crate) mod args;
pub(crate) mod settings;
pub(crate) mod layout;
pub(crate) mod home;
pub(crate) mod state;
pub(crate) mod listener;
pub(crate) mod rotating;
pub(crate) mod access;
pub(crate) mod metrics;
pub(crate) mod scrape;
pub(crate) mod control;
pub(crate) mod verbs;
pub(crate) mod vet;
pub(crate) mod lock;
pub(crate) mod crash;
pub(crate) mod daemon;
pub(crate) mod board;
pub(crate) mod certs;
pub(crate) mod mint;
pub(crate) mod users;
pub(crate) mod owner;
pub(crate) mod cgroup;
pub(crate) mod incoming;
pub(crate) mod release;
pub(crate) mod install;
pub(crate) mod runtime;
pub(crate) mod app;
pub(crate) mod bridge;
pub(crate) mod notify;
pub(crate) mod dev;

use std::env;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::panic;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, Rlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use access::Keeper;
use args::Args;
use board::Board;
use certs::Folder;
use cgroup::Tree;
use daemon::{About, Daemon};
use home::Home;
use layout::Layout;
use runtime::Runtimes;
use settings::{Listen, Settings};
use users::Users;

use crate::error::{Context, Error, Kind, Result};
use crate::proto::name::AppId;
use crate::proto::paths;
use crate::proto::target::Target;
use crate::{logger, proxy, sys};

/// How long requests in flight may take to finish when the daemon stops.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Fewer descriptors than this are soon used up: a connection takes two.
const FEW_DESCRIPTORS: u64 = 8192;

pub(crate) fn main() -> ExitCode {
    match args::parse(env::args_os().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&e);
            ExitCode::from(if e.kind() == Kind::Usage { 2 } else { 1 })
        }
    }
}

fn run(args: Args) -> Result<()> {
    match args {
        Args::Help => say(args::HELP),
        Args::Version => say(concat!("tako-server ", env!("CARGO_PKG_VERSION"), "\n")),
        Args::Ctl { socket } => bridge::run(&socket.unwrap_or_else(paths::socket)),
        Args::Run(run) => serve(&Settings::of(*run)?),
    }
}

/// From start to stop.
fn serve(settings: &Settings) -> Result<()> {
    logger::start(log::LevelFilter::Info);
    guard_process();
    let signals = Signals::register()?;
    let layout = Arc::new(Layout::new(settings.data_dir.clone()));
    let home = Home::open(&layout)?;
    let users = Arc::new(Users::new(layout.clone(), settings.app_users));
    // Clients that come too early wait in its queue.
    let socket = control::Listener::bind(&settings.socket)?;
    incoming::tidy(&layout, SystemTime::now());
    runtime::lay_out_sdk(&layout)?;
    match users.shared() {
        None => owner::open_passages(&layout)?,
        Some(why) => log::warn!("{why}: they can reach each other's files and the server's"),
    }
    users.check()?;
    let tree = Tree::plant(layout.data());
    tell_missing(&tree);

    let http = listener::bind_all(&settings.http)?;
    let https = listener::bind_all(&settings.https)?;
    let about =
        About { target: Target::of_this_machine()?, http: listener::shown(&http), https: listener::shown(&https) };
    let (outlet, keeper) = match settings.access_log {
        true => access::start(layout.clone()).map(|(outlet, keeper)| (Some(outlet), Some(keeper)))?,
        false => (None, None),
    };
    let (proxy, notices) = proxy::start(proxy::Settings {
        https_port: https_port(settings, &https),
        http,
        https,
        workers: settings.workers,
        trusted_proxies: settings.trusted_proxies.clone(),
        limits: proxy::limits::Limits::DEFAULT,
        access: outlet,
    })?;
    let board = Board::start(Box::new(proxy), notices, Folder::open(layout.clone())?)?;
    if let Some(listen) = settings.metrics {
        tell_numbers(listen, board.clone(), keeper.as_ref())?;
    }
    let world = app::world(layout.clone(), board.clone(), users.clone(), tree.clone(), home.host_key.clone())?;
    let also = world.clone();
    let start = Box::new(move |id, desired| app::start(id, desired, &world));
    let clear = Box::new(move |id: &AppId| app::end_leftovers(id, &also));
    let runtimes = Arc::new(Runtimes::new(layout.clone(), about.target, settings.runtime_mirror.clone()));
    let daemon = Arc::new(Daemon::new(layout, board, users, runtimes, about, start, clear));

    let apps = daemon.boot()?;
    let control = socket.serve(daemon.clone())?;
    log::info!(
        "ready version={} pid={} apps={apps} http={} https={} data={} socket={}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        daemon.about.http.join(","),
        daemon.about.https.join(","),
        settings.data_dir.display(),
        settings.socket.display(),
    );
    notify::tell("READY=1");

    let why = signals.wait(settings.stop_with_stdin);
    log::info!("stopping because={why}");
    notify::tell("STOPPING=1");
    daemon.refuse_changes();
    control.stop();
    daemon.board.stop(Instant::now() + DRAIN_TIME);
    daemon.stop();
    tree.fell();
    if let Some(keeper) = keeper {
        keeper.finish();
    }
    log::info!("stopped");
    Ok(())
}

fn tell_numbers(listen: Listen, board: Board, keeper: Option<&Keeper>) -> Result<()> {
    let lost = keeper.map(Keeper::lost).unwrap_or_default();
    for listener in listener::bind_all(&[listen])? {
        let (board, lost) = (board.clone(), lost.clone());
        let page = move || Some(metrics::page(&board.metrics()?, lost.load(Ordering::Relaxed)));
        log::info!("metrics at {}", listener::shown(std::slice::from_ref(&listener)).join(","));
        scrape::serve(listener, Box::new(page))?;
    }
    Ok(())
}

/// What of the kernel's groups this machine does not have, once; the status of an app says what it means for it.
fn tell_missing(tree: &Tree) {
    if let Some(why) = tree.missing() {
        return log::warn!("apps run without groups of the kernel: {why}");
    }
    let missing: Vec<&str> = cgroup::WANTED.into_iter().filter(|controller| !tree.keeps(controller)).collect();
    if !missing.is_empty() {
        log::warn!("cgroup v2 has no controller here for {}: limits are weaker", missing.join(", "));
    }
}

/// What holds for the whole process, set before there is a second thread.
fn guard_process() {
    // Files are for us and our group, whatever the shell that started us thinks.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    // A core would hold secrets in clear; that of an app would, too, and inherits this.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(e) = rustix::process::setrlimit(Resource::Core, none) {
        log::warn!("cannot switch core files off: {e}");
    }
    // Apps that run as our own user must not look at what we have in memory.
    if let Err(e) = sys::hide_memory() {
        log::warn!("cannot hide this program's memory from others of its user: {e}");
    }
    let descriptors = sys::raise_descriptor_limit();
    if descriptors < FEW_DESCRIPTORS {
        log::warn!("only {descriptors} descriptors are allowed (LimitNOFILE): connections will be refused under load");
    }
    abort_on_panic();
}

/// The proxy's workers catch what goes wrong in one connection's turn. Any other thread that panics leaves us half
/// alive, so all of it ends, and the service manager starts us clean.
fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("?");
        log::error!("bug: thread {name} panicked: {info}");
        if !name.starts_with("proxy-") {
            std::process::abort();
        }
    }));
}

/// The port that redirects name: what was asked for, else where we listen; 443 needs no naming.
fn https_port(settings: &Settings, https: &[Arc<TcpListener>]) -> Option<u16> {
    let listening = || https.first().and_then(|l| l.local_addr().ok()).map(|a| a.port());
    settings.https_port.or_else(listening).filter(|port| *port != 443)
}

/// SIGTERM and SIGINT as bytes on a pipe; from the second one on as the end of the process.
struct Signals {
    heard: [(i32, UnixStream); 2],
    armed: Arc<AtomicBool>,
}

impl Signals {
    fn register() -> Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        let one = |signal| {
            let (reader, writer) = UnixStream::pair()?;
            // In this order: the first signal finds it unarmed.
            flag::register_conditional_shutdown(signal, 1, armed.clone())?;
            low_level::pipe::register(signal, writer)?;
            Ok((signal, reader))
        };
        let heard: io::Result<_> = one(SIGTERM).and_then(|term| Ok([term, one(SIGINT)?]));
        Ok(Signals { heard: heard.context(|| "listen to signals".into())?, armed })
    }

    /// Until the first signal, or the end of stdin if that counts; its name.
    fn wait(&self, with_stdin: bool) -> &'static str {
        use rustix::event::{PollFd, PollFlags, poll};
        let stdin = io::stdin();
        loop {
            let [term, int] = &self.heard;
            let mut fds = vec![PollFd::new(&term.1, PollFlags::IN), PollFd::new(&int.1, PollFlags::IN)];
            if with_stdin {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
            if poll(&mut fds, None).is_err() {
                continue;
            }
            for (fd, (signal, stream)) in fds.iter().zip(&self.heard) {
                let mut stream = stream;
                if !fd.revents().is_empty() && stream.read(&mut [0]).is_ok() {
                    self.armed.store(true, Ordering::Relaxed);
                    return if *signal == SIGTERM { "TERM" } else { "INT" };
                }
            }
            let ended = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
            if ended && !matches!(stdin.lock().read(&mut [0; 64]), Ok(1..)) {
                return "stdin";
            }
        }
    }
}

fn say(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context(|| "write to stdout".into()),
        _ => Ok(()),
    }
}

/// On stderr, for whoever started us: a person, the service manager's log, or ssh.
fn complain(e: &Error) {
    let mut text = format!("tako-server: {e}\n");
    text.extend(e.detail().iter().map(|line| format!("  {line}\n")));
    text.extend(e.next_step().map(|hint| format!("hint: {hint}\n")));
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_name_the_port_only_when_it_is_not_the_usual_one() {
        let https =
            listener::bind_all(&[settings::Listen { addr: ([127, 0, 0, 1], 0).into(), optional: false }]).unwrap();
        let port = https[0].local_addr().unwrap().port();
        let settings = |https_port| Settings::of(args::Run { https_port, ..Default::default() }).unwrap();
        assert_eq!(https_port(&settings(None), &https), Some(port));
        assert_eq!(https_port(&settings(Some(443)), &https), None);
        assert_eq!(https_port(&settings(Some(8443)), &https), Some(8443));
    }
}
