//! Pure: what an instance is asked for its health, and what its answer says. `probe` asks.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// An answer that comes later counts as none.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// What counts as well.
pub(crate) enum Check {
    /// It accepts a connection.
    Tcp,
    /// It answers a GET with 2xx, or also 3xx.
    Http { path: String, host: String, token: Option<Zeroizing<String>>, redirects: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad(Bad),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Nobody listens there.
    Refused,
    /// It did not answer in time.
    Silent,
    /// It closed the connection, or what it said is not HTTP.
    Broken,
    Status(u16),
}

impl Check {
    /// All of it; nothing where a connection is enough.
    pub fn request(&self) -> Zeroizing<Vec<u8>> {
        let Check::Http { path, host, token, .. } = self else { return Zeroizing::new(Vec::new()) };
        let token = token.as_ref().map_or(String::new(), |t| format!("X-Tako-Internal-Token: {}\r\n", t.as_str()));
        Zeroizing::new(
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}User-Agent: tako\r\nAccept: */*\r\n\r\n")
                .into_bytes(),
        )
    }

    /// As the start of a sentence: what answers.
    pub fn subject(&self) -> &str {
        match self {
            Check::Tcp => "its port",
            Check::Http { path, .. } => path,
        }
    }
}

pub(super) fn judge(status: u16, redirects: bool) -> Verdict {
    match status {
        200..=299 => Verdict::Good,
        300..=399 if redirects => Verdict::Good,
        _ => Verdict::Bad(Bad::Status(status)),
    }
}

/// The code of a complete status line (RFC 9112 §4).
pub(super) fn status(answer: &[u8]) -> Option<u16> {
    let line = &answer[..memchr::memchr(b'\n', answer)?];
    let code = std::str::from_utf8(line.strip_prefix(b"HTTP/1.")?.get(2..5)?).ok()?;
    code.parse().ok().filter(|code| (100..600).contains(code))
}

/// Whether this is all of an answer, and another may follow it on the connection (RFC 9112 §6.3, §9.3). In doubt it is
/// not, and the connection is not used again.
pub(super) fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return false };
    let Ok(head) = std::str::from_utf8(&answer[..end]) else { return false };
    let mut lines = head.split("\r\n");
    let is_newest = lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 "));
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => return false,
            "connection" if !value.trim().eq_ignore_ascii_case("keep-alive") => return false,
            "content-length" if length.is_some() => return false,
            "content-length" => length = value.trim().parse::<usize>().ok(),
            _ => {}
        }
    }
    is_newest && length == Some(answer.len() - end - 4)
}

/// As the end of a sentence: `/status answered 500`.
impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Refused => f.write_str("refused the connection"),
            Bad::Silent => write!(f, "did not answer within {}s", TIMEOUT.as_secs()),
            Bad::Broken => f.write_str("broke off without an HTTP answer"),
            Bad::Status(status) => write!(f, "answered {status}"),
        }
    }
}

/// The first line of an answer, where a redirect leads, and the first line of the body.
pub(super) fn gist(answer: &[u8]) -> String {
    /// Characters of it: a word of proof and no page.
    const WIDTH: usize = 200;
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let first = lines.next().unwrap_or("").trim();
    let location = lines.find(|line| line.get(..9).is_some_and(|name| name.eq_ignore_ascii_case("location:")));
    // In a body of chunks the sizes have lines of their own.
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let is_size = |line: &str| chunked && line.bytes().all(|b| b.is_ascii_hexdigit());
    let body = body.lines().map(str::trim).find(|line| !line.is_empty() && !is_size(line));
    let parts = [Some(first), location.map(str::trim), body].into_iter().flatten().filter(|part| !part.is_empty());
    let told = parts.collect::<Vec<_>>().join(" · ");
    told.chars().filter(|c| !c.is_control()).take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_end_can_be_told() {
        let check = |answer: &str, expected: bool| assert_eq!(is_whole(answer.as_bytes()), expected, "{answer:?}");
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true);
        check("HTTP/1.1 500 Oh\r\ncontent-length:0\r\nConnection: keep-alive\r\n\r\n", true);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", false);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", false);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false);
        check("HTTP/1.1 200 OK\r\n\r\n", false);
        check("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false);
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false);
        check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", false);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", false);
        check("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", false);
        check("", false);
    }

    #[test]
    fn the_gist_of_an_answer_is_its_first_lines() {
        let check = |answer: &str, expected: &str| assert_eq!(gist(answer.as_bytes()), expected);
        let ill = "HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\n\n the queue is unreachable\nmore";
        check(ill, "HTTP/1.1 500 Oh · the queue is unreachable");
        let moved = "HTTP/1.1 302 Found\r\nLocation: https://x/login\r\n\r\n";
        check(moved, "HTTP/1.1 302 Found · Location: https://x/login");
        check("220 smtp\u{1b}[31m ready\r\n", "220 smtp[31m ready");
        let chunked =
            "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n19\r\nthe queue is unreachable\n\r\n0\r\n\r\n";
        check(chunked, "HTTP/1.1 500 Oh · the queue is unreachable");
        check("", "");
        assert_eq!(gist(&[0xff; 4096]).chars().count(), 200);
    }
}
