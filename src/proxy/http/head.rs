//! Finding a head in a stream of bytes, and parsing its first line and fields.
//!
//! [`Scanner`] looks at each byte once, however the head drips in, and stops at the limits; then [`Request::parse`]
//! or [`Response::parse`] reads the whole head, which lies in one piece.

use super::headers::{self, Field, Fields, Name};
use super::target::{Authority, Target};
use super::{Bad, Caps, MAX_METHOD, Method, TCHAR, Version, all, bad, scan};

/// RFC 9112 §2.2 asks servers to skip an empty line before the request; some old clients send two.
const MAX_EMPTY_LINES: u8 = 2;

/// Where the search for the end of a head stands.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::proxy) struct Scanner {
    /// Looked at so far.
    at: u32,
    /// Where the line begins that has not ended yet.
    line: u32,
    /// Where the head begins, after empty lines.
    start: u32,
    lines: u16,
    empty: u8,
}

impl Scanner {
    /// Looks at what is new in `bytes`, which is the head so far from its first byte, and returns where the head lies
    /// once it is whole.
    ///
    /// # Errors
    /// The same ones however the head drips in: each is raised by the first byte that nothing could mend.
    pub fn request(&mut self, bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, Bad> {
        self.scan(bytes, &super::REQUEST, MAX_EMPTY_LINES, is_noise)
    }

    pub fn response(&mut self, bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, Bad> {
        self.scan(bytes, &super::RESPONSE, 0, |_| false)
    }

    /// `is_noise` judges what comes before the end of the first line.
    fn scan(
        &mut self,
        bytes: &[u8],
        caps: &Caps,
        max_empty: u8,
        is_noise: fn(&[u8]) -> bool,
    ) -> Result<Option<std::ops::Range<usize>>, Bad> {
        loop {
            let from = self.at as usize;
            let room = &bytes[from..self.limit(caps).min(bytes.len())];
            let lf = scan::find_lf(room);
            if self.lines == 0 && is_noise(&room[..lf.unwrap_or(room.len())]) {
                return bad(400, "bad character in the request line");
            }
            let Some(lf) = lf.map(|i| from + i) else {
                self.at = (from + room.len()) as u32;
                return if self.at as usize == bytes.len() { Ok(None) } else { self.too_large() };
            };
            let line = self.line as usize;
            if lf == line || bytes[lf - 1] != b'\r' {
                return bad(400, "bare LF");
            }
            (self.at, self.line) = (lf as u32 + 1, lf as u32 + 1);
            if lf - 1 > line {
                if usize::from(self.lines) > caps.fields {
                    return self.too_large();
                }
                self.lines += 1;
            } else if self.lines > 0 {
                return Ok(Some(self.start as usize..lf + 1));
            } else {
                self.empty += 1;
                self.start = self.line;
                if self.empty > max_empty {
                    return bad(400, "empty line before the first line");
                }
            }
        }
    }

    /// Where the line that has not ended yet must have ended, CRLF included.
    fn limit(&self, caps: &Caps) -> usize {
        let line = if self.lines == 0 { caps.first } else { caps.line };
        (self.line as usize + line + 2).min(self.start as usize + caps.head)
    }

    /// RFC 6585 §5.
    fn too_large<T>(&self) -> Result<T, Bad> {
        match self.lines {
            0 => bad(414, "request line too long"), // what is long in it can only be the target
            _ => bad(431, "head too large"),
        }
    }
}

/// A TLS hello or binary noise on the plain port is answered at once, not when the timer ends.
fn is_noise(bytes: &[u8]) -> bool {
    bytes.iter().any(|b| (*b < 0x20 && *b != b'\r') || *b >= 0x7f)
}

/// A request whose syntax is sound.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Request<'a> {
    pub method: Method,
    /// As written: methods are case-sensitive (RFC 9110 §9.1).
    pub method_bytes: &'a [u8],
    pub target: Target<'a>,
    pub version: Version,
    pub fields: Fields<'a>,
    /// The Host field, or what an absolute-form of HTTP/1.0 says instead.
    pub host: Option<Authority<'a>>,
    pub connection: headers::Connection,
}

impl<'a> Request<'a> {
    /// `head` is what [`Scanner::request`] found; `list` is room for the fields.
    pub fn parse(head: &'a [u8], list: &'a mut Vec<Field>) -> Result<Self, Bad> {
        list.clear();
        let end = scan::find_lf(head).unwrap_or(head.len());
        let line = head[..end].strip_suffix(b"\r").ok_or(Bad { status: 400, why: "bare LF" })?;

        // RFC 9112 §3: exactly one space between the three parts.
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method_bytes), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return bad(400, "bad request line");
        };
        if method_bytes.len() > MAX_METHOD || !all(method_bytes, TCHAR) {
            return bad(400, "bad method");
        }
        let version = parse_version(version)?;
        let method = Method::of(method_bytes);
        // RFC 9110 §9.3.6 and §9.3.8: no tunnels to elsewhere, and no echo of credentials.
        if matches!(method, Method::Connect | Method::Trace) {
            return bad(405, "method not allowed");
        }
        if target.is_empty() {
            return bad(400, "bad request line");
        }
        let target = Target::parse(method, target)?;

        headers::parse(head, end + 1, head.len() - 2, list)?;
        let fields = Fields::new(head, list);
        let host = host(&target, version, fields)?;
        let connection = headers::connection(fields)?;
        Ok(Request { method, method_bytes, target, version, fields, host, connection })
    }

    /// The host it is for, as a route wants it: lower-case, without port and final dot.
    pub fn host_name<'b>(&self, room: &'b mut String) -> Option<&'b str> {
        let host = self.host?.host;
        room.clear();
        room.extend(host.strip_suffix(b".").unwrap_or(host).iter().map(|b| char::from(b.to_ascii_lowercase())));
        Some(room)
    }
}

/// RFC 9112 §3.2: exactly one Host in HTTP/1.1, and it agrees with an absolute-form.
fn host<'a>(target: &Target<'a>, version: Version, fields: Fields<'a>) -> Result<Option<Authority<'a>>, Bad> {
    let mut values = fields.all(Name::Host);
    let field = values.next().map(Authority::parse).transpose()?;
    if values.next().is_some() {
        return bad(400, "two Host fields");
    }
    if field.is_none() && version == Version::V11 {
        return bad(400, "no Host field");
    }
    match (target, field) {
        (Target::Path { authority: Some((authority, default_port)), .. }, Some(host)) => {
            // RFC 9112 §3.2.2 would replace Host; a difference is never honest.
            if !authority.is_same_as(host, *default_port) {
                return bad(400, "Host and target differ");
            }
            Ok(Some(host))
        }
        (Target::Path { authority: Some((authority, _)), .. }, None) => Ok(Some(*authority)),
        (_, field) => Ok(field),
    }
}

/// RFC 9112 §2.3: case-sensitive, one digit each.
fn parse_version(bytes: &[u8]) -> Result<Version, Bad> {
    match bytes {
        b"HTTP/1.0" => Ok(Version::V10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::V11),
        [b'H', b'T', b'T', b'P', b'/', b'0' | b'2'..=b'9', b'.', b'0'..=b'9'] => bad(505, "HTTP version not supported"),
        _ => bad(400, "bad HTTP version"),
    }
}

/// A response whose syntax is sound.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Response<'a> {
    pub version: Version,
    pub status: u16,
    /// As written, possibly empty.
    pub reason: &'a [u8],
    pub fields: Fields<'a>,
    pub connection: headers::Connection,
}

impl<'a> Response<'a> {
    /// `head` is what [`Scanner::response`] found.
    pub fn parse(head: &'a [u8], list: &'a mut Vec<Field>) -> Result<Self, Bad> {
        list.clear();
        let end = scan::find_lf(head).unwrap_or(head.len());
        let line = head[..end].strip_suffix(b"\r").ok_or(Bad { status: 502, why: "bare LF" })?;
        // RFC 9112 §4; the space before an absent reason is often forgotten.
        let (version, rest) = line.split_at_checked(9).unwrap_or((line, b""));
        let (code, reason) = rest.split_at_checked(3).unwrap_or((rest, b""));
        let sound = version.ends_with(b" ")
            && code.len() == 3
            && code.iter().all(u8::is_ascii_digit)
            && matches!(reason, b"" | [b' ', ..])
            && scan::value_run(reason) == reason.len();
        if !sound {
            return bad(502, "bad status line");
        }
        let version = parse_version(&version[..8])?;
        let status = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
        if status < 100 {
            return bad(502, "bad status");
        }
        headers::parse(head, end + 1, head.len() - 2, list)?;
        let fields = Fields::new(head, list);
        let connection = headers::connection(fields)?;
        Ok(Response { version, status, reason: reason.get(1..).unwrap_or(b""), fields, connection })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans and parses as a conn would: with everything that came so far in one piece.
    fn request(bytes: &[u8]) -> Result<Option<(usize, String)>, u16> {
        let mut scanner = Scanner::default();
        let found = scanner.request(bytes).map_err(|b| b.status)?;
        found.map(|range| summary(&bytes[range.clone()]).map(|s| (range.end, s))).transpose()
    }

    fn summary(head: &[u8]) -> Result<String, u16> {
        let mut list = Vec::new();
        let r = Request::parse(head, &mut list).map_err(|b| b.status)?;
        let mut s =
            format!("{:?} {:?} {:?} {:?}", r.method, String::from_utf8_lossy(r.target.path()), r.version, r.host);
        for (_, n, v) in r.fields.iter() {
            s += &format!(" {}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v));
        }
        Ok(s)
    }

    fn check(head: &str, status: u16) {
        let head = head.replace('\n', "\r\n");
        assert_eq!(request(head.as_bytes()).map(|_| 200).unwrap_or_else(|s| s), status, "{head:?}");
    }

    fn line(line: &str, status: u16) {
        check(&format!("{line}\nHost: a.b\n\n"), status);
    }

    #[test]
    fn rfc9112_3_request_line_is_exactly_three_parts() {
        line("GET / HTTP/1.1", 200);
        line("M-SEARCH /x HTTP/1.1", 200);
        line("get / HTTP/1.1", 200);
        for bad in [
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /",
            "GET",
            "GET / HTTP/1.1 x",
            "G(T / HTTP/1.1",
            "/ HTTP/1.1",
            "GET / a HTTP/1.1",
        ] {
            line(bad, 400);
        }
        line(&format!("{} / HTTP/1.1", "A".repeat(33)), 400);
        line(&format!("{} / HTTP/1.1", "A".repeat(32)), 200);
    }

    #[test]
    fn rfc9112_2_3_versions() {
        line("GET / HTTP/1.0", 200);
        line("GET / HTTP/1.2", 200);
        line("GET / HTTP/1.9", 200);
        line("GET / HTTP/2.0", 505);
        line("GET / HTTP/0.9", 505);
        line("PRI * HTTP/2.0", 505);
        for bad in ["http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/2", "HTTP/1,1", "HTTPS/1.1", "HTTP/1.", "HTTP/x.1"] {
            line(&format!("GET / {bad}"), 400);
        }
    }

    #[test]
    fn rfc9110_9_3_6_connect_and_trace_are_not_allowed() {
        line("CONNECT a.b:443 HTTP/1.1", 405);
        line("TRACE / HTTP/1.1", 405);
        line("connect / HTTP/1.1", 200);
    }

    #[test]
    fn rfc9112_2_2_skips_at_most_two_empty_lines() {
        check("\nGET / HTTP/1.1\nHost: a\n\n", 200);
        check("\n\nGET / HTTP/1.1\nHost: a\n\n", 200);
        check("\n\n\nGET / HTTP/1.1\nHost: a\n\n", 400);
    }

    #[test]
    fn rfc9112_2_2_bare_line_ends_are_refused() {
        for bytes in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n",
        ] {
            assert_eq!(request(bytes.as_bytes()), Err(400), "{bytes:?}");
        }
    }

    #[test]
    fn rfc9110_9_1_a_method_is_any_token() {
        for b in 0..=255u8 {
            let head = [b"G".as_slice(), &[b], b"T / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(request(&head).is_ok_and(|r| r.is_some()), super::super::is_tchar(b), "{b:#x}");
        }
    }

    #[test]
    fn rfc9112_3_2_host_rules() {
        check("GET / HTTP/1.1\n\n", 400);
        check("GET / HTTP/1.0\n\n", 200);
        check("GET / HTTP/1.1\nHost: a\nHost: a\n\n", 400);
        check("GET / HTTP/1.1\nHost:\n\n", 400);
        check("GET / HTTP/1.1\nHost: a, b\n\n", 400);
        check("GET / HTTP/1.1\nHost: \nHost: a\n\n", 400);
        for bad in
            ["a b", "u@h", "h/p", "h:x", "h:70000", "h:1:2", "[::1", "[::1]x", "[g::]", ":80", "h?q", "h#f", "%61"]
        {
            check(&format!("GET / HTTP/1.1\nHost: {bad}\n\n"), 400);
            check(&format!("GET / HTTP/1.0\nHost: {bad}\n\n"), 400);
        }
        check("GET http://a.b/ HTTP/1.1\nHost: A.b:80\n\n", 200);
        check("GET https://a.b:443/ HTTP/1.1\nHost: a.b\n\n", 200);
        check("GET http://a.b/ HTTP/1.1\nHost: a.c\n\n", 400);
        check("GET http://a.b/ HTTP/1.1\n\n", 400);
        check("GET http://a.b/ HTTP/1.0\n\n", 200);
        check("GET / HTTP/1.1\nHost: a\nConnection: host\n\n", 400);
    }

    #[test]
    fn rfc6585_5_limits_of_a_head() {
        let head = |fields: usize, size: usize| {
            let mut head = String::from("GET / HTTP/1.1\nHost: a\n");
            for i in 1..fields {
                head += &format!("f{i}: {}\n", "x".repeat(size));
            }
            head + "\n"
        };
        check(&head(100, 10), 200);
        check(&head(101, 10), 431);
        check(&head(2, 16 << 10), 431);
        check(&head(2, (16 << 10) - 10), 200);
        check(&head(4, 12 << 10), 431);
        check(&format!("GET /{} HTTP/1.1\nHost: a\n\n", "x".repeat(8190)), 200);
        check(&format!("GET /{} HTTP/1.1\nHost: a\n\n", "x".repeat(8192)), 414);
        check(&format!("GET /{} HTTP/1.1\nHost: a\n\n", "x".repeat(20 << 10)), 414);
        assert_eq!(request(format!("GET /{}", "x".repeat(20 << 10)).as_bytes()), Err(414));
        // Before the line has ended, too.
        assert_eq!(request(format!("GET /{}", "x".repeat(9000)).as_bytes()), Err(414));
        assert_eq!(request(format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(17 << 10)).as_bytes()), Err(431));
    }

    /// What the scanner says when the head drips in byte by byte.
    fn dripped(bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, Bad> {
        let mut scanner = Scanner::default();
        (0..=bytes.len()).find_map(|n| scanner.request(&bytes[..n]).transpose()).transpose()
    }

    #[test]
    fn a_limit_is_the_same_however_the_head_is_cut() {
        let line = |n: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(n - 3));
        let target = |n: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(n));
        let head = |n: usize| {
            let fields = format!("A: {}\r\n", "x".repeat((8 << 10) - 5)).repeat(3);
            let rest = n - fields.len() - "GET / HTTP/1.1\r\nB: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\n{fields}B: {}\r\n\r\n", "x".repeat(rest))
        };
        let mut accepted = 0;
        for near in 0..8 {
            let noisy = target(8300).replacen("x HTTP", "\u{1} HTTP", 1);
            let bare = line((16 << 10) - 4 + near).replacen("\r\n\r\n", "\n\r\n", 1);
            for bytes in [
                line((16 << 10) - 4 + near),
                target(8192 + 28 - 4 + near),
                head((32 << 10) - 4 + near),
                noisy,
                bare,
                "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(97 + near) + "\r\n",
            ] {
                let whole = Scanner::default().request(bytes.as_bytes());
                assert_eq!(whole, dripped(bytes.as_bytes()), "{} bytes", bytes.len());
                accepted += usize::from(whole.is_ok());
            }
        }
        assert!((10..40).contains(&accepted), "both sides of each limit are met: {accepted}");
    }

    #[test]
    fn noise_on_the_port_is_answered_at_once() {
        assert_eq!(request(b"\x16\x03\x01\x02\x00"), Err(400));
        assert_eq!(request("GET /\u{fc}".as_bytes()), Err(400));
    }

    const GOOD: &[u8] = b"\r\nPOST /a?b HTTP/1.1\r\nHost: a.b:1\r\nX: \t y z \r\nConnection: close, te\r\n\r\nGET";

    #[test]
    fn finds_the_same_head_however_it_is_cut() {
        let whole = request(GOOD).unwrap().unwrap();
        for cut in 0..GOOD.len() {
            let mut scanner = Scanner::default();
            let mut found = scanner.request(&GOOD[..cut]).unwrap();
            assert_eq!(found.is_some(), cut >= whole.0, "{cut}");
            if found.is_none() {
                found = scanner.request(GOOD).unwrap();
            }
            let range = found.unwrap();
            assert_eq!((range.end, summary(&GOOD[range]).unwrap()), whole);
        }
    }

    fn response(head: &str) -> Result<(u16, String), u16> {
        let head = head.replace('\n', "\r\n");
        let mut scanner = Scanner::default();
        let range = scanner.response(head.as_bytes()).map_err(|b| b.status)?.expect("is whole");
        let mut list = Vec::new();
        let r = Response::parse(&head.as_bytes()[range], &mut list).map_err(|b| b.status)?;
        Ok((r.status, String::from_utf8_lossy(r.reason).into_owned()))
    }

    #[test]
    fn rfc9112_4_status_lines() {
        assert_eq!(response("HTTP/1.1 200 OK\n\n"), Ok((200, "OK".into())));
        assert_eq!(response("HTTP/1.0 404 Not Found\nA: b\n\n"), Ok((404, "Not Found".into())));
        assert_eq!(response("HTTP/1.1 204 \n\n"), Ok((204, String::new())));
        assert_eq!(response("HTTP/1.1 204\n\n"), Ok((204, String::new())));
        for bad in [
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 x",
            "HTTP/1.1  200 OK",
            "HTTP/1.1\t200 OK",
            "HTTP/1.1 +20 x",
            "HTTP/2.0 200 OK",
            "ICY 200 OK",
            "200 OK",
            "HTTP/1.1",
            "HTTP/1.1 200 O\u{1}K",
            "\nHTTP/1.1 200 OK",
        ] {
            assert!(response(&format!("{bad}\nA: b\n\n")).is_err(), "{bad:?}");
        }
        assert!(response("HTTP/1.1 200 OK\nA: b\n c\n\n").is_err(), "obs-fold");
    }

    #[test]
    fn limits_of_a_response_head() {
        let fields = |n: usize| format!("HTTP/1.1 200 OK\n{}\n", "a: b\n".repeat(n));
        assert!(response(&fields(200)).is_ok());
        assert!(response(&fields(201)).is_err());
        let size = |n: usize| format!("HTTP/1.1 200 OK\na: {}\n\n", "x".repeat(n));
        assert!(response(&size((64 << 10) - 24)).is_ok());
        assert!(response(&size((64 << 10) - 23)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn responses_never_panic(head in "HTTP/1\\.[01] [0-9]{0,4} ?[ -~]{0,8}\r\n([A-Za-z:, ]{0,12}\r?\n){0,4}\r\n") {
            let mut scanner = Scanner::default();
            if let Ok(Some(range)) = scanner.response(head.as_bytes()) {
                let _ = Response::parse(&head.as_bytes()[range], &mut Vec::new());
            }
        }

        #[test]
        fn never_panics_and_never_depends_on_the_cut(bytes in "[A-Z /:a-z0-9.\r\n\t]{0,80}", cut in 0usize..80) {
            let bytes = bytes.as_bytes();
            let whole = Scanner::default().request(bytes);
            let mut scanner = Scanner::default();
            let cut = cut.min(bytes.len());
            let parts = match scanner.request(&bytes[..cut]) {
                Ok(None) => scanner.request(bytes),
                early => early,
            };
            proptest::prop_assert_eq!(&whole, &parts);
            if let Ok(Some(range)) = whole {
                let _ = summary(&bytes[range]);
            }
        }
    }
}
