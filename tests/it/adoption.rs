//! Instances of a server that was killed: they serve on without it, and the next one goes on with them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::crashes::{live, ship, state};
use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, free_port, wait_for};

/// How often a start is measured.
const ROUNDS: usize = 5;

fn begin(instances: usize) -> Server {
    let server = Server::start();
    ship(&server, &mut Control::open(&server).unwrap(), &state("v1", "green", "one", false, instances), "").unwrap();
    server
}

/// Process and port of each instance.
fn instances(server: &Server) -> Vec<(u64, SocketAddr)> {
    let status = server.status("shop").unwrap();
    let one = |i: &Value| {
        let port = u16::try_from(i["port"].as_u64().unwrap()).unwrap();
        (i["pid"].as_u64().unwrap(), SocketAddr::from(([127, 0, 0, 1], port)))
    };
    status["instances"].as_array().unwrap().iter().map(one).collect()
}

fn say(addr: SocketAddr, word: &str) {
    let answer = Client::plain(addr, HOST).unwrap().get(&format!("/say/{word}")).unwrap();
    assert_eq!(answer.status, 200);
}

fn lines(server: &Server) -> Vec<String> {
    let mut control = Control::open(server).unwrap();
    let id = control.begin(json!({"logs": {"app": "shop", "follow": false, "lines": 1000}}));
    let mut found = Vec::new();
    while let Some(answer) = control.read() {
        assert_eq!(answer["id"], id);
        let lines = answer["body"]["notice"]["lines"]["lines"].as_array().cloned().unwrap_or_default();
        found.extend(lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()));
        if !answer["body"]["reply"].is_null() {
            return found;
        }
    }
    panic!("the connection ended");
}

fn kill(pid: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn instances_serve_on_while_the_server_is_away_and_the_next_one_has_them() {
    let mut server = begin(2);
    let before = instances(&server);
    let addr = before[0].1;
    let walls = walls(before[0].0);
    let stop = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        // Straight to the app, on one connection: its own work is none of our business.
        let client = scope.spawn(|| -> io::Result<u32> {
            let mut client = Client::plain(addr, HOST)?;
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.get("/say/busy")?.status, 200);
                answered += 1;
                thread::sleep(Duration::from_millis(1)); // a steady client, and not a flood
            }
            Ok(answered)
        });
        server.crash();
        say(addr, "alone");
        server.boot();
        live(&server);
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap().unwrap()
    });
    assert!(answered > 0);
    assert_eq!(instances(&server), before, "{}", server.log());
    assert_eq!(self::walls(before[0].0), walls);
    say(addr, "together");
    wait_for("what was said while nobody listened, and after", || {
        let lines = lines(&server);
        ["alone", "together"].iter().all(|word| lines.iter().any(|line| line == word)).then_some(())
    });

    // From now on it is an instance like any other.
    kill(before[0].0);
    wait_for("another in its place", || {
        let now = instances(&server);
        (now.len() == 2 && now.iter().all(|(pid, _)| *pid != before[0].0)).then_some(())
    });
    live(&server);
    let status = server.status("shop").unwrap();
    let why = "ended, and how is not known: an earlier tako-server started it";
    assert_eq!(status["last_failure"]["what"], why);
    let mut control = Control::open(&server).unwrap();
    control.call(json!({"scale": {"app": "shop", "instances": 1}})).unwrap();
    wait_for("the other one to go", || (instances(&server).len() == 1).then_some(()));
    assert!(server.shut_down(), "{}", server.log());
    assert!(server.groups().is_empty());
    // Where the machine has such groups, theirs are gone as well.
    let group = walls.1.lines().find_map(|line| line.strip_prefix("0::")).filter(|group| group.contains("/tako-"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    if let (Some(group), Some(mount)) = (group, mount) {
        let dir = format!("{}{group}", mount.split(' ').nth(1).unwrap());
        assert!(!Path::new(&dir).exists(), "{dir}");
    }
}

/// Whom a process runs as, and the groups of the kernel that it is in.
fn walls(pid: u64) -> (String, String) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let user = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
    (user, fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap())
}

#[test]
fn a_server_that_is_killed_again_and_again_changes_nothing() {
    let mut server = begin(2);
    let before = instances(&server);
    for _ in 0..3 {
        server.crash();
        server.boot();
        live(&server);
    }
    assert_eq!(instances(&server), before, "{}", server.log());
    ship(&server, &mut Control::open(&server).unwrap(), &state("v2", "blue", "two", true, 2), "").unwrap();
    wait_for("only the new ones", || {
        let now = instances(&server);
        (now.len() == 2 && now.iter().all(|one| !before.contains(one))).then_some(())
    });
}

/// Its program waits for room in the pipe, as it would with a server that is slow to read.
#[test]
fn who_says_more_than_a_pipe_holds_waits_for_the_next_server() {
    const LINES: usize = 60;
    let mut server = begin(1);
    let (pid, addr) = instances(&server)[0];
    server.crash();
    let line = |n: usize| format!("{n:02}{}", "x".repeat(2000));
    thread::scope(|scope| {
        let talker = scope.spawn(|| (0..LINES).for_each(|n| say(addr, &line(n))));
        // It holds 64 KiB, and half as much again is to be said.
        wait_for("the pipe to be full", || (waiting(pid) > 60_000).then_some(()));
        assert!(!talker.is_finished());
        server.boot();
        talker.join().unwrap();
    });
    wait_for("all of it", || {
        let lines = lines(&server);
        let said: Vec<_> = lines.iter().filter(|line| line.ends_with('x')).collect();
        (said.len() == LINES && said.iter().enumerate().all(|(n, said)| **said == line(n))).then_some(())
    });
}

/// Bytes that wait in the pipe that it prints to.
fn waiting(pid: u64) -> u64 {
    let pipe = fs::File::open(format!("/proc/{pid}/fd/1")).unwrap();
    rustix::io::ioctl_fionread(&pipe).unwrap()
}

#[test]
fn an_app_on_demand_is_found_as_it_was() {
    let mut server = begin(0);
    let before = instances(&server);
    server.crash();
    server.boot();
    live(&server);
    assert_eq!(instances(&server), before, "awake stays awake");
    let asleep = |server: &Server| server.status("shop").is_some_and(|status| status["state"] == "asleep");
    wait_for("its sleep", || (asleep(&server) && server.groups().is_empty()).then_some(()));
    server.crash();
    server.boot();
    assert!(asleep(&server), "asleep stays asleep");
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().status, 200);
}

/// A program that happens to be where ours was does not know our token.
#[test]
fn one_that_does_not_answer_to_its_token_is_replaced() {
    let (mut server, _sshd, user) = super::deploy::world();
    user.must(&["deploy", "--yes"]);
    let before = instances(&server);
    server.crash();
    let note = server.app("shop").join("run/1.json");
    let mut about: Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    about["token"] = json!("0".repeat(32));
    fs::write(&note, about.to_string()).unwrap();
    server.boot();
    // Nothing is sent to it: a request waits for the one that takes its place, or is refused, and is never answered by it.
    let answered = wait_for("an answer", || {
        let answer = Client::plain(server.http, HOST).ok()?.get("/").ok()?;
        (answer.status == 200).then(|| answer.json()["pid"].as_u64().unwrap())
    });
    assert_ne!(answered, before[0].0);
    wait_for("the old one to be gone", || (server.groups().len() == 1).then_some(()));
    assert!(server.status("shop").unwrap()["last_failure"]["what"].as_str().unwrap().contains("/status answered 40"));
}

/// How long it takes is printed.
#[test]
#[allow(clippy::print_stderr)]
fn whether_adopted_or_started_anew_the_app_answers_again() {
    let mut server = begin(2);
    for adopt in [true, false] {
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            live(&server);
            let pids = server.groups();
            server.crash();
            if !adopt {
                pids.into_iter().for_each(kill);
                wait_for("them to be gone", || server.groups().is_empty().then_some(()));
            }
            let at = format!("127.0.0.1:{}", free_port());
            let begun = Instant::now();
            server.launch(&["--http", &at], &[]);
            let at = at.parse().unwrap();
            wait_for("an answer", || {
                let answer = Client::plain(at, HOST).ok()?.get("/").ok()?;
                (answer.status == 200).then_some(())
            });
            took.push(begun.elapsed().as_millis());
            server.meet();
        }
        took.sort_unstable();
        let (min, median, max) = (took[0], took[ROUNDS / 2], took[ROUNDS - 1]);
        let what = if adopt { "adopted" } else { "started anew" };
        eprintln!("from the server's start to the first answer, instances {what}: {min}/{median}/{max} ms");
    }
}
