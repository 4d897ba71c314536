//! How long a body is (RFC 9112 §6.3), and cutting it out of the stream.
//!
//! **Invariant**: two readers of the same head can only come to the same length: whatever could be read in two ways
//! is refused before a byte of the body is looked at.

use super::chunked;
use super::head::{Request, Response};
use super::headers::{Fields, Name};
use super::{Bad, TCHAR, Version, all, bad};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Responses only.
    UntilClose,
}

/// The body of a request.
pub(in crate::proxy) fn request(request: &Request<'_>) -> Result<Framing, Bad> {
    let length = content_length(request.fields)?;
    match transfer_encoding(request.fields)? {
        // RFC 9112 §6.1: both is an attempt at smuggling, or a sender to stay away from.
        true if length.is_some() => bad(400, "both Content-Length and Transfer-Encoding"),
        true if request.version == Version::V10 => bad(400, "Transfer-Encoding in HTTP/1.0"),
        true => Ok(Framing::Chunked),
        // RFC 9112 §6.3 rule 7: neither means no body.
        false => Ok(length.map_or(Framing::None, Framing::Length)),
    }
}

/// The body of a response, and whether the connection may be used again as far as its framing goes.
pub(in crate::proxy) fn response(response: &Response<'_>, to_head: bool) -> Result<(Framing, bool), Bad> {
    let status = response.status;
    // RFC 9112 §6.3 rules 1 and 2: no body, whatever the fields say.
    if to_head || status < 200 || status == 204 || status == 304 {
        return Ok((Framing::None, true));
    }
    if transfer_encoding(response.fields)? {
        if response.version == Version::V10 {
            return bad(502, "Transfer-Encoding in HTTP/1.0");
        }
        // RFC 9112 §6.3 rule 3: chunked wins, and the sender is not to be trusted with another request.
        return Ok((Framing::Chunked, response.fields.first(Name::ContentLength).is_none()));
    }
    Ok(match response_length(response.fields)? {
        Some(length) => (Framing::Length(length), true),
        None => (Framing::UntilClose, false),
    })
}

/// The Content-Length of a response; equal ones count as one (RFC 9110 §8.6).
pub(in crate::proxy) fn response_length(fields: Fields<'_>) -> Result<Option<u64>, Bad> {
    let mut lengths = fields.all(Name::ContentLength).map(number);
    let Some(first) = lengths.next().transpose()? else { return Ok(None) };
    for other in lengths {
        if other? != first {
            return bad(502, "conflicting Content-Length");
        }
    }
    Ok(Some(first))
}

fn content_length(fields: Fields<'_>) -> Result<Option<u64>, Bad> {
    let mut values = fields.all(Name::ContentLength);
    let length = values.next().map(number).transpose()?;
    match values.next() {
        // RFC 9110 §8.6 lets equal ones collapse; no client of today sends two.
        Some(_) => bad(400, "two Content-Length fields"),
        None => Ok(length),
    }
}

/// RFC 9110 §8.6: `1*DIGIT`, here without leading zeros and below 2^63, so that no other reader overflows.
fn number(value: &[u8]) -> Result<u64, Bad> {
    let canonical = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && (value[0] != b'0' || value == b"0");
    let parsed = if canonical && value.len() <= 19 {
        value.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
    } else {
        None
    };
    match parsed {
        Some(n) if n < 1 << 63 => Ok(n),
        _ => bad(400, "bad Content-Length"),
    }
}

/// Whether the body is chunked (RFC 9112 §6.1, §7).
fn transfer_encoding(fields: Fields<'_>) -> Result<bool, Bad> {
    let mut values = fields.all(Name::TransferEncoding);
    let Some(value) = values.next() else { return Ok(false) };
    if values.next().is_some() {
        return bad(400, "two Transfer-Encoding fields");
    }
    let mut unknown = false;
    let mut codings = value.split(|b| *b == b',').map(super::headers::trim).peekable();
    while let Some(coding) = codings.next() {
        let last = codings.peek().is_none();
        // Empty members, parameters, quoted strings and odd whitespace are all no token.
        if !all(coding, TCHAR) || coding.eq_ignore_ascii_case(b"identity") {
            return bad(400, "bad Transfer-Encoding");
        }
        match coding.eq_ignore_ascii_case(b"chunked") {
            true if last && unknown => return bad(501, "unknown transfer coding"),
            true if last => return Ok(true),
            true => return bad(400, "chunked is not the last transfer coding"),
            false => unknown = true,
        }
    }
    bad(501, "unknown transfer coding")
}

/// Cuts a body out of a stream.
#[derive(Debug)]
pub(in crate::proxy) enum Decoder {
    Length(u64),
    Chunked(Box<chunked::Decoder>),
    UntilClose,
}

/// What the front of the input was.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Piece {
    /// Bytes to drop from the input.
    pub used: usize,
    /// Which of them are body.
    pub data: std::ops::Range<usize>,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Decoder::Length(0),
            Framing::Length(n) => Decoder::Length(n),
            Framing::Chunked => Decoder::Chunked(Box::default()),
            Framing::UntilClose => Decoder::UntilClose,
        }
    }

    pub fn is_done(&self) -> bool {
        match self {
            Decoder::Length(left) => *left == 0,
            Decoder::Chunked(chunks) => chunks.is_done(),
            Decoder::UntilClose => false,
        }
    }

    /// Takes the next piece off `input`. When nothing is used, more input is needed, or it is done.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Bad> {
        match self {
            Decoder::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= n as u64;
                Ok(Piece { used: n, data: 0..n })
            }
            Decoder::Chunked(chunks) => chunks.next(input),
            Decoder::UntilClose => Ok(Piece { used: input.len(), data: 0..input.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: &str, fields: &str) -> Result<Framing, u16> {
        let head = format!("POST / {version}\nHost: a\n{fields}\n\n")
            .replace('\n', "\r\n")
            .replace("\r\n\r\n\r\n", "\r\n\r\n");
        let mut list = Vec::new();
        let parsed = Request::parse(head.as_bytes(), &mut list).map_err(|b| b.status)?;
        request(&parsed).map_err(|b| b.status)
    }

    fn check(fields: &str, expected: Result<Framing, u16>) {
        assert_eq!(of("HTTP/1.1", fields), expected, "{fields}");
    }

    #[test]
    fn rfc9112_6_3_neither_field_means_no_body() {
        check("", Ok(Framing::None));
    }

    #[test]
    fn rfc9110_8_6_content_length_is_one_canonical_number() {
        check("Content-Length: 0", Ok(Framing::Length(0)));
        check("Content-Length: 42", Ok(Framing::Length(42)));
        check("Content-Length: 9223372036854775807", Ok(Framing::Length(i64::MAX as u64)));
        for bad in [
            "",
            "+1",
            "-1",
            "1,1",
            "1, 1",
            "01",
            "00",
            "0x10",
            "1 1",
            "1.0",
            "1_0",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999",
            "\u{661}",
        ] {
            check(&format!("Content-Length: {bad}"), Err(400));
        }
        check("Content-Length: 1\nContent-Length: 1", Err(400));
        check("Content-Length: 1\nContent-Length: 2", Err(400));
    }

    #[test]
    fn rfc9112_6_1_length_and_coding_exclude_each_other() {
        check("Content-Length: 1\nTransfer-Encoding: chunked", Err(400));
        check("Transfer-Encoding: chunked\nContent-Length: 0", Err(400));
        assert_eq!(of("HTTP/1.0", "Transfer-Encoding: chunked"), Err(400));
        assert_eq!(of("HTTP/1.0", "Content-Length: 3"), Ok(Framing::Length(3)));
    }

    #[test]
    fn rfc9112_7_transfer_encoding_is_exactly_chunked() {
        check("Transfer-Encoding: chunked", Ok(Framing::Chunked));
        check("transfer-encoding:\tCHUNKED ", Ok(Framing::Chunked));
        for bad in [
            "",
            ",chunked",
            "chunked,",
            "chunked, chunked",
            "chunked;q=1",
            "\"chunked\"",
            "identity",
            "identity, chunked",
            "chunked, gzip",
            "x chunked",
            "chun\tked",
        ] {
            check(&format!("Transfer-Encoding: {bad}"), Err(400));
        }
        for odd in ["\x0bchunked", "chunked\x0b", "\x0cchunked", "chunked\x0c", "chunked\0", "chunked, \x0b"] {
            check(&format!("Transfer-Encoding: {odd}"), Err(400));
        }
        check("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", Err(400));
        check("Transfer-Encoding: chunked\nTransfer-Encoding: identity", Err(400));
        for unknown in ["gzip", "gzip, chunked", "xchunked", "chunkedx"] {
            check(&format!("Transfer-Encoding: {unknown}"), Err(501));
        }
    }

    fn answer(head: &str, to_head: bool) -> Result<(Framing, bool), u16> {
        let head = head.replace('\n', "\r\n");
        let mut list = Vec::new();
        let parsed = Response::parse(head.as_bytes(), &mut list).map_err(|b| b.status)?;
        response(&parsed, to_head).map_err(|b| b.status)
    }

    #[test]
    fn rfc9112_6_3_responses() {
        let check = |head: &str, expected| assert_eq!(answer(head, false), expected, "{head}");
        check("HTTP/1.1 200 OK\nContent-Length: 5\n\n", Ok((Framing::Length(5), true)));
        check("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5\n\n", Ok((Framing::Length(5), true)));
        check("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", Ok((Framing::Chunked, true)));
        check("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 5\n\n", Ok((Framing::Chunked, false)));
        check("HTTP/1.1 200 OK\n\n", Ok((Framing::UntilClose, false)));
        check("HTTP/1.1 204 No Content\nContent-Length: 5\n\n", Ok((Framing::None, true)));
        check("HTTP/1.1 304 Not Modified\nTransfer-Encoding: chunked\n\n", Ok((Framing::None, true)));
        check("HTTP/1.1 103 Early Hints\n\n", Ok((Framing::None, true)));
        assert_eq!(answer("HTTP/1.1 200 OK\nContent-Length: 5\n\n", true), Ok((Framing::None, true)));
        for bad in [
            "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n\n",
            "HTTP/1.1 200 OK\nContent-Length: x\n\n",
            "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n",
        ] {
            assert!(answer(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_length_body_never_takes_more_than_its_length() {
        let mut body = Decoder::new(Framing::Length(5));
        assert_eq!(body.next(b"abc").unwrap(), Piece { used: 3, data: 0..3 });
        assert!(!body.is_done());
        assert_eq!(body.next(b"defg").unwrap(), Piece { used: 2, data: 0..2 });
        assert!(body.is_done());
        assert_eq!(body.next(b"g").unwrap(), Piece { used: 0, data: 0..0 });
    }
}
