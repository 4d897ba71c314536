//! A disk that is full: at every page and at every file that a deploy would write, on a small file system of the test's
//! own. Nothing of this is played: the kernel says no.
//!
//! Each test runs in a mount namespace of its own, as this program started again: what it mounts is seen by nobody else
//! and goes with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FallocateFlags;
use serde_json::{Value, json};

use crate::alone;
use crate::builds::Shop;
use crate::cli::skipped;
use crate::http::Client;
use crate::published::zip;
use crate::relay::Relay;
use crate::sandbox::{Control, HOST, Ran, Server, Sshd, User, wait_for};
use crate::uploads::noise;
use crate::web::{Page, Web};

/// Enough for a release beside what the server wants to keep free.
const SIZE: u64 = 96 << 20;
const INODES: u64 = 20_000;
/// What a deploy writes is less than this, in pages or in files.
const MOST: u64 = 200;
/// tmpfs gives space by the page.
const PAGE: u64 = 4096;
const BUN: &str = "/bun/bun-v1.2.3";

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Short {
    Pages,
    Files,
}

fn is_alone(test: &str) -> bool {
    may_mount(&format!("full_disk::{test}"))
}

/// Whether this is the program that was started again; the others start it. Without root there is nothing to mount.
pub fn may_mount(test: &str) -> bool {
    if alone::is_alone() {
        return true;
    }
    match rustix::process::geteuid().is_root() {
        true => alone::again(test, &["-m"]),
        false => skipped("root, who can mount a small file system,"),
    }
    false
}

/// A small file system on a folder.
pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(at: &Path) -> Disk {
        let options = format!("size={SIZE},nr_inodes={INODES},mode=755");
        mount(&["-t", "tmpfs", "-o", &options, "small"], at);
        // There is no room to make it when all files are taken.
        fs::write(at.join("filler"), "").unwrap();
        Disk(at.into())
    }

    /// Takes everything but so much.
    pub fn leave(&self, short: Short, count: u64) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        match short {
            Short::Pages => {
                let taken = File::options().write(true).open(self.0.join("filler")).unwrap();
                let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(count * PAGE);
                if bytes > 0 {
                    rustix::fs::fallocate(&taken, FallocateFlags::empty(), 0, bytes).unwrap();
                }
            }
            Short::Files => {
                let inodes = stat.f_files - stat.f_ffree + count;
                mount(&["-o", &format!("remount,nr_inodes={inodes}")], &self.0);
            }
        }
    }

    pub fn make_room(&self) {
        fs::write(self.0.join("filler"), "").unwrap();
        mount(&["-o", &format!("remount,nr_inodes={INODES}")], &self.0);
    }
}

/// A server whose data lie on a file system of their own.
struct World {
    server: Server,
    disk: Disk,
    web: Web,
}

impl World {
    fn start() -> World {
        let web = Web::start();
        let bun = zip(&[
            ("bun-linux-x64/bun", b"#!/bin/sh\necho 1.2.3\n", true),
            ("bun-linux-x64-baseline/bun", b"#!/bin/sh\necho 1.2.3\n", true),
            ("bun-linux-aarch64/bun", b"#!/bin/sh\necho 1.2.3\n", true),
        ]);
        let sum = ring::digest::digest(&ring::digest::SHA256, &bun);
        let sum: String = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let mut sums = String::new();
        for build in ["bun-linux-x64", "bun-linux-x64-baseline", "bun-linux-aarch64"] {
            web.put(&format!("{BUN}/{build}.zip"), Page::Whole(bun.clone()));
            sums += &format!("{sum}  {build}.zip\n");
        }
        web.put(&format!("{BUN}/SHASUMS256.txt"), Page::Whole(sums.into()));

        let server = Server::nowhere();
        let disk = Disk::mount(server.dir.path());
        World { server, disk, web }
    }

    fn boot(&mut self) {
        let mirror = self.web.url();
        self.server.boot_with(&["--runtime-mirror", &mirror, "--access-log", "off"]);
    }

    /// All that the state says but what it tells of deploys that failed.
    fn state(&self) -> Option<Value> {
        let bytes = fs::read(self.server.app("shop").join("state.json")).ok()?;
        let mut state: Value = serde_json::from_slice(&bytes).unwrap();
        state.as_object_mut().unwrap().remove("failed");
        Some(state)
    }

    fn serves(&self, version: &str) {
        let answer = Client::plain(self.server.http, HOST).unwrap().get("/").unwrap();
        assert_eq!((answer.status, answer.text()), (200, format!("{version} with the key of {version}")));
        assert_eq!(self.server.current("shop").as_deref(), Some(version));
    }

    /// Deploys `version`; before the given verb the disk gets full. What that verb said when it failed.
    fn deploy(&self, version: &str, full: Option<(&str, Short, u64)>) -> Result<(), (String, Value)> {
        let mut control = Control::open(&self.server).expect("the server answers");
        control.call(json!({"lock": {"app": "shop", "version": version}})).unwrap();
        let artifact = self.upload(version);
        let install = json!(["sh", "-c", "echo installing && mkdir -p made && echo done > made/it"]);
        let mut manifest = json!({"app": "shop", "version": version, "runtime": "node", "main": "index.mjs",
                                  "install": install, "vars": {"COLOR": version}});
        let prepared = json!({"prepare": {"manifest": manifest}});
        // A runtime of that version is nowhere; what is started is node all the same.
        manifest["runtime"] = json!("bun");
        manifest["runtime_version"] = json!("1.2.3");
        manifest["install"] = json!([]);
        let fetched = json!({"prepare": {"manifest": manifest}});
        let secrets = json!({"hash": version, "values": {"KEY": format!("key of {version}")}});
        let order = json!({"manifest": prepared["prepare"]["manifest"], "routes": [HOST], "instances": 1,
                           "secrets": secrets});
        let verbs = [
            ("unpack", json!({"unpack": {"app": "shop", "version": version, "artifact": artifact}})),
            ("fetch", fetched),
            ("prepare", prepared),
            ("deploy", json!({"deploy": order})),
        ];
        let mut done = Ok(());
        for (name, request) in verbs {
            let is_full = full.is_some_and(|(at, ..)| at == name);
            if name == "prepare" {
                // It was prepared by now, as a release of bun.
                let _ = fs::remove_file(self.server.app("shop").join("releases").join(version).join(".prepared"));
            }
            if let Some((_, short, count)) = full.filter(|_| is_full) {
                self.disk.leave(short, count);
            }
            if let Err(fault) = control.call(request) {
                done = Err((name.to_owned(), fault));
                break;
            }
            if is_full && name != "deploy" {
                break;
            }
        }
        control.call(json!({"unlock": {"app": "shop"}})).unwrap();
        done
    }

    fn upload(&self, version: &str) -> Value {
        let code = "const answer = `${process.env.TAKO_BUILD} with the ${process.env.KEY ?? 'no key'}`;\n\
                    export default { fetch: () => new Response(answer) };\n";
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &str| {
            let mut head = tar::Header::new_gnu();
            head.set_size(content.len() as u64);
            head.set_mode(0o644);
            tar.append_data(&mut head, name, content.as_bytes()).unwrap();
        };
        add("index.mjs", code);
        add("lib/deep/data.txt", &version.repeat(2000));
        add("public/site.css", version);
        let tar = tar.into_inner().unwrap();
        let packed = zstd::encode_all(&tar[..], 1).unwrap();
        let file = format!("{version}.tar.zst");
        fs::write(self.server.data().join("incoming").join(&file), &packed).unwrap();
        let sha256 = ring::digest::digest(&ring::digest::SHA256, &tar);
        let sha256: String = sha256.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        json!({"file": file, "sha256": sha256, "bytes": packed.len(), "unpacked": tar.len()})
    }

    /// Nothing is there that a deploy has left: no temporary file, no staging, no release without a record.
    fn assert_tidy(&self, failed: &str) {
        let app = self.server.app("shop");
        wait_for("the failed release to be removed", || (!app.join("releases").join(failed).exists()).then_some(()));
        let all = Command::new("find").arg(self.server.data()).output().unwrap().stdout;
        let all = String::from_utf8(all).unwrap();
        let left: Vec<&str> = all.lines().filter(|l| l.ends_with(".tmp") || l.ends_with(".staging")).collect();
        assert_eq!(left, Vec::<&str>::new());
        let sealed =
            fs::read_dir(&app).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|e| e == "sealed"));
        assert_eq!(sealed.count(), 1);
    }
}

/// On the machine of who deploys.
#[test]
fn an_artifact_for_which_there_is_no_room_leaves_nothing_behind() {
    if !is_alone("an_artifact_for_which_there_is_no_room_leaves_nothing_behind") {
        return;
    }
    let shop = Shop::new("head -c 3000000 /dev/urandom > big");
    let artifacts = shop.at(".tako/artifacts");
    fs::create_dir_all(&artifacts).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=1M", "small"], &artifacts);
    shop.run(&["rehearse"]).assert_failed(1, &["no space left on device"]);
    // The sources had room.
    let built = || {
        let names = fs::read_dir(&artifacts).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with("-source.tar.zst")).collect::<Vec<_>>()
    };
    assert_eq!(built(), Vec::<String>::new());
    mount(&["-o", "remount,size=8M"], &artifacts);
    let ran = shop.run(&["rehearse"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(built().len(), 2);
}

fn mount(options: &[&str], at: &Path) {
    let done = Command::new("mount").args(options).arg(at).output().unwrap();
    assert!(done.status.success(), "{options:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// It says that there is no room, and for what.
fn assert_clear(verb: &str, version: &str, fault: &Value) {
    let detail = fault["detail"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let text = detail.fold(fault["message"].as_str().unwrap().to_owned(), |all, line| all + "\n" + line);
    let says_so = ["no space left on device", "no space left on /", "bytes and"].iter().any(|w| text.contains(w));
    assert!(says_so, "{verb}: {text}");
    assert!(text.contains('/') || text.contains(version), "{verb} names the thing: {text}");
}

#[test]
fn a_deploy_that_meets_a_full_disk_changes_nothing_wherever_it_is() {
    if !is_alone("a_deploy_that_meets_a_full_disk_changes_nothing_wherever_it_is") {
        return;
    }
    let mut w = World::start();
    w.boot();
    w.deploy("v1", None).unwrap();
    let (mut live, mut failed) = ("v1", 0);
    for (verb, short, version) in [
        ("unpack", Short::Files, "v2"),
        ("unpack", Short::Pages, "v2"),
        ("fetch", Short::Files, "v2"),
        ("fetch", Short::Pages, "v2"),
        ("prepare", Short::Files, "v2"),
        ("prepare", Short::Pages, "v2"),
        ("deploy", Short::Files, "v2"),
        ("deploy", Short::Pages, "v3"),
    ] {
        let before = w.state();
        w.serves(live);
        let _ = fs::remove_dir_all(w.server.data().join("runtimes/bun"));
        let works = (0..MOST).find(|count| match w.deploy(version, Some((verb, short, *count))) {
            Ok(()) => true,
            Err((at, fault)) => {
                assert_eq!(at, verb, "{fault}");
                assert_clear(verb, version, &fault);
                w.serves(live);
                assert_eq!(w.state(), before, "{verb} {short:?} {count}");
                w.disk.make_room();
                // The client's own, which it would take up again.
                let _ = fs::remove_file(w.server.data().join(format!("incoming/{version}.tar.zst")));
                w.assert_tidy(version);
                failed += 1;
                false
            }
        });
        // What is announced is compared with the room before it is unpacked.
        let is_checked_first = verb == "unpack" && short == Short::Pages;
        assert_eq!(works.is_none(), is_checked_first, "{verb} {short:?}");
        w.disk.make_room();
        if verb == "deploy" {
            live = version;
        }
        w.serves(live);
        if verb != "deploy" {
            let _ = fs::remove_dir_all(w.server.app("shop").join("releases").join(version));
        }
    }
    // What failed is forgotten: the next deploy is one as any other.
    w.deploy("v4", None).unwrap();
    w.serves("v4");
    assert!(failed > 20, "{failed} deploys failed");
}

#[test]
fn a_server_starts_and_serves_on_a_full_disk_and_room_can_be_made_by_deleting() {
    if !is_alone("a_server_starts_and_serves_on_a_full_disk_and_room_can_be_made_by_deleting") {
        return;
    }
    let mut w = World::start();
    w.boot();
    w.deploy("v1", None).unwrap();
    w.deploy("v2", None).unwrap();
    for short in [Short::Files, Short::Pages] {
        w.disk.leave(short, 0);
        let before = w.state();
        let call = |request: Value| Control::open(&w.server).unwrap().call(request);
        for request in
            [json!({"scale": {"app": "shop", "instances": 2}}), json!({"rollback": {"app": "shop", "version": null}})]
        {
            let fault = call(request).unwrap_err();
            assert_clear("scale or rollback", "v1", &fault);
            w.serves("v2");
            assert_eq!(w.state(), before);
        }
        w.server.crash();
        w.boot();
        wait_for("the app to serve again", || {
            let answer = Client::plain(w.server.http, HOST).ok()?.get("/").ok()?;
            (answer.status == 200).then_some(())
        });
        w.serves("v2");
        assert_eq!(w.state(), before);
        w.disk.make_room();
    }
    w.disk.leave(Short::Files, 0);
    w.disk.leave(Short::Pages, 0);
    Control::open(&w.server).unwrap().call(json!({"delete": {"app": "shop"}})).unwrap();
    assert!(!w.server.app("shop").exists());
    w.disk.make_room();
    w.deploy("v1", None).unwrap();
    w.serves("v1");
}

#[test]
fn an_upload_that_meets_a_full_disk_says_so_to_the_user() {
    if !is_alone("an_upload_that_meets_a_full_disk_says_so_to_the_user") {
        return;
    }
    let mut w = World::start();
    w.boot();
    let sshd = Sshd::start(&w.server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    let v1 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_owned();
    user.write("change.txt", "two");
    for short in [Short::Pages, Short::Files] {
        w.disk.leave(short, 0);
        let ran = user.run(&["deploy", "--yes"]);
        w.disk.make_room();
        assert!(ran.code != 0 && ran.err.contains("box"), "{ran}");
        assert!(["room", "space", "free", "disk full"].iter().any(|word| ran.err.contains(word)), "{ran}");
        // The cause, and no word of the way that it was met on.
        assert!(!ran.err.contains("sftp"), "{ran}");
        assert_eq!(w.server.current("shop").as_ref(), Some(&v1));
        assert_eq!(w.server.releases("shop"), [&*v1]);
    }
    user.must(&["deploy", "--yes"]);
}

#[test]
fn a_disk_that_fills_in_the_middle_of_an_upload_is_told_and_the_next_deploy_goes_through() {
    if !is_alone("a_disk_that_fills_in_the_middle_of_an_upload_is_told_and_the_next_deploy_goes_through") {
        return;
    }
    for lines in ["Subsystem sftp internal-sftp", ""] {
        let mut w = World::start();
        w.boot();
        let mut sshd = Sshd::with(&w.server, lines);
        let relay = Relay::start(sshd.port);
        sshd.through(relay.port);
        let user = User::new(&sshd);
        user.use_app("mixed", false);
        fs::write(user.project().join("movie.bin"), noise(4 << 20)).unwrap();
        user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
        relay.hold_after(2 << 20);
        let mut command = user.command(&["deploy", "--yes"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("half of the upload", || relay.is_held().then_some(()));
        let incoming = w.server.data().join("incoming");
        let arrived =
            || fs::read_dir(&incoming).unwrap().flatten().find(|e| e.metadata().is_ok_and(|m| m.len() > 1 << 20));
        wait_for("it to be on the disk", arrived);
        // Some of it may still be on its way there.
        w.disk.leave(Short::Pages, MOST);
        relay.cut();
        let ran = Ran::from(&["deploy"], child.wait_with_output().unwrap());
        ran.assert_failed(4, &["the upload needs", " free", "make room on the server's disk"]);
        w.disk.make_room();
        assert!(w.server.releases("shop").is_empty());
        user.must(&["deploy", "--yes"]);
        assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0);
    }
}

#[test]
fn a_first_deploy_on_a_full_disk_leaves_no_app_behind() {
    if !is_alone("a_first_deploy_on_a_full_disk_leaves_no_app_behind") {
        return;
    }
    let mut w = World::start();
    w.boot();
    let works = (0..MOST).find(|count| {
        w.upload("v1");
        w.disk.leave(Short::Files, *count);
        let mut control = Control::open(&w.server).unwrap();
        // Even the lock's file may find no room; the lock is taken all the same.
        control.call(json!({"lock": {"app": "shop", "version": "v1"}})).unwrap();
        control.call(json!({"unlock": {"app": "shop"}})).unwrap();
        drop(control);
        w.disk.make_room();
        match w.deploy("v1", Some(("unpack", Short::Files, *count))) {
            Ok(()) => true,
            Err((_, fault)) => {
                assert_clear("unpack", "shop", &fault);
                assert!(w.server.status("shop").is_none() && w.state().is_none());
                w.disk.make_room();
                assert!(w.server.releases("shop").is_empty());
                false
            }
        }
    });
    assert!(works.is_some_and(|count| count > 5), "{works:?}");
    w.disk.make_room();
    w.deploy("v1", None).unwrap();
    w.serves("v1");
}
