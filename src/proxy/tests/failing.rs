//! Endpoints that refuse, die, or talk nonsense.

use super::*;

/// An address whose connections hang: a listener that never accepts, with its queue of one filled. It lasts as long as
/// what is returned beside it.
pub(super) fn full() -> (SocketAddr, (TcpListener, Vec<std::io::Result<TcpStream>>)) {
    let full = tcp_socket();
    rustix::net::bind(&full, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let full = TcpListener::from(full);
    let at = full.local_addr().unwrap();
    let filling: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&at, Duration::from_millis(100))).collect();
    assert!(filling.iter().any(Result::is_err), "the queue is full");
    (at, (full, filling))
}

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_refused_connection_moves_on_with_any_method() {
    let (dead, alive) = (Nobody::new(), Origin::new(|seen| ok(&seen.body)));
    let world = World::serving(Limits::DEFAULT, &[dead.endpoint, alive.endpoint]);
    let mut client = world.client();
    for i in 0..6 {
        client.send(post(&format!("body {i}")));
        assert_eq!(client.read().text(), format!("body {i}"));
    }
    world.hear(&Notice::Failed(dead.endpoint.id));
}

#[test]
fn says_502_when_all_refuse_and_503_when_there_is_none() {
    let dead = [Nobody::new(), Nobody::new(), Nobody::new()];
    let world = World::serving(Limits::DEFAULT, &dead.each_ref().map(|nobody| nobody.endpoint));
    let mut client = world.client();
    client.send(post("x"));
    assert_eq!(client.read().status, 502);
    // Each was tried once and told of once, before the answer.
    let mut told: Vec<EndpointId> = world
        .notices
        .try_iter()
        .filter_map(|notice| if let Notice::Failed(id) = notice { Some(id) } else { None })
        .collect();
    told.sort_unstable();
    assert_eq!(told, dead.map(|nobody| nobody.endpoint.id));
    world.publish(&[]);
    let answer = client.get("/");
    assert_eq!((answer.status, answer.text()), (503, "No healthy backend\n"));
}

#[test]
fn a_reused_link_that_was_closed_costs_an_idempotent_request_nothing() {
    // Reads the second request of a connection and closes without a word.
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        stream.write_all(&ok(b"first")).unwrap();
        let _ = read_request(&mut reader);
    });
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "first");
    }
    assert_eq!(origin.conns(), 10);
}

#[test]
fn rfc9110_9_2_2_a_post_is_never_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let origin = Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            if request.head.starts_with("POST") {
                count.fetch_add(1, Ordering::SeqCst);
                return;
            }
            stream.write_all(&ok(b"got")).unwrap();
        }
    });
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    assert_eq!(client.get("/").text(), "got");
    client.send(post("once"));
    assert_eq!(client.read().status, 502);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn a_post_does_not_go_out_on_a_link_that_has_rested() {
    let origin = Origin::named("x");
    let world = World::with(Limits { link_fresh: Duration::ZERO, ..Limits::DEFAULT }, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    client.get("/");
    client.send(post("x"));
    client.read();
    assert_eq!(origin.conns(), 2);
    client.get("/");
    assert_eq!(origin.conns(), 2, "a GET takes what is there");
}

#[test]
fn a_link_that_ended_while_idle_is_not_used() {
    let (close, closing) = crossbeam_channel::bounded::<()>(1);
    let (tell, closed) = crossbeam_channel::bounded::<()>(1);
    let origin = Origin::raw(move |mut stream| {
        read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream.write_all(&ok(b"one")).unwrap();
        closing.recv_timeout(PATIENCE).unwrap();
        drop(stream);
        tell.send(()).unwrap();
    });
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    for n in 1..4 {
        client.send(post("x"));
        assert_eq!(client.read().status, 200);
        assert_eq!(origin.conns(), n);
        close.send(()).unwrap();
        closed.recv_timeout(PATIENCE).unwrap();
        // Seen or not.
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn rfc9112_8_a_response_cut_short_never_looks_whole() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let origin = Origin::raw(move |mut stream| {
            read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n").unwrap();
        });
        let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
        for version in ["1.0", "1.1"] {
            let mut client = world.client();
            client.send(format!("GET / HTTP/{version}\r\nHost: app.test\r\n\r\n"));
            let mut all = Vec::new();
            let end = client.reader.read_to_end(&mut all);
            assert!(end.is_err(), "{head} {version}: ended cleanly after {}", String::from_utf8_lossy(&all));
        }
    }
}

#[test]
fn a_response_that_makes_no_sense_is_a_502_and_ends_the_link() {
    for nonsense in [
        "HELLO\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nPart",
        "",
    ] {
        let origin = Origin::raw(move |mut stream| {
            read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
            stream.write_all(nonsense.as_bytes()).unwrap();
        });
        let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
        let mut client = world.client();
        assert_eq!(client.get("/").status, 502, "{nonsense:?}");
        assert_eq!(client.get("/").status, 502, "and the client's connection goes on");
        assert_eq!(origin.conns(), 2);
    }
    for large in ["a: b\r\n".repeat(201), format!("a: {}\r\n", "x".repeat(64 << 10))] {
        let origin = Origin::new(move |_| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{large}\r\n").into_bytes());
        let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
        assert_eq!(world.client().get("/").status, 502);
    }
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(17) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::new(move |_| endless.clone().into_bytes());
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.read().status, 502);
}

#[test]
fn a_head_answer_with_two_lengths_is_one_clean_502() {
    let origin = Origin::new(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\nA: b\r\n\r\n".to_vec());
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let answer = client.try_read(true).unwrap();
    assert_eq!((answer.status, answer.field("a")), (502, None), "{}", answer.head);
}

#[test]
fn bytes_behind_a_response_are_never_the_next_answer() {
    let origin = Origin::new(|_| [ok(b"one"), ok(b"poison")].concat());
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "one");
    }
    assert_eq!(origin.conns(), 5);
}

#[test]
fn rfc9112_6_3_a_body_that_cannot_be_is_never_the_next_answer() {
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\npoison").into_bytes();
    let origin = Origin::new(move |seen| match seen.head.split(' ').nth(1).unwrap() {
        "/204" => head("204 No Content"),
        "/304" => head("304 Not Modified"),
        _ => head("200 OK"), // to a HEAD
    });
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    for (i, request) in ["GET /204", "HEAD /", "GET /304", "HEAD /"].into_iter().enumerate() {
        client.send(format!("{request} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(client.try_read(true).unwrap().body, b"");
        assert_eq!(origin.conns(), i + 1, "{request}: the link ends with what nobody asked for");
    }
}

#[test]
fn rfc9112_6_3_a_response_with_two_framings_is_chunked_and_ends_the_link() {
    let origin = Origin::new(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()
    });
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.text(), answer.field("content-length")), ("abc", None));
    }
    assert_eq!(origin.conns(), 2);
}

#[test]
fn idle_links_are_closed_before_the_endpoint_would() {
    let (ended, heard) = crossbeam_channel::bounded(1);
    let origin = Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        stream.write_all(&ok(b"x")).unwrap();
        ended.send(reader.read(&mut [0]).unwrap()).unwrap();
    });
    let brief = Duration::from_millis(50);
    let world = World::serving(Limits { link_idle: brief, sweep: brief, ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    client.get("/");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
}

#[test]
fn an_endpoint_that_does_not_answer_is_a_504() {
    let origin = Origin::raw(|stream| {
        let mut reader = BufReader::new(stream);
        read_request(&mut reader).unwrap();
        let _ = reader.read(&mut [0]);
    });
    let world =
        World::serving(Limits { response_head: Duration::from_millis(100), ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    assert_eq!(client.get("/").status, 504);
    assert_eq!(client.get("/").status, 504, "and the client's connection goes on");
}

#[test]
fn an_endpoint_that_stops_within_a_body_is_not_waited_for() {
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        let _ = reader.read(&mut [0]);
    });
    let world =
        World::serving(Limits { between_bytes: Duration::from_millis(100), ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    assert!(client.try_read(false).is_none());
}

#[test]
fn an_endpoint_whose_queue_is_full_is_passed_over() {
    let (at, filling) = full();
    let (hanging, alive) = (endpoint_at(at), Origin::new(|seen| ok(&seen.body)));
    let world = World::with(Limits { connect: Duration::from_millis(100), ..Limits::DEFAULT }, 1);
    world.publish(&[hanging, alive.endpoint]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send(post("any method"));
        assert_eq!(client.read().text(), "any method");
    }
    world.hear(&Notice::Failed(hanging.id));
    drop(filling);
}

#[test]
fn a_panic_in_a_turn_costs_one_connection_and_leaves_nothing_held() {
    let (tell, arrived) = crossbeam_channel::bounded(2);
    let (open, opened) = crossbeam_channel::bounded::<()>(2);
    let origin = Origin::new(move |_| {
        tell.send(()).unwrap();
        opened.recv_timeout(PATIENCE).unwrap();
        ok(b"fine")
    });
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let (mut first, mut other) = (world.client(), world.client());
    for client in [&mut first, &mut other] {
        client.send(get("/"));
        arrived.recv_timeout(PATIENCE).unwrap();
    }
    // The next turn is that of the conn whose peer goes on sending.
    world.proxy.as_ref().unwrap().shared.panic_once.store(true, Ordering::SeqCst);
    first.send("GET");
    assert!(first.try_read(false).is_none());
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert_eq!(other.read().text(), "fine");
    world.publish(&[]);
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn a_link_is_not_used_beyond_what_its_endpoint_says() {
    for (said, conns) in [("timeout=1", 2), ("max=3, Timeout=0", 2), ("timeout=60", 1), ("timeout=x", 1), ("max=1", 1)]
    {
        let origin = Origin::new(move |_| {
            format!("HTTP/1.1 200 OK\r\nKeep-Alive: {said}\r\nContent-Length: 1\r\n\r\nx").into_bytes()
        });
        let world = World::with(Limits { link_idle: PATIENCE, link_fresh: PATIENCE, ..Limits::DEFAULT }, 1);
        world.publish(&[origin.endpoint]);
        let mut client = world.client();
        client.get("/");
        client.get("/");
        assert_eq!(origin.conns(), conns, "{said}");
    }
}
