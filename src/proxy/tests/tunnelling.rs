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
        stream.write_all(&[SWITCH, first].concat()).unwrap();
        let mut buffer = [0; 5000];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => stream.write_all(&buffer[..n]).unwrap(),
            }
        }
    })
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
