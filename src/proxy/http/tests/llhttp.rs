//! The vectors of llhttp: Markdown with an `http` block and a `log` block of the events that its strict parser raises.
//!
//! The places and texts in a log must agree with the bytes that we make of the `http` block: an escape that is read
//! wrongly is a failure of its own and cannot pass for a verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::differences::{LLHTTP, Ours};
use super::{End, Hex, Message, Reading, corpus, minor, requests, responses, text, unescape};
use crate::proxy::lab::parsers;

/// One vector.
#[derive(Debug)]
struct Vector {
    /// File and heading, numbered where a heading comes twice.
    name: String,
    /// What the meta comment says, as far as it matters.
    kind: String,
    skips_body: bool,
    bytes: Vec<u8>,
    log: String,
}

impl Vector {
    fn is_request(&self) -> bool {
        self.kind.starts_with("request")
    }

    fn read(&self) -> Reading {
        match self.is_request() {
            true => requests(&self.bytes),
            false => responses(&self.bytes, self.skips_body),
        }
    }
}

/// What llhttp made of it.
#[derive(Debug, Default)]
struct Log {
    messages: Vec<Message>,
    /// The head of the last message is not whole.
    in_head: bool,
    error: Option<u16>,
}

/// `Data after Connection: close`: we leave it unread.
const DATA_AFTER_CLOSE: u16 = 5;
/// `Pause on CONNECT/Upgrade`: what follows is not HTTP to llhttp. Not a refusal.
const PAUSE_ON_UPGRADE: u16 = 22;

#[test]
fn every_vector_of_llhttp_is_read_alike_or_listed() {
    let mut vectors = vectors();
    if vectors.is_empty() {
        return;
    }
    let (mut found, mut wrong) = (BTreeMap::new(), Vec::new());
    let (mut plain, mut same, mut hostless) = (0, 0, 0);
    for vector in &mut vectors {
        match vector.is_request() {
            true => parsers::request_head(&vector.bytes),
            false => parsers::response_head(&vector.bytes),
        }
        // To leave out the body of a request is a door of llhttp's interface, not of the protocol.
        if vector.is_request() && vector.skips_body {
            continue;
        }
        let log = read_log(vector).unwrap_or_else(|e| panic!("{}: {e}", vector.name));
        let mut reading = vector.read();
        if log.error.is_some_and(is_refusal) && reading.end == End::Open {
            // They stop within a head. We may wait for its end, but not go on with it then.
            vector.bytes.extend_from_slice(b"\r\n\r\n");
            reading = vector.read();
        }
        hostless += usize::from(reading.hostless > 0);
        if vector.kind.contains("lenient") {
            // Leniency is what we do not have: where even lenient llhttp refuses, we do.
            if log.error.is_some_and(is_refusal) && !matches!(reading.end, End::Refused(_)) {
                found.insert(vector.name.clone(), Ours::Accepts);
            }
            continue;
        }
        plain += 1;
        match judge(&log, &reading) {
            Ok(None) => same += 1,
            Ok(Some(difference)) => drop(found.insert(vector.name.clone(), difference)),
            Err(e) => wrong.push(format!("{}: {e}", vector.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed: BTreeMap<String, Ours> = LLHTTP.iter().map(|(name, ours, _)| ((*name).into(), *ours)).collect();
    let lines = |map: &BTreeMap<String, Ours>, but: &BTreeMap<String, Ours>| -> String {
        map.iter().filter(|(k, v)| but.get(*k) != Some(v)).map(|(k, v)| format!("{k}: {v:?}\n")).collect()
    };
    assert!(found == listed, "not listed:\n{}listed but not so:\n{}", lines(&found, &listed), lines(&listed, &found));
    assert!(plain > 200 && same > 180 && hostless > 50, "{plain} plain vectors, {same} alike, {hostless} without Host");
}

/// Ours against theirs. An error is a disagreement that no row can excuse: the same bytes read as different messages.
fn judge(log: &Log, ours: &Reading) -> Result<Option<Ours>, String> {
    let whole = |m: &&Message| m.whole;
    let theirs = &log.messages[..log.messages.len() - usize::from(log.in_head)];
    for (theirs, ours) in theirs.iter().zip(&ours.messages) {
        let refused = log.error.is_some() || !theirs.whole;
        let agree = theirs.first == ours.first
            && theirs.minor == ours.minor
            && theirs.fields == ours.fields
            && (refused || theirs.body == ours.body);
        if !agree {
            return Err(format!("read as\n{theirs:?}\nand by us as\n{ours:?}"));
        }
    }
    let counts = (theirs.iter().filter(whole).count(), ours.messages.iter().filter(whole).count());
    Ok(match (log.error, ours.end) {
        (Some(code), End::Refused(_)) if is_refusal(code) && counts.1 <= counts.0 => None,
        (Some(DATA_AFTER_CLOSE), End::Closed { unread: 1.. }) if counts.0 == counts.1 => None,
        (Some(code), End::Refused(status)) if !is_refusal(code) => Some(Ours::Refuses(status)),
        (Some(code), _) if !is_refusal(code) => None,
        (None, End::Refused(status)) => Some(Ours::Refuses(status)),
        (None, End::Open | End::Closed { unread: 0 }) if theirs == ours.messages => None,
        (None, _) => Some(Ours::Otherwise),
        (Some(_), _) => Some(Ours::Accepts),
    })
}

fn is_refusal(code: u16) -> bool {
    code != PAUSE_ON_UPGRADE
}

fn vectors() -> Vec<Vector> {
    let Some(root) = corpus("llhttp") else { return Vec::new() };
    let (mut vectors, mut names) = (Vec::new(), BTreeSet::new());
    for folder in ["request", "response"] {
        let mut files: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "md"));
        files.sort();
        for file in files {
            let place = format!("{folder}/{}", file.file_name().unwrap().to_str().unwrap());
            take_vectors(&place, &fs::read_to_string(&file).unwrap(), &mut names, &mut vectors);
        }
    }
    vectors
}

fn take_vectors(place: &str, markdown: &str, names: &mut BTreeSet<String>, vectors: &mut Vec<Vector>) {
    let (mut heading, mut meta, mut http) = ("", "", None);
    let mut rest = markdown;
    while let Some((line, tail)) = rest.split_once('\n') {
        rest = tail;
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim();
        } else if line.starts_with("<!-- meta=") {
            meta = line;
        } else if line == "```http" || line == "```log" {
            let (block, tail) = rest.split_once("\n```\n").or_else(|| Some((rest.strip_suffix("\n```")?, ""))).unwrap();
            rest = tail;
            if line == "```http" {
                http = Some(block);
                continue;
            }
            let plain = format!("{place}: {heading}");
            let mut name = plain.clone();
            let mut n = 1;
            while !names.insert(name.clone()) {
                n += 1;
                name = format!("{plain} ({n})");
            }
            vectors.push(Vector {
                name,
                kind: meta.split('"').nth(3).unwrap().to_string(),
                skips_body: meta.contains("skipBody"),
                bytes: bytes(http.take().unwrap()),
                log: block.to_string(),
            });
        }
    }
}

/// The bytes that an `http` block stands for: a backslash at the end of a line joins it with the next, other line ends
/// are CRLF, then escapes are replaced.
fn bytes(block: &str) -> Vec<u8> {
    let joined = block.replace("\\\n", "").replace('\n', "\r\n");
    unescape(joined.as_bytes(), Hex::Character)
}

/// Reads a log and checks each place in it against the bytes.
fn read_log(vector: &Vector) -> Result<Log, String> {
    let mut log = Log::default();
    let (mut name, mut value, mut in_trailers) = (String::new(), String::new(), false);
    for line in vector.log.lines() {
        let (_, event) = line.split_once(' ').ok_or_else(|| format!("no event in {line:?}"))?;
        if let Some((kind, span)) = span(line, &vector.bytes)? {
            let message = log.messages.last_mut().ok_or("a span outside of a message")?;
            match kind {
                "method" => message.first.0 += &span,
                "url" => message.first.1 += &span,
                "status" => message.first.1 += &span,
                "version" => message.minor = minor(span.as_bytes()),
                "header_field" => name += &span,
                "header_value" => value += &span,
                "body" => message.body += &span,
                "protocol" | "chunk_extension_name" | "chunk_extension_value" => {}
                other => return Err(format!("unknown span {other}")),
            }
            continue;
        }
        match event.split(['=', ' ']).next().unwrap_or("") {
            "message" if event == "message begin" => {
                log.messages.push(Message::default());
                (log.in_head, in_trailers) = (true, false);
            }
            "message" if event == "message complete" => {
                log.messages.last_mut().ok_or("an end without a message")?.whole = true;
            }
            "header_value" => {
                let field = (std::mem::take(&mut name), std::mem::take(&mut value).trim().to_string());
                let message = log.messages.last_mut().ok_or("a field outside of a message")?;
                if !in_trailers {
                    message.fields.push(field);
                }
            }
            "headers" => {
                (log.in_head, in_trailers) = (false, true);
                if let Some((_, status)) = event.split_once("status=") {
                    let message = log.messages.last_mut().ok_or("a head outside of a message")?;
                    message.first.0 = status.split(' ').next().unwrap_or("").to_string();
                }
            }
            "error" => {
                let code = event.split(['=', ' ']).nth(2).and_then(|n| n.parse().ok());
                log.error = Some(code.ok_or_else(|| format!("no code in {line:?}"))?);
            }
            "reset"
            | "pause"
            | "skip"
            | "finish"
            | "chunk"
            | "method"
            | "url"
            | "protocol"
            | "version"
            | "status"
            | "header_field"
            | "chunk_extension_name"
            | "chunk_extension_value" => {}
            _ => return Err(format!("unknown event in {line:?}")),
        }
    }
    Ok(log)
}

/// Kind and bytes of a span, which must be the text that stands in the line.
fn span<'a>(line: &'a str, bytes: &[u8]) -> Result<Option<(&'a str, String)>, String> {
    let Some((place, rest)) = line.split_once(" span[") else { return Ok(None) };
    let number = |part: Option<&str>| part.and_then(|p| p.split_once('=')?.1.parse::<usize>().ok());
    let mut parts = place.split(' ');
    let (Some(off), Some(len)) = (number(parts.next()), number(parts.next())) else {
        return Err(format!("no place in {line:?}"));
    };
    let (kind, shown) = rest.split_once("]=").ok_or_else(|| format!("no text in {line:?}"))?;
    let shown = match shown {
        "lf" => b"\n".to_vec(),
        "cr" => b"\r".to_vec(),
        quoted => unescape(&quoted.as_bytes()[1..quoted.len() - 1], Hex::Character),
    };
    match bytes.get(off..off + len) {
        Some(there) if there == shown => Ok(Some((kind, text(there)))),
        there => Err(format!("{line:?} is {:?} in our bytes", there.map(text))),
    }
}

/// A vector of one request and what is said of it.
fn made(http: &str, log: &str) -> Vec<Vector> {
    let markdown =
        format!("## Made\n\n<!-- meta={{\"type\": \"request\"}} -->\n```http\n{http}\n```\n\n```log\n{log}\n```\n");
    let (mut vectors, mut names) = (Vec::new(), BTreeSet::new());
    take_vectors("made.md", &markdown, &mut names, &mut vectors);
    vectors
}

#[test]
fn a_wrong_expectation_is_noticed() {
    const HTTP: &str = "PUT /x HTTP/1.1\nHost: a\nContent-Length: 2\n\nhi";
    const LOG: &str = r#"off=0 message begin
off=0 len=3 span[method]="PUT"
off=4 len=2 span[url]="/x"
off=12 len=3 span[version]="1.1"
off=17 len=4 span[header_field]="Host"
off=23 len=1 span[header_value]="a"
off=26 header_value complete
off=26 len=14 span[header_field]="Content-Length"
off=42 len=1 span[header_value]="2"
off=45 header_value complete
off=47 headers complete method=4 v=1/1 flags=20 content_length=2
off=47 len=2 span[body]="hi"
off=49 message complete"#;
    let verdict = |http: &str, log: &str| {
        let vectors = made(http, log);
        assert_eq!(vectors.len(), 1);
        assert_eq!((vectors[0].name.as_str(), vectors[0].kind.as_str()), ("made.md: Made", "request"));
        read_log(&vectors[0]).and_then(|log| judge(&log, &vectors[0].read()))
    };
    let without = |line: &str| LOG.lines().filter(|l| !l.contains(line)).collect::<Vec<_>>().join("\n");
    assert_eq!(verdict(HTTP, LOG), Ok(None));
    // Other parts than ours.
    for (from, to) in [("\"PUT\"", "\"PUB\""), ("span[body]=\"hi\"", "span[body]=\"ho\""), ("off=23", "off=22")] {
        assert!(verdict(HTTP, &LOG.replace(from, to)).is_err(), "{to} is not in the bytes");
    }
    for line in ["span[method]", "span[url]", "=\"Host\"", "=\"2\"", "span[body]"] {
        assert!(verdict(HTTP, &without(line)).is_err(), "without {line}");
    }
    assert_eq!(verdict(HTTP, &without("message complete")), Ok(Some(Ours::Otherwise)));
    assert!(verdict(HTTP, &LOG.replace("off=49 message", "off=49 massage")).is_err(), "an event that we do not know");
    // Other verdicts than ours.
    let refused = LOG.to_string() + "\noff=49 error code=10 reason=\"Made up\"";
    assert_eq!(verdict(HTTP, &refused), Ok(Some(Ours::Accepts)));
    let paused = LOG.to_string() + "\noff=49 error code=22 reason=\"Pause on CONNECT/Upgrade\"";
    assert_eq!(verdict(HTTP, &paused), Ok(None));
    assert_eq!(verdict(&HTTP.replace("Host: a", "Ho t: a"), &without("Host")), Ok(Some(Ours::Refuses(400))));
    // One whole request more than theirs, before a refusal.
    let more = HTTP.to_string() + "GET / HTTP/1.1\nHost: b\n\n\\0";
    assert_eq!(verdict(&more, &refused), Ok(Some(Ours::Accepts)));
}

#[test]
fn blocks_and_escapes_become_bytes() {
    assert_eq!(bytes("a\nb\n\n"), b"a\r\nb\r\n\r\n");
    assert_eq!(bytes("a\\n\\\nb\\r\\t\\f\\x41\\xff\\z"), b"a\nb\r\t\x0cA\xc3\xbf\\z");
    assert_eq!(unescape(b"caf\\xc3\\xa9\\r\\n", Hex::Byte), b"caf\xc3\xa9\r\n");
}
