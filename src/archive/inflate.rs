//! Inflate: what was packed by others, as their programs come: `.tar.gz` and one file out of a `.zip`.
//!
//! The decoder is `miniz_oxide`; this is the reading around it. A server may have neither `gzip` nor `unzip`, and a
//! pipe through a program would be one more thing that can hang.
//!
//! **Invariant**: no name in an archive becomes a path here, and memory is bounded whatever the bytes say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use crate::error::{Context, Error, Kind, Result};

/// A comment may follow the end record, which is 22 bytes (APPNOTE.TXT 4.3.16).
const MAX_TAIL: u64 = 22 + 65_535;
/// A program comes in an archive of a handful of files; a directory of this size has thousands.
const MAX_DIRECTORY: u64 = 1 << 20;
/// Longest file name, comment or extra field of a gzip head; the format has no limit of its own.
const MAX_FIELD: u64 = 64 << 10;

/// The raw deflate stream (RFC 1951) in `from`, inflated.
pub(crate) struct Inflate<R> {
    from: R,
    state: Box<InflateState>,
    ended: bool,
}

impl<R: BufRead> Inflate<R> {
    pub fn new(from: R) -> Self {
        Inflate { from, state: InflateState::new_boxed(DataFormat::Raw), ended: false }
    }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !to.is_empty() {
            let step = inflate(&mut self.state, self.from.fill_buf()?, to, MZFlush::None);
            self.from.consume(step.bytes_consumed);
            match step.status {
                Ok(MZStatus::StreamEnd) => self.ended = true,
                // Nothing came in and nothing went out: there is no more.
                Ok(_) | Err(MZError::Buf) if step.bytes_consumed == 0 && step.bytes_written == 0 => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early"));
                }
                Ok(_) | Err(MZError::Buf) => {}
                Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not deflated data")),
            }
            if step.bytes_written > 0 {
                return Ok(step.bytes_written);
            }
        }
        Ok(0)
    }
}

/// What a gzip file (RFC 1952) holds. Its checksum is not looked at: who reads it has verified the whole file.
pub(crate) fn gunzip<R: BufRead>(mut from: R) -> Result<Inflate<R>> {
    const HCRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let mut head = [0; 10];
    from.read_exact(&mut head).map_err(damaged)?;
    if head[..3] != [0x1f, 0x8b, 8] {
        return Err(refused("it is not a gzip file"));
    }
    let flags = head[3];
    if flags & EXTRA != 0 {
        let mut len = [0; 2];
        from.read_exact(&mut len).map_err(damaged)?;
        skip(&mut from, u16::from_le_bytes(len).into())?;
    }
    for field in [NAME, COMMENT] {
        if flags & field != 0 && !(&mut from).take(MAX_FIELD).skip_until(0).is_ok_and(|n| n > 0) {
            return Err(refused("its gzip head is damaged"));
        }
    }
    if flags & HCRC != 0 {
        skip(&mut from, 2)?;
    }
    Ok(Inflate::new(from))
}

/// The file called `name` in the zip archive `file`, and how long it is.
///
/// # Errors
/// NotFound when there is none; Refused when the archive is damaged or of a kind that we do not read.
pub(crate) fn unzip(file: &File, name: &str) -> Result<(impl Read, u64)> {
    let entry = find(file, name)?;
    let mut at = file;
    at.seek(SeekFrom::Start(entry.at)).context(|| "read the archive".into())?;
    let mut head = [0; 30];
    at.read_exact(&mut head).map_err(damaged)?;
    if head[..4] != *b"PK\x03\x04" {
        return Err(refused("its directory does not lead to a file"));
    }
    // The local head repeats the name, and has an extra field of its own.
    at.seek_relative(i64::from(u16_at(&head, 26)) + i64::from(u16_at(&head, 28))).map_err(damaged)?;
    let stored = BufReader::new(at.take(entry.packed));
    let content: Box<dyn Read> = match entry.method {
        0 => Box::new(stored),
        8 => Box::new(Inflate::new(stored)),
        other => return Err(refused(&format!("`{name}` is packed by method {other}, which we do not read"))),
    };
    Ok((content.take(entry.size), entry.size))
}

struct Entry {
    method: u16,
    packed: u64,
    size: u64,
    at: u64,
}

fn find(mut file: &File, name: &str) -> Result<Entry> {
    let len = file.seek(SeekFrom::End(0)).context(|| "read the archive".into())?;
    let tail = read_at(file, len.saturating_sub(MAX_TAIL), len.min(MAX_TAIL))?;
    let end = memchr::memmem::rfind(&tail, b"PK\x05\x06").filter(|at| tail.len() - at >= 22);
    let end = &tail[end.ok_or_else(|| refused("it is not a zip archive, or cut short"))?..];
    let (size, start) = (u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    if size > MAX_DIRECTORY || start.saturating_add(size) > len {
        return Err(refused("its directory is damaged, or of a form for larger archives"));
    }
    let directory = read_at(file, start, size)?;
    let mut rest = directory.as_slice();
    while rest.len() >= 46 && rest.starts_with(b"PK\x01\x02") {
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(rest, at)));
        let next = 46 + lengths.iter().sum::<usize>();
        if next > rest.len() {
            break;
        }
        if &rest[46..46 + lengths[0]] == name.as_bytes() {
            let [packed, size, at] = [20, 24, 42].map(|at| u64::from(u32_at(rest, at)));
            return Ok(Entry { method: u16_at(rest, 10), packed, size, at });
        }
        rest = &rest[next..];
    }
    Err(Error::new(Kind::NotFound, format!("there is no `{name}` in it")))
}

fn read_at(mut file: &File, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at)).context(|| "read the archive".into())?;
    file.take(len).read_to_end(&mut bytes).context(|| "read the archive".into())?;
    Ok(bytes)
}

fn skip(from: &mut impl Read, len: u64) -> Result<()> {
    match io::copy(&mut from.take(len), &mut io::sink()) {
        Ok(n) if n == len => Ok(()),
        _ => Err(refused("its gzip head is damaged")),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Refused, why)
}

fn damaged(e: io::Error) -> Error {
    refused("the archive is damaged").because(e)
}

#[cfg(test)]
#[path = "../../tests/it/published.rs"]
pub(crate) mod published;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::published::{gzip, zip};
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn text() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    #[test]
    fn reads_a_gzip_file_and_says_when_it_is_cut_short() {
        let (text, packed) = (text(), gzip(&text()));
        let mut read = Vec::new();
        gunzip(packed.as_slice()).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == text);
        for cut in [0, 5, 12, 40, packed.len() / 2, packed.len() - 9] {
            let whole = gunzip(&packed[..cut]).map_err(|e| e.to_string());
            let ended = whole.and_then(|mut g| g.read_to_end(&mut Vec::new()).map_err(|e| e.to_string()));
            assert!(ended.is_err(), "cut at {cut}");
        }
        assert_eq!(gunzip(&b"PK\x03\x04567890"[..]).err().unwrap().kind(), Kind::Refused);
    }

    #[test]
    fn reads_what_gzip_itself_wrote() {
        let Ok(packed) = std::process::Command::new("gzip").arg("-c").arg("/proc/self/exe").output() else { return };
        let mut read = Vec::new();
        gunzip(packed.stdout.as_slice()).unwrap().read_to_end(&mut read).unwrap();
        assert!(read.starts_with(b"\x7fELF"));
    }

    #[test]
    fn finds_one_file_in_a_zip_archive() {
        let text = text();
        let archive = file(&zip(&[("a/readme", b"hi", false), ("a/bun", &text, true)]));
        let read = |name: &str| {
            let (mut content, size) = unzip(&archive, name).unwrap();
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).unwrap();
            assert_eq!(size, bytes.len() as u64);
            bytes
        };
        assert_eq!(read("a/readme"), b"hi");
        assert!(read("a/bun") == text);
        assert_eq!(unzip(&archive, "bun").err().unwrap().kind(), Kind::NotFound);
    }

    #[test]
    fn whatever_the_bytes_are_it_ends_without_a_panic() {
        let good = zip(&[("bun", &text()[..5000], true)]);
        for cut in 0..good.len() {
            let archive = file(&good[..cut]);
            assert!(unzip(&archive, "bun").is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            if let Ok((mut content, _)) = unzip(&file(&bad), "bun") {
                let _ = content.read_to_end(&mut Vec::new());
            }
        }
    }
}
