//! What the server takes while nobody asks anything: memory, threads, descriptors, processor time and wakes, by the number
//! of instances that it probes. Prints tables; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/figures.rs"]
mod figures;
#[path = "../it/http.rs"]
mod http;
#[path = "../it/sandbox.rs"]
mod sandbox;
#[path = "../it/small.rs"]
mod small;

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use figures::Figures;
use http::Client;
use sandbox::Server;
use small::Small;

/// Apps, and instances of each.
const ROWS: [(u32, u32); 6] = [(0, 0), (1, 1), (1, 50), (50, 1), (4, 50), (50, 4)];
/// What a deploy stirs up is over.
const SETTLE: Duration = Duration::from_secs(3);

fn main() {
    let watched = std::env::var("TAKO_IDLE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let watched = Duration::from_secs(watched);
    let small = Small::compile();
    println!("tako-server with 2 proxy workers, instances of tests/data/apps/small probed by GET /; {watched:?} each");
    println!(
        "{:>5} {:>10} {:>9} {:>8} {:>6} {:>9} {:>9}",
        "apps", "instances", "RSS MiB", "threads", "fds", "CPU %", "probes/s"
    );
    let threads: Vec<_> = ROWS.map(|(apps, each)| (apps, apps * each, row(&small, apps, each, watched))).into();
    println!("\nper second, by thread: wakes, and microseconds of processor time");
    let names: BTreeMap<&String, ()> = threads.iter().flat_map(|(.., work)| work.keys().map(|n| (n, ()))).collect();
    print!("{:>5} {:>10}", "apps", "instances");
    names.keys().for_each(|name| print!(" {name:>15}"));
    println!();
    for (apps, instances, work) in &threads {
        print!("{apps:>5} {instances:>10}");
        for name in names.keys() {
            let Work { ran, wakes } = work.get(*name).copied().unwrap_or_default();
            let per_second = |n: f64| n / watched.as_secs_f64();
            print!(" {:>15}", format!("{:.0} {:.0}", per_second(wakes as f64), per_second(ran.as_secs_f64() * 1e6)));
        }
        println!();
    }
}

fn row(small: &Small, apps: u32, each: u32, watched: Duration) -> BTreeMap<String, Work> {
    let server = Server::start();
    let ids: Vec<String> = (0..apps).map(|n| format!("app{n}")).collect();
    ids.iter().for_each(|id| drop(small.deploy(&server, id, "v1", each)));
    thread::sleep(SETTLE);
    let pid = server.pid();
    let (started, asked, before) = (Instant::now(), asked(&server, &ids), work(pid));
    thread::sleep(watched);
    let done = between(&before, &work(pid));
    let (took, figures) = (started.elapsed().as_secs_f64(), Figures::of(pid));
    // The second look is one request more for each.
    let probes = (self::asked(&server, &ids) - asked - u64::from(apps * each)) as f64 / took;
    let ran: Duration = done.values().map(|w| w.ran).sum();
    println!(
        "{apps:>5} {:>10} {:>9.1} {:>8} {:>6} {:>9.2} {probes:>9.0}",
        apps * each,
        figures.rss_kib as f64 / 1024.0,
        figures.threads,
        figures.descriptors,
        ran.as_secs_f64() / took * 100.0,
    );
    done
}

/// Requests that the instances have had: nobody but the probe asks them, except us here.
fn asked(server: &Server, ids: &[String]) -> u64 {
    let instances = |id: &String| server.status(id).unwrap()["instances"].as_array().unwrap().clone();
    let ports = ids.iter().flat_map(instances).map(|i| u16::try_from(i["port"].as_u64().unwrap()).unwrap());
    let ask = |port: u16| Client::plain(([127, 0, 0, 1], port).into(), "localhost").unwrap().get("/asked").unwrap();
    ports.map(|port| ask(port).text().parse::<u64>().unwrap()).sum()
}

/// Of all threads of one name: how long they ran since they began, and how often they were woken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Work {
    ran: Duration,
    wakes: u64,
}

/// What the threads did so far, by name; numbers in names are left out.
fn work(pid: u32) -> BTreeMap<String, Work> {
    let mut all: BTreeMap<String, Work> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // A thread may end between two looks.
        let read = |name: &str| fs::read_to_string(task.path().join(name)).ok();
        let (Some(name), Some(times), Some(status)) = (read("comm"), read("schedstat"), read("status")) else {
            continue;
        };
        let ran = times.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap();
        let wakes = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        let work = all.entry(name.trim().trim_end_matches(|c: char| c.is_ascii_digit()).into()).or_default();
        work.ran += Duration::from_nanos(ran);
        work.wakes += wakes.trim().parse::<u64>().unwrap();
    }
    all
}

/// What was done between two looks.
fn between(before: &BTreeMap<String, Work>, after: &BTreeMap<String, Work>) -> BTreeMap<String, Work> {
    let since = |(name, now): (&String, &Work)| {
        let then = before.get(name).copied().unwrap_or_default();
        let work = Work { ran: now.ran.saturating_sub(then.ran), wakes: now.wakes.saturating_sub(then.wakes) };
        (name.clone(), work)
    };
    after.iter().map(since).collect()
}
