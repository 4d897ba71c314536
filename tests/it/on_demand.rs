//! Apps on demand, as their visitors find them: asleep without requests, woken by one, and never lost in between.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::deploy::world;
use crate::http::{Client, Response};
use crate::sandbox::{Control, HOST, Server, User, wait_for};
use crate::server::unpack;

/// Seconds that an app has which will not make it: its first start must, on a busy machine.
const SLOW: u64 = 3;

/// A program without the SDK that counts its starts, and from the second on begins as `PART` says.
const APP: &str = r#"#!/usr/bin/env node
const fs = require("node:fs");
const starts = process.env.TAKO_DATA_DIR + "/starts";
fs.appendFileSync(starts, "x");
const again = fs.statSync(starts).size > 1;
if (again && process.env.PART === "exits") process.exit(7);
const begin = () => require("node:http")
  .createServer((_, answer) => answer.end(String(process.pid)))
  .listen(process.env.PORT, "127.0.0.1");
setTimeout(begin, again && process.env.PART === "slow" ? 600_000 : 0);
"#;

/// Deploys it, on demand and with a second to fall asleep.
fn deploy_program(server: &Server, part: &str) {
    let mut control = Control::open(server).unwrap();
    unpack(server, &mut control, "v1", APP).unwrap();
    // What is not slow on purpose has all the time that a busy machine may take.
    let startup = if part == "slow" { SLOW } else { 30 };
    let limits = json!({"idle_timeout_s": 1, "startup_timeout_s": startup});
    let manifest = json!({"app": "shop", "version": "v1", "runtime": "binary", "main": "run", "health": "/",
                          "vars": {"PART": part}, "limits": limits});
    control.call(json!({"prepare": {"manifest": manifest}})).unwrap();
    control.call(json!({"deploy": {"manifest": manifest, "routes": [HOST], "instances": 0}})).unwrap();
}

fn starts(server: &Server) -> usize {
    fs::read(server.app("shop").join("shared/data/starts")).map_or(0, |marks| marks.len())
}

fn wait_for_state(server: &Server, state: &str) -> Value {
    wait_for(state, || server.status("shop").filter(|status| status["state"] == state))
}

/// Asleep, and its process gone.
fn wait_for_sleep(server: &Server) {
    wait_for("its sleep", || {
        let status = server.status("shop")?;
        (status["state"] == "asleep" && status["instances"].as_array()?.is_empty()).then_some(())
    });
}

fn ask(server: &Server) -> Response {
    Client::plain(server.http, HOST).unwrap().get("/").unwrap()
}

/// So many requests at the same moment; half of them over TLS.
fn crowd(server: &Server, count: usize) -> Vec<Response> {
    let together = Barrier::new(count);
    let one = |n: usize| {
        let client =
            if n.is_multiple_of(2) { Client::plain(server.http, HOST) } else { Client::tls(server.https, HOST) };
        together.wait();
        client.unwrap().get("/").unwrap()
    };
    thread::scope(|scope| {
        let asking: Vec<_> = (0..count).map(|n| scope.spawn(move || one(n))).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn deploy_node(user: &User) {
    let config = user.read("tako.toml");
    let on_demand = "[envs.production]\ninstances = 0\nidle_timeout = 1";
    user.write("tako.toml", &config.replace("[envs.production]", on_demand));
    user.must(&["deploy", "--yes"]);
}

#[test]
fn a_node_app_sleeps_and_a_crowd_wakes_one_instance_that_serves_all() {
    let (server, _sshd, user) = world();
    deploy_node(&user);
    let warm = ask(&server).json()["pid"].clone();
    wait_for_sleep(&server);
    let told = user.must(&["status"]);
    assert!(told.out.contains("○ asleep") && told.out.contains("0/1"), "{told}");

    let answers = crowd(&server, 200);
    assert!(answers.iter().all(|answer| answer.status == 200), "{:?}", answers.iter().find(|a| a.status != 200));
    let pids: BTreeSet<u64> = answers.iter().map(|answer| answer.json()["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), 1, "one instance for all: {pids:?}");
    assert!(!pids.contains(&warm.as_u64().unwrap()));

    // A tunnel is activity, whether or not anything is said in it.
    let mut socket = Client::plain(server.http, HOST).unwrap().upgrade("/ws").unwrap();
    socket.receive().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(server.status("shop").unwrap()["instances"][0]["pid"].as_u64(), pids.first().copied());
    }
    assert!(socket.echoes("still here").unwrap());
    drop(socket);
    wait_for_sleep(&server);
}

/// Requests that come in the very moment in which it falls asleep.
#[test]
fn nothing_is_lost_around_the_moment_of_sleep() {
    // Nearly all of it is waiting, so some servers do it at once.
    const AT_ONCE: usize = 5;
    let rounds = |first: usize| {
        let server = Server::start();
        deploy_program(&server, "");
        for n in (first..20).step_by(AT_ONCE) {
            // The load's own time: from well before the end of the idle second to well after.
            thread::sleep(Duration::from_millis(960 + n as u64 * 15));
            let answer = ask(&server);
            assert_eq!(answer.status, 200, "round {n}: {}", answer.text());
        }
        starts(&server)
    };
    let starts: usize = thread::scope(|scope| {
        let lanes: Vec<_> = (0..AT_ONCE).map(|first| scope.spawn(move || rounds(first))).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    assert!(starts > AT_ONCE, "they slept at least once");
}

#[test]
fn a_binary_that_sleeps_is_started_once_for_a_crowd() {
    let server = Server::start();
    deploy_program(&server, "");
    wait_for_sleep(&server);
    assert_eq!(starts(&server), 1);
    assert!(crowd(&server, 200).iter().all(|answer| answer.status == 200));
    assert_eq!(starts(&server), 2);
    assert_eq!(wait_for_state(&server, "live")["last_failure"], Value::Null);
}

#[test]
fn an_app_that_fails_to_start_is_a_502_for_all_who_wait() {
    let server = Server::start();
    deploy_program(&server, "exits");
    wait_for_sleep(&server);
    for answer in crowd(&server, 20) {
        assert_eq!((answer.status, answer.text().as_str()), (502, "App failed to start\n"));
    }
    let status = server.status("shop").unwrap();
    assert_eq!(status["last_failure"]["what"], "exited with code 7 before it was ready and printed nothing");
    // Each failure is followed by a longer time in which nothing is tried.
    wait_for("a longer refusal", || {
        let (before, answer) = (starts(&server), ask(&server));
        assert_eq!(answer.status, 502);
        (starts(&server) == before && server.status("shop")?["state"] == "failed").then_some(())
    });
}

#[test]
fn an_app_that_is_too_slow_to_start_is_a_504_after_its_time() {
    let server = Server::start();
    deploy_program(&server, "slow");
    wait_for_sleep(&server);
    let begun = Instant::now();
    let answer = ask(&server);
    assert_eq!((answer.status, answer.text().as_str()), (504, "App startup timed out\n"));
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(SLOW), "{took:?}");
    wait_for("the reason", || {
        let why = server.status("shop")?["last_failure"]["what"].as_str()?.to_owned();
        why.starts_with(&format!("not ready after {SLOW}s")).then_some(())
    });
}
