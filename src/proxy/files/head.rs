//! Head: what is said of a file, from fields that were written beforehand. Nothing is formatted here.

use super::asset::Variant;
use super::conditional::{self, Verdict};
use super::range::{self, Choice};
use crate::proxy::answer::Manner;
use crate::proxy::http::headers::Fields;
use crate::proxy::http::write::{number, number_field};

/// The values of Accept-Encoding.
pub(in crate::proxy) fn accepted<'a>(fields: Fields<'a>) -> impl Iterator<Item = &'a [u8]> {
    conditional::values(fields, b"accept-encoding")
}

/// What follows the head: bytes of the file, from the first up to but not including the second.
pub(in crate::proxy) type Part = (u64, u64);

/// Writes the head to `out` and returns its status and what follows; `None` for 412, which is said like any other
/// refusal. `said` are the date and the request's id.
pub(in crate::proxy) fn write(
    out: &mut Vec<u8>,
    fields: Fields<'_>,
    variant: &Variant,
    manner: Manner,
    said: (&[u8], &[u8]),
) -> Option<(u16, Part)> {
    let validators = variant.validators();
    let choice = match conditional::judge(fields, validators) {
        Verdict::Failed => return None,
        Verdict::NotModified => {
            begin(out, b"304 Not Modified", said);
            out.extend_from_slice(&variant.kept);
            end(out, manner);
            return Some((304, (0, 0)));
        }
        // RFC 9110 §14.2: a range is for GET.
        Verdict::Send if manner.head_only => Choice::Whole,
        Verdict::Send => {
            conditional::range(fields, validators).map_or(Choice::Whole, |value| range::choose(value, variant.size))
        }
    };
    let (status, part) = match choice {
        Choice::Whole => {
            begin(out, b"200 OK", said);
            out.extend_from_slice(&variant.kept);
            out.extend_from_slice(&variant.described);
            out.extend_from_slice(&variant.length);
            (200, (0, variant.size))
        }
        Choice::Part { first, last } => {
            begin(out, b"206 Partial Content", said);
            out.extend_from_slice(&variant.kept);
            out.extend_from_slice(&variant.described);
            content_range(out, Some((first, last)), variant.size);
            number_field(out, b"Content-Length: ", last - first + 1);
            (206, (first, last + 1))
        }
        Choice::Nothing => {
            begin(out, b"416 Range Not Satisfiable", said);
            out.extend_from_slice(b"Cache-Control: no-store\r\n");
            content_range(out, None, variant.size);
            out.extend_from_slice(b"Content-Length: 0\r\n");
            (416, (0, 0))
        }
    };
    end(out, manner);
    Some((status, if manner.head_only { (0, 0) } else { part }))
}

fn begin(out: &mut Vec<u8>, status: &[u8], (date, request_id): (&[u8], &[u8])) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status);
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\nX-Request-Id: ");
    out.extend_from_slice(request_id);
    out.extend_from_slice(b"\r\n");
}

fn end(out: &mut Vec<u8>, manner: Manner) {
    if manner.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if manner.say_keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110 §14.4
fn content_range(out: &mut Vec<u8>, part: Option<(u64, u64)>, size: u64) {
    out.extend_from_slice(b"Content-Range: bytes ");
    match part {
        Some((first, last)) => {
            number(out, first);
            out.push(b'-');
            number(out, last);
        }
        None => out.push(b'*'),
    }
    out.push(b'/');
    number(out, size);
    out.extend_from_slice(b"\r\n");
}
