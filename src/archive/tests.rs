use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::pack::pack;
use super::unpack::{MAX_UNPACKED, unpack};
use super::*;
use crate::error::{Kind, Result};

/// Builds a tar by hand, compresses it and tries to unpack it; `Ok` lists what was laid out.
struct Hostile {
    tar: tar::Builder<Vec<u8>>,
}

impl Hostile {
    fn new() -> Self {
        Hostile { tar: tar::Builder::new(Vec::new()) }
    }

    /// Writes the name into the header as it is, which the crate's own methods would refuse.
    fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.tar.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", 0o644, b"x")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }

    fn unpack(self) -> Result<Vec<String>> {
        unpack_tar(&self.bytes())
    }
}

fn unpack_tar(tar: &[u8]) -> Result<Vec<String>> {
    let mut hash = Sha256::new();
    hash.update(tar);
    unpack_zstd(&zstd::encode_all(tar, 3).unwrap(), &hash.finish(), tar.len() as u64)
}

fn unpack_zstd(zstd: &[u8], sha256: &str, unpacked: u64) -> Result<Vec<String>> {
    let dir = TempDir::new().unwrap();
    let (archive, into) = (dir.path().join("a.tar.zst"), dir.path().join("into"));
    fs::write(&archive, zstd).unwrap();
    let done = unpack(&archive, &into, sha256, unpacked);
    let around: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    match done {
        Ok(()) => Ok(list(&into)),
        Err(e) => {
            assert_eq!(around, ["a.tar.zst"], "nothing may be left, nothing written beside");
            Err(e)
        }
    }
}

fn list(dir: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push(match () {
                () if meta.is_symlink() => format!("{name} -> {}", fs::read_link(&path).unwrap().display()),
                () if meta.is_dir() => format!("{name}/"),
                () => format!("{name} {:o} {}", meta.mode() & 0o7777, fs::read_to_string(&path).unwrap()),
            });
            if meta.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

fn refused(tar: Hostile, what: &str) {
    match tar.unpack() {
        Ok(laid) => panic!("{what}: unpacked {laid:?}"),
        Err(e) => assert_eq!(e.kind(), Kind::Refused, "{what}: {e}"),
    }
}

#[test]
fn lays_out_files_folders_and_links_inside() {
    let laid = Hostile::new()
        .file("app/main.js")
        .entry(EntryType::Regular, b"app/run.sh", b"", 0o755, b"y")
        .entry(EntryType::Directory, b"empty/", b"", 0o700, b"")
        .link("app/lib", "../empty")
        .link("app/bin/x", "../main.js")
        .unpack()
        .unwrap();
    let expected = [
        "app/",
        "app/bin/",
        "app/bin/x -> ../main.js",
        "app/lib -> ../empty",
        "app/main.js 644 x",
        "app/run.sh 755 y",
        "empty/",
    ];
    assert_eq!(laid, expected);
}

#[test]
fn refuses_names_that_lead_elsewhere() {
    for name in [
        "../x",
        "a/../../x",
        "a/..",
        "..",
        "/etc/x",
        "//x",
        "a//x",
        "./x",
        "a/./x",
        ".",
        "",
        "a\nb",
        "a\x7fb",
        "a\x1b[2Jb",
    ] {
        refused(Hostile::new().file(name), name);
        refused(Hostile::new().link(name, "y"), name);
        refused(Hostile::new().entry(EntryType::Directory, name.as_bytes(), b"", 0o755, b""), name);
    }
}

#[test]
fn refuses_links_that_may_lead_elsewhere() {
    for (name, target) in [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("l", "../x"),
        ("a/l", "../../x"),
        ("l", "a/../../x"),
        ("l", ""),
        // Inside by its words, outside when `a` is a link itself.
        ("l", "a/.."),
        ("l", "a/\nb"),
    ] {
        refused(Hostile::new().link(name, target), &format!("{name} -> {target}"));
    }
}

#[test]
fn refuses_to_write_through_a_link() {
    refused(Hostile::new().link("a", "b").file("a/x"), "below a link");
    refused(Hostile::new().link("a", "b").file("a"), "over a link");
    refused(Hostile::new().file("a").link("a", "b"), "a link over a file");
    refused(Hostile::new().file("a").file("a/b"), "below a file");
    refused(Hostile::new().file("a/b").file("a"), "a file over a folder");
    refused(Hostile::new().file("a").file("a"), "twice");
    refused(Hostile::new().link("a", "b").entry(EntryType::Directory, b"a", b"", 0o755, b""), "a folder over a link");
}

#[test]
fn refuses_what_is_not_a_file_a_folder_or_a_link() {
    for kind in [
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNUSparse,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::new(b'Z'),
    ] {
        refused(Hostile::new().entry(kind, b"x", b"/etc/passwd", 0o644, b""), &format!("{kind:?}"));
    }
    for mode in [0o4755, 0o2755, 0o1777] {
        refused(Hostile::new().entry(EntryType::Regular, b"x", b"", mode, b"x"), &format!("{mode:o}"));
    }
}

#[test]
fn refuses_long_name_records_that_grow_without_bound() {
    let long = |len: usize| {
        Hostile::new().entry(EntryType::GNULongName, b"././@LongLink", b"", 0o644, &vec![b'a'; len]).file("x")
    };
    refused(long(1 << 20), "a mebibyte of name");
    refused(long(300), "a part over 255 bytes");
    refused(
        Hostile::new().entry(EntryType::GNULongLink, b"././@LongLink", b"", 0o644, b"/etc/passwd\0").link("x", "y"),
        "a hidden target",
    );
}

#[test]
fn refuses_what_was_not_announced() {
    let tar = Hostile::new().file("a").bytes();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let mut hash = Sha256::new();
    hash.update(&tar);
    let hash = hash.finish();
    let length = tar.len() as u64;
    assert!(unpack_zstd(&zstd, &hash, length).is_ok());
    for (what, zstd, sha256, unpacked) in [
        ("wrong hash", &zstd[..], "0".repeat(64), length),
        ("longer", &zstd[..], hash.clone(), length - 512),
        ("shorter", &zstd[..], hash.clone(), length + 512),
        ("cut short", &zstd[..zstd.len() - 5], hash.clone(), length),
        ("not zstd", &tar[..], hash.clone(), length),
        ("too large", &zstd[..], hash.clone(), MAX_UNPACKED + 1),
        ("nothing", &[], hash.clone(), length),
    ] {
        assert_eq!(unpack_zstd(zstd, &sha256, unpacked).map_err(|e| e.kind()), Err(Kind::Refused), "{what}");
    }
}

#[test]
fn a_bomb_stops_at_what_was_announced() {
    let bomb = Hostile::new().entry(EntryType::Regular, b"zeros", b"", 0o644, &vec![0; 8 << 20]).bytes();
    let zstd = zstd::encode_all(&bomb[..], 3).unwrap();
    assert!(zstd.len() < 10_000);
    assert_eq!(unpack_zstd(&zstd, &"0".repeat(64), 10_000).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn refuses_a_window_that_eats_memory() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&Hostile::new().entry(EntryType::Regular, b"x", b"", 0o644, &vec![7; 1 << 20]).bytes()).unwrap();
    let zstd = encoder.finish().unwrap();
    assert_eq!(unpack_zstd(&zstd, &"0".repeat(64), 2 << 20).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn packs_the_same_bytes_whatever_the_order_the_times_and_the_owner_bits() {
    let dir = TempDir::new().unwrap();
    let tree = |name: &str, mode: u32| {
        let root = dir.path().join(name);
        fs::create_dir_all(root.join("b/empty")).unwrap();
        fs::write(root.join("a"), "1").unwrap();
        fs::write(root.join("b/c"), "2").unwrap();
        fs::set_permissions(root.join("b/c"), fs::Permissions::from_mode(mode)).unwrap();
        symlink("c", root.join("b/link")).unwrap();
        root
    };
    let names = |order: [usize; 4]| order.map(|i| PathBuf::from(["a", "b/c", "b/empty", "b/link"][i]));
    let (one, two) = (dir.path().join("1.zst"), dir.path().join("2.zst"));
    let first = pack(&tree("x", 0o755), &names([0, 1, 2, 3]), &one).unwrap();
    let second = pack(&tree("y", 0o700), &names([3, 1, 0, 2]), &two).unwrap();
    assert_eq!(first, second);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());

    unpack(&one, &dir.path().join("out"), &first.sha256, first.unpacked).unwrap();
    assert_eq!(list(&dir.path().join("out")), ["a 644 1", "b/", "b/c 755 2", "b/empty/", "b/link -> c"]);
}

#[test]
fn packing_refuses_what_unpacking_would() {
    let dir = TempDir::new().unwrap();
    symlink("/etc/passwd", dir.path().join("leak")).unwrap();
    for name in ["leak", "../x", "gone"] {
        let out = dir.path().join("out.zst");
        assert!(pack(dir.path(), &[name.into()], &out).is_err(), "{name}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name} left something behind");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn unpacking_gives_back_what_was_packed(
        files in proptest::collection::btree_map("[a-zäß ]{1,20}(/[a-z]{1,120}){0,3}", proptest::collection::vec(any::<u8>(), 0..2000), 0..12)
    ) {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut names = Vec::new();
        for (i, (name, content)) in files.iter().enumerate() {
            // A suffix keeps a file from being the folder of another.
            let path = PathBuf::from(format!("{name}.{i}"));
            fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
            fs::write(root.join(&path), content).unwrap();
            names.push((path, content));
        }
        let paths: Vec<PathBuf> = names.iter().map(|(p, _)| p.clone()).collect();
        let packed = pack(&root, &paths, &dir.path().join("a.zst")).unwrap();
        let out = dir.path().join("out");
        unpack(&dir.path().join("a.zst"), &out, &packed.sha256, packed.unpacked).unwrap();
        for (path, content) in names {
            prop_assert_eq!(&fs::read(out.join(path)).unwrap(), content);
        }
    }

    #[test]
    fn never_panics_on_noise(tar in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = unpack_tar(&tar);
        let _ = unpack_zstd(&tar, "", 10);
    }
}
