//! Published vectors, read as a conn reads what a client sends and an exchange what an endpoint answers.
//!
//! The vectors lie beside the repository, or where `TAKO_CORPORA` says; without them these tests say so and pass.

mod differences;
mod gunicorn;
mod llhttp;

use std::io::Write;
use std::path::PathBuf;

use super::framing::{self, Decoder, Framing};
use super::head::{Request, Response, Scanner};
use super::headers::Field;
use super::{Bad, Version};
use crate::proxy::forward;

/// The folder of a published collection.
fn corpus(name: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora");
    let folder = std::env::var_os("TAKO_CORPORA").map_or_else(beside, PathBuf::from).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    let _ = writeln!(std::io::stderr(), "skipped: there is no folder {}", folder.display());
    None
}

/// A message as read, or as it should be: what its parts are and not where they lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Message {
    /// Method and target, or status and reason.
    first: (String, String),
    minor: u8,
    fields: Vec<(String, String)>,
    body: String,
    /// The end of its body has come.
    whole: bool,
}

/// How reading a stream of messages ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come: the last message is not whole, or all are.
    Open,
    /// The connection would be closed after the last message; so many bytes are left unread.
    Closed {
        unread: usize,
    },
    Refused(u16),
}

/// What a stream of bytes was read as.
#[derive(Debug)]
struct Reading {
    messages: Vec<Message>,
    end: End,
    /// How many requests lacked the Host that they need. Each was refused for it, and read once more with one.
    hostless: usize,
}

/// What a conn makes of `bytes`.
fn requests(bytes: &[u8]) -> Reading {
    let mut reading = Reading { messages: Vec::new(), end: End::Open, hostless: 0 };
    reading.end = take_requests(bytes, &mut reading).unwrap_or_else(|bad| End::Refused(bad.status));
    reading
}

fn take_requests(mut rest: &[u8], reading: &mut Reading) -> Result<End, Bad> {
    while !rest.is_empty() {
        let Some(place) = Scanner::default().request(rest)? else { break };
        let (mut head, end) = (rest[place.clone()].to_vec(), place.end);
        let (mut list, mut added) = (Vec::new(), 0);
        if let Err(Bad { why: "no Host field", .. }) = Request::parse(&head, &mut list) {
            let line = memchr::memchr(b'\n', &head).unwrap() + 1;
            head.splice(line..line, host_line(&head[..line]));
            (reading.hostless, added) = (reading.hostless + 1, 1);
        }
        let request = Request::parse(&head, &mut list)?;
        let framing = framing::request(&request)?;
        forward::expects_continue(&request)?;
        let target = head.split(|b| *b == b' ').nth(1).unwrap();
        let mut message = Message {
            first: (text(request.method_bytes), text(target)),
            minor: minor(&head[..memchr::memchr(b'\r', &head).unwrap()]),
            fields: request.fields.iter().skip(added).map(|(_, n, v)| (text(n), text(v))).collect(),
            ..Message::default()
        };
        let result = take_body(&rest[end..], framing, &mut message);
        let whole = message.whole;
        reading.messages.push(message);
        rest = &rest[end + result?..];
        let closes = match request.version {
            Version::V11 => request.connection.close,
            Version::V10 => request.connection.close || !request.connection.keep_alive,
        };
        if !whole {
            break;
        }
        if closes {
            return Ok(End::Closed { unread: rest.len() });
        }
    }
    Ok(End::Open)
}

/// A Host that fits to what the request line says.
fn host_line(line: &[u8]) -> Vec<u8> {
    let absolute = text(line).split_once("://").map(|(_, rest)| rest.to_string());
    let host = absolute.and_then(|rest| Some(rest.split(['/', '?', ' ']).next()?.to_string()));
    format!("Host: {}\r\n", host.as_deref().unwrap_or("added.test")).into_bytes()
}

/// What an exchange makes of `bytes`. `to_head`: they answer a HEAD.
fn responses(bytes: &[u8], to_head: bool) -> Reading {
    let mut reading = Reading { messages: Vec::new(), end: End::Open, hostless: 0 };
    // To the client that waits for it, whatever is wrong with it.
    reading.end = take_responses(bytes, to_head, &mut reading).unwrap_or(End::Refused(502));
    reading
}

fn take_responses(mut rest: &[u8], to_head: bool, reading: &mut Reading) -> Result<End, Bad> {
    while !rest.is_empty() {
        let Some(place) = Scanner::default().response(rest)? else { break };
        let (head, end) = (&rest[place.clone()], place.end);
        let mut list: Vec<Field> = Vec::new();
        let response = Response::parse(head, &mut list)?;
        let (framing, sound) = framing::response(&response, to_head)?;
        let mut message = Message {
            first: (response.status.to_string(), text(response.reason)),
            minor: head[7] - b'0',
            fields: response.fields.iter().map(|(_, n, v)| (text(n), text(v))).collect(),
            ..Message::default()
        };
        let result = take_body(&rest[end..], framing, &mut message);
        let whole = message.whole;
        reading.messages.push(message);
        rest = &rest[end + result?..];
        let stays = match response.version {
            Version::V11 => !response.connection.close,
            Version::V10 => response.connection.keep_alive && !response.connection.close,
        };
        if !whole {
            break;
        }
        if response.status == 101 || !sound || !stays {
            return Ok(End::Closed { unread: rest.len() });
        }
    }
    Ok(End::Open)
}

/// Moves what `rest` has of a body; returns how much of `rest` that was.
fn take_body(rest: &[u8], framing: Framing, message: &mut Message) -> Result<usize, Bad> {
    let mut decoder = Decoder::new(framing);
    let mut used = 0;
    loop {
        let piece = decoder.next(&rest[used..])?;
        message.body += &text(&rest[used..][piece.data]);
        used += piece.used;
        message.whole = decoder.is_done();
        if message.whole || piece.used == 0 {
            return Ok(used);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// The minor version, which is what the first line of a request ends with.
fn minor(line: &[u8]) -> u8 {
    line[line.len() - 1].wrapping_sub(b'0')
}

/// What `\xNN` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hex {
    Byte,
    /// In UTF-8: above ASCII two bytes.
    Character,
}

/// Replaces `\r`, `\n`, `\t`, `\f` and `\xNN`; any other backslash is itself.
fn unescape(escaped: &[u8], how: Hex) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = escaped;
    while let Some((b, tail)) = rest.split_first() {
        let (byte, used) = match (b, tail) {
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'f', ..]) => (b'\x0c', 2),
            (b'\\', [b'x', high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) if how == Hex::Character && high > 7 => {
                    out.push(0xc0 | high >> 2);
                    (0x80 | (high & 3) << 4 | low, 4)
                }
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => (b'\\', 1),
            },
            _ => (*b, 1),
        };
        out.push(byte);
        rest = &rest[used..];
    }
    out
}

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).map(|d| d as u8)
}
