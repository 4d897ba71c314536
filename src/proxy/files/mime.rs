//! Mime: what kind of file a name says it is. Pure.

/// A media type, and whether a smaller coding of it is worth looking for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// The value of Content-Type.
    pub of: &'static str,
    /// Images, fonts and archives are compressed already.
    pub shrinks: bool,
}

/// Longest extension in the table.
const MAX_EXTENSION: usize = 11;

/// By extension, in any case. The unknown is bytes, which no browser runs.
pub(super) fn kind(extension: &[u8]) -> Kind {
    let mut lower = [0; MAX_EXTENSION];
    let Some(lower) = lower.get_mut(..extension.len()) else { return bytes("application/octet-stream") };
    lower.copy_from_slice(extension);
    lower.make_ascii_lowercase();
    match &*lower {
        b"html" | b"htm" => text("text/html; charset=utf-8"),
        b"css" => text("text/css; charset=utf-8"),
        b"js" | b"mjs" | b"cjs" => text("text/javascript; charset=utf-8"),
        b"txt" | b"text" | b"log" => text("text/plain; charset=utf-8"),
        b"md" => text("text/markdown; charset=utf-8"),
        b"csv" => text("text/csv; charset=utf-8"),
        b"vtt" => text("text/vtt; charset=utf-8"),
        b"ics" => text("text/calendar; charset=utf-8"),
        b"json" | b"map" => text("application/json"),
        b"jsonld" => text("application/ld+json"),
        b"geojson" => text("application/geo+json"),
        b"webmanifest" => text("application/manifest+json"),
        b"xml" | b"xsl" => text("application/xml"),
        b"atom" => text("application/atom+xml"),
        b"rss" => text("application/rss+xml"),
        b"xhtml" => text("application/xhtml+xml"),
        b"svg" => text("image/svg+xml"),
        b"wasm" => text("application/wasm"),
        b"ico" => text("image/x-icon"),
        b"bmp" => text("image/bmp"),
        b"ttf" => text("font/ttf"),
        b"otf" => text("font/otf"),
        b"eot" => text("application/vnd.ms-fontobject"),
        b"glb" => text("model/gltf-binary"),
        b"gltf" => text("model/gltf+json"),
        b"woff" => bytes("font/woff"),
        b"woff2" => bytes("font/woff2"),
        b"png" => bytes("image/png"),
        b"apng" => bytes("image/apng"),
        b"jpg" | b"jpeg" => bytes("image/jpeg"),
        b"gif" => bytes("image/gif"),
        b"webp" => bytes("image/webp"),
        b"avif" => bytes("image/avif"),
        b"jxl" => bytes("image/jxl"),
        b"tif" | b"tiff" => bytes("image/tiff"),
        b"mp3" => bytes("audio/mpeg"),
        b"m4a" => bytes("audio/mp4"),
        b"aac" => bytes("audio/aac"),
        b"oga" | b"ogg" | b"opus" => bytes("audio/ogg"),
        b"wav" => bytes("audio/wav"),
        b"flac" => bytes("audio/flac"),
        b"mp4" | b"m4v" => bytes("video/mp4"),
        b"webm" => bytes("video/webm"),
        b"ogv" => bytes("video/ogg"),
        b"mov" => bytes("video/quicktime"),
        b"ts" | b"m2ts" => bytes("video/mp2t"),
        b"m3u8" => text("application/vnd.apple.mpegurl"),
        b"mpd" => text("application/dash+xml"),
        b"pdf" => bytes("application/pdf"),
        b"zip" => bytes("application/zip"),
        b"gz" => bytes("application/gzip"),
        b"zst" => bytes("application/zstd"),
        b"7z" => bytes("application/x-7z-compressed"),
        b"tar" => bytes("application/x-tar"),
        b"epub" => bytes("application/epub+zip"),
        b"doc" => bytes("application/msword"),
        b"docx" => bytes("application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        b"xlsx" => bytes("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        b"pptx" => bytes("application/vnd.openxmlformats-officedocument.presentationml.presentation"),
        _ => bytes("application/octet-stream"),
    }
}

const fn text(of: &'static str) -> Kind {
    Kind { of, shrinks: true }
}

const fn bytes(of: &'static str) -> Kind {
    Kind { of, shrinks: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_the_web_is_made_of_and_calls_the_rest_bytes() {
        let check = |extension: &str, of: &str| assert_eq!(kind(extension.as_bytes()).of, of, "{extension}");
        check("css", "text/css; charset=utf-8");
        check("MJS", "text/javascript; charset=utf-8");
        check("json", "application/json");
        check("svg", "image/svg+xml");
        check("webmanifest", "application/manifest+json");
        check("woff2", "font/woff2");
        for unknown in ["", "exe", "php", "abcdefghijklmnop", "\u{e9}"] {
            check(unknown, "application/octet-stream");
        }
    }

    #[test]
    fn every_text_says_its_charset() {
        for extension in ["html", "css", "js", "txt", "md", "csv", "vtt", "ics"] {
            let kind = kind(extension.as_bytes());
            assert!(
                kind.of.starts_with("text/") && kind.of.ends_with("; charset=utf-8") && kind.shrinks,
                "{extension}"
            );
        }
    }
}
