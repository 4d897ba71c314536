//! Log lines as they lie on disk, and the last of them read back.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::logs::{Entry, FILES, Source};
use crate::proto::control::{LogLine, Stream};

/// A tail reads this much of the files at most; more is for other tools.
pub(super) const MAX_TAIL: usize = 4 << 20;

/// Adds the line `time stream instance release text`.
pub(super) fn print(to: &mut Vec<u8>, entry: &Entry) {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(entry.at_ms).unwrap_or(0)).unwrap_or_default();
    let (stream, instance, release) = (stream_word(entry.stream), entry.instance, &entry.release);
    // A vector takes everything.
    let _ = writeln!(to, "{at:.3} {stream} {instance} {release} {}", entry.text);
}

/// The last lines, oldest first, across the files.
pub(super) fn tail(source: &Source, lines: u32) -> Vec<LogLine> {
    let mut found: VecDeque<LogLine> = VecDeque::new();
    let mut left = MAX_TAIL;
    for n in 0..FILES {
        let wanted = (lines as usize).saturating_sub(found.len());
        if wanted == 0 || left == 0 {
            break;
        }
        let Ok(bytes) = read_end(&source.path(n), left, wanted) else { break };
        left -= bytes.len();
        let newest_first = bytes.rsplit(|b| *b == b'\n').filter(|l| !l.is_empty()).take(wanted);
        newest_first.filter_map(parse).for_each(|line| found.push_front(line));
    }
    found.into()
}

/// The end of a file: `wanted` lines of it, and not many more, or `limit` bytes.
fn read_end(path: &Path, limit: usize, wanted: usize) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = (64 << 10).min(limit);
    loop {
        let from = size.saturating_sub(length as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&mut file).take(length as u64).read_to_end(&mut bytes)?;
        let lines = memchr::memchr_iter(b'\n', &bytes).count();
        if from == 0 || lines > wanted || length == limit {
            if from > 0 {
                // The first line is probably not whole.
                let cut = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |at| at + 1);
                bytes.drain(..cut);
            }
            return Ok(bytes);
        }
        length = (length * 4).min(limit);
    }
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(5, ' ');
    let at: jiff::Timestamp = words.next()?.parse().ok()?;
    let stream = match words.next()? {
        "out" => Stream::Out,
        "err" => Stream::Err,
        _ => return None,
    };
    let instance = words.next()?.parse().ok()?;
    let release = words.next()?.into();
    let text = words.next()?.into();
    Some(LogLine { at_ms: at.as_millisecond().try_into().unwrap_or(0), release, instance, stream, text })
}

fn stream_word(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "out",
        Stream::Err => "err",
    }
}
