//! Steady requests while something is deployed: what a user's browser would have seen.
//!
//! Plain HTTP/1.1 (RFC 9112) over the private port, as a TLS-ending forwarder on this machine would send it. A request
//! counts as failed when there is no complete response, or another status than before the deploy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Kind, Result};

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(2);
/// A response that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_LINE: u64 = 64 << 10;
const MAX_HEADERS: usize = 256;
/// A larger page says nothing more about a deploy.
const MAX_BODY: u64 = 64 << 20;

/// Where requests go, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
}

/// What came of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub sent: u64,
    pub failed: u64,
    /// In words.
    pub first_failure: Option<String>,
}

pub(super) struct Traffic {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
    /// Which kinds of requests are sent.
    pub kinds: Vec<&'static str>,
}

/// What all clients write down.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
    first_failure: OnceLock<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manner {
    name: &'static str,
    post: bool,
    keep_alive: bool,
}

const MANNERS: [Manner; 4] = [
    Manner { name: "GET keep-alive", post: false, keep_alive: true },
    Manner { name: "GET keep-alive", post: false, keep_alive: true },
    Manner { name: "GET new connection", post: false, keep_alive: false },
    Manner { name: "POST keep-alive", post: true, keep_alive: true },
];

impl Traffic {
    /// Asks once in each manner to learn what the app answers, then starts a client per manner.
    ///
    /// # Errors
    /// Refused when the app does not even answer a GET.
    pub fn start(target: &Target) -> Result<Traffic> {
        let mut traffic = Traffic { tally: Arc::default(), clients: Vec::new(), kinds: Vec::new() };
        for manner in MANNERS {
            let status = match Client::new(target, manner).request() {
                // An app that takes no POST is not asked to.
                Err(_) | Ok(500..) if manner.post => continue,
                Ok(status @ 500..) => {
                    let message = format!("GET http://{}{} answers {status}", target.host, target.path);
                    return Err(Error::new(Kind::Refused, message).hint("traffic needs a page that works"));
                }
                status => status.context(|| format!("GET http://{}{}", target.host, target.path))?,
            };
            let (tally, target) = (traffic.tally.clone(), target.clone());
            traffic.clients.push(thread::spawn(move || send(&target, manner, status, &tally)));
            if !traffic.kinds.contains(&manner.name) {
                traffic.kinds.push(manner.name);
            }
        }
        Ok(traffic)
    }

    pub fn finish(mut self) -> Count {
        self.tally.stop.store(true, Ordering::Relaxed);
        // A client that panicked has stopped counting, and its request is one that did not succeed.
        let broken = self.clients.drain(..).filter_map(|client| client.join().err()).count() as u64;
        Count {
            sent: self.tally.sent.load(Ordering::Relaxed),
            failed: self.tally.failed.load(Ordering::Relaxed) + broken,
            first_failure: self.tally.first_failure.get().cloned(),
        }
    }
}

/// Clients must not outlive the rehearsal, however it ends.
impl Drop for Traffic {
    fn drop(&mut self) {
        self.tally.stop.store(true, Ordering::Relaxed);
    }
}

fn send(target: &Target, manner: Manner, expected: u16, tally: &Tally) {
    let mut client = Client::new(target, manner);
    let start = Instant::now();
    while !tally.stop.load(Ordering::Relaxed) {
        let failure = match client.request() {
            Ok(status) if status == expected => None,
            Ok(status) => Some(format!("status {status} instead of {expected}")),
            Err(e) => Some(e.to_string()),
        };
        if let Some(failure) = failure {
            let at = start.elapsed().as_millis();
            tally.first_failure.get_or_init(|| format!("{} after {at} ms: {failure}", manner.name));
            tally.failed.fetch_add(1, Ordering::Relaxed);
        }
        tally.sent.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// One client and its connection.
struct Client<'a> {
    target: &'a Target,
    manner: Manner,
    connection: Option<BufReader<TcpStream>>,
}

impl<'a> Client<'a> {
    fn new(target: &'a Target, manner: Manner) -> Client<'a> {
        Client { target, manner, connection: None }
    }

    /// The status of one complete response. There is no second try, not even on an idle connection that was closed:
    /// that is a failure its user would see.
    fn request(&mut self) -> Result<u16> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().context(|| "connect".into())?,
        };
        let Target { host, path, .. } = self.target;
        let method = if self.manner.post { "POST" } else { "GET" };
        let body = if self.manner.post { "rehearsal=1" } else { "" };
        let close = if self.manner.keep_alive { "" } else { "Connection: close\r\n" };
        let length = if self.manner.post {
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len())
        } else {
            String::new()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tako-rehearse\r\nX-Forwarded-Proto: https\r\n\
             Accept: */*\r\n{length}{close}\r\n{body}"
        );
        connection.get_mut().write_all(head.as_bytes()).context(|| "send the request".into())?;
        let response = read_response(&mut connection)?;
        if response.keep_alive && self.manner.keep_alive {
            self.connection = Some(connection);
        }
        Ok(response.status)
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.target.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    keep_alive: bool,
}

/// Reads one response to its end (RFC 9112 §6.3).
fn read_response(stream: &mut impl BufRead) -> Result<Response> {
    loop {
        let response = read_one(stream)?;
        // 1xx comes before the one that counts; nothing of ours asks for 101.
        if !(100..200).contains(&response.status) {
            return Ok(response);
        }
    }
}

fn read_one(stream: &mut impl BufRead) -> Result<Response> {
    let line = read_line(stream)?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let status: u16 = status.ok_or_else(|| bad("no status line"))?;
    let (mut length, mut chunked, mut keep_alive) = (None, false, line.starts_with("HTTP/1.1"));
    for count in 0.. {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        if count == MAX_HEADERS {
            return Err(bad("too many headers"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse::<u64>().map_err(|_| bad("a length that is no number"))?),
            "transfer-encoding" => chunked = value.to_ascii_lowercase().ends_with("chunked"),
            "connection" if value.eq_ignore_ascii_case("close") => keep_alive = false,
            _ => {}
        }
    }
    match (status, chunked, length) {
        (100..200 | 204 | 304, _, _) => {}
        (_, true, _) => read_chunks(stream)?,
        (_, false, Some(length)) => skip(stream, length)?,
        (_, false, None) => {
            keep_alive = false;
            std::io::copy(&mut stream.take(MAX_BODY), &mut std::io::sink()).context(|| "read the body".into())?;
        }
    }
    Ok(Response { status, keep_alive })
}

fn read_chunks(stream: &mut impl BufRead) -> Result<()> {
    let mut total = 0;
    loop {
        let line = read_line(stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("a chunk without a size"))?;
        total += size.min(MAX_BODY + 1);
        if total > MAX_BODY {
            return Err(bad("a body without an end"));
        }
        if size == 0 {
            // Trailers, up to the empty line.
            for _ in 0..MAX_HEADERS {
                if read_line(stream)?.is_empty() {
                    return Ok(());
                }
            }
            return Err(bad("too many trailers"));
        }
        skip(stream, size)?;
        if !read_line(stream)?.is_empty() {
            return Err(bad("a chunk that is too long"));
        }
    }
}

fn skip(stream: &mut impl BufRead, length: u64) -> Result<()> {
    if length > MAX_BODY {
        return Err(bad("a body without an end"));
    }
    let read = std::io::copy(&mut stream.take(length), &mut std::io::sink()).context(|| "read the body".into())?;
    match read == length {
        true => Ok(()),
        false => Err(bad("the connection ended within the body")),
    }
}

fn read_line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line).context(|| "read the response".into())?;
    match line.strip_suffix(b"\n") {
        Some(line) => Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()),
        None if line.is_empty() => Err(bad("the connection was closed without a response")),
        None => Err(bad("the connection ended within the head")),
    }
}

fn bad(what: &str) -> Error {
    Error::new(Kind::Refused, what)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn reads_a_response_to_its_end_and_no_further() {
        let check = |text: &str, status, keep_alive, rest: &str| {
            let mut stream = text.as_bytes();
            assert_eq!(read_response(&mut stream).unwrap(), Response { status, keep_alive }, "{text:?}");
            assert_eq!(stream, rest.as_bytes(), "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiX", 200, true, "X");
        check("HTTP/1.1 204 No Content\r\n\r\nX", 204, true, "X");
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nX", 304, true, "X");
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\nX",
            200,
            true,
            "X",
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            200,
            false,
            "",
        );
        check("HTTP/1.0 200 OK\r\n\r\nall of it", 200, false, "");
    }

    #[test]
    fn a_response_that_is_cut_short_is_a_failure_wherever_it_is_cut() {
        let whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for end in 0..whole.len() {
            assert!(read_response(&mut &whole.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..whole.len() {
            assert!(read_response(&mut &whole.as_bytes()[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn nothing_endless_is_read() {
        for start in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"]
        {
            let mut stream = BufReader::new(start.as_bytes().chain(std::io::repeat(b'x')));
            assert!(read_response(&mut stream).is_err(), "{start:?}");
        }
    }

    /// Answers `status`, and after `good` requests closes each connection instead.
    fn server(good: usize, status: &'static str) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(std::sync::atomic::AtomicUsize::new(good));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let left = left.clone();
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let mut length = 0;
                    while let Ok(line) = read_line(&mut stream) {
                        if let Some(n) = line.strip_prefix("Content-Length: ") {
                            length = n.parse().unwrap();
                        }
                        if line.is_empty() {
                            let spent =
                                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err();
                            if spent || skip(&mut stream, length).is_err() {
                                return;
                            }
                            length = 0;
                            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
                            let _ = stream.get_mut().write_all(answer.as_bytes());
                        }
                    }
                });
            }
        });
        Target { address, host: "shop.localhost".into(), path: "/".into() }
    }

    /// Waits until `done` says so of the requests sent and failed.
    fn wait_until(traffic: &Traffic, done: impl Fn(u64, u64) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        let tally = &traffic.tally;
        while !done(tally.sent.load(Ordering::Relaxed), tally.failed.load(Ordering::Relaxed)) {
            assert!(Instant::now() < until, "the clients do not get on");
            thread::yield_now();
        }
    }

    #[test]
    fn counts_every_request_and_those_that_failed() {
        let traffic = Traffic::start(&server(usize::MAX, "200 OK")).unwrap();
        assert_eq!(traffic.kinds, ["GET keep-alive", "GET new connection", "POST keep-alive"]);
        wait_until(&traffic, |sent, _| sent >= 40);
        let count = traffic.finish();
        assert!(count.sent >= 40, "{count:?}");
        assert_eq!((count.failed, count.first_failure), (0, None));

        let traffic = Traffic::start(&server(20, "200 OK")).unwrap();
        wait_until(&traffic, |sent, failed| sent > failed && failed >= 1);
        let count = traffic.finish();
        assert!(count.failed >= 1 && count.sent > count.failed && count.first_failure.is_some(), "{count:?}");
    }

    #[test]
    fn an_app_that_does_not_work_gets_no_traffic() {
        assert_eq!(Traffic::start(&server(usize::MAX, "500 Oops")).err().unwrap().kind(), Kind::Refused);
        assert!(Traffic::start(&server(0, "200 OK")).is_err());
    }
}
