//! Access: what is known about one request, and the line that tells it.
//!
//! A [`Visit`] begins with a request's head, is filled as the request goes, and is spent once, by `Tools::record`. It
//! knows nothing of sockets, channels or files.
//!
//! **Invariant**: whatever a client sends, a line is one JSON object in UTF-8 of less than [`MAX_LINE`] bytes, with one
//! line end, which is its last byte.

use std::io::Write;
use std::net::IpAddr;

use super::http::Version;
use super::http::head::Request;
use super::http::headers::Name;
use super::table::EndpointId;

/// No line is longer: each text in it is cut, see below.
pub(super) const MAX_LINE: usize = 4 << 10;
/// Of the path with its query, in the line's bytes. Longer ones are attacks or state that belongs elsewhere.
const MAX_PATH: usize = 2048;
const MAX_HOST: usize = 256;
const MAX_AGENT: usize = 256;
const MAX_REFERER: usize = 512;
/// A method, an id: longer ones do not get here.
const MAX_WORD: usize = 128;
/// Of bytes that are no request.
const MAX_RAW: usize = 128;
/// Told of a request whose client left before there was an answer; never sent. nginx made it a custom.
const CLIENT_GONE: u16 = 499;

/// One request, from its head to its end. Times are microseconds of the worker's clock.
#[derive(Debug, Default)]
pub(super) struct Visit {
    /// The members of the line that the head tells. Empty when no lines are wanted.
    known: Vec<u8>,
    id: Vec<u8>,
    /// The lasting number of the app's upstream; none when no route led to one.
    pub upstream: Option<u32>,
    /// The one that was asked last.
    pub endpoint: Option<EndpointId>,
    pub began: u64,
    /// When it was handed to the endpoint that was asked last.
    pub asked: Option<u64>,
    /// When the first byte of an answer came.
    pub answered: Option<u64>,
    /// Of the final response; 0 while there is none.
    pub status: u16,
    /// Its client left before there was an answer.
    left: bool,
    /// Why the answer is ours and not the app's.
    pub why: Option<&'static str>,
    /// All of the request has come.
    pub whole: bool,
    /// The answer was a 101, and all that followed is counted in.
    pub switched: bool,
    /// What the client's socket had been given when this began.
    pub sent_before: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Endpoints that were chosen for it, counted as often as they were.
    tries: u16,
    /// Links that were there already, and new ones.
    pub reused: u16,
    pub opened: u16,
    /// Endpoints that did not take it, or broke before an answer.
    pub failures: u16,
}

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// It went to its end.
    Nobody,
    Client,
    Endpoint,
    /// A limit in `limits`.
    Timeout,
    /// A rule of ours, or our own end.
    Proxy,
}

/// What is known of a client when it asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub address: IpAddr,
    pub tls: Option<&'static str>,
}

impl Visit {
    /// Makes it anew; its memory is kept.
    pub fn begin(&mut self, id: &[u8], sent_before: u64, now_us: u64) {
        let Visit { mut known, id: mut old, .. } = std::mem::take(self);
        known.clear();
        old.clear();
        old.extend_from_slice(id);
        *self = Visit { known, id: old, began: now_us, sent_before, ..Visit::default() };
    }

    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// How much memory it keeps.
    pub fn text_room(&self) -> usize {
        self.known.capacity() + self.id.capacity()
    }

    /// Notes what the head says. `app` has the route that it took.
    pub fn know(&mut self, request: &Request<'_>, app: Option<&str>, peer: Peer) {
        let out = &mut self.known;
        // An absolute-form without a path means the root.
        let path = if request.target.raw().is_empty() { b"/" } else { request.target.raw() };
        member(out, b",\"app\":", app.map(str::as_bytes), MAX_WORD);
        member(out, b",\"method\":", Some(request.method_bytes), MAX_WORD);
        member(out, b",\"host\":", request.host.map(|h| h.host), MAX_HOST);
        member(out, b",\"path\":", Some(path), MAX_PATH);
        let version: &[u8] = if request.version == Version::V11 { b"HTTP/1.1" } else { b"HTTP/1.0" };
        member(out, b",\"protocol\":", Some(version), MAX_WORD);
        member(out, b",\"user_agent\":", request.fields.first(Name::UserAgent), MAX_AGENT);
        member(out, b",\"referer\":", request.fields.first(Name::Referer), MAX_REFERER);
        from(out, peer);
    }

    /// Notes the beginning of what is no request.
    pub fn know_raw(&mut self, bytes: &[u8], peer: Peer) {
        self.known.extend_from_slice(b",\"app\":null");
        member(&mut self.known, b",\"raw\":", Some(bytes), MAX_RAW);
        from(&mut self.known, peer);
    }

    pub fn choose(&mut self, endpoint: EndpointId) {
        self.endpoint = Some(endpoint);
        self.tries += 1;
    }

    /// The chosen one has been sent the request, on a link that was `used` before or is new.
    pub fn ask(&mut self, used: bool, now_us: u64) {
        self.asked = Some(now_us);
        if used {
            self.reused += 1;
        } else {
            self.opened += 1;
        }
    }

    /// How often an endpoint was tried after the first time.
    pub fn retries(&self) -> u16 {
        self.tries.saturating_sub(1)
    }

    /// The client has no use for an answer any more.
    pub fn leave(&mut self) {
        if self.status == 0 {
            (self.status, self.left) = (CLIENT_GONE, true);
        }
    }

    /// Where it was, for who ended it.
    fn phase(&self) -> &'static str {
        match () {
            () if self.switched => "tunnel",
            () if self.status > 0 && self.why.is_none() && !self.left => "response",
            () if !self.whole => "request",
            () if self.asked.is_none() => "connect",
            () => "wait",
        }
    }

    /// Appends the line. `time` is the end of it in words, `now_us` on the clock.
    pub fn write(&self, out: &mut Vec<u8>, time: &[u8], by: By, now_us: u64) {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(time);
        out.push(b'"');
        out.extend_from_slice(&self.known);
        member(out, b",\"request_id\":", Some(&self.id), MAX_WORD);
        out.extend_from_slice(b",\"endpoint\":");
        match self.endpoint {
            Some(id) => digits(out, id.0),
            None => out.extend_from_slice(b"null"),
        }
        for (name, n) in [
            (&b",\"status\":"[..], u64::from(self.status)),
            (b",\"bytes_in\":", self.bytes_in),
            (b",\"bytes_out\":", self.bytes_out),
            (b",\"retries\":", u64::from(self.retries())),
        ] {
            out.extend_from_slice(name);
            digits(out, n);
        }
        millis(out, b",\"total_ms\":", Some(now_us.saturating_sub(self.began)));
        millis(out, b",\"queue_ms\":", self.asked.map(|at| at.saturating_sub(self.began)));
        millis(out, b",\"upstream_ms\":", self.upstream_us());
        out.extend_from_slice(if self.reused > 0 { b",\"reused\":true" } else { b",\"reused\":false" });
        member(out, b",\"reason\":", self.why.map(str::as_bytes), MAX_WORD);
        out.extend_from_slice(b",\"end\":\"");
        match by.word() {
            Some(who) => {
                out.extend_from_slice(who.as_bytes());
                out.push(b'-');
                out.extend_from_slice(self.phase().as_bytes());
            }
            None => out.extend_from_slice(b"done"),
        }
        out.extend_from_slice(b"\"}\n");
    }

    /// From the last asking to the first byte of the answer.
    pub fn upstream_us(&self) -> Option<u64> {
        self.answered.zip(self.asked).map(|(answered, asked)| answered.saturating_sub(asked))
    }
}

impl By {
    /// `None` when it went to its end.
    pub fn word(self) -> Option<&'static str> {
        match self {
            By::Nobody => None,
            By::Client => Some("client"),
            By::Endpoint => Some("endpoint"),
            By::Timeout => Some("timeout"),
            By::Proxy => Some("proxy"),
        }
    }

    /// Whose doing an answer of ours is.
    pub fn of_answer(status: u16) -> By {
        match status {
            ..400 => By::Nobody,
            408 | 504 => By::Timeout,
            502 => By::Endpoint,
            _ => By::Proxy,
        }
    }
}

fn from(out: &mut Vec<u8>, peer: Peer) {
    out.extend_from_slice(b",\"peer\":\"");
    address(out, peer.address);
    out.push(b'"');
    member(out, b",\"tls\":", peer.tls.map(str::as_bytes), MAX_WORD);
}

fn member(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>, max: usize) {
    out.extend_from_slice(name);
    match value {
        Some(value) => quote(out, value, max),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends `bytes` as a JSON string of at most `max` bytes between its quotes and an ellipsis if it was cut. What is not
/// UTF-8 becomes U+FFFD; what could end a line, or act on a terminal, is escaped (RFC 8259 §7 asks for less).
fn quote(out: &mut Vec<u8>, bytes: &[u8], max: usize) {
    out.push(b'"');
    // All are looked at, which the compiler does many at a time.
    let is_plain = |b: u8| b.wrapping_sub(b' ') <= b'~' - b' ' && b != b'"' && b != b'\\';
    if bytes.len() <= max && bytes.iter().fold(true, |plain, b| plain & is_plain(*b)) {
        out.extend_from_slice(bytes);
    } else {
        let whole = escape(out, &bytes[..bytes.len().min(max)], max) && bytes.len() <= max;
        if !whole {
            out.extend_from_slice("…".as_bytes());
        }
    }
    out.push(b'"');
}

/// False when not all of it fits.
fn escape(out: &mut Vec<u8>, bytes: &[u8], max: usize) -> bool {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let end = out.len() + max;
    for chunk in bytes.utf8_chunks() {
        let broken = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for c in chunk.valid().chars().chain(broken) {
            let mut room = [0; 6];
            let code = c as u32 as usize;
            let written: &[u8] = match c {
                '"' => b"\\\"",
                '\\' => b"\\\\",
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    room.copy_from_slice(b"\\u0000");
                    for (i, digit) in room[2..].iter_mut().enumerate() {
                        *digit = HEX[code >> (12 - 4 * i) & 15];
                    }
                    &room
                }
                c => c.encode_utf8(&mut room).as_bytes(),
            };
            if out.len() + written.len() > end {
                return false;
            }
            out.extend_from_slice(written);
        }
    }
    true
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                digits(out, u64::from(octet));
            }
        }
        // Which zeros to leave out (RFC 5952) is not worth writing again; memory takes everything.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Appends the decimal digits of `n`.
pub(super) fn digits(out: &mut Vec<u8>, mut n: u64) {
    let mut room = [0; 20];
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return out.extend_from_slice(&room[at..]);
        }
    }
}

/// Microseconds as milliseconds with three places.
fn millis(out: &mut Vec<u8>, name: &[u8], us: Option<u64>) {
    out.extend_from_slice(name);
    let Some(us) = us else { return out.extend_from_slice(b"null") };
    digits(out, us / 1000);
    let rest = us % 1000;
    let digit = |n: u64| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const PEER: Peer = Peer { address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)), tls: Some("1.3") };

    fn line(visit: &Visit, by: By, now_us: u64) -> Value {
        let mut out = Vec::new();
        visit.write(&mut out, b"2026-01-02T03:04:05.678Z", by, now_us);
        assert!(out.len() < MAX_LINE, "{} bytes", out.len());
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.ends_with("}\n"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    fn visit(head: &[u8], app: Option<&str>) -> Visit {
        let mut list = Vec::new();
        let request = Request::parse(head, &mut list).unwrap();
        let mut visit = Visit::default();
        visit.begin(b"id-1", 0, 1_000_000);
        visit.know(&request, app, PEER);
        visit
    }

    #[test]
    fn tells_a_request_from_head_to_end() {
        let head = b"GET /a\"b?c=%20 HTTP/1.1\r\nHost: a.b:80\r\nUser-Agent: x/1 \"\\\"\r\n\r\n";
        let mut visit = visit(head, Some("shop"));
        visit.choose(EndpointId(7));
        visit.ask(false, 1_000_250);
        visit.choose(EndpointId(9));
        visit.ask(true, 1_000_300);
        (visit.answered, visit.status, visit.whole) = (Some(1_002_305), 200, true);
        (visit.bytes_in, visit.bytes_out) = (61, u64::MAX);
        let expected = serde_json::json!({
            "time": "2026-01-02T03:04:05.678Z", "app": "shop", "method": "GET", "host": "a.b", "path": "/a\"b?c=%20",
            "protocol": "HTTP/1.1", "user_agent": "x/1 \"\\\"", "referer": null, "peer": "10.0.0.9", "tls": "1.3",
            "request_id": "id-1", "endpoint": 9, "status": 200, "bytes_in": 61, "bytes_out": u64::MAX, "retries": 1,
            "total_ms": 12.007, "queue_ms": 0.3, "upstream_ms": 2.005, "reused": true, "reason": null, "end": "done",
        });
        assert_eq!(line(&visit, By::Nobody, 1_012_007), expected);
    }

    #[test]
    fn says_who_ended_it_and_where() {
        let mut visit = visit(b"POST / HTTP/1.0\r\n\r\n", None);
        let end = |visit: &Visit, by| line(visit, by, 2_000_000)["end"].as_str().unwrap().to_string();
        assert_eq!(end(&visit, By::Client), "client-request");
        visit.whole = true;
        assert_eq!(end(&visit, By::Proxy), "proxy-connect");
        visit.ask(true, 1_000_001);
        assert_eq!(end(&visit, By::Timeout), "timeout-wait");
        visit.leave();
        assert_eq!((visit.status, end(&visit, By::Client)), (499, "client-wait".into()));
        (visit.status, visit.left) = (200, false);
        visit.leave();
        assert_eq!((visit.status, end(&visit, By::Endpoint)), (200, "endpoint-response".into()));
        (visit.status, visit.switched) = (101, true);
        assert_eq!(end(&visit, By::Nobody), "done");
        assert_eq!(end(&visit, By::Client), "client-tunnel");
        let said = line(&visit, By::Nobody, 0);
        assert_eq!((said["app"].clone(), said["host"].clone()), (Value::Null, Value::Null));
    }

    #[test]
    fn texts_are_cut_and_controls_escaped() {
        let quoted = |bytes: &[u8], max| {
            let mut out = Vec::new();
            quote(&mut out, bytes, max);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(quoted(b"abc", 3), "\"abc\"");
        assert_eq!(quoted(b"abcd", 3), "\"abc…\"");
        assert_eq!(quoted(b"a\"\"", 3), "\"a\\\"…\"");
        assert_eq!(quoted(b"\x1b[1m\x7f\n\t", 99), "\"\\u001b[1m\\u007f\\u000a\\u0009\"");
        assert_eq!(quoted("é\u{85}\u{2028}𝄞".as_bytes(), 99), "\"é\\u0085\\u2028𝄞\"");
        assert_eq!(quoted(b"\xff\xc3", 99), "\"\u{fffd}\u{fffd}\"");
        assert_eq!(quoted("éé".as_bytes(), 3), "\"é…\"", "not cut within a character");
    }

    #[test]
    fn the_longest_line_is_within_its_bound() {
        let long = "\\".repeat(7000);
        let head = format!(
            "OPTIONSxxxxxxxxxxxxxxxxxxxxxxxxx /{long} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {long}\r\nReferer: {long}\r\n\r\n",
            "h".repeat(255)
        );
        let mut visit = visit(head.as_bytes(), Some(&"a".repeat(127)));
        visit.begin(&[b'i'; 128], 0, 0);
        let mut list = Vec::new();
        let request = Request::parse(head.as_bytes(), &mut list).unwrap();
        let peer = Peer { address: "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap(), tls: Some("1.3") };
        visit.know(&request, Some(&"a".repeat(127)), peer);
        visit.choose(EndpointId(u64::MAX));
        visit.ask(true, 5);
        (visit.answered, visit.status, visit.bytes_in, visit.bytes_out) = (Some(u64::MAX), 599, u64::MAX, u64::MAX);
        visit.why = Some("Connection names a field that frames the message");
        line(&visit, By::Endpoint, u64::MAX);
    }

    #[test]
    fn its_memory_is_used_again() {
        let mut visit = visit(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None);
        let before = visit.known.as_ptr();
        visit.begin(b"id-2", 5, 6);
        assert!(visit.known.is_empty() && visit.known.as_ptr() == before);
        assert_eq!((visit.id(), visit.sent_before, visit.began), (&b"id-2"[..], 5, 6));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_one_line_of_json(
            raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000),
            id in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            times in proptest::prelude::any::<(u64, Option<u64>, Option<u64>, u64)>(),
        ) {
            let mut visit = Visit::default();
            visit.begin(&id, 0, times.0);
            visit.know_raw(&raw, PEER);
            (visit.asked, visit.answered) = (times.1, times.2);
            let line = line(&visit, By::Proxy, times.3);
            let shown = line["raw"].as_str().unwrap();
            proptest::prop_assert!(shown.len() <= MAX_RAW + "…".len());
            if raw.len() <= MAX_RAW && raw.iter().all(|b| (b' '..=b'~').contains(b) && !b"\\\"".contains(b)) {
                proptest::prop_assert_eq!(shown.as_bytes(), raw);
            }
        }
    }
}
