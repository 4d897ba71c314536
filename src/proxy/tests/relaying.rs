//! Requests and responses on their way through.

use std::net::Shutdown;

use super::*;

#[test]
fn relays_requests_over_kept_connections() {
    let origin = Origin::new(|seen| ok(seen.head.as_bytes()));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for i in 0..20 {
        let answer = client.get(&format!("/a/{i}?q"));
        assert_eq!(answer.status, 200);
        assert!(
            answer.text().starts_with(&format!("GET /a/{i}?q HTTP/1.1\r\nHost: app.test\r\n")),
            "{}",
            answer.text()
        );
        assert!(answer.text().contains("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"));
        assert!(answer.field("date").is_some());
    }
    assert_eq!(origin.conns(), 1, "one link is enough for one client");
}

#[test]
fn relays_bodies_of_any_size_both_ways() {
    let origin = Origin::new(|seen| ok(&seen.body));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for size in [0, 1, 1000, 16 << 10, 100_000, 8 << 20] {
        let body: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
        let mut request = format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        request.extend_from_slice(&body);
        let mut stream = client.stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || stream.write_all(&request).unwrap());
        let answer = client.read();
        writer.join().unwrap();
        assert!(answer.status == 200 && answer.body == body, "{size}");
    }
}

#[test]
fn relays_chunked_bodies_both_ways() {
    let origin = Origin::new(|seen| {
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"));
        let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n".to_vec();
        for part in seen.body.chunks(1000) {
            out.extend(format!("{:X};ext=1\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\nT: x\r\nContent-Length: 3\r\n\r\n");
        out
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for te in ["", "TE: trailers\r\nConnection: TE\r\n"] {
        let mut request =
            format!("PUT / HTTP/1.1\r\nHost: app.test\r\n{te}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        let body = vec![b'x'; 50_000];
        for part in body.chunks(777) {
            request.extend(format!("{:x}\r\n", part.len()).as_bytes());
            request.extend_from_slice(part);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\nA: dropped\r\n\r\n");
        client.send(request);
        let answer = client.read();
        assert_eq!(answer.body, body);
        assert_eq!(answer.field("trailer").is_some(), !te.is_empty());
    }
}

#[test]
fn answers_pipelined_requests_in_order() {
    let origin = Origin::new(|seen| ok(&[seen.head.split(' ').nth(1).unwrap().as_bytes(), &seen.body].concat()));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    let post = "POST /p HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi";
    client.send(get("/1") + post + &get("/2") + &get("/none-such\u{7f}"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    let got: Vec<String> = (0..3).map(|_| client.read().text().to_string()).collect();
    assert_eq!(got, ["/1", "/phi", "/2"]);
    assert_eq!(client.read().status, 400, "the fourth is no request, and is told so");
    client.expect_end();
}

#[test]
fn rfc9110_9_3_2_head_and_bodiless_statuses_have_no_body() {
    let origin = Origin::new(|seen| match seen.head.split(' ').nth(1).unwrap() {
        "/204" => b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_vec(),
        _ if seen.head.starts_with("HEAD") => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
        _ => ok(b"body!"),
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let head = client.try_read(true).unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("5")));
        assert_eq!(client.get("/204").field("content-length"), None);
        assert_eq!(client.get("/304").field("content-length"), Some("5"));
        assert_eq!(client.get("/").text(), "body!");
    }
    assert_eq!(origin.conns(), 1);
}

#[test]
fn rfc9112_6_3_a_body_until_close_is_framed_anew() {
    let origin = Origin::raw(|mut stream| {
        read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall").unwrap();
        stream.write_all(b" of it").unwrap();
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.text(), answer.field("transfer-encoding")), ("all of it", Some("chunked")));
    }
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.read();
    assert_eq!(
        (answer.text(), answer.field("transfer-encoding"), answer.field("connection")),
        ("all of it", None, Some("close"))
    );
}

#[test]
fn rfc9110_6_5_trailers_go_to_those_who_asked_and_only_the_harmless_ones() {
    let origin = Origin::new(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nhi\r\n0\r\nT: x\r\nContent-Length: 9\r\n\r\n"
            .to_vec()
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    for (asks, end) in
        [("TE: trailers\r\nConnection: TE, close\r\n", "0\r\nT: x\r\n\r\n"), ("Connection: close\r\n", "0\r\n\r\n")]
    {
        let mut client = world.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{asks}\r\n"));
        let mut all = String::new();
        client.reader.read_to_string(&mut all).unwrap();
        assert!(all.ends_with(&format!("\r\n\r\n2\r\nhi\r\n{end}")), "{all}");
    }
    // HTTP/1.0 knows neither chunks nor trailers.
    let mut client = world.client();
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\nTE: trailers\r\nConnection: TE, keep-alive\r\n\r\n");
    let answer = client.read();
    assert_eq!(
        (answer.text(), answer.field("transfer-encoding"), answer.field("connection")),
        ("hi", None, Some("close"))
    );
    client.expect_end();
}

#[test]
fn rfc9112_c_2_2_an_endpoint_of_http_1_0_is_kept_when_it_says_so() {
    for (says, conns) in [("Connection: keep-alive\r\n", 1), ("", 3), ("Connection: keep-alive, close\r\n", 3)] {
        let origin = Origin::new(move |_| format!("HTTP/1.0 200 OK\r\n{says}Content-Length: 2\r\n\r\nhi").into_bytes());
        let world = World::with(Limits::DEFAULT, 1);
        world.publish(&[origin.endpoint]);
        let mut client = world.client();
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!((answer.text(), answer.field("connection")), ("hi", None), "that is between us and it");
        }
        assert_eq!(origin.conns(), conns, "{says:?}");
    }
}

#[test]
fn rfc9112_c_2_2_http_1_0_keeps_alive_when_asked() {
    let origin = Origin::named("hello");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nHost: app.test\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = client.read();
        assert_eq!((answer.text(), answer.field("connection")), ("hello", Some("keep-alive")));
    }
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.read().field("connection"), Some("close"));
    client.expect_end();
}

#[test]
fn rfc9110_15_2_relays_informational_responses_except_to_http_1_0() {
    let origin = Origin::new(|_| [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".as_slice(), &ok(b"done")].concat());
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    let hint = client.get("/");
    assert_eq!((hint.status, hint.field("link"), hint.field("date")), (103, Some("x"), None));
    assert_eq!(client.read().text(), "done");
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.read().text(), "done");
}

#[test]
fn rfc9110_10_1_1_the_endpoint_decides_on_100_continue() {
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            assert_eq!(field(&head, "expect"), Some("100-continue"));
            if head.starts_with("PUT /no") {
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
                return;
            }
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            let body = read_body(&mut reader, &head, false).unwrap();
            stream.write_all(&ok(&body)).unwrap();
        }
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    let head =
        |path| format!("PUT {path} HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    client.send(head("/yes"));
    assert_eq!(client.read().status, 100);
    client.send("12345");
    assert_eq!(client.read().text(), "12345");
    client.send(head("/no"));
    let refused = client.read();
    assert_eq!((refused.status, refused.field("connection")), (403, Some("close")));
    client.expect_end();
}

#[test]
fn rfc9112_9_6_an_early_answer_is_read_in_spite_of_the_rest_of_the_request() {
    let origin = Origin::raw(|mut stream| {
        read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\nsome");
    let answer = client.read();
    assert_eq!((answer.status, answer.text(), answer.field("connection")), (403, "no", Some("close")));
    // What still comes is taken and thrown away, so no reset overtakes the answer.
    client.send([b'x'; 50_000]);
    client.expect_end();
}

#[test]
fn rfc5842_7_2_an_app_that_sends_requests_back_to_us_is_told_of_the_loop() {
    let back = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
    let (to, rounds) = (back.clone(), Arc::new(AtomicUsize::new(0)));
    let count = rounds.clone();
    let origin = Origin::new(move |seen| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut client = Client::new(*to.get().unwrap());
        client.send(&seen.head);
        let answer = client.read();
        format!("HTTP/1.1 {} x\r\nContent-Length: 0\r\n\r\n", answer.status).into_bytes()
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    back.set(world.http).unwrap();
    assert_eq!(world.client().get("/").status, 508);
    assert_eq!(rounds.load(Ordering::SeqCst), 20);
}

#[test]
fn the_head_of_an_event_stream_is_not_held_back() {
    let (tell, told) = crossbeam_channel::bounded::<()>(1);
    let origin = Origin::raw(move |mut stream| {
        read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        stream.write_all(b"9\r\ndata: x\n\n\r\n0\r\n\r\n").unwrap();
    });
    // Silence longer than the limit for other bodies is no fault of a stream.
    let world =
        World::serving(Limits { between_bytes: Duration::from_millis(1), ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    let head = read_head(&mut client.reader).unwrap();
    assert_eq!(field(&head, "content-type"), Some("text/event-stream"));
    client.stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let silent = client.reader.fill_buf().unwrap_err();
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    tell.send(()).unwrap();
    assert_eq!(read_body(&mut client.reader, &head, false).unwrap(), b"data: x\n\n");
}

#[test]
fn a_reader_that_stops_stops_the_endpoint() {
    const SIZE: usize = 64 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let origin = Origin::raw(move |mut stream| {
        read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
        let part = [7; 64 << 10];
        while count.load(Ordering::SeqCst) < SIZE {
            stream.write_all(&part).unwrap();
            count.fetch_add(part.len(), Ordering::SeqCst);
        }
    });
    // On a busy machine the buffers take longer to fill than a client may take without reading.
    let world = World::serving(Limits { pace: PATIENCE, ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    let head = read_head(&mut client.reader).unwrap();
    // The kernel's buffers fill up, then nothing moves: the count rests.
    let mut last = usize::MAX;
    let mut rests = 0;
    wait_until("the endpoint rests", || {
        std::thread::park_timeout(Duration::from_millis(20));
        let now = written.load(Ordering::SeqCst);
        rests = if now == last { rests + 1 } else { 0 };
        last = now;
        rests > 10
    });
    assert!(last < SIZE / 2, "{last} bytes are held for a client that does not read");
    let body = read_body(&mut client.reader, &head, false).unwrap();
    assert!(body.len() == SIZE && body.iter().all(|b| *b == 7));
}

#[test]
fn a_slow_uploader_and_a_slow_endpoint_lose_nothing() {
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::with_capacity(512, stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        let mut left: usize = field(&head, "content-length").unwrap().parse().unwrap();
        let mut sum = 0u64;
        while left > 0 {
            let n = reader.fill_buf().unwrap().len();
            sum += reader.buffer().iter().map(|b| u64::from(*b)).sum::<u64>();
            reader.consume(n);
            left -= n;
        }
        stream.write_all(&ok(sum.to_string().as_bytes())).unwrap();
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    let body: Vec<u8> = (0..4usize << 20).map(|i| (i % 253) as u8).collect();
    client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", body.len()));
    for part in body.chunks(10_007) {
        client.send(part);
    }
    assert_eq!(client.read().text(), body.iter().map(|b| u64::from(*b)).sum::<u64>().to_string());
}

#[test]
fn a_connection_ends_after_its_share_of_requests() {
    let origin = Origin::named("x");
    let world = World::serving(Limits { requests_per_conn: 3, ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    let closes: Vec<_> = (0..3).map(|_| client.get("/").field("connection").map(str::to_string)).collect();
    assert_eq!(closes, [None, None, Some("close".into())]);
    client.expect_end();
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let origin = Origin::named("still here");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read().text(), "still here");
    client.expect_end();
}

#[test]
fn a_client_that_left_frees_its_endpoint() {
    let (ended, heard) = crossbeam_channel::bounded(1);
    let origin = Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        ended.send(reader.read(&mut [0]).unwrap()).unwrap();
    });
    let world =
        World::serving(Limits { half_closed: Duration::from_millis(100), ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    read_head(&mut client.reader).unwrap();
    drop(client);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
}

#[test]
fn with_nothing_to_do_it_sleeps() {
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let Some(head) = read_head(&mut reader) else { return };
        let _ = match head.split(' ').nth(1).unwrap() {
            "/idle" => stream.write_all(&ok(b"x")),
            "/silent" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
            "/much" => stream.write_all(&ok(&vec![7; 32 << 20])),
            _ => {
                let _ = stream.write_all(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
                stream.shutdown(Shutdown::Write)
            }
        };
        let _ = reader.read(&mut [0]);
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut held = Vec::new();
    for path in ["/idle", "/silent", "/much", "/tunnel"] {
        let upgrade = if path == "/tunnel" { "Connection: Upgrade\r\nUpgrade: websocket\r\n" } else { "" };
        let mut client = world.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{upgrade}\r\n"));
        read_head(&mut client.reader).unwrap();
        held.push(client);
    }
    let mut half = world.client();
    half.send("GET /silent HTTP/1.1\r\nHost: app.test\r\n\r\n");
    half.stream.shutdown(Shutdown::Write).unwrap();
    read_head(&mut half.reader).unwrap();
    let mut dripping = world.client();
    dripping.send("GET / HT");
    let secure = Client::new(world.https);
    // Once it has come to rest, half a second passes with hardly a round: the sweep of idle links and a timer or two.
    let rounds = || world.proxy.as_ref().unwrap().shared.rounds.load(Ordering::SeqCst);
    wait_until("it rests", || {
        let before = rounds();
        std::thread::park_timeout(Duration::from_millis(500));
        rounds() - before < 12
    });
    drop((held, half, dripping, secure));
}

#[test]
fn rfc8555_8_3_a_challenge_is_answered_over_plain_http_and_nowhere_else() {
    let origin = Origin::named("app");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    let answer = client.get("/.well-known/acme-challenge/tok_en-1");
    assert_eq!((answer.status, answer.text()), (200, "tok_en-1.thumb"));
    assert_eq!(answer.field("content-type"), Some("application/octet-stream"));
    assert_eq!(client.get("/.well-known/acme-challenge/other").status, 404);
    assert_eq!(client.get("/").text(), "app", "the connection goes on");
    assert_eq!(origin.conns(), 1);
}
