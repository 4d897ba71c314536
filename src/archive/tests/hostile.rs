//! What others could send. Whatever it is, nothing is written outside, and what is refused leaves nothing inside.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::bounds::{Bounds, MAX_DEPTH, MAX_NAMES, MAX_UNPACKED};
use super::super::lab::confined;
use super::super::pack::LEVEL;
use super::super::unpack::{decoder, fill_verified, unpack};
use super::super::{BLOCK, lab};
use super::tape::*;
use super::{scratch, sha256};
use crate::error::{Kind, Result};

/// What a server is sent, and what it is told of it.
struct Upload {
    zstd: Vec<u8>,
    sha256: String,
    unpacked: u64,
}

enum Fate {
    /// With an error that has this in it.
    Refused(&'static str),
    /// Because it is legal and harms nobody: so many files, links and folders, and the reason.
    Taken(usize, &'static str),
}
use Fate::{Refused, Taken};

struct Case {
    what: &'static str,
    upload: Upload,
    fate: Fate,
}

/// An archive whose announcement is true.
fn honest(tar: &[u8]) -> Upload {
    let zstd = match tar.len() < 100 << 10 {
        true => frame(17, None, tar),
        false => zstd::encode_all(tar, LEVEL).unwrap(),
    };
    Upload { zstd, sha256: sha256(tar), unpacked: tar.len() as u64 }
}

fn case(what: &'static str, fate: Fate, entries: &[Entry]) -> Case {
    Case { what, upload: honest(&tar(entries)), fate }
}

fn raw(what: &'static str, fate: Fate, tar: &[u8]) -> Case {
    Case { what, upload: honest(tar), fate }
}

const NAME: &str = "its name is absolute, has `.` or `..` in it";
const CONTROL: &str = "its name has control characters";
const OUTSIDE: &str = "which may be outside";
const ABSOLUTE: &str = "which is an absolute path";
const TWICE: &str = "it is there twice";
const TYPE: &str = "an entry of this type is not allowed";
const DAMAGED: &str = "the archive is damaged";
const SIZE: &str = "its size is no number that a file could have";
const BEHIND: &str = "there is something behind its end";

fn names(outside: &str) -> Vec<Case> {
    let deep = |depth: usize| vec!["d"; depth].join("/");
    let mut long_header = entry(b'0', "a", b"x").put(257, b"ustar\x0000");
    long_header = long_header.put(345, outside);
    vec![
        case("absolute", Refused(NAME), &[file(format!("{outside}/new"))]),
        case("absolute folder", Refused(NAME), &[folder(format!("{outside}/new/"))]),
        case("absolute by two slashes", Refused(NAME), &[file("//x")]),
        case("climbs at its start", Refused("`../../outside/new`"), &[file("../../outside/new")]),
        case("climbs in the middle", Refused("`a/../../../outside/new`"), &[file("a/../../../outside/new")]),
        case("climbs at its end", Refused(NAME), &[folder("a/b/..")]),
        case("the folder above", Refused(NAME), &[folder("..")]),
        case("overwrites by climbing", Refused(NAME), &[file("../../outside/secret")]),
        case("the folder itself, as a file", Refused(NAME), &[file(".")]),
        case("the folder itself, as tar writes it", Refused(NAME), &[folder("./")]),
        case("begins with a dot", Refused(NAME), &[file("./x")]),
        case("has a dot in it", Refused(NAME), &[file("a/./x")]),
        case("has an empty part", Refused(NAME), &[file("a//x")]),
        case("is empty", Refused("its name is empty"), &[file("")]),
        case("is a slash", Refused("its name is empty"), &[folder("/")]),
        case("a file that ends in a slash", Refused(NAME), &[file("a/")]),
        case("has a line end", Refused(CONTROL), &[file("a\nb")]),
        case("writes to the terminal", Refused(CONTROL), &[file("a\x1b[2Jb")]),
        case("has a delete", Refused(CONTROL), &[file("a\x7fb")]),
        case(
            "has a zero in a head",
            Taken(1, "the field ends there (POSIX); the rest is no name"),
            &[file("a\0/../x")],
        ),
        case("has a zero in a record", Refused(CONTROL), &[long_name("a\0/../x"), file("y")]),
        case("climbs in a record", Refused(NAME), &[long_name("../../outside/new"), file("a")]),
        case("absolute in a record", Refused(NAME), &[long_name(format!("{outside}/new")), file("a")]),
        case("absolute by the prefix of ustar", Refused(NAME), &[long_header]),
        case("climbs by the prefix of ustar", Refused(NAME), &[file("new").put(257, b"ustar\x0000").put(345, "a/..")]),
        case("two records for one file", Refused("two long names"), &[long_name("a"), long_name("b"), file("c")]),
        case("a record for no file", Refused("it ends after a long name"), &[file("a"), long_name("b")]),
        case("an empty record", Refused("its name is empty"), &[entry(b'L', "././@LongLink", b""), file("a")]),
        case("a record of a mebibyte", Refused("longer than 4095 bytes"), &[long_name("a".repeat(1 << 20)), file("b")]),
        case("a path 100,000 deep", Refused("longer than 4095 bytes"), &[long_name(deep(100_000)), file("b")]),
        case("a path as deep as a path can be", Refused("folders deep"), &[long_name(deep(2000)), file("b")]),
        case("one folder too deep", Refused("folders deep"), &[long_name(deep(MAX_DEPTH + 1)), file("b")]),
        case("a part of 256 bytes", Refused("longer than 255 bytes"), &[long_name("a".repeat(256)), file("b")]),
        case(
            "names differ in case",
            Taken(2, "two names here; where they are one, the second is not created"),
            &[file("Readme"), file("README")],
        ),
        case("is not UTF-8", Taken(1, "a name is bytes to the kernel"), &[file(b"\xff\xfe")]),
    ]
}

fn links(outside: &str) -> Vec<Case> {
    vec![
        case("absolute", Refused(ABSOLUTE), &[link("l", format!("{outside}/secret"))]),
        case("to the folder above", Refused(OUTSIDE), &[link("l", "..")]),
        case("climbs out", Refused("`a/l`"), &[link("a/l", "../../outside/secret")]),
        case("climbs out on a detour", Refused(OUTSIDE), &[link("l", "a/../../outside")]),
        case("inside by its words, outside when `a` is a link", Refused(OUTSIDE), &[link("l", "a/..")]),
        case("to nothing", Refused("malformed"), &[link("l", "")]),
        case("writes to the terminal", Refused("malformed"), &[link("l", "a\x1b[2J")]),
        case("absolute in a record", Refused(ABSOLUTE), &[long_link(format!("{outside}/secret")), link("l", "inside")]),
        case("two records for one link", Refused("two long names"), &[long_link("a"), long_link("b"), link("l", "c")]),
        case("a record for no link", Refused("it ends after a long name"), &[long_link("a")]),
        case("has a content", Refused("with content"), &[link("l", "a").size(b"00000001000\0"), file("x")]),
        case("its name leads out", Refused(NAME), &[link("../l", "x")]),
        case("then a file through it", Refused("below something that is not a folder"), &[link("a", "b"), file("a/x")]),
        case("then a file in its place", Refused(TWICE), &[link("a", "b"), file("a")]),
        case("then a folder in its place", Refused(TWICE), &[link("a", "b"), folder("a/")]),
        case("in the place of a file", Refused(TWICE), &[file("a"), link("a", "b")]),
        case("in the place of a folder", Refused(TWICE), &[file("a/x"), link("a", "b")]),
        case("a chain that climbs at its end", Refused(OUTSIDE), &[link("a", "b"), link("b", "c"), link("c", "../..")]),
        case("a chain that climbs on its way", Refused(OUTSIDE), &[link("d/up", ".."), link("e", "d/up/../outside")]),
        case("a chain and a file through it", Refused(TWICE), &[link("a", "b"), link("b", "d"), file("a/b/x")]),
        case(
            "a circle",
            Taken(2, "it leads nowhere, and whoever opens it is told so"),
            &[link("a", "b"), link("b", "a")],
        ),
        case("to the top of the release", Taken(2, "it stays inside"), &[link("d/up", "..")]),
    ]
}

fn kinds(outside: &str) -> Vec<Case> {
    let hard = |target: &str| entry(b'1', "h", b"").put(157, target);
    let sparse = entry(b'S', "s", b"").put(483, "00001000000\0");
    vec![
        case("a hard link out", Refused("hard links"), &[hard(&format!("{outside}/secret"))]),
        case("a hard link that climbs", Refused("hard links"), &[hard("../../outside/secret")]),
        case("a hard link inside", Refused("hard links"), &[file("a"), hard("a")]),
        case("a hard link to a link", Refused("hard links"), &[link("a", "b"), hard("a")]),
        case(
            "a device of characters",
            Refused("devices"),
            &[entry(b'3', "null", b"").put(329, "0000001\x000000003\0")],
        ),
        case("a device of blocks", Refused("devices"), &[entry(b'4', "disk", b"").put(329, "0000010\x000000000\0")]),
        case("a pipe", Refused("`pipe`"), &[entry(b'6', "pipe", b"")]),
        case("a socket, which has no type of its own", Refused(TYPE), &[entry(b's', "socket", b"")]),
        case("a contiguous file", Refused(TYPE), &[entry(b'7', "a", b"x")]),
        case("a sparse file of GNU", Refused(TYPE), &[sparse]),
        case("a sparse file of pax", Refused(TYPE), &[pax(b'x', "GNU.sparse.realsize", "1099511627776"), file("a")]),
        case("a part of another volume", Refused(TYPE), &[entry(b'M', "a", b"x")]),
        case("a listing of a folder", Refused(TYPE), &[entry(b'D', "a", b"Yb\0\0")]),
        case("a label", Refused(TYPE), &[entry(b'V', "label", b"")]),
        case("another path by pax", Refused(TYPE), &[pax(b'x', "path", "../../outside/new"), file("a")]),
        case("another size by pax", Refused(TYPE), &[pax(b'x', "size", "0"), file("a")]),
        case("another target by pax", Refused(TYPE), &[pax(b'x', "linkpath", outside), link("l", "a")]),
        case("a path for all by pax", Refused(TYPE), &[pax(b'g', "path", "../../outside/new"), file("a")]),
        case("a pax head of a mebibyte", Refused(TYPE), &[pax(b'x', "comment", &"a".repeat(1 << 20)), file("a")]),
        case("a pax head of Solaris", Refused(TYPE), &[entry(b'X', "a", b"11 path=/x\n")]),
        case("runs as its owner", Refused("setuid"), &[file("su").mode(0o4755)]),
        case("runs as its group", Refused("setuid"), &[file("su").mode(0o2755)]),
        case("is sticky", Refused("sticky"), &[file("a").mode(0o1644)]),
        case("has a mode that is no number", Refused(DAMAGED), &[file("a").put(100, "rwxr-xr-")]),
        case("a folder for all to write", Taken(1, "the modes of folders are ours"), &[folder("a/").mode(0o3777)]),
        case("a folder with content", Refused("with content"), &[entry(b'5', "a/", b"x")]),
        case("a file of the oldest form", Taken(1, "a zero is the type of a file (POSIX)"), &[entry(0, "a", b"x")]),
        case("twice the same", Refused(TWICE), &[file("a"), file("b"), file("a")]),
        case("below a file", Refused("`a/b`"), &[file("a"), file("a/b")]),
        case("a file in the place of a folder", Refused(TWICE), &[file("a/b"), file("a")]),
        case("a folder in the place of a file", Refused(TWICE), &[file("a"), folder("a/")]),
        case("a folder with and without a slash", Taken(1, "it is the same folder"), &[folder("a/"), folder("a")]),
    ]
}

fn sizes() -> Vec<Case> {
    let sized = |field: &[u8; 12]| [file("big").size(field)];
    let whole = tar(&[file("a"), long_name("b".repeat(120)), file("b")]);
    let cut = |len: usize| &whole[..len];
    let mut bad_sum = tar(&[file("a")]);
    bad_sum[0] = b'b';
    vec![
        case(
            "negative in binary",
            Refused("size overflow"),
            &sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ),
        case("negative in octal", Refused("big"), &sized(b"-0000000001\0")),
        case("with a sign", Refused(SIZE), &sized(b"+0000000001\0")),
        case("no number", Refused("numeric field"), &sized(b"           \0")),
        case("two to the 88th and one", Refused(SIZE), &sized(b"\x80\x01\0\0\0\0\0\0\0\0\0\x01")),
        case("the largest in binary", Refused("size overflow"), &sized(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")),
        case("two to the 62nd", Refused("`big`"), &sized(b"\x80\0\0\0\x40\0\0\0\0\0\0\0")),
        case("eight gibibytes in a kilobyte", Refused("`big`"), &sized(b"77777777777\0")),
        case("one block too many", Refused("`big`"), &sized(b"00000003001\0")),
        case(
            "a record of eight gibibytes",
            Refused("longer than 4095"),
            &[long_name("a").size(b"77777777777\0"), file("a")],
        ),
        case(
            "binary and right",
            Taken(1, "GNU tar writes it so from 8 GiB on"),
            &sized(b"\x80\0\0\0\0\0\0\0\0\0\0\x01"),
        ),
        raw("a wrong sum", Refused("checksum mismatch"), &bad_sum),
        raw("cut in a head", Refused(DAMAGED), cut(100)),
        raw("cut in a content", Refused("`a`"), cut(BLOCK)),
        raw("cut in a padding", Refused("after `a`"), cut(BLOCK + 1)),
        raw("cut in the head of a record", Refused("after `a`"), cut(2 * BLOCK + 9)),
        raw("cut in a record", Refused("after `a`"), cut(3 * BLOCK + 9)),
        raw("cut behind a record", Refused("it ends after a long name"), cut(4 * BLOCK)),
        raw("cut before its end", Taken(2, "the hash tells better that all is there"), cut(6 * BLOCK)),
        raw("cut in its end", Taken(2, "the hash tells better that all is there"), cut(7 * BLOCK)),
        raw("cut within its end", Refused(DAMAGED), cut(6 * BLOCK + 7)),
        raw("nothing", Taken(0, "a release without files is refused by who looks for its program"), &[]),
        raw("zeros", Taken(0, "GNU tar fills its last record with them"), &[0; 20 * BLOCK]),
        raw("garbage behind its end", Refused(BEHIND), &[&whole[..], b"garbage"].concat()),
        raw("an entry behind the first empty block", Refused(BEHIND), &[&[0; BLOCK][..], &whole].concat()),
        raw("an archive behind its end", Refused(BEHIND), &[&whole[..], &whole[..]].concat()),
        raw("noise", Refused(DAMAGED), &(0..4096_u32).map(|n| ((n * n) >> 3) as u8).collect::<Vec<_>>()),
    ]
}

fn frames() -> Vec<Case> {
    let whole = tar(&[file("a")]);
    let packed = zstd::encode_all(&whole[..], LEVEL).unwrap();
    let of = |what, fate, zstd: Vec<u8>| Case { what, upload: Upload { zstd, ..honest(&whole) }, fate };
    let told = |what, sha256: &str, unpacked: u64| Case {
        what,
        upload: Upload { zstd: packed.clone(), sha256: sha256.into(), unpacked },
        fate: Refused(if unpacked > MAX_UNPACKED { "the limit is" } else { "" }),
    };
    let (hash, len) = (sha256(&whole), whole.len() as u64);
    let mut checked = zstd::Encoder::new(Vec::new(), LEVEL).unwrap();
    checked.include_checksum(true).unwrap();
    checked.write_all(&whole).unwrap();
    let mut checked = checked.finish().unwrap();
    *checked.last_mut().unwrap() ^= 1;
    let mut long = zstd::Encoder::new(Vec::new(), 1).unwrap();
    long.window_log(27).unwrap();
    long.write_all(&whole).unwrap();
    vec![
        told("the wrong hash", &sha256(b"another"), len),
        told("no hash", "", len),
        told("longer than announced", &hash, len - 512),
        told("shorter than announced", &hash, len + 512),
        told("larger than anything", &hash, MAX_UNPACKED + 1),
        told("as large as can be", &hash, u64::MAX),
        of(
            "two frames",
            Taken(1, "one stream (RFC 8878, 3.1); the hash is over both"),
            [frame(17, None, &whole[..700]), frame(17, None, &whole[700..])].concat(),
        ),
        of(
            "a frame to skip before it",
            Taken(1, "it says nothing (RFC 8878, 3.1.2)"),
            [skippable(b"x"), packed.clone()].concat(),
        ),
        of(
            "a frame to skip behind it",
            Taken(1, "it says nothing (RFC 8878, 3.1.2)"),
            [packed.clone(), skippable(b"x")].concat(),
        ),
        of("a frame to skip that is cut", Refused(DAMAGED), [&packed[..], &skippable(b"xyz")[..9]].concat()),
        of("garbage behind it", Refused(DAMAGED), [&packed[..], b"garbage"].concat()),
        of("a second release behind it", Refused(BEHIND), [packed.clone(), packed.clone()].concat()),
        of("cut at its start", Refused(DAMAGED), packed[..3].to_vec()),
        of("cut in its head", Refused(DAMAGED), packed[..5].to_vec()),
        of("cut in the middle", Refused(DAMAGED), packed[..packed.len() / 2].to_vec()),
        of("cut at its end", Refused(DAMAGED), packed[..packed.len() - 1].to_vec()),
        of("nothing", Refused(DAMAGED), Vec::new()),
        of("not compressed", Refused(DAMAGED), whole.clone()),
        of("compressed by gzip", Refused(DAMAGED), crate::archive::inflate::published::gzip(&whole)),
        of("its own sum is wrong", Refused(DAMAGED), checked),
        of("a window of 128 MiB", Refused(DAMAGED), {
            let mut frame = long.finish().unwrap();
            // It was told its length by nobody and has a window in its head.
            frame[5] = (27 - 10) << 3;
            frame
        }),
        of("a window of 2 GiB, as of --long=31", Refused(DAMAGED), frame(31, None, &whole)),
        of("the largest window that we take", Taken(1, "8 MiB of memory"), frame(23, None, &whole)),
        of("a window of twice that", Refused(DAMAGED), frame(24, None, &whole)),
        of("wants a dictionary", Refused(DAMAGED), frame(17, Some(7), &whole)),
        of("has a reserved bit", Refused(DAMAGED), {
            let mut frame = frame(17, None, &whole);
            frame[4] |= 8;
            frame
        }),
    ]
}

fn bombs() -> Vec<Case> {
    let zeros = |len: u64| {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), len), &mut zstd).unwrap();
        zstd.finish().unwrap()
    };
    let eight = entry(b'0', "zeros", &vec![0; 8 << 20]).bytes();
    // All in one folder that nearly takes the longest path there is.
    let folder = vec!["d".repeat(254); 15].join("/");
    let many: Vec<Entry> = (0..MAX_NAMES / 4000)
        .flat_map(|n| [long_name(format!("{folder}/{}{n:06}", "f".repeat(180))), entry(b'0', "f", b"")])
        .collect();
    vec![
        Case {
            what: "by ratio",
            upload: Upload { zstd: zeros(300 << 20), sha256: sha256(b""), unpacked: 300 << 20 },
            fate: Refused("times as many"),
        },
        Case {
            what: "by size, announced as less",
            upload: Upload {
                zstd: zstd::encode_all(&eight[..], LEVEL).unwrap(),
                sha256: sha256(b""),
                unpacked: 10_000,
            },
            fate: Refused("`zeros`"),
        },
        case("by names", Refused("bytes that are allowed"), &many),
    ]
}

/// Everything around: what it is, whose, since when, and what is in it.
fn around(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for (path, thing) in super::things(dir) {
        let meta = fs::symlink_metadata(dir.join(&path)).unwrap();
        // The time of a folder changes when something beside the archive comes and goes.
        let time = if meta.is_dir() { 0 } else { meta.mtime_nsec() };
        found.insert(path, format!("{:o} {} {time} {thing:?}", meta.mode(), meta.uid()));
    }
    found
}

/// Unpacks each in a world with something outside to reach for.
fn play(world: &Path) {
    fs::create_dir_all(world.join("outside/folder")).unwrap();
    fs::write(world.join("outside/secret"), "nobody's business").unwrap();
    let outside = world.join("outside");
    let outside = outside.to_str().unwrap();
    let chapters = [
        ("name", names(outside)),
        ("link", links(outside)),
        ("kind", kinds(outside)),
        ("size", sizes()),
        ("frame", frames()),
        ("bomb", bombs()),
    ];
    assert!(chapters.iter().map(|(_, cases)| cases.len()).sum::<usize>() >= 40);
    let mut wrong = Vec::new();
    for (chapter, cases) in chapters {
        for case in cases {
            let data = world.join("data");
            fs::create_dir(&data).unwrap();
            let what = format!("{chapter}: {}", case.what);
            // One that goes wrong does not hide the others.
            if std::panic::catch_unwind(|| meet(&what, case, world, &data)).is_err() {
                wrong.push(what);
            }
            fs::remove_dir_all(&data).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn meet(what: &str, case: Case, world: &Path, data: &Path) {
    let Upload { zstd, sha256, unpacked } = &case.upload;
    let (archive, into) = (data.join("upload.tar.zst"), data.join("into"));
    fs::write(&archive, zstd).unwrap();
    let before = around(world);

    let done = unpack(&archive, &into, sha256, *unpacked);
    let inside = if into.exists() { super::things(&into).len() } else { 0 };
    match (&case.fate, &done) {
        (Refused(why), Err(e)) => {
            assert_eq!(e.kind(), Kind::Refused, "{what}: {e}");
            assert!(e.to_string().contains(why), "{what}: {e}");
            assert!(!into.exists(), "{what}: left behind");
        }
        (Taken(count, reason), Ok(())) => {
            assert_eq!(inside, *count, "{what}: {reason}");
            confined(&into, &fs::canonicalize(&into).unwrap());
            fs::remove_dir_all(&into).unwrap();
        }
        (Taken(_, reason), Err(e)) => panic!("{what}: {reason}; but: {e}"),
        (Refused(_), Ok(())) => panic!("{what}: taken"),
    }
    assert!(around(world) == before, "{what}: something outside is not as it was");

    // Once more without the broom: what it could write until it was refused.
    if *unpacked > MAX_UNPACKED {
        return;
    }
    DirBuilder::new().mode(0o755).create(&into).unwrap();
    let again =
        fill_verified(decoder(File::open(&archive).unwrap()).unwrap(), &into, sha256, *unpacked, Bounds::default());
    let by_ratio = done.as_ref().is_err_and(|e| e.to_string().contains("times as many"));
    assert!(by_ratio || again.is_err() == done.is_err(), "{what}");
    assert!(confined(&into, &fs::canonicalize(&into).unwrap()) <= *unpacked, "{what}: more than was announced");
    if again.is_err() {
        let links = super::things(&into).into_values().filter(|thing| matches!(thing, super::Thing::Link(_)));
        assert_eq!(links.count(), 0, "{what}: links are made when all is verified");
    }
    fs::remove_dir_all(&into).unwrap();
    assert!(around(world) == before, "{what}: something outside is not as it was");
}

#[test]
fn writes_nothing_outside_whatever_is_sent() {
    play(scratch().path());
}

#[test]
#[allow(clippy::print_stdout)]
fn writes_nothing_outside_as_a_user_without_rights() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user; the test as the user who is here has run");
        return;
    }
    let dir = scratch();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let world = dir.path();
    std::thread::scope(|scope| {
        // Of this thread and those that it starts.
        let user = scope.spawn(|| {
            use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
            let (uid, gid) = (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            fs::write("/root/here", "").unwrap_err();
            play(world);
            assert_eq!(fs::metadata(world.join("outside")).unwrap().uid(), NOBODY);
        });
        user.join().unwrap();
    });
}

/// As [`unpack`] does it, with other bounds; how many files, links and folders were made by then.
fn within(bounds: Bounds, entries: &[Entry]) -> (Result<()>, usize) {
    let (dir, tar) = (scratch(), tar(entries));
    let done = fill_verified(&tar[..], dir.path(), &sha256(&tar), tar.len() as u64, bounds);
    (done, super::things(dir.path()).len())
}

#[test]
fn counts_what_it_makes_and_stops_at_the_bound() {
    let files: Vec<Entry> = (0..100).map(|n| file(format!("f{n}"))).collect();
    let bounds = |entries, names| Bounds { entries, names };
    assert!(within(bounds(100, 1000), &files).0.is_ok());
    let (done, made) = within(bounds(99, 1000), &files);
    assert_eq!((done.unwrap_err().kind(), made), (Kind::Refused, 99), "by count");
    let (done, made) = within(bounds(1000, 60), &files);
    assert_eq!(
        (done.unwrap_err().kind(), made),
        (Kind::Refused, 23),
        "by names: ten of two bytes and thirteen of three"
    );
    // Folders that only a path names are folders.
    let (done, made) = within(bounds(5, 1000), &[file("a/b/c/d/e/f")]);
    assert_eq!((done.unwrap_err().kind(), made), (Kind::Refused, 5), "by folders");
    // Where a link leads is in memory like its name.
    let (done, made) = within(bounds(10, 20), &[link("l", "x".repeat(20))]);
    assert_eq!((done.unwrap_err().kind(), made), (Kind::Refused, 0), "by targets");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_panics_on_noise(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        lab::unpack_foreign(&bytes, scratch().path());
    }

    /// What was good, with a few bytes changed and the sums put right again.
    #[test]
    fn never_leaves_the_folder_when_heads_are_changed(
        changes in proptest::collection::vec((0..5_usize, prop_oneof![0..265_usize, 345..500_usize], any::<u8>()), 1..12)
    ) {
        let mut entries =
            [folder("a/"), file("a/b"), link("a/l", "../c"), long_name("d".repeat(120)), file("d")];
        for (which, at, byte) in changes {
            entries[which] = entries[which].clone().put(at, [byte]);
        }
        lab::unpack_foreign(&tar(&entries), scratch().path());
    }
}
