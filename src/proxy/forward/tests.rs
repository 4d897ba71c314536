//! What goes on and what does not, head by head.

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
    assert!(sent(&format!("GET / HTTP/1.1\n{fields}\n"), false).starts_with(&format!("GET / HTTP/1.1\n{fields}X-F")));
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
    let expected =
        "HTTP/1.1 200 Fine\nSet-Cookie: a\nSet-Cookie: b\nDate: now\nX-Request-Id: id\nTransfer-Encoding: chunked\n\n";
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
