//! Files that change under the packer, and what it will not pack.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Mode};
use tempfile::TempDir;

use super::super::bounds::MAX_DEPTH;
use super::super::pack::{Expected, PIECE, pack, pack_to_keep, write_tar};
use super::path;
use crate::error::{Error, Kind};

/// A sink that does something once it has been given so many bytes.
struct Meddler<'a> {
    after: usize,
    act: Option<&'a dyn Fn()>,
}

impl Write for Meddler<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.after = self.after.saturating_sub(bytes.len());
        if let (0, Some(act)) = (self.after, self.act) {
            act();
            self.act = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Packs `first` (three pieces long) and `second`, and does `act` when that many bytes of it are written.
fn packing(after: usize, act: &dyn Fn(&Path)) -> Result<(), Error> {
    let dir = TempDir::new().unwrap();
    for name in ["first", "second"] {
        fs::write(dir.path().join(name), vec![b'x'; 3 * PIECE]).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        File::options().append(true).open(dir.path().join(name)).unwrap().set_modified(long_ago).unwrap();
    }
    let act = || act(dir.path());
    let mut meddler = Meddler { after, act: Some(&act) };
    let packed = write_tar(dir.path(), &[path("first"), path("second")], &mut meddler).map(drop);
    assert!(meddler.act.is_none(), "nothing was done");
    packed
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_named() {
    let first = |dir: &Path| File::options().write(true).open(dir.join("first")).unwrap();
    type Edit<'a> = (&'a str, &'a dyn Fn(&Path));
    let edits: [Edit<'_>; 5] = [
        ("grows", &|dir| first(dir).write_all_at(b"y", 3 * PIECE as u64).unwrap()),
        ("shrinks", &|dir| first(dir).set_len(2 * PIECE as u64 + 1).unwrap()),
        ("shrinks to where we are", &|dir| first(dir).set_len(PIECE as u64).unwrap()),
        ("is emptied", &|dir| first(dir).set_len(0).unwrap()),
        ("is written anew", &|dir| first(dir).write_all_at(b"y", 0).unwrap()),
    ];
    for (what, edit) in edits {
        // Behind its head, and behind its first piece.
        for after in [512, 512 + PIECE] {
            let e = packing(after, edit).expect_err(what);
            assert_eq!(e.kind(), Kind::Refused, "{what}: {e}");
            assert_eq!(e.to_string(), "pack first: it changed while it was being read", "{what}");
        }
    }
}

#[test]
fn a_file_that_is_gone_when_its_turn_comes_is_named() {
    let e = packing(512, &|dir| fs::remove_file(dir.join("second")).unwrap()).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert!(e.to_string().starts_with("pack second: read it: "), "{e}");
}

#[test]
fn a_file_that_is_replaced_after_it_was_opened_is_packed_as_it_was() {
    let done = packing(512, &|dir| {
        fs::write(dir.join("new"), "short").unwrap();
        fs::rename(dir.join("new"), dir.join("first")).unwrap();
    });
    done.unwrap();
}

/// Of what the kernel shows as files some are longer than they say.
#[test]
fn leaves_no_archive_when_a_file_was_longer_than_it_said() {
    let dir = TempDir::new().unwrap();
    let e = pack(Path::new("/proc/self"), &[path("status")], &dir.path().join("a.tar.zst")).unwrap_err();
    assert_eq!(e.to_string(), "pack status: it changed while it was being read");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn leaves_what_was_there_when_it_fails() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.tar.zst");
    fs::write(&out, "the one before").unwrap();
    assert_eq!(pack(dir.path(), &[path("gone")], &out).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(fs::read(&out).unwrap(), b"the one before");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn refuses_to_pack_what_is_too_large_and_names_the_largest() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // All of it zeros that take no room.
    let make = |name: &str, size: u64| File::create(root.join(name)).unwrap().set_len(size).unwrap();
    make("small", 10);
    make("data", 257 << 20);
    let files = ["small", "data"].map(path);
    let out = dir.path().join("out.zst");
    let e = pack(&root, &files, &out).unwrap_err();
    assert_eq!((e.kind(), e.detail()), (Kind::Build, &["270 MB  data".to_string()][..]), "{e}");
    assert!(e.to_string().contains("more than 1000 times as many") && e.next_step().unwrap().contains("`exclude`"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    pack_to_keep(&root, &files, &out, &|_, _| Expected::Found).unwrap();
    // It is not read to find that out.
    make("small", 9 << 30);
    let e = pack(&root, &files[..1], &out).unwrap_err();
    assert_eq!((e.kind(), e.detail()), (Kind::Build, &["9664 MB  small".to_string()][..]), "{e}");
    assert!(e.to_string().starts_with("pack small: it takes 96636") && e.next_step().is_some(), "{e}");
}

#[test]
fn refuses_to_pack_what_could_not_be_unpacked() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    let deep: PathBuf = path(vec!["d"; MAX_DEPTH + 1].join("/"));
    fs::create_dir_all(root.join(&deep)).unwrap();
    symlink("/etc/passwd", root.join("leak")).unwrap();
    symlink("../x", root.join("up")).unwrap();
    fs::write(root.join("line\nend"), "").unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    for (name, why) in [
        (path("leak"), "it links to `/etc/passwd`, which is an absolute path"),
        (path("up"), "it links to `../x`, which may be outside"),
        (path("../root/leak"), "its name is absolute, has `.` or `..`"),
        (root.join("leak"), "its name is absolute"),
        (path(""), "its name is empty"),
        (path("line\nend"), r"pack line\nend: its name has control characters"),
        (path("socket"), "only files, links and folders can be packed"),
        (path("pipe"), "only files, links and folders can be packed"),
        (deep, "folders deep"),
    ] {
        let out = dir.path().join("out.zst");
        let e = pack(&root, std::slice::from_ref(&name), &out).unwrap_err();
        assert_eq!(e.kind(), Kind::Refused, "{e}");
        assert!(e.to_string().contains(why) && e.to_string().starts_with("pack "), "{name:?}: {e}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name:?} left something behind");
    }
}
