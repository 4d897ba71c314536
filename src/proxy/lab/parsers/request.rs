//! Heads of requests.

use super::{MAX_FIELDS, assert_absent, assert_same_fields, end_to_end, find, values, with_known_version};
use crate::proxy::forward::{self, Client};
use crate::proxy::http::framing::{self, Framing};
use crate::proxy::http::head::{Request, Scanner};
use crate::proxy::http::headers::Name;
use crate::proxy::http::{REQUEST, Version};

/// Bytes on a client's connection, from where a head should begin.
///
/// # Panics
/// When an invariant is broken.
pub fn request_head(bytes: &[u8]) {
    let Some(found) = find(bytes, Scanner::request, REQUEST.head) else { return };
    let head = &bytes[found];
    let mut list = Vec::new();
    let Ok(request) = Request::parse(head, &mut list) else { return };
    assert_second_reader_agrees(head, &request);
    let Ok(framing) = framing::request(&request) else { return };
    // Without a host there is no route, so it never goes on.
    if forward::expects_continue(&request).is_err() || request.host.is_none() {
        return;
    }
    for trusted in [false, true] {
        let sent = written(&request, framing, trusted);
        let mut list = Vec::new();
        let again = Request::parse(&sent, &mut list).expect("what we write is a request");
        assert_same_request(&request, framing, &again);
        assert_nothing_slipped_through(&again, trusted);
        if !trusted {
            assert_eq!(written(&again, framing, trusted), sent, "stable");
        }
    }
}

fn written(request: &Request<'_>, framing: Framing, trusted: bool) -> Vec<u8> {
    let client = Client { address: [192, 0, 2, 1].into(), trusted, https: true, request_id: b"made" };
    let mut out = Vec::new();
    forward::request(&mut out, request, framing, client);
    out
}

fn assert_same_request(came: &Request<'_>, framing: Framing, went: &Request<'_>) {
    assert_eq!((went.method_bytes, went.version), (came.method_bytes, Version::V11));
    assert_eq!(went.target.path(), came.target.path());
    let target = |request: &Request<'_>| {
        let mut out = Vec::new();
        request.target.write(&mut out);
        out
    };
    assert_eq!(target(went), target(came));
    assert_eq!(went.host, came.host);
    assert_eq!(framing::request(went), Ok(framing));
    assert_eq!(forward::wants_websocket(went, framing), forward::wants_websocket(came, framing));
    assert_eq!(forward::takes_trailers(went), forward::takes_trailers(came));
    assert_eq!(end_to_end(went.fields), end_to_end(came.fields));
}

fn assert_nothing_slipped_through(went: &Request<'_>, trusted: bool) {
    use Name::*;
    let of = |id| values(went.fields, id);
    assert_absent(
        went.fields,
        &[
            Close,
            Forwarded,
            Http2Settings,
            InternalToken,
            KeepAlive,
            Proxy,
            ProxyAuthenticate,
            ProxyAuthorization,
            ProxyConnection,
            Trailer,
        ],
    );
    assert!(!went.connection.close && !went.connection.keep_alive);
    match of(Connection)[..] {
        [] => assert!(of(Upgrade).is_empty() && of(Te).is_empty()),
        [b"Upgrade"] => assert!(of(Upgrade) == [b"websocket"] && of(Te).is_empty()),
        [b"TE"] => assert!(of(Upgrade).is_empty() && of(Te) == [b"trailers"]),
        _ => panic!("more than one Connection field, or another option"),
    }
    assert!(matches!(of(TransferEncoding)[..], [] | [b"chunked"]));
    assert_eq!((of(Host).len(), of(XRequestId).len(), of(XForwardedFor).len()), (1, 1, 1));
    let said = [XForwardedHost, XForwardedPort, XForwardedProto].map(|id| of(id).len());
    if trusted {
        assert!(of(XForwardedFor)[0].ends_with(b"192.0.2.1") && !said.contains(&0));
    } else {
        assert_eq!((of(XForwardedFor), said), (vec![&b"192.0.2.1"[..]], [1; 3]));
        assert_absent(went.fields, &[XForwarded]);
    }
}

fn assert_second_reader_agrees(head: &[u8], ours: &Request<'_>) {
    let end = memchr::memchr(b'\r', head).expect("a parsed head has lines");
    let head = with_known_version(head, end - 1);
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut theirs = httparse::Request::new(&mut fields);
    assert_eq!(theirs.parse(&head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!(theirs.method.map(str::as_bytes), Some(ours.method_bytes));
    assert_eq!(theirs.version, Some(u8::from(ours.version == Version::V11)));
    // The target as sent: the second of the three parts.
    assert_eq!(theirs.path.map(str::as_bytes), head[..end].split(|b| *b == b' ').nth(1));
    assert_same_fields(ours.fields, theirs.headers);
}
