//! Negotiate: which coding of a file a client gets (RFC 9110 §12.5.3). Pure.

use crate::proxy::http::headers::trim;

/// A content coding that files may be laid out in beforehand, as siblings with these endings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Br,
    Zstd,
    Gzip,
}

pub(super) const CODINGS: [Coding; 3] = [Coding::Br, Coding::Zstd, Coding::Gzip];

impl Coding {
    /// As in Content-Encoding.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Br => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    pub fn ending(self) -> &'static str {
        match self {
            Coding::Br => ".br",
            Coding::Zstd => ".zst",
            Coding::Gzip => ".gz",
        }
    }

    /// RFC 9110 §8.4.1.3: `x-gzip` is gzip.
    fn of(name: &[u8]) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { name };
        CODINGS.into_iter().find(|c| name.eq_ignore_ascii_case(c.name().as_bytes()))
    }
}

/// The coding with the highest weight, the smallest file among equals; `None` is the file as it is. `sizes` are those
/// of what there is, in the order of [`CODINGS`]; `values` those of the Accept-Encoding fields.
///
/// The file as it is goes out also when it was refused (`identity;q=0`): RFC 9110 §12.1 lets a server disregard that.
pub(super) fn choose<'a>(values: impl Iterator<Item = &'a [u8]>, sizes: [Option<u64>; 3]) -> Option<Coding> {
    let (mut weights, mut identity, mut any) = ([None; 3], None, None);
    for member in values.flat_map(|value| value.split(|b| *b == b',')) {
        let Some((name, weight)) = parse(trim(member)) else { continue };
        match Coding::of(name) {
            Some(coding) => weights[coding as usize] = Some(weight),
            None if name.eq_ignore_ascii_case(b"identity") => identity = Some(weight),
            None if name == b"*" => any = Some(weight),
            None => {}
        }
    }
    let there = CODINGS.into_iter().filter_map(|c| sizes[c as usize].map(|size| (c, size)));
    let wanted = there.filter_map(|(c, size)| Some((weights[c as usize].or(any)?, size, c)));
    let best = wanted.filter(|(weight, ..)| *weight > 0).min_by_key(|(weight, size, _)| (u16::MAX - weight, *size))?;
    (best.0 >= identity.unwrap_or(0)).then_some(best.2)
}

/// `coding [";" "q=" weight]`, the weight in thousandths (RFC 9110 §12.4.2).
fn parse(member: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = member.split(|b| *b == b';').map(trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    match (parts.next(), parts.next()) {
        (None, None) => Some((name, 1000)),
        (Some([b'q' | b'Q', b'=', weight @ ..]), None) => Some((name, thousandths(weight)?)),
        _ => None,
    }
}

fn thousandths(weight: &[u8]) -> Option<u16> {
    let (whole, digits) = match weight {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| digits.get(i).map_or(0, |d| u16::from(d - b'0'));
    let sum = u16::from(whole - b'0') * 1000 + digit(0) * 100 + digit(1) * 10 + digit(2);
    (sum <= 1000).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Option<u64>; 3] = [Some(10), Some(11), Some(12)];

    fn check(accept: &[&str], sizes: [Option<u64>; 3], expected: Option<Coding>) {
        assert_eq!(choose(accept.iter().map(|a| a.as_bytes()), sizes), expected, "{accept:?} {sizes:?}");
    }

    #[test]
    fn rfc9110_12_5_3_takes_the_highest_weight() {
        check(&["gzip, deflate, br, zstd"], ALL, Some(Coding::Br));
        check(&["gzip;q=1.0, br;q=0.9"], ALL, Some(Coding::Gzip));
        check(&["br;q=0.5", "zstd;q=0.501"], ALL, Some(Coding::Zstd));
        check(&["GZIP"], ALL, Some(Coding::Gzip));
        check(&["x-gzip"], ALL, Some(Coding::Gzip));
        check(&["gzip , br ; q=0.1"], ALL, Some(Coding::Gzip));
    }

    #[test]
    fn among_equals_the_smallest_file_wins() {
        check(&["gzip, br, zstd"], [Some(30), Some(20), Some(25)], Some(Coding::Zstd));
        check(&["gzip, br, zstd"], [Some(20), Some(20), Some(20)], Some(Coding::Br));
        check(&["gzip, br"], [None, Some(1), Some(25)], Some(Coding::Gzip));
    }

    #[test]
    fn rfc9110_12_5_3_a_weight_of_zero_forbids() {
        check(&["br;q=0, gzip"], ALL, Some(Coding::Gzip));
        check(&["br;q=0.000"], ALL, None);
        check(&["*;q=0"], ALL, None);
        check(&["*;q=0, gzip"], ALL, Some(Coding::Gzip));
    }

    #[test]
    fn rfc9110_12_5_3_a_star_is_every_other() {
        check(&["*"], ALL, Some(Coding::Br));
        check(&["br;q=0, *"], ALL, Some(Coding::Zstd));
        check(&["*;q=0.1, gzip;q=0.2"], ALL, Some(Coding::Gzip));
    }

    #[test]
    fn rfc9110_12_5_3_identity_without_a_wish_or_when_it_is_preferred() {
        check(&[], ALL, None);
        check(&[""], ALL, None);
        check(&["identity"], ALL, None);
        check(&["identity;q=1, gzip;q=0.5"], ALL, None);
        check(&["identity;q=0.5, gzip;q=0.5"], ALL, Some(Coding::Gzip));
        check(&["gzip"], [Some(1), None, None], None);
        check(&["identity;q=0, gzip"], [None; 3], None);
    }

    #[test]
    fn what_is_malformed_is_no_wish() {
        for accept in ["br;q=", "br;q=2", "br;q=1.001", "br;q=0.1234", "br;q=-1", "br;x=1", "br;q=1;q=0", ";q=1", "b r"]
        {
            check(&[accept], ALL, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn chooses_only_what_there_is(accept in "((br|gzip|zstd|\\*|identity|x)(;q=[01]\\.?[0-9]{0,4})?,? ?){0,6}", there: [bool; 3]) {
            let sizes = [there[0].then_some(1), there[1].then_some(1), there[2].then_some(1)];
            if let Some(coding) = choose([accept.as_bytes()].into_iter(), sizes) {
                proptest::prop_assert!(there[coding as usize]);
            }
        }
    }
}
