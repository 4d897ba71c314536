//! What a request asks for: the target's form and the authority (RFC 9112 §3.2, RFC 3986 §3.2).

use std::net::Ipv6Addr;

use super::headers::starts_with_ignore_case;
use super::{Bad, MAX_TARGET, Method, TARGET, all, bad};

/// Longest authority worth looking at: a DNS name, a port, and room for the dot.
const MAX_AUTHORITY: usize = 262;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Target<'a> {
    /// `OPTIONS *`: the server itself.
    Asterisk,
    Path {
        /// Path and query as sent; empty or starting with `?` only after an absolute-form without a path.
        raw: &'a [u8],
        /// The authority of an absolute-form, and the port that its scheme implies.
        authority: Option<(Authority<'a>, u16)>,
    },
}

/// `host [":" port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Authority<'a> {
    /// As written, brackets of an IPv6 literal included.
    pub host: &'a [u8],
    pub port: Option<u16>,
}

impl<'a> Target<'a> {
    pub fn parse(method: Method, bytes: &'a [u8]) -> Result<Self, Bad> {
        if bytes.len() > MAX_TARGET {
            return bad(414, "target too long");
        }
        if !all(bytes, TARGET) {
            return bad(400, "bad character in the target");
        }
        if bytes[0] == b'/' {
            return Ok(Target::Path { raw: bytes, authority: None });
        }
        if bytes == b"*" {
            // RFC 9112 §3.2.4
            return if method == Method::Options { Ok(Target::Asterisk) } else { bad(400, "`*` is for OPTIONS") };
        }
        absolute(method, bytes)
    }

    /// Path and query as sent, or `*`.
    pub fn raw(&self) -> &'a [u8] {
        match self {
            Target::Asterisk => b"*",
            Target::Path { raw, .. } => raw,
        }
    }

    /// The path, never empty, without the query.
    pub fn path(&self) -> &'a [u8] {
        match self {
            Target::Asterisk => b"*",
            Target::Path { raw, .. } => match &raw[..memchr::memchr(b'?', raw).unwrap_or(raw.len())] {
                b"" => b"/",
                path => path,
            },
        }
    }

    /// Writes it in origin-form, or `*`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Target::Asterisk => out.push(b'*'),
            Target::Path { raw, .. } => {
                if raw.first() != Some(&b'/') {
                    out.push(b'/');
                }
                out.extend_from_slice(raw);
            }
        }
    }
}

/// RFC 9112 §3.2.2. Authority-form (§3.2.3) belongs to CONNECT, which never gets here, and has no scheme.
fn absolute(method: Method, bytes: &[u8]) -> Result<Target<'_>, Bad> {
    let (rest, default_port) = if starts_with_ignore_case(bytes, b"http://") {
        (&bytes[7..], 80)
    } else if starts_with_ignore_case(bytes, b"https://") {
        (&bytes[8..], 443)
    } else {
        return bad(400, "unknown target form");
    };
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let authority = Authority::parse(&rest[..end])?;
    match &rest[end..] {
        // RFC 9112 §3.2.4: an absolute-form OPTIONS without a path means `*`.
        b"" if method == Method::Options => Ok(Target::Asterisk),
        raw => Ok(Target::Path { raw, authority: Some((authority, default_port)) }),
    }
}

impl<'a> Authority<'a> {
    /// # Errors
    /// 400 for all that is not one host with an optional port: empty, lists, userinfo, paths (RFC 9112 §3.2).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Bad> {
        if bytes.is_empty() || bytes.len() > MAX_AUTHORITY {
            return bad(400, "empty or overlong host");
        }
        let end = match bytes[0] {
            b'[' => memchr::memchr(b']', bytes).map_or(bytes.len(), |i| i + 1),
            _ => memchr::memchr(b':', bytes).unwrap_or(bytes.len()),
        };
        let (host, port) = bytes.split_at(end);
        if !is_host(host) {
            return bad(400, "bad host");
        }
        let port = match port {
            // RFC 3986 §3.2.3 allows an empty port.
            b"" | b":" => None,
            [b':', digits @ ..] => Some(parse_port(digits)?),
            _ => return bad(400, "bad host"),
        };
        Ok(Authority { host, port })
    }

    /// Modulo case, a trailing dot and the scheme's own port (RFC 9110 §4.2.3).
    pub fn is_same_as(&self, other: Authority<'_>, default_port: u16) -> bool {
        let bare = |host: &'a [u8]| host.strip_suffix(b".").unwrap_or(host);
        bare(self.host).eq_ignore_ascii_case(other.host.strip_suffix(b".").unwrap_or(other.host))
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

fn is_host(host: &[u8]) -> bool {
    if let [b'[', inner @ .., b']'] = host {
        return std::str::from_utf8(inner).is_ok_and(|s| s.parse::<Ipv6Addr>().is_ok());
    }
    // Narrower than reg-name: percent-encoding and sub-delimiters are no part of a host that anybody serves.
    !host.is_empty() && host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
}

fn parse_port(digits: &[u8]) -> Result<u16, Bad> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return bad(400, "bad port");
    }
    let number = digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'));
    u16::try_from(number).map_err(|_| Bad { status: 400, why: "bad port" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, target: &str) -> Result<(String, String), u16> {
        let target = Target::parse(method, target.as_bytes()).map_err(|b| b.status)?;
        let mut out = Vec::new();
        target.write(&mut out);
        Ok((String::from_utf8(out).unwrap(), String::from_utf8(target.path().into()).unwrap()))
    }

    #[test]
    fn rfc9112_3_2_reads_the_forms_that_a_gateway_gets() {
        let check = |method, target, written: &str, path: &str| {
            assert_eq!(parse(method, target), Ok((written.into(), path.into())), "{target}");
        };
        check(Method::Get, "/a/b?c=/d", "/a/b?c=/d", "/a/b");
        check(Method::Get, "/", "/", "/");
        check(Method::Get, "http://h", "/", "/");
        check(Method::Get, "HTTP://h?q", "/?q", "/");
        check(Method::Get, "https://h:8/p", "/p", "/p");
        check(Method::Options, "*", "*", "*");
        check(Method::Options, "http://h", "*", "*");
        check(Method::Get, "/\"<>\\^`{|}", "/\"<>\\^`{|}", "/\"<>\\^`{|}");
    }

    #[test]
    fn rfc9112_3_2_refuses_other_forms_and_bytes() {
        for target in
            ["*", "host:80", "ftp://h/", "http://", "http:///p", "http://u@h/", "x", "/a#b", "/a\x7f", "/\u{e9}"]
        {
            assert_eq!(parse(Method::Get, target), Err(400), "{target}");
        }
        for method in [Method::Get, Method::Head, Method::Post, Method::Other] {
            assert_eq!(parse(method, "*"), Err(400), "{method:?}");
        }
        for b in 0..=255u8 {
            let fine = Target::parse(Method::Get, &[b'/', b]).is_ok();
            assert_eq!(fine, (0x21..0x7f).contains(&b) && b != b'#', "{b:#x}");
        }
        assert_eq!(parse(Method::Get, &format!("/{}", "a".repeat(8192))), Err(414));
        assert!(parse(Method::Get, &format!("/{}", "a".repeat(7999))).is_ok());
    }

    #[test]
    fn rfc9112_3_2_host_is_one_host_with_an_optional_port() {
        let check = |s: &'static str, host: &str, port| {
            assert_eq!(Authority::parse(s.as_bytes()), Ok(Authority { host: host.as_bytes(), port }), "{s}");
        };
        check("a.b", "a.b", None);
        check("a.b:", "a.b", None);
        check("A_1.b:8080", "A_1.b", Some(8080));
        check("[::1]:80", "[::1]", Some(80));
        for bad in [
            "", ":80", "a,b", "a b", "u@h", "h/p", "h:x", "h:70000", "h:1:2", "[::1", "[::1]x", "[g::]", "[]", "::1",
            "h:+1",
        ] {
            assert_eq!(Authority::parse(bad.as_bytes()).unwrap_err().status, 400, "{bad}");
        }
        assert!(Authority::parse("a".repeat(300).as_bytes()).is_err());
    }

    #[test]
    fn rfc9110_4_2_3_authorities_are_compared_normalised() {
        let same = |a: &str, b: &str| {
            let parse = |s: &'static str| Authority::parse(s.as_bytes()).unwrap();
            parse(a.to_string().leak()).is_same_as(parse(b.to_string().leak()), 80)
        };
        assert!(same("a.b", "A.B:80") && same("a.b.", "a.b"));
        assert!(!same("a.b", "a.b:81") && !same("a.b", "a.c"));
    }
}
