//! Steady mixed load that forgives nothing: every request must be answered by 200, and versions must never go back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{Client, Response};
use crate::sandbox::wait_for;

/// Between two requests of one client: enough load to meet every moment of a swap, and not the whole machine.
const PAUSE: Duration = Duration::from_millis(2);

/// One answered request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub started: Instant,
    pub ended: Instant,
    pub version: String,
}

/// What happened while the load ran.
#[derive(Debug, Default)]
pub struct Tally {
    pub answers: Vec<Answer>,
    pub failures: Vec<String>,
}

pub struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

#[derive(Clone, Copy)]
enum Kind {
    KeepAliveGet,
    FreshGet,
    KeepAlivePost,
    FreshPost,
    ChunkedPost,
    TlsGet,
    FreshTlsGet,
    Slow,
}

impl Traffic {
    /// Starts one client of each kind against the app `mixed` behind `http` and `https`. When it returns each has asked
    /// once: what is live now has been asked, however little of the machine the clients get.
    pub fn start(http: SocketAddr, https: SocketAddr, host: &str) -> Traffic {
        use Kind::{ChunkedPost, FreshGet, FreshPost, FreshTlsGet, KeepAliveGet, KeepAlivePost, Slow, TlsGet};
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let kinds = [KeepAliveGet, FreshGet, KeepAlivePost, FreshPost, ChunkedPost, TlsGet, FreshTlsGet, Slow];
        let clients: Vec<_> = kinds
            .into_iter()
            .map(|kind| {
                let (stop, begun, host) = (stop.clone(), begun.clone(), host.to_string());
                thread::spawn(move || run(kind, http, https, &host, &stop, &begun))
            })
            .collect();
        wait_for("each client to ask once", || (begun.load(Ordering::Relaxed) == clients.len()).then_some(()));
        Traffic { stop, clients }
    }

    /// Each client asks once more, so that what is live now has been asked, too.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let tally = client.join().expect("a client of the load panicked");
            all.answers.extend(tally.answers);
            all.failures.extend(tally.failures);
        }
        all
    }
}

impl Tally {
    /// Nothing failed, and once a version had answered in full no later request met an earlier one.
    pub fn assert_lossless(&self, versions: &[&str]) {
        assert!(
            self.failures.is_empty(),
            "{} failed, such as {:?}",
            self.failures.len(),
            &self.failures[..self.failures.len().min(5)]
        );
        let rank =
            |v: &str| versions.iter().position(|w| *w == v).unwrap_or_else(|| panic!("an unexpected version {v}"));
        let mut by_end: Vec<&Answer> = self.answers.iter().collect();
        by_end.sort_by_key(|a| a.ended);
        let mut by_start = by_end.clone();
        by_start.sort_by_key(|a| a.started);
        let (mut ended, mut newest) = (by_end.into_iter().peekable(), 0);
        for answer in by_start {
            while let Some(done) = ended.next_if(|done| done.ended < answer.started) {
                newest = newest.max(rank(&done.version));
            }
            assert!(rank(&answer.version) >= newest, "{} answered after {}", answer.version, versions[newest]);
        }
        for version in versions {
            assert!(self.answers.iter().any(|a| a.version == *version), "{version} never answered");
        }
    }
}

fn run(kind: Kind, http: SocketAddr, https: SocketAddr, host: &str, stop: &AtomicBool, begun: &AtomicUsize) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Client> = None;
    for turn in 0.. {
        let is_last = stop.load(Ordering::Relaxed);
        let started = Instant::now();
        match one(kind, http, https, host, &mut kept) {
            Ok(response) if response.status == 200 => {
                let version = response.header("x-version").unwrap_or("none").to_string();
                tally.answers.push(Answer { started, ended: Instant::now(), version });
            }
            Ok(response) => {
                tally.failures.push(format!("{}: {} {}", name(kind), response.status, response.text()));
                kept = None;
            }
            Err(e) => {
                tally.failures.push(format!("{}: {e}", name(kind)));
                kept = None;
            }
        }
        begun.fetch_add(usize::from(turn == 0), Ordering::Relaxed);
        if is_last {
            break;
        }
        thread::sleep(PAUSE);
    }
    tally
}

fn one(kind: Kind, http: SocketAddr, https: SocketAddr, host: &str, kept: &mut Option<Client>) -> io::Result<Response> {
    let fresh = matches!(kind, Kind::FreshGet | Kind::FreshPost | Kind::FreshTlsGet);
    let tls = matches!(kind, Kind::TlsGet | Kind::FreshTlsGet);
    let mut client = match kept.take() {
        // A connection that was announced to end is not used again: that is no failure of anybody.
        Some(client) if !fresh && !client.closed => client,
        _ if tls => Client::tls(https, host)?,
        _ => Client::plain(http, host)?,
    };
    let body = vec![b'x'; 3000];
    let response = match kind {
        Kind::KeepAliveGet | Kind::FreshGet | Kind::TlsGet | Kind::FreshTlsGet => client.get("/")?,
        Kind::Slow => client.get("/slow?ms=150")?,
        Kind::KeepAlivePost | Kind::FreshPost => client.request("POST", "/echo", Some(&body))?,
        Kind::ChunkedPost => client.post_chunked("/echo", &body, 700)?,
    };
    if matches!(kind, Kind::KeepAlivePost | Kind::FreshPost | Kind::ChunkedPost) && response.body != body {
        return Err(io::Error::other(format!("{} bytes came back of {}", response.body.len(), body.len())));
    }
    *kept = Some(client);
    Ok(response)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::KeepAliveGet => "keep-alive GET",
        Kind::FreshGet => "GET on a new connection",
        Kind::KeepAlivePost => "keep-alive POST",
        Kind::FreshPost => "POST on a new connection",
        Kind::ChunkedPost => "chunked POST",
        Kind::TlsGet => "keep-alive GET over TLS",
        Kind::FreshTlsGet => "GET over a new TLS connection",
        Kind::Slow => "a slow GET",
    }
}
