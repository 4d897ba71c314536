//! Runtimes from a mirror on loopback that does its worst.

mod starting;

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;
use crate::archive::inflate::published::{gzip, zip};
use crate::proto::target::{Arch, Libc};
use web::{Page, Web};

#[path = "../../../tests/it/web.rs"]
mod web;

const BUN: &str = "/bun/bun-v99.2.3/bun-linux-x64.zip";
const BUN_SUMS: &str = "/bun/bun-v99.2.3/SHASUMS256.txt";
const NODE: &str = "/node/v9.8.7/node-v9.8.7-linux-x64.tar.gz";
const NODE_SUMS: &str = "/node/v9.8.7/SHASUMS256.txt";
const DENO: &str = "/deno/v3.2.1/deno-x86_64-unknown-linux-gnu.zip";

struct World {
    _dir: tempfile::TempDir,
    layout: Arc<Layout>,
    web: Web,
    runtimes: Runtimes,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().into()));
    let web = Web::start();
    let mirror = Mirror::parse(&web.url());
    assert!(mirror.is_some());
    let target = Target { arch: Arch::X86_64, libc: Libc::Glibc };
    let mut runtimes = Runtimes::new(layout.clone(), target, mirror);
    runtimes.machine.avx2 = true;
    World { _dir: dir, layout, web, runtimes }
}

fn says(version: &str) -> Vec<u8> {
    format!("#!/bin/sh\necho '{version}'\n").into_bytes()
}

fn bun() -> Vec<u8> {
    zip(&[("bun-linux-x64/bun", &says("99.2.3"), true)])
}

fn sum(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish()
}

fn manifest(runtime: &str, version: &str) -> Manifest {
    let json = format!(
        r#"{{"app":"shop","version":"v1","runtime":"{runtime}","runtime_version":"{version}","main":"index.js"}}"#
    );
    serde_json::from_str(&json).unwrap()
}

impl World {
    fn provide(&self, runtime: &str, version: &str) -> (Result<PathBuf>, Vec<String>) {
        let mut said = Vec::new();
        let done = self.runtimes.provide(
            &manifest(runtime, version),
            None,
            &mut |what| said.push(what),
            &AtomicBool::new(false),
        );
        (done.map(|program| program.expect("it has a runtime")), said)
    }

    /// It is refused, in these words, and nothing of it stays.
    fn refuses(&self, runtime: &str, version: &str, kind: Kind, words: &[&str]) {
        let (done, _) = self.provide(runtime, version);
        let e = done.unwrap_err();
        let text = format!("{e} | {}", e.next_step().unwrap_or_default());
        assert_eq!(e.kind(), kind, "{text}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
        assert_eq!(self.left(), Vec::<String>::new());
    }

    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.layout.runtimes()).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn brings_a_program_that_lies_in_a_zip_archive() {
    let w = world();
    w.web.publish(BUN, BUN_SUMS, &sum(&bun()), Page::Whole(bun()));
    let (program, said) = w.provide("bun", "99.2.3");
    let program = program.unwrap();
    assert_eq!(program, w.layout.runtimes().join("bun/99.2.3/bin/bun"));
    assert_eq!(version_of(&w.layout, &program).as_deref(), Some("99.2.3"));
    assert_eq!(said, ["download bun 99.2.3", "unpack bun 99.2.3"]);
    assert_eq!(w.left(), ["bun"]);
    for dir in ["", "bun", "bun/99.2.3", "bun/99.2.3/bin", "bun/99.2.3/bin/bun"] {
        let mode = fs::metadata(w.layout.runtimes().join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "every app may reach {dir:?}");
    }
    // From now on it is here, for the start of an app too.
    assert_eq!(w.provide("bun", "99.2.3").1, Vec::<String>::new());
    assert_eq!(launch(&w.layout, &manifest("bun", "99.2.3")).unwrap().argv[0], *program);
    assert_eq!(w.web.asked(BUN), 1);
}

#[test]
fn brings_deno_whose_sum_has_a_file_of_its_own() {
    let w = world();
    let archive = zip(&[("deno", &says("deno 3.2.1 (stable)"), true)]);
    w.web.publish(DENO, &format!("{DENO}.sha256sum"), &sum(&archive), Page::Whole(archive));
    assert_eq!(w.provide("deno", "3.2.1").0.unwrap(), w.layout.runtimes().join("deno/3.2.1/bin/deno"));
}

/// As node's own archives are: one folder, npm as a link into `lib`, headers.
fn node(extra: Option<(&str, tar::EntryType)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let root = "node-v9.8.7-linux-x64";
    let mut add = |name: &str, kind, mode, content: &[u8], link: &str| {
        let mut head = tar::Header::new_gnu();
        head.set_entry_type(kind);
        head.set_mode(mode);
        head.set_size(content.len() as u64);
        if !link.is_empty() {
            head.set_link_name_literal(link).unwrap();
        }
        // Past the builder's own checks, as somebody hostile would.
        head.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        head.set_cksum();
        tar.append(&head, content).unwrap();
    };
    use tar::EntryType::{Directory, Regular, Symlink};
    add(&format!("{root}/"), Directory, 0o755, b"", "");
    add(&format!("{root}/include/node/node.h"), Regular, 0o644, b"int", "");
    add(&format!("{root}/lib/node_modules/npm/bin/npm-cli.js"), Regular, 0o755, &says("npm"), "");
    add(&format!("{root}/bin/node"), Regular, 0o755, &says("v9.8.7"), "");
    add(&format!("{root}/bin/npm"), Symlink, 0o777, b"", "../lib/node_modules/npm/bin/npm-cli.js");
    if let Some((name, kind)) = extra {
        add(name, kind, 0o644, b"", if kind == Symlink { "/etc/passwd" } else { "" });
    }
    gzip(&tar.into_inner().unwrap())
}

#[test]
fn brings_node_with_its_npm() {
    let w = world();
    let archive = node(None);
    w.web.publish(NODE, NODE_SUMS, &sum(&archive), Page::Whole(archive));
    let program = w.provide("node", "9.8.7").0.unwrap();
    assert_eq!(program, w.layout.runtimes().join("node/9.8.7/bin/node"));
    let npm = find_tool("npm", &[program.parent().unwrap().into()]).unwrap();
    assert_eq!(npm, program.with_file_name("npm"));
    assert!(!w.layout.runtimes().join("node/9.8.7/include").exists());
}

#[test]
fn nothing_is_laid_out_beside_the_tool() {
    use tar::EntryType::{Fifo, Regular, Symlink};
    for (name, kind) in [
        ("node-v9.8.7-linux-x64/../../../../escaped", Regular),
        ("/tmp/escaped-from-a-tar", Regular),
        ("node-v9.8.7-linux-x64/leak", Symlink),
        ("node-v9.8.7-linux-x64/pipe", Fifo),
        ("node-v9.8.7-linux-x64/bin/node", Regular),
    ] {
        let w = world();
        let archive = node(Some((name, kind)));
        w.web.publish(NODE, NODE_SUMS, &sum(&archive), Page::Whole(archive));
        // An absolute name loses its first part as any other does, and lands inside.
        match name.starts_with('/') {
            true => drop(w.provide("node", "9.8.7").0.unwrap()),
            false => w.refuses("node", "9.8.7", Kind::Refused, &["unpack node-v9.8.7-linux-x64.tar.gz"]),
        }
        assert!(!Path::new("/tmp/escaped-from-a-tar").exists());
    }
}

#[test]
fn refuses_what_is_not_what_was_published() {
    let w = world();
    w.web.publish(BUN, BUN_SUMS, &"a".repeat(64), Page::Whole(bun()));
    w.refuses("bun", "99.2.3", Kind::Refused, &["download bun 99.2.3", &w.web.url(), "checksum", "is wrong"]);
    // Nor what has no published sum at all.
    w.web.put(BUN_SUMS, Page::Whole(format!("{}  bun-darwin-x64.zip\n", sum(&bun())).into()));
    w.refuses("bun", "99.2.3", Kind::Refused, &["no checksum of bun-linux-x64.zip"]);
    w.web.put(BUN_SUMS, Page::Whole("<html>sign in</html>".into()));
    w.refuses("bun", "99.2.3", Kind::Refused, &["no checksum"]);
    assert_eq!(w.web.asked(BUN), 1, "without a sum nothing is downloaded");
}

#[test]
fn says_how_much_came_when_it_was_cut_short() {
    let w = world();
    let len = bun().len();
    w.web.publish(BUN, BUN_SUMS, &sum(&bun()), Page::Cut(bun(), len / 2));
    let words = format!("ended after {} of {len} bytes", len / 2);
    w.refuses("bun", "99.2.3", Kind::Unreachable, &["download bun 99.2.3", &words, "--runtime-mirror"]);
}

#[test]
fn does_not_wait_for_a_mirror_that_hangs() {
    let mut w = world();
    w.runtimes.patience.silence = Duration::from_millis(300);
    w.web.publish(BUN, BUN_SUMS, &sum(&bun()), Page::Silent(bun(), 10));
    // On a busy machine that time may be over before the ten bytes are here.
    until("it says how much came", || {
        let e = w.provide("bun", "99.2.3").0.unwrap_err();
        assert_eq!((e.kind(), w.left()), (Kind::Timeout, vec![]), "{e}");
        e.to_string().contains("download bun 99.2.3") && e.to_string().contains("fell silent after 10 of")
    });
    w.web.put(BUN_SUMS, Page::Silent(b"x".repeat(1000), 0));
    w.refuses("bun", "99.2.3", Kind::Timeout, &["download bun 99.2.3", "did not answer in time"]);
    w.web.put(BUN_SUMS, Page::Held(vec![]));
    w.refuses("bun", "99.2.3", Kind::Timeout, &["download bun 99.2.3", "did not answer in time"]);
}

#[test]
fn says_when_there_is_no_such_version_and_when_nobody_is_there() {
    let w = world();
    w.refuses("bun", "99.2.4", Kind::NotFound, &["there is no bun 99.2.4 at", "runtime_version"]);
    w.refuses("bun", "99.2", Kind::Refused, &["not a whole version"]);
    let offline =
        World { runtimes: Runtimes { mirror: Mirror::parse("http://127.0.0.1:1"), ..world().runtimes }, ..world() };
    let offline = World { layout: offline.runtimes.layout.clone(), ..offline };
    offline.refuses("bun", "99.2.3", Kind::Unreachable, &["connection refused", "HTTPS_PROXY", "PATH of tako-server"]);
}

#[test]
fn refuses_what_does_not_run_here_or_is_not_an_archive() {
    let w = world();
    for (content, words) in [
        (zip(&[("bun-linux-x64/bun", b"\x7fELF of another machine", true)]), "does not run on this server"),
        (zip(&[("bun-darwin-x64/bun", b"x", true)]), "there is no `bun-linux-x64/bun` in it"),
        (b"<html>".to_vec(), "not a zip archive"),
    ] {
        w.web.publish(BUN, BUN_SUMS, &sum(&content), Page::Whole(content));
        let (done, _) = w.provide("bun", "99.2.3");
        let e = done.unwrap_err();
        assert!(e.to_string().contains(words), "{e}");
        assert_eq!(w.left(), Vec::<String>::new());
    }
}

#[test]
fn a_server_without_a_way_out_goes_on_with_a_close_version_that_it_has() {
    let Ok(node) = find_tool("node", &[]) else { return };
    let mut w = world();
    w.runtimes.mirror = Mirror::parse("http://127.0.0.1:1");
    let found = version_of(&w.layout, &node).unwrap();
    let major = found.split('.').next().unwrap();
    let (done, said) = w.provide("node", &format!("{major}.999.0"));
    assert_eq!(done.unwrap(), node);
    assert_eq!(said[1], format!("use node {found} of this server, {major}.999.0 could not be downloaded"));
    assert_eq!(launch(&w.layout, &manifest("node", &format!("{major}.999.0"))).unwrap().argv[0], *node);
    // Another major version is another runtime; and a mirror that answers is believed.
    w.refuses("node", "999.0.0", Kind::Unreachable, &["connection refused"]);
    w.runtimes.mirror = Mirror::parse(&w.web.url());
    w.refuses("node", &format!("{major}.999.0"), Kind::NotFound, &["there is no node"]);
}

#[test]
fn two_deploys_at_once_download_once() {
    let w = world();
    w.web.publish(BUN, BUN_SUMS, &sum(&bun()), Page::Held(bun()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| w.provide("bun", "99.2.3"));
        until("the first one downloads", || w.web.asked(BUN) == 1);
        let (waits, heard) = std::sync::mpsc::channel();
        let second = scope.spawn({
            let w = &w;
            move || {
                let manifest = manifest("bun", "99.2.3");
                w.runtimes.provide(&manifest, None, &mut |what| waits.send(what).unwrap(), &AtomicBool::new(false))
            }
        });
        let patience = Duration::from_secs(30);
        assert_eq!(heard.recv_timeout(patience).unwrap(), "wait for bun 99.2.3, which another deploy downloads");
        // One whose client goes does not wait any longer.
        let gone = AtomicBool::new(true);
        let e = w.runtimes.provide(&manifest("bun", "99.2.3"), None, &mut |_| {}, &gone).unwrap_err();
        assert_eq!(e.kind(), Kind::Interrupted);
        w.web.let_go();
        let first = first.join().unwrap().0.unwrap();
        assert_eq!(second.join().unwrap().unwrap(), Some(first));
    });
    assert_eq!(w.web.asked(BUN), 1);
}

#[test]
fn when_the_first_one_fails_the_second_tries_itself() {
    let w = world();
    w.web.publish(BUN, BUN_SUMS, &"a".repeat(64), Page::Held(bun()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| w.provide("bun", "99.2.3"));
        until("the first one downloads", || w.web.asked(BUN) == 1);
        let second = scope.spawn(|| w.provide("bun", "99.2.3"));
        w.web.publish(BUN, BUN_SUMS, &sum(&bun()), Page::Whole(bun()));
        w.web.let_go();
        assert_eq!(first.join().unwrap().0.unwrap_err().kind(), Kind::Refused);
        second.join().unwrap().0.unwrap();
    });
    assert_eq!(w.web.asked(BUN), 2);
}

#[test]
fn a_client_that_goes_stops_the_download() {
    let w = world();
    w.web.publish(BUN, BUN_SUMS, &sum(&bun()), Page::Whole(bun()));
    let gone = AtomicBool::new(true);
    let e = w.runtimes.provide(&manifest("bun", "99.2.3"), None, &mut |_| {}, &gone).unwrap_err();
    assert_eq!((e.kind(), w.left()), (Kind::Interrupted, vec![]));
}

#[test]
fn what_an_earlier_run_was_fetching_is_removed() {
    let w = world();
    let left = w.layout.runtimes().join(".bun-99.2.3.0.staging");
    fs::create_dir_all(left.join("tool")).unwrap();
    Runtimes::new(w.layout.clone(), Target { arch: Arch::X86_64, libc: Libc::Glibc }, None);
    assert!(!left.exists());
}

#[test]
fn a_program_that_apps_cannot_reach_is_copied_for_them() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else has users for apps
    }
    let w = world();
    // As after an installer's script that was run by root.
    let theirs = w.layout.data().join("root/.bun/bin/bun");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::copy("/bin/true", &theirs).unwrap();
    fs::set_permissions(theirs.ancestors().nth(3).unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(w.layout.data(), fs::Permissions::from_mode(0o711)).unwrap();
    let user = User { uid: 70_005, gid: 70_005 };
    let reach = |program: &Path| reach::reachable(&w.layout, Runtime::Bun, program.into(), Some(user));
    // Debian's `true` says its version as any GNU program does.
    let copy = reach(&theirs).unwrap();
    assert!(copy.starts_with(w.layout.runtimes()) && may_start(&copy, user), "{}", copy.display());
    assert_eq!(reach(&theirs).unwrap(), copy);
    assert_eq!(reach(Path::new("/bin/true")).unwrap(), Path::new("/bin/true"));
    fs::write(&theirs, says("99.2.3")).unwrap();
    let e = reach(&theirs).unwrap_err();
    assert!(e.to_string().contains("it is a script") && e.next_step().unwrap().contains("/usr/local/bin"), "{e}");
    assert_eq!(w.left(), ["bun"]);
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
