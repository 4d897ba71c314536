//! The same files are the same bytes, whoever packs them, where and when.

#![allow(clippy::print_stdout)] // What a machine cannot show is said.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::super::pack::{pack, pack_with, write_tar};
use super::super::unpack::unpack;
use super::{listed, path, sha256, things};

/// Where a child of the tests finds what it packs, and whether it may use one processor alone.
const ROOT: &str = "TAKO_TEST_TREE";
const ALONE: &str = "TAKO_TEST_ALONE";
/// More than one worker has a part in it: each takes 4 MiB.
const LARGE: usize = 20 << 20;

/// One machine's copy of a project.
struct Copy {
    /// The order in which it is made.
    order: [usize; 6],
    plain: u32,
    program: u32,
    folder: u32,
    age: u64,
    owner: Option<u32>,
}

const HERE: Copy = Copy { order: [0, 1, 2, 3, 4, 5], plain: 0o644, program: 0o755, folder: 0o755, age: 0, owner: None };
const THERE: Copy =
    Copy { order: [5, 3, 0, 4, 2, 1], plain: 0o600, program: 0o700, folder: 0o700, age: 86_400, owner: None };

fn grow(root: &Path, copy: &Copy) {
    fs::create_dir_all(root).unwrap();
    let make = |which: usize| {
        let name = root.join(["readme", "bin/run", "bin/link", "empty", "Ärger -v", "large"][which]);
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        match which {
            2 => return symlink("../readme", &name).unwrap(),
            3 => fs::create_dir(&name).unwrap(),
            5 => fs::write(&name, large()).unwrap(),
            _ => fs::write(&name, name.file_name().unwrap().as_encoded_bytes()).unwrap(),
        }
        let mode = [copy.plain, copy.program, 0, copy.folder, copy.plain, copy.plain][which];
        fs::set_permissions(&name, fs::Permissions::from_mode(mode)).unwrap();
        File::open(&name).unwrap().set_modified(SystemTime::now() - Duration::from_secs(copy.age)).unwrap();
    };
    copy.order.into_iter().for_each(make);
    if let Some(owner) = copy.owner {
        for path in things(root).keys() {
            std::os::unix::fs::lchown(root.join(path), Some(owner), Some(owner)).unwrap();
        }
    }
}

/// Neither all alike nor all different, so that where one worker ends and another begins shows in the bytes.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"abcdefgh"[(state >> 29) as usize]
    };
    (0..LARGE).map(next).collect()
}

/// What was packed, as it lies on the disk.
fn packed(root: &Path, files: &[PathBuf], workers: usize) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a.tar.zst");
    let packed = pack_with(root, files, &out, workers).unwrap();
    let bytes = fs::read(&out).unwrap();
    assert_eq!(packed.bytes, bytes.len() as u64);
    let tar = zstd::decode_all(&bytes[..]).unwrap();
    assert_eq!((packed.sha256, packed.unpacked), (sha256(&tar), tar.len() as u64));
    bytes
}

#[test]
fn packs_the_same_bytes_whoever_does_it_and_when() {
    let dir = TempDir::new().unwrap();
    let [here, there] = ["here", "there"].map(|name| dir.path().join(name));
    let owner = rustix::process::geteuid().is_root().then_some(1234);
    if owner.is_none() {
        println!("only root can give files away: the owners are the same");
    }
    grow(&here, &HERE);
    grow(&there, &Copy { owner, ..THERE });
    let mut files = listed(&things(&here));
    let one = packed(&here, &files, 1);
    for workers in [2, 4, 7] {
        assert!(packed(&here, &files, workers) == one, "{workers} workers");
    }
    files.reverse();
    files.push(files[0].clone());
    assert!(packed(&there, &files, 4) == one, "another copy");

    match TempDir::new_in("/dev/shm") {
        Err(e) => println!("no other file system here: {e}"),
        Ok(memory) => {
            grow(&memory.path().join("tree"), &THERE);
            assert!(packed(&memory.path().join("tree"), &files, 3) == one, "another file system");
        }
    }
}

#[test]
fn a_mode_is_to_be_run_or_not() {
    let dir = TempDir::new().unwrap();
    let name = dir.path().join("a");
    let mut seen = Vec::new();
    for mode in [0o600, 0o644, 0o666, 0o4640, 0o700, 0o755, 0o711, 0o645, 0o2755] {
        fs::write(&name, "x").unwrap();
        fs::set_permissions(&name, fs::Permissions::from_mode(mode)).unwrap();
        seen.push(write_tar(dir.path(), &[path("a")], Vec::new()).unwrap().1);
        fs::remove_file(&name).unwrap();
    }
    assert!(seen[..4].iter().all(|tar| *tar == seen[0]) && seen[4..].iter().all(|tar| *tar == seen[4]));
    assert!(seen[0] != seen[4]);
}

/// What a packer with another umask, locale, time zone, folder and one processor says.
#[test]
fn packs_the_same_bytes_in_another_environment() {
    if let Some(root) = std::env::var_os(ROOT) {
        if std::env::var_os(ALONE).is_some() {
            stay_on_one_processor();
        }
        let (root, dir) = (PathBuf::from(root), TempDir::new().unwrap());
        let (out, into) = (dir.path().join("a.tar.zst"), dir.path().join("into"));
        let packed = pack(&root, &listed(&things(&root)), &out).unwrap();
        unpack(&out, &into, &packed.sha256, packed.unpacked).unwrap();
        assert_eq!(things(&into), things(&root));
        println!("tar={} zstd={}", packed.sha256, sha256(&fs::read(&out).unwrap()));
        return;
    }
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    grow(&tree, &HERE);
    let said = |umask: &str, locale: &str, zone: &str, folder: &str| {
        let mut child = Command::new("sh");
        child.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
        child.args(["--exact", "archive::tests::sameness::packs_the_same_bytes_in_another_environment", "--nocapture"]);
        child.env(ROOT, &tree).env("LC_ALL", locale).env("TZ", zone).current_dir(folder);
        if umask == "000" {
            child.env(ALONE, "1");
        }
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines().find(|line| line.contains("zstd=")).expect("it says what it packed").to_string()
    };
    let here = said("022", "C.UTF-8", "UTC", "/tmp");
    assert_eq!(said("077", "tr_TR.UTF-8", "Asia/Tokyo", "/"), here);
    assert_eq!(said("000", "C", "America/New_York", "/usr"), here);
}

/// Of this thread, which is the one that asks how many there are.
fn stay_on_one_processor() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("we run on one"));
    sched_setaffinity(None, &one).unwrap();
    assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
}
