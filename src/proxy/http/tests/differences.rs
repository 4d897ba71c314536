//! Where we differ from those who published a vector, on purpose, and why. A row that is not so fails the test.
//!
//! One difference is not in the table, for it is in nearly every vector: a request of HTTP/1.1 without a Host field is
//! refused (RFC 9112 §3.2). Each of these is refused for that first, and then judged with a Host added.

/// What we do where the other accepts, or refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    Refuses(u16),
    Accepts,
    /// For the rest of a body.
    Waits,
    /// Both accept, and read it otherwise. No reason excuses that.
    Otherwise,
}

use Ours::{Accepts, Refuses, Waits};

/// Name of the vector, our verdict, and the reason.
pub(super) type Row = (&'static str, Ours, &'static str);

const METHOD: &str = "a method is any token (RFC 9110 §9.1); what it means is for the app";
const TUNNEL: &str = "no tunnels to elsewhere: CONNECT is a 405 (RFC 9110 §9.3.6)";
const PROTOCOL: &str = "not HTTP (RFC 9112 §2.3)";
const OLD: &str = "HTTP/0.9 and 2.0 have no place in this syntax (RFC 9112 §2.3)";
const ZEROS: &str = "leading zeros, which RFC 9110 §8.6 allows, are octal to some readers; no client sends them";
const FRAGMENT: &str = "a fragment is no part of a target (RFC 9112 §3.2, RFC 3986 §3.5)";
const ASTERISK: &str = "`*` is for OPTIONS (RFC 9112 §3.2.4)";
const USERINFO: &str = "a recipient should take userinfo for an error (RFC 9110 §4.2.4)";
const HOST: &str = "`=` is possible in a name by RFC 3986 §3.2.2 and in no name that anybody serves";
const CODING: &str = "a coding that we cannot decode is a 501, or a 502 from an endpoint (RFC 9112 §6.1)";
const TWO_CODINGS: &str = "codings in two fields, or `identity`, which exists no more (RFC 9112 §7), hide a smuggler";
const LAST: &str = "chunked that is not last has no end that all agree on (RFC 9112 §6.1)";
const EMPTY_LINE: &str =
    "an empty line may come before a request only (RFC 9112 §2.2); before a response it is surplus";
const FOLD: &str = "obs-fold is refused (RFC 9112 §5.2)";
const SPACE: &str = "whitespace before the colon is refused (RFC 9112 §5.1)";
const ABOVE_ASCII: &str = "a target is ASCII (RFC 9112 §3.2, RFC 3986 §2)";
const PROXY: &str = "the PROXY protocol is not HTTP, and is not spoken here";
const SHORT: &str = "the body is shorter than its Content-Length says (RFC 9112 §6.3 rule 6)";

pub(super) const LLHTTP: &[Row] = &[
    ("request/content-length.md: `Content-Length` with follow-up headers", Refuses(400), ZEROS),
    ("request/content-length.md: `Content-Length` with zeroes", Refuses(400), ZEROS),
    ("request/invalid.md: HTTP protocol and ANNOUNCE method", Accepts, METHOD),
    ("request/invalid.md: Invalid method", Accepts, METHOD),
    ("request/method.md: ANNOUNCE request with RTSP", Refuses(400), PROTOCOL),
    ("request/method.md: CONNECT request", Refuses(405), TUNNEL),
    ("request/method.md: CONNECT request with CAPS", Refuses(405), TUNNEL),
    ("request/method.md: CONNECT with body", Refuses(405), TUNNEL),
    ("request/method.md: M-SEARCH request", Refuses(400), ASTERISK),
    ("request/method.md: OPTIONS request with RTSP", Refuses(400), PROTOCOL),
    ("request/method.md: SOURCE request with ICE", Refuses(400), PROTOCOL),
    ("request/sample.md: Firefox GET", Refuses(400), HOST),
    ("request/sample.md: No HTTP version", Refuses(400), OLD),
    ("request/sample.md: curl GET", Refuses(400), HOST),
    ("request/transfer-encoding.md: POST with `chunked` as last transfer-encoding", Refuses(400), FRAGMENT),
    (
        "request/transfer-encoding.md: POST with `chunked` as last transfer-encoding (multiple headers)",
        Refuses(400),
        FRAGMENT,
    ),
    ("request/uri.md: Fragment in URI", Refuses(400), FRAGMENT),
    ("request/uri.md: Underscore in hostname", Refuses(405), TUNNEL),
    ("request/uri.md: `host:port` and basic auth", Refuses(400), USERINFO),
    ("response/connection.md: HTTP 100 first, then 400", Refuses(502), EMPTY_LINE),
    ("response/connection.md: HTTP 304 with Content-Length", Refuses(502), EMPTY_LINE),
    ("response/pipelining.md: Should parse multiple events", Refuses(502), EMPTY_LINE),
    ("response/sample.md: HTTP version 0.9", Refuses(502), OLD),
    ("response/sample.md: ICE response", Refuses(502), PROTOCOL),
    ("response/sample.md: RTSP response", Refuses(502), PROTOCOL),
    ("response/sample.md: Response starting with CRLF", Refuses(502), EMPTY_LINE),
    ("response/transfer-encoding.md: `chunked` before other transfer-encoding", Refuses(502), LAST),
    (
        "response/transfer-encoding.md: `chunkedchunked` transfer-encoding does not enable chunked enconding",
        Refuses(502),
        CODING,
    ),
    (
        "response/transfer-encoding.md: multiple transfer-encoding where chunked is not the last one",
        Refuses(502),
        TWO_CODINGS,
    ),
];

pub(super) const GUNICORN: &[Row] = &[
    ("002", Refuses(400), HOST),
    ("003", Refuses(400), HOST),
    ("005", Refuses(400), FRAGMENT),
    ("009", Refuses(400), FRAGMENT),
    ("025", Refuses(400), TWO_CODINGS),
    ("025_line", Refuses(501), CODING),
    ("027", Refuses(400), ABOVE_ASCII),
    ("028", Refuses(400), SPACE),
    ("029", Refuses(400), TWO_CODINGS),
    ("030", Refuses(400), TWO_CODINGS),
    ("099", Waits, SHORT),
    ("compat_obs_fold", Refuses(400), FOLD),
    ("compat_obs_fold_huge", Refuses(400), FOLD),
    ("pp_01", Refuses(400), PROXY),
    ("pp_02", Refuses(400), PROXY),
    ("pp_04", Refuses(400), PROXY),
    ("pp_05", Refuses(400), PROXY),
    ("rfc9112_smuggle_gzip_chunked_01", Refuses(501), CODING),
    ("rfc9112_smuggle_te_identity_chunked_01", Refuses(400), TWO_CODINGS),
    ("rfc9112_target_absolute_userinfo_01", Refuses(400), USERINFO),
    ("rfc9112_target_authority_connect_01", Refuses(405), TUNNEL),
    ("rfc9112_target_authority_ipv6_01", Refuses(405), TUNNEL),
];
