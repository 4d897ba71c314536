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
/// And so many may be left when it ends, those of the good clients among them.
const HELD: u64 = CONNECTIONS / 10;
/// Between two looks at the server.
const TICK: Duration = Duration::from_millis(50);
/// Looks, so half a second.
const BEFORE_THE_END: usize = 10;
/// Of ten thousand good requests, so many must be served.
const SERVED: u64 = 9990;
/// A thousand connections with two chunks each are 32 MiB; the rest is for the allocator, and for other machines.
const GROWTH_MIB: u64 = 192;
/// Between two requests of a good client.
const PAUSE: Duration = Duration::from_millis(4);
/// A good request that takes longer is not served, whatever comes of it.
const DUE: Duration = Duration::from_secs(5);

/// Good requests in five seconds of peace: with that pause between theirs, two clients make some 2,000 where nobody else is at
/// work, and 225 were seen where the host took nearly half of the time.
const PEACEFUL: u64 = 500;

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
    // So has a reader, from when it does not take what waits for it.
    Mode {
        name: "slow read (-X)",
        path: "/big?mb=1",
        lasts: 45,
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
        "", "peak", "held", "requests", "failed", "p50 ms", "p99 ms", "RSS MiB before/max/after"
    );
    let peace = report("no attack", &server, |_| {
        thread::sleep(Duration::from_secs(5));
        (0, true)
    });
    // The attacker needs a processor, too, to open its connections and to see in time that they were ended.
    let can_attack = peace.asked >= PEACEFUL;
    if !can_attack {
        println!(
            "how many connections there were is not judged: this machine answers {} requests in 5 s without an attack, of {PEACEFUL} at least",
            peace.asked
        );
    }
    let mut wrong = Vec::new();
    for mode in &MODES {
        let seen = report(mode.name, &server, |http| attack(mode, http));
        if seen.peak < ENOUGH && mode.cut && can_attack {
            wrong.push(format!("{}: only {} connections at once", mode.name, seen.peak));
        }
        if mode.cut && seen.held > HELD && can_attack {
            wrong.push(format!("{}: {} connections were held to the end", mode.name, seen.held));
        }
        if seen.served * 10_000 < seen.asked * SERVED {
            wrong.push(format!(
                "{}: {} of {} good requests were served: {:?}",
                mode.name, seen.served, seen.asked, seen.failures
            ));
        }
        if seen.growth_mib > GROWTH_MIB {
            wrong.push(format!("{}: the server grew by {} MiB", mode.name, seen.growth_mib));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), server.log());
}

struct Seen {
    /// The attacker's connections at once, as it says.
    peak: u64,
    /// What the server still held of them when the attack ended, as descriptors.
    held: u64,
    asked: u64,
    served: u64,
    /// What came of some of the others.
    failures: Vec<String>,
    growth_mib: u64,
}

/// Measures good clients and memory while `act` runs, and prints a row.
fn report(name: &str, server: &Server, act: impl FnOnce(SocketAddr) -> (u64, bool)) -> Seen {
    let stop = Arc::new(AtomicBool::new(false));
    let pid = pid(server);
    let (before, quiet) = (rss_mib(pid), descriptors(pid));
    let most = Arc::new(AtomicU64::new(before));
    let good: Vec<_> = [true, false].map(|keep| spawn_good(server.http, keep, stop.clone())).into();
    let (watching, seen_most) = (stop.clone(), most.clone());
    let watch = thread::spawn(move || {
        let mut open = Vec::new();
        while !watching.load(Ordering::Relaxed) {
            seen_most.fetch_max(rss_mib(pid), Ordering::Relaxed);
            open.push(descriptors(pid));
            thread::sleep(TICK);
        }
        open
    });
    let began = Instant::now();
    let (peak, all_gone) = act(server.http);
    // An attack that is turned away ends before its time.
    let lasted = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let answers: Vec<Result<Duration, String>> = good.into_iter().flat_map(|t| t.join().unwrap()).collect();
    let open = watch.join().unwrap();
    // Shortly before the attack ended: from then on it is the attacker who closes.
    let last = open[open.len().saturating_sub(BEFORE_THE_END)].saturating_sub(quiet);
    let held = if all_gone { 0 } else { last };
    let asked = answers.len() as u64;
    assert!(asked as f64 > lasted * 20.0, "{name}: only {asked} good requests in {lasted:.1} s");
    let failures = answers.iter().filter_map(|answer| answer.clone().err()).take(5).collect();
    let mut times: Vec<Duration> = answers.into_iter().flatten().collect();
    times.sort();
    let served = times.len() as u64;
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1000.0;
    let (after, most) = (rss_mib(pid), most.load(Ordering::Relaxed));
    println!(
        "{name:<18} {peak:>6} {held:>6} {asked:>8} {:>8} {:>9.2} {:>9.2} {:>20}",
        asked - served,
        at(50),
        at(99),
        format!("{before} / {most} / {after}")
    );
    Seen { peak, held, asked, served, failures, growth_mib: most.saturating_sub(before) }
}

/// Asks until `stop`; how long each answer took, or what came instead.
fn spawn_good(
    http: SocketAddr,
    keep: bool,
    stop: Arc<AtomicBool>,
) -> thread::JoinHandle<Vec<Result<Duration, String>>> {
    thread::spawn(move || {
        let (mut times, mut client) = (Vec::new(), None);
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let open = client.take().map_or_else(|| Client::plain(http, "localhost"), Ok);
            let answer = open.and_then(|mut client| Ok((client.get("/")?, client)));
            let took = asked.elapsed();
            times.push(match &answer {
                Ok((response, _)) if response.status == 200 && took < DUE => Ok(took),
                Ok((response, _)) => Err(format!("{} {:?} after {took:?}", response.status, response.text())),
                Err(e) => Err(format!("{e} after {took:?}, kept={keep}")),
            });
            client = answer.ok().map(|(_, client)| client).filter(|client| keep && !client.closed);
            thread::sleep(PAUSE);
        }
        times
    })
}

/// Runs one mode; how many connections were up at once, and whether it gave up because none was left.
fn attack(mode: &Mode, http: SocketAddr) -> (u64, bool) {
    let output = Command::new("slowhttptest")
        .args(mode.args)
        .args(["-c", &CONNECTIONS.to_string(), "-r", "500", "-p", "5", "-v", "2"])
        .args(["-l", &mode.lasts.to_string(), "-u", &format!("http://localhost:{}{}", http.port(), mode.path)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = without_colours(&String::from_utf8_lossy(&output.stdout));
    let counts = said.lines().filter_map(|line| line.trim().strip_prefix("connected:")?.trim().parse().ok());
    let peak = counts.max();
    let peak = peak.unwrap_or_else(|| panic!("slowhttptest said: {said}{}", String::from_utf8_lossy(&output.stderr)));
    (peak, said.contains("No open connections left"))
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

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
