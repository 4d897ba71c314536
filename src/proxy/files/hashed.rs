//! Hashed: whether a name carries a hash of the content, so that it never means anything else. Pure.
//!
//! It would rather miss one than see one that is not there: what is missed is asked for again and answered 304, what is
//! seen wrongly stays in browsers for a year. So words, dates and version numbers must not pass.

/// What bundlers write at the least.
const SHORTEST: usize = 8;

/// `file` is the last segment of a name.
pub(super) fn has_hash(file: &[u8]) -> bool {
    let Some(dot) = memchr::memchr(b'.', file) else { return false };
    let words = || file.split(|b| matches!(b, b'.' | b'-' | b'_'));
    // The last word is the extension.
    let count = words().count();
    if words().take(count - 1).any(is_hex) {
        return true;
    }
    // The other two alphabets look more like words, so there must be a name before, and the extension behind.
    let end = memchr::memrchr(b'.', file).unwrap_or(dot);
    let stem = &file[..end];
    let word = stem.rsplit(|b| matches!(b, b'.' | b'-' | b'_')).next().unwrap_or(stem);
    (word.len() < stem.len() && is_base32(word)) || ends_in_base64(stem)
}

/// webpack, Parcel, Next: hexadecimal, with both digits and letters, so neither a date nor a word such as `deadbeef`.
fn is_hex(word: &[u8]) -> bool {
    word.len() >= SHORTEST
        && word.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && word.iter().any(u8::is_ascii_digit)
        && word.iter().filter(|b| b.is_ascii_lowercase()).count() >= 2
}

/// esbuild: eight of A–Z and 2–7; a camera's `SCAN2345` has its digits at the end only.
fn is_base32(word: &[u8]) -> bool {
    word.len() == SHORTEST
        && word.iter().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
        && word.windows(2).any(|w| w[0].is_ascii_digit() && w[1].is_ascii_uppercase())
}

/// Rollup and Vite: `-` and eight of base64url right before the extension, with small and large letters and digits.
fn ends_in_base64(stem: &[u8]) -> bool {
    let Some((name, word)) = stem.len().checked_sub(SHORTEST).and_then(|at| stem.split_at_checked(at)) else {
        return false;
    };
    let has = |class: fn(&u8) -> bool| word.iter().any(class);
    matches!(name, [_, .., b'-' | b'.'])
        && word.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
        && word[1..].iter().any(u8::is_ascii_uppercase)
        // `UserDoc2`: a word with a number.
        && word[..SHORTEST - 1].iter().any(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_the_hashes_that_bundlers_write() {
        for name in [
            "main.3f2a1b9c.js",
            "main.3f2a1b9c.chunk.js.map",
            "0aa834ed78bf6d07-s.p.woff2",
            "5d5d9eef12345678.svg",
            "framework-aec844d2ccbe7592.js",
            "app-5UOXZ7VM.js",
            "index-B1kFz2Qa.js",
            "index-D_3x-Zq1.css",
            "vendor.aB3dE5fG.mjs",
        ] {
            assert!(has_hash(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn sees_none_in_words_dates_and_versions() {
        for name in [
            "app.css",
            "index.html",
            "photo-20240115.jpg",
            "IMG_20240115.JPG",
            "20240115-123456.pdf",
            "report-december.pdf",
            "jquery-3.7.1.min.js",
            "bootstrap.bundle.min.js",
            "deadbeef.js",
            "user-Settings.js",
            "user-UserDoc2.js",
            "release-version2.js",
            "SCAN2345.pdf",
            "scan-SCAN2345.pdf",
            "DSC-00012345.jpg",
            "apple-touch-icon-precomposed.png",
            "icon-1920x1080.png",
            "3f2a1b9c",
            "a.b",
            ".",
        ] {
            assert!(!has_hash(name.as_bytes()), "{name}");
        }
    }
}
