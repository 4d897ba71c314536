//! What the fuzzers have found interesting, met again on every day; and what chance makes of the words of HTTP.

use std::path::Path;

use proptest::prelude::*;
use proptest::string::bytes_regex;

use super::{exchange, parsers};

type Check = fn(&[u8]);

/// The targets in `fuzz/` by their names, which are those of their folders in `fuzz/corpus`.
const TARGETS: [(&str, Check); 5] = [
    ("request_head", parsers::request_head),
    ("response_head", parsers::response_head),
    ("chunked", parsers::chunked),
    ("exchange", exchange::play),
    ("unpack", crate::archive::lab::unpack_mended),
];

#[test]
fn what_the_fuzzers_found_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for folder in std::fs::read_dir(&corpus).unwrap() {
        let name = folder.unwrap().file_name();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "nobody reads the corpus of {name:?}");
    }
    for (target, check) in TARGETS {
        let mut files = 0;
        for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let result = std::panic::catch_unwind(|| check(&bytes));
            assert!(result.is_ok(), "{target} fails on {}", path.display());
            files += 1;
        }
        assert!(files > 20, "{target} has {files} files only: has its corpus been lost?");
    }
}

/// Short enough that the lab cuts them at every byte.
#[test]
fn whole_messages_hold_at_every_cut() {
    let lines = |message: &str| message.replace('\n', "\r\n").into_bytes();
    for request in [
        "GET /a?b HTTP/1.1\nHost: a.b:1\nX: \t y z \nConnection: close, te\n\nGET",
        "\n\nPOST http://a.b HTTP/1.0\nContent-Length: 5\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\n\nhello",
        "GET / HTTP/1.1\nHost: a.b\nConnection: keep-alive, Upgrade, X-Own\nUpgrade: websocket\nX-Own: 1\n\n",
        "PUT / HTTP/1.1\nHost: a.b\nTransfer-Encoding: chunked\nTE: trailers\nContent_Length: 1\n\n0\n\n",
    ] {
        parsers::request_head(&lines(request));
    }
    for response in [
        "HTTP/1.1 200 OK\nContent-Length: 5\nSet-Cookie: a\nSet-Cookie: b\nConnection: X\nX: 1\n\nhello",
        "HTTP/1.0 404 Not Found\nKeep-Alive: x\n\n",
        "HTTP/1.1 304 NM\nTransfer-Encoding: chunked\nContent-Length: 3\nDate: x\n\n",
        "HTTP/1.1 101 S\nUpgrade: websocket\nConnection: Upgrade\n\nraw",
    ] {
        parsers::response_head(&lines(response));
    }
    for body in [
        "4\nWiki\n6;a=b; c=\"d;\\\"\";e\npedia \nE\nin \n\nchunks.\n000\nA: b\nC:d\nContent-Length: 1\n\nNEXT",
        "0;x\n\n0\n\n",
        "1\na\n0\nbad trailer\n\n",
    ] {
        parsers::chunked(&lines(body));
    }
}

const FIELDS: &str = "((Host|Content-Length|Transfer-Encoding|Connection|Upgrade|TE|Trailer|Expect|Date|Keep-Alive|\
    X-Forwarded-(For|Proto|Host|Port|x)|X-Real-IP|X-Request-Id|Forwarded|Proxy(-Connection)?|Content_Length|[!-~]{1,4}):\
    [ \t]?(chunked|a\\.b|5|0|close|keep-alive|upgrade|websocket|trailers|100-continue|Host|[ -~]{0,8}|[\t \\x80-\\xff]{0,4})\
    ( ?, ?(close|x|te|gzip))?\r\n){0,6}";

proptest! {
    #[test]
    fn requests_hold(bytes in bytes_regex(&format!(
        "(?s-u)(\r\n){{0,2}}(GET|HEAD|POST|OPTIONS|[A-Z]{{1,3}}) (/[!-~]{{0,8}}|\\*|https?://a\\.b(:80)?[!-~]{{0,6}}) \
         HTTP/1\\.[0-2]\r\nHost: a\\.b(:80)?\r\n{FIELDS}\r\n.{{0,4}}"
    )).unwrap()) {
        parsers::request_head(&bytes);
    }

    #[test]
    fn responses_hold(bytes in bytes_regex(&format!(
        "(?s-u)HTTP/1\\.[0-2] (200|[1-5]0[0-4])( [\t -~\\x80-\\xff]{{0,6}})?\r\n{FIELDS}\r\n.{{0,4}}"
    )).unwrap()) {
        parsers::response_head(&bytes);
    }

    #[test]
    fn chunks_hold(bytes in bytes_regex(
        "(?s-u)((1(;[a-c=\" ]{0,4})?\r\n.\r\n)|(0{0,2}3\r\n...\r\n)){0,4}0\r\n([A-Za-z_-]{1,8}:[ -~]{0,6}\r\n){0,3}\r\n.{0,3}"
    ).unwrap()) {
        parsers::chunked(&bytes);
    }

    /// No word of HTTP at all.
    #[test]
    fn noise_holds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parsers::request_head(&bytes);
        parsers::response_head(&bytes);
        parsers::chunked(&bytes);
    }
}
