//! The server by itself, as somebody who means it harm or pulls its plug would find it. Spoken to over its socket; the
//! app is a program without the SDK that does what it is told by `PART`.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, wait_for};

const APP: &str = r#"#!/usr/bin/env node
const fs = require("node:fs");
const { spawn } = require("node:child_process");
const { secrets } = JSON.parse(fs.readFileSync(3, "utf8"));
const say = (bytes) => { for (let at = 0; at < bytes.length;) at += fs.writeSync(1, bytes, at); };
let child = 0;
switch (process.env.PART) {
  case "strange":
    say(Buffer.from([0xff, 0xfe, 0, 0x0a]));
    say(Buffer.from("y".repeat(1 << 20) + "\nTAKO:READY:0\nTAKO:READY:70000\nTAKO:READY:-1\n\u001b[31mred\n"));
    break;
  case "deaf":
    process.on("SIGTERM", () => {});
    child = spawn("sleep", ["1000"], { stdio: "inherit" }).pid;
    break;
}
const body = () => JSON.stringify({
  version: process.env.TAKO_BUILD, secret: secrets.KEY ?? null, pid: process.pid, child,
  names: Object.keys(process.env), descriptors: fs.readdirSync("/proc/self/fd").length,
});
require("node:http").createServer((_, answer) => answer.end(body())).listen(process.env.PORT, "127.0.0.1");
"#;

/// Lays the release out and deploys it; the reply or the fault.
pub fn deploy(server: &Server, version: &str, part: &str) -> Result<Value, Value> {
    let mut control = Control::open(server).ok_or_else(|| json!({"message": "nobody answers"}))?;
    let order = lay_out(server, &mut control, version, part)?;
    let done = control.call(order);
    // Dropping the connection does it too, a moment later.
    control.call(json!({"unlock": {"app": "shop"}}))?;
    done
}

/// All but the deploy itself, which is returned. The secret is the version's, so that one cannot go with another.
fn lay_out(server: &Server, control: &mut Control, version: &str, part: &str) -> Result<Value, Value> {
    unpack(server, control, version, APP)?;
    let manifest = json!({"app": "shop", "version": version, "runtime": "binary", "main": "run", "health": "/",
                          "vars": {"PART": part}});
    control.call(json!({"prepare": {"manifest": manifest}}))?;
    let secrets = json!({"hash": version, "values": {"KEY": format!("of {version}")}});
    Ok(json!({"deploy": {"manifest": manifest, "routes": [HOST], "instances": 1, "secrets": secrets}}))
}

/// Takes the lock and lays out a release of `shop` that is one program, `run`.
pub fn unpack(server: &Server, control: &mut Control, version: &str, program: &str) -> Result<(), Value> {
    control.call(json!({"lock": {"app": "shop", "version": version}}))?;
    let mut tar = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_gnu();
    head.set_size(program.len() as u64);
    head.set_mode(0o755);
    tar.append_data(&mut head, "run", program.as_bytes()).unwrap();
    let tar = tar.into_inner().unwrap();
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    let file = format!("{version}.tar.zst");
    fs::write(server.data().join("incoming").join(&file), &packed).unwrap();
    let sha256: String =
        ring::digest::digest(&ring::digest::SHA256, &tar).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let artifact = json!({"file": file, "sha256": sha256, "bytes": packed.len(), "unpacked": tar.len()});
    control.call(json!({"unpack": {"app": "shop", "version": version, "artifact": artifact}}))?;
    Ok(())
}

fn ask(server: &Server) -> Option<Value> {
    let answer = Client::plain(server.http, HOST).ok()?.get("/").ok()?;
    (answer.status == 200).then(|| answer.json())
}

fn pid(server: &Server) -> u64 {
    let reply = Control::open(server).unwrap().call(json!("info")).unwrap();
    reply["info"]["pid"].as_u64().unwrap()
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}

fn is_gone(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn thirty_deploys_leave_no_descriptor_thread_or_process_behind() {
    let server = Server::start();
    let pid = pid(&server);
    let settled = || {
        let old = |s: &Value| s["instances"].as_array().is_some_and(|i| i.len() == 1);
        wait_for("the old one to be gone", || server.status("shop").filter(old));
        wait_for("our own connections to be over", || (entries(&format!("/proc/{pid}/task")) <= 16).then_some(()));
    };
    let count = |what: &str| entries(&format!("/proc/{pid}/{what}"));
    deploy(&server, "v0", "").unwrap();
    settled();
    let (descriptors, threads) = (count("fd"), count("task"));
    for n in 1..=30 {
        deploy(&server, &format!("v{n}"), "").unwrap();
    }
    settled();
    wait_for("as few descriptors and threads as before", || {
        (count("fd") <= descriptors && count("task") <= threads).then_some(())
    });
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    assert!(children.split_whitespace().count() <= 1, "{children}");
    let answer = ask(&server).unwrap();
    assert_eq!((&answer["version"], &answer["secret"]), (&json!("v30"), &json!("of v30")));
    let sealed = fs::read_dir(server.app("shop")).unwrap().flatten();
    let sealed = sealed.filter(|e| e.file_name().to_string_lossy().contains("sealed")).count();
    assert_eq!(sealed, 1, "old secrets are removed");
}

#[test]
fn an_app_gets_nothing_of_ours() {
    let server = Server::start();
    deploy(&server, "v1", "").unwrap();
    let answer = ask(&server).unwrap();
    let names: Vec<&str> = answer["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let ours = ["TAKO_SOCKET", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "CARGO", "CARGO_PKG_NAME", "USER"];
    assert!(ours.iter().all(|name| !names.contains(name)), "{names:?}");
    let fd = format!("/proc/{}/fd", answer["pid"]);
    for entry in fs::read_dir(fd).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        assert!(!target.starts_with(server.data()), "{target:?} is open in the app");
    }
}

#[test]
fn strange_output_is_told_as_lines_and_is_no_ready_signal() {
    let server = Server::start();
    deploy(&server, "v1", "strange").unwrap();
    let mut control = Control::open(&server).unwrap();
    control.begin(json!({"logs": {"app": "shop", "follow": false, "lines": 1000}}));
    let mut lines = Vec::new();
    loop {
        let body = control.read().expect("an answer")["body"].clone();
        match body["notice"]["lines"]["lines"].as_array() {
            Some(more) => lines.extend(more.iter().map(|l| l["text"].as_str().unwrap().to_string())),
            None if body["reply"].is_null() => assert!(body["fault"].is_null(), "{body}"),
            None => break,
        }
    }
    assert!(lines.contains(&"\u{fffd}\u{fffd}\u{fffd}".to_string()), "{:?}", lines.first());
    assert_eq!(lines.iter().filter(|l| l.starts_with("yyy")).map(String::len).sum::<usize>(), 1 << 20);
    for line in ["TAKO:READY:0", "TAKO:READY:70000", "TAKO:READY:-1", "\u{1b}[31mred"] {
        assert!(lines.iter().any(|l| l == line), "{line}");
    }
    assert_eq!(ask(&server).unwrap()["version"], "v1");
}

#[test]
fn one_that_ignores_the_request_to_end_is_killed_with_all_it_started() {
    let server = Server::start();
    deploy(&server, "v1", "deaf").unwrap();
    let old = ask(&server).unwrap();
    deploy(&server, "v2", "").unwrap();
    assert_eq!(ask(&server).unwrap()["version"], "v2");
    wait_for("both processes to be gone", || {
        (is_gone(old["pid"].as_u64()?) && is_gone(old["child"].as_u64()?)).then_some(())
    });
    wait_for("the status to say so", || (server.status("shop")?["instances"].as_array()?.len() == 1).then_some(()));
}

#[test]
fn a_group_that_lost_its_leader_with_the_server_is_ended_at_boot() {
    let mut server = Server::start();
    deploy(&server, "v1", "deaf").unwrap();
    let old = ask(&server).unwrap();
    server.crash();
    let leader = old["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &leader]).status().unwrap().success());
    wait_for("the leader to be gone", || is_gone(old["pid"].as_u64()?).then_some(()));
    assert!(!is_gone(old["child"].as_u64().unwrap()));
    server.boot();
    wait_for("what it had started to be gone", || is_gone(old["child"].as_u64()?).then_some(()));
    assert_eq!(wait_for("the app to serve again", || ask(&server))["version"], "v1");
}

/// The plug is pulled at any moment of a deploy: what comes back is one release with its own secrets, and `current`
/// and the folder of releases agree.
#[test]
fn whenever_the_server_is_killed_it_comes_back_wholly_old_or_wholly_new() {
    let mut server = Server::start();
    deploy(&server, "v0", "").unwrap();
    for n in 1..=12u64 {
        let version = format!("v{n}");
        let mut control = Control::open(&server).unwrap();
        let order = lay_out(&server, &mut control, &version, "").unwrap();
        control.begin(order);
        // Not to wait for something: the moment is what the test is about.
        std::thread::sleep(std::time::Duration::from_millis(n * 13));
        server.crash();
        drop(control);
        server.boot();
        let answer = wait_for("the app to serve again", || ask(&server));
        let live = answer["version"].as_str().unwrap().to_string();
        assert_eq!(answer["secret"], format!("of {live}"), "killed after {} ms", n * 13);
        assert_eq!(server.status("shop").unwrap()["version"], live);
        assert_eq!(server.current("shop").unwrap(), live);
        let app: Value =
            serde_json::from_slice(&fs::read(server.app("shop").join("current/app.json")).unwrap()).unwrap();
        assert_eq!(app["version"], live);
        let stray = |name: &str| name.ends_with(".tmp") || name == ".deploy_lock";
        let left: Vec<String> = fs::read_dir(server.app("shop"))
            .unwrap()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        assert!(!left.iter().any(|name| stray(name)), "{left:?}");
        assert_eq!(left.iter().filter(|name| name.ends_with(".sealed")).count(), 1, "{left:?}");
    }
    deploy(&server, "last", "").unwrap();
    assert_eq!(ask(&server).unwrap()["version"], "last");
}

#[test]
fn an_orderly_stop_in_the_middle_of_a_deploy_keeps_what_was_live() {
    let mut server = Server::start();
    deploy(&server, "v1", "").unwrap();
    let mut control = Control::open(&server).unwrap();
    let mut order = lay_out(&server, &mut control, "v2", "").unwrap();
    // It never listens there, so it is under way for as long as it may.
    order["deploy"]["manifest"]["health"] = json!("/");
    order["deploy"]["manifest"]["start"] = json!(["/bin/sleep", "1000"]);
    control.begin(order);
    let fresh = wait_for("the new one to be started", || {
        let status = server.status("shop")?;
        status["instances"].as_array()?.iter().find(|i| i["version"] == "v2")?["pid"].as_u64()
    });
    assert!(server.shut_down(), "{}", server.log());
    assert!(is_gone(fresh));
    server.boot();
    assert_eq!(wait_for("the app to serve again", || ask(&server))["version"], "v1");
    assert_eq!(server.current("shop").as_deref(), Some("v1"));
}

#[test]
fn clients_that_say_nothing_are_let_go_and_those_who_come_meanwhile_are_told() {
    let server = Server::start();
    let silent: Vec<UnixStream> =
        std::iter::repeat_with(|| UnixStream::connect(server.socket()).unwrap()).take(64).collect();
    wait_for("no more to be let in", || {
        let mut control = Control::open(&server)?;
        control.begin(json!("info"));
        // Those before may not have been accepted yet; then it is served.
        (control.read()?["body"]["fault"]["kind"] == "busy").then_some(())
    });
    wait_for("the silent ones to be let go", || {
        let mut control = Control::open(&server)?;
        control.begin(json!("info"));
        (!control.read()?["body"]["reply"].is_null()).then_some(())
    });
    for mut stream in silent {
        stream.read_to_end(&mut Vec::new()).expect("the server ended it");
    }
}

#[test]
fn what_lies_among_the_uploads_is_no_way_out_of_them() {
    let server = Server::start();
    let outside = server.dir.path().join("outside");
    fs::write(&outside, "x").unwrap();
    let incoming = server.data().join("incoming");
    std::os::unix::fs::symlink(&outside, incoming.join("link.tar.zst")).unwrap();
    fs::create_dir(incoming.join("folder.tar.zst")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(incoming.join("fifo.tar.zst")).status().unwrap().success());
    let mut control = Control::open(&server).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v1"}})).unwrap();
    for (file, bytes) in [("link.tar.zst", 1), ("folder.tar.zst", 4096), ("fifo.tar.zst", 0)] {
        let artifact = json!({"file": file, "sha256": "0".repeat(64), "bytes": bytes, "unpacked": 1});
        let fault =
            control.call(json!({"unpack": {"app": "shop", "version": "v1", "artifact": artifact}})).unwrap_err();
        assert_eq!(fault["kind"], "refused", "{file}: {fault}");
    }
    assert!(Path::new(&outside).exists() && server.releases("shop").is_empty());
}
