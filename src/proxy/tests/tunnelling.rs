//! WebSockets: from the upgrade to the end of both directions.

use std::net::Shutdown;

use super::*;

pub(super) const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n";

/// Accepts the upgrade, says `first` in the same write, then echoes to the end.
pub(super) fn echo(first: &'static [u8]) -> Origin {
    Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("Upgrade"), Some("websocket")));
        assert_eq!(field(&head, "sec-websocket-key"), Some("k"));
        switch_and_echo(&mut reader, &mut stream, first);
    })
}

/// Says the 101 and `first` in one write, then repeats what comes until its end.
pub(super) fn switch_and_echo(reader: &mut impl Read, stream: &mut TcpStream, first: &[u8]) {
    stream.write_all(&[SWITCH, first].concat()).unwrap();
    let mut buffer = [0; 5000];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => stream.write_all(&buffer[..n]).unwrap(),
        }
    }
}

#[test]
fn bytes_right_behind_both_heads_arrive() {
    let origin = echo(b"hello ");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE.to_owned() + "early");
    let head = read_head(&mut client.reader).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!((field(&head, "upgrade"), field(&head, "sec-websocket-accept")), (Some("websocket"), Some("a")));
    let mut got = [0; 11];
    client.reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello early");
}

#[test]
fn carries_much_both_ways_and_passes_the_end_on() {
    let origin = echo(b"");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE);
    read_head(&mut client.reader).unwrap();
    let data: Vec<u8> = (0..8usize << 20).map(|i| (i % 251) as u8).collect();
    let (mut writer, sent) = (client.stream.try_clone().unwrap(), data.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    client.reader.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == data);
}

#[test]
fn nothing_flows_before_the_101_and_a_refusal_is_an_answer() {
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            let answer = if head.starts_with("GET /ws") { "HTTP/1.1 403 No" } else { "HTTP/1.1 200 OK" };
            stream.write_all(format!("{answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE.to_owned() + &get("/next"));
    assert_eq!(client.read().status, 403);
    assert_eq!(client.read().status, 200, "what followed was a request after all");
}

#[test]
fn a_switch_to_something_else_is_a_502() {
    let origin =
        Origin::new(|_| b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec());
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE);
    assert_eq!(client.read().status, 502);
}

#[test]
fn an_open_tunnel_holds_its_endpoint() {
    let origin = echo(b"");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE);
    read_head(&mut client.reader).unwrap();
    let generation = world.publish(&[]);
    world.hear(&Notice::Acked(generation));
    client.send("ping");
    client.reader.read_exact(&mut [0; 4]).unwrap();
    assert!(world.notices.try_recv().is_err(), "drained under an open tunnel");
    drop(client);
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn a_silent_tunnel_ends() {
    let origin = echo(b"");
    let world = World::serving(Limits { tunnel: Duration::from_millis(150), ..short() }, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE);
    read_head(&mut client.reader).unwrap();
    let _ = client.reader.read(&mut [0]); // an end or a reset, but not silence
    let generation = world.publish(&[]);
    world.hear(&Notice::Acked(generation));
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn a_client_that_half_closed_and_then_died_frees_its_endpoint() {
    // An endpoint that neither answers an end with an end nor says anything.
    let (read_end, ended) = crossbeam_channel::bounded(1);
    let (let_go, held) = crossbeam_channel::bounded::<()>(1);
    let origin = Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader).unwrap();
        stream.write_all(SWITCH).unwrap();
        read_end.send(reader.read(&mut [0]).unwrap()).unwrap();
        let _ = held.recv_timeout(2 * PATIENCE);
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(UPGRADE);
    read_head(&mut client.reader).unwrap();
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(0));
    rustix::net::sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).unwrap();
    drop(client);
    world.publish(&[]);
    world.hear(&Notice::Drained(origin.endpoint.id));
    let_go.send(()).unwrap();
}

/// Ends a stream by a reset, as a peer does that crashed.
fn vanish(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    stream.shutdown(Shutdown::Read).unwrap(); // wakes a reader that has its own handle on it
}

/// Writes until nothing more is taken, by anybody on the way.
fn stuff(stream: &mut TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while stream.write(&[b's'; 64 << 10]).is_ok() {}
}

/// Speaks `first` right behind the 101, reads nothing, and hands its connection over.
fn handed_over(first: &'static [u8]) -> (Origin, Receiver<TcpStream>) {
    let (give, taken) = crossbeam_channel::unbounded();
    let origin = Origin::raw(move |mut stream| {
        read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream.write_all(&[SWITCH, first].concat()).unwrap();
        give.send(stream).unwrap();
    });
    (origin, taken)
}

fn upgraded(world: &World) -> Client {
    let mut client = world.client();
    client.send(UPGRADE);
    assert!(read_head(&mut client.reader).unwrap().starts_with("HTTP/1.1 101 "));
    client
}

/// What has been written to `stream` and is not yet with its peer's kernel; an end that was said counts as a byte.
/// `None` where the kernel's table has no such line: it is read in pieces, and may change between two of them.
fn unsent(stream: &TcpStream) -> Option<u64> {
    let hex = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let ports = (hex(stream.local_addr().unwrap()), hex(stream.peer_addr().unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut queues = lines.filter(|l| l[1].ends_with(&ports.0) && l[2].ends_with(&ports.1)).map(|l| l[4]);
    let (waiting, _) = queues.next()?.split_once(':').unwrap();
    Some(u64::from_str_radix(waiting, 16).unwrap())
}

#[test]
fn what_an_endpoint_said_before_it_died_arrives() {
    const SIZE: usize = 3 << 20;
    /// Less than what our side takes while the client does not read.
    const TAIL: usize = 128 << 10;
    let (origin, streams) = handed_over(b"");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = upgraded(&world);
    let endpoint = streams.recv_timeout(PATIENCE).unwrap();
    let mut speaker = endpoint.try_clone().unwrap();
    let speaking = std::thread::spawn(move || {
        speaker.write_all(&vec![b'w'; SIZE]).unwrap();
        speaker.shutdown(Shutdown::Write).unwrap();
    });
    let mut endpoint = Some(endpoint);
    let mut piece = [0; 16 << 10];
    let mut got = 0;
    while got < SIZE {
        // It dies as soon as all it said is on our side, which is long before the client has read it. From then on
        // whatever it is sent is answered by a reset.
        let is_heard = |endpoint: &TcpStream| speaking.is_finished() && unsent(endpoint) == Some(0);
        if let Some(endpoint) = endpoint.as_ref().filter(|_| got + TAIL >= SIZE) {
            wait_until("the end is acknowledged, which may be delayed", || is_heard(endpoint));
        }
        drop(endpoint.take_if(|endpoint| is_heard(endpoint)));
        if endpoint.is_none() {
            client.send("x");
        }
        let n = client.reader.read(&mut piece).unwrap_or_else(|e| panic!("{e} after {got}"));
        assert!(n > 0, "ended after {got}");
        assert!(piece[..n].iter().all(|b| *b == b'w'));
        got += n;
    }
    client.expect_end();
    speaking.join().unwrap();
}

#[test]
fn a_dead_side_frees_the_other_at_once() {
    let (origin, streams) = handed_over(b"");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let client = upgraded(&world);
    let mut endpoint = streams.recv_timeout(PATIENCE).unwrap();
    vanish(client.stream);
    drop(client.reader);
    assert!(matches!(endpoint.read(&mut [0]), Ok(0) | Err(_)), "said something");

    let mut client = upgraded(&world);
    vanish(streams.recv_timeout(PATIENCE).unwrap());
    client.expect_end();
    let conns = || world.proxy.as_ref().unwrap().shared.conns.load(Ordering::SeqCst);
    drop((client, endpoint));
    wait_until("all is freed", || conns() == 0);
    world.publish(&[]);
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn a_side_that_takes_nothing_does_not_keep_a_dead_one() {
    let limits = Limits { write: Duration::from_millis(200), ..Limits::DEFAULT };
    let (origin, streams) = handed_over(b"");
    let world = World::serving(limits, &[origin.endpoint]);
    for client_dies in [true, false] {
        let client = upgraded(&world);
        let mut endpoint = streams.recv_timeout(PATIENCE).unwrap();
        let Client { mut stream, reader } = client;
        drop(reader);
        let stays = match client_dies {
            true => {
                stuff(&mut stream);
                vanish(stream);
                endpoint
            }
            false => {
                stuff(&mut endpoint);
                vanish(endpoint);
                stream
            }
        };
        let conns = || world.proxy.as_ref().unwrap().shared.conns.load(Ordering::SeqCst);
        wait_until("it is freed", || conns() == 0);
        drop(stays);
    }
    world.publish(&[]);
    world.hear(&Notice::Drained(origin.endpoint.id));
}

#[test]
fn only_a_get_of_http_1_1_that_asks_for_a_websocket_is_upgraded() {
    // An endpoint that would switch at the word alone, whoever says it.
    let origin = Origin::new(|seen| match seen.field("upgrade") {
        Some(protocol) => format!("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n").into_bytes(),
        None => ok(seen.field("connection").unwrap_or("none").as_bytes()),
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let asks = |line: &str, fields: &str| {
        let mut client = world.client();
        client.send(format!("{line}\r\nHost: app.test\r\n{fields}\r\n"));
        let answer = client.try_read(false).expect("an answer");
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    let get = "GET / HTTP/1.1";
    for (line, fields) in [
        (get, "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (get, "Connection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n"),
        (get, "Connection: upgrade\r\nUpgrade: h2c, websocket\r\nContent-Length: 0\r\n"),
    ] {
        assert_eq!(asks(line, fields).0, 101, "{line} {fields}");
    }
    let ordinary = (200, "none".to_string());
    for (line, fields) in [
        ("POST / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n"),
        ("GET / HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (get, "Upgrade: websocket\r\n"),
        (get, "Connection: Upgrade\r\n"),
        (get, "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        (get, "Connection: Upgrade\r\nUpgrade: websockets, xwebsocket\r\n"),
        (get, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
        (get, "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nb"),
        (get, "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
    ] {
        assert_eq!(asks(line, fields), ordinary, "{line} {fields}");
    }
}

#[test]
fn what_both_sides_negotiate_passes_untouched() {
    const ASKED: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: one, two\r\nSec-WebSocket-Protocol: three\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=\"10\", x-webkit\r\nOrigin: null\r\n";
    const AGREED: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: three\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10\r\n";
    let origin = Origin::new(|seen| {
        assert!(seen.head.contains(ASKED), "{}", seen.head);
        format!("HTTP/1.1 101 S\r\n{AGREED}Connection: upgrade\r\nUpgrade: WebSocket\r\nContent-Length: 9\r\n\r\n")
            .into()
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client
        .send(format!("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{ASKED}\r\n"));
    let head = read_head(&mut client.reader).unwrap();
    let expected = format!("HTTP/1.1 101 S\r\n{AGREED}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(head, expected, "a length would belong to nothing (RFC 9110 §8.6)");
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    let origin = Origin::new(|_| SWITCH.to_vec());
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    for n in 1..=3 {
        assert_eq!(client.get("/").status, 502);
        assert_eq!(origin.conns(), n, "its connection is never used again");
    }
}

#[test]
fn each_half_ends_by_itself() {
    let (origin, streams) = handed_over(b"");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let said = |stream: &mut dyn Read, words: &[u8]| {
        let mut got = vec![0; words.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, words);
    };
    for client_first in [true, false] {
        let mut client = upgraded(&world);
        let mut endpoint = streams.recv_timeout(PATIENCE).unwrap();
        let (first, second) = match client_first {
            true => (&mut client.stream, &mut endpoint),
            false => (&mut endpoint, &mut client.stream),
        };
        first.write_all(b"last").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        said(second, b"last");
        assert_eq!(second.read(&mut [0]).unwrap(), 0, "the end is passed on");
        for _ in 0..3 {
            second.write_all(b"not yet").unwrap();
            said(first, b"not yet");
        }
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
    }
    let conns = || world.proxy.as_ref().unwrap().shared.conns.load(Ordering::SeqCst);
    wait_until("both tunnels are gone", || conns() == 0);
    assert_eq!(origin.conns(), 2, "a link that was a tunnel is not used again");
}

#[test]
fn a_tunnel_over_tls_is_the_same_tunnel() {
    let origin = echo(b"hello ");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = BufReader::new(world.secure("app.test"));
    client.get_mut().write_all((UPGRADE.to_owned() + "early").as_bytes()).unwrap();
    assert!(read_head(&mut client).unwrap().starts_with("HTTP/1.1 101 "));
    let mut got = [0; 11];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello early");
    // More than a record, less than what the sockets between hold: it is written before it is read.
    let data: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
    client.get_mut().write_all(&data).unwrap();
    let mut got = vec![0; data.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == data);
    // Half an end in TLS: goodbye without a FIN (RFC 8446 §6.1).
    client.get_mut().conn.send_close_notify();
    client.get_mut().flush().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the endpoint ended too, and that was said properly");
}

#[test]
fn an_hour_of_silence_is_allowed() {
    assert_eq!(Limits::DEFAULT.tunnel, Duration::from_secs(3600));
    let origin = echo(b"");
    let brief = Duration::from_millis(1);
    let limits = Limits { idle: brief, body: brief, write: brief, response_head: PATIENCE, ..short() };
    let world = World::serving(Limits { between_bytes: brief, half_closed: brief, ..limits }, &[origin.endpoint]);
    // A client that was slow to ask is closed before.
    let mut client = loop {
        let mut client = world.client();
        let asked = client.stream.write_all(UPGRADE.as_bytes());
        if asked.is_ok() && read_head(&mut client.reader).is_some_and(|head| head.starts_with("HTTP/1.1 101 ")) {
            break client;
        }
    };
    // Of all limits only its own holds for a tunnel; the clock of the worker has moved on by then.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(50) {
        let generation = world.publish(&[origin.endpoint]);
        world.hear(&Notice::Acked(generation));
    }
    client.send("ping");
    client.reader.read_exact(&mut [0; 4]).unwrap();
}
