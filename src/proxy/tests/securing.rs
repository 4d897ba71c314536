//! TLS, and what is said to those who come without.

use rustls::{ClientConnection, StreamOwned};

use super::*;
use crate::proxy::tls;

pub(super) type Secure = StreamOwned<ClientConnection, TcpStream>;

impl World {
    pub(super) fn secure(&self, name: &str) -> Secure {
        let stream = TcpStream::connect(self.https).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(tls::tests::client(&[&self.certs], name), stream)
    }
}

pub(super) fn ask(stream: &mut BufReader<Secure>, request: &str) -> Answered {
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let head = read_head(stream).unwrap();
    let body = read_body(stream, &head, false).unwrap();
    Answered { status: head[9..12].parse().unwrap(), head, body }
}

#[test]
fn answers_over_tls_with_the_certificate_of_the_name() {
    let origin = Origin::new(|seen| ok(seen.head.as_bytes()));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    for (name, cert) in [
        ("app.test", &world.certs.by_name["app.test"]),
        ("one.wild.test", &world.certs.by_name["*.wild.test"]),
        ("default.test", &world.certs.default),
    ] {
        let mut stream = BufReader::new(world.secure(name));
        for _ in 0..3 {
            let answer = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
            assert_eq!(answer.status, if name == "default.test" { 404 } else { 200 });
            assert!(answer.status == 404 || answer.text().contains("X-Forwarded-Proto: https\r\n"));
        }
        let session = &stream.get_ref().conn;
        assert_eq!(session.peer_certificates().unwrap()[0], cert.cert[0]);
    }
}

#[test]
fn offers_http_1_1_and_both_versions_of_tls() {
    let origin = Origin::named("x");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(world.certs.by_name["app.test"].cert[0].clone()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        for resumed in [false, true] {
            let session = ClientConnection::new(config.clone(), "app.test".try_into().unwrap()).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(session, TcpStream::connect(world.https).unwrap()));
            assert_eq!(ask(&mut stream, &get("/")).text(), "x");
            let session = &stream.get_ref().conn;
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.handshake_kind() == Some(rustls::HandshakeKind::Resumed), resumed, "{version:?}");
        }
    }
}

#[test]
fn carries_large_bodies_over_tls_both_ways() {
    let origin = Origin::new(|seen| ok(&seen.body));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut stream = BufReader::new(world.secure("app.test"));
    // Larger than any buffer between; written in one go, so the proxy must hold it back and take it up again.
    for size in [10usize, 20_000, 1 << 20] {
        let body: Vec<u8> = (0..size).map(|i| (i % 249) as u8).collect();
        let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n");
        stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(read_body(&mut stream, &head, false).unwrap() == body, "{size}");
    }
}

#[test]
fn a_new_certificate_is_used_with_the_next_table() {
    let origin = Origin::named("x");
    let mut world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut live = BufReader::new(world.secure("app.test"));
    ask(&mut live, &get("/"));
    let mut certs = Certs::clone(&world.certs);
    certs.by_name.insert("app.test".into(), certs::tests::key("app.test"));
    world.certs = Arc::new(certs);
    let generation = world.publish(&[origin.endpoint]);
    world.hear(&Notice::Acked(generation));
    let mut stream = BufReader::new(world.secure("app.test"));
    ask(&mut stream, &get("/"));
    assert_eq!(stream.get_ref().conn.peer_certificates().unwrap()[0], world.certs.by_name["app.test"].cert[0]);
    assert_eq!(ask(&mut live, &get("/")).text(), "x", "who is connected notices nothing");
}

#[test]
fn rfc8446_6_1_a_clean_end_says_close_notify_and_a_cut_one_does_not() {
    let origin = Origin::raw(|mut stream| {
        let head = read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        let length = if head.starts_with("GET /whole") { 4 } else { 9 };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nfour").unwrap();
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    for (path, clean) in [("/whole", true), ("/cut", false)] {
        let mut stream = world.secure("app.test");
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut all = Vec::new();
        assert_eq!(stream.read_to_end(&mut all).is_ok(), clean, "{path}");
    }
}

#[test]
fn a_client_that_said_goodbye_gets_its_answers() {
    let origin = Origin::new(|seen| ok(&seen.body));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    for fin in [false, true] {
        let mut stream = world.secure("app.test");
        let post = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi";
        stream.write_all((get("/") + post).as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.conn.complete_io(&mut stream.sock).unwrap();
        if fin {
            stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut stream = BufReader::new(stream);
        for body in ["", "hi"] {
            let head = read_head(&mut stream).unwrap();
            assert_eq!(read_body(&mut stream, &head, false).unwrap(), body.as_bytes());
        }
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "a clean end");
    }
}

#[test]
fn a_handshake_that_does_not_come_ends() {
    let origin = Origin::named("x");
    let world = World::serving(short(), &[origin.endpoint]);
    let mut silent = Client::new(world.https);
    silent.expect_end();
    // In a world that leaves it the time to say something.
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut noise = Client::new(world.https);
    noise.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut alert = Vec::new();
    noise.reader.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&21), "an alert, then a clean end");
}

#[test]
fn plain_requests_are_sent_to_https() {
    let origin = Origin::named("x");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send("GET /a/b?c=d&e HTTP/1.1\r\nHost: app.example.com:80\r\nAccept: text/html\r\n\r\n");
    let answer = client.read();
    assert_eq!((answer.status, answer.field("cache-control")), (307, Some("no-store")));
    assert_eq!(answer.field("location"), Some("https://app.example.com:8443/a/b?c=d&e"));
    assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"));
    // The connection goes on, and a forwarder that says so is believed on loopback.
    client.send("GET / HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(client.read().text(), "x");
    client.send("GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: app.example.com\r\n\r\n");
    assert_eq!(client.read().status, 404);
    client.send("POST / HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 3\r\n\r\nabc");
    let answer = client.read();
    assert_eq!((answer.status, answer.field("connection")), (307, Some("close")));
    client.expect_end();
}

#[test]
fn our_own_status_is_for_this_machine() {
    let origin = Origin::raw(|_| panic!("tako.internal reached an app"));
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client
        .send("GET /status HTTP/1.1\r\nHost: tako.internal\r\n\r\nGET /other HTTP/1.1\r\nHost: tako.internal\r\n\r\n");
    let answer = client.read();
    assert_eq!((answer.status, answer.text()), (200, "ok\n"));
    assert_eq!(client.read().status, 404);
    client.send("OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\nGET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n");
    assert_eq!(client.read().status, 204);
    assert_eq!(client.read().status, 404);
    assert_eq!(origin.conns(), 0);
}
