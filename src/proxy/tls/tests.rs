use std::io::{Read, Write};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::proxy::certs::tests::certs;

pub(in crate::proxy) fn client(certs: &[&Certs], name: &str) -> ClientConnection {
    client_of(certs, name, rustls::ALL_VERSIONS, &[])
}

pub(in crate::proxy) fn client_of(
    certs: &[&Certs],
    name: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> ClientConnection {
    let config = Arc::new(client_config(certs, versions, alpn));
    ClientConnection::new(config, ServerName::try_from(name.to_string()).unwrap()).unwrap()
}

/// Believes in these certificates only.
pub(in crate::proxy) fn client_config(
    certs: &[&Certs],
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certs in certs {
        for key in certs.by_name.values().chain([&certs.default]) {
            roots.add(key.cert[0].clone()).unwrap();
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Gives the server what came, behind what it holds.
fn feed(server: &mut Tls, part: &[u8], plain: &mut [u8], reply: &mut Wire) -> Result<Fed, Broken> {
    let mut wire = [server.held(), part].concat();
    server.feed(&mut wire, plain, reply)
}

fn take_from(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

fn give_to(client: &mut ClientConnection, wire: &mut Wire) {
    let mut left = wire.bytes();
    while !left.is_empty() {
        client.read_tls(&mut left).unwrap();
        client.process_new_packets().unwrap();
    }
    wire.clear();
}

/// Moves bytes between the two, `step` at a time, until neither has any; returns what the server read.
fn talk(client: &mut ClientConnection, server: &mut Tls, to_client: &mut Wire, step: usize) -> (Vec<u8>, bool) {
    let (mut read, mut closed) = (Vec::new(), false);
    loop {
        let wire = take_from(client);
        if wire.is_empty() && to_client.bytes().is_empty() {
            return (read, closed);
        }
        for part in wire.chunks(step) {
            let mut plain = vec![0; part.len() + 2 * RECORD];
            let fed = feed(server, part, &mut plain, to_client).unwrap();
            read.extend_from_slice(&plain[..fed.plain]);
            closed |= fed.closed;
        }
        give_to(client, to_client);
    }
}

/// A client and a server after the handshake.
fn pair(version: &'static rustls::SupportedProtocolVersion) -> (ClientConnection, Tls) {
    let certs = Arc::new(certs("a.test"));
    let config = Configs::new().unwrap().server(&certs);
    let mut client = client_of(&[&certs], "a.test", &[version], &[]);
    let mut server = Tls::new(&config).unwrap();
    talk(&mut client, &mut server, &mut Wire::default(), 4096);
    assert!(server.is_ready());
    (client, server)
}

/// The lengths of the records in `wire`, without their headers.
fn records(mut wire: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = wire {
        let length = usize::from(*high) << 8 | usize::from(*low);
        lengths.push(length);
        wire = &rest[length..];
    }
    lengths
}

fn round_trip(version: &'static rustls::SupportedProtocolVersion, step: usize, size: usize) {
    let (mut client, mut server) = pair(version);
    let mut wire = Wire::default();
    client.set_buffer_limit(None);
    client.writer().write_all(&vec![7; size]).unwrap();
    let (read, _) = talk(&mut client, &mut server, &mut wire, step);
    assert_eq!(read, vec![7; size]);
    let memory = server.held.capacity() + server.tickets.capacity();
    assert_eq!(memory, 0, "an idle session holds no bytes");

    let mut got = vec![0; size];
    for (sent, back) in vec![9; size].chunks(20_000).zip(got.chunks_mut(20_000)) {
        server.seal(sent, 0, &mut wire).unwrap();
        talk(&mut client, &mut server, &mut wire, step);
        client.reader().read_exact(back).unwrap();
    }
    assert_eq!(got, vec![9; size]);
    server.close(&mut wire);
    client.send_close_notify();
    let (_, closed) = talk(&mut client, &mut server, &mut wire, step);
    assert!(closed);
    assert_eq!(client.reader().read(&mut [0]).unwrap(), 0, "a clean end");
}

#[test]
fn carries_bytes_both_ways_however_they_are_cut() {
    for version in [&version::TLS12, &version::TLS13] {
        round_trip(version, 1, 100);
        round_trip(version, 7, 3_000);
        round_trip(version, 32 << 10, 100_000);
    }
}

#[test]
fn seals_while_a_record_is_incomplete() {
    let (mut client, mut server) = pair(&version::TLS13);
    let mut to_client = Wire::default();
    client.writer().write_all(b"question").unwrap();
    let wire = take_from(&mut client);
    let (first, second) = wire.split_at(9);
    let mut plain = vec![0; 2 * RECORD];
    assert_eq!(feed(&mut server, first, &mut plain, &mut to_client), Ok(Fed { plain: 0, closed: false }));
    server.seal(b"answer", 0, &mut to_client).unwrap();
    assert_eq!(feed(&mut server, second, &mut plain, &mut to_client), Ok(Fed { plain: 8, closed: false }));
    talk(&mut client, &mut server, &mut to_client, 4096);
    let mut got = [0; 6];
    client.reader().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
}

#[test]
fn noise_is_answered_with_an_alert() {
    let config = Configs::new().unwrap().server(&Arc::new(certs("a.test")));
    let mut server = Tls::new(&config).unwrap();
    let (mut plain, mut reply) = (vec![0; 2 * RECORD], Wire::default());
    let noise = feed(&mut server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut plain, &mut reply);
    assert_eq!(noise, Err(Broken));
    assert_eq!(reply.bytes().first(), Some(&21), "an alert record (RFC 8446 §5.1)");
}

#[test]
fn a_hello_that_never_ends_is_refused() {
    let config = Configs::new().unwrap().server(&Arc::new(certs("a.test")));
    let mut server = Tls::new(&config).unwrap();
    let (mut plain, mut reply) = (vec![0; 2 * RECORD], Wire::default());
    // A handshake record that says that its hello is 16 MiB; and one of a length that rustls would wait for.
    for length in [[0xff, 0xff, 0xff], [0, 0xff, 0xff]] {
        let mut fed = 0;
        let result = loop {
            let body = if fed == 0 { [&[1][..], &length, &[0; 16_000]].concat() } else { vec![0; 16_000] };
            let head = [22, 3, 1, (body.len() >> 8) as u8, body.len() as u8];
            fed += body.len();
            let result = feed(&mut server, &[&head[..], &body].concat(), &mut plain, &mut reply);
            assert!(server.held.len() <= MAX_HELD);
            if result.is_err() || fed > 1 << 20 {
                break result;
            }
        };
        assert_eq!(result, Err(Broken));
        server = Tls::new(&config).unwrap();
    }
}

#[test]
fn a_long_answer_begins_with_small_records_and_a_small_one_is_whole() {
    let (_, mut server) = pair(&version::TLS13);
    let mut sealed = |bytes: usize, now| {
        let mut wire = Wire::default();
        server.seal(&vec![1; bytes], now, &mut wire).unwrap();
        records(wire.bytes()).into_iter().map(|n| n - 17).collect::<Vec<_>>()
    };
    assert_eq!(sealed(SMALL_ANSWER, 5_000), [SMALL_ANSWER]);
    assert_eq!(sealed(20_000, 5_000), [4096, 4096, 4096, 4096, 3616]);
    assert_eq!(sealed(2 * RECORD, 5_100), [4096; 8]);
    assert_eq!(sealed(2 * RECORD, 5_200), [RECORD, RECORD], "the window is open");
    assert_eq!(sealed(2 * RECORD, 6_199), [RECORD, RECORD]);
    assert_eq!(sealed(2 * RECORD, 7_199), [4096; 8], "after a second of silence it begins anew");
    assert_eq!(sealed(100, 7_200), [100]);
}

/// What the server still says after the client's last flight, which carries a question too.
fn last_flight(version: &'static rustls::SupportedProtocolVersion) -> (ClientConnection, Tls, Wire) {
    let certs = Arc::new(certs("a.test"));
    let config = Configs::new().unwrap().server(&certs);
    let (mut client, mut wire) = (client_of(&[&certs], "a.test", &[version], &[]), Wire::default());
    let mut server = Tls::new(&config).unwrap();
    client.writer().write_all(b"question").unwrap();
    let mut plain = vec![0; 2 * RECORD];
    while !server.is_ready() {
        give_to(&mut client, &mut wire);
        feed(&mut server, &take_from(&mut client), &mut plain, &mut wire).unwrap();
    }
    (client, server, wire)
}

#[test]
fn tickets_go_with_the_first_answer() {
    let (mut client, mut server, mut wire) = last_flight(&version::TLS13);
    assert_eq!(wire.bytes(), b"", "nobody waits for tickets");
    server.seal(b"answer", 0, &mut wire).unwrap();
    assert_eq!(records(wire.bytes()).len(), 2, "both tickets are in one record, then the answer");
    give_to(&mut client, &mut wire);
    assert_eq!(client.tls13_tickets_received(), 2);
    let mut got = [0; 6];
    client.reader().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");

    // Whatever is said first takes them along.
    let (mut client, mut server, mut wire) = last_flight(&version::TLS13);
    client.writer().write_all(b"more").unwrap();
    feed(&mut server, &take_from(&mut client), &mut [0; 2 * RECORD], &mut wire).unwrap();
    give_to(&mut client, &mut wire);
    assert_eq!(client.tls13_tickets_received(), 2);
    let (mut client, mut server, mut wire) = last_flight(&version::TLS13);
    server.close(&mut wire);
    give_to(&mut client, &mut wire);
    assert_eq!(client.tls13_tickets_received(), 2);
}

#[test]
fn a_client_that_waits_for_our_finished_gets_it_at_once() {
    let (mut client, server, mut wire) = last_flight(&version::TLS12);
    assert!(server.is_ready() && !wire.bytes().is_empty());
    give_to(&mut client, &mut wire);
    assert!(!client.is_handshaking());
}

/// What this process holds in memory of its own, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Runs in a process of its own: other tests would be measured too.
#[test]
fn an_idle_session_is_small() {
    const ALONE: &str = "TAKO_TEST_IDLE_SESSIONS";
    const SESSIONS: usize = 1_000;
    if std::env::var_os(ALONE).is_none() {
        let name = "proxy::tls::tests::an_idle_session_is_small";
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        let output = tests.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        return assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    let certs = Arc::new(certs("a.test"));
    let config = Configs::new().unwrap().server(&certs);
    let mut all = Vec::new(); // or the memory of the first would be the second's
    for version in [&version::TLS12, &version::TLS13] {
        let connect = |_| {
            let mut client = client_of(&[&certs], "a.test", &[version], &[b"http/1.1"]);
            let mut server = Box::new(Tls::new(&config).unwrap());
            client.writer().write_all(b"question").unwrap();
            talk(&mut client, &mut server, &mut Wire::default(), 4096);
            server
        };
        all.extend((0..10).map(connect));
        let before = resident();
        all.extend((0..SESSIONS).map(connect));
        let each = (resident() - before) / SESSIONS;
        let whole = size_of::<Tls>();
        writeln!(std::io::stdout(), "{version:?}: {each} bytes, of them {whole} in one piece").unwrap();
        assert!(each < 6 << 10, "{each}");
    }
}
