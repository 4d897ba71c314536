//! Clients that are slow on purpose, those that are slow by nature, and bulk that must not be in anybody's way.

use super::*;

/// Windows short enough for a test in which nobody is honest.
fn paced() -> Limits {
    Limits { pace: Duration::from_millis(1000), pace_bytes: 64, ..Limits::DEFAULT }
}

/// Where somebody is, they are long enough for a machine that stands still for two seconds; the honest here are a
/// hundred times as fast as they must be.
fn paced_for_the_honest() -> Limits {
    Limits { pace: Duration::from_millis(2500), ..paced() }
}

/// Reads the request's head only, and then as `serve` likes.
fn after_the_head(serve: impl Fn(TcpStream, BufReader<TcpStream>) + Send + Sync + 'static) -> Origin {
    Origin::raw(move |stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if read_head(&mut reader).is_some() {
            serve(stream, reader);
        }
    })
}

/// Sends `piece` so often until `lasts` is over; false if the proxy ends it before.
fn drip(mut stream: TcpStream, piece: &[u8], often: Duration, lasts: Duration) -> bool {
    let end = Instant::now() + lasts;
    while Instant::now() < end {
        if stream.write_all(piece).is_err() {
            return false;
        }
        std::thread::park_timeout(often);
    }
    true
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_body_that_drips_in_is_a_408_and_a_slow_one_is_a_body() {
    let origin = Origin::new(|seen| ok(seen.body.len().to_string().as_bytes()));
    // A byte every fifty milliseconds is fifty a window.
    let limits = paced_for_the_honest();
    let world = World::serving(limits, &[origin.endpoint]);
    let mut slow = world.client();
    slow.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\n");
    let dripping = slow.stream.try_clone().unwrap();
    let drips = std::thread::spawn(move || drip(dripping, b"x", Duration::from_millis(50), PATIENCE));
    let mut honest = world.client();
    honest.send(CHUNKED);
    // Longer than it takes for the other to be cut off.
    let (piece, often) = ([b"80\r\n", &[b'x'; 128][..], b"\r\n"].concat(), Duration::from_millis(20));
    assert!(drip(honest.stream.try_clone().unwrap(), &piece, often, limits.pace * 3));
    honest.send("0\r\n\r\n");
    assert_eq!(honest.read().status, 200);
    let answer = slow.read();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    drop(slow);
    assert!(!drips.join().unwrap());
}

#[test]
fn a_body_that_the_endpoint_takes_its_time_over_is_not_the_clients_fault() {
    let (go, gone) = crossbeam_channel::bounded::<()>(1);
    let origin = after_the_head(move |mut stream, mut reader| {
        gone.recv_timeout(PATIENCE).unwrap();
        std::io::copy(&mut (&mut reader).take(32 << 20), &mut std::io::sink()).unwrap();
        stream.write_all(&ok(b"all")).unwrap();
    });
    let limits = paced_for_the_honest();
    let world = World::serving(limits, &[origin.endpoint]);
    let mut client = world.client();
    let mut writer = client.stream.try_clone().unwrap();
    let body = vec![7; 32 << 20]; // before the head is sent, from when on the client's time runs
    client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", body.len()));
    let sending = std::thread::spawn(move || writer.write_all(&body));
    std::thread::park_timeout(limits.pace * 5 / 2);
    go.send(()).unwrap();
    assert_eq!(client.read().text(), "all");
    sending.join().unwrap().unwrap();
}

#[test]
fn a_conversation_may_be_as_slow_as_its_app_likes() {
    let origin = after_the_head(|mut stream, mut reader| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 0 && line != "0\r\n" {
            line.clear();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let world = World::serving(paced(), &[origin.endpoint]);
    let mut client = world.client();
    client.send(CHUNKED);
    client.send("1\r\nx\r\n");
    assert!(client.reader.fill_buf().unwrap().starts_with(b"HTTP/1.1 200 "));
    for _ in 0..8 {
        std::thread::park_timeout(paced().pace / 2);
        client.send("1\r\nx\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read().status, 200);
}

/// Says 200 and then as much as the client takes.
fn endless() -> Origin {
    after_the_head(|mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[7; 64 << 10]).is_ok() {}
    })
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let origin = endless();
    let world = World::serving(paced(), &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    assert!(read_head(&mut client.reader).unwrap().starts_with("HTTP/1.1 200 "));
    let generation = world.publish(&[]);
    world.hear(&Notice::Acked(generation));
    world.hear(&Notice::Drained(origin.endpoint.id));
    assert_eq!(world.proxy.as_ref().unwrap().metrics().cut, 1);
}

#[test]
fn a_client_that_reads_slowly_is_borne_though_its_buffers_have_no_room_for_long() {
    let origin = endless();
    // The kernel tells us of room only when it holds half of what it may unsent, which takes this client several windows.
    let limits = paced_for_the_honest();
    let world = World::serving(limits, &[origin.endpoint]);
    // A small buffer of its own, from the start: the window of a large one opens in large steps.
    let socket = tcp_socket();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 10).unwrap();
    rustix::net::connect(&socket, &world.http).unwrap();
    let mut client = Client::over(socket.into());
    client.send(get("/"));
    let end = Instant::now() + limits.pace * 4;
    while Instant::now() < end {
        client.stream.read_exact(&mut [0; 512]).unwrap();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    // And then it stops reading, which is another matter.
    world.publish(&[]);
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn silence_that_nobody_fills_is_not_slow_reading() {
    let (go, gone) = crossbeam_channel::bounded::<()>(1);
    let origin = after_the_head(move |mut stream, _| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(format!("{head}data: 1\n\n").as_bytes()).unwrap();
        gone.recv_timeout(PATIENCE).unwrap();
        stream.write_all(b"data: 2\n\n").unwrap();
    });
    let limits = Limits { between_bytes: Duration::from_millis(100), ..paced() };
    let world = World::serving(limits, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    assert!(client.reader.fill_buf().unwrap().starts_with(b"HTTP/1.1 200 "));
    std::thread::park_timeout(limits.pace * 3);
    go.send(()).unwrap();
    assert_eq!(client.read().text(), "data: 1\n\ndata: 2\n\n");
}

#[test]
fn a_tunnel_whose_client_does_not_read_is_cut_off() {
    let origin = after_the_head(|mut stream, _| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        while stream.write_all(&[7; 64 << 10]).is_ok() {}
    });
    let world = World::serving(paced(), &[origin.endpoint]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(read_head(&mut client.reader).unwrap().starts_with("HTTP/1.1 101 "));
    world.publish(&[]);
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn bulk_both_ways_leaves_others_their_turns() {
    let bulk = Arc::new(AtomicUsize::new(0));
    let taken = bulk.clone();
    let origin = Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            let small = head.starts_with("GET /small");
            if small && stream.write_all(&ok(b"small")).is_ok() {
                continue;
            }
            if head.starts_with("POST") {
                let mut room = vec![0; 64 << 10];
                while let Ok(n @ 1..) = reader.read(&mut room) {
                    taken.fetch_add(n, Ordering::Relaxed);
                }
            } else {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while stream.write_all(&[7; 64 << 10]).is_ok() {}
            }
            return;
        }
    });
    // One worker, so that all share its turns.
    let world = World::with(Limits::DEFAULT, 1);
    world.publish_limited(&[origin.endpoint], u64::MAX);
    for i in 0..8 {
        let mut client = world.client();
        let moved = bulk.clone();
        std::thread::spawn(move || {
            let mut room = vec![7; 64 << 10];
            if i % 2 == 0 {
                client.send(get("/bulk"));
                while let Ok(n @ 1..) = client.stream.read(&mut room) {
                    moved.fetch_add(n, Ordering::Relaxed);
                }
            } else {
                client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", 1u64 << 40));
                while client.stream.write_all(&room).is_ok() {}
            }
        });
    }
    wait_until("the bulk moves", || bulk.load(Ordering::Relaxed) > 16 << 20);
    let mut client = world.client();
    // The bulk has no end: if its streams did not give the others their turns, there would be no answer.
    for _ in 0..50 {
        let before = bulk.load(Ordering::Relaxed);
        assert_eq!(client.get("/small").text(), "small");
        wait_until("the bulk goes on", || bulk.load(Ordering::Relaxed) > before);
    }
}
