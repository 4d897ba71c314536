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
mod tests {
    use super::*;
    use crate::proxy::http::framing;

    fn sent(head: &str, trusted: bool) -> String {
        let head = head.replace('\n', "\r\n");
        let mut list = Vec::new();
        let parsed = Request::parse(head.as_bytes(), &mut list).unwrap();
        let framing = framing::request(&parsed).unwrap();
        let client = Client {
            address: [10, 0, 0, 9].into(),
            trusted,
            https: true,
            request_id: request_id(&parsed).unwrap_or(b"made"),
        };
        let mut out = Vec::new();
        request(&mut out, &parsed, framing, client);
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    const OURS: &str = "X-Forwarded-For: 10.0.0.9\nX-Forwarded-Proto: https\nX-Forwarded-Host: a.b\nX-Forwarded-Port: 443\nX-Request-Id: made\n";

    #[test]
    fn keeps_names_order_and_values_of_end_to_end_fields() {
        let expected = format!("GET /x?y HTTP/1.1\nHost: a.b\naCCept: x\nSet: a\nset: b\n{OURS}\n");
        assert_eq!(sent("GET /x?y HTTP/1.1\naCCept:x \nHost: a.b\nSet: a\nset:\tb\n\n", false), expected);
    }

    #[test]
    fn rfc9110_9_1_unknown_methods_and_odd_targets_go_on_as_they_are() {
        let line = "PROPFIND /a\"<>\\^`{|}%2f//../?%zz HTTP/1.1\n";
        assert!(sent(&format!("{line}Host: a.b\n\n"), false).starts_with(line));
        // RFC 9112 §2.3: what we do not know of a later minor version we do not claim.
        assert!(sent("GET / HTTP/1.9\nHost: a.b\n\n", false).starts_with("GET / HTTP/1.1\n"));
    }

    #[test]
    fn host_trace_context_and_unknown_fields_go_on_untouched() {
        let fields = "Host: A.B.:8443\nTraceParent: 00-a-b-01\ntracestate: x=y\nVia: 1.1 other\nmy_own: 1\nX-Empty: \n";
        assert!(
            sent(&format!("GET / HTTP/1.1\n{fields}\n"), false).starts_with(&format!("GET / HTTP/1.1\n{fields}X-F"))
        );
    }

    #[test]
    fn rfc9110_7_6_1_hop_by_hop_fields_end_here() {
        let head = "GET / HTTP/1.1\nHost: a.b\nConnection: keep-alive, X-Own\nX-Own: 1\nKeep-Alive: timeout=5\nTE: gzip\n\
            Trailer: x\nUpgrade: h2c\nHTTP2-Settings: x\nProxy-Connection: x\nProxy-Authorization: x\nClose: x\n\n";
        assert_eq!(sent(head, true), format!("GET / HTTP/1.1\nHost: a.b\n{OURS}\n"));
    }

    #[test]
    fn claims_of_a_client_are_replaced_and_those_of_a_trusted_peer_kept() {
        let head = "GET / HTTP/1.1\nHost: a.b\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\nX-Forwarded-Proto: http\n\
            X-Forwarded-Host: evil\nX-Forwarded-Port: 1\nX-Forwarded-Ssl: on\nX-Real-IP: 1.1.1.1\n\n";
        assert_eq!(sent(head, false), format!("GET / HTTP/1.1\nHost: a.b\n{OURS}\n"));
        let trusted = sent(head, true);
        for kept in [
            "For: 1.1.1.1, 2.2.2.2, 10.0.0.9\n",
            "Proto: http\n",
            "Host: evil\n",
            "Port: 1\n",
            "Ssl: on\n",
            "Real-IP: 1.1.1.1\n",
        ] {
            assert_eq!(trusted.matches(kept).count(), 1, "{kept} in {trusted}");
        }
    }

    #[test]
    fn what_only_we_may_say_is_removed_even_from_a_trusted_peer() {
        let head = "GET / HTTP/1.1\nHost: a.b\nForwarded: for=1\nX-Tako-Internal-Token: x\nProxy: http://evil\n\
            Content_Length: 5\nTransfer_Encoding: chunked\nX_Forwarded_For: 1\nx_tako_internal_token: x\n\n";
        assert_eq!(sent(head, true), format!("GET / HTTP/1.1\nHost: a.b\n{OURS}\n"));
    }

    #[test]
    fn request_ids_are_kept_when_safe() {
        let id = |value: &str| {
            let sent = sent(&format!("GET / HTTP/1.1\nHost: a.b\nX-Request-Id: {value}\n\n"), false);
            sent.lines().find_map(|l| l.strip_prefix("X-Request-Id: ").map(str::to_string)).unwrap()
        };
        assert_eq!(id("a-B_1.2"), "a-B_1.2");
        assert_eq!(id(&"a".repeat(128)), "a".repeat(128));
        for unsafe_id in ["", "a b", "\"x\"", &"a".repeat(129)] {
            assert_eq!(id(unsafe_id), "made");
        }
    }

    #[test]
    fn rfc9110_10_1_1_every_expectation_must_be_known() {
        let expects = |fields: &str| {
            let head = format!("PUT / HTTP/1.1\r\nHost: a.b\r\n{fields}\r\n");
            expects_continue(&Request::parse(head.as_bytes(), &mut Vec::new()).unwrap()).map_err(|b| b.status)
        };
        assert_eq!(expects(""), Ok(false));
        assert_eq!(expects("Expect: 100-Continue\r\n"), Ok(true));
        assert_eq!(expects("Expect: 100-continue\r\nExpect: more\r\n"), Err(417));
        assert_eq!(expects("Expect: 100-continue, more\r\n"), Err(417));
        assert!(sent("PUT / HTTP/1.1\nHost: a.b\nExpect: 100-continue\n\n", false).contains("Expect: 100-continue\n"));
        // HTTP/1.0 does not know it, so it counts for nothing and goes no further.
        let old = b"PUT / HTTP/1.0\r\nHost: a.b\r\nExpect: anything\r\n\r\n";
        assert_eq!(expects_continue(&Request::parse(old, &mut Vec::new()).unwrap()), Ok(false));
        assert!(!sent("PUT / HTTP/1.0\nHost: a.b\nExpect: 100-continue\n\n", false).contains("Expect"));
    }

    #[test]
    fn framing_is_written_anew() {
        let post = |fields: &str| sent(&format!("POST / HTTP/1.1\nHost: a.b\n{fields}\n\n"), false);
        assert!(post("Content-Length: 5").ends_with("Content-Length: 5\n\n"));
        assert!(post("content-length: 0").ends_with("Content-Length: 0\n\n"));
        assert!(post("transfer-encoding: CHUNKED").ends_with("Transfer-Encoding: chunked\n\n"));
    }

    #[test]
    fn absolute_form_becomes_origin_form_with_a_host() {
        assert!(sent("GET http://a.b:8/x HTTP/1.0\n\n", false).starts_with("GET /x HTTP/1.1\nHost: a.b:8\n"));
        assert!(sent("GET http://[::1]/x HTTP/1.0\n\n", false).starts_with("GET /x HTTP/1.1\nHost: [::1]\n"));
    }

    #[test]
    fn rfc6455_4_1_only_a_clean_websocket_upgrade_goes_on() {
        let upgraded = |head: &str| sent(head, false).ends_with("Connection: Upgrade\nUpgrade: websocket\n\n");
        assert!(upgraded("GET / HTTP/1.1\nHost: a.b\nConnection: keep-alive, Upgrade\nUpgrade: WebSocket\n\n"));
        for not in [
            "GET / HTTP/1.1\nHost: a.b\nUpgrade: websocket\n\n",
            "GET / HTTP/1.0\nHost: a.b\nConnection: Upgrade\nUpgrade: websocket\n\n",
            "POST / HTTP/1.1\nHost: a.b\nConnection: Upgrade\nUpgrade: websocket\n\n",
            "GET / HTTP/1.1\nHost: a.b\nConnection: Upgrade\nUpgrade: h2c\n\n",
            "GET / HTTP/1.1\nHost: a.b\nConnection: Upgrade\nUpgrade: websocket\nContent-Length: 1\n\n",
        ] {
            assert!(!sent(not, false).contains("Upgrade:"), "{not}");
        }
    }

    #[test]
    fn rfc9110_10_1_4_te_trailers_is_asked_for_anew() {
        let head = "GET / HTTP/1.1\nHost: a.b\nConnection: TE\nTE: trailers, gzip;q=0.5\n\n";
        assert!(sent(head, false).ends_with("Connection: TE\nTE: trailers\n\n"));
    }

    fn answered(head: &str, shape: Shape) -> String {
        let head = head.replace('\n', "\r\n");
        let mut list = Vec::new();
        let parsed = Response::parse(head.as_bytes(), &mut list).unwrap();
        let mut out = Vec::new();
        response(&mut out, &parsed, shape, Defaults { date: b"now", request_id: b"id" }).unwrap();
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    const PLAIN: Shape = Shape { framing: Framing::None, close: false, say_keep_alive: false, trailers: false };

    #[test]
    fn responses_lose_hop_by_hop_fields_and_gain_a_date() {
        let head = "HTTP/1.1 200 Fine\nConnection: close, X\nX: 1\nClose: x\nKeep-Alive: x\nTransfer-Encoding: chunked\nUpgrade: h2c\n\
            Set-Cookie: a\nSet-Cookie: b\nTrailer: t\nX-Tako-Internal-Token: x\n\n";
        let shape = Shape { framing: Framing::Chunked, ..PLAIN };
        let expected = "HTTP/1.1 200 Fine\nSet-Cookie: a\nSet-Cookie: b\nDate: now\nX-Request-Id: id\nTransfer-Encoding: chunked\n\n";
        assert_eq!(answered(head, shape), expected);
        let dated = answered("HTTP/1.1 200 OK\nDate: then\n\n", Shape { close: true, ..PLAIN });
        assert_eq!(dated, "HTTP/1.1 200 OK\nDate: then\nX-Request-Id: id\nConnection: close\n\n");
        // The endpoint says who it is, we add no name of ours; a version of its own is not ours to repeat.
        let head = "HTTP/1.0 200 OK\nServer: app\nVia: 1.0 x\nContent_Length: 3\nX-Request-Id: own\nDate: then\n\n";
        let expected = "HTTP/1.1 200 OK\nServer: app\nVia: 1.0 x\nX-Request-Id: own\nDate: then\n\n";
        assert_eq!(answered(head, PLAIN), expected);
    }

    #[test]
    fn rfc9110_15_2_informational_heads_keep_their_fields_and_lose_framing() {
        let written = |write: fn(&mut Vec<u8>, &Response<'_>), head: &str| {
            let head = head.replace('\n', "\r\n");
            let (mut list, mut out) = (Vec::new(), Vec::new());
            write(&mut out, &Response::parse(head.as_bytes(), &mut list).unwrap());
            String::from_utf8(out).unwrap().replace("\r\n", "\n")
        };
        let hints =
            "HTTP/1.1 103 Early Hints\nLink: x\nContent-Length: 3\nTransfer-Encoding: chunked\nConnection: close\n\n";
        assert_eq!(written(interim, hints), "HTTP/1.1 103 Early Hints\nLink: x\n\n");
        let switch = "HTTP/1.1 101 S\nConnection: upgrade, x\nX: 1\nUpgrade: WebSocket\nSec-WebSocket-Accept: a\nContent-Length: 0\n\n";
        let expected = "HTTP/1.1 101 S\nSec-WebSocket-Accept: a\nConnection: Upgrade\nUpgrade: websocket\n\n";
        assert_eq!(written(switching, switch), expected);
    }

    #[test]
    fn rfc9112_c_2_2_only_http_1_0_is_told_that_a_connection_stays() {
        let head = "HTTP/1.1 200 OK\nDate: d\nX-Request-Id: own\n\n";
        let ending = |shape| answered(head, shape).replace("HTTP/1.1 200 OK\nDate: d\nX-Request-Id: own\n", "");
        assert_eq!(ending(PLAIN), "\n");
        assert_eq!(ending(Shape { say_keep_alive: true, ..PLAIN }), "Connection: keep-alive\n\n");
        assert_eq!(ending(Shape { say_keep_alive: true, close: true, ..PLAIN }), "Connection: close\n\n");
        assert_eq!(ending(Shape { framing: Framing::UntilClose, close: true, ..PLAIN }), "Connection: close\n\n");
    }

    #[test]
    fn rfc9110_8_6_a_bodiless_response_keeps_its_length_except_204() {
        assert!(answered("HTTP/1.1 304 NM\nContent-Length: 7\n\n", PLAIN).contains("Content-Length: 7\n"));
        assert!(!answered("HTTP/1.1 204 NC\nContent-Length: 7\n\n", PLAIN).contains("Content-Length"));
        // RFC 9112 §6.3 rule 3: beside a coding it counts for nothing, and would look like the truth without it.
        let both = "HTTP/1.1 304 NM\nContent-Length: 7\nTransfer-Encoding: chunked\n\n";
        assert!(!answered(both, PLAIN).contains("Content-Length"));
    }

    #[test]
    fn rfc9110_6_5_1_trailers_are_filtered() {
        let bytes =
            b"A: b\r\nContent-Length: 1\r\nSet-Cookie: x\r\nHost: y\r\nTransfer_Encoding: z\r\nServer-Timing: t\r\n";
        let mut list = Vec::new();
        headers::parse(bytes, 0, bytes.len(), &mut list).unwrap();
        let mut out = Vec::new();
        trailers(&mut out, Fields::new(bytes, &list));
        assert_eq!(out, b"0\r\nA: b\r\nServer-Timing: t\r\n\r\n");
    }

    proptest::proptest! {
        /// What we write, we read as the same request, and write again the same: parse, emit, parse is stable.
        #[test]
        fn writing_and_reading_is_stable(
            path in "/[a-z/?%]{0,10}",
            fields in proptest::collection::vec(("[A-Za-z_-]{1,12}", "[ -~]{0,12}"), 0..6),
        ) {
            let mut head = format!("GET {path} HTTP/1.1\nHost: a.b\n");
            for (name, value) in fields {
                // These would make it a refusal, or are made anew each time.
                if !["host", "te", "expect", "upgrade", "connection"].contains(&name.to_lowercase().as_str()) {
                    head += &format!("{name}: {value}\n");
                }
            }
            let once = sent(&(head + "\n"), false);
            let twice = sent(&once, false);
            proptest::prop_assert_eq!(once, twice);
        }
    }
}
