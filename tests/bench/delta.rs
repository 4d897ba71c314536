//! What a deploy sends for one changed line in an artifact of 14 MB, over a real `sshd` on loopback, beside `rsync -z` of
//! the same trees over the same `ssh`; and what it takes. All bytes of the connections are counted by a relay in front of
//! `sshd`, so that what ssh and sftp add is in the numbers. Prints min, median and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/sandbox.rs"]
mod sandbox;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sandbox::{Server, Sshd, User};
use serde_json::Value;

const RUNS: u32 = 9;
const SIZE: usize = 14_000_000;
const FILES: usize = 1500;
/// Far from the first and from the last.
const CHANGED: usize = 700;

fn main() {
    let server = Server::start();
    let mut sshd = Sshd::start(&server);
    let relay = Relay::start(sshd.port);
    let dir = PathBuf::from(sshd.options().strip_prefix("-F ").unwrap()).parent().unwrap().to_owned();
    sshd.port = relay.port;
    sshd.know(&fs::read_to_string(dir.join("host.pub")).unwrap());
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    write_tree(&user.project().join("lib"));
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);

    relay.reset();
    let first = user.result(&["deploy", "--yes", "--json"]);
    let (up, down) = relay.reset();
    let artifact = &first["artifacts"][0];
    println!("{RUNS} runs each; {FILES} files, {} bytes unpacked, {} packed", artifact["unpacked"], artifact["bytes"]);
    println!("first deploy, all of it: {up} bytes up, {down} down\n");
    println!("{:<58} {:>10} {:>10} {:>10}", "", "min", "median", "max");
    tako(&server, &user, &relay);
    rsync(&user.project(), &dir, &sshd, &relay);
}

fn tako(server: &Server, user: &User, relay: &Relay) {
    let mut unchanged = Measured::default();
    for _ in 0..RUNS {
        unchanged.deploy(user, relay);
    }
    unchanged.print("tako deploy, nothing changed", false);
    let mut changed = Measured::default();
    for n in 0..RUNS {
        change_a_line(&user.project().join("lib"), n);
        changed.deploy(user, relay);
    }
    changed.print("tako deploy, one line changed", true);
    let log = server.log();
    let rebuilt =
        log.lines().filter(|line| line.contains(" rebuilt from=")).filter_map(|line| line.rsplit("ms=").next());
    row("  apply the delta, as the server logs it, ms", rebuilt.map(|ms| ms.trim().parse().unwrap()).collect());
    row("  make the delta, as `--verbose` tells, ms", changed.made);
}

/// The same change to the same tree; and the same after a build that has written every file anew.
fn rsync(project: &Path, dir: &Path, sshd: &Sshd, relay: &Relay) {
    if Command::new("rsync").arg("--version").output().is_err() {
        println!("rsync: skipped, it is not installed");
        return;
    }
    let (tree, to) = (project.join("lib"), dir.join("copy"));
    let ssh = format!("ssh {} -p {}", sshd.options(), sshd.port);
    let run = || {
        relay.reset();
        let started = Instant::now();
        let mut command = Command::new("rsync");
        command.args(["-az", "--delete", "--stats", "-e", &ssh]);
        let ran = command.arg(format!("{}/", tree.display())).arg(format!("127.0.0.1:{}", to.display())).output();
        let (ran, wall) = (ran.unwrap(), started.elapsed());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let told = String::from_utf8_lossy(&ran.stdout).into_owned();
        let told =
            told.lines().find_map(|line| line.strip_prefix("Total bytes sent: ")).unwrap().replace([',', '.'], "");
        (told.trim().parse::<f64>().unwrap(), relay.reset(), wall)
    };
    run();
    for (what, is_fresh) in [("rsync -az, times kept", false), ("rsync -az, after a clean build", true)] {
        let (mut sent, mut up, mut down, mut walls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for n in 0..RUNS {
            change_a_line(&tree, 1000 + n + 100 * u32::from(is_fresh));
            if is_fresh {
                touch(&tree);
            }
            let (told, (u, d), wall) = run();
            sent.push(told);
            up.push(u as f64);
            down.push(d as f64);
            walls.push(ms(wall));
        }
        println!("{what}");
        row("  bytes sent, as it says", sent);
        row("  bytes up, on the wire", up);
        row("  bytes down, on the wire", down);
        row("  wall, ms", walls);
    }
}

#[derive(Default)]
struct Measured {
    sent: Vec<f64>,
    up: Vec<f64>,
    down: Vec<f64>,
    made: Vec<f64>,
    wall: Vec<f64>,
    /// Of the result's own durations.
    phases: Vec<Value>,
}

impl Measured {
    fn deploy(&mut self, user: &User, relay: &Relay) {
        relay.reset();
        let started = Instant::now();
        let ran = user.must(&["deploy", "--yes", "--json", "--verbose"]);
        self.wall.push(ms(started.elapsed()));
        let (up, down) = relay.reset();
        let result: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
        self.sent.push(result["servers"][0]["sent"]["bytes"].as_f64().unwrap());
        self.up.push(up as f64);
        self.down.push(down as f64);
        self.phases.push(result["durations_ms"].clone());
        let said = ran.out + &ran.err;
        let made = said.split_once("made a delta of ").and_then(|(_, rest)| rest.split_once(" in "));
        self.made.extend(made.and_then(|(_, rest)| rest.split_once(" ms")).map(|(n, _)| n.parse::<f64>().unwrap()));
    }

    fn print(&self, what: &str, has_upload: bool) {
        println!("{what}");
        if has_upload {
            row("  bytes of the delta", self.sent.clone());
        }
        row("  bytes up, on the wire", self.up.clone());
        row("  bytes down, on the wire", self.down.clone());
        row("  wall, ms", self.wall.clone());
        let of = |name: &str| self.phases.iter().map(|p| p[name].as_f64().unwrap()).collect::<Vec<_>>();
        let besides = self.wall.iter().zip(of("build")).map(|(wall, build)| wall - build).collect();
        row("  wall without the build, ms", besides);
        for phase in ["check", "build", "connect", "upload", "deploy"] {
            row(&format!("  of that: {phase}, ms"), of(phase));
        }
    }
}

fn row(what: &str, mut values: Vec<f64>) {
    assert!(!values.is_empty(), "{what}: nothing was measured");
    values.sort_by(f64::total_cmp);
    let at = |n: usize| values[n];
    println!("{what:<58} {:>10.0} {:>10.0} {:>10.0}", at(0), at(values.len() / 2), at(values.len() - 1));
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// Text such as programs are made of: the same words over and over, in an order that does not repeat.
fn write_tree(dir: &Path) {
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let words: Vec<String> =
        (0..3000).map(|_| (0..3 + next(6)).map(|_| char::from(b'a' + next(26) as u8)).collect::<String>()).collect();
    for n in 0..FILES {
        let mut text = String::new();
        while text.len() < SIZE / FILES {
            let mut word = || &words[next(3000) as usize];
            text += &format!("const {} = {}({}, \"{}\");\n", word(), word(), word(), word());
        }
        let folder = dir.join(format!("part{}", n / 50));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("file{n}.mjs")), text).unwrap();
    }
}

fn change_a_line(dir: &Path, n: u32) {
    let file = dir.join(format!("part{}/file{CHANGED}.mjs", CHANGED / 50));
    let text = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let line = format!("const answer = change(number, \"{n}\");");
    let middle = lines.len() / 2;
    lines[middle] = &line;
    fs::write(&file, lines.join("\n") + "\n").unwrap();
}

/// As when every file was written anew.
fn touch(dir: &Path) {
    let now = std::time::SystemTime::now();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => touch(&entry.path()),
            false => fs::File::options().append(true).open(entry.path()).unwrap().set_modified(now).unwrap(),
        }
    }
}

/// Leads connections on to a port, and counts what passes.
struct Relay {
    port: u16,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Relay {
    fn start(to: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (up, down): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let relay = Relay { port, up: up.clone(), down: down.clone() };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                pass(client.try_clone().unwrap(), server.try_clone().unwrap(), up.clone());
                pass(server, client, down.clone());
            }
        });
        relay
    }

    /// The bytes up and down since the last time.
    fn reset(&self) -> (u64, u64) {
        (self.up.swap(0, Ordering::Relaxed), self.down.swap(0, Ordering::Relaxed))
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: Arc<AtomicU64>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || to.write_all(&buffer[..n]).is_err() {
                break;
            }
            count.fetch_add(n as u64, Ordering::Relaxed);
        }
        // Either side may be gone by now.
        let _ = to.shutdown(Shutdown::Write);
    });
}
