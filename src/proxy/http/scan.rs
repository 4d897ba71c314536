//! Looking for the few bytes that end something, in lines that are mostly short: eight at a time, without a call.
//!
//! A search routine made for long texts costs more to enter than these lines are long.

use super::{CLASS, VALUE};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Where the first LF is.
pub(in crate::proxy) fn find_lf(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        let found = zeros(word ^ (ONES * b'\n' as u64));
        if found != 0 {
            return Some(at + first(found));
        }
        at += 8;
    }
    bytes[at..].iter().position(|b| *b == b'\n').map(|i| at + i)
}

/// How many bytes from the first on may stand in a field value (RFC 9110 §5.5).
pub(in crate::proxy) fn value_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        // Below space, or DEL. A flag above the lowest one may be a borrow's; the lowest is exact.
        let control = (word.wrapping_sub(ONES * 0x20) & !word & HIGH) | zeros(word ^ (ONES * 0x7f));
        if control != 0 {
            at += first(control);
            if bytes[at] != b'\t' {
                return at;
            }
            at += 1;
        } else {
            at += 8;
        }
    }
    let rest = bytes[at..].iter().position(|b| CLASS[usize::from(*b)] & VALUE == 0);
    rest.map_or(bytes.len(), |i| at + i)
}

/// How many bytes from the first on are of `class`.
pub(in crate::proxy) fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|b| CLASS[usize::from(*b)] & class == 0).unwrap_or(bytes.len())
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*eight))
}

/// A flag in each byte that is zero; above the lowest one there may be false ones.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// The place of the lowest flag.
fn first(flags: u64) -> usize {
    (flags.trailing_zeros() / 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http::TCHAR;

    proptest::proptest! {
        #[test]
        fn finds_what_a_plain_loop_finds(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let slow = |stop: &dyn Fn(u8) -> bool| bytes.iter().position(|b| stop(*b));
            proptest::prop_assert_eq!(find_lf(&bytes), slow(&|b| b == b'\n'));
            let value = |b: u8| b == b'\t' || (b >= 0x20 && b != 0x7f);
            proptest::prop_assert_eq!(value_run(&bytes), slow(&|b| !value(b)).unwrap_or(bytes.len()));
            let token = |b: u8| super::super::is_tchar(b);
            proptest::prop_assert_eq!(run(&bytes, TCHAR), slow(&|b| !token(b)).unwrap_or(bytes.len()));
        }

        /// Mostly text, so that the stop is late and the words before it are whole.
        #[test]
        fn finds_a_late_stop(text in "[ -~\\t]{0,40}", stop in proptest::num::u8::ANY, tail in "[ -~]{0,12}") {
            let mut bytes = text.clone().into_bytes();
            bytes.push(stop);
            bytes.extend(tail.bytes());
            let expected = if CLASS[usize::from(stop)] & VALUE == 0 { text.len() } else { bytes.len() };
            proptest::prop_assert_eq!(value_run(&bytes), expected);
        }
    }
}
