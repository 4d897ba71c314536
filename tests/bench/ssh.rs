//! What reaching servers costs, over three real `sshd` on loopback, each with a connection of its own and over one that is
//! kept: `tako status` beside a bare `ssh HOST true` to the same three at once; a deploy by its phases; and how many `ssh`
//! processes and connections a deploy takes per server. Prints min, median and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

mod rows;
#[path = "../it/sandbox.rs"]
mod sandbox;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rows::{heading, row};
use sandbox::{Server, Sshd, User};
use serde_json::Value;

const RUNS: usize = 15;
const NAMES: [&str; 3] = ["fra1", "nyc1", "sin1"];
const PHASES: [&str; 6] = ["check", "build", "connect", "upload", "deploy", "total"];

fn main() {
    let servers = NAMES.map(|_| Server::start());
    let sshds: Vec<Sshd> = servers.iter().map(Sshd::start).collect();
    let user = User::new(&sshds[0]);
    sshds[1..].iter().for_each(|other| sshds[0].join(other));
    user.use_app("mixed", false);
    let mapped = format!("[envs.production]\nservers = {NAMES:?}");
    user.write("tako.toml", &user.read("tako.toml").replace("[envs.production]", &mapped));
    for (name, sshd) in NAMES.iter().zip(&sshds) {
        user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &sshd.port.to_string()]);
    }
    user.must(&["deploy", "--yes"]);

    println!("{RUNS} runs each in turn, three servers, loopback SSH; milliseconds");
    heading();
    let (mut bare, mut cold, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        bare.push(time(|| at_once(&sshds)));
        cold.push(time(|| drop(user.must(&["status", "--no-mux"]))));
        warm.push(time(|| drop(user.must(&["status"]))));
    }
    row("ssh HOST true, three at once", bare);
    row("tako status, a connection each", cold);
    row("tako status, over kept connections", warm);

    deploys("tako deploy, nothing changed, one connection each", &user, &["--no-mux"], None);
    deploys("tako deploy, nothing changed, kept connections", &user, &[], None);
    deploys("tako deploy --force, kept connections", &user, &["--force"], None);
    deploys("tako deploy, one line changed, kept connections", &user, &[], Some("line"));
    count(&user, &sshds);
}

/// By phases, as the deploy tells them itself; `total` is all but the start and the end of the program.
fn deploys(what: &str, user: &User, more: &[&str], change: Option<&str>) {
    let mut walls = Vec::new();
    let mut phases: [Vec<Duration>; PHASES.len()] = Default::default();
    for run in 0..RUNS {
        if let Some(change) = change {
            user.write("change.txt", &format!("{change} {run}"));
        }
        let started = Instant::now();
        let result = user.result(&[&["deploy", "--yes", "--json"], more].concat());
        walls.push(started.elapsed());
        for (phase, times) in PHASES.iter().zip(&mut phases) {
            times.push(Duration::from_millis(result["durations_ms"][phase].as_u64().unwrap()));
        }
    }
    row(what, walls);
    for (phase, times) in PHASES.iter().zip(phases) {
        row(&format!("    {phase}"), times);
    }
}

/// What is started for one deploy that brings something, by programs of ours that count and go on as the real ones.
fn count(user: &User, sshds: &[Sshd]) {
    let log = user.dir.path().join("started");
    for program in ["ssh", "sftp"] {
        let script = format!("#!/bin/sh\necho {program} >> {}\nexec {program} \"$@\"\n", log.display());
        let path = user.dir.path().join(program);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for more in [&["--no-mux"][..], &[]] {
        let _ = fs::remove_file(&log);
        user.write("change.txt", &format!("counted {more:?}"));
        let before: usize = sshds.iter().map(Sshd::connections).sum();
        let mut deploy = user.command(&[&["deploy", "--yes", "--json"], more].concat());
        for (variable, program) in [("TAKO_SSH", "ssh"), ("TAKO_SFTP", "sftp")] {
            deploy.env(variable, user.dir.path().join(program));
        }
        let out = deploy.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let last: Value =
            serde_json::from_slice(out.stdout.split(|b| *b == b'\n').rfind(|l| !l.is_empty()).unwrap()).unwrap();
        assert_eq!(last["servers"].as_array().unwrap().len(), NAMES.len());
        let started = fs::read_to_string(&log).unwrap();
        let of = |program: &str| started.lines().filter(|line| *line == program).count() as f32 / NAMES.len() as f32;
        let connections = (sshds.iter().map(Sshd::connections).sum::<usize>() - before) as f32 / NAMES.len() as f32;
        let how = if more.is_empty() { "kept connections" } else { "--no-mux" };
        println!(
            "a deploy with {how}, per server: {} ssh, {} sftp, {connections} new connections",
            of("ssh"),
            of("sftp")
        );
    }
}

fn at_once(sshds: &[Sshd]) {
    let start = |sshd: &Sshd| -> Child {
        let options = sshds[0].options();
        let mut ssh = Command::new("ssh");
        ssh.args(options.split_whitespace()).args(["-p", &sshd.port.to_string(), "127.0.0.1", "true"]);
        ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let running: Vec<Child> = sshds.iter().map(start).collect();
    running.into_iter().for_each(|mut ssh| assert!(ssh.wait().unwrap().success()));
}

fn time(act: impl FnOnce()) -> Duration {
    let started = Instant::now();
    act();
    started.elapsed()
}
