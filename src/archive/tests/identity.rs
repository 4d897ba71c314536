//! What is unpacked is what was packed, whatever it is called and however long it is; and GNU tar is of the same mind.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::bounds::{MAX_DEPTH, check_link};
use super::super::pack::{PIECE, pack, pack_with, write_tar};
use super::super::unpack::{lay_out, unpack};
use super::{Thing, listed, path, scratch, sha256, things};

/// Longest path that is made here: below a temporary folder, it must not be too long for the kernel.
const MAX_MADE: usize = 3900;

fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        4 => "[a-z]{1,8}".prop_map(String::into_bytes),
        2 => "[ -.0-~]{1,20}".prop_map(String::into_bytes),
        1 => "-{1,2}[a-z]{0,3}".prop_map(String::into_bytes),
        1 => " {0,2}[a-z]{0,2}[ .]{1,3}".prop_map(String::into_bytes),
        2 => "\\PC{1,12}".prop_map(String::into_bytes),
        1 => "[äöüß日本語😀]{1,30}".prop_map(String::into_bytes),
        1 => "[a-zä]{95,127}".prop_map(String::into_bytes),
        1 => "[a-z]{255}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..255),
        1 => vec(128..=255_u8, 90..120),
    ];
    bytes.prop_filter("names of files", |name| {
        name.len() <= 255 && !name.iter().any(|b| *b == b'/' || b.is_ascii_control()) && name != b"." && name != b".."
    })
}

fn place() -> impl Strategy<Value = PathBuf> {
    let parts = prop_oneof![
        8 => vec(name(), 1..4),
        1 => vec(name(), 4..12),
        1 => vec("[a-c]".prop_map(String::into_bytes), MAX_DEPTH..=MAX_DEPTH),
        1 => vec("[a-z]{255}".prop_map(String::into_bytes), 14..=15),
    ];
    parts.prop_map(|parts| path(parts.join(&b'/'))).prop_filter("too long", |path| path.as_os_str().len() <= MAX_MADE)
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    const EDGES: [usize; 13] =
        [0, 1, 511, 512, 513, 1023, 1024, 1025, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 511];
    let size = prop_oneof![3 => 0..3000_usize, 2 => proptest::sample::select(&EDGES[..])];
    (size, any::<u8>()).prop_map(|(size, seed)| (0..size).map(|n| (n * 7 + n / 251) as u8 ^ seed).collect())
}

fn thing() -> impl Strategy<Value = Thing> {
    let target = prop_oneof![
        name(),
        (1..4_usize, name()).prop_map(|(up, name)| [b"../".repeat(up), name].concat()),
        vec(name(), 1..4).prop_map(|parts| parts.join(&b'/')),
        vec(name(), 2..3).prop_map(|parts| [b"./", &parts.join(&b"//"[..])[..], b"/"].concat()),
        Just(b"..".to_vec()),
        Just(b".".to_vec()),
    ];
    prop_oneof![
        6 => (content(), any::<bool>()).prop_map(|(content, executable)| Thing::File { executable, content }),
        2 => target.prop_map(|target| Thing::Link(path(target))),
        1 => Just(Thing::Folder),
    ]
}

/// Makes what can be made; what is in the way of something earlier is left out.
fn grow(root: &Path, wanted: &[(PathBuf, Thing)]) {
    fs::create_dir(root).unwrap();
    for (path, thing) in wanted {
        let full = root.join(path);
        if fs::symlink_metadata(&full).is_ok() || !folders(root, path.parent().unwrap()) {
            continue;
        }
        match thing {
            Thing::Folder => fs::create_dir(&full).unwrap(),
            Thing::Link(target) if check_link(path, target).is_err() => {}
            Thing::Link(target) => symlink(target, &full).unwrap(),
            Thing::File { executable, content } => {
                fs::write(&full, content).unwrap();
                let mode = if *executable { 0o751 } else { 0o604 };
                fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// Whether all of these are folders now, and not links to some.
fn folders(root: &Path, path: &Path) -> bool {
    let mut ways: Vec<&Path> = path.ancestors().collect();
    ways.reverse();
    ways.iter().all(|way| match fs::symlink_metadata(root.join(way)) {
        Ok(meta) => meta.is_dir(),
        Err(_) => fs::create_dir(root.join(way)).is_ok(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn unpacking_gives_back_what_was_packed(wanted in vec((place(), thing()), 0..16), shift in any::<usize>()) {
        let dir = scratch();
        let [root, one, two, out] = ["root", "1.zst", "2.zst", "out"].map(|name| dir.path().join(name));
        grow(&root, &wanted);
        let grown = things(&root);
        let mut files = listed(&grown);
        let packed = pack(&root, &files, &one).unwrap();
        if !files.is_empty() {
            let at = shift % files.len();
            files.rotate_left(at);
        }
        let again = pack_with(&root, &files, &two, 1 + shift % 4).unwrap();
        prop_assert_eq!(&packed, &again);
        prop_assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());

        unpack(&one, &out, &packed.sha256, packed.unpacked).unwrap();
        prop_assert_eq!(things(&out), grown);
    }
}

/// One of each sort.
fn gnarly(root: &Path) {
    let file = |size: usize| Thing::File { executable: size % 2 == 1, content: vec![b'x'; size] };
    let long = |len: usize| "n".repeat(len);
    let wanted = [
        (path("-rf"), file(0)),
        (path("--checkpoint=1"), file(1)),
        (path(" a b "), file(511)),
        (path("*"), file(512)),
        (path("über/日本/😀"), file(513)),
        (path(b"\xff\xfe\x80"), file(PIECE + 1)),
        (path([long(60), long(39)].join("/")), file(2)),
        (path([long(60), long(40)].join("/")), file(3)),
        (path([long(255), long(255), long(255)].join("/")), file(4)),
        (path([&b"\x80".repeat(150)[..], &b"\x81".repeat(150)].join(&b'/')), file(5)),
        // What a reader finds that cuts it at a hundred bytes is `...`.
        (path(format!("{}/..{}", long(97), long(20))), file(6)),
        (path(vec!["d"; MAX_DEPTH].join("/")), file(7)),
        (path("empty/folder"), Thing::Folder),
        (path("links/short"), Thing::Link(path("../*"))),
        (path("links/odd"), Thing::Link(path(".//a/"))),
        (path("links/long"), Thing::Link(path(format!("../{}/{}", long(60), long(40))))),
        (path(format!("links/{}", long(150))), Thing::Link(path(long(200)))),
    ];
    grow(root, &wanted);
    assert_eq!(listed(&things(root)).len(), wanted.len());
}

#[test]
fn gnu_tar_reads_what_we_write_and_we_what_it_writes() {
    let dir = scratch();
    let [root, tar, theirs, ours] = ["root", "a.tar", "theirs", "ours"].map(|name| dir.path().join(name));
    gnarly(&root);
    let grown = things(&root);
    let list: Vec<&OsStr> = grown.keys().map(|path| path.as_os_str()).collect();
    fs::write(dir.path().join("list"), list.join(OsStr::new("\0")).as_bytes()).unwrap();
    let gnu = |args: &[&str]| {
        let output = Command::new("tar").args(args).current_dir(dir.path()).env("LC_ALL", "C").output();
        let output = output.expect("tar is part of every system that we build on");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };

    let (content, bytes) = write_tar(&root, &listed(&grown), Vec::new()).unwrap();
    assert_eq!((content.bytes, content.sha256), (bytes.len() as u64, sha256(&bytes)));
    fs::write(&tar, bytes).unwrap();
    fs::create_dir(&theirs).unwrap();
    gnu(&["-C", "theirs", "-xf", "a.tar"]);
    assert_eq!(things(&theirs), grown);

    gnu(&[
        "--format=gnu",
        "-C",
        "root",
        "-cf",
        "a.tar",
        "--no-recursion",
        "--null",
        "--verbatim-files-from",
        "-T",
        "list",
    ]);
    let bytes = fs::read(&tar).unwrap();
    lay_out(&bytes[..], &ours, &sha256(&bytes), bytes.len() as u64).unwrap();
    assert_eq!(things(&ours), grown);
}
