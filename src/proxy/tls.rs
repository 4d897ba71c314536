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
use super::entropy;
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
        let provider = CryptoProvider { secure_random: &entropy::Ahead, ..rustls::crypto::ring::default_provider() };
        Ok(Configs { provider: Arc::new(provider), tickets: rustls::crypto::ring::Ticketer::new().map_err(fail)? })
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
        if self.room.len() < self.len + bytes.len() {
            self.room.resize(self.len + bytes.len(), 0);
        }
        self.room[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
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
        Ok(Tls { session, held: Vec::new(), tickets: Vec::new(), sealed: 0, sealed_at: 0, ready: false, fault: None })
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
            ProtocolVersion::TLSv1_2 => Some("1.2"),
            ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => None,
        }
    }

    /// Why it broke, if it did: one of a few words.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
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
                Err(e) => {
                    self.fault = Some(word_for(&e));
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

/// One record of the handshake.
fn encode<D>(data: &mut EncodeTlsData<'_, D>, reply: &mut Wire) -> Result<(), Broken> {
    reply.write(RECORD + RECORD_OVERHEAD, |room| data.encode(room))
}

#[cfg(test)]
pub(super) mod tests;
