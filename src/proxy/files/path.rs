//! Path: from the path of a request to the name of a file below a root. Pure.
//!
//! It reads strictly: escapes are decoded once and must be whole; what another reader could take for something else
//! (dot segments, empty segments, backslashes, encoded slashes, controls) names no file, and the app may see to it.
//! `decide` has made sure by then that every reading of the path leads to the same app.
//!
//! **Invariant**: a name has only plain segments: it neither climbs nor starts at the root, and names nothing hidden.

/// A longer path names no file that a build made.
pub(super) const MAX_NAME: usize = 1024;
/// As the kernel has it (NAME_MAX).
const MAX_SEGMENT: usize = 255;
/// The one hidden folder that the web agreed on (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Whether the last segment of the path has an extension, which is what makes it worth looking for a file.
pub(in crate::proxy) fn has_extension(path: &[u8]) -> bool {
    extension(path).is_some_and(|e| !e.is_empty())
}

/// What follows the last dot of the last segment, unless the dot is its first byte.
pub(super) fn extension(path: &[u8]) -> Option<&[u8]> {
    let last = &path[memchr::memrchr(b'/', path).map_or(0, |i| i + 1)..];
    match memchr::memrchr(b'.', last) {
        Some(dot) if dot > 0 => Some(&last[dot + 1..]),
        _ => None,
    }
}

/// The name of the file that `path` asks for, relative to a root. `room` is where it is decoded if need be.
pub(super) fn name<'a>(path: &'a [u8], room: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let raw = path.strip_prefix(b"/")?;
    if raw.len() > 3 * MAX_NAME {
        return None;
    }
    let name = if memchr::memchr(b'%', raw).is_some() { decode(raw, room)? } else { raw };
    is_safe(name).then_some(name)
}

/// RFC 3986 §2.1. An encoded slash is no separator, so a name with one cannot be a file's.
fn decode<'a>(raw: &[u8], room: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    room.clear();
    let mut rest = raw;
    while let Some((b, tail)) = rest.split_first() {
        if *b != b'%' {
            room.push(*b);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        let hex = |b: u8| char::from(b).to_digit(16);
        let byte = (hex(*high)? << 4 | hex(*low)?) as u8;
        if byte == b'/' {
            return None;
        }
        room.push(byte);
        rest = tail;
    }
    Some(room)
}

fn is_safe(name: &[u8]) -> bool {
    let controlled = |b: &u8| *b < 0x20 || *b == 0x7f || *b == b'\\';
    if name.is_empty() || name.len() > MAX_NAME || name.iter().any(controlled) {
        return false;
    }
    let mut segments = name.split(|b| *b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_folder = segments.peek().is_some();
        let hidden = segment.first() == Some(&b'.') && !(is_folder && segment == WELL_KNOWN);
        if segment.is_empty() || segment.len() > MAX_SEGMENT || hidden {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> Option<String> {
        let mut room = Vec::new();
        name(path.as_bytes(), &mut room).map(|n| String::from_utf8_lossy(n).into_owned())
    }

    #[test]
    fn names_plain_files() {
        let check = |path: &str, expected: &str| assert_eq!(named(path).as_deref(), Some(expected), "{path}");
        check("/a.css", "a.css");
        check("/a/b-c_d/e.min.js", "a/b-c_d/e.min.js");
        check("/a%20b%25.css", "a b%.css");
        check("/%C3%A9t%c3%a9.png", "été.png");
        check("/.well-known/security.txt", ".well-known/security.txt");
        check("/a;b=c.css", "a;b=c.css");
        check("/a..b.css", "a..b.css");
    }

    #[test]
    fn names_nothing_that_could_be_read_in_two_ways_or_is_hidden() {
        for path in [
            "",
            "/",
            "a.css",
            "//a.css",
            "/a//b.css",
            "/a/",
            "/./a.css",
            "/../a.css",
            "/a/../b.css",
            "/a/..",
            "/%2e%2e/a",
            "/%2e/a.css",
            "/a%2fb.css",
            "/a%2Fb.css",
            "/a\\b.css",
            "/a%5cb.css",
            "/a%00.css",
            "/a%0a.css",
            "/a%7f.css",
            "/a%",
            "/a%2",
            "/a%zz.css",
            "/a%+2.css",
            "/.env",
            "/.git/config.txt",
            "/a/.htaccess",
            "/%2egit/x.y",
            "/.well-known",
            "/.well-known/.x.y",
            "/.well-knownx/a.b",
            "/..a.css",
        ] {
            assert_eq!(named(path), None, "{path}");
        }
        assert_eq!(named(&format!("/{}.css", "a".repeat(252))), None);
        assert!(named(&format!("/{}.css", "a".repeat(251))).is_some());
        assert_eq!(named(&format!("/{}x.css", "a/".repeat(MAX_NAME / 2))), None);
    }

    #[test]
    fn an_extension_is_what_follows_a_dot_in_the_last_segment() {
        for with in ["/a.b", "/a/b.css", "/.a.b", "/a..b"] {
            assert!(has_extension(with.as_bytes()), "{with}");
        }
        for without in ["/", "/a", "/a.b/c", "/.env", "/a.", "/a/..", "/a/.", "/a.b/"] {
            assert!(!has_extension(without.as_bytes()), "{without}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_name_has_only_plain_segments(path in "/(%2[eEfF]|%5[cC]|%00|%2|\\.|/|\\\\|a|é|%c3|\\.well-known){0,12}") {
            let mut room = Vec::new();
            if let Some(name) = name(path.as_bytes(), &mut room) {
                for (i, segment) in name.split(|b| *b == b'/').enumerate() {
                    proptest::prop_assert!(!segment.is_empty(), "{} {}", path, i);
                    proptest::prop_assert!(segment[0] != b'.' || segment == WELL_KNOWN);
                    proptest::prop_assert!(!segment.contains(&b'\\') && !segment.contains(&0));
                }
            }
        }
    }
}
