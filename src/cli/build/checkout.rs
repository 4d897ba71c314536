//! Checkout: what a working tree lacks or has left undone though all of its files can be read: submodules that were not
//! fetched, pointers where Git LFS has files, a merge with conflicts. CI and fresh clones have the first two, and the
//! build mostly runs through with them.
//!
//! It changes nothing and refuses nothing: somebody may mean it. It is told, because the release would be live with it.
//!
//! **Invariant**: git is asked only about a tree that differs from its commit; a clean one costs a look at the entries.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::bundle::{Entry, Source, What};
use crate::cli::git;
use crate::cli::ui::units;
use crate::error::{Result, on_one_line};

/// Names that are told; who has more of them knows which.
const NAMED: usize = 3;
/// A pointer is smaller (LFS, docs/spec.md).
const MAX_POINTER: u64 = 1024;
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// More of a `.gitattributes` or a `.gitmodules` is not looked at.
const MAX_READ: u64 = 1 << 20;

/// What the user should know about the tree of `source` before it is shipped.
///
/// # Errors
/// Those of git. A file that cannot be read any more is not ours to tell: the build reads it next.
pub(super) fn warnings(source: &Source) -> Result<Vec<String>> {
    let unmerged = if source.dirty { git::unmerged(&source.root)? } else { Vec::new() };
    let said = [
        (unmerged, "in conflict", "the release would have it as it is: finish the merge first"),
        (
            submodules(source),
            "not fetched",
            "the release would be without it: `git submodule update --init` fetches it",
        ),
        (
            pointers(source),
            "a pointer of Git LFS",
            "the release would have that and not the file: `git lfs pull` fetches it",
        ),
    ];
    Ok(said.into_iter().filter_map(|(paths, what, then)| told(&paths, what, then)).collect())
}

fn told(paths: &[PathBuf], what: &str, then: &str) -> Option<String> {
    let named = paths.iter().take(NAMED).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let named = on_one_line(&named);
    let more = paths.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {}", units::count(more, "other")) } else { String::new() };
    (!paths.is_empty()).then(|| format!("{named}{more}: {what}; {then}"))
}

/// Of the root's `.gitmodules`, those of which nothing is there.
fn submodules(source: &Source) -> Vec<PathBuf> {
    let Some(text) = find(source, ".gitmodules").and_then(|entry| beginning_of(source, entry, MAX_READ)) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    let paths = text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "path").then(|| PathBuf::from(value.trim().trim_matches('"')))
    });
    let is_there = |path: &Path| {
        source.root.join(path).join(".git").exists() || source.entries.iter().any(|entry| entry.path.starts_with(path))
    };
    paths.filter(|path| !is_there(path)).collect()
}

/// Where a `.gitattributes` speaks of LFS, the files that hold only a pointer.
fn pointers(source: &Source) -> Vec<PathBuf> {
    let is_rules = |entry: &&Entry| entry.path.file_name() == Some(OsStr::new(".gitattributes"));
    let has = |text: Vec<u8>| memchr::memmem::find(&text, b"filter=lfs").is_some();
    let mut rules = source.entries.iter().filter(is_rules);
    if !rules.any(|entry| beginning_of(source, entry, MAX_READ).is_some_and(has)) {
        return Vec::new();
    }
    let is_pointer = |entry: &&Entry| {
        let What::File { contents, .. } = &entry.what else { return false };
        (POINTER.len() as u64..MAX_POINTER).contains(&contents.length)
            && beginning_of(source, entry, POINTER.len() as u64).is_some_and(|text| text == POINTER)
    };
    source.entries.iter().filter(is_pointer).map(|entry| entry.path.clone()).collect()
}

fn find<'a>(source: &'a Source, name: &str) -> Option<&'a Entry> {
    source.entries.iter().find(|entry| entry.path == Path::new(name))
}

fn beginning_of(source: &Source, entry: &Entry, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(source.root.join(&entry.path)).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::build::bundle;
    use crate::cli::git::tests::{git, write};

    fn said(root: &Path) -> Vec<String> {
        warnings(&bundle::collect(root).unwrap()).unwrap()
    }

    #[test]
    fn a_whole_checkout_is_told_nothing_and_what_is_missing_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        git(&root, &["init", "--quiet"]);
        write(&root.join("index.js"), "1");
        assert!(said(&root).is_empty());

        write(&root.join(".gitmodules"), "[submodule \"a\"]\n\tpath = vendor/a\n\turl = https://x.y/a\n");
        let [told] = &said(&root)[..] else { panic!("{:?}", said(&root)) };
        assert!(told.starts_with("vendor/a: not fetched;") && told.contains("submodule update --init"), "{told}");
        write(&root.join("vendor/a/x"), "1");
        assert!(said(&root).is_empty());

        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        (0..5).for_each(|n| write(&root.join(format!("{n}.png")), pointer));
        assert!(said(&root).is_empty(), "nobody speaks of LFS");
        write(&root.join(".gitattributes"), "*.png filter=lfs diff=lfs merge=lfs -text\n");
        let [told] = &said(&root)[..] else { panic!("{:?}", said(&root)) };
        assert!(told.starts_with("0.png, 1.png, 2.png and 2 others: a pointer of Git LFS;"), "{told}");
    }

    #[test]
    fn a_merge_with_conflicts_is_told_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let commit = |text: &str| {
            write(&root.join("ä b.js"), text);
            git(&root, &["add", "."]);
            git(&root, &["commit", "--quiet", "-m", text]);
        };
        git(&root, &["init", "--quiet"]);
        commit("one");
        git(&root, &["checkout", "--quiet", "-b", "other"]);
        commit("two");
        git(&root, &["checkout", "--quiet", "-b", "third", "HEAD~1"]);
        commit("three");
        assert!(said(&root).is_empty());
        let merge = std::process::Command::new("git").args(["merge", "--quiet", "other"]).current_dir(&root).output();
        assert!(!merge.unwrap().status.success());
        let [told] = &said(&root)[..] else { panic!("{:?}", said(&root)) };
        assert!(told.starts_with("ä b.js: in conflict;"), "{told}");
        git(&root, &["add", "."]);
        assert!(said(&root).is_empty());
    }
}
