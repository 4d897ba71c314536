//! Deploys in a row under an open-loop load: no request fails, no request meets a release that was replaced before it was
//! sent, and when all is over the server is as small as it was.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::figures::Figures;
use crate::http::Client;
use crate::sandbox::Server;
use crate::small::Small;

/// Its name is in no other test, so that what is named after it is ours.
const APP: &str = "manydeploys";
const HOST: &str = "manydeploys.localhost";
/// Before anything is compared: releases are kept up to a number, and memory is taken that will be used again.
const WARM: u32 = 14;
/// The live one, the one before it, and ten that are younger than 30 days.
const RELEASES: usize = 12;
/// From when figures are told first to the end. Threads that come and go leave pages with the allocator's arenas, half a
/// MiB at a time, until each has some; over 1,200 deploys that was 160 KiB more. More than this is growth.
const GROWTH_KIB: u64 = 2 << 10;
/// Longer than an idle link to an instance is kept, and than it takes to look for such links.
const LINKS: Duration = Duration::from_secs(8);
/// What is left of a deploy goes at once, or with the links; a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(90);
/// Threads of the load, each of which waits for its answers: more than are ever waiting at once.
const CLIENTS: u32 = 20;

pub struct Plan {
    /// After the first few, which nothing is compared with.
    pub deploys: u32,
    pub instances: u32,
    /// Requests per second.
    pub rate: u32,
    /// Figures are told after so many deploys.
    pub every: u32,
}

/// Runs the plan and gives its lines to `say`.
pub fn run(plan: &Plan, say: &mut dyn FnMut(String)) {
    let server = Server::start();
    let small = Small::compile();
    let deploy = |n: u32| {
        let began = Instant::now();
        small.deploy(&server, APP, &format!("v{n}"), plan.instances);
        began.elapsed()
    };
    deploy(1);
    // What is opened once and kept is there from the first request on.
    one(server.http, &mut None, false, false, 1).unwrap();
    let quiet = Left::lowest(&server);
    let load = Load::start(server.http, plan.rate);
    (2..=WARM).for_each(|n| {
        deploy(n);
        load.live.store(n, Ordering::Release);
    });
    say(format!(
        "{} deploys of {} instance(s), {} requests/s, GET and POST, kept and new connections",
        plan.deploys, plan.instances, plan.rate
    ));
    say(format!(
        "{:>8} {:>9} {:>7} {:>9} {:>7} {:>8} {:>8} {:>9} {:>9} {:>10}",
        "deploys", "requests", "failed", "RSS KiB", "fds", "threads", "children", "zombies", "releases", "state B"
    ));
    let warm = Left::of(&server);
    say(warm.line(0, &load));
    let (mut took, mut reference) = (Vec::new(), None);
    for n in WARM + 1..=WARM + plan.deploys {
        took.push(deploy(n));
        load.live.store(n, Ordering::Release);
        if (n - WARM).is_multiple_of(plan.every) {
            let left = Left::of(&server);
            say(left.line(n - WARM, &load));
            reference.get_or_insert(left.figures.rss_kib);
        }
    }
    let tally = load.stop();
    let left = Left::quiet(&server, plan, &quiet);
    say(format!("{:>8} {left:?}", "after"));
    say(format!("{:>8} {quiet:?}", "before"));
    say(format!("one deploy, milliseconds: {}", spread(&mut took)));
    let mut times: Vec<Duration> = tally.iter().flat_map(|t| t.times.iter().copied()).collect();
    say(format!("{} answers, from when each was due, milliseconds: {}", times.len(), spread(&mut times)));

    let failures: Vec<&String> = tally.iter().flat_map(|t| &t.failures).collect();
    assert!(
        failures.is_empty(),
        "{} failed, such as {:?}\n{}",
        failures.len(),
        &failures[..failures.len().min(5)],
        server.log()
    );
    let reference = reference.expect("figures were told at least once");
    assert!(left.figures.rss_kib <= reference + GROWTH_KIB, "memory grew from {reference} KiB: {left:?}");
    // Versions have grown by a digit or two.
    assert!(left.state <= warm.state + 16 * RELEASES as u64, "the state grew: {warm:?} to {left:?}");
    assert!(left.releases == RELEASES.min(1 + (WARM + plan.deploys) as usize), "releases are not pruned: {left:?}");
    assert_eq!(server.current(APP), Some(format!("v{}", WARM + plan.deploys)));
}

/// What is there of the server and of the app.
#[derive(Debug)]
struct Left {
    figures: Figures,
    releases: usize,
    cgroups: usize,
    uploads: usize,
    state: u64,
}

impl Left {
    fn of(server: &Server) -> Left {
        Left {
            figures: Figures::of(server.pid()),
            releases: server.releases(APP).len(),
            cgroups: named(Path::new("/sys/fs/cgroup"), 8),
            uploads: fs::read_dir(server.data().join("incoming")).unwrap().count(),
            state: fs::metadata(server.app(APP).join("state.json")).map_or(0, |state| state.len()),
        }
    }

    /// With no link open: the least that was seen while they close.
    fn lowest(server: &Server) -> Left {
        let began = Instant::now();
        let looks = std::iter::from_fn(|| {
            thread::sleep(Duration::from_millis(50));
            (began.elapsed() < LINKS).then(|| Left::of(server))
        });
        looks.min_by_key(|left| left.figures.descriptors).expect("there is time for more than one look")
    }

    /// Once the old instances have gone, and links to them and to clients: then nothing is more than `before`, but for the
    /// connection to each instance that the probe keeps for a while.
    fn quiet(server: &Server, plan: &Plan, before: &Left) -> Left {
        let began = Instant::now();
        loop {
            let left = Left::of(server);
            let (now, then) = (left.figures, before.figures);
            let gone = now.children == plan.instances as usize && now.zombies == 0 && left.uploads == 0;
            if gone
                && now.descriptors <= then.descriptors + plan.instances as usize
                && now.threads <= then.threads
                && left.cgroups <= before.cgroups
            {
                return left;
            }
            assert!(began.elapsed() < PATIENCE, "not all is gone: {left:?} beside {before:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn line(&self, deploys: u32, load: &Load) -> String {
        let Figures { rss_kib, descriptors, threads, children, zombies } = self.figures;
        let (sent, failed) = (load.sent.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
        format!(
            "{deploys:>8} {sent:>9} {failed:>7} {rss_kib:>9} {descriptors:>7} {threads:>8} {children:>8} {zombies:>9} {:>9} {:>10}",
            self.releases, self.state
        )
    }
}

/// Groups below `dir` that are named after the app.
fn named(dir: &Path, depth: u32) -> usize {
    let below = fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    below
        .map(|entry| {
            let own = usize::from(entry.file_name().to_string_lossy().contains(APP));
            own + if depth == 0 { 0 } else { named(&entry.path(), depth - 1) }
        })
        .sum()
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: usize| {
        times.get((times.len() * share / 100).min(times.len() - 1)).map_or(0.0, |t| t.as_secs_f64() * 1000.0)
    };
    format!("min {:.1}, median {:.1}, p99 {:.1}, max {:.1}", at(0), at(50), at(99), at(100))
}

/// Requests at fixed times, whatever becomes of those before: a stall makes the next ones late, never fewer.
struct Load {
    stop: Arc<AtomicBool>,
    /// The version whose deploy was answered last.
    live: Arc<AtomicU32>,
    sent: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
    clients: Vec<JoinHandle<Tally>>,
}

#[derive(Default)]
struct Tally {
    times: Vec<Duration>,
    failures: Vec<String>,
}

impl Load {
    fn start(http: SocketAddr, rate: u32) -> Load {
        let (stop, live): (Arc<AtomicBool>, Arc<AtomicU32>) = (Arc::default(), Arc::new(AtomicU32::new(1)));
        let (sent, failed): (Arc<AtomicU32>, Arc<AtomicU32>) = Default::default();
        let (began, between) = (Instant::now(), Duration::from_secs(u64::from(CLIENTS)) / rate);
        let clients = (0..CLIENTS)
            .map(|n| {
                let first = began + between * n / CLIENTS;
                let (stop, live, sent, failed) = (stop.clone(), live.clone(), sent.clone(), failed.clone());
                thread::spawn(move || {
                    let (keep, post) = (n % 2 == 0, n % 4 < 2);
                    let (mut kept, mut tally) = (None, Tally::default());
                    for turn in 0.. {
                        let due = first + between * turn;
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        sent.fetch_add(1, Ordering::Relaxed);
                        let least = live.load(Ordering::Acquire);
                        match one(http, &mut kept, keep, post, least) {
                            Ok(()) => tally.times.push(due.elapsed()),
                            Err(why) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                                tally
                                    .failures
                                    .push(format!("keep={keep} post={post} after {:?}: {why}", due.elapsed()));
                            }
                        }
                    }
                    tally
                })
            })
            .collect();
        Load { stop, live, sent, failed, clients }
    }

    fn stop(self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().unwrap()).collect()
    }
}

/// One request, which must be answered by version `least` or a later one.
fn one(http: SocketAddr, kept: &mut Option<Client>, keep: bool, post: bool, least: u32) -> Result<(), String> {
    // One that was announced to end is not used again: that is no failure of anybody.
    let mut client = match kept.take().filter(|client| !client.closed) {
        Some(client) => client,
        None => Client::plain(http, HOST).map_err(|e| format!("connect: {e}"))?,
    };
    let body = [b'x'; 700];
    let answer = if post { client.request("POST", "/echo", Some(&body)) } else { client.get("/") };
    let answer = answer.map_err(|e| e.to_string())?;
    let version = answer.header("x-version").and_then(|v| v.strip_prefix('v')?.parse::<u32>().ok());
    if answer.status != 200 || post && answer.body != body {
        return Err(format!("{} {}", answer.status, answer.text()));
    }
    if version.is_none_or(|version| version < least) {
        return Err(format!("version {version:?} after v{least} was live"));
    }
    *kept = keep.then_some(client);
    Ok(())
}

#[test]
#[allow(clippy::print_stdout)]
fn a_dozen_deploys_under_load_fail_no_request_and_leave_nothing_behind() {
    // Seen with `--nocapture`, or when it fails.
    run(&Plan { deploys: 12, instances: 2, rate: 200, every: 6 }, &mut |line| println!("{line}"));
}
