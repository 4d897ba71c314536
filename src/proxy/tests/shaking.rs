//! Handshakes: whom they resume, which certificate they show, and what many of them at once do to everybody else.

use std::sync::atomic::AtomicBool;

use rustls::{AlertDescription, ClientConfig, ClientConnection, HandshakeKind, StreamOwned, version};

use super::securing::{Secure, ask};
use super::*;
use crate::proxy::tls;

type Version = &'static rustls::SupportedProtocolVersion;

impl World {
    fn all_conns(&self) -> usize {
        self.proxy.as_ref().unwrap().shared.conns.load(Ordering::SeqCst)
    }

    /// A client that connects and says nothing; accepted when this returns.
    fn silent(&self) -> Client {
        let before = self.all_conns();
        let client = Client::new(self.https);
        wait_until("a silent client is accepted", || self.all_conns() > before);
        client
    }

    fn secure_as(&self, config: &Arc<ClientConfig>) -> BufReader<Secure> {
        let stream = TcpStream::connect(self.https).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let session = ClientConnection::new(config.clone(), "app.test".try_into().unwrap()).unwrap();
        BufReader::new(StreamOwned::new(session, stream))
    }

    /// One request on a new connection.
    fn shake(&self, config: &Arc<ClientConfig>) -> HandshakeKind {
        let mut stream = self.secure_as(config);
        assert_eq!(ask(&mut stream, &get("/")).text(), "x");
        assert!(!stream.get_ref().conn.is_early_data_accepted());
        stream.get_ref().conn.handshake_kind().unwrap()
    }
}

/// A handshake per worker, so that a silent client closes the door of one of two.
fn one_each() -> Limits {
    Limits { handshakes: 1, handshake_when_busy: PATIENCE, head: PATIENCE, ..Limits::DEFAULT }
}

fn resumes_across(version: Version) {
    let origin = Origin::named("x");
    let mut world = World::serving(one_each(), &[origin.endpoint]);
    let mut config = tls::tests::client_config(&[&world.certs], &[version], &[]);
    config.enable_early_data = true;
    let config = Arc::new(config);
    // The door of one worker is closed, so these are the other's.
    let first = world.silent();
    assert_eq!(world.shake(&config), HandshakeKind::Full);
    assert_eq!(world.shake(&config), HandshakeKind::Resumed);
    wait_until("the first two are gone", || world.all_conns() == 1);
    // And now it is the other way round.
    let second = world.silent();
    drop(first);
    for _ in 0..4 {
        assert_eq!(world.shake(&config), HandshakeKind::Resumed, "{version:?}");
    }
    drop(second);

    let mut certs = Certs::clone(&world.certs);
    certs.by_name.insert("app.test".into(), certs::tests::key("app.test"));
    world.certs = Arc::new(certs);
    let generation = world.publish(&[origin.endpoint]);
    world.hear(&Notice::Acked(generation));
    assert_eq!(world.shake(&config), HandshakeKind::Resumed, "a ticket outlives the certificate");
}

#[test]
fn a_ticket_is_good_at_every_worker_and_after_a_new_certificate() {
    resumes_across(&version::TLS13);
    resumes_across(&version::TLS12);
}

#[test]
fn early_data_is_not_taken() {
    let origin = Origin::named("x");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut config = tls::tests::client_config(&[&world.certs], &[&version::TLS13], &[]);
    config.enable_early_data = true;
    let config = Arc::new(config);
    assert_eq!(world.shake(&config), HandshakeKind::Full);
    let mut session = ClientConnection::new(config, "app.test".try_into().unwrap()).unwrap();
    assert!(session.early_data().is_none(), "no ticket of ours offers it");
}

/// A handshake in TLS 1.2, where certificates are sent in the clear: ours, when asked for `name`. It may be one that no
/// client of today would send, so another of its length is asked for and replaced on the wire.
fn shown_to(world: &World, name: &str) -> Vec<u8> {
    let placeholder = "n".repeat(name.len() - 5) + ".test";
    let mut session = tls::tests::client_of(&[&world.certs], &placeholder, &[&version::TLS12], &[]);
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let at = hello.windows(name.len()).position(|w| w == placeholder.as_bytes()).unwrap();
    hello[at..at + name.len()].copy_from_slice(name.as_bytes());
    let mut client = Client::new(world.https);
    client.send(&hello);
    // Up to ServerHelloDone, which is empty (RFC 5246 §7.4.5).
    let mut flight = Vec::new();
    while !flight.ends_with(&[14, 0, 0, 0]) {
        let mut byte = [0];
        client.reader.read_exact(&mut byte).unwrap();
        flight.push(byte[0]);
    }
    flight
}

#[test]
fn rfc6066_3_a_name_in_any_case_and_with_a_final_dot_finds_its_certificate() {
    let world = World::serving(Limits::DEFAULT, &[]);
    for (name, key) in [
        ("app.test", "app.test"),
        ("APP.Test", "app.test"),
        ("app.test.", "app.test"),
        ("one.wild.test", "*.wild.test"),
        ("One.WILD.test.", "*.wild.test"),
        ("two.one.wild.test", ""),
        ("wild.test", ""),
        ("unknown.test", ""),
    ] {
        let cert = world.certs.by_name.get(key).unwrap_or(&world.certs.default).cert[0].to_vec();
        let flight = shown_to(&world, name);
        assert!(flight.windows(cert.len()).any(|w| w == cert), "{name}");
    }
}

#[test]
fn rfc7301_3_2_a_client_that_speaks_only_h2_is_told_so() {
    let origin = Origin::named("x");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    for version in [&version::TLS12, &version::TLS13] {
        let config = |alpn: &[&[u8]]| Arc::new(tls::tests::client_config(&[&world.certs], &[version], alpn));
        world.shake(&config(&[]));
        world.shake(&config(&[b"h2", b"http/1.1"]));
        let mut stream = world.secure_as(&config(&[b"h2"]));
        let error = stream.get_mut().write_all(get("/").as_bytes()).unwrap_err();
        let error = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()).unwrap();
        assert_eq!(*error, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
    }
}

#[test]
fn a_client_without_a_name_sees_the_default_certificate() {
    let world = World::serving(Limits::DEFAULT, &[]);
    let mut config = tls::tests::client_config(&[&world.certs], &[&version::TLS13], &[]);
    config.enable_sni = false;
    let mut session = ClientConnection::new(Arc::new(config), "default.test".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(world.https).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut stream).unwrap();
    }
    assert_eq!(session.peer_certificates().unwrap()[0], world.certs.default.cert[0]);
}

#[test]
fn beyond_the_budget_a_client_waits_in_the_queue_and_is_not_dropped() {
    let origin = Origin::named("x");
    let limits = Limits { handshakes: 4, ..one_each() };
    let world = World::serving(limits, &[origin.endpoint]);
    let config = Arc::new(tls::tests::client_config(&[&world.certs], &[&version::TLS13], &[]));
    let (mut live, mut plain) = (world.secure_as(&config), world.client());
    assert_eq!(ask(&mut live, &get("/")).text(), "x");
    let mut silent: Vec<Client> = (0..8).map(|_| world.silent()).collect();

    let mut late = world.secure_as(&config);
    late.get_ref().sock.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let kind = late.get_mut().write_all(get("/").as_bytes()).unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::WouldBlock, "both workers have all the handshakes they may have");
    assert_eq!(ask(&mut live, &get("/")).text(), "x", "who is connected is served");
    assert_eq!(plain.get("/").text(), "x", "and so is who comes without TLS");
    silent.truncate(2);
    late.get_ref().sock.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&mut late, &get("/")).text(), "x");
}

#[test]
fn many_that_stall_do_not_keep_others_waiting_for_long() {
    let origin = Origin::named("x");
    // Who does not stall has this long as well, on a machine that may.
    let busy = Duration::from_millis(2500);
    let limits = Limits { handshakes: 4, handshake_when_busy: busy, sweep: Duration::from_millis(50), ..one_each() };
    let world = World::serving(limits, &[origin.endpoint]);
    let mut silent: Vec<Client> = (0..16).map(|_| Client::new(world.https)).collect();
    let config = Arc::new(tls::tests::client_config(&[&world.certs], &[&version::TLS13], &[]));
    world.shake(&config);
    for client in silent.iter_mut().take(8) {
        client.expect_end();
    }
}

#[test]
fn established_clients_are_served_while_many_shake_hands_or_stall() {
    const STALLED: usize = 560; // more than both workers may have
    const SHAKING: usize = 240;
    let origin = Origin::named("x");
    let busy = Duration::from_secs(3);
    let limits = Limits { handshake_when_busy: busy, requests_per_conn: u32::MAX, ..Limits::DEFAULT };
    let world = World::serving(limits, &[origin.endpoint]);
    let config = Arc::new(tls::tests::client_config(&[&world.certs], &[&version::TLS13], &[]));
    let mut live = world.secure_as(&config);
    ask(&mut live, &get("/"));

    let (done, mut served, mut slowest) = (AtomicBool::new(false), 0, Duration::ZERO);
    std::thread::scope(|scope| {
        let (world, config, done) = (&world, &config, &done);
        let storm = scope.spawn(move || {
            let part = |i: usize| {
                let mut client = Client::new(world.https);
                // A part of a hello, or none.
                client.send(&[22, 3, 1, 2, 0, 1, 0, 1][..i % 8]);
                client
            };
            let stalled: Vec<Client> = (0..STALLED).map(part).collect();
            let shakers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(move || {
                        for _ in 0..SHAKING / 4 {
                            let fresh = Arc::new(ClientConfig::clone(config)); // which has no ticket yet
                            world.shake(&fresh);
                        }
                    })
                })
                .collect();
            let result = shakers.into_iter().map(|s| s.join()).collect::<Result<Vec<_>, _>>();
            done.store(true, Ordering::SeqCst);
            drop(stalled);
            result.expect("every handshake is served in the end");
        });
        while !done.load(Ordering::SeqCst) {
            let asked = Instant::now();
            assert_eq!(ask(&mut live, &get("/")).text(), "x");
            slowest = slowest.max(asked.elapsed());
            served += 1;
        }
        storm.join().unwrap();
    });
    // Far less than its share of the turns: on a busy machine the client itself may have few.
    assert!(served > SHAKING / 8, "only {served}");
    assert!(slowest < limits.head / 2, "it waited for those that stall: {slowest:?}");
}
