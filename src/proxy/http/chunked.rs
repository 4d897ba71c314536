//! The chunked coding (RFC 9112 §7.1), both ways.
//!
//! The decoder sees each byte once and keeps only what it needs: the size so far, how many bytes of extensions came,
//! and the trailers. Extensions are checked and forgotten (§7.1.1); trailers are the caller's to filter.

use super::framing::Piece;
use super::headers::{self, Field, Fields};
use super::{Bad, MAX_TRAILER_FIELDS, MAX_TRAILERS, TCHAR, all, bad};

/// 16 digits are more than 2^63 already; leading zeros count.
const MAX_SIZE_DIGITS: u8 = 16;
/// Extensions of one chunk. Nobody uses them; attackers hide bytes in them.
const MAX_EXTENSION: usize = 256;
/// Extensions of one message: a body of one-byte chunks must not cost a multiple of its size.
const MAX_EXTENSIONS: usize = 8 << 10;

#[derive(Debug, Default)]
pub(in crate::proxy) struct Decoder {
    state: State,
    extensions: usize,
    /// The line being read: an extension or a trailer.
    line: Vec<u8>,
    /// Complete trailer lines with their CRLF.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
    Done,
}

impl Default for State {
    fn default() -> Self {
        State::Size { size: 0, digits: 0 }
    }
}

impl Decoder {
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes framing and at most one run of data off `input`.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Bad> {
        let mut used = 0;
        while used < input.len() {
            if let State::Data { left } = self.state {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - used);
                let left = left - n as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                return Ok(Piece { used: used + n, data: used..used + n });
            }
            if self.state == State::Done {
                break;
            }
            self.state = self.step(input[used])?;
            used += 1;
        }
        Ok(Piece { used, data: used..used })
    }

    fn step(&mut self, b: u8) -> Result<State, Bad> {
        match self.state {
            State::Size { size, digits } => match (b, digits) {
                (b'\r', 1..) => Ok(State::SizeLf { size }),
                (b';', 1..) => {
                    self.line.clear();
                    Ok(State::Extension { size })
                }
                (_, ..MAX_SIZE_DIGITS) if b.is_ascii_hexdigit() => {
                    let digit = char::from(b).to_digit(16).map_or(0, u64::from);
                    if size >= 1 << 59 {
                        return bad(400, "chunk too large");
                    }
                    Ok(State::Size { size: size << 4 | digit, digits: digits + 1 })
                }
                _ => bad(400, "bad chunk size"),
            },
            State::Extension { size } => {
                if b == b'\r' {
                    return if is_extension(&self.line) {
                        self.line = Vec::new();
                        Ok(State::SizeLf { size })
                    } else {
                        bad(400, "bad chunk extension")
                    };
                }
                self.extensions += 1;
                if self.line.len() == MAX_EXTENSION
                    || self.extensions > MAX_EXTENSIONS
                    || (b < 0x20 && b != b'\t')
                    || b == 0x7f
                {
                    return bad(400, "bad chunk extension");
                }
                self.line.push(b);
                Ok(self.state)
            }
            State::SizeLf { size } => match (b, size) {
                (b'\n', 0) => Ok(State::Trailer),
                (b'\n', left) => Ok(State::Data { left }),
                _ => bad(400, "bare CR in a chunk"),
            },
            State::DataCr if b == b'\r' => Ok(State::DataLf),
            State::DataLf if b == b'\n' => Ok(State::default()),
            State::DataCr | State::DataLf => bad(400, "chunk data without CRLF"),
            State::Trailer => match b {
                b'\r' => Ok(State::TrailerLf),
                b'\n' => bad(400, "bare LF in the trailers"),
                _ if self.trailers.len() + self.line.len() >= MAX_TRAILERS => bad(431, "trailers too large"),
                _ => {
                    self.line.push(b);
                    Ok(State::Trailer)
                }
            },
            State::TrailerLf if b != b'\n' => bad(400, "bare CR in the trailers"),
            State::TrailerLf if self.line.is_empty() => {
                self.check_trailers()?;
                Ok(State::Done)
            }
            State::TrailerLf => {
                self.trailers.append(&mut self.line);
                self.trailers.extend_from_slice(b"\r\n");
                Ok(State::Trailer)
            }
            State::Data { .. } | State::Done => Ok(self.state),
        }
    }

    fn check_trailers(&self) -> Result<(), Bad> {
        let mut list = Vec::new();
        headers::parse(&self.trailers, 0, self.trailers.len(), &mut list)?;
        if list.len() > MAX_TRAILER_FIELDS {
            return bad(431, "too many trailers");
        }
        Ok(())
    }

    /// The trailers, once done. `list` is room for the fields.
    pub fn trailers<'a>(&'a self, list: &'a mut Vec<Field>) -> Fields<'a> {
        list.clear();
        // They were checked when the body ended; a refusal here cannot be, and would mean no trailers.
        if self.state != State::Done || headers::parse(&self.trailers, 0, self.trailers.len(), list).is_err() {
            list.clear();
        }
        Fields::new(&self.trailers, list)
    }
}

/// `name [ "=" ( token / quoted-string ) ]`, more of them after `;`, with optional whitespace around (RFC 9112 §7.1.1).
fn is_extension(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        let name = rest.iter().position(|b| matches!(b, b';' | b'=')).unwrap_or(rest.len());
        if !all(headers::trim(&rest[..name]), TCHAR) {
            return false;
        }
        rest = &rest[name..];
        if let [b'=', value @ ..] = rest {
            let value = headers::trim(value);
            let end = match value {
                [b'"', quoted @ ..] => match closing_quote(quoted) {
                    Some(i) => i + 2,
                    None => return false,
                },
                _ => match value.iter().position(|b| *b == b';').unwrap_or(value.len()) {
                    end if all(headers::trim(&value[..end]), TCHAR) => end,
                    _ => return false,
                },
            };
            rest = headers::trim(&value[end..]);
        }
        match rest {
            [] => return true,
            [b';', more @ ..] => rest = more,
            _ => return false,
        }
    }
}

fn closing_quote(quoted: &[u8]) -> Option<usize> {
    let mut escaped = false;
    quoted.iter().position(|b| match (escaped, b) {
        (true, _) => {
            escaped = false;
            false
        }
        (false, b'\\') => {
            escaped = true;
            false
        }
        (false, b) => *b == b'"',
    })
}

/// Appends `data` as one chunk.
pub(in crate::proxy) fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if data.is_empty() {
        return; // an empty chunk would end the body
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    out.extend((0..digits).rev().map(|i| DIGITS[data.len() >> (4 * i) & 15]));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body, trailers and how much was used, fed in pieces that end at `cuts`.
    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>, usize), u16> {
        let mut decoder = Decoder::default();
        let (mut body, mut total) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([input.len()]) {
            let mut part = &input[total.min(end)..end];
            loop {
                let piece = decoder.next(part).map_err(|b| b.status)?;
                body.extend_from_slice(&part[piece.data]);
                part = &part[piece.used..];
                total += piece.used;
                if piece.used == 0 {
                    break;
                }
            }
        }
        if !decoder.is_done() {
            return Err(0);
        }
        Ok((body, decoder.trailers.clone(), total))
    }

    const GOOD: &[u8] =
        b"4\r\nWiki\r\n6;a=b; c=\"d;\\\"\";e\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n000\r\nA: b\r\nC:d\r\n\r\nNEXT";

    #[test]
    fn rfc9112_7_1_decodes_alike_at_every_split() {
        let expected = (b"Wikipedia in \r\n\r\nchunks.".to_vec(), b"A: b\r\nC:d\r\n".to_vec(), GOOD.len() - 4);
        assert_eq!(decode(GOOD, &[]).unwrap(), expected);
        for cut in 0..GOOD.len() {
            assert_eq!(decode(GOOD, &[cut]).unwrap(), expected, "{cut}");
        }
        let every: Vec<usize> = (0..GOOD.len()).collect();
        assert_eq!(decode(GOOD, &every).unwrap(), expected);
    }

    #[test]
    fn rfc9112_7_1_refuses_bad_sizes_and_line_ends() {
        for bad in [
            "\r\n",
            "g\r\n",
            " 1\r\n",
            "1 \r\n",
            "+1\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1_0\r\n",
            "1\n",
            "1\rx",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rx",
            "00000000000000001\r\n",
            "ffffffffffffffff\r\n",
            "8000000000000000\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "0\n\n",
        ] {
            assert_eq!(decode(bad.as_bytes(), &[]), Err(400), "{bad:?}");
        }
        assert_eq!(decode(b"1\r\na\r\n0\r\n", &[]), Err(0), "not done without the last line");
    }

    #[test]
    fn rfc9112_7_1_1_extensions_are_checked_and_bounded() {
        for good in ["1;a", "1;a=b", "1; a = b ;c", "1;a=\"x y\""] {
            assert!(decode(format!("{good}\r\na\r\n0\r\n\r\n").as_bytes(), &[]).is_ok(), "{good}");
        }
        for bad in ["1;", "1;;a", "1;=b", "1;a=", "1;a b", "1;a=\"x", "1;a=\"x\"y", "1;a\0", "1;a\nb"] {
            assert_eq!(decode(format!("{bad}\r\na\r\n0\r\n\r\n").as_bytes(), &[]), Err(400), "{bad:?}");
        }
        assert_eq!(decode(format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(257)).as_bytes(), &[]), Err(400));
        let many = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(50) + "0\r\n\r\n";
        assert_eq!(decode(many.as_bytes(), &[]), Err(400));
    }

    #[test]
    fn rfc9112_7_1_2_trailers_are_fields_and_bounded() {
        for bad in ["no colon", ": x", "a b: c", "a: b\0", " a: b"] {
            assert_eq!(decode(format!("0\r\n{bad}\r\n\r\n").as_bytes(), &[]), Err(400), "{bad:?}");
        }
        let large = format!("0\r\nA: {}\r\n\r\n", "x".repeat(9000));
        assert_eq!(decode(large.as_bytes(), &[]), Err(431));
        let endless = "0\r\n".to_owned() + &"A: b\r\n".repeat(5000);
        assert_eq!(decode(endless.as_bytes(), &[]), Err(431));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again_however_it_is_cut(
            parts in proptest::collection::vec(proptest::collection::vec(0u8.., 0..300), 0..6),
            mut cuts in proptest::collection::vec(0usize..2000, 0..8),
        ) {
            let mut wire = Vec::new();
            parts.iter().for_each(|p| write_chunk(&mut wire, p));
            wire.extend_from_slice(b"0\r\n\r\n");
            cuts.retain(|c| *c < wire.len());
            cuts.sort_unstable();
            let (body, _, used) = decode(&wire, &cuts).unwrap();
            proptest::prop_assert_eq!(body, parts.concat());
            proptest::prop_assert_eq!(used, wire.len());
        }

        #[test]
        fn noise_gives_the_same_verdict_however_it_is_cut(wire in "[0-3a;=\r\nx]{0,40}", cut in 0usize..40) {
            let wire = wire.as_bytes();
            proptest::prop_assert_eq!(decode(wire, &[]), decode(wire, &[cut.min(wire.len())]));
        }
    }
}
