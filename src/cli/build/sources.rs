//! Source archives: `.tako/artifacts/<version>-source.tar.zst`, what a release was built from, to look at or to build
//! again when the commit is gone or never was: most versions between two commits exist nowhere else.
//!
//! **Invariant**: an archive holds the files whose hash its version stands for. It is made once for a version; a deploy
//! that finds it there only marks it as used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::bundle::{Entry, Source, What};
use crate::archive;
use crate::archive::pack::{Expected, Expecting, Found};
use crate::error::{Context, Result};

/// Archives that are kept, newest use first.
const KEPT: usize = 30;
const SUFFIX: &str = "-source.tar.zst";
/// Of the names that an archive has while it is written.
const UNFINISHED: (&str, &str) = ("-source.tar.", ".part");

/// Makes sure that the archive of `source` is in `artifacts`, out of the files at `from`: the source root or a copy of
/// it that nobody has written to yet. Says which entries no archive may hold, like a link that leads out of it.
///
/// # Errors
/// Refused when a file is not any more what it was when the source was read.
pub(super) fn keep<'a>(artifacts: &Path, source: &'a Source, from: &Path) -> Result<Vec<&'a Path>> {
    let file = artifacts.join(format!("{}{SUFFIX}", source.version));
    if let Ok(there) = File::options().append(true).open(&file) {
        there.set_modified(SystemTime::now()).context(|| format!("touch {}", file.display()))?;
        return Ok(Vec::new());
    }
    let (held, refused): (Vec<&Entry>, Vec<&Entry>) = source.entries.iter().partition(|entry| match &entry.what {
        What::File { .. } => archive::takes(&entry.path, None),
        What::Link { to } => archive::takes(&entry.path, Some(to)),
    });
    let paths: Vec<PathBuf> = held.iter().map(|entry| entry.path.clone()).collect();
    // While it is packed it has our process id in its name as well.
    let unchecked = artifacts.join(format!("{}-source.tar.part", source.version));
    let as_it_was = |path: &Path, found: Found<'_>| source.expects(path, found);
    let copied = |_: &Path, _: Found<'_>| Expected::Found;
    let expected: Expecting<'_, '_> = if from == source.root { &as_it_was } else { &copied };
    let kept = archive::pack::pack_to_keep(from, &paths, &unchecked, expected)
        .and_then(|()| fs::rename(&unchecked, &file).context(|| format!("write {}", file.display())));
    if kept.is_err() {
        let _ = fs::remove_file(&unchecked);
    }
    kept.context(|| "keep the sources".into())?;
    prune(artifacts, KEPT);
    Ok(refused.into_iter().map(|entry| entry.path.as_path()).collect())
}

/// Removes all but the `count` archives used last, and what a crash left of others: we hold the lock of the project.
/// Failing at it harms nobody.
fn prune(artifacts: &Path, count: usize) {
    let Ok(entries) = fs::read_dir(artifacts) else { return };
    let mut archives: Vec<(SystemTime, PathBuf)> = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.ends_with(SUFFIX) {
            let used = path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            archives.push((used, path));
        } else if name.contains(UNFINISHED.0) && name.ends_with(UNFINISHED.1) {
            let _ = fs::remove_file(&path);
        }
    }
    archives.sort();
    archives.iter().rev().skip(count).for_each(|(_, path)| {
        let _ = fs::remove_file(path);
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::cli::build::bundle::collect;
    use crate::cli::git::tests::write;
    use crate::error::Kind;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_kept_is_the_same_source_again() {
        let (dir, artifacts, again) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        write(&root.join("a.js"), "1");
        write(&root.join("b/c.js"), "2");
        write(&root.join(".env"), "SECRET");
        symlink("b", root.join("link")).unwrap();
        let source = collect(root).unwrap();
        assert!(keep(artifacts.path(), &source, &source.root).unwrap().is_empty());
        let file = artifacts.path().join(format!("{}-source.tar.zst", source.version));
        assert_eq!(names(artifacts.path()), [file.file_name().unwrap().to_str().unwrap()]);
        let mut tar = Command::new("tar");
        let unpacked = tar.arg("-I").arg("zstd -d").arg("-xf").arg(&file).arg("-C").arg(again.path()).status().unwrap();
        assert!(unpacked.success());
        assert_eq!(collect(again.path()).unwrap().hash, source.hash);
        // The second time nothing is written.
        let before = fs::read(&file).unwrap();
        File::options().append(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::remove_file(root.join("a.js")).unwrap();
        keep(artifacts.path(), &source, &source.root).unwrap();
        assert_eq!(fs::read(&file).unwrap(), before);
        assert!(file.metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    }

    #[test]
    fn what_no_archive_holds_is_named_and_the_rest_is_kept() {
        let (dir, artifacts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&dir.path().join("a.js"), "1");
        write(&dir.path().join("b\nc"), "1");
        symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let source = collect(dir.path()).unwrap();
        let left_out = keep(artifacts.path(), &source, &source.root).unwrap();
        assert_eq!(left_out, [Path::new("b\nc"), Path::new("out")]);
        assert_eq!(names(artifacts.path()).len(), 1);
    }

    #[test]
    fn a_source_that_changed_is_not_kept_under_its_old_name() {
        type Edit<'a> = (&'a str, &'a dyn Fn(&Path));
        let edits: [Edit<'_>; 8] = [
            ("of another length", &|file| write(file, "22")),
            ("of the same length", &|file| write(file, "2")),
            ("with the times of before", &|file| {
                let modified = file.metadata().unwrap().modified().unwrap();
                write(file, "2");
                File::options().append(true).open(file).unwrap().set_modified(modified).unwrap();
            }),
            ("executable", &|file| fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap()),
            ("a link", &|file| fs::remove_file(file).and_then(|()| symlink("b", file)).unwrap()),
            ("a folder", &|file| fs::remove_file(file).and_then(|()| fs::create_dir(file)).unwrap()),
            ("gone", &|file| fs::remove_file(file).unwrap()),
            ("unreachable", &|file| {
                fs::rename(file.parent().unwrap(), file.ancestors().nth(2).unwrap().join("x")).unwrap()
            }),
        ];
        for (what, edit) in edits {
            let (dir, artifacts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let file = dir.path().join("a/a.js");
            write(&file, "1");
            write(&dir.path().join("b"), "1");
            let source = collect(dir.path()).unwrap();
            edit(&file);
            let e = keep(artifacts.path(), &source, &source.root).expect_err(what);
            assert!(e.to_string().starts_with("keep the sources: pack a/a.js: "), "{what}: {e}");
            assert!(names(artifacts.path()).is_empty(), "{what}");
        }
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_not_kept_under_its_old_name() {
        let (dir, artifacts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = dir.path().join("link");
        symlink("a", &link).unwrap();
        let source = collect(dir.path()).unwrap();
        fs::remove_file(&link).and_then(|()| symlink("b", &link)).unwrap();
        let e = keep(artifacts.path(), &source, &source.root).unwrap_err();
        assert_eq!((e.kind(), e.to_string().contains("pack link: it changed")), (Kind::Refused, true), "{e}");
        fs::remove_file(&link).and_then(|()| fs::write(&link, "a")).unwrap();
        assert_eq!(keep(artifacts.path(), &source, &source.root).unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn the_folder_that_cannot_be_written_is_named() {
        let (dir, artifacts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&dir.path().join("a.js"), "1");
        let source = collect(dir.path()).unwrap();
        let e = keep(&artifacts.path().join("none"), &source, &source.root).unwrap_err();
        let part = format!("none/{}-source.tar.{}.part: ", source.version, std::process::id());
        assert!(e.to_string().contains(&part), "{e}");
    }

    #[test]
    fn keeps_the_ones_used_last_and_no_halves() {
        let dir = tempfile::tempdir().unwrap();
        for (n, name) in ["a", "b", "c"].iter().enumerate() {
            let file = dir.path().join(format!("{name}{SUFFIX}"));
            fs::write(&file, "").unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 * (3 - n as u64));
            File::options().append(true).open(file).unwrap().set_modified(at).unwrap();
        }
        for other in ["d-source.tar.77.part", "d-source.tar.part", "artifact-cache-x.tar.zst", "notes"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        prune(dir.path(), 2);
        assert_eq!(names(dir.path()), ["a-source.tar.zst", "artifact-cache-x.tar.zst", "b-source.tar.zst", "notes"]);
    }
}
