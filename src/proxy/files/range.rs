//! Range: which bytes of a file are asked for (RFC 9110 §14). Pure.

use crate::proxy::http::headers::{starts_with_ignore_case, trim};

/// What of the file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// No range, several, or none that can be understood: those may be ignored (RFC 9110 §14.2).
    Whole,
    /// From the first to the last byte, both included.
    Part { first: u64, last: u64 },
    /// 416.
    Nothing,
}

/// `value` is that of the Range field, `size` that of the file.
pub(super) fn choose(value: &[u8], size: u64) -> Choice {
    if !starts_with_ignore_case(value, b"bytes=") {
        return Choice::Whole;
    }
    let mut specs = value[6..].split(|b| *b == b',').map(trim).filter(|spec| !spec.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else { return Choice::Whole };
    let Some(dash) = memchr::memchr(b'-', spec) else { return Choice::Whole };
    match (number(&spec[..dash]), number(&spec[dash + 1..])) {
        (Number::Is(first), Number::Is(last)) if first > last => Choice::Whole, // RFC 9110 §14.1.1: invalid
        (Number::Is(first), Number::Is(last)) => part(first, last, size),
        (Number::Is(first), Number::Absent) => part(first, u64::MAX, size),
        // RFC 9110 §14.1.2: the last bytes, or all if there are not so many.
        (Number::Absent, Number::Is(0)) => Choice::Nothing,
        (Number::Absent, Number::Is(_)) if size == 0 => Choice::Whole,
        (Number::Absent, Number::Is(suffix)) => Choice::Part { first: size.saturating_sub(suffix), last: size - 1 },
        (Number::Absent, Number::Absent) | (Number::Bad, _) | (_, Number::Bad) => Choice::Whole,
    }
}

fn part(first: u64, last: u64, size: u64) -> Choice {
    match size.checked_sub(1) {
        Some(end) if first <= end => Choice::Part { first, last: last.min(end) },
        _ => Choice::Nothing,
    }
}

#[derive(Clone, Copy)]
enum Number {
    Absent,
    Is(u64),
    Bad,
}

/// More than fits is as good as endless.
fn number(digits: &[u8]) -> Number {
    if digits.is_empty() {
        return Number::Absent;
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Number::Bad;
    }
    let add = |n: u64, d: &u8| n.saturating_mul(10).saturating_add(u64::from(d - b'0'));
    Number::Is(digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, size: u64, expected: Choice) {
        assert_eq!(choose(value.as_bytes(), size), expected, "{value} of {size}");
    }

    fn part(first: u64, last: u64) -> Choice {
        Choice::Part { first, last }
    }

    #[test]
    fn rfc9110_14_1_2_one_range_of_bytes() {
        check("bytes=0-499", 10_000, part(0, 499));
        check("bytes=500-999", 10_000, part(500, 999));
        check("bytes=-500", 10_000, part(9500, 9999));
        check("bytes=9500-", 10_000, part(9500, 9999));
        check("bytes=0-0", 10_000, part(0, 0));
        check("bytes=-1", 10_000, part(9999, 9999));
        check("bytes=0-", 1, part(0, 0));
        check("bytes=0-99999", 100, part(0, 99));
        check("bytes=-99999", 100, part(0, 99));
        check("BYTES= 0-1 ", 100, part(0, 1));
        check("bytes=0-1,", 100, part(0, 1));
        check("bytes=1-99999999999999999999999", 100, part(1, 99));
    }

    #[test]
    fn rfc9110_14_2_what_is_not_understood_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes=a-b",
            "bytes=0-1x",
            "bytes=1",
            "bytes=2-1",
            "bytes=--1",
            "bytes=0--1",
            "bytes=0 - 1",
            "items=0-1",
            "bytes 0-1",
            "bytes=+0-1",
            "bytes=0x1-2",
        ] {
            check(value, 100, Choice::Whole);
        }
    }

    #[test]
    fn rfc9110_14_2_several_ranges_are_answered_with_the_whole() {
        check("bytes=0-1,2-3", 100, Choice::Whole);
        check("bytes=0-1, -1", 100, Choice::Whole);
    }

    #[test]
    fn rfc9110_15_5_17_a_range_beyond_the_end_is_unsatisfiable() {
        check("bytes=100-", 100, Choice::Nothing);
        check("bytes=100-200", 100, Choice::Nothing);
        check("bytes=-0", 100, Choice::Nothing);
        check("bytes=0-", 0, Choice::Nothing);
        check("bytes=99999999999999999999999-", 100, Choice::Nothing);
        // Satisfiable by the letter, but Content-Range cannot say "no byte".
        check("bytes=-5", 0, Choice::Whole);
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_within_the_file(value in "bytes=[0-9]{0,21}-?[0-9]{0,21}(,[0-9]-)?", size in 0u64..2000) {
            if let Choice::Part { first, last } = choose(value.as_bytes(), size) {
                proptest::prop_assert!(first <= last && last < size);
            }
        }

        #[test]
        fn a_well_formed_range_is_what_slicing_says(first in 0u64..300, more in 0u64..300, size in 0u64..300) {
            let bytes: Vec<u64> = (0..size).collect();
            let end = (first + more + 1).min(size);
            let sliced = bytes.get(first as usize..end as usize).filter(|s| !s.is_empty());
            let expected = sliced.map_or(Choice::Nothing, |s| part(s[0], s[s.len() - 1]));
            proptest::prop_assert_eq!(choose(format!("bytes={first}-{}", first + more).as_bytes(), size), expected);
        }

        #[test]
        fn never_panics(value in proptest::collection::vec(proptest::num::u8::ANY, 0..40), size: u64) {
            choose(&value, size);
            choose(&[b"bytes=", &value[..]].concat(), size);
        }
    }
}
