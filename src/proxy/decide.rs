//! Decide: what becomes of a request, from its head, who asks, and the table. Pure.
//!
//! **Invariant**: the path that chose the route leads to the same route after decoding and resolving dots; otherwise
//! the app would see another path than the one that was allowed to it.

use super::files::path::has_extension;
use super::http::head::Request;
use super::http::headers::Name;
use super::http::target::Target;
use super::http::{Bad, Method, bad};
use super::table::Index;
use crate::proto::route::is_private_host;

/// Requests to ourselves; never an app's.
const INTERNAL_HOST: &str = "tako.internal";
/// RFC 8555 §8.3
const CHALLENGES: &[u8] = b"/.well-known/acme-challenge/";
/// Proxies that a request has passed. No honest chain is as long; a request that an app sends back to us is.
const MAX_HOPS: usize = 20;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    /// Over TLS.
    pub secure: bool,
    pub loopback: bool,
    /// What it says about its own client is believed.
    pub trusted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// To the upstream with this lasting number.
    Forward(u32),
    /// The same, unless there is a file for it: with the path as it is or without its first `prefix` bytes, which are
    /// the route's.
    Look {
        upstream: u32,
        prefix: usize,
    },
    /// To HTTPS, everything else the same.
    Redirect,
    NotFound,
    /// `OPTIONS *`.
    Capabilities,
    /// Our own health.
    Healthy,
    /// A certificate authority asks for what the table has.
    Challenge,
}

/// `host` is [`Request::host_name`].
pub(super) fn decide(request: &Request<'_>, host: Option<&str>, asker: Asker, index: &Index) -> Result<Decision, Bad> {
    if request.target == Target::Asterisk {
        return Ok(Decision::Capabilities);
    }
    let path = request.target.path();
    // HTTP/1.0 without Host: no route has an empty host.
    let Some(host) = host else { return Ok(Decision::NotFound) };
    if host == INTERNAL_HOST {
        return Ok(if asker.loopback && path == b"/status" { Decision::Healthy } else { Decision::NotFound });
    }
    if !asker.secure && path.starts_with(CHALLENGES) {
        let known = challenge(request, host, index).is_some();
        return Ok(if known { Decision::Challenge } else { Decision::NotFound });
    }
    if !is_https(request, host, asker) {
        return Ok(Decision::Redirect);
    }
    // A target is ASCII without controls, see `http::target`.
    let Ok(path) = std::str::from_utf8(path) else { return bad(400, "bad path") };
    let found = index.find(host, path);
    if !is_plain(path) {
        for reading in [Reading::Plain, Reading::Lax] {
            if index.find(host, &resolve(path, reading)?) != found {
                return bad(400, "the path means another route once decoded");
            }
        }
    }
    let Some(place) = found else { return Ok(Decision::NotFound) };
    // RFC 5842 §7.2. Who is not believed begins a new chain, see `forward`.
    if asker.trusted && request.fields.members(Name::XForwardedFor).count() >= MAX_HOPS {
        return bad(508, "the request goes round in a loop");
    }
    let upstream = index.lasting[place].number;
    let is_asked_for = matches!(request.method, Method::Get | Method::Head) && has_extension(path.as_bytes());
    Ok(match index.upstreams[place].assets.is_empty() || !is_asked_for {
        true => Decision::Forward(upstream),
        false => Decision::Look { upstream, prefix: index.prefix(host, path) },
    })
}

/// The answer to a challenge, if this is one of ours. Whoever asks for another method or with a query is nobody's
/// authority.
pub(super) fn challenge<'a>(request: &Request<'_>, host: &str, index: &'a Index) -> Option<&'a str> {
    let token = request.target.raw().strip_prefix(CHALLENGES)?;
    let asked = matches!(request.method, Method::Get | Method::Head);
    index.challenge(host, std::str::from_utf8(token).ok()?).filter(|_| asked)
}

/// Whether the client's own connection is encrypted, as far as those we trust say.
pub(super) fn is_https(request: &Request<'_>, host: &str, asker: Asker) -> bool {
    if asker.secure {
        return true;
    }
    if !asker.trusted {
        return false;
    }
    match request.fields.members(Name::XForwardedProto).next() {
        Some(proto) => proto.eq_ignore_ascii_case(b"https"),
        // A local forwarder (ssh, a tunnel, a container bridge) says nothing, and redirecting it would loop.
        None => is_private_host(host) && request.fields.first(Name::Forwarded).is_none(),
    }
}

/// How an app may read a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Decoded once, backslashes as slashes, dot segments resolved (RFC 3986 §5.2.4).
    Plain,
    /// The same after merging slashes and dropping what follows a semicolon in each segment, as some servers do.
    Lax,
}

/// Nothing in it is read in more than one way: no escapes, dot segments, empty segments or parameters.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|b| {
        let odd = matches!(b, b'%' | b'\\' | b';') || (before == b'/' && matches!(b, b'.' | b'/'));
        before = b;
        !odd
    })
}

/// The path as an app may come to see it.
fn resolve(path: &str, reading: Reading) -> Result<String, Bad> {
    let lax = reading == Reading::Lax;
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let decoded = percent_decode(path.as_bytes());
    if decoded.contains(&0) {
        return bad(400, "NUL in the path");
    }
    let mut parts = decoded.split(|b| matches!(b, b'/' | b'\\')).skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let part = match part.iter().position(|b| *b == b';') {
            Some(end) if lax => &part[..end],
            _ => part,
        };
        match part {
            b"" if lax && !last => {}
            b".." if segments.pop().is_none() => return bad(400, "the path leads out of the root"),
            b"." | b".." if last => segments.push(Vec::new()),
            b"." | b".." => {}
            part => segments.push(part.into()),
        }
    }
    let mut resolved = String::new();
    for segment in segments {
        resolved.push('/');
        resolved.push_str(&String::from_utf8_lossy(&segment));
    }
    Ok(resolved)
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((b, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match (b, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &tail[2..];
            }
            None => out.push(*b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::table::tests::index;

    const TLS: Asker = Asker { secure: true, loopback: false, trusted: false };
    const PLAIN: Asker = Asker { secure: false, loopback: false, trusted: false };
    const LOCAL: Asker = Asker { secure: false, loopback: true, trusted: true };

    fn ask(line: &str, fields: &str, asker: Asker) -> Result<Decision, u16> {
        let index = index(&["a.b", "a.b/api/*", "a.local", "a.b/exact"]);
        let head = format!("{line} HTTP/1.1\n{fields}\n\n").replace('\n', "\r\n");
        let mut list = Vec::new();
        let request = Request::parse(head.as_bytes(), &mut list).unwrap();
        let mut room = String::new();
        let host = request.host_name(&mut room).map(str::to_string);
        decide(&request, host.as_deref(), asker, &index).map_err(|b| b.status)
    }

    #[test]
    fn finds_the_app_by_host_and_path() {
        let check = |path: &str, host: &str, expected| {
            assert_eq!(ask(&format!("GET {path}"), &format!("Host: {host}"), TLS), Ok(expected), "{host}{path}");
        };
        check("/", "a.b", Decision::Forward(0));
        check("/", "A.B.:8443", Decision::Forward(0));
        check("/api/x?y=/../..", "a.b", Decision::Forward(1));
        check("http://a.b/api", "a.b", Decision::Forward(1));
        check("/", "x.b", Decision::NotFound);
        check("/", "[::1]", Decision::NotFound);
        assert_eq!(ask("OPTIONS *", "Host: a.b", PLAIN), Ok(Decision::Capabilities));
    }

    #[test]
    fn a_path_that_changes_its_route_by_decoding_is_refused() {
        let check =
            |path: &str, expected| assert_eq!(ask(&format!("GET {path}"), "Host: a.b", TLS), expected, "{path}");
        check("/x/../y", Ok(Decision::Forward(0)));
        check("/%61/b%20c/.well-known", Ok(Decision::Forward(0)));
        check("/api/%2e", Ok(Decision::Forward(1)));
        check("/x/../api/y", Err(400));
        check("/x/%2e%2e/api", Err(400));
        check("/api/../x", Err(400));
        check("/api%2Fx", Err(400));
        check("/api%5cx", Err(400));
        check("/x\\..\\api", Err(400));
        check("/%65xact", Err(400));
        check("/../x", Err(400));
        check("/a/%2e%2e/%2e%2e/x", Err(400));
        check("/a%00", Err(400));
        check("/a%zz%", Ok(Decision::Forward(0)));
        // Apps that merge slashes, or drop what follows a semicolon.
        check("//x;y//", Ok(Decision::Forward(0)));
        check("/api//x;y", Ok(Decision::Forward(1)));
        check("//api/x", Err(400));
        check("/api;/x", Err(400));
        check("/;a/api", Err(400));
        check("/%2fapi", Err(400));
        check("/api//../x", Err(400));
        check("/api/..;/x", Err(400));
        check("/x%3b/../api", Err(400));
        check("/x/..%3b/api", Err(400));
    }

    #[test]
    fn plain_requests_are_sent_to_https_unless_a_trusted_peer_says_otherwise() {
        let check =
            |fields: &str, asker, expected| assert_eq!(ask("GET /", fields, asker), Ok(expected), "{fields} {asker:?}");
        check("Host: a.b", PLAIN, Decision::Redirect);
        check("Host: a.b\nX-Forwarded-Proto: https", PLAIN, Decision::Redirect);
        check("Host: a.local", PLAIN, Decision::Redirect);
        check("Host: a.b", LOCAL, Decision::Redirect);
        check("Host: a.b\nX-Forwarded-Proto: https", LOCAL, Decision::Forward(0));
        check("Host: a.b\nX-Forwarded-Proto: HTTPS, http", LOCAL, Decision::Forward(0));
        check("Host: a.b\nX-Forwarded-Proto: http", LOCAL, Decision::Redirect);
        check("Host: a.local", LOCAL, Decision::Forward(2));
        check("Host: a.local\nX-Forwarded-Proto: http", LOCAL, Decision::Redirect);
        check("Host: a.local\nForwarded: proto=http", LOCAL, Decision::Redirect);
    }

    #[test]
    fn rfc5842_7_2_a_request_that_comes_back_for_ever_is_stopped() {
        let hops =
            |n| format!("Host: a.b\nX-Forwarded-Proto: https\nX-Forwarded-For: {}", vec!["1.1.1.1"; n].join(", "));
        assert_eq!(ask("GET /", &hops(MAX_HOPS - 1), LOCAL), Ok(Decision::Forward(0)));
        assert_eq!(ask("GET /", &hops(MAX_HOPS), LOCAL), Err(508));
        let lines = hops(1) + &"\nX-Forwarded-For: 1.1.1.1".repeat(MAX_HOPS - 1);
        assert_eq!(ask("GET /", &lines, LOCAL), Err(508), "lines count like members");
        assert_eq!(ask("GET /", &hops(MAX_HOPS), TLS), Ok(Decision::Forward(0)), "a claim that is replaced anyway");
    }

    #[test]
    fn rfc9112_3_2_http_1_0_without_a_host_is_for_nobody() {
        let index = index(&["a.b"]);
        let decide = |head: &[u8]| {
            let mut list = Vec::new();
            let request = Request::parse(head, &mut list).unwrap();
            let mut room = String::new();
            decide(&request, request.host_name(&mut room), TLS, &index)
        };
        assert_eq!(decide(b"GET / HTTP/1.0\r\n\r\n"), Ok(Decision::NotFound));
        assert_eq!(decide(b"GET http://a.b/ HTTP/1.0\r\n\r\n"), Ok(Decision::Forward(0)));
        assert_eq!(decide(b"OPTIONS * HTTP/1.0\r\n\r\n"), Ok(Decision::Capabilities));
    }

    #[test]
    fn challenges_and_our_own_host_never_reach_an_app() {
        let check = |line: &str, host: &str, asker, expected| {
            assert_eq!(ask(line, &format!("Host: {host}"), asker), Ok(expected))
        };
        check("GET /.well-known/acme-challenge/x", "a.b", PLAIN, Decision::NotFound);
        check("GET /.well-known/acme-challenge/token", "A.b:80", PLAIN, Decision::Challenge);
        check("GET /.well-known/acme-challenge/token", "a.local", PLAIN, Decision::NotFound);
        check("POST /.well-known/acme-challenge/token", "a.b", PLAIN, Decision::NotFound);
        check("GET /.well-known/acme-challenge/token?x", "a.b", PLAIN, Decision::NotFound);
        check("GET /.well-known/acme-challenge/x/../token", "a.b", PLAIN, Decision::NotFound);
        check("GET /.well-known/acme-challenge/x", "a.b", TLS, Decision::Forward(0));
        check("GET /status", "tako.internal", LOCAL, Decision::Healthy);
        check("GET /status?x", "Tako.Internal:80", LOCAL, Decision::Healthy);
        check("GET /status", "tako.internal", PLAIN, Decision::NotFound);
        check("GET /status", "tako.internal", TLS, Decision::NotFound);
        check("GET /", "tako.internal", LOCAL, Decision::NotFound);
    }

    proptest::proptest! {
        #[test]
        fn resolving_never_panics_and_leaves_no_dots(path in "(/|%2[eEfF]|\\.|a|%|%5c|;){0,20}") {
            for reading in [Reading::Plain, Reading::Lax] {
                if let Ok(resolved) = resolve(&format!("/{path}"), reading) {
                    proptest::prop_assert!(resolved.split('/').all(|s| s != "." && s != ".."), "{}", resolved);
                }
            }
        }
    }
}
