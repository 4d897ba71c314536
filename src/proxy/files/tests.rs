//! Lookups on a real tree with links, pipes and things outside.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};

use super::open::{self, Opener, Seen};
use super::path::name;
use super::root::Root;

/// `public` with files and traps, and beside it what must not be served.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("public/a/b")).unwrap();
    fs::create_dir_all(at("public/.well-known")).unwrap();
    fs::create_dir_all(at("public/.git")).unwrap();
    fs::create_dir(at("public/folder.css")).unwrap();
    for name in ["public/a/b/x.css", "public/x.css", "public/.well-known/s.txt"] {
        fs::write(at(name), "inside").unwrap();
    }
    for name in ["secret.css", "public/.env", "public/.git/c.css", "public/a/.h.css"] {
        fs::write(at(name), "outside").unwrap();
    }
    symlink("../secret.css", at("public/out.css")).unwrap();
    symlink(at("secret.css"), at("public/absolute.css")).unwrap();
    symlink("..", at("public/up")).unwrap();
    symlink(".env", at("public/harmless.css")).unwrap();
    symlink("x.css", at("public/within.css")).unwrap();
    symlink("/proc/self/root", at("public/magic")).unwrap();
    rustix::fs::mknodat(CWD, at("public/pipe.css"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    dir
}

fn root(dir: &Path) -> Root {
    Root::open(dir, Path::new("public")).unwrap().unwrap()
}

/// What a name leads to, as the helper sees it, as a loop sees it, and step by step.
fn content(root: &Root, name: &[u8]) -> Option<Vec<u8>> {
    let read = |fd: &std::os::fd::OwnedFd| {
        let mut bytes = vec![0; 100];
        let n = rustix::io::pread(fd, &mut bytes, 0).unwrap();
        bytes.truncate(n);
        bytes
    };
    let look = |mut opener: Opener| match opener.look(root, name, SystemTime::now()) {
        Seen::Asset(asset) => Some(read(&asset.choose([].into_iter()).file)),
        Seen::Nothing => None,
        Seen::MayBlock | Seen::Shortage => panic!("it is known by now"),
    };
    let seen = look(Opener::of_the_helper());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let stepped = open::by_steps(root.fd(), name, flags).ok();
    let regular = |fd: &std::os::fd::OwnedFd| {
        FileType::from_raw_mode(rustix::fs::fstat(fd.as_fd()).unwrap().st_mode) == FileType::RegularFile
    };
    assert_eq!(stepped.filter(regular).map(|fd| read(&fd)), seen, "with and without openat2");
    seen
}

#[test]
fn opens_regular_files_through_no_link() {
    let dir = tree();
    let root = root(dir.path());
    for name in ["x.css", "a/b/x.css", ".well-known/s.txt"] {
        assert_eq!(content(&root, name.as_bytes()).as_deref(), Some(&b"inside"[..]), "{name}");
    }
    for name in [
        "none.css",
        "x.css/y.css",
        "folder.css",
        "pipe.css",
        "out.css",
        "absolute.css",
        "up/secret.css",
        "harmless.css",
        "within.css",
        "magic/etc/hosts.x",
        "../secret.css",
        "a/../../secret.css",
        "/etc/hosts.x",
    ] {
        assert_eq!(content(&root, name.as_bytes()), None, "{name}");
    }
}

#[test]
fn a_root_is_a_folder_and_no_link() {
    let dir = tree();
    for name in ["none", "none/public", "public/up", "secret.css", "public/up/public", "public/magic", ".."] {
        assert!(Root::open(dir.path(), Path::new(name)).unwrap().is_none(), "{name}");
    }
    assert!(Root::open(dir.path(), Path::new("public/a")).unwrap().is_some());
}

#[test]
fn a_root_stays_the_folder_that_was_opened() {
    let dir = tree();
    let root = root(dir.path());
    fs::rename(dir.path().join("public"), dir.path().join("former")).unwrap();
    fs::create_dir(dir.path().join("public")).unwrap();
    fs::write(dir.path().join("public/x.css"), "other").unwrap();
    assert_eq!(content(&root, b"x.css").as_deref(), Some(&b"inside"[..]));
}

#[test]
fn rfc9110_8_8_1_a_file_that_was_just_changed_has_weak_validators() {
    let dir = tree();
    let root = root(dir.path());
    let now = fs::metadata(dir.path().join("public/x.css")).unwrap().modified().unwrap();
    let kept = |at: SystemTime| match Opener::of_the_helper().look(&root, b"x.css", at) {
        Seen::Asset(asset) => {
            let variant = asset.choose([].into_iter()).clone();
            let described = String::from_utf8(variant.described.to_vec()).unwrap();
            (String::from_utf8(variant.kept.to_vec()).unwrap(), described.contains("Last-Modified: "))
        }
        _ => panic!("no file"),
    };
    let (fresh, dated) = kept(now);
    assert!(fresh.contains("ETag: W/\"") && dated, "{fresh}");
    let (settled, dated) = kept(now + Duration::from_secs(2));
    assert!(settled.contains("ETag: \"") && dated, "{settled}");
    assert_eq!(fresh.replace("W/", ""), settled, "it is the same tag but for its strength");
    // RFC 9110 §8.8.2.1: no date later than that of the message.
    let (future, dated) = kept(now - Duration::from_secs(2));
    assert!(future.contains("W/") && !dated, "{future}");
}

#[test]
fn sees_that_a_file_was_changed_replaced_or_removed() {
    let dir = tree();
    let (root, path) = (root(dir.path()), dir.path().join("public/x.css"));
    let look = || match Opener::of_the_helper().look(&root, b"x.css", SystemTime::now()) {
        Seen::Asset(asset) => asset.choose([].into_iter()).clone(),
        _ => panic!("no file"),
    };
    let opened = look();
    assert!(opened.is_as_opened());
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert!(!opened.is_as_opened());
    let opened = look();
    fs::write(dir.path().join("new"), "inside").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert!(!opened.is_as_opened());
    let opened = look();
    fs::remove_file(&path).unwrap();
    assert!(!opened.is_as_opened());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever the path of a request, what is served lies in the folder and is not hidden.
    #[test]
    fn never_opens_what_is_outside_or_hidden(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "/", "..", ".", "%2e", "%2f", "\\", "%5c", "%00", "a", "b", "x.css", "up", "magic", "secret.css", "out.css",
            ".env", ".git", "c.css", "harmless.css", "pipe.css", "folder.css", "%2e%2e", ".h.css", "public", "%",
        ]), 0..8),
    ) {
        thread_local!(static TREE: (tempfile::TempDir, Root) = {
            let dir = tree();
            let root = root(dir.path());
            (dir, root)
        });
        TREE.with(|(dir, root)| {
            let (path, mut room) = (format!("/{}", parts.concat()), Vec::new());
            // What lies there by the file system's own account, links not followed.
            let Some(name) = name(path.as_bytes(), &mut room) else { return Ok(()) };
            let full = dir.path().join("public").join(OsStr::from_bytes(name));
            let found = content(root, name);
            let expected = fs::canonicalize(&full).ok().filter(|real| *real == fs::canonicalize(dir.path()).unwrap()
                .join("public").join(OsStr::from_bytes(name)) && real.is_file());
            prop_assert_eq!(found.is_some(), expected.is_some(), "{}", path);
            prop_assert!(found.is_none_or(|content| content == b"inside"), "{}", path);
            Ok(())
        })?;
    }
}
