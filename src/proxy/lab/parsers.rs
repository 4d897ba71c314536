//! Parsers: what reads foreign bytes, with all that must hold of it whatever they are. For fuzzers and tests.
//!
//! Each function here takes what a peer might send, and panics where an invariant of `http` or `forward` is broken:
//! - the verdict does not depend on how the bytes are cut into reads;
//! - what we accept a second, laxer reader (`httparse`) accepts too, and finds the same parts in it;
//! - what we write of it is read as the same message by ourselves, frames it the same, and is written again the same;
//! - nothing is passed on that ends here.

mod request;
mod response;
mod chunks;

pub use chunks::chunked;
pub use request::request_head;
pub use response::response_head;

use std::ops::Range;

use crate::proxy::http::Bad;
use crate::proxy::http::head::Scanner;
use crate::proxy::http::headers::{self, Fields, Name};

/// Up to this length each cut in two is tried; the time for it grows with the square.
const EVERY_CUT: usize = 192;
/// More than any head of ours may have.
const MAX_FIELDS: usize = 256;

type Verdict = Result<Option<Range<usize>>, Bad>;

/// Where the head lies in `bytes`, which is the same for every way to cut them.
fn find(bytes: &[u8], scan: fn(&mut Scanner, &[u8]) -> Verdict, max: usize) -> Option<Range<usize>> {
    let fed = |from: usize, step: usize| {
        let mut scanner = Scanner::default();
        let mut ends = (from..bytes.len()).step_by(step).chain([bytes.len()]);
        ends.find_map(|end| scan(&mut scanner, &bytes[..end]).transpose()).transpose()
    };
    let whole = fed(bytes.len(), 1);
    assert_eq!(fed(0, 1), whole, "dripping in");
    for cut in 0..bytes.len().min(EVERY_CUT) {
        assert_eq!(fed(cut, usize::MAX), whole, "cut at {cut}");
    }
    let found = whole.ok().flatten()?;
    assert!(found.len() <= max && bytes[..found.start].chunks(2).all(|line| line == b"\r\n"));
    let end = memchr::memmem::find(&bytes[found.clone()], b"\r\n\r\n");
    assert_eq!(end, Some(found.len() - 4), "a head ends with the first empty line");
    Some(found)
}

/// The end-to-end fields, which go on as they are and in this order: name and value.
fn end_to_end<'a>(fields: Fields<'a>) -> Vec<(&'a [u8], &'a [u8])> {
    let ours = |id| !matches!(id, Name::Other | Name::Accept | Name::ContentType);
    let listed = |name| headers::names(fields, name);
    fields
        .iter()
        .filter(|(id, name, _)| !ours(*id) && !listed(name) && !Name::is_lookalike(name))
        .map(|(_, name, value)| (name, value))
        .collect()
}

fn values<'a>(fields: Fields<'a>, id: Name) -> Vec<&'a [u8]> {
    fields.all(id).collect()
}

/// None of these is in a head that we wrote.
fn assert_absent(fields: Fields<'_>, ids: &[Name]) {
    for (id, name, _) in fields.iter() {
        // `X-Forwarded-a_b` is a claim like any other under that prefix, and not the twin of one that we make.
        let twin = id == Name::Other && Name::is_lookalike(name);
        assert!(!ids.contains(&id) && !twin, "{} was passed on", String::from_utf8_lossy(name));
    }
}

/// The second reader knows 1.0 and 1.1 only; `at` is where the minor version stands.
fn with_known_version(head: &[u8], at: usize) -> Vec<u8> {
    let mut head = head.to_vec();
    if head[at] > b'1' {
        head[at] = b'1';
    }
    head
}

fn assert_same_fields(ours: Fields<'_>, theirs: &[httparse::Header<'_>]) {
    let ours: Vec<_> = ours.iter().map(|(_, name, value)| (name, value)).collect();
    let theirs: Vec<_> = theirs.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
    assert_eq!(ours, theirs);
}
