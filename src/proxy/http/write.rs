//! Writing the pieces of a head, without the formatting machinery: a head is written for every request.

use std::io::Write;
use std::net::IpAddr;

/// `name` is written with its colon and space, as in `b"Host: "`.
pub(in crate::proxy) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A field whose value is a number.
pub(in crate::proxy) fn number_field(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    number(out, value);
    out.extend_from_slice(b"\r\n");
}

/// In decimal.
pub(in crate::proxy) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20]; // those of u64::MAX
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// As in `X-Forwarded-For`: IPv6 without brackets.
pub(in crate::proxy) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            number(out, u64::from(a));
            for part in [b, c, d] {
                out.push(b'.');
                number(out, u64::from(part));
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}"); // writing to memory does not fail
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_as_the_standard_library_does() {
        for value in [0, 7, 10, 4095, u64::MAX] {
            assert_eq!(written(|out| number(out, value)), value.to_string());
        }
        for text in ["0.0.0.0", "10.1.255.20", "::1", "2001:db8::7"] {
            assert_eq!(written(|out| address(out, text.parse().unwrap())), text);
        }
    }
}
