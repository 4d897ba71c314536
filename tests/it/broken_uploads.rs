//! Uploads over networks that break, beside clients that are killed, to hosts that let in less: nothing that has arrived is
//! sent twice, nothing that is wrong is used, and the deploy goes through.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::relay::Relay;
use crate::sandbox::{Control, Ran, Server, Sshd, User, wait_for};
use crate::uploads::{deploy, noise, sent, serves, version};

/// Of the artifact: nothing that compresses.
const SIZE: u64 = 4 << 20;
/// Where it breaks: far from both ends.
const MIDDLE: u64 = 2 << 20;
/// More than all that ssh, sftp and our own calls add, with connecting twice.
const AROUND: u64 = 400_000;
/// Of pieces that had gone up and not come in when the connection was cut; all of it anew would be three times as much.
const ON_THE_WAY: u64 = 1_000_000;

struct World {
    server: Server,
    sshd: Sshd,
    relay: Relay,
    user: User,
    /// Of the artifact, at least: what is there when it breaks.
    half: u64,
}

impl World {
    fn new() -> World {
        World::with("Subsystem sftp internal-sftp")
    }

    /// A user with a project that is large to send, and a relay on the way to a server.
    fn with(sshd_lines: &str) -> World {
        let server = Server::start();
        let mut sshd = Sshd::with(&server, sshd_lines);
        let relay = Relay::start(sshd.port);
        sshd.through(relay.port);
        let user = User::new(&sshd);
        user.use_app("mixed", false);
        fs::write(user.project().join("movie.bin"), noise(SIZE as usize)).unwrap();
        user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &relay.port.to_string()]);
        relay.count();
        // Without sftp it travels in base64.
        let half = if sshd_lines.contains("internal-sftp") { MIDDLE - AROUND } else { MIDDLE * 3 / 4 - AROUND };
        World { server, sshd, relay, user, half }
    }

    /// Begins a deploy, which hangs when about half of the artifact is there.
    fn hang(&self) -> Child {
        self.relay.hold_after(MIDDLE);
        let mut command = self.user.command(&["deploy", "--yes", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("half of the upload", || self.relay.is_held().then_some(()));
        // What sshd has read it passes on, if it is let.
        wait_for("it to be on the disk", || (self.parts().first()?.1 > self.half).then_some(()));
        child
    }

    /// Begins a deploy and ends it by `signal` in the middle.
    fn break_off(&self, signal: Signal) -> Ran {
        let child = self.hang();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ran = Ran::from(&["deploy"], child.wait_with_output().unwrap());
        // What the network has not taken is lost; the server hears that its client is gone.
        self.relay.cut();
        wait_for("the lock to be free", || (!self.server.app("shop").join(".deploy_lock").exists()).then_some(()));
        self.relay.count();
        ran
    }

    /// Deploys over a connection that ends in the middle.
    fn deploy_cut(&self) -> Ran {
        let child = self.hang();
        self.relay.cut();
        let ran = Ran::from(&["deploy"], child.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{ran}");
        assert!(ran.err.contains("connection lost at ") && ran.err.contains(" %, going on from there"), "{ran}");
        ran
    }

    /// What is there in part, with the sizes.
    fn parts(&self) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(self.server.data().join("incoming")).unwrap().flatten();
        entries.map(|entry| (entry.path(), entry.metadata().map_or(0, |meta| meta.len()))).collect()
    }

    /// The one upload that is there in part, and its size.
    fn part(&self) -> (PathBuf, u64) {
        let found = self.parts();
        let [(part, size)] = &found[..] else { panic!("not one upload: {found:?}") };
        assert!(part.to_string_lossy().ends_with(".tar.zst.part"), "{part:?}");
        assert!((self.half..MIDDLE).contains(size), "{size}");
        (part.clone(), *size)
    }

    /// The last archive that was built.
    fn archive(&self) -> PathBuf {
        let artifacts = fs::read_dir(self.user.project().join(".tako/artifacts")).unwrap().flatten();
        let archives = artifacts.map(|e| e.path()).filter(|path| path.extension().is_some_and(|e| e == "zst"));
        archives.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap()
    }

    /// Another artifact, that will be sent in full.
    fn change(&self, text: &str) {
        self.user.write("change.txt", text);
        fs::remove_dir_all(self.server.app("shop").join("bases")).unwrap();
    }

    fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.server.data().join("incoming")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Deploys, and looks whether no more than `bytes` of the artifact were sent, by its word and on the wire.
    fn deploy_sends(&self, bytes: u64) {
        let result = deploy(&self.user);
        let (sent, of, base) = sent(&result);
        let up = self.relay.count();
        assert!(of > SIZE && base.is_none(), "{result}");
        assert_eq!((sent, of), (bytes.min(of), of), "{result}");
        assert!(up > bytes.min(of) && up < bytes.min(of) + AROUND, "{up} bytes went up for {bytes}");
        self.is_live(&result);
    }

    fn is_live(&self, result: &Value) {
        let version = version(result);
        serves(&self.server, &version);
        let there = self.server.app("shop").join("releases").join(&version).join("movie.bin");
        assert_eq!(fs::read(there).unwrap(), noise(SIZE as usize));
        self.assert_clean();
    }

    fn size(&self) -> u64 {
        fs::metadata(self.archive()).unwrap().len()
    }
}

fn last(ran: &Ran) -> Value {
    serde_json::from_str(ran.out.lines().last().unwrap()).unwrap()
}

#[test]
fn a_client_that_was_killed_or_interrupted_goes_on_from_what_is_there() {
    let w = World::new();
    w.break_off(Signal::INT).assert_failed(130, &["every server is as it was"]);
    let (_, there) = w.part();
    w.deploy_sends(w.size() - there);

    w.change("two");
    w.break_off(Signal::KILL);
    let (_, there) = w.part();
    w.deploy_sends(w.size() - there);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_is_made_again_and_the_rest_is_sent() {
    let w = World::new();
    let result = last(&w.deploy_cut());
    let (bytes, of, _) = sent(&result);
    assert_eq!(bytes, of, "{result}");
    let up = w.relay.count();
    assert!(up > of && up < of + AROUND, "{up} bytes went up for {of}");
    w.is_live(&result);
}

#[test]
fn what_is_there_and_is_not_the_start_of_it_is_sent_anew() {
    let w = World::new();
    w.break_off(Signal::INT);
    let (part, there) = w.part();
    let file = OpenOptions::new().read(true).write(true).open(&part).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, there / 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], there / 3).unwrap();
    w.deploy_sends(w.size());

    w.change("more than there is to send");
    w.break_off(Signal::INT);
    fs::write(w.part().0, noise(2 * SIZE as usize)).unwrap();
    w.deploy_sends(w.size());

    w.change("under its final name, of the right size, and something else");
    w.break_off(Signal::INT);
    let size = w.size() as usize;
    fs::write(w.part().0.with_extension(""), noise(size)).unwrap();
    w.deploy_sends(w.size());

    w.change("all of it, and the connection was lost before it got its name");
    w.break_off(Signal::INT);
    fs::copy(w.archive(), w.part().0).unwrap();
    let result = deploy(&w.user);
    assert_eq!(sent(&result).0, 0, "{result}");
    assert!(w.relay.count() < AROUND);
    w.is_live(&result);
}

#[test]
fn a_host_without_sftp_is_sent_to_over_the_control_connection() {
    // As it is switched off, as it is when the program is not there, and with a shell that lets nobody in.
    for lines in ["", "Subsystem sftp /nonexistent/sftp-server", "Subsystem sftp /bin/false"] {
        let w = World::with(lines);
        let ran = w.user.must(&["deploy", "--yes", "--json"]);
        assert_eq!(ran.err.matches("goes over the control connection").count(), 1, "{lines}: {ran}");
        let result = last(&ran);
        assert_eq!(sent(&result).0, sent(&result).1);
        w.is_live(&result);
    }
}

#[test]
fn without_sftp_a_broken_upload_goes_on_as_well() {
    let w = World::with("");
    let result = last(&w.deploy_cut());
    let up = w.relay.count();
    // It travels in base64.
    let encoded = w.size() * 4 / 3;
    assert!(up > encoded && up < encoded + AROUND + ON_THE_WAY, "{up} bytes went up for {encoded}");
    w.is_live(&result);

    w.change("two");
    w.break_off(Signal::INT).assert_failed(130, &[]);
    let (_, there) = w.part();
    let result = deploy(&w.user);
    assert_eq!(sent(&result).0, sent(&result).1 - there);
    w.is_live(&result);
}

#[test]
fn a_host_that_allows_one_channel_or_two_is_deployed_to() {
    for sessions in [2, 1] {
        let w = World::with(&format!("Subsystem sftp internal-sftp\nMaxSessions {sessions}"));
        w.deploy_sends(u64::MAX);
        assert_eq!(w.sshd.connections(), if sessions == 1 { 2 } else { 1 }, "with the one that `servers add` left");
    }
}

#[test]
fn a_user_without_sftp_on_this_machine_deploys() {
    let w = World::new();
    let mut command = w.user.command(&["deploy", "--yes"]);
    let ran = Ran::from(&["deploy"], command.env("TAKO_SFTP", "/nonexistent/sftp").output().unwrap());
    assert_eq!(ran.code, 0, "{ran}");
    assert!(ran.err.contains("goes over the control connection"), "{ran}");
    w.assert_clean();
}

#[test]
fn two_deploys_of_the_same_content_at_once_do_not_meet() {
    let w = World::new();
    let config = w.user.read("tako.toml") + "\n[envs.staging]\nroute = \"staging.localhost\"\nservers = [\"box\"]\n";
    w.user.write("tako.toml", &config);
    let first = w.hang();
    let there = w.parts();
    // Over a connection of its own, whatever is kept of the other.
    let runtime = w.user.dir.path().join("other");
    fs::create_dir(&runtime).unwrap();
    let mut second = w.user.command(&["deploy", "--env", "staging", "--yes", "--json"]);
    let second = Ran::from(&["deploy"], second.env("XDG_RUNTIME_DIR", runtime).output().unwrap());
    assert_eq!(second.code, 0, "{second}");
    assert_eq!(w.parts(), there);
    w.relay.cut();
    let first = Ran::from(&["deploy"], first.wait_with_output().unwrap());
    assert_eq!(first.code, 0, "{first}");
    assert!(first.err.contains("going on from there"), "{first}");
    let (first, second) = (last(&first), last(&second));
    assert_eq!(version(&first), version(&second));
    assert_eq!((sent(&first).0, sent(&second).0), (w.size(), w.size()));
    w.is_live(&first);
}

#[test]
fn a_piece_without_the_lock_is_refused() {
    let server = Server::start();
    let mut control = Control::open(&server).unwrap();
    let piece = json!({"put": {"app": "shop", "file": "shop.x", "offset": 0, "of": 3, "data": "YWJj"}});
    let claim = json!({"claim": {"app": "shop", "file": "shop.x", "of": 3}});
    for request in [&piece, &claim] {
        assert_eq!(control.call(request.clone()).unwrap_err()["kind"], "refused");
    }
    control.call(json!({"lock": {"app": "shop", "version": "v1"}})).unwrap();
    assert_eq!(control.call(piece).unwrap(), json!({"incoming": {"bytes": 3}}));
    assert_eq!(control.call(claim).unwrap(), json!({"incoming": {"bytes": 3}}));
    let bad = json!({"put": {"app": "shop", "file": "../x", "offset": 0, "of": 3, "data": "YWJj"}});
    assert_eq!(control.call(bad).unwrap_err()["kind"], "refused");
}
