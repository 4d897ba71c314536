//! HTTP/1.1 (RFC 9112) without sockets: bytes in, meaning or a refusal out.
//!
//! Reading order: `scan` looks for bytes, `head` finds and parses a head, `headers` knows the names and lists in it, `target` what is asked
//! for, `framing` how long the body is, `chunked` one way of saying so, `write` the
//! pieces of a head on their way out, `buf` is where bytes wait.
//!
//! **Invariant**: strict in, canonical out. What is ambiguous is refused, never repaired; and what frames a message
//! (lengths, codings, line ends) is written anew by us, never passed on. Both halves close the door to smuggling.

pub(super) mod scan;
pub(super) mod head;
pub(super) mod headers;
pub(super) mod target;
pub(super) mod framing;
pub(super) mod chunked;
pub(super) mod write;
pub(super) mod buf;
#[cfg(test)]
mod tests;

/// Why a message is refused, and the status that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    pub status: u16,
    pub why: &'static str,
}

pub(super) const fn bad<T>(status: u16, why: &'static str) -> Result<T, Bad> {
    Err(Bad { status, why })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V10,
    /// Every other 1.x too (RFC 9110 §2.5).
    V11,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Connect,
    Trace,
    Other,
}

impl Method {
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// Sending it twice means the same as once (RFC 9110 §9.2.2), so a proxy may (RFC 9110 §9.2.2, last paragraph).
    pub fn is_idempotent(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

/// Longest method name; the longest registered one has 17.
pub(super) const MAX_METHOD: usize = 32;
/// RFC 9112 §3 asks for at least 8000.
pub(super) const MAX_TARGET: usize = 8192;

/// How large a head may be, in bytes; lines without their CRLF.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub head: usize,
    /// The request line or status line.
    pub first: usize,
    /// A field line.
    pub line: usize,
    pub fields: usize,
}

/// A larger request head is an attack or a runaway cookie; 431.
pub(super) const REQUEST: Caps =
    Caps { head: 32 << 10, first: MAX_METHOD + MAX_TARGET + " HTTP/1.1 ".len(), line: 16 << 10, fields: 100 };
/// Apps are ours, so they get more; beyond, 502.
pub(super) const RESPONSE: Caps = Caps { head: 64 << 10, first: 8 << 10, line: 64 << 10, fields: 200 };
/// Trailers of one message, and what an attacker may make us hold for them.
pub(super) const MAX_TRAILERS: usize = 8 << 10;
/// How many of them.
pub(super) const MAX_TRAILER_FIELDS: usize = 100;

/// `tchar` of RFC 9110 §5.6.2.
pub(super) const fn is_tchar(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// One bit a class, so that a byte is looked up once.
pub(super) const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        // field-vchar, SP, HTAB and obs-text (RFC 9110 §5.5).
        let value = c == b'\t' || (c >= 0x20 && c != 0x7f);
        // What real clients send; RFC 3986 is narrower, but the app shall decide (no SP, CTL, `#`, or above ASCII).
        let target = c > 0x20 && c < 0x7f && c != b'#';
        table[b] = ((is_tchar(c) as u8) * TCHAR) | ((value as u8) * VALUE) | ((target as u8) * TARGET);
        b += 1;
    }
    table
};
pub(super) const TCHAR: u8 = 1;
pub(super) const VALUE: u8 = 2;
pub(super) const TARGET: u8 = 4;

/// Whether `bytes` is one or more of `class`.
pub(super) fn all(bytes: &[u8], class: u8) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| CLASS[usize::from(*b)] & class != 0)
}
