//! Known files: what a source file held when it was last read, so that one that nobody has touched since is not read again.
//!
//! As for git's index, a file is untouched while its device, inode, size and both its times are the same, of which no program
//! can set the time of change. A file that was touched shortly before it was read is not remembered: a second change in the
//! same tick of a file system's clock would leave no trace. What does leave none is a clock that is set back, and a program
//! that keeps a file mapped and writes to it without an end; who has such a thing among the sources has `--no-cache`.
//!
//! **Invariant**: the index is a comfort. One that is gone, damaged or of another version makes a deploy slower and nothing
//! else, and one that cannot be written is no error.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Entry, Source, What};
use crate::disk;

/// In the project's `.tako`.
const FILE: &str = "known-files";
const HEAD: &[u8] = b"tako known files 1";
/// As many files as a source may have, with paths of the usual length. A larger index is not read.
const MAX_INDEX: u64 = 128 << 20;
/// The coarsest clock of a file system that is in use has ticks of two seconds (FAT).
const RECENT: Duration = Duration::from_secs(2);

/// Changes with every change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What was remembered.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<PathBuf, (Stamp, String)>);

/// What can be remembered of the entries of a source, in their order: the stamps of files that had not just been touched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stamps {
    stamps: Vec<Option<Stamp>>,
    /// It is what is remembered already.
    is_known: bool,
}

impl Stamp {
    pub fn of(file: &Metadata) -> Stamp {
        Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether it was old when it was `read`.
    fn was_settled(&self, read: SystemTime) -> bool {
        let Ok(read) = read.duration_since(UNIX_EPOCH) else { return false };
        let limit = read.saturating_sub(RECENT);
        let is_before = |(seconds, _): (i64, i64)| u64::try_from(seconds).is_ok_and(|s| s < limit.as_secs());
        is_before(self.modified) && is_before(self.changed)
    }
}

impl Stamps {
    /// Whether `file` is entry `n`, and nobody has touched it since it was read.
    pub fn is_untouched(&self, n: usize, file: &Metadata) -> bool {
        self.stamps.get(n).is_some_and(|stamp| *stamp == Some(Stamp::of(file)))
    }
}

impl Known {
    /// What is remembered of the project in `dir`.
    pub fn of(dir: &Path) -> Known {
        let index = disk::read_if_there(&dir.join(".tako").join(FILE), MAX_INDEX);
        index.ok().flatten().and_then(|index| Known::parse(&index)).unwrap_or_default()
    }

    /// Stamp and SHA-256 of the file at `path` when it was read.
    pub fn get(&self, path: &Path) -> Option<&(Stamp, String)> {
        self.0.get(path)
    }

    /// Of `entries`, which were looked at from the moment `read` on.
    pub fn stamps(&self, entries: &[Entry], stamps: Vec<Option<Stamp>>, read: SystemTime) -> Stamps {
        let stamps: Vec<_> = stamps.into_iter().map(|stamp| stamp.filter(|s| s.was_settled(read))).collect();
        let count = stamps.iter().flatten().count();
        let is_there = |(entry, stamp): (&Entry, &Option<Stamp>)| {
            stamp.is_none_or(|stamp| self.0.get(&entry.path).is_some_and(|(known, _)| *known == stamp))
        };
        let is_known = count == self.0.len() && entries.iter().zip(&stamps).all(is_there);
        Stamps { stamps, is_known }
    }

    fn parse(index: &[u8]) -> Option<Known> {
        let mut records = index.split(|b| *b == 0);
        if records.next() != Some(HEAD) || records.next_back() != Some(b"") {
            return None;
        }
        records.map(parse_record).collect::<Option<_>>().map(Known)
    }
}

/// Remembers the files of `source`, the project in `dir`.
pub(crate) fn remember(dir: &Path, source: &Source) {
    if source.stamps.is_known {
        return;
    }
    let mut index = HEAD.to_vec();
    index.push(0);
    for (Entry { path, what }, stamp) in source.entries.iter().zip(&source.stamps.stamps) {
        let (What::File { contents, .. }, Some(stamp)) = (what, stamp) else { continue };
        let Stamp { device, inode, size, modified, changed } = stamp;
        let ((m, mn), (c, cn)) = (modified, changed);
        // Writing to memory does not fail.
        let _ = write!(index, "{} {device} {inode} {size} {m} {mn} {c} {cn} ", contents.sha256);
        index.extend_from_slice(path.as_os_str().as_bytes());
        index.push(0);
    }
    // The next deploy reads what this one could not remember.
    let _ = disk::replace(&dir.join(".tako").join(FILE), &index, 0o644);
}

/// Forgets them: something was not what it was remembered to be.
pub(crate) fn forget(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(".tako").join(FILE));
}

fn parse_record(record: &[u8]) -> Option<(PathBuf, (Stamp, String))> {
    let mut fields = record.splitn(9, |b| *b == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let sha256 = text().filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))?.to_string();
    let [device, inode, size] = [text()?, text()?, text()?].map(|n| n.parse().ok());
    let [m, mn, c, cn] = [text()?, text()?, text()?, text()?].map(|n| n.parse().ok());
    let stamp = Stamp { device: device?, inode: inode?, size: size?, modified: (m?, mn?), changed: (c?, cn?) };
    let path = std::ffi::OsStr::from_bytes(fields.next().filter(|path| !path.is_empty())?);
    Some((path.into(), (stamp, sha256)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

    use super::super::collect;
    use super::*;
    use crate::archive::pack::{Expected, Found};
    use crate::cli::git::tests::{git, write};

    const FORGED: &str = "f00000000000000000000000000000000000000000000000000000000000000f";

    /// As [`remember`], much later.
    fn remember_later(dir: &Path) {
        fs::create_dir_all(dir.join(".tako")).unwrap();
        let mut source = collect(dir).unwrap();
        let stamp = |entry: &Entry| fs::metadata(dir.join(&entry.path)).ok().map(|file| Stamp::of(&file));
        source.stamps = Stamps { stamps: source.entries.iter().map(stamp).collect(), is_known: false };
        remember(dir, &source);
    }

    /// Makes the index say of every file that it holds something else.
    fn forge(dir: &Path) {
        let index = dir.join(".tako").join(FILE);
        let records = fs::read(&index).unwrap();
        let mut forged = HEAD.to_vec();
        for record in records.strip_prefix(HEAD).unwrap().split(|b| *b == 0).skip(1) {
            forged.push(0);
            forged.extend(record.get(64..).into_iter().flat_map(|rest| [FORGED.as_bytes(), rest].concat()));
        }
        fs::write(index, forged).unwrap();
    }

    fn hashes(dir: &Path) -> Vec<String> {
        let entries = collect(dir).unwrap().entries.into_iter();
        entries
            .filter_map(|e| if let What::File { contents, .. } = e.what { Some(contents.sha256) } else { None })
            .collect()
    }

    fn odd_project() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"a"[..], b"b c", b"d\ne", b"f\xff"] {
            let path = dir.path().join("src").join(std::ffi::OsString::from_vec(name.to_vec()));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink("a", dir.path().join("src/link")).unwrap();
        dir
    }

    #[test]
    fn what_was_touched_since_it_was_read_is_told_by_its_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.js");
        write(&file, "1");
        let now = || fs::metadata(&file).unwrap();
        let mut source = collect(dir.path()).unwrap();
        let sha256 = match &source.entries[0].what {
            What::File { contents, .. } => contents.sha256.clone(),
            What::Link { .. } => panic!("it is a file"),
        };
        let expects = |source: &Source| match source.expects(Path::new("a.js"), Found::File(&now())) {
            Expected::Found => "this".to_string(),
            Expected::Content(sha256) => sha256.to_string(),
            Expected::Other => "something else".to_string(),
        };
        assert_eq!(expects(&source), sha256, "it had just been written when it was read");
        source.stamps = Stamps { stamps: vec![Some(Stamp::of(&now()))], is_known: false };
        assert_eq!(expects(&source), "this");
        let before = now();
        // A file system may give two changes that follow each other at once the same time.
        while (before.ctime(), before.ctime_nsec()) == (now().ctime(), now().ctime_nsec()) {
            write(&file, "2");
            fs::File::options().append(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
        }
        assert_eq!(expects(&source), sha256);
        write(&file, "22");
        assert_eq!(expects(&source), "something else");
        assert!(matches!(source.expects(Path::new("b.js"), Found::Folder), Expected::Other));
    }

    #[test]
    fn what_was_not_touched_is_not_read_and_what_was_is() {
        let dir = odd_project();
        let dir = dir.path();
        let read = hashes(dir);
        remember_later(dir);
        assert_eq!(hashes(dir), read);
        forge(dir);
        assert_eq!(hashes(dir), [FORGED; 4], "they are known");

        let file = dir.join("src/a");
        let before = fs::metadata(&file).unwrap();
        // Same length and the time of modification put back: the time of change tells, once the clock has gone on.
        while Stamp::of(&fs::metadata(&file).unwrap()).changed == Stamp::of(&before).changed {
            fs::write(&file, "z").unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
        }
        assert_eq!(hashes(dir)[1..], [FORGED; 3]);
        assert_ne!(hashes(dir)[0], read[0]);
        // A file that took another's place, one that is gone, a new one.
        fs::rename(dir.join("src/b c"), dir.join("src/x")).unwrap();
        fs::copy(dir.join("src/x"), dir.join("src/b c")).unwrap();
        fs::remove_file(dir.join("src/d\ne")).unwrap();
        let now = hashes(dir);
        assert_eq!((now.len(), &now[1], &now[3]), (4, &read[1], &read[1]));
        forget(dir);
        assert!(!hashes(dir).iter().any(|hash| hash == FORGED));
    }

    #[test]
    fn an_index_that_is_not_one_is_none() {
        let dir = odd_project();
        let dir = dir.path();
        let read = hashes(dir);
        remember_later(dir);
        let index = dir.join(".tako").join(FILE);
        let whole = fs::read(&index).unwrap();
        assert_eq!(Known::parse(&whole).unwrap().0.len(), 4);
        for cut in 0..whole.len() {
            let known = Known::parse(&whole[..cut]).map_or(0, |known| known.0.len());
            // Cut between two records it is a shorter one.
            assert!(known == 0 || whole[cut - 1] == 0, "{cut}");
            fs::write(&index, &whole[..cut]).unwrap();
        }
        for (from, to) in [("files 1", "files 2"), (" ", "  "), (&read[0], "xyz")] {
            let other = String::from_utf8_lossy(&whole).replacen(from, to, 3);
            assert!(Known::parse(other.as_bytes()).is_none(), "{from}");
            fs::write(&index, other).unwrap();
            assert_eq!(hashes(dir), read);
        }
    }

    #[test]
    fn a_file_that_was_just_touched_is_not_remembered() {
        let dir = odd_project();
        let source = collect(dir.path()).unwrap();
        assert!(source.stamps.stamps.iter().all(Option::is_none), "they were written this moment");
        let stamps = |at: SystemTime, known: &Known| {
            let now = source.entries.iter().map(|e| fs::symlink_metadata(source.root.join(&e.path)).unwrap());
            known.stamps(&source.entries, now.map(|file| file.is_file().then(|| Stamp::of(&file))).collect(), at)
        };
        let later = SystemTime::now() + 2 * RECENT;
        assert_eq!(stamps(later, &Known::default()).stamps.iter().flatten().count(), 4);
        assert_eq!(stamps(UNIX_EPOCH, &Known::default()).stamps.iter().flatten().count(), 0);
        remember_later(dir.path());
        assert!(stamps(later, &Known::of(dir.path())).is_known, "nothing new is to be written");
        assert!(!stamps(later, &Known::default()).is_known);
    }

    #[test]
    fn the_app_of_a_repository_has_an_index_of_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        git(&root, &["init", "--quiet"]);
        write(&root.join("lib/index.js"), "lib");
        write(&root.join("apps/web/index.js"), "web");
        let app = root.join("apps/web");
        fs::create_dir_all(app.join(".tako")).unwrap();
        let mut source = collect(&app).unwrap();
        let stamps = source.entries.iter().map(|e| Some(Stamp::of(&fs::metadata(root.join(&e.path)).unwrap())));
        source.stamps = Stamps { stamps: stamps.collect(), is_known: false };
        remember(&app, &source);
        forge(&app);
        assert_eq!(hashes(&app), [FORGED; 2]);
    }
}
