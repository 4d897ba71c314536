//! TLS behind three calls: feed what came from the peer, seal what goes to it, close. No sockets here, and no rustls
//! outside of here and `certs`, so that its next generation is this file's business.
//!
//! The unbuffered API is used: a connection holds no bytes but an incomplete record.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};

use super::certs::Certs;
use crate::error::{Error, Kind, Result};

/// What may wait for the rest of a record or a hello: one record of each kind and room for a fragmented hello.
const MAX_INCOMPLETE: usize = 64 << 10;
/// A record adds a header, a tag and a type or nonce to at most 16 KiB (RFC 8446 §5.2, RFC 5246 §6.2.3).
const RECORD: usize = 16 << 10;
const RECORD_OVERHEAD: usize = 64;

/// The cryptography of the whole program, chosen here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes server configurations that differ in certificates only: tickets of one are good for the next.
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
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites for both versions")
            .with_no_client_auth()
            .with_cert_resolver(certs.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = self.tickets.clone();
        // One lock for all workers; tickets do the same without memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }
}

/// One TLS connection.
pub(super) struct Tls {
    session: UnbufferedServerConnection,
    /// An incomplete record; empty and without memory otherwise.
    incomplete: Vec<u8>,
    ready: bool,
    /// Why it broke.
    fault: Option<&'static str>,
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
        Ok(Tls { session, incomplete: Vec::new(), ready: false, fault: None })
    }

    /// The handshake is over.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Once the handshake is over: whether it went on from an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// As access lines say it.
    pub fn version(&self) -> Option<&'static str> {
        match self.session.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => Some("1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => None,
        }
    }

    /// Why it broke, if it did: one of a few words.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Takes all of `wire` as it came from the peer; decrypts into `plain` and appends to `reply` what the peer must
    /// be sent. `plain` must have room for `wire` and one record.
    pub fn feed(&mut self, wire: &mut [u8], plain: &mut [u8], reply: &mut Vec<u8>) -> Result<Fed, Broken> {
        if self.incomplete.is_empty() {
            let (result, used) = self.drive(wire, plain, reply, &[]);
            if used < wire.len() {
                self.incomplete.extend_from_slice(&wire[used..]);
            }
            return result;
        }
        if self.incomplete.len() + wire.len() > MAX_INCOMPLETE + RECORD {
            return Err(Broken);
        }
        let mut held = std::mem::take(&mut self.incomplete);
        held.extend_from_slice(wire);
        let (result, used) = self.drive(&mut held, plain, reply, &[]);
        if used < held.len() {
            held.drain(..used);
            self.incomplete = held;
        }
        result
    }

    /// Encrypts all of `plain`, appended to `wire`.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Broken> {
        debug_assert!(self.ready, "nothing is sealed before the handshake is over");
        let mut held = std::mem::take(&mut self.incomplete);
        let (result, used) = self.drive(&mut held, &mut [], wire, plain);
        held.drain(..used);
        self.incomplete = held;
        result.map(|_| ())
    }

    /// Appends the alert that says that nothing follows (RFC 8446 §6.1).
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut self.incomplete);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            // A session that cannot even say goodbye has nothing to lose.
            let _ = grow(wire, |room| traffic.queue_close_notify(room).map_err(insufficient));
        }
    }

    /// Runs the session over `wire` until it wants more; returns how much of `wire` is used up.
    fn drive(
        &mut self,
        wire: &mut [u8],
        plain: &mut [u8],
        reply: &mut Vec<u8>,
        mut to_seal: &[u8],
    ) -> (Result<Fed, Broken>, usize) {
        let mut fed = Fed { plain: 0, closed: false };
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(&mut wire[used..]);
            let go_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    let Some(record) = traffic.next_record() else { break Ok(true) };
                    let Ok(record) = record else { break Err(Broken) };
                    let Some(room) = plain.get_mut(fed.plain..fed.plain + record.payload.len()) else {
                        break Err(Broken);
                    };
                    room.copy_from_slice(record.payload);
                    fed.plain += record.payload.len();
                    discard += record.discard;
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => grow(reply, |room| {
                    data.encode(room).map_err(|e| match e {
                        EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
                        EncodeError::AlreadyEncoded => None,
                    })
                })
                .map(|()| true),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done(); // it is in `reply`, which is sent in order
                    Ok(true)
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    self.ready = true;
                    if to_seal.is_empty() {
                        Ok(false)
                    } else {
                        let plain = std::mem::take(&mut to_seal);
                        grow(reply, |room| traffic.encrypt(plain, room).map_err(insufficient)).map(|()| true)
                    }
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
                Err(e) => {
                    self.fault = Some(word_for(&e));
                    self.alert(&mut wire[used + discard..], reply);
                    Err(Broken)
                }
            };
            used += discard;
            match go_on {
                Ok(true) => {}
                Ok(false) if to_seal.is_empty() => return (Ok(fed), used),
                Ok(false) | Err(Broken) => return (Err(Broken), used),
            }
        }
    }

    /// After an error the session has an alert to tell, in one more round.
    fn alert(&mut self, wire: &mut [u8], reply: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(wire);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            let _ = grow(reply, |room| {
                data.encode(room).map_err(|e| match e {
                    EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            });
        }
    }
}

/// What is told of an error: bounded, and nothing of what the peer sent.
fn word_for(error: &rustls::Error) -> &'static str {
    use rustls::Error as E;
    match error {
        E::InvalidMessage(_) | E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => "not TLS",
        E::PeerIncompatible(_) => "nothing in common",
        E::PeerMisbehaved(_) => "misbehaved",
        E::AlertReceived(_) => "alert received",
        E::NoApplicationProtocol => "no common protocol",
        E::DecryptError => "cannot decrypt",
        E::PeerSentOversizedRecord => "record too large",
        _ => "other",
    }
}

/// Lets `write` fill the end of `out`, twice if it finds the room too small.
fn grow(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> Result<(), Broken> {
    let start = out.len();
    let mut room = RECORD_OVERHEAD;
    for _ in 0..2 {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(n) => {
                out.truncate(start + n);
                return Ok(());
            }
            Err(Some(needed)) => room = needed,
            Err(None) => break,
        }
    }
    out.truncate(start);
    Err(Broken)
}

fn insufficient(e: EncryptError) -> Option<usize> {
    match e {
        EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
        EncryptError::EncryptExhausted => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::proxy::certs::tests::certs;

    pub(in crate::proxy) fn client(certs: &[&Certs], name: &str) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        for certs in certs {
            for key in certs.by_name.values().chain([&certs.default]) {
                roots.add(key.cert[0].clone()).unwrap();
            }
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_string()).unwrap()).unwrap()
    }

    /// Moves bytes between the two, `step` at a time, until neither has any; returns what the server read.
    fn talk(client: &mut ClientConnection, server: &mut Tls, to_client: &mut Vec<u8>, step: usize) -> (Vec<u8>, bool) {
        let (mut read, mut closed) = (Vec::new(), false);
        loop {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            if wire.is_empty() && to_client.is_empty() {
                return (read, closed);
            }
            for part in wire.chunks_mut(step) {
                let mut plain = vec![0; part.len() + 2 * RECORD];
                let fed = server.feed(part, &mut plain, to_client).unwrap();
                read.extend_from_slice(&plain[..fed.plain]);
                closed |= fed.closed;
            }
            let mut wire = &to_client[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets().unwrap();
            }
            to_client.clear();
        }
    }

    fn round_trip(step: usize, size: usize) {
        let certs = Arc::new(certs("a.test"));
        let config = Configs::new().unwrap().server(&certs);
        let (mut client, mut server) = (client(&[&certs], "a.test"), Tls::new(&config).unwrap());
        let mut wire = Vec::new();
        client.set_buffer_limit(None);
        client.writer().write_all(&vec![7; size]).unwrap();
        let (mut read, _) = talk(&mut client, &mut server, &mut wire, step);
        read.extend(talk(&mut client, &mut server, &mut wire, step).0);
        assert_eq!(read, vec![7; size]);
        assert!(server.is_ready());
        assert_eq!(server.incomplete.capacity(), 0, "an idle session holds no bytes");

        let mut got = vec![0; size];
        for (sent, back) in vec![9; size].chunks(20_000).zip(got.chunks_mut(20_000)) {
            server.seal(sent, &mut wire).unwrap();
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
        round_trip(1, 100);
        round_trip(7, 3_000);
        round_trip(32 << 10, 100_000);
    }

    #[test]
    fn seals_while_a_record_is_incomplete() {
        let certs = Arc::new(certs("a.test"));
        let config = Configs::new().unwrap().server(&certs);
        let (mut client, mut server) = (client(&[&certs], "a.test"), Tls::new(&config).unwrap());
        let mut to_client = Vec::new();
        talk(&mut client, &mut server, &mut to_client, 4096);
        client.writer().write_all(b"question").unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let (first, second) = wire.split_at_mut(9);
        let mut plain = vec![0; 2 * RECORD];
        assert_eq!(server.feed(first, &mut plain, &mut to_client), Ok(Fed { plain: 0, closed: false }));
        server.seal(b"answer", &mut to_client).unwrap();
        assert_eq!(server.feed(second, &mut plain, &mut to_client), Ok(Fed { plain: 8, closed: false }));
        talk(&mut client, &mut server, &mut to_client, 4096);
        let mut got = [0; 6];
        client.reader().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"answer");
    }

    #[test]
    fn noise_is_answered_with_an_alert() {
        let config = Configs::new().unwrap().server(&Arc::new(certs("a.test")));
        let mut server = Tls::new(&config).unwrap();
        let (mut plain, mut reply) = (vec![0; 2 * RECORD], Vec::new());
        let mut noise = *b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(server.feed(&mut noise, &mut plain, &mut reply), Err(Broken));
        assert_eq!(reply.first(), Some(&21), "an alert record (RFC 8446 §5.1)");
    }
}
