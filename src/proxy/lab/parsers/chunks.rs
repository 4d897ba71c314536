//! The chunked coding.

use super::{EVERY_CUT, MAX_FIELDS};
use crate::proxy::bodies::Intake;
use crate::proxy::forward;
use crate::proxy::http::Bad;
use crate::proxy::http::chunked::{Decoder, write_chunk};
use crate::proxy::http::framing::Framing;
use crate::proxy::http::headers::{self, Fields};

/// A chunked body and what follows it.
///
/// # Panics
/// When an invariant is broken.
pub fn chunked(bytes: &[u8]) {
    let whole = decoded(bytes, &[]);
    let every: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(decoded(bytes, &every), whole, "dripping in");
    for cut in 0..bytes.len().min(EVERY_CUT) {
        assert_eq!(decoded(bytes, &[cut]), whole, "cut at {cut}");
    }
    as_request(bytes, &whole);
    let Ok(Some(body)) = whole else { return };
    assert!(body.used <= bytes.len() && body.data.len() < body.used);
    assert_eq!(decoded(&bytes[..body.used - 1], &[]), Ok(None), "it ends with its last byte");
    assert_second_reader_agrees(&bytes[..body.used], &body);

    let sent = written(&body);
    let again = decoded(&sent, &[]).expect("what we write is sound").expect("and whole");
    assert_eq!((&again.data, again.used), (&body.data, sent.len()));
    let (came, went) = (pairs(&body.trailers), pairs(&again.trailers));
    assert!(went.iter().all(|t| came.contains(t)), "a trailer out of nothing");
    assert_eq!(written(&again), sent, "stable");
}

/// A body that has come to its end.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    data: Vec<u8>,
    /// As they came: lines with their CRLF.
    trailers: Vec<u8>,
    used: usize,
}

/// Names and values of field lines.
fn pairs(lines: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = Vec::new();
    headers::parse(lines, 0, lines.len(), &mut list).expect("the decoder has checked them");
    Fields::new(lines, &list).iter().map(|(_, name, value)| (name.into(), value.into())).collect()
}

/// What comes of `bytes` when they are read in pieces that end at `cuts`; `None` when there must be more.
fn decoded(bytes: &[u8], cuts: &[usize]) -> Result<Option<Decoded>, Bad> {
    let mut decoder = Decoder::default();
    let (mut data, mut used) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        while used < end && !decoder.is_done() {
            let part = &bytes[used..end];
            let piece = decoder.next(part)?;
            assert!(piece.used > 0 && piece.used <= part.len() && piece.data.end <= piece.used, "{piece:?}");
            data.extend_from_slice(&part[piece.data]);
            used += piece.used;
        }
    }
    if !decoder.is_done() {
        return Ok(None);
    }
    let mut list = Vec::new();
    let trailers = decoder.trailers(&mut list).bytes.to_vec();
    Ok(Some(Decoded { data, trailers, used }))
}

/// In one chunk, with those trailers that may follow it.
fn written(body: &Decoded) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    write_chunk(&mut out, &body.data);
    headers::parse(&body.trailers, 0, body.trailers.len(), &mut list).expect("the decoder has checked them");
    forward::trailers(&mut out, Fields::new(&body.trailers, &list));
    out
}

/// On its way to an endpoint: the same data, no extensions, no trailers, however it is cut.
fn as_request(bytes: &[u8], whole: &Result<Option<Decoded>, Bad>) {
    for cut in [0, bytes.len() / 2, bytes.len() / 3] {
        let mut intake = Intake::new(Framing::Chunked);
        let mut out = Vec::new();
        let first = intake.take(&bytes[..cut], &mut out);
        let result = first.and_then(|used| match intake.is_done() {
            true => Ok(used),
            false => intake.take(&bytes[used..], &mut out).map(|more| used + more),
        });
        match (result, whole) {
            (Ok(used), Ok(Some(body))) => {
                let sent = decoded(&out, &[]).expect("what we write is sound").expect("and whole");
                assert_eq!((used, &sent.data, sent.trailers.len()), (body.used, &body.data, 0));
                assert_eq!(sent.used, out.len());
            }
            (Ok(used), Ok(None)) => assert!(used == bytes.len() && decoded(&out, &[]) == Ok(None)),
            (Err(bad), whole) => assert_eq!(whole.as_ref(), Err(&bad)),
            (Ok(_), Err(bad)) => panic!("a request with it would go on: {bad:?}"),
        }
    }
}

fn assert_second_reader_agrees(bytes: &[u8], ours: &Decoded) {
    let (mut rest, mut data) = (bytes, Vec::new());
    loop {
        let Ok(httparse::Status::Complete((used, size))) = httparse::parse_chunk_size(rest) else {
            panic!("only we can read this size line");
        };
        rest = &rest[used..];
        if size == 0 {
            break;
        }
        let (chunk, more) = rest.split_at(usize::try_from(size).expect("we have it in memory"));
        data.extend_from_slice(chunk);
        rest = more.strip_prefix(b"\r\n").expect("data ends with CRLF");
    }
    assert_eq!(data, ours.data);
    let mut room = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(httparse::Status::Complete((used, trailers))) = httparse::parse_headers(rest, &mut room) else {
        panic!("only we can read these trailers");
    };
    assert_eq!(used, rest.len());
    let trailers: Vec<_> = trailers.iter().map(|h| (h.name.as_bytes().to_vec(), h.value.to_vec())).collect();
    assert_eq!(trailers, pairs(&ours.trailers));
}
