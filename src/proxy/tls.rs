//! TLS behind three calls: feed what came from the peer, seal what goes to it, close. No sockets here, and no rustls
//! outside of here and `certs`, so that its next generation is this file's business.
//!
//! The unbuffered API is used: a connection holds no bytes but an incomplete record. **Invariant**: after each call the
//! session has nothing left to say, so whoever sends what was written and reads again never waits for it.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeTlsData, UnbufferedStatus};
use rustls::{ProtocolVersion, version};

use super::certs::Certs;
use crate::error::{Error, Kind, Result};

/// What may wait for the rest of a record or a hello: one record of each kind and room for a fragmented hello.
pub(super) const MAX_HELD: usize = 64 << 10;
/// A record adds a header, a tag and a type or nonce to at most 16 KiB (RFC 8446 §5.2, RFC 5246 §6.2.3); a key update
/// before it is as small.
const RECORD: usize = 16 << 10;
const RECORD_OVERHEAD: usize = 64;

/// A record can be read when all of it has come. While little is in flight (the first window of ten segments, RFC 6928)
/// a whole one would cost a slow peer a round trip, so a long answer begins with records of three segments...
const EARLY_RECORD: usize = 4 << 10;
/// ...and one that fits into that window is one record.
const SMALL_ANSWER: usize = 14 << 10;
/// After so many bytes the window is open, until nothing was sent for so long, in milliseconds (RFC 9293 §3.8.6 lets a
/// sender begin anew after an idle time; Linux does).
const OPEN_AFTER: usize = 64 << 10;
const SHUT_AFTER: u64 = 1_000;

/// The cryptography of the whole program, chosen here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes server configurations that differ in certificates only: tickets of one are good for the next.
///
/// The ticketer is rustls' own. It takes a read lock per ticket made or opened, three times in a handshake and never
/// for a record, which nothing can measure beside the handshake; and it forgets its keys after twelve hours, which one
/// that derives them from a secret, to be handed to a successor, could not: TLS 1.2 tickets hold what decrypts a
/// recorded session. A successor process will want the current keys; then it is this field that changes.
pub(super) struct Configs {
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
}

impl Configs {
    pub fn new() -> Result<Self> {
        let fail = |e| Error::new(Kind::Io, "set up TLS tickets").because(e);
        Ok(Configs { provider: provider(), tickets: rustls::crypto::ring::Ticketer::new().map_err(fail)? })
    }

    pub fn server(&self, certs: &Arc<Certs>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("the provider has suites for both versions")
            .with_no_client_auth()
            .with_cert_resolver(certs.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = self.tickets.clone();
        // One for each of two connections that a browser opens at once; a ticket is good for one (RFC 8446 §C.4).
        config.send_tls13_tickets = 2;
        // Early data can be replayed (RFC 8470); a proxy cannot know for which requests that is harmless.
        config.max_early_data_size = 0;
        // One lock for all workers; tickets do the same without memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }
}

/// Where bytes for the peer are put: memory that is written over again and again, because room is made by zeroing it.
#[derive(Default)]
pub(super) struct Wire {
    room: Vec<u8>,
    len: usize,
}

impl Wire {
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Lets `write` fill up to `room` bytes more.
    fn write<E>(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), Broken> {
        if self.room.len() < self.len + room {
            self.room.resize(self.len + room, 0);
        }
        self.len += write(&mut self.room[self.len..]).map_err(|_| Broken)?;
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        self.room.truncate(self.len);
        self.room.extend_from_slice(bytes);
        self.len = self.room.len();
    }
}

/// One TLS connection.
pub(super) struct Tls {
    session: UnbufferedServerConnection,
    /// An incomplete record; empty and without memory otherwise.
    held: Vec<u8>,
    /// Tickets that wait for the first answer, which a request has come for; without memory otherwise.
    tickets: Vec<u8>,
    /// Sealed since the window was shut, in bytes.
    sealed: usize,
    sealed_at: u64,
    ready: bool,
}

/// The peer broke the protocol, or cannot agree with us. What there is to tell it has been written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// What came of [`Tls::feed`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// Plain bytes written to the front of `plain`.
    pub plain: usize,
    /// The peer said that nothing follows.
    pub closed: bool,
}

impl Tls {
    pub fn new(config: &Arc<ServerConfig>) -> Result<Self, Broken> {
        let session = UnbufferedServerConnection::new(config.clone()).map_err(|_| Broken)?;
        Ok(Tls { session, held: Vec::new(), tickets: Vec::new(), sealed: 0, sealed_at: 0, ready: false })
    }

    /// The handshake is over.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// What came before and is not a whole record yet: [`Tls::feed`] wants it in front of what comes next.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Takes all of `wire`, which is what was held and what came from the peer since; decrypts into `plain` and appends
    /// to `reply` what the peer must be sent. `plain` must have room for `wire`.
    pub fn feed(&mut self, wire: &mut [u8], plain: &mut [u8], reply: &mut Wire) -> Result<Fed, Broken> {
        self.release_tickets(reply);
        let (shaking, before) = (!self.ready, reply.len);
        let (result, used) = self.drive(wire, plain, reply);
        match &wire[used..] {
            [] => self.held = Vec::new(),
            rest if rest.len() > MAX_HELD => return Err(Broken),
            rest => {
                self.held.clear();
                self.held.extend_from_slice(rest);
            }
        }
        let asked = result.as_ref().is_ok_and(|fed| fed.plain > 0);
        if shaking && self.ready && asked && self.session.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            // Nobody waits for tickets, and the answer is near: one packet and one call less.
            self.tickets = reply.bytes()[before..].to_vec();
            reply.len = before;
        }
        result
    }

    /// Encrypts all of `plain`, appended to `wire`. `now` is in milliseconds.
    pub fn seal(&mut self, mut plain: &[u8], now: u64, wire: &mut Wire) -> Result<(), Broken> {
        debug_assert!(self.ready, "nothing is sealed before the handshake is over");
        self.release_tickets(wire);
        if now.saturating_sub(self.sealed_at) >= SHUT_AFTER {
            self.sealed = 0;
        }
        self.sealed_at = now;
        let is_small = plain.len() <= SMALL_ANSWER;
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut self.held);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else { return Err(Broken) };
        while !plain.is_empty() {
            let most = if is_small || self.sealed >= OPEN_AFTER { RECORD } else { EARLY_RECORD };
            let (record, rest) = plain.split_at(most.min(plain.len()));
            wire.write(record.len() + 2 * RECORD_OVERHEAD, |room| traffic.encrypt(record, room))?;
            self.sealed = self.sealed.saturating_add(record.len());
            plain = rest;
        }
        Ok(())
    }

    /// Appends the alert that says that nothing follows (RFC 8446 §6.1).
    pub fn close(&mut self, wire: &mut Wire) {
        self.release_tickets(wire);
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut self.held);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            // A session that cannot even say goodbye has nothing to lose.
            let _ = wire.write(2 * RECORD_OVERHEAD, |room| traffic.queue_close_notify(room));
        }
    }

    /// Whatever is written next goes after them: records are numbered.
    fn release_tickets(&mut self, wire: &mut Wire) {
        if !self.tickets.is_empty() {
            wire.push(&std::mem::take(&mut self.tickets));
        }
    }

    /// Runs the session over `wire` until it wants more; returns how much of `wire` is used up.
    fn drive(&mut self, wire: &mut [u8], plain: &mut [u8], reply: &mut Wire) -> (Result<Fed, Broken>, usize) {
        let mut fed = Fed { plain: 0, closed: false };
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(&mut wire[used..]);
            let mut was_read = false;
            let go_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    let Some(record) = traffic.next_record() else {
                        was_read = true;
                        break Ok(true);
                    };
                    let Ok(record) = record else { break Err(Broken) };
                    let Some(room) = plain.get_mut(fed.plain..fed.plain + record.payload.len()) else {
                        break Err(Broken);
                    };
                    room.copy_from_slice(record.payload);
                    fed.plain += record.payload.len();
                    discard += record.discard;
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, reply).map(|()| true),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done(); // it is in `reply`, which is sent in order
                    Ok(true)
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.ready = true;
                    Ok(false)
                }
                Ok(ConnectionState::PeerClosed) => {
                    fed.closed = true;
                    Ok(true)
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(false),
                Ok(ConnectionState::Closed) => {
                    fed.closed = true;
                    Ok(false)
                }
                Ok(_) => Err(Broken), // early data is not offered
                Err(_) => {
                    self.alert(&mut wire[used + discard..], reply);
                    Err(Broken)
                }
            };
            used += discard;
            // The usual case, all of it read: the next round would only find out that there is nothing to do.
            let at_rest = was_read && used == wire.len() && self.ready && !self.session.wants_write();
            match go_on {
                Ok(true) if !at_rest => {}
                Ok(_) => return (Ok(fed), used),
                Err(Broken) => return (Err(Broken), used),
            }
        }
    }

    /// After an error the session has an alert to tell, and before it perhaps the flight in which the error came up.
    fn alert(&mut self, wire: &mut [u8], reply: &mut Wire) {
        while self.session.wants_write() {
            let UnbufferedStatus { state, .. } = self.session.process_tls_records(wire);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if encode(&mut data, reply).is_err() {
                return;
            }
        }
    }
}

/// One record of the handshake.
fn encode<D>(data: &mut EncodeTlsData<'_, D>, reply: &mut Wire) -> Result<(), Broken> {
    reply.write(RECORD + RECORD_OVERHEAD, |room| data.encode(room))
}

#[cfg(test)]
pub(super) mod tests {
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
}
