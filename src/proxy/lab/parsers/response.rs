//! Heads of responses.

use super::{MAX_FIELDS, assert_absent, assert_same_fields, end_to_end, find, values, with_known_version};
use crate::proxy::forward::{self, Defaults, Shape};
use crate::proxy::http::framing::{self, Framing};
use crate::proxy::http::head::{Response, Scanner};
use crate::proxy::http::headers::Name;
use crate::proxy::http::{RESPONSE, Version};

const DEFAULTS: Defaults<'static> = Defaults { date: b"Thu, 01 Jan 1970 00:00:00 GMT", request_id: b"id" };

/// Bytes on an endpoint's connection, from where a head should begin.
///
/// # Panics
/// When an invariant is broken.
pub fn response_head(bytes: &[u8]) {
    let Some(found) = find(bytes, Scanner::response, RESPONSE.head) else { return };
    let head = &bytes[found];
    let mut list = Vec::new();
    let Ok(response) = Response::parse(head, &mut list) else { return };
    assert_second_reader_agrees(head, &response);
    if response.status < 200 {
        return informational(&response);
    }
    for to_head in [false, true] {
        let Ok((framing, _)) = framing::response(&response, to_head) else { continue };
        for client in [Version::V10, Version::V11] {
            let framing = match (framing, client) {
                (Framing::Chunked | Framing::UntilClose, Version::V10) => Framing::UntilClose,
                (Framing::UntilClose, Version::V11) => Framing::Chunked,
                (framing, _) => framing,
            };
            let close = framing == Framing::UntilClose;
            let shape = Shape { framing, close, say_keep_alive: false, trailers: framing == Framing::Chunked };
            final_one(&response, shape, to_head);
        }
    }
}

fn final_one(came: &Response<'_>, shape: Shape, to_head: bool) {
    // A bodiless answer with a length that is none.
    let Some(sent) = written(came, shape) else { return };
    let mut list = Vec::new();
    let went = Response::parse(&sent, &mut list).expect("what we write is a response");
    assert_same_response(came, &went);
    let (framing, sound) = framing::response(&went, to_head).expect("and its framing is sound");
    assert!(framing == shape.framing && (sound || framing == Framing::UntilClose), "{framing:?} for {shape:?}");
    assert_eq!(went.connection.close, shape.close);
    let of = |id| values(went.fields, id);
    assert!(!of(Name::Date).is_empty());
    // RFC 9112 §6.2: one length, and never beside a coding; RFC 9110 §8.6: none in a 204.
    let framed = (of(Name::ContentLength).len(), of(Name::TransferEncoding).len());
    assert!(matches!(framed, (0, 0) | (1, 0) | (0, 1)) && (went.status != 204 || framed == (0, 0)), "{framed:?}");
    let coded = !values(came.fields, Name::TransferEncoding).is_empty();
    assert!(!coded || framed.0 == 0, "RFC 9112 §6.3: a coding overrides a length");
    assert_eq!(written(&went, shape).as_ref(), Some(&sent), "stable");
}

fn written(response: &Response<'_>, shape: Shape) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let result = forward::response(&mut out, response, shape, DEFAULTS);
    assert!(result.is_ok() || out.is_empty(), "refused with a part of it written");
    result.ok().map(|()| out)
}

/// RFC 9110 §15.2: it never has a body, nor fields that speak of one.
fn informational(came: &Response<'_>) {
    let mut sent = Vec::new();
    match came.status {
        101 => forward::switching(&mut sent, came),
        _ => forward::interim(&mut sent, came),
    }
    let mut list = Vec::new();
    let went = Response::parse(&sent, &mut list).expect("what we write is a response");
    assert_same_response(came, &went);
    assert_absent(went.fields, &[Name::ContentLength, Name::TransferEncoding]);
    assert_eq!(went.connection.upgrade, came.status == 101);
}

fn assert_same_response(came: &Response<'_>, went: &Response<'_>) {
    assert_eq!((went.version, went.status, went.reason), (Version::V11, came.status, came.reason));
    assert_eq!(end_to_end(went.fields), end_to_end(came.fields));
    assert_absent(
        went.fields,
        &[
            Name::Close,
            Name::Http2Settings,
            Name::InternalToken,
            Name::KeepAlive,
            Name::ProxyAuthenticate,
            Name::ProxyAuthorization,
            Name::ProxyConnection,
            Name::Te,
        ],
    );
    assert!(values(went.fields, Name::Connection).len() <= 1);
}

fn assert_second_reader_agrees(head: &[u8], ours: &Response<'_>) {
    let head = with_known_version(head, "HTTP/1.".len());
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut theirs = httparse::Response::new(&mut fields);
    assert_eq!(theirs.parse(&head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!((theirs.code, theirs.version), (Some(ours.status), Some(u8::from(ours.version == Version::V11))));
    // It gives no reason rather than one above ASCII.
    let reason = if ours.reason.is_ascii() { ours.reason } else { b"" };
    assert_eq!(theirs.reason.map(str::as_bytes), Some(reason));
    assert_same_fields(ours.fields, theirs.headers);
}
