mod hostile;
mod identity;
mod meddling;
mod sameness;
mod tape;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::crypto::Sha256;

/// In memory where there is such a thing: each archive that is unpacked waits for the disk with all that others write.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish()
}

/// What lies at a path, as far as an archive carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    File { executable: bool, content: Vec<u8> },
    Link(PathBuf),
    Folder,
}

/// All that is below `root`.
fn things(root: &Path) -> BTreeMap<PathBuf, Thing> {
    fn walk(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Thing>) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let thing = match () {
                () if meta.is_symlink() => Thing::Link(fs::read_link(&full).unwrap()),
                () if meta.is_dir() => Thing::Folder,
                () => Thing::File { executable: meta.mode() & 0o111 != 0, content: fs::read(&full).unwrap() },
            };
            if thing == Thing::Folder {
                walk(root, &path, found);
            }
            found.insert(path, thing);
        }
    }
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), &mut found);
    found
}

/// What of `things` is named to the packer: all but the folders that something lies in.
fn listed(things: &BTreeMap<PathBuf, Thing>) -> Vec<PathBuf> {
    let is_full = |folder: &Path| things.keys().any(|path| path.parent() == Some(folder));
    things
        .iter()
        .filter(|(path, thing)| **thing != Thing::Folder || !is_full(path))
        .map(|(path, _)| path.clone())
        .collect()
}

fn path(bytes: impl Into<Vec<u8>>) -> PathBuf {
    OsString::from_vec(bytes.into()).into()
}
