//! Forward: the head that goes on, written anew from the one that came (RFC 9110 §7.6).
//!
//! **Invariant**: hop-by-hop fields end here, framing is ours, and what an endpoint is told about the client comes
//! from the socket or from a trusted peer, never from the client.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use super::http::framing::{Framing, response_length};
use super::http::head::{Request, Response};
use super::http::headers::{self, Field, Fields, Name};
use super::http::{Bad, Method, Version, bad, write};

/// Room for what we add to a head, so that it grows once.
const OURS: usize = 256;

/// What is known about the client besides its words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client<'a> {
    pub address: IpAddr,
    pub trusted: bool,
    pub https: bool,
    /// The one that [`request_id`] finds, or a new one.
    pub request_id: &'a [u8],
}

/// What the Expect field asks (RFC 9110 §10.1.1).
pub(super) fn expects_continue(request: &Request<'_>) -> Result<bool, Bad> {
    if request.version == Version::V10 {
        return Ok(false);
    }
    let mut expects = false;
    for value in request.fields.all(Name::Expect) {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return bad(417, "unknown expectation");
        }
        expects = true;
    }
    Ok(expects)
}

/// The id that the request brings, if it is fit to be kept.
pub(super) fn request_id<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    request.fields.all(Name::XRequestId).filter(|value| is_request_id(value)).last()
}

/// Whether to let it become a WebSocket (RFC 6455 §4.1). Every other upgrade, h2c above all, is left out.
pub(super) fn wants_websocket(request: &Request<'_>, framing: Framing) -> bool {
    request.method == Method::Get
        && request.version == Version::V11
        && request.connection.upgrade
        && matches!(framing, Framing::None | Framing::Length(0))
        && has_websocket(request.fields)
}

pub(super) fn has_websocket(fields: Fields<'_>) -> bool {
    fields.members(Name::Upgrade).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Whether the client can use trailers (RFC 9110 §10.1.4).
pub(super) fn takes_trailers(request: &Request<'_>) -> bool {
    request.version == Version::V11 && request.fields.members(Name::Te).any(|t| t.eq_ignore_ascii_case(b"trailers"))
}

/// Writes the head for the endpoint.
pub(super) fn request(out: &mut Vec<u8>, request: &Request<'_>, framing: Framing, client: Client<'_>) {
    out.reserve(request.fields.bytes.len() + OURS);
    out.extend_from_slice(request.method_bytes);
    out.push(b' ');
    request.target.write(out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    let host = out.len();
    write_host(out, request);
    let host = host..out.len();
    out.extend_from_slice(b"\r\n");

    let mut lines = Lines::new(request.fields.bytes);
    for field in request.fields.list {
        let keeps = match field.id {
            Name::Host | Name::ContentLength | Name::Forwarded | Name::Proxy | Name::InternalToken => false,
            // Appended to, replaced or chosen below.
            Name::XForwardedFor | Name::XRequestId => false,
            Name::XForwardedHost | Name::XForwardedPort | Name::XForwardedProto | Name::XForwarded => client.trusted,
            Name::Expect if request.version == Version::V10 => false, // RFC 9110 §10.1.1: to be ignored
            _ => is_end_to_end(field, request.fields, request.connection),
        };
        if keeps {
            lines.keep(field, out);
        }
    }
    lines.flush(out);
    forwarded(out, request, host, client);
    write::field(out, b"X-Request-Id: ", client.request_id);

    match framing {
        Framing::Length(n) => write::number_field(out, b"Content-Length: ", n),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    match (wants_websocket(request, framing), takes_trailers(request)) {
        (true, _) => out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        (false, true) => out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n\r\n"),
        (false, false) => out.extend_from_slice(b"\r\n"),
    }
}

/// The Host field as it came, or made from the target, which only HTTP/1.0 sends alone (RFC 9112 §3.2.2).
fn write_host(out: &mut Vec<u8>, request: &Request<'_>) {
    match (request.fields.first(Name::Host), request.host) {
        (Some(host), _) => out.extend_from_slice(host),
        (None, None) => {}
        (None, Some(authority)) => {
            out.extend_from_slice(authority.host);
            if let Some(port) = authority.port {
                out.push(b':');
                write::number(out, u64::from(port));
            }
        }
    }
}

/// Field lines that go on. Those that are written as we would write them, and lie side by side, are copied in one
/// piece: most heads go on in one or two.
struct Lines<'a> {
    head: &'a [u8],
    run: Range<usize>,
}

impl<'a> Lines<'a> {
    fn new(head: &'a [u8]) -> Self {
        Lines { head, run: 0..0 }
    }

    fn keep(&mut self, field: &Field, out: &mut Vec<u8>) {
        match field.canonical(self.head) {
            Some(line) if line.start == self.run.end => self.run.end = line.end,
            Some(line) => {
                self.flush(out);
                self.run = line;
            }
            None => {
                self.flush(out);
                let (name, value) = field.parts(self.head);
                out.extend_from_slice(name);
                write::field(out, b": ", value);
            }
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head[std::mem::take(&mut self.run)]);
    }
}

/// What the endpoint learns about the client. `host` is where `out` has the host.
fn forwarded(out: &mut Vec<u8>, request: &Request<'_>, host: Range<usize>, client: Client<'_>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if client.trusted {
        for hop in request.fields.members(Name::XForwardedFor) {
            out.extend_from_slice(hop);
            out.extend_from_slice(b", ");
        }
    }
    write::address(out, client.address);
    out.extend_from_slice(b"\r\n");
    let unsaid = |id| !client.trusted || !request.fields.has(id);
    if unsaid(Name::XForwardedProto) {
        out.extend_from_slice(match client.https {
            true => b"X-Forwarded-Proto: https\r\n",
            false => b"X-Forwarded-Proto: http\r\n",
        });
    }
    if unsaid(Name::XForwardedHost) {
        out.extend_from_slice(b"X-Forwarded-Host: ");
        out.extend_from_within(host);
        out.extend_from_slice(b"\r\n");
    }
    if unsaid(Name::XForwardedPort) {
        let port = request.host.and_then(|h| h.port).unwrap_or(if client.https { 443 } else { 80 });
        write::number_field(out, b"X-Forwarded-Port: ", u64::from(port));
    }
}

/// How a response is framed towards the client, and what becomes of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// `UntilClose` only for HTTP/1.0.
    pub framing: Framing,
    pub close: bool,
    /// HTTP/1.0 must be told (RFC 9112 §C.2.2).
    pub say_keep_alive: bool,
    pub trailers: bool,
}

/// For how long an endpoint lets its connection be idle, a second less than it says so that no request meets its close
/// (`Keep-Alive: timeout=N`, RFC 2068 §19.7.1; Node says 5). `None` when it does not say.
pub(super) fn idle_limit(response: &Response<'_>) -> Option<Duration> {
    let timeouts = response.fields.members(Name::KeepAlive).filter_map(|member| {
        let (name, value) = member.split_at_checked("timeout=".len())?;
        let seconds = std::str::from_utf8(value).ok()?.trim().parse::<u32>().ok()?;
        name.eq_ignore_ascii_case(b"timeout=").then_some(seconds)
    });
    timeouts.min().map(|seconds| Duration::from_secs(seconds.saturating_sub(1).into()))
}

/// What our own fields of a response say when the endpoint does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults<'a> {
    /// RFC 9110 §6.6.1
    pub date: &'a [u8],
    /// Who reports a fault can name the request that we logged.
    pub request_id: &'a [u8],
}

/// Writes the head of a final response for the client.
pub(super) fn response(
    out: &mut Vec<u8>,
    response: &Response<'_>,
    shape: Shape,
    defaults: Defaults<'_>,
) -> Result<(), Bad> {
    // What a GET would have got (RFC 9110 §8.6); a 204 has no length at all, and beside a coding it counts for nothing
    // (RFC 9112 §6.3 rule 3). Judged before a byte is written.
    let coded = || response.fields.has(Name::TransferEncoding);
    let unsent = match shape.framing {
        Framing::None if response.status != 204 && !coded() => response_length(response.fields)?,
        _ => None,
    };
    out.reserve(response.fields.bytes.len() + OURS);
    status_line(out, response);
    end_to_end(out, response, shape.trailers);
    if !response.fields.has(Name::Date) {
        write::field(out, b"Date: ", defaults.date);
    }
    if !response.fields.has(Name::XRequestId) {
        write::field(out, b"X-Request-Id: ", defaults.request_id);
    }
    match shape.framing {
        Framing::Length(n) => write::number_field(out, b"Content-Length: ", n),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(n) = unsent {
        write::number_field(out, b"Content-Length: ", n);
    }
    if shape.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if shape.say_keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes the head of an informational response, 101 apart (RFC 9110 §15.2).
pub(super) fn interim(out: &mut Vec<u8>, response: &Response<'_>) {
    status_line(out, response);
    end_to_end(out, response, false);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a 101.
pub(super) fn switching(out: &mut Vec<u8>, response: &Response<'_>) {
    status_line(out, response);
    end_to_end(out, response, false);
    out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}

/// Writes the last chunk and those trailers that may follow it (RFC 9110 §6.5.1).
pub(super) fn trailers(out: &mut Vec<u8>, trailers: Fields<'_>) {
    out.extend_from_slice(b"0\r\n");
    for (id, name, value) in trailers.iter() {
        if id == Name::Other && !is_head_only(name) && !Name::is_lookalike(name) {
            out.extend_from_slice(name);
            write::field(out, b": ", value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields that steer or authenticate: a recipient that merged them into the head would be misled.
fn is_head_only(name: &[u8]) -> bool {
    const NAMES: [&str; 20] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "cookie",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "www-authenticate",
    ];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

fn status_line(out: &mut Vec<u8>, response: &Response<'_>) {
    let digit = |unit| b'0' + (response.status / unit % 10) as u8;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(response.reason);
    out.extend_from_slice(b"\r\n");
}

fn end_to_end(out: &mut Vec<u8>, response: &Response<'_>, trailers: bool) {
    let mut lines = Lines::new(response.fields.bytes);
    for field in response.fields.list {
        let keeps = match field.id {
            Name::ContentLength | Name::InternalToken => false,
            Name::Trailer if trailers => true,
            _ => is_end_to_end(field, response.fields, response.connection),
        };
        if keeps {
            lines.keep(field, out);
        }
    }
    lines.flush(out);
}

/// Neither bound to this connection, nor named by Connection, nor a twin of one of ours.
fn is_end_to_end(field: &Field, fields: Fields<'_>, connection: headers::Connection) -> bool {
    let name = || field.parts(fields.bytes).0;
    let is_bound = field.id.is_hop_by_hop() || (connection.names_fields && headers::names(fields, name()));
    let is_twin = field.id == Name::Other && Name::is_lookalike(name());
    !is_bound && !is_twin
}

/// 1 to 128 characters that need no quoting in any log.
fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len())
        && value
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'+' | b'/' | b'='))
}

#[cfg(test)]
mod tests;
