//! Everything at once: a new table a hundred times a second, endpoints that come and go, and traffic of every sort.

use std::collections::HashSet;

use super::securing::{Secure, ask};
use super::*;

const LASTS: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(10);
/// Endpoints in the table; every `SHIFT` tables the oldest is replaced.
const SERVING: usize = 3;
const SHIFT: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    Post,
    Chunked,
}

/// A request with a body that its answer must repeat.
fn request(kind: Kind, n: usize) -> (String, String) {
    let body = "b".repeat(n * 37 % 3000);
    let head = "HTTP/1.1\r\nHost: app.test\r\n";
    match kind {
        Kind::Get => (format!("GET /{n} {head}\r\n"), String::new()),
        Kind::Post => (format!("POST /{n} {head}Content-Length: {}\r\n\r\n{body}", body.len()), body),
        Kind::Chunked if body.is_empty() => {
            (format!("POST /{n} {head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), body)
        }
        Kind::Chunked => {
            let chunk = format!("{:x}\r\n{body}\r\n", body.len());
            (format!("POST /{n} {head}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"), body)
        }
    }
}

/// Repeats the body, framed in one way or the other.
fn echo() -> Origin {
    Origin::new(|seen| match seen.body.len() % 2 {
        1 => {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", seen.body.len());
            [head.as_bytes(), &seen.body, b"\r\n0\r\n\r\n"].concat()
        }
        _ => ok(&seen.body),
    })
}

/// Asks until `done`, on one connection or on a new one each time; returns how often.
fn traffic(world: &World, done: &AtomicBool, kind: Kind, secure: bool, keep: bool) -> usize {
    let mut plain: Option<Client> = None;
    let mut sealed: Option<BufReader<Secure>> = None;
    let mut n = 0;
    while !done.load(Ordering::SeqCst) {
        let (request, body) = request(kind, n);
        let answer = match secure {
            true => ask(sealed.get_or_insert_with(|| BufReader::new(world.secure("app.test"))), &request),
            false => {
                let client = plain.get_or_insert_with(|| world.client());
                client.send(request);
                client.read()
            }
        };
        assert!(answer.status == 200 && answer.text() == body, "{kind:?} {n}: {}{}", answer.head, answer.text());
        if !keep || answer.field("connection") == Some("close") {
            (plain, sealed) = (None, None);
        }
        n += 1;
    }
    n
}

#[test]
fn nothing_fails_while_tables_and_endpoints_come_and_go() {
    let world = Arc::new(World::with(Limits::DEFAULT, 3));
    let mut serving: Vec<Origin> = (0..SERVING).map(|_| echo()).collect();
    let list = |serving: &[Origin]| serving.iter().map(|origin| origin.endpoint).collect::<Vec<_>>();
    let mut last = world.publish(&list(&serving));
    let done = Arc::new(AtomicBool::new(false));
    let kinds = [
        (Kind::Get, false, true),
        (Kind::Get, false, false),
        (Kind::Post, false, true),
        (Kind::Post, false, false),
        (Kind::Chunked, false, true),
        (Kind::Get, true, true),
        (Kind::Post, true, false),
    ];
    let clients: Vec<_> = kinds
        .into_iter()
        .map(|(kind, secure, keep)| {
            let (world, done) = (world.clone(), done.clone());
            std::thread::spawn(move || traffic(&world, &done, kind, secure, keep))
        })
        .collect();

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
    while begun.elapsed() < LASTS && !clients.iter().any(|client| client.is_finished()) {
        tables += 1;
        if tables % SHIFT == 0 {
            serving.push(echo());
            let old = serving.remove(0);
            leaving.insert(old.endpoint.id, old);
        }
        last = world.publish(&list(&serving));
        let beat = Instant::now() + BEAT;
        while let Ok(notice) = world.notices.recv_deadline(beat) {
            take(notice, &mut leaving);
        }
    }
    done.store(true, Ordering::SeqCst);
    let asked: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(asked.iter().all(|n| *n > 10), "every sort got its share: {asked:?}");
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
