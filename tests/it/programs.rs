//! Programs that know nothing of Tako: how they are found ready, and that all they start ends with them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, wait_for};
use crate::server::unpack;

/// Answers with its pid, on the port that its first argument is an expression for.
const LISTENS: &str = r#"#!/usr/bin/env node
const server = require("node:http").createServer((request, answer) => {
  const ill = request.url === "/health" && !require("node:fs").existsSync(process.env.TAKO_DATA_DIR + "/well");
  answer.writeHead(ill ? 503 : 200).end(String(process.pid));
});
server.listen(WHERE, "127.0.0.1", () => SAY);
"#;

/// A shell that starts the server and two others: one that does not listen to SIGTERM, one in the background of it.
const TREE: &str = r#"#!/bin/sh
node -e 'require("node:http").createServer((_, a) => a.end("up")).listen(process.env.PORT, "127.0.0.1")' &
sh -c 'trap "" TERM; while :; do sleep 600; done' &
sh -c 'sleep 600 & wait' &
wait
"#;

fn listens(port: &str, say: &str) -> String {
    LISTENS.replace("WHERE", port).replace("SAY", say)
}

fn manifest(health: Option<&str>) -> Value {
    json!({"app": "shop", "version": "v1", "runtime": "binary", "main": "run", "health": health})
}

/// Lays `program` out and begins to deploy it.
fn begin(server: &Server, program: &str, health: Option<&str>) -> Control {
    let mut control = Control::open(server).unwrap();
    unpack(server, &mut control, "v1", program).unwrap();
    control.call(json!({"prepare": {"manifest": manifest(health)}})).unwrap();
    control.begin(json!({"deploy": {"manifest": manifest(health), "routes": [HOST], "instances": 1}}));
    control
}

/// The reply or the fault that comes at the end.
fn end(control: &mut Control) -> Value {
    loop {
        let body = control.read().expect("the server answers")["body"].clone();
        if body["notice"].is_null() {
            return body;
        }
    }
}

fn answer(server: &Server) -> String {
    let answer = Client::plain(server.http, HOST).unwrap().get("/").unwrap();
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body).unwrap()
}

fn the_instance(server: &Server) -> Value {
    server.status("shop").unwrap()["instances"][0].clone()
}

#[test]
fn one_that_listens_where_it_was_told_is_ready() {
    let server = Server::start();
    let done = end(&mut begin(&server, &listens("process.env.PORT", "0"), None));
    assert!(done["reply"]["deployed"]["swaps"].is_array(), "{done}");
    assert_eq!(answer(&server), the_instance(&server)["pid"].to_string());
}

#[test]
fn one_that_says_where_it_listens_is_believed() {
    let server = Server::start();
    let say = "console.log(`TAKO:READY:${server.address().port}`)";
    let done = end(&mut begin(&server, &listens("0", say), None));
    assert!(done["reply"]["deployed"]["swaps"].is_array(), "{done}");
    let instance = the_instance(&server);
    assert_eq!(answer(&server), instance["pid"].to_string());
    assert!(instance["port"].as_u64().unwrap() > 0);
}

#[test]
fn one_with_a_health_path_is_live_only_once_that_answers_well() {
    let server = Server::start();
    let mut control = begin(&server, &listens("process.env.PORT", "0"), Some("/health"));
    let port = wait_for("it to listen", || {
        let port = server.status("shop")?["instances"][0]["port"].as_u64()?;
        let mut app = Client::plain(([127, 0, 0, 1], port as u16).into(), HOST).ok()?;
        app.get("/health").ok().filter(|a| a.status == 503).map(|_| port)
    });
    // It answers, and is asked for its health, and still nothing is sent to it.
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().status, 404);
    assert_eq!(server.status("shop").unwrap()["state"], "deploying");
    fs::write(server.app("shop").join("shared/data/well"), "").unwrap();
    assert!(end(&mut control)["reply"]["deployed"]["swaps"].is_array());
    assert_eq!(the_instance(&server)["port"].as_u64(), Some(port));
    assert!(answer(&server).parse::<u32>().is_ok());
}

/// Processes that were given the app's data folder, whoever their parent is now.
fn of_the_app(data: &Path) -> Vec<String> {
    let wanted = format!("TAKO_DATA_DIR={}", data.display());
    let all = fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    let ours = all.filter(|p| {
        let environment = fs::read(p.join("environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
    });
    ours.map(|p| p.display().to_string()).collect()
}

#[test]
fn all_that_a_program_starts_ends_with_it() {
    let server = Server::start();
    let mut control = begin(&server, TREE, None);
    assert!(end(&mut control)["reply"]["deployed"]["swaps"].is_array());
    assert_eq!(answer(&server), "up");
    let data = server.app("shop").join("shared/data");
    wait_for("the shell, the server, and two shells with a sleeper each", || {
        (of_the_app(&data).len() == 6).then_some(())
    });
    // The leader dies: what it started goes, and a whole tree is started anew.
    let old = of_the_app(&data);
    let leader = the_instance(&server)["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &leader]).status().unwrap().success());
    wait_for("another tree", || {
        let now = of_the_app(&data);
        (now.len() == 6 && now.iter().all(|p| !old.contains(p))).then_some(())
    });
    control.call(json!({"delete": {"app": "shop"}})).unwrap();
    assert_eq!(of_the_app(&data), [""; 0]);
}
