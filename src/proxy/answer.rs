//! What we say ourselves: short, never cached, in the form the client prefers.

use std::io::Write;

use super::http::Bad;
use super::http::head::Request;
use super::http::headers::{Name, starts_with_ignore_case};

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub text: &'static str,
    /// For the log and the counters; as few as there are places that say no.
    pub why: &'static str,
    pub extra: Extra,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    Allow,
    Location(Vec<u8>),
    RetryAfter(u32),
    /// Said instead of the text, whatever the client prefers.
    Proof(String),
}

/// How this client wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub html: bool,
    /// To a HEAD: everything but the body.
    pub head_only: bool,
    pub close: bool,
    /// HTTP/1.0 must be told (RFC 9112 §C.2.2).
    pub say_keep_alive: bool,
}

impl Answer {
    pub const fn new(status: u16, text: &'static str) -> Self {
        Answer { status, text, why: text, extra: Extra::None }
    }

    pub const fn not_found() -> Self {
        Answer::new(404, "Not found")
    }

    pub const fn no_endpoint() -> Self {
        Answer::new(503, "No healthy backend")
    }

    pub const fn failed_to_start() -> Self {
        Answer::new(502, "App failed to start")
    }

    pub const fn startup_timeout() -> Self {
        Answer::new(504, "App startup timed out")
    }

    pub const fn startup_queue_full() -> Self {
        Answer {
            status: 503,
            text: "App startup queue is full",
            why: "App startup queue is full",
            extra: Extra::RetryAfter(1),
        }
    }

    /// No table will come any more that a waiting request could go by.
    pub const fn stopping() -> Self {
        Answer { status: 503, text: "Stopping", why: "Stopping", extra: Extra::RetryAfter(1) }
    }

    pub const fn bad_gateway() -> Self {
        Answer::new(502, "Bad gateway")
    }

    pub const fn gateway_timeout() -> Self {
        Answer::new(504, "Gateway timeout")
    }

    pub const fn request_timeout() -> Self {
        Answer::new(408, "Request timeout")
    }

    pub const fn precondition_failed() -> Self {
        Answer::new(412, "Precondition failed")
    }

    pub const fn too_large() -> Self {
        Answer::new(413, "Request body too large")
    }

    /// We, not the app, are out of something.
    pub const fn overloaded() -> Self {
        Answer { status: 503, text: "Overloaded", why: "Overloaded", extra: Extra::RetryAfter(1) }
    }

    /// Too many connections from where this one comes from (RFC 6585 §4).
    pub const fn crowd() -> Self {
        let text = "Too many connections";
        Answer { status: 429, text, why: "too many connections from one address", extra: Extra::RetryAfter(1) }
    }

    pub const fn healthy() -> Self {
        Answer::new(200, "ok")
    }

    pub const fn capabilities() -> Self {
        Answer { status: 204, text: "", why: "capabilities", extra: Extra::Allow }
    }

    /// RFC 8555 §8.3
    pub fn challenge(proof: &str) -> Self {
        Answer { status: 200, text: "", why: "challenge", extra: Extra::Proof(proof.into()) }
    }

    pub fn refusal(bad: Bad) -> Self {
        let text = reason(bad.status);
        let extra = if bad.status == 405 { Extra::Allow } else { Extra::None };
        Answer { status: bad.status, text, why: bad.why, extra }
    }

    /// To the same place over HTTPS. 307 keeps method and body (RFC 9110 §15.4.8).
    pub fn redirect(request: &Request<'_>, https_port: Option<u16>) -> Self {
        let mut location = b"https://".to_vec();
        location.extend_from_slice(request.host.map_or(b"", |h| h.host));
        if let Some(port) = https_port.filter(|p| *p != 443) {
            let _ = write!(location, ":{port}");
        }
        request.target.write(&mut location);
        Answer { extra: Extra::Location(location), ..Answer::new(307, "Moved to HTTPS") }
    }

    pub fn write(&self, out: &mut Vec<u8>, manner: Manner, date: &[u8], request_id: &[u8]) {
        let body = match (&self.extra, manner.html) {
            (Extra::Proof(proof), _) => proof.clone(),
            _ if self.status == 204 => String::new(),
            (_, true) => {
                format!("<!doctype html><title>{0} {1}</title><h1>{0}</h1><p>{1}</p>\n", self.status, self.text)
            }
            (_, false) => format!("{}\n", self.text),
        };
        // Writing to memory does not fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\nDate: ", self.status, reason(self.status));
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\nCache-Control: no-store\r\nX-Request-Id: ");
        out.extend_from_slice(request_id);
        out.extend_from_slice(b"\r\n");
        match &self.extra {
            Extra::None | Extra::Proof(_) => {}
            Extra::Allow => out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"),
            Extra::RetryAfter(seconds) => {
                let _ = write!(out, "Retry-After: {seconds}\r\n");
            }
            Extra::Location(location) => {
                out.extend_from_slice(b"Location: ");
                out.extend_from_slice(location);
                out.extend_from_slice(b"\r\n");
            }
        }
        // A 204 has neither body nor length (RFC 9110 §8.6).
        if self.status != 204 {
            let kind = match (&self.extra, manner.html) {
                (Extra::Proof(_), _) => "application/octet-stream",
                (_, true) => "text/html; charset=utf-8",
                (_, false) => "text/plain; charset=utf-8",
            };
            let _ = write!(out, "Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        if manner.close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if manner.say_keep_alive {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !manner.head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// Whether a person looks at it: browsers ask for HTML by name, programs do not.
pub(super) fn prefers_html(request: &Request<'_>) -> bool {
    request.fields.members(Name::Accept).any(|m| starts_with_ignore_case(m, b"text/html"))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Manner = Manner { html: false, head_only: false, close: false, say_keep_alive: false };

    fn written(answer: &Answer, manner: Manner) -> String {
        let mut out = Vec::new();
        answer.write(&mut out, manner, b"now", b"id");
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn says_it_in_text_or_html_and_forbids_caching() {
        let plain = "HTTP/1.1 404 Not Found\nDate: now\nCache-Control: no-store\nX-Request-Id: id\n\
            Content-Type: text/plain; charset=utf-8\nContent-Length: 10\n\nNot found\n";
        assert_eq!(written(&Answer::not_found(), PLAIN), plain);
        let head = written(&Answer::not_found(), Manner { html: true, head_only: true, close: true, ..PLAIN });
        assert!(head.contains("text/html") && head.ends_with("Connection: close\n\n"), "{head}");
        assert!(written(&Answer::overloaded(), PLAIN).contains("Retry-After: 1\n"));
        assert!(written(&Answer::refusal(Bad { status: 405, why: "" }), PLAIN).contains("Allow: GET"));
        assert!(written(&Answer::capabilities(), PLAIN).ends_with("OPTIONS\n\n"));
    }

    #[test]
    fn redirects_to_the_same_place_with_the_query() {
        let location = |head: &str, port| {
            let head = head.replace('\n', "\r\n");
            let mut list = Vec::new();
            let request = Request::parse(head.as_bytes(), &mut list).unwrap();
            match Answer::redirect(&request, port).extra {
                Extra::Location(location) => String::from_utf8(location).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(location("GET /a?b=c&d HTTP/1.1\nHost: x.y:80\n\n", None), "https://x.y/a?b=c&d");
        assert_eq!(location("GET / HTTP/1.1\nHost: x.y\n\n", Some(8443)), "https://x.y:8443/");
        assert_eq!(location("GET http://[::1]:80?q HTTP/1.1\nHost: [::1]\n\n", Some(443)), "https://[::1]/?q");
    }
}
