use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

use tar::EntryType;

use super::stream::{pack, unpack};
use super::*;

const ALL: Wanted<'_> = Wanted { enters: &|_| true, ships: &|_| true };

/// An entry as it stands in a tar, whatever it says.
struct Raw {
    kind: EntryType,
    name: &'static [u8],
    link: &'static [u8],
    content: &'static [u8],
    mode: u32,
    size: Option<u64>,
}

const FILE: Raw = Raw { kind: EntryType::Regular, name: b"src/a", link: b"", content: b"x", mode: 0o644, size: None };

fn tar_of(entries: &[Raw]) -> Vec<u8> {
    let mut tar = Vec::new();
    for Raw { kind, name, link, content, mode, size } in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_mode(*mode);
        header.set_size(size.unwrap_or(content.len() as u64));
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Unpacks beside a file that must stay as it is, and tells what there is then.
fn unpacked(tar: &[u8], wanted: &Wanted<'_>) -> (Result<bool>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("tree");
    fs::create_dir(&into).unwrap();
    fs::write(dir.path().join("outside"), "mine").unwrap();
    let result = unpack(&mut &*tar, "src", &into, wanted);
    assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "mine");
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
    let mut found = Vec::new();
    let mut open = vec![into.clone()];
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(&into).unwrap().display().to_string();
            if meta.is_dir() {
                found.push(format!("{name}/"));
                open.push(path);
            } else if meta.is_symlink() {
                found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else {
                let mode = meta.permissions().mode() & 0o7777;
                found.push(format!("{name} {mode:o} {}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    (result, found)
}

#[test]
fn a_tree_goes_in_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let long = "long/".repeat(40) + "name";
    for (name, content) in [("a", "1"), ("b/c", "2"), (long.as_str(), "3"), ("ünï/cödé", "4")] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), content).unwrap();
    }
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(tree.join("empty")).unwrap();
    symlink("../a", tree.join("b/link")).unwrap();
    // The packages of this machine stay here.
    symlink("/somewhere/node_modules", tree.join("node_modules")).unwrap();
    let mut tar = Vec::new();
    pack(&tree, "/tako/src", &mut tar).unwrap();
    let names = |tar: &[u8]| -> Vec<String> {
        let mut tar = tar::Archive::new(tar);
        tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
    };
    assert_eq!(names(&tar)[..3], ["tako", "tako/src", "tako/src/a"]);
    let back = dir.path().join("back");
    fs::create_dir(&back).unwrap();
    // Docker names what it sends after the last part alone.
    let mut renamed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&*tar).entries().unwrap().skip(1) {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().strip_prefix("tako").unwrap().to_path_buf();
        let mut header = entry.header().clone();
        match entry.link_name().unwrap().map(|link| link.into_owned()) {
            Some(link) => renamed.append_link(&mut header, path, link).unwrap(),
            None => renamed.append_data(&mut header, path, &mut entry).unwrap(),
        }
    }
    assert!(unpack(&mut &*renamed.into_inner().unwrap(), "src", &back, &ALL).unwrap());
    for (name, content) in [("a", "1"), ("b/c", "2"), (long.as_str(), "3"), ("ünï/cödé", "4"), ("b/link", "1")] {
        assert_eq!(fs::read_to_string(back.join(name)).unwrap(), content, "{name}");
    }
    assert_eq!(fs::metadata(back.join("a")).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(back.join("empty").is_dir() && back.join("node_modules").symlink_metadata().is_err());
}

#[test]
fn what_a_hostile_image_sends_stays_inside_or_is_refused() {
    let refused = |entries: &[Raw], why: &str| {
        let (result, found) = unpacked(&tar_of(entries), &ALL);
        let e = result.expect_err(why);
        assert!(matches!(e.kind(), Kind::Refused | Kind::Io), "{why}: {e:?}");
        assert!(found.iter().all(|f| !f.contains("evil")), "{why}: {found:?}");
    };
    refused(&[Raw { name: b"src/../outside", ..FILE }], "climbs out");
    refused(&[Raw { name: b"/src/a", ..FILE }], "absolute");
    refused(&[Raw { name: b"../outside", ..FILE }], "climbs at once");
    refused(&[Raw { name: b"other/a", ..FILE }], "is elsewhere");
    refused(&[Raw { name: b"", ..FILE }], "has no name");
    refused(&[Raw { name: b"src/a\x1b[2J", ..FILE }], "has control characters");
    refused(&[FILE, Raw { content: b"evil", ..FILE }], "is there twice");
    refused(&[FILE, Raw { name: b"src/a/b", content: b"evil", ..FILE }], "is below a file");
    refused(&[Raw { size: Some(1 << 40), ..FILE }], "is larger than the disk");
    refused(&[Raw { size: Some(4096), ..FILE }], "is cut short");
    let link = |name, link| Raw { kind: EntryType::Symlink, name, link, content: b"", ..FILE };
    refused(&[link(b"src/l", b"/etc")], "links to an absolute path");
    refused(&[link(b"src/l", b"../outside")], "links out");
    refused(&[link(b"src/d/l", b"x/../../../outside")], "links out on a detour");
    // Links come last: what is written below one is written into a folder of that name, which the link then finds.
    refused(&[link(b"src/l", b"d"), Raw { name: b"src/l/outside", ..FILE }], "writes through a link");
    let hard = |name, link| Raw { kind: EntryType::Link, name, link, content: b"", ..FILE };
    refused(&[hard(b"src/h", b"../outside")], "is a second name of something outside");
    refused(&[hard(b"src/h", b"/etc/passwd")], "is a second name of an absolute path");
    let pax = |content| Raw { kind: EntryType::XHeader, name: b"src/pax", content, ..FILE };
    refused(&[pax(b"23 path=src/../outside\n"), FILE], "climbs out by a long name");
    refused(&[pax(b"19 size=1000000000\n"), FILE], "has a second size");
    refused(&[pax(b"nonsense"), FILE], "has a broken record");
}

#[test]
fn what_a_build_really_leaves_behind_comes_out() {
    let link = |name, link| Raw { kind: EntryType::Symlink, name, link, content: b"", ..FILE };
    let hard = |name, link| Raw { kind: EntryType::Link, name, link, content: b"", ..FILE };
    let tar = tar_of(&[
        Raw { kind: EntryType::Directory, name: b"src/", content: b"", mode: 0o700, ..FILE },
        Raw { name: b"src/target/deps/app-1", content: b"elf", mode: 0o6755, ..FILE },
        hard(b"src/target/app", b"src/target/deps/app-1"),
        link(b"src/latest", b"target/app"),
        Raw { kind: EntryType::Fifo, name: b"src/pipe", content: b"", ..FILE },
        Raw { kind: EntryType::Char, name: b"src/null", content: b"", ..FILE },
        link(b"src/.venv/bin/python", b"/usr/bin/python3"),
        Raw { name: b"src/node_modules/x/i.js", ..FILE },
    ]);
    let wanted = Wanted { enters: &|dir| !dir.ends_with("node_modules"), ships: &|path| !path.starts_with(".venv") };
    let (result, found) = unpacked(&tar, &wanted);
    assert!(result.unwrap());
    let expected = [
        ".venv/",
        ".venv/bin/",
        "latest -> target/app",
        "target/",
        "target/app 755 elf",
        "target/deps/",
        "target/deps/app-1 755 elf",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_second_name_of_what_was_left_out_is_noticed() {
    let hard = |name, link| Raw { kind: EntryType::Link, name, link, content: b"", ..FILE };
    let tar = tar_of(&[Raw { name: b"src/node_modules/x", ..FILE }, hard(b"src/out", b"src/node_modules/x")]);
    let without = Wanted { enters: &|dir| !dir.ends_with("node_modules"), ships: &|_| true };
    assert!(!unpacked(&tar, &without).0.unwrap());
    let (result, found) = unpacked(&tar, &ALL);
    assert!(result.unwrap() && found.contains(&"out 644 x".to_string()), "{found:?}");
}

/// Cut anywhere and flipped anywhere, a stream is an error or a tree inside.
#[test]
fn no_stream_makes_it_stumble() {
    let tar = tar_of(&[Raw { kind: EntryType::XHeader, name: b"p", content: b"14 path=src/b\n", ..FILE }, FILE]);
    for length in (0..tar.len()).step_by(37) {
        let _ = unpacked(&tar[..length], &ALL);
    }
    for at in (0..tar.len()).step_by(7) {
        let mut broken = tar.clone();
        broken[at] ^= 0xff;
        let _ = unpacked(&broken, &ALL);
    }
}

#[test]
fn who_reads_no_further_ends_the_packing() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(pack(dir.path(), "/tako/src", &mut Closed).is_err());
}

#[test]
fn docker_is_used_when_somebody_says_so() {
    let target = Target::parse("linux-x86_64-musl").unwrap();
    let check = |container, named, image, expected: Option<&str>| {
        assert_eq!(Where::of(container, named, image).unwrap().image(target), expected, "{container:?} {named}");
    };
    check(None, false, None, None);
    check(None, true, None, Some(IMAGE_MUSL));
    check(Some(true), false, None, Some(IMAGE_MUSL));
    check(Some(false), true, None, None);
    check(None, true, Some("me/x"), Some("me/x"));
    let glibc = Target::parse("linux-aarch64-glibc").unwrap();
    assert_eq!(Where::Container { image: None }.image(glibc), Some(IMAGE_GLIBC));
    let e = Where::of(Some(false), true, Some("me/x")).unwrap_err();
    assert!(e.kind() == Kind::Config && e.next_step().unwrap().contains("container = true"), "{e}");
}
