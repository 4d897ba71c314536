//! Requests: an app's access log, as `server::access` writes it, for those who read logs: the same wishes, the rotated files
//! too, and what comes.
//!
//! Who writes it says nothing of it here, so that one who follows looks at the file: nothing is held back, and at most what
//! came between two looks is late.
//!
//! **Invariant**: a line is told whole and once, also when the file is turned into an older one meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::entry::{self, Entry};
use super::history::History;
use super::logs::Source;
use super::reading::{Going, Kept};
use crate::proto::control::Stream;

/// How a line of it begins; the time is as long as in an entry.
const HEAD: &[u8] = b"{\"time\":\"";
/// A look takes a few microseconds, and nobody notices a quarter of a second.
const LOOK: Duration = Duration::from_millis(250);
/// Read at once; several times the longest line.
const CHUNK: usize = 64 << 10;

/// What is kept now, and right behind it what comes.
pub(super) fn kept(source: &Arc<Source>, follow: bool) -> Kept {
    let path = source.dir.join("access.log");
    let history = History::of(&path, source.sizes.files, parse);
    let live = follow.then(|| {
        let (file, at) = history.newest().map_or((None, 0), |(file, at)| (Some(file), at));
        Going::Asked(Tail { source: source.clone(), path, file, at })
    });
    Kept { history, live }
}

/// A line as an entry of no release and no instance: which one answered it does not say. One that failed by us or the app
/// counts as an error.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    const STATUS: &[u8] = b",\"status\":";
    let at_ms = entry::clock(line.strip_prefix(HEAD)?)?;
    // A quote within a text is escaped, so that this is nothing that a client sent.
    let status = memchr::memmem::find(line, STATUS).and_then(|at| line.get(at + STATUS.len()..at + STATUS.len() + 3));
    let failed = status.is_some_and(|status| (b"500"..=b"599").contains(&status.try_into().unwrap_or(b"000")));
    let stream = if failed { Stream::Err } else { Stream::Out };
    Some(Entry { at_ms, stream, instance: 0, release: b"", text: line })
}

/// The place up to which a growing file was told.
pub(super) struct Tail {
    source: Arc<Source>,
    path: PathBuf,
    file: Option<File>,
    at: u64,
}

impl Tail {
    /// Waits a moment and tells what came meanwhile; false when `each` wants no more.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn next(&mut self, mut each: impl FnMut(&Entry<'_>) -> bool) -> io::Result<bool> {
        thread::sleep(LOOK);
        loop {
            // Looked at before the file is read: what is turned away afterwards has been read to its end.
            let turned = self.is_turned()?;
            if !self.read(&mut each)? {
                return Ok(false);
            }
            if !turned {
                return Ok(true);
            }
            (self.file, self.at) = (Some(File::open(&self.path)?), 0);
        }
    }

    /// The app was deleted.
    pub fn is_closed(&self) -> bool {
        self.source.closed.load(Ordering::Relaxed)
    }

    /// Whether another file has taken the place of ours, or there is a first one.
    fn is_turned(&self) -> io::Result<bool> {
        let now = match std::fs::metadata(&self.path) {
            Ok(now) => now,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        match &self.file {
            None => Ok(true),
            Some(file) => file.metadata().map(|ours| (ours.dev(), ours.ino()) != (now.dev(), now.ino())),
        }
    }

    fn read(&mut self, each: &mut impl FnMut(&Entry<'_>) -> bool) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match file.read_at(&mut chunk, self.at) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let bytes = &chunk[..read];
            let whole = match memchr::memrchr(b'\n', bytes) {
                Some(at) => at + 1,
                // No line of ours is as long as this.
                None if read == CHUNK => read,
                // The rest of it is still to come.
                None => return Ok(true),
            };
            self.at += whole as u64;
            for line in bytes[..whole].split(|b| *b == b'\n') {
                if let Some(entry) = parse(line)
                    && !each(&entry)
                {
                    return Ok(false);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::server::rotating::{Rotating, Sizes};

    fn line(n: u32, status: u16) -> String {
        format!("{{\"time\":\"2026-11-22T07:33:59.{n:03}Z\",\"path\":\"/{n}\",\"status\":{status},\"end\":\"done\"}}\n")
    }

    #[test]
    fn a_line_is_an_entry_and_whatever_else_is_none() {
        let text = line(123, 502);
        let entry = parse(text.trim_end().as_bytes()).unwrap();
        assert_eq!((entry.at_ms % 1000, entry.stream, entry.text), (123, Stream::Err, text.trim_end().as_bytes()));
        let stream = |status| parse(line(1, status).as_bytes()).unwrap().stream;
        assert_eq!([200, 404, 499, 500, 599].map(stream).map(|s| s == Stream::Err), [false, false, false, true, true]);
        // What a client sent is escaped and no status.
        let odd = "{\"time\":\"2026-11-22T07:33:59.123Z\",\"path\":\"\\\",\\\"status\\\":500\",\"status\":200}";
        assert_eq!(parse(odd.as_bytes()).unwrap().stream, Stream::Out);
        for bad in ["", "{}", "{\"time\":\"now\"}", "2026-11-22T07:33:59.123Z out 1 v1 text"] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn who_follows_sees_every_line_once_while_the_files_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let source = Source::sized(dir.path().into(), Sizes { file: 1000, files: 50 });
        let Kept { live: Some(Going::Asked(mut tail)), .. } = kept(&source, true) else { panic!("it is followed") };
        let mut seen = Vec::new();
        let mut number = |entry: &Entry<'_>| {
            seen.push(entry.at_ms % 1000);
            true
        };
        assert!(tail.next(&mut number).unwrap());
        let mut file = Rotating::open(path.clone(), source.sizes).unwrap();
        for n in 0..3 {
            file.append(line(n, 200).as_bytes()).unwrap();
        }
        assert!(tail.next(&mut number).unwrap());
        // Half a line is told with its other half; then more than one file holds, but less than two.
        let (half, rest) = (line(3, 200), 4..14);
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .map(|mut f| io::Write::write_all(&mut f, &half.as_bytes()[..20]))
            .unwrap()
            .unwrap();
        assert!(tail.next(&mut number).unwrap());
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .map(|mut f| io::Write::write_all(&mut f, &half.as_bytes()[20..]))
            .unwrap()
            .unwrap();
        for n in rest {
            file.append(line(n, 200).as_bytes()).unwrap();
        }
        assert!(tail.next(&mut number).unwrap());
        assert_eq!(seen, (0..14).collect::<Vec<u64>>());
    }
}
