//! Script: requests with the responses they are to meet, decided together by the dice, and written as bytes by hand.

use std::sync::OnceLock;

use super::dice::{Dice, bytes_of};
use crate::proxy::transport::BODY_READ;

/// A request, what is to become of it, and its response.
#[derive(Debug)]
pub(super) struct Request {
    pub id: usize,
    pub method: &'static str,
    pub is_v10: bool,
    pub wire: Vec<u8>,
    /// Decoded.
    pub body: Vec<u8>,
    pub kind: Kind,
    /// The client asks for nothing after it.
    pub last: bool,
    pub reply: Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// For an endpoint.
    Plain,
    /// For an endpoint, to become a tunnel.
    Upgrade,
    /// For ourselves, answered with this status.
    Own(u16),
    /// Broken before the end of its head.
    BadHead,
    /// Broken in its body.
    BadBody,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    /// As the client is to see it; empty after HEAD.
    pub body: Vec<u8>,
    /// Interim responses, head and body.
    pub wire: Vec<u8>,
    pub fault: Fault,
    /// The endpoint ends the connection after it.
    pub ends: bool,
    /// Nothing but the end of the connection ends its body.
    pub close_ends: bool,
    /// The connection may end too soon, so that such a body cannot be known to be whole.
    pub blurred: bool,
    /// It is sent before the request has come as a whole.
    pub early: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// After so many bytes there is an end.
    Cut(usize),
    /// After so many bytes there is a reset.
    Reset(usize),
    /// What cannot be understood.
    Nonsense,
    /// Bytes that nobody asked for behind it.
    Surplus,
    /// Never.
    Silent,
}

impl Fault {
    pub fn is_none(self) -> bool {
        self == Fault::None
    }
}

const SIZES: [usize; 12] = [0, 1, 7, 90, 300, 300, 3000, 3000, 17_000, 33_000, 40_000, 70_000];

/// A calm request is sound and so is its response; whoever meets only such ones must get every answer.
pub(super) fn request(dice: &mut Dice<'_>, id: usize, calm: bool) -> Request {
    let kind = match dice.roll(16) {
        0..=11 => Kind::Plain,
        12 => Kind::Upgrade,
        13 => Kind::Own(404),
        14 if !calm => Kind::BadHead,
        15 if !calm => Kind::BadBody,
        _ => Kind::Plain,
    };
    let is_v10 = kind == Kind::Plain && dice.once_in(6);
    let method = match kind {
        Kind::Upgrade | Kind::BadHead | Kind::Own(_) => "GET",
        Kind::BadBody => "POST",
        Kind::Plain => dice.of(&["GET", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH"]),
    };
    let chunked = !is_v10 && dice.once_in(2) || kind == Kind::BadBody;
    let has_body = matches!(method, "POST" | "PUT" | "PATCH");
    let body = if has_body { pattern(id, dice.of(&SIZES)) } else { Vec::new() };
    let stays = !dice.once_in(5);
    let host = if let Kind::Own(_) = kind { "nobody.test" } else { "app.test" };
    let version = if is_v10 { "1.0" } else { "1.1" };
    let mut head = format!("{method} /r{id} HTTP/{version}\r\nHost: {host}\r\n");
    match (stays, is_v10, kind) {
        (_, _, Kind::Upgrade) => head += "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        (true, true, _) => head += "Connection: keep-alive\r\n",
        (false, false, _) => head += "Connection: close\r\n",
        _ => {}
    }
    if has_body && dice.once_in(6) {
        head += "Expect: 100-continue\r\n";
    }
    if dice.once_in(5) {
        head += "Connection: TE\r\nTE: trailers\r\n";
    }
    if kind == Kind::BadHead {
        head += dice.of(&[
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "X: a\nY: b\r\n",
            " folded\r\n",
            "Host: other.test\r\n",
        ]);
    }
    let mut wire = head.into_bytes();
    match (has_body, chunked) {
        (false, _) => wire.extend(b"\r\n"),
        (true, false) => {
            wire.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            wire.extend(&body);
        }
        (true, true) => {
            wire.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            write_chunks(&mut wire, &body, dice);
            if kind == Kind::BadBody {
                wire.extend(dice.of(&[&b"5\nhello\r\n"[..], b"-1\r\n", b"5\r\nhelloX\n", b"0x1\r\n", b"1 \r\n"]));
            } else {
                wire.extend(dice.of(&[&b"0\r\n\r\n"[..], b"0\r\nX-T: 1\r\n\r\n", b"000;a=b\r\n\r\n"]));
            }
        }
    }
    if kind == Kind::BadHead || kind == Kind::BadBody {
        // What a lenient reader would take for the next request.
        wire.extend(format!("GET /smuggled{id} HTTP/1.1\r\nHost: app.test\r\n\r\n").bytes());
    }
    let last = (!stays && kind != Kind::Upgrade) || matches!(kind, Kind::Upgrade | Kind::BadHead | Kind::BadBody);
    let reply = reply(dice, id, method, kind, calm);
    Request { id, method, is_v10, wire, body, kind, last, reply }
}

fn reply(dice: &mut Dice<'_>, id: usize, method: &str, kind: Kind, calm: bool) -> Reply {
    let mut fault = match if calm { 0 } else { dice.roll(13) } {
        6 => Fault::Cut(dice.of(&[0, 1, 20, 60, 100, 400, 20_000])),
        7 => Fault::Reset(dice.of(&[0, 1, 20, 60, 100, 400, 20_000])),
        8 => Fault::Nonsense,
        9 | 10 => Fault::Surplus,
        11 => Fault::Silent,
        _ => Fault::None,
    };
    let mut wire = Vec::new();
    for _ in 0..dice.of(&[0, 0, 0, 0, 1, 3, if calm { 2 } else { 20 }]) {
        wire.extend(dice.of(&[&b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"[..], b"HTTP/1.1 100 Continue\r\n\r\n"]));
    }
    if kind == Kind::Upgrade && dice.roll(4) > 0 {
        if matches!(fault, Fault::Nonsense | Fault::Surplus) {
            fault = Fault::None;
        }
        wire.extend(
            format!("HTTP/1.1 101 Switching\r\nX-Id: {id}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .bytes(),
        );
        return Reply {
            status: 101,
            body: Vec::new(),
            wire,
            fault,
            ends: false,
            close_ends: false,
            blurred: false,
            early: false,
        };
    }
    if fault == Fault::Nonsense {
        let all = [
            &b"HTTP/1.1 101 Switching\r\n\r\n"[..],
            b"HELLO\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: b\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ];
        // How long the body of an answer to HEAD would be does not matter.
        wire.extend(dice.of(if method == "HEAD" { &all[..3] } else { &all }));
    }
    let status = dice.of(&[200, 200, 200, 404, 500, 204, 304]);
    let none = method == "HEAD" || status == 204 || status == 304;
    let mut body = pattern(id, dice.of(&SIZES));
    let is_v10 = dice.once_in(8);
    let (mut ends, mut close_ends) = (dice.once_in(6), false);
    let mut head = format!("HTTP/1.{} {status} Word\r\nX-Id: {id}\r\n", if is_v10 { 0 } else { 1 });
    if ends {
        head += "Connection: close\r\n";
    } else if is_v10 {
        head += "Connection: keep-alive\r\n";
    }
    if dice.once_in(8) {
        head += "Content-Type: text/event-stream\r\n";
    }
    let framing = dice.roll(4);
    match framing {
        _ if status == 204 => {}
        0 | 1 => {
            if !none && dice.once_in(if fault == Fault::Surplus { 2 } else { 8 }) {
                // A read that is filled to the brim does not tell whether there is more.
                let brim = BODY_READ - wire.len() - head.len() - "Content-Length: 12345\r\n\r\n".len();
                body = pattern(id, brim);
            }
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        2 if !is_v10 => head += "Transfer-Encoding: chunked\r\n",
        _ if none => {}
        _ => (ends, close_ends) = (true, true),
    }
    wire.extend(head.bytes());
    wire.extend(b"\r\n");
    match framing {
        _ if none => {}
        2 if !is_v10 => {
            write_chunks(&mut wire, &body, dice);
            wire.extend(dice.of(&[&b"0\r\n\r\n"[..], b"0\r\nX-T: 1\r\nAge: 2\r\n\r\n"]));
        }
        _ => wire.extend(&body),
    }
    if close_ends && fault == Fault::Surplus {
        fault = Fault::None; // it would be body
    }
    if fault == Fault::Surplus {
        wire.extend(b"surplus");
    }
    let early = !calm && dice.once_in(5);
    Reply {
        status,
        body: if none { Vec::new() } else { body },
        wire,
        fault,
        ends,
        close_ends,
        blurred: matches!(fault, Fault::Cut(_)),
        early,
    }
}

fn write_chunks(out: &mut Vec<u8>, body: &[u8], dice: &mut Dice<'_>) {
    let size = dice.of(&[100_000, 1000, 16_384, 5000, 333]);
    let extension = dice.of(&["", "", ";x", "; y=\"z\""]);
    for chunk in body.chunks(size) {
        out.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
}

/// Bytes that no other message has, with every value among them.
pub(super) fn pattern(id: usize, len: usize) -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| bytes_of(7, 128 << 10));
    bytes[id * 17..id * 17 + len].to_vec()
}
