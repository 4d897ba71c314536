//! Requests that are refused, and peers that take too long or too much.

use super::*;

/// However slow a client is here, that it is refused is not for its slowness.
fn patient() -> Limits {
    Limits { head: PATIENCE, linger: PATIENCE, ..Limits::DEFAULT }
}

/// An endpoint that must never hear of it.
fn world_without_requests() -> (World, Origin) {
    let origin = Origin::raw(|_| panic!("a refused request reached the endpoint"));
    (World::serving(patient(), &[origin.endpoint]), origin)
}

#[test]
fn smuggling_is_answered_and_ends_the_connection() {
    let (world, origin) = world_without_requests();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    for (fields, status) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 05", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: ", 400),
        ("Content-Length : 5", 400),
        (" Content-Length: 5", 400),
        ("X: y\r\n Content-Length: 5", 400),
        ("X: y\nContent-Length: 5", 400),
        ("X: y\rContent-Length: 5", 400),
        ("X: y\0", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding:\u{b}chunked", 400),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Connection: Content-Length\r\nContent-Length: 5", 400),
        ("Connection: Transfer-Encoding", 400),
        ("Host: other.test", 400),
        ("Expect: 200-ok", 417),
    ] {
        let mut client = world.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}"));
        let answer = client.read();
        assert_eq!((answer.status, answer.field("connection")), (status, Some("close")), "{fields:?}");
        client.expect_end();
    }
    assert_eq!(origin.conns(), 0);
}

#[test]
fn a_bad_chunk_is_answered_and_ends_the_connection() {
    let origin = Origin::raw(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let world = World::serving(patient(), &[origin.endpoint]);
    for chunks in [
        "x\r\n",
        "5 \r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhelloX",
        "0x5\r\n",
        "5;\r\nhello\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let mut client = world.client();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        client.send(chunks);
        let answer = client.read();
        assert_eq!((answer.status, answer.field("connection")), (400, Some("close")), "{chunks:?}");
        client.expect_end();
    }
}

#[test]
fn one_twin_field_more_reaches_no_endpoint() {
    let origin = Origin::new(|seen| ok(seen.head.as_bytes()));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nX-Tako-Internal-Token: x\r\nmy_own: 1\r\n\r\n");
    let head = client.read();
    assert!(!head.text().contains("Content_") && !head.text().contains("Transfer_") && !head.text().contains("Token"));
    assert!(head.text().contains("my_own: 1\r\n"));
}

#[test]
fn what_is_not_for_an_app_is_answered_here() {
    let (world, origin) = world_without_requests();
    let ask = |request: &str| {
        let mut client = world.client();
        client.send(format!("{request}\r\n\r\n"));
        client.read()
    };
    // RFC 9110 §9.3.7, §9.3.6, §9.3.8; RFC 9112 §3.2.
    for (request, status, allows) in [
        ("OPTIONS * HTTP/1.1\r\nHost: app.test", 204, true),
        ("OPTIONS http://app.test HTTP/1.1\r\nHost: app.test", 204, true),
        ("TRACE / HTTP/1.1\r\nHost: app.test", 405, true),
        ("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443", 405, true),
        ("GET / HTTP/1.0", 404, false),
        ("GET / HTTP/1.1\r\nHost: elsewhere.test", 404, false),
        ("GET / HTTP/1.1", 400, false),
        ("PRI * HTTP/2.0", 505, false),
    ] {
        let answer = ask(request);
        assert_eq!((answer.status, answer.field("allow").is_some()), (status, allows), "{request}");
        let ours = ["server", "via", "strict-transport-security"].map(|name| answer.field(name));
        assert_eq!((ours, answer.field("cache-control")), ([None; 3], Some("no-store")), "{request}");
    }
    assert_eq!(origin.conns(), 0);
}

#[test]
fn an_oversized_head_is_told_so() {
    let (world, origin) = world_without_requests();
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {}\r\n\r\n", "x".repeat(17 << 10)), 431),
        (format!("GET / HTTP/1.1\r\nHost: app.test\r\n{}\r\n", "a: b\r\n".repeat(101)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "x".repeat(9000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: app.test\r\nEndless: {}", "x".repeat(40 << 10)), 431),
        ("GET / HTTP/3.0\r\nHost: app.test\r\n\r\n".into(), 505),
        ("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test\r\n\r\n".into(), 405),
        ("\u{16}\u{3}\u{1}\u{2}".into(), 400),
    ] {
        let mut client = world.client();
        client.send(&request);
        assert_eq!(client.read().status, status, "{}", &request[..20.min(request.len())]);
        client.expect_end();
    }
    assert_eq!(origin.conns(), 0);
}

#[test]
fn a_head_that_drips_in_is_cut_off_by_an_absolute_limit() {
    let world = World::serving(short(), &[]);
    let mut client = world.client();
    let mut writer = client.stream.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        for b in get("/").repeat(20).bytes().filter(|b| *b != b'\n') {
            if writer.write_all(&[b]).is_err() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let answer = client.read();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    drop(client);
    drip.join().unwrap();
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::named("x");
    let world = World::serving(Limits { idle: Duration::from_millis(150), ..short() }, &[origin.endpoint]);
    let mut fresh = world.client();
    fresh.expect_end();
    // It may be so slow to ask that it is closed before.
    let mut client = loop {
        let mut client = world.client();
        if client.stream.write_all(get("/").as_bytes()).is_ok() && client.try_read(false).is_some() {
            break client;
        }
    };
    client.expect_end();
}

#[test]
fn a_body_over_the_limit_is_a_413_however_it_is_framed() {
    let origin = Origin::raw(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let world = World::with(patient(), 2);
    world.publish_limited(&[origin.endpoint], 1000);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1001\r\n\r\n");
    let answer = client.read();
    assert_eq!((answer.status, answer.field("connection")), (413, Some("close")));
    client.expect_end();
    // One that sends it all before it reads still reads why: no reset overtakes the answer.
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 200000\r\n\r\n");
    client.send([b'x'; 200_000]);
    assert_eq!(client.read().status, 413);
    client.expect_end();
    assert_eq!(origin.conns(), 0);

    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        client.send(format!("190\r\n{}\r\n", "x".repeat(400)));
    }
    assert_eq!(client.read().status, 413);
}

#[test]
fn a_body_that_does_not_come_is_a_408() {
    let origin = Origin::raw(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let world = World::serving(Limits { body: Duration::from_millis(150), ..short() }, &[origin.endpoint]);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf");
    let answer = client.read();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    client.expect_end();
}
