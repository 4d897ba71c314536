//! Conditional: whether a request's conditions hold for a file (RFC 9110 §13), in the order of §13.2.2. Pure.

use std::time::{Duration, UNIX_EPOCH};

use crate::proxy::http::headers::{Fields, Name, trim};

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators<'a> {
    /// The entity tag without `W/`, in its quotes.
    pub tag: &'a [u8],
    /// The tag is `W/`: the file may change again before the clock shows it (RFC 9110 §8.8.1). So may its date be
    /// (§8.8.2.2).
    pub weak: bool,
    /// Seconds since 1970; `None` when no date is told.
    pub modified: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// 304
    NotModified,
    /// 412
    Failed,
}

/// The conditions but If-Range, for a GET or HEAD of a file that is there.
pub(super) fn judge(fields: Fields<'_>, file: Validators<'_>) -> Verdict {
    if !has_any(fields) {
        return Verdict::Send;
    }
    let is_there = |name| values(fields, name).next().is_some();
    // RFC 9110 §13.1.1: strong comparison. §13.1.4: the date is for those without tags.
    if is_there(b"if-match") {
        if !any_tag(values(fields, b"if-match"), |tag, weak| !weak && !file.weak && tag == file.tag) {
            return Verdict::Failed;
        }
    } else if let (Some(since), Some(modified)) = (date(fields, b"if-unmodified-since"), file.modified)
        && modified > since
    {
        return Verdict::Failed;
    }
    // RFC 9110 §13.1.2: weak comparison. §13.1.3: the date is not looked at beside it.
    if is_there(b"if-none-match") {
        if any_tag(values(fields, b"if-none-match"), |tag, _| tag == file.tag) {
            return Verdict::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(fields, b"if-modified-since"), file.modified)
        && modified <= since
    {
        return Verdict::NotModified;
    }
    Verdict::Send
}

/// The range that is asked for, if it is one to be looked at: If-Range holds or is not there (RFC 9110 §13.1.5).
pub(super) fn range<'a>(fields: Fields<'a>, file: Validators<'_>) -> Option<&'a [u8]> {
    let range = only(values(fields, b"range"))?;
    let mut conditions = values(fields, b"if-range");
    let (condition, another) = (conditions.next(), conditions.next());
    let holds = match condition {
        None => true,
        Some(_) if another.is_some() || file.weak => false,
        Some(tag @ [b'"', ..]) => tag == file.tag,
        Some(value) => parse_date(value).is_some_and(|at| file.modified == Some(at)),
    };
    holds.then_some(range)
}

/// Whether a further look is worth it: most requests have no condition.
fn has_any(fields: Fields<'_>) -> bool {
    let begins = |name: &[u8]| name.len() > 3 && name[..3].eq_ignore_ascii_case(b"if-");
    fields.iter().any(|(id, name, _)| id == Name::Other && begins(name))
}

/// The values of all fields with this name, which is none of those that a proxy knows.
pub(super) fn values<'a>(fields: Fields<'a>, name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |(_, n, _)| n.eq_ignore_ascii_case(name)).map(|(.., value)| value)
}

fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let value = values.next();
    if values.next().is_some() { None } else { value }
}

/// Seconds since 1970. What is no date, or there twice, is ignored (RFC 9110 §13.1.3).
fn date(fields: Fields<'_>, name: &'static [u8]) -> Option<u64> {
    parse_date(only(values(fields, name))?)
}

fn parse_date(value: &[u8]) -> Option<u64> {
    let at = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    at.duration_since(UNIX_EPOCH).ok().as_ref().map(Duration::as_secs)
}

/// Whether `*` or one of the tags in the lists is `wanted`, which is told the tag and whether it is weak. The rest of
/// a list after something that is no tag is not looked at.
fn any_tag<'a>(values: impl Iterator<Item = &'a [u8]>, wanted: impl Fn(&[u8], bool) -> bool) -> bool {
    for value in values {
        if value == b"*" {
            return true;
        }
        let mut rest = value;
        while let Some((tag, weak, tail)) = next_tag(rest) {
            if wanted(tag, weak) {
                return true;
            }
            rest = tail;
        }
    }
    false
}

/// `[W/]"…"`, and what follows (RFC 9110 §8.8.3). A comma may be part of a tag.
fn next_tag(mut list: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    while let [b',' | b' ' | b'\t', rest @ ..] = list {
        list = rest;
    }
    let (weak, quoted) = match list.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, list),
    };
    let inner = quoted.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', inner)?;
    if inner[..end].iter().any(|b| *b < 0x21 || *b == 0x7f) {
        return None;
    }
    let (tag, tail) = quoted.split_at(end + 2);
    matches!(trim(tail).first(), None | Some(b',')).then_some((tag, weak, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http::head::Request;

    const AT: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const STRONG: Validators<'_> = Validators { tag: b"\"a\"", weak: false, modified: Some(AT) };
    const WEAK: Validators<'_> = Validators { weak: true, ..STRONG };

    fn with<T>(lines: &str, see: impl FnOnce(Fields<'_>) -> T) -> T {
        let head = format!("GET / HTTP/1.1\nHost: a\n{lines}\n\n").replace("\n\n\n", "\n\n").replace('\n', "\r\n");
        let mut list = Vec::new();
        see(Request::parse(head.as_bytes(), &mut list).unwrap().fields)
    }

    fn check(lines: &str, file: Validators<'_>, expected: Verdict) {
        assert_eq!(with(lines, |fields| judge(fields, file)), expected, "{lines}");
    }

    #[test]
    fn rfc9110_13_1_2_if_none_match_compares_weakly_through_lists() {
        use Verdict::*;
        check("", STRONG, Send);
        check("If-None-Match: \"a\"", STRONG, NotModified);
        check("if-none-match: W/\"a\"", STRONG, NotModified);
        check("If-None-Match: \"a\"", WEAK, NotModified);
        check("If-None-Match: W/\"a\"", WEAK, NotModified);
        check("If-None-Match: *", STRONG, NotModified);
        check("If-None-Match: \"x\", W/\"y\" ,\"a\"", STRONG, NotModified);
        check("If-None-Match: \"x\"\nIf-None-Match: \"a\"", STRONG, NotModified);
        check("If-None-Match: ,, \"a\"", STRONG, NotModified);
        check("If-None-Match: \"x\"", STRONG, Send);
        check("If-None-Match: \"A\"", STRONG, Send);
        check("If-None-Match: \"x,\"a\"", STRONG, Send);
        check("If-None-Match: \",\\\", \"a\"", STRONG, NotModified);
    }

    #[test]
    fn rfc9110_8_8_3_what_is_no_entity_tag_matches_nothing() {
        for tag in ["a", "w/\"a\"", "\"a", "a\"", "W/a", "\"a\"x", "'a'", "\"a b\"", "\"x\" \"a\"", ""] {
            check(&format!("If-None-Match: {tag}"), STRONG, Verdict::Send);
            check(&format!("If-Match: {tag}"), STRONG, Verdict::Failed);
        }
    }

    #[test]
    fn rfc9110_13_1_3_if_modified_since_is_second_to_if_none_match() {
        use Verdict::*;
        check(&format!("If-Modified-Since: {SAME}"), STRONG, NotModified);
        check(&format!("If-Modified-Since: {AFTER}"), STRONG, NotModified);
        check(&format!("If-Modified-Since: {BEFORE}"), STRONG, Send);
        check(&format!("If-Modified-Since: {SAME}"), WEAK, NotModified);
        check("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", STRONG, NotModified);
        check("If-Modified-Since: Sun Nov  6 08:49:37 1994", STRONG, NotModified);
        check(&format!("If-None-Match: \"x\"\nIf-Modified-Since: {AFTER}"), STRONG, Send);
        check("If-Modified-Since: yesterday", STRONG, Send);
        check(&format!("If-Modified-Since: {AFTER}\nIf-Modified-Since: {AFTER}"), STRONG, Send);
        check(&format!("If-Modified-Since: {AFTER}"), Validators { modified: None, ..STRONG }, Send);
    }

    #[test]
    fn rfc9110_13_1_1_if_match_compares_strongly() {
        use Verdict::*;
        check("If-Match: \"a\"", STRONG, Send);
        check("If-Match: *", WEAK, Send);
        check("If-Match: \"x\", \"a\"", STRONG, Send);
        check("If-Match: W/\"a\"", STRONG, Failed);
        check("If-Match: \"a\"", WEAK, Failed);
        check("If-Match: \"x\"", STRONG, Failed);
    }

    #[test]
    fn rfc9110_13_1_4_if_unmodified_since_is_second_to_if_match() {
        use Verdict::*;
        check(&format!("If-Unmodified-Since: {SAME}"), STRONG, Send);
        check(&format!("If-Unmodified-Since: {BEFORE}"), STRONG, Failed);
        check(&format!("If-Match: \"a\"\nIf-Unmodified-Since: {BEFORE}"), STRONG, Send);
        check("If-Unmodified-Since: never", STRONG, Send);
        check(&format!("If-Unmodified-Since: {BEFORE}"), Validators { modified: None, ..STRONG }, Send);
    }

    #[test]
    fn rfc9110_13_2_2_the_order_of_conditions() {
        use Verdict::*;
        check("If-None-Match: \"a\"\nIf-Match: \"x\"", STRONG, Failed);
        check("If-None-Match: \"a\"\nIf-Match: \"a\"", STRONG, NotModified);
        check(&format!("If-None-Match: \"a\"\nIf-Unmodified-Since: {BEFORE}"), STRONG, Failed);
    }

    #[test]
    fn rfc9110_13_1_5_if_range_wants_a_strong_match() {
        let check = |condition: &str, file, expected: bool| {
            let found = with(&format!("Range: bytes=0-1\n{condition}"), |f| range(f, file).is_some());
            assert_eq!(found, expected, "{condition} {file:?}");
        };
        check("", STRONG, true);
        check("", WEAK, true);
        check("If-Range: \"a\"", STRONG, true);
        check("If-Range: \"a\"", WEAK, false);
        check("If-Range: W/\"a\"", STRONG, false);
        check("If-Range: \"x\"", STRONG, false);
        check("If-Range: \"x\", \"a\"", STRONG, false);
        check(&format!("If-Range: {SAME}"), STRONG, true);
        check(&format!("If-Range: {SAME}"), WEAK, false);
        check(&format!("If-Range: {AFTER}"), STRONG, false);
        check(&format!("If-Range: {BEFORE}"), STRONG, false);
        check("If-Range: x", STRONG, false);
        check("If-Range: \"a\"\nIf-Range: \"a\"", STRONG, false);
        check("Range: bytes=5-6", STRONG, false);
    }

    proptest::proptest! {
        #[test]
        fn lists_of_tags_are_read_whole(tags in proptest::collection::vec("[!#-~]{0,5}", 0..5), at in 0usize..5) {
            let list = tags.iter().map(|t| format!("W/\"{t}\"")).collect::<Vec<_>>().join(", ");
            let wanted = tags.get(at).map_or("\" \"".into(), |t| format!("\"{t}\""));
            let found = any_tag([list.as_bytes()].into_iter(), |tag, weak| weak && tag == wanted.as_bytes());
            proptest::prop_assert_eq!(found, at < tags.len());
        }

        #[test]
        fn any_list_is_read_without_harm(list in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            any_tag([&list[..]].into_iter(), |_, _| false);
        }
    }
}
