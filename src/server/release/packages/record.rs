//! Record: what an installation left in a release, as a file of it: the key first, then each node on a line of its own.
//!
//! The file is written empty before anything is installed or taken over, and whole only when that ended well and there is
//! no doubt about any of it. An installer that runs in the release could write it too, therefore it is put anew afterwards,
//! and what it names is opened below the release's folder alone.
//!
//! **Invariant**: a record that was begun and not ended is empty, and an empty one is none.

use std::cmp::Reverse;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Doubt;
use super::tree::{Listing, MAX_NODES, Node, Tree};
use crate::disk;
use crate::error::{Context, Result};

/// The file, in the release's root.
pub(crate) const NAME: &str = ".packages";
/// Of a line: a path has at most 4096 bytes, and a link leads to as many; each may be escaped.
const MAX_LINE: u64 = 64 << 10;
/// Of all lines: paths of 200 bytes for all that a listing may have.
const MAX_BYTES: u64 = 200 * MAX_NODES as u64;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub head: Head,
    /// What was not there before.
    pub made: Listing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub key: String,
    /// The release's own path or paths, which the files in `mention` mention.
    pub at: Vec<String>,
    /// Text files that say where they lie: they say the new place when they are taken over.
    pub mention: Vec<String>,
}

/// Says that something is begun in the release. False when that was said before: nobody knows what is there.
pub(super) fn begin(release: &Path) -> Result<bool> {
    let path = release.join(NAME);
    match fs::symlink_metadata(&path) {
        Ok(_) => Ok(false),
        Err(_) => disk::replace(&path, b"", 0o600).map(|()| true),
    }
}

/// Written through no disk cache: whoever marks the release as prepared syncs all of it first.
pub(super) fn put(release: &Path, record: &Record) -> Result<()> {
    let doing = || format!("record the packages of {}", release.display());
    let mut text = serde_json::to_string(&record.head).context(doing)?;
    text.push('\n');
    for line in &record.made {
        text.push_str(&serde_json::to_string(&line).context(doing)?);
        text.push('\n');
    }
    disk::replace(&release.join(NAME), text.as_bytes(), 0o600)
}

/// In place of one: it says nothing.
pub(super) fn blank(release: &Path) -> Result<()> {
    disk::replace(&release.join(NAME), b"", 0o600)
}

/// Those of the releases that have the record of this key, newest first.
pub(super) fn of_key(releases: &[PathBuf], key: &str) -> Vec<PathBuf> {
    let mut found: Vec<(SystemTime, &PathBuf)> = releases
        .iter()
        .filter_map(|release| {
            let (mut lines, at) = open(release).ok()?;
            let head: Head = serde_json::from_str(&line(&mut lines).ok()??).ok()?;
            (head.key == key).then_some((at, release))
        })
        .collect();
    found.sort_by_key(|(at, _)| Reverse(*at));
    found.into_iter().map(|(_, release)| release.clone()).collect()
}

pub(super) fn load(release: &Path) -> Result<Record, Doubt> {
    let doubt = |why: &str| Doubt(format!("the record of {} {why}", release.display()));
    let (mut lines, _) = open(release)?;
    let head = line(&mut lines)?.ok_or_else(|| doubt("is empty"))?;
    let head = serde_json::from_str(&head).map_err(|e| doubt(&e.to_string()))?;
    let mut made = Listing::new();
    while let Some(text) = line(&mut lines)? {
        let (path, node): (String, Node) = serde_json::from_str(&text).map_err(|e| doubt(&e.to_string()))?;
        if made.len() >= MAX_NODES {
            return Err(doubt("is too long"));
        }
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(doubt("leads elsewhere"));
        }
        made.insert(path, node);
    }
    Ok(Record { head, made })
}

fn open(release: &Path) -> Result<(impl BufRead + use<>, SystemTime), Doubt> {
    let (file, _) = Tree::open(release)?.file(NAME)?;
    let written = file.metadata().and_then(|meta| meta.modified()).map_err(|e| Doubt::of(&NAME, e))?;
    Ok((BufReader::new(file.take(MAX_BYTES)), written))
}

/// `None` at the end. A line that is cut short, as by [`MAX_BYTES`], is no line.
fn line(lines: &mut impl BufRead) -> Result<Option<String>, Doubt> {
    let mut text = String::new();
    lines.take(MAX_LINE).read_line(&mut text).map_err(|e| Doubt::of(&NAME, e))?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(Some(text.to_owned())),
        None if text.is_empty() => Ok(None),
        None => Err(Doubt(format!("a line of {NAME} has no end"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::tree::Stamp;
    use super::*;

    fn record(key: &str) -> Record {
        let stamp = Stamp { mode: 0o750, size: 3, written: (-5, 7), inode: u64::MAX };
        let made = [
            ("node_modules", Node::Folder { mode: 0o755 }),
            ("node_modules/.bin", Node::Link("../a b\n\u{fc}".into())),
            ("node_modules/x", Node::File(stamp)),
        ];
        let head = Head { key: key.into(), at: vec!["/a".into()], mention: vec!["node_modules/x".into()] };
        Record { head, made: made.map(|(path, node)| (path.to_owned(), node)).into() }
    }

    #[test]
    fn what_is_put_is_loaded_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path();
        assert!(load(release).is_err());
        assert!(begin(release).unwrap());
        assert!(load(release).is_err(), "one that was begun is none");
        assert!(!begin(release).unwrap(), "nobody knows what the first one left");
        put(release, &record("k")).unwrap();
        assert_eq!(load(release).unwrap(), record("k"));

        let text = fs::read_to_string(release.join(NAME)).unwrap();
        let (cut, more) = (text[..text.len() - 1].to_owned(), format!("{text}x\n"));
        let (up, root) = (text.replace("node_modules/x", "a/../x"), text.replace("node_modules/x", "/etc/x"));
        for bad in ["", "\n", "{}\n", &cut, &more, &up, &root, &text.replace("[\"node", "[1,\"")] {
            fs::write(release.join(NAME), bad).unwrap();
            assert!(load(release).is_err(), "{bad}");
        }
        fs::remove_file(release.join(NAME)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", release.join(NAME)).unwrap();
        assert!(load(release).is_err());
        blank(release).unwrap();
        assert!(load(release).is_err() && !release.join(NAME).is_symlink());
    }

    #[test]
    fn the_newest_of_a_key_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let releases: Vec<PathBuf> = ["v1", "v2", "v3", "v4"].map(|v| dir.path().join(v)).to_vec();
        for (n, release) in releases.iter().enumerate() {
            fs::create_dir(release).unwrap();
            if n < 3 {
                put(release, &record(if n == 2 { "other" } else { "k" })).unwrap();
                let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100 + n as u64);
                File::options().write(true).open(release.join(NAME)).unwrap().set_modified(at).unwrap();
            }
        }
        assert_eq!(of_key(&releases, "k"), [releases[1].clone(), releases[0].clone()]);
        assert!(of_key(&releases, "none").is_empty());
    }
}
