//! A real `tako-server` under slow-client attacks (`slowhttptest`, 1,000 connections a mode) while a good client is
//! measured: it must not notice, and the server's memory must not grow beyond what the limits allow. Prints a table.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/http.rs"]
mod http;
#[path = "../it/sandbox.rs"]
mod sandbox;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::Client;
use sandbox::{Server, Sshd, User};

const CONNECTIONS: u64 = 1000;
/// So many must have been up at once, or it was no attack.
const ENOUGH: u64 = CONNECTIONS * 9 / 10;
/// Of ten thousand good requests, so many must be served.
const SERVED: u64 = 9990;
/// A thousand connections with two chunks each are 32 MiB; the rest is for the allocator, and for other machines.
const GROWTH_MIB: u64 = 192;
/// Between two requests of a good client.
const PAUSE: Duration = Duration::from_millis(4);
/// A good request that takes longer is not served, whatever comes of it.
const DUE: Duration = Duration::from_secs(5);

struct Mode {
    name: &'static str,
    path: &'static str,
    /// Seconds.
    lasts: u32,
    args: &'static [&'static str],
    /// Our limits end its connections before it does.
    cut: bool,
}

const MODES: [Mode; 4] = [
    // The head limit is 10 s.
    Mode { name: "slow heads (-H)", path: "/", lasts: 20, args: &["-H", "-i", "2"], cut: true },
    // A body has 30 s until it must have moved something.
    Mode {
        name: "slow body (-B)",
        path: "/length",
        lasts: 40,
        args: &["-B", "-i", "2", "-s", "100000", "-x", "10"],
        cut: true,
    },
    Mode {
        name: "ranges (-R)",
        path: "/",
        lasts: 10,
        args: &["-R", "-t", "HEAD", "-a", "10", "-b", "3000"],
        cut: false,
    },
    // As a body; 32 bytes every two seconds.
    Mode {
        name: "slow read (-X)",
        path: "/big?mb=4",
        lasts: 40,
        args: &["-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32"],
        cut: true,
    },
];

fn main() {
    if Command::new("slowhttptest").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("skipped: slowhttptest is not installed");
        return;
    }
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    let config = user.read("tako.toml").replace("\"shop.localhost\"", "\"localhost\"");
    user.write("tako.toml", &config);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    user.must(&["deploy", "--yes"]);

    println!(
        "{CONNECTIONS} connections a mode, one real server with 2 workers, loopback; good clients: one kept connection, one fresh each time"
    );
    println!(
        "{:<18} {:>6} {:>6} {:>8} {:>8} {:>9} {:>9} {:>20}",
        "", "peak", "cut", "requests", "failed", "p50 ms", "p99 ms", "RSS MiB before/max/after"
    );
    report("no attack", &server, 5, |_| {
        thread::sleep(Duration::from_secs(5));
        (0, 0)
    });
    let mut wrong = Vec::new();
    for mode in &MODES {
        let seen = report(mode.name, &server, mode.lasts, |http| attack(mode, http));
        if seen.peak < ENOUGH && mode.cut {
            wrong.push(format!("{}: only {} connections at once", mode.name, seen.peak));
        }
        if mode.cut && seen.cut < ENOUGH {
            wrong.push(format!("{}: only {} of them were cut off", mode.name, seen.cut));
        }
        if seen.served * 10_000 < seen.asked * SERVED {
            wrong.push(format!("{}: {} of {} good requests were served", mode.name, seen.served, seen.asked));
        }
        if seen.growth_mib > GROWTH_MIB {
            wrong.push(format!("{}: the server grew by {} MiB", mode.name, seen.growth_mib));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), server.log());
}

struct Seen {
    peak: u64,
    cut: u64,
    asked: u64,
    served: u64,
    growth_mib: u64,
}

/// Measures good clients and memory while `act` runs, and prints a row.
fn report(name: &str, server: &Server, lasts: u32, act: impl FnOnce(SocketAddr) -> (u64, u64)) -> Seen {
    let stop = Arc::new(AtomicBool::new(false));
    let pid = pid(server);
    let before = rss_mib(pid);
    let most = Arc::new(AtomicU64::new(before));
    let good: Vec<_> = [true, false].map(|keep| spawn_good(server.http, keep, stop.clone())).into();
    let (watching, seen_most) = (stop.clone(), most.clone());
    let watch = thread::spawn(move || {
        while !watching.load(Ordering::Relaxed) {
            seen_most.fetch_max(rss_mib(pid), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
        }
    });
    let (peak, cut) = act(server.http);
    stop.store(true, Ordering::Relaxed);
    let mut times: Vec<Option<Duration>> = good.into_iter().flat_map(|t| t.join().unwrap()).collect();
    watch.join().unwrap();
    let asked = times.len() as u64;
    assert!(asked > u64::from(lasts) * 20, "{name}: only {asked} good requests in {lasts} s");
    times.retain(Option::is_some);
    times.sort();
    let served = times.len() as u64;
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].unwrap().as_secs_f64() * 1000.0;
    let (after, most) = (rss_mib(pid), most.load(Ordering::Relaxed));
    println!(
        "{name:<18} {peak:>6} {cut:>6} {asked:>8} {:>8} {:>9.2} {:>9.2} {:>20}",
        asked - served,
        at(50),
        at(99),
        format!("{before} / {most} / {after}")
    );
    Seen { peak, cut, asked, served, growth_mib: most.saturating_sub(before) }
}

/// Asks until `stop`; how long each answer took, if it was one.
fn spawn_good(http: SocketAddr, keep: bool, stop: Arc<AtomicBool>) -> thread::JoinHandle<Vec<Option<Duration>>> {
    thread::spawn(move || {
        let (mut times, mut client) = (Vec::new(), None);
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let open = client.take().map_or_else(|| Client::plain(http, "localhost"), Ok);
            let answer = open.and_then(|mut client| Ok((client.get("/")?, client)));
            let took = asked.elapsed();
            let served = answer.as_ref().is_ok_and(|(response, _)| response.status == 200) && took < DUE;
            times.push(served.then_some(took));
            client = answer.ok().map(|(_, client)| client).filter(|client| keep && !client.closed);
            thread::sleep(PAUSE);
        }
        times
    })
}

/// Runs one mode; how many connections were up at once, and how many had been closed at the end.
fn attack(mode: &Mode, http: SocketAddr) -> (u64, u64) {
    let output = Command::new("slowhttptest")
        .args(mode.args)
        .args(["-c", &CONNECTIONS.to_string(), "-r", "500", "-p", "5", "-v", "2"])
        .args(["-l", &mode.lasts.to_string(), "-u", &format!("http://localhost:{}{}", http.port(), mode.path)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = without_colours(&String::from_utf8_lossy(&output.stdout));
    let most = |word: &str| -> u64 {
        let counts = said.lines().filter_map(|line| line.trim().strip_prefix(word)?.trim().parse().ok());
        counts.max().unwrap_or_else(|| panic!("slowhttptest said: {said}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let peak = most("connected:");
    // It says how it stands every five seconds, and ends before that when all its connections are gone.
    let cut = if said.contains("No open connections left") { peak } else { most("closed:") };
    (peak, cut)
}

/// Without the terminal's escape sequences, each of which ends with an `m`.
fn without_colours(said: &str) -> String {
    let mut parts = said.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

fn pid(server: &Server) -> u32 {
    let log = server.log();
    let pid = log.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next());
    pid.unwrap_or_else(|| panic!("no pid in {log}")).parse().unwrap()
}

fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
