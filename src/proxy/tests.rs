//! The data plane over real sockets: loopback, port 0, threads as endpoints and clients.

mod relaying;
mod failing;
mod swapping;
mod churning;
mod parking;
mod refusing;
mod tunnelling;
mod securing;
mod shaking;
mod stopping;
mod starving;
mod slowing;
mod crowding;
mod hoarding;
mod observing;
mod costing;
mod filing;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::certs::Certs;
use super::journal::Outlet;
use super::limits::Limits;
use super::table::{Endpoint, EndpointId, Standing, Table, Upstream};
use super::{Notice, Proxy, Settings, certs, start};
use crate::proto::route::Route;

/// Long enough for a busy machine, short enough to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running data plane.
struct World {
    proxy: Option<Proxy>,
    notices: Receiver<Notice>,
    http: SocketAddr,
    https: SocketAddr,
    certs: Arc<Certs>,
    challenges: Arc<HashMap<String, String>>,
    /// As the control plane keeps it, so that it outlives the proxy.
    listener: Arc<TcpListener>,
}

impl World {
    fn new() -> Self {
        World::with(Limits::DEFAULT, 2)
    }

    fn with(limits: Limits, workers: usize) -> Self {
        World::logging(limits, workers, None)
    }

    fn logging(limits: Limits, workers: usize, access: Option<Outlet>) -> Self {
        let bind = || Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let (http, https) = (bind(), bind());
        let mut by_name = HashMap::new();
        for name in ["app.test", "*.wild.test"] {
            by_name.insert(name.to_string(), certs::tests::key(name));
        }
        let proof = ("app.test/tok_en-1".to_string(), "tok_en-1.thumb".to_string());
        let challenges = Arc::new(HashMap::from([proof]));
        let certs = Arc::new(Certs { by_name, default: certs::tests::key("default.test") });
        let (http_at, https_at) = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let listener = http.clone();
        let settings = Settings {
            http: vec![http],
            https: vec![https],
            workers,
            https_port: Some(8443),
            trusted_proxies: vec![],
            limits,
            access,
        };
        let (proxy, notices) = start(settings).unwrap();
        World { proxy: Some(proxy), notices, http: http_at, https: https_at, certs, challenges, listener }
    }

    /// With one app at `app.test` on these endpoints.
    fn serving(limits: Limits, endpoints: &[Endpoint]) -> Self {
        let world = World::with(limits, 2);
        world.publish(endpoints);
        world
    }

    fn publish(&self, endpoints: &[Endpoint]) -> u64 {
        self.publish_limited(endpoints, 64 << 20)
    }

    fn publish_limited(&self, endpoints: &[Endpoint], body_limit: u64) -> u64 {
        self.publish_upstream(Upstream {
            name: "app".into(),
            endpoints: endpoints.to_vec(),
            standing: Standing::Awake,
            body_limit,
            assets: vec![],
        })
    }

    /// The one app as a table with it says.
    fn publish_upstream(&self, upstream: Upstream) -> u64 {
        let route = |r: &str| (Route::parse(r).unwrap(), 0);
        let table = Table {
            entries: vec![route("app.test"), route("*.wild.test"), route("app.example.com")],
            upstreams: vec![upstream],
            certs: self.certs.clone(),
            challenges: self.challenges.clone(),
        };
        self.proxy.as_ref().unwrap().publish(table)
    }

    fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// Waits for `wanted`; what else is heard before it is returned.
    fn hear(&self, wanted: &Notice) -> Vec<Notice> {
        let mut before = Vec::new();
        loop {
            match self.notices.recv_timeout(PATIENCE) {
                Ok(notice) if notice == *wanted => return before,
                Ok(notice) => before.push(notice),
                Err(_) => panic!("never heard {wanted:?}, only {before:?}"),
            }
        }
    }

    /// Connections of each worker.
    fn conns(&self) -> Vec<usize> {
        let loads = &self.proxy.as_ref().unwrap().shared.loads;
        loads.iter().map(|load| load.conns.load(Ordering::Relaxed)).collect()
    }

    /// Bytes that wait in chunks.
    fn bytes_waiting(&self) -> usize {
        let loads = &self.proxy.as_ref().unwrap().shared.loads;
        loads.iter().map(|load| load.waiting.load(Ordering::Relaxed)).sum()
    }

    fn stop(&mut self, within: Duration) {
        self.proxy.take().unwrap().stop(Instant::now() + within);
    }
}

/// A request as an endpoint sees it.
struct Seen {
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (n, v) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// A server that calls a handler per connection until dropped.
struct Origin {
    endpoint: Endpoint,
    conns: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

static NEXT_ENDPOINT: AtomicUsize = AtomicUsize::new(1);

fn endpoint_at(addr: SocketAddr) -> Endpoint {
    Endpoint { id: EndpointId(NEXT_ENDPOINT.fetch_add(1, Ordering::Relaxed) as u64), addr }
}

impl Origin {
    fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = endpoint_at(listener.local_addr().unwrap());
        let (conns, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (serve, count, stopped) = (Arc::new(serve), conns.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                // Where a test takes all descriptors there is none for the next connection either, for a while.
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::park_timeout(Duration::from_millis(1));
                    continue;
                };
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Origin { endpoint, conns, stop }
    }

    /// Answers each request with what `answer` says, keeping the connection.
    fn new(answer: impl Fn(Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Origin::raw(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some(seen) = read_request(&mut reader) {
                if stream.write_all(&answer(seen)).is_err() {
                    return;
                }
            }
        })
    }

    /// Says its name.
    fn named(name: &'static str) -> Self {
        Origin::new(move |_| ok(name.as_bytes()))
    }

    fn conns(&self) -> usize {
        self.conns.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.endpoint.addr);
    }
}

/// An address where nobody listens. The port is taken: a free one may be another test's at any moment.
struct Nobody {
    endpoint: Endpoint,
    _port: OwnedFd,
}

impl Nobody {
    fn new() -> Self {
        let port = tcp_socket();
        rustix::net::bind(&port, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let at = rustix::net::getsockname(&port).unwrap();
        Nobody { endpoint: endpoint_at(at.try_into().unwrap()), _port: port }
    }
}

/// Not yet bound, and close-on-exec as those of the standard library.
fn tcp_socket() -> OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let head = read_head(reader)?;
    let body = read_body(reader, &head, false)?;
    Some(Seen { head, body })
}

/// `None` when it is cut short.
fn read_body(reader: &mut impl BufRead, head: &str, until_close: bool) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = field(head, "content-length") {
        body.resize(length.parse().unwrap(), 0);
        reader.read_exact(&mut body).ok()?;
    } else if field(head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..]).ok()?;
            if size > 0 {
                reader.read_exact(&mut [0; 2]).ok()?;
                continue;
            }
            // Trailers, up to the empty line.
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                match line.as_str() {
                    "\r\n" => return Some(body),
                    "" => return None,
                    _ => {}
                }
            }
        }
    } else if until_close {
        reader.read_to_end(&mut body).ok()?;
    }
    Some(body)
}

/// A client that writes what a test wants and reads responses.
struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

impl Client {
    fn new(addr: SocketAddr) -> Self {
        Client::over(TcpStream::connect(addr).unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    fn read(&mut self) -> Answered {
        self.try_read(false).expect("a whole response")
    }

    fn try_read(&mut self, to_head: bool) -> Option<Answered> {
        let head = read_head(&mut self.reader)?;
        let status = head[9..12].parse().unwrap();
        let bodiless = to_head || status < 200 || status == 204 || status == 304;
        let body = if bodiless { vec![] } else { read_body(&mut self.reader, &head, true)? };
        Some(Answered { status, head, body })
    }

    fn get(&mut self, path: &str) -> Answered {
        self.send(get(path));
        self.read()
    }

    /// The proxy closes, cleanly, with nothing more said.
    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("a clean end");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        // Not a mere yield: who waits is not to take the time of those it waits for.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Limits short enough to be met in a test.
fn short() -> Limits {
    Limits { head: Duration::from_millis(200), linger: Duration::from_millis(300), ..Limits::DEFAULT }
}
