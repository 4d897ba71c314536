//! Everything at once: a new table a hundred times a second, endpoints that come and go, and traffic of every sort.
//!
//! Three seconds of it, or as many as `TAKO_CHURN_SECONDS` says; `make soak` says thirty, in release mode.

use std::collections::HashSet;

use super::*;

const LASTS: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(10);
/// Endpoints in the table; every `SHIFT` tables the oldest is replaced.
const SERVING: usize = 3;
const SHIFT: usize = 5;
/// Of one stream, a beat apart, so that its endpoint leaves the table under it.
const EVENTS: usize = 6;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    Post,
    Chunked,
    /// Two requests in one write.
    Pair,
    /// An event stream, from its begin to its end.
    Events,
    /// A WebSocket that lives for a few words.
    Tunnel,
}

#[derive(Debug, Clone, Copy)]
struct Sort {
    kind: Kind,
    secure: bool,
    /// On one connection as long as it may be used, or on a new one each time.
    keep: bool,
}

const SORTS: [Sort; 16] = {
    const fn sort(kind: Kind, secure: bool, keep: bool) -> Sort {
        Sort { kind, secure, keep }
    }
    [
        sort(Kind::Get, false, true),
        sort(Kind::Get, false, false),
        sort(Kind::Get, true, true),
        sort(Kind::Get, true, false),
        sort(Kind::Post, false, true),
        sort(Kind::Post, false, false),
        sort(Kind::Post, true, true),
        sort(Kind::Post, true, false),
        sort(Kind::Chunked, false, true),
        sort(Kind::Chunked, true, true),
        sort(Kind::Pair, false, true),
        sort(Kind::Pair, true, true),
        sort(Kind::Events, false, true),
        sort(Kind::Events, true, false),
        sort(Kind::Tunnel, false, false),
        sort(Kind::Tunnel, true, false),
    ]
};

/// A body that differs from the one before, and is sometimes empty.
fn body(n: usize) -> String {
    "b".repeat(n * 37 % 3000)
}

fn post(n: usize) -> String {
    let body = body(n);
    format!("POST /{n} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(n: usize) -> String {
    let body = body(n);
    let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
    format!("POST /{n} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n")
}

/// An app that repeats bodies, tells events and echoes words.
fn app() -> Origin {
    Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(seen) = read_request(&mut reader) {
            let told = match (seen.field("upgrade"), seen.head.starts_with("GET /events")) {
                (Some(_), _) => return tunnelling::switch_and_echo(&mut reader, &mut stream, b""),
                (None, true) => tell_events(&mut stream),
                (None, false) => stream.write_all(&repeat(&seen.body)),
            };
            if told.is_err() {
                return;
            }
        }
    })
}

/// Framed in one way or the other.
fn repeat(body: &[u8]) -> Vec<u8> {
    match body.len() % 2 {
        1 => {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
            [head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
        }
        _ => ok(body),
    }
}

fn event(n: usize) -> String {
    format!("id: {n}\n\n")
}

fn tell_events(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for n in 0..EVENTS {
        let event = event(n);
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        std::thread::sleep(BEAT); // the pace of the app; nothing waits for it
    }
    stream.write_all(b"0\r\n\r\n")
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A client's connection, plain or not.
struct Line(BufReader<Box<dyn Stream>>);

impl Line {
    fn new(world: &World, secure: bool) -> Self {
        let plain = || Client::new(world.http).stream;
        Line(BufReader::new(if secure { Box::new(world.secure("app.test")) } else { Box::new(plain()) }))
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
        self.0.get_mut().flush().unwrap();
    }

    /// The next answer, which must be a 200 with this body. Whether the connection stays.
    fn expect(&mut self, expected: &str) -> bool {
        let head = read_head(&mut self.0).expect("a head");
        let body = read_body(&mut self.0, &head, false).unwrap_or_else(|| panic!("cut short: {head}"));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}{}", String::from_utf8_lossy(&body));
        assert_eq!(String::from_utf8(body).unwrap(), expected, "{head}");
        field(&head, "connection") != Some("close")
    }

    /// Asks what `kind` asks, and sees that all of the answer is right. Whether the connection stays.
    fn ask(&mut self, kind: Kind, n: usize) -> bool {
        match kind {
            Kind::Get => self.send(get("/")),
            Kind::Post => self.send(post(n)),
            Kind::Chunked => self.send(chunked(n)),
            Kind::Pair => self.send(get("/") + &post(n)),
            Kind::Events => self.send(get("/events")),
            Kind::Tunnel => return self.talk(n),
        }
        match kind {
            Kind::Get => self.expect(""),
            Kind::Post | Kind::Chunked => self.expect(&body(n)),
            // After a close the second is not answered, and was told so.
            Kind::Pair => self.expect("") && self.expect(&body(n)),
            Kind::Events => self.expect(&(0..EVENTS).map(event).collect::<String>()),
            Kind::Tunnel => false,
        }
    }

    /// A WebSocket's life. Never fit for another request.
    fn talk(&mut self, n: usize) -> bool {
        self.send(tunnelling::UPGRADE);
        let head = read_head(&mut self.0).expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        for word in n..n + EVENTS {
            let word = body(word + 1);
            self.send(&word);
            let mut got = vec![0; word.len()];
            self.0.read_exact(&mut got).expect("an echo");
            assert_eq!(String::from_utf8(got).unwrap(), word);
        }
        false
    }
}

/// Asks until `done`, and counts how often.
fn traffic(world: &World, done: &AtomicBool, sort: Sort, asked: &AtomicUsize) {
    let mut line: Option<Line> = None;
    while !done.load(Ordering::SeqCst) {
        let mut used = line.take().unwrap_or_else(|| Line::new(world, sort.secure));
        if used.ask(sort.kind, asked.load(Ordering::SeqCst)) && sort.keep {
            line = Some(used);
        }
        asked.fetch_add(1, Ordering::SeqCst);
    }
}

fn lasts() -> Duration {
    match std::env::var("TAKO_CHURN_SECONDS") {
        Ok(seconds) => Duration::from_secs(seconds.parse().expect("TAKO_CHURN_SECONDS is a number")),
        Err(_) => LASTS,
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the counts are what a soak is run for")]
fn nothing_fails_while_tables_and_endpoints_come_and_go() {
    let world = Arc::new(World::with(Limits::DEFAULT, 3));
    let mut serving: Vec<Origin> = (0..SERVING).map(|_| app()).collect();
    let list = |serving: &[Origin]| serving.iter().map(|origin| origin.endpoint).collect::<Vec<_>>();
    let mut last = world.publish(&list(&serving));
    let done = Arc::new(AtomicBool::new(false));
    let counts = SORTS.map(|_| Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = SORTS
        .into_iter()
        .zip(counts.clone())
        .map(|(sort, asked)| {
            let (world, done) = (world.clone(), done.clone());
            std::thread::spawn(move || traffic(&world, &done, sort, &asked))
        })
        .collect();
    let asked = || counts.each_ref().map(|count| count.load(Ordering::SeqCst));
    let all_had_their_share = || asked().iter().all(|n| *n > 5);

    // An endpoint lives until it is said to be drained, as an app would, and not a moment longer.
    let mut leaving: HashMap<EndpointId, Origin> = HashMap::new();
    let mut drained = HashSet::new();
    let mut acked = 0;
    let mut take = |notice: Notice, leaving: &mut HashMap<EndpointId, Origin>| match notice {
        Notice::Acked(generation) => {
            assert_eq!(generation, acked + 1, "in order");
            acked = generation;
        }
        Notice::Drained(id) => {
            assert!(drained.insert(id), "said twice");
            assert!(leaving.remove(&id).is_some(), "said of an endpoint in the table");
        }
        Notice::Failed(id) => panic!("{id:?} failed"),
        Notice::Wake(_) | Notice::Activity(_) => panic!("{notice:?} of an app that is not on demand"),
    };
    let begun = Instant::now();
    let mut tables = 0;
    let mut beat = begun;
    let goes_on = || match begun.elapsed() {
        elapsed if elapsed < lasts() => true,
        elapsed => elapsed < lasts() + PATIENCE && !all_had_their_share(),
    };
    while goes_on() && !clients.iter().any(|client| client.is_finished()) {
        tables += 1;
        if tables % SHIFT == 0 {
            serving.push(app());
            let old = serving.remove(0);
            leaving.insert(old.endpoint.id, old);
        }
        last = world.publish(&list(&serving));
        beat += BEAT;
        // Not by waiting for a notice: on a busy machine that takes longer, for the channel yields before it sleeps.
        std::thread::park_timeout(beat.saturating_duration_since(Instant::now()));
        for notice in world.notices.try_iter() {
            take(notice, &mut leaving);
        }
    }
    done.store(true, Ordering::SeqCst);
    let lasted = begun.elapsed();
    clients.into_iter().for_each(|client| client.join().expect("no client failed"));
    let asked = asked();
    for (sort, n) in SORTS.iter().zip(asked) {
        println!("{n:>8} {sort:?}");
    }
    println!(
        "{:>8} in {lasted:?}, {tables} tables, {} endpoints",
        asked.iter().sum::<usize>(),
        tables / SHIFT + SERVING
    );
    assert!(asked.iter().all(|n| *n > 5), "every sort got its share: {asked:?}");
    let acked_last = Notice::Acked(last);
    let mut said = world.notices.try_iter().collect::<Vec<_>>();
    while !leaving.is_empty() || !said.is_empty() {
        for notice in said.drain(..) {
            take(notice, &mut leaving);
        }
        if !leaving.is_empty() {
            said.push(world.notices.recv_timeout(PATIENCE).expect("the rest is drained"));
        }
    }
    assert_eq!(Notice::Acked(acked), acked_last);
    assert_eq!(drained.len(), tables / SHIFT, "each once");
    let conns = || world.proxy.as_ref().unwrap().shared.conns.load(Ordering::SeqCst);
    wait_until("all connections are gone", || conns() == 0);
}
