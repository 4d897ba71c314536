//! What an app prints: kept within bounds whatever it says, and found again by whoever asks, whatever became of the
//! instance, the release or the server.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::http::Client;
use crate::relay::Relay;
use crate::sandbox::{Control, HOST, Running, Server, Sshd, User, wait_for};
use crate::server::unpack;

/// Says so many lines as it is asked: `/say/FROM/COUNT/WIDTH`, with `/err` on standard error. It answers when it has
/// written them.
const APP: &str = r#"#!/usr/bin/env node
const fs = require("node:fs");
const say = (fd, bytes) => { for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at); };
require("node:http").createServer((question, answer) => {
  const [, what, from, count, width, err] = question.url.split("/");
  if (what === "say") {
    const end = Number(from) + Number(count);
    for (let n = Number(from); n < end;) {
      let text = "";
      for (; n < end && text.length < 1 << 16; n++) text += `line ${n} ${"x".repeat(Number(width))} end\n`;
      say(err ? 2 : 1, Buffer.from(text));
    }
  }
  answer.end("done");
}).listen(process.env.PORT, "127.0.0.1");
"#;

/// Of what an app printed: five files of 10 MiB.
const CAP: u64 = 5 * (10 << 20);

fn deploy(server: &Server, version: &str) {
    let mut control = Control::open(server).unwrap();
    unpack(server, &mut control, version, APP).unwrap();
    // Without a path of health: it answers nothing while it writes, which on a busy machine is longer than an app may.
    let manifest = json!({"app": "shop", "version": version, "runtime": "binary", "main": "run"});
    control.call(json!({"prepare": {"manifest": manifest}})).unwrap();
    let order = json!({"manifest": manifest, "routes": [HOST], "instances": 1, "secrets": null});
    control.call(json!({"deploy": order})).unwrap();
    control.call(json!({"unlock": {"app": "shop"}})).unwrap();
}

fn say(server: &Server, what: &str) {
    let mut client = Client::plain(server.http, HOST).unwrap();
    assert_eq!(client.get(&format!("/say/{what}")).unwrap().status, 200);
}

/// The lines that meet `wish`, and the number that is missing among them.
fn read(server: &Server, wish: Value) -> (Vec<Value>, u64) {
    let mut control = Control::open(server).unwrap();
    let mut query = json!({"app": "shop"});
    query.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
    control.begin(json!({"logs": query}));
    let (mut lines, mut missed) = (Vec::new(), 0);
    loop {
        let body = control.read().expect("an answer")["body"].clone();
        match body["notice"]["lines"]["lines"].as_array() {
            Some(more) => {
                lines.extend(more.iter().cloned());
                missed += body["notice"]["lines"]["missed"].as_u64().unwrap();
            }
            None if body["notice"].is_null() => {
                assert_eq!(body["reply"], "done", "{body}");
                return (lines, missed);
            }
            None => {}
        }
    }
}

fn text(line: &Value) -> &str {
    line["text"].as_str().unwrap()
}

/// The number of one of the app's lines, which must be whole.
fn number(line: &Value) -> Option<u64> {
    let mut words = text(line).strip_prefix("line ")?.split(' ');
    let number = words.next()?.parse().unwrap();
    assert!(words.next().is_some_and(|x| x.bytes().all(|b| b == b'x')) && words.next() == Some("end"), "{line}");
    Some(number)
}

/// As told by a remark of the server's.
fn missing(line: &Value) -> Option<u64> {
    text(line).strip_prefix("tako: ")?.split_once(" lines are missing here")?.0.parse().ok()
}

fn until_said(server: &Server, last: u64) {
    wait_for("the last line", || {
        let (lines, _) = read(server, json!({"lines": 1, "grep": format!("line {last} ")}));
        lines.iter().find_map(number)
    });
}

fn file(server: &Server) -> PathBuf {
    server.app("shop").join("shared/logs/app.log")
}

fn on_disk(server: &Server) -> u64 {
    let files = fs::read_dir(file(server).parent().unwrap()).unwrap().flatten();
    let ours = files.filter(|e| e.file_name().to_string_lossy().starts_with("app.log"));
    ours.map(|e| e.metadata().unwrap().len()).sum()
}

/// Peak of resident memory in KiB.
fn peak(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn of_a_flood_every_line_is_kept_or_counted() {
    let server = Server::start();
    deploy(&server, "v1");
    // 33 MiB on disk: nothing of it is rotated away.
    const LINES: u64 = 150_000;
    say(&server, &format!("0/{LINES}/170"));
    wait_for("all of it", || {
        let (lines, missed) = read(&server, json!({}));
        assert_eq!(missed, 0, "who reads what is kept misses nothing");
        let told: Vec<u64> = lines.iter().filter_map(number).collect();
        assert!(told.is_sorted_by(|a, b| a < b), "in order and none twice");
        (told.len() as u64 + lines.iter().filter_map(missing).sum::<u64>() == LINES).then_some(())
    });
}

#[test]
fn a_flood_that_is_larger_than_all_that_is_kept_stays_under_the_cap() {
    let server = Server::start();
    deploy(&server, "v1");
    // 128 MiB as printed, while one who is slow follows: it does not read at all.
    const LINES: u64 = 1_000_000;
    let mut slow = Control::open(&server).unwrap();
    slow.begin(json!({"logs": {"app": "shop", "follow": true}}));
    say(&server, &format!("0/{LINES}/116"));
    // The end of it is there, or it is told that it is missing.
    wait_for("the end", || {
        let (last, _) = read(&server, json!({"lines": 1}));
        last.iter().find_map(|l| number(l).filter(|n| *n == LINES - 1).or(missing(l)))
    });
    assert!(on_disk(&server) <= CAP, "{} bytes", on_disk(&server));
    assert!(peak(&server) < 64 << 10, "the server took {} KiB", peak(&server));
    // And it speaks again as if nothing had been.
    say(&server, "5000000/10/10");
    until_said(&server, 5_000_009);
    assert!(on_disk(&server) <= CAP);
    // The one who was slow hears that lines are missing, and how many; from then on it is told again.
    let heard = |slow: &mut Control, what: &dyn Fn(&Value) -> bool| {
        wait_for("the slow one to hear it", || {
            let body = slow.read().expect("it is still told")["body"].clone();
            what(&body["notice"]["lines"]).then_some(())
        });
    };
    heard(&mut slow, &|told| told["missed"].as_u64().is_some_and(|missed| missed > 0));
    say(&server, "6000000/1/10");
    heard(&mut slow, &|told| told["lines"].as_array().into_iter().flatten().any(|l| number(l) == Some(6_000_000)));
}

#[test]
fn wishes_are_met_together() {
    let server = Server::start();
    deploy(&server, "v1");
    say(&server, "0/100/10");
    say(&server, "100/100/10/err");
    until_said(&server, 199);
    deploy(&server, "v2");
    say(&server, "200/100/10");
    until_said(&server, 299);
    let numbers = |wish: Value| -> Vec<u64> { read(&server, wish).0.iter().filter_map(number).collect() };
    let (all, _) = read(&server, json!({}));
    assert_eq!(all.iter().filter_map(number).collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
    assert_eq!(numbers(json!({"release": "v2"})), (200..300).collect::<Vec<_>>());
    assert_eq!(numbers(json!({"stream": "err", "lines": 2})), [198, 199]);
    assert_eq!(
        numbers(json!({"grep": "LINE 12", "ignore_case": true})),
        [12, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129]
    );
    assert_eq!(numbers(json!({"grep": "LINE 12"})), [0u64; 0]);
    assert_eq!(numbers(json!({"grep": "9 ", "release": "v1", "stream": "out", "lines": 3})), [79, 89, 99]);
    let instance = all.iter().find(|l| number(l) == Some(250)).unwrap();
    let at = instance["at_ms"].as_u64().unwrap();
    assert_eq!(numbers(json!({"instance": instance["instance"], "release": "v2", "lines": 1})), [299]);
    assert!(numbers(json!({"instance": 999})).is_empty());
    let since = numbers(json!({"since_ms": at}));
    assert!(since.contains(&250) && !since.contains(&199), "{since:?}");
    let until = numbers(json!({"until_ms": at - 1}));
    assert!(until.contains(&199) && !until.contains(&250), "{until:?}");
    assert_eq!(numbers(json!({"days": 1})).len(), 300);
    let fault = Control::open(&server).unwrap().call(json!({"logs": {"app": "shop", "grep": "x".repeat(5000)}}));
    assert_eq!(fault.unwrap_err()["kind"], "refused");
}

fn the_pid(server: &Server) -> u64 {
    let status = server.status("shop").unwrap();
    let live = status["instances"].as_array().unwrap().iter().find(|i| i["state"] == "healthy");
    live.expect("one is healthy")["pid"].as_u64().unwrap()
}

#[test]
fn what_was_said_outlives_instances_releases_and_a_server_that_is_killed_in_the_middle_of_it() {
    let mut server = Server::start();
    deploy(&server, "v1");
    say(&server, "0/10/10");
    until_said(&server, 9);
    let pid = the_pid(&server);
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    wait_for("another instance", || {
        let instances = server.status("shop")?["instances"].clone();
        let healthy = instances.as_array()?.iter().find(|i| i["state"] == "healthy")?;
        (healthy["pid"].as_u64()? != pid).then_some(())
    });
    deploy(&server, "v2");
    let writer = the_pid(&server);
    // Killed while a flood is written, and who writes it with it: the next server would adopt that.
    let http = server.http;
    let flood = std::thread::spawn(move || {
        let _ = Client::plain(http, HOST).and_then(|mut client| client.get("/say/1000/400000/100"));
    });
    wait_for("the flood to be on disk", || (fs::metadata(file(&server)).ok()?.len() > 2 << 20).then_some(()));
    server.crash();
    assert!(Command::new("kill").args(["-9", &writer.to_string()]).status().unwrap().success());
    flood.join().unwrap();
    // As the worst moment leaves it, wherever this one was.
    let mut torn = OpenOptions::new().append(true).open(file(&server)).unwrap();
    torn.write_all(b"2026-11-22T07:33:59.123Z out 1 v2 line 7 xxx").unwrap();
    server.boot();
    // `number` fails for half a line.
    let whole = |lines: &[Value]| -> Vec<u64> { lines.iter().filter_map(number).collect() };
    let told = whole(&read(&server, json!({})).0);
    assert!(told.starts_with(&(0..10).collect::<Vec<_>>()) && told.contains(&1000), "{:?}", &told[..20]);
    wait_for("the app to serve again", || {
        Client::plain(server.http, HOST).ok()?.get("/").ok().filter(|a| a.status == 200)
    });
    say(&server, "9000000/5/10");
    until_said(&server, 9_000_004);
    let (lines, _) = read(&server, json!({}));
    let again = whole(&lines);
    assert!(again.starts_with(&told) && again.ends_with(&[9_000_000, 9_000_001, 9_000_002, 9_000_003, 9_000_004]));
    let strange = |l: &&Value| number(l).is_none() && !text(l).starts_with("tako: ");
    assert_eq!(lines.iter().find(strange), None, "only what the app said, and remarks");
    let file = fs::read(file(&server)).unwrap();
    assert!(!String::from_utf8(file).unwrap().contains("line 7 xxx2026"), "nothing is glued to a half line");
}

#[test]
fn who_follows_an_app_that_is_deleted_hears_a_clear_word() {
    let server = Server::start();
    deploy(&server, "v1");
    let mut follower = Control::open(&server).unwrap();
    follower.begin(json!({"logs": {"app": "shop", "follow": true, "grep": "line 3 "}}));
    say(&server, "0/5/3");
    wait_for("the line", || {
        let answer = follower.read()?;
        answer["body"]["notice"]["lines"]["lines"].as_array()?.iter().find_map(number).filter(|n| *n == 3)
    });
    Control::open(&server).unwrap().call(json!({"delete": {"app": "shop"}})).unwrap();
    let fault = wait_for("the end", || Some(follower.read()?["body"]["fault"].clone()).filter(|f| !f.is_null()));
    assert_eq!(
        (&fault["kind"], &fault["message"]),
        (&json!("not_found"), &json!("shop was deleted, and its log with it"))
    );
    assert!(!server.app("shop").exists());
}

/// Two servers with the app, and a user whose project is on both.
fn two_servers() -> ([Server; 2], [Sshd; 2], User) {
    let servers = [Server::start(), Server::start()];
    let sshds = [Sshd::start(&servers[0]), Sshd::start(&servers[1])];
    sshds[0].join(&sshds[1]);
    let user = User::new(&sshds[0]);
    user.write("run", "");
    user.write(
        "tako.toml",
        &format!(
            "name = \"shop\"\nruntime = \"binary\"\nmain = \"run\"\n\n[envs.production]\nroute = \"{HOST}\"\n\
             servers = [\"east\", \"west\"]\n"
        ),
    );
    for (name, (server, sshd)) in ["east", "west"].into_iter().zip(servers.iter().zip(&sshds)) {
        user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &sshd.port.to_string()]);
        deploy(server, "v1");
    }
    (servers, sshds, user)
}

#[test]
fn the_lines_of_several_servers_are_one_story() {
    let (servers, _sshds, user) = two_servers();
    for n in 0..6 {
        let server = &servers[n % 2];
        say(server, &format!("{n}/1/3{}", if n == 4 { "/err" } else { "" }));
        until_said(server, n as u64);
    }
    let ran = user.must(&["logs"]);
    let told: Vec<&str> = ran.out.lines().filter_map(|l| l.split_once(' ').map(|(_, rest)| rest)).collect();
    let line = |n: u64, mark: &str| format!("[{}] #1 {mark}line {n} xxx end", ["east", "west"][n as usize % 2]);
    let expected: Vec<String> = (0..6).map(|n| line(n, if n == 4 { "! " } else { "" })).collect();
    assert_eq!(told, expected, "{ran}");

    let events = |args: &[&str]| -> Vec<Value> {
        user.must(args).out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let found =
        events(&["logs", "--json", "--grep", "LINE 3", "-i", "--since", "1h", "--release", "v1", "--instance", "1"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["event"], &found[0]["server"], &found[0]["stream"]),
        (&json!("log"), &json!("west"), &json!("out"))
    );
    assert_eq!(events(&["logs", "--json", "--err", "--days", "1", "--server", "east"]).len(), 1);

    let nothing = user.must(&["logs", "--grep", "nowhere", "--since", "2h"]);
    assert_eq!(nothing.out, "");
    for word in ["no line of shop on east, west", "--grep nowhere", "--since 2h"] {
        assert!(nothing.err.contains(word), "{nothing}");
    }
    user.run(&["logs", "--since", "soon"]).assert_failed(2, &["`--since soon` is no time", "2h"]);
    user.run(&["logs", "--days", "0"]).assert_failed(2, &["`--days 0`"]);
    user.run(&["logs", "--server", "north"]).assert_failed(2, &["north is not a server of production"]);
}

#[test]
fn following_several_servers_tells_their_past_in_order_and_then_what_comes() {
    let (servers, _sshds, user) = two_servers();
    for n in 0..4 {
        say(&servers[n % 2], &format!("{n}/1/3"));
        until_said(&servers[n % 2], n as u64);
    }
    let mut command = user.command(&["logs", "--tail", "--json"]);
    let mut tako = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(tako.0.stdout.take().unwrap()).lines();
    let mut next = || number(&serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    let past: Vec<_> = (0..4).map(|_| next().unwrap()).collect();
    assert_eq!(past, [0, 1, 2, 3]);
    say(&servers[1], "10/1/3");
    assert_eq!(next(), Some(10));
    say(&servers[0], "11/1/3");
    assert_eq!(next(), Some(11));
    assert!(Command::new("kill").args(["-INT", &tako.0.id().to_string()]).status().unwrap().success());
    assert_eq!(wait_for("`tako logs --tail` to end", || tako.0.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn after_a_lost_connection_no_line_is_told_twice_and_none_is_missing() {
    let (servers, mut sshds, user) = two_servers();
    let relay = Relay::start(sshds[0].port);
    sshds[0].through(relay.port);
    sshds[0].join(&sshds[1]);
    user.must(&["servers", "rm", "east", "--yes"]);
    user.must(&["servers", "add", "127.0.0.1", "--name", "east", "--port", &relay.port.to_string()]);
    say(&servers[0], "0/3/3");
    until_said(&servers[0], 2);
    let mut command = user.command(&["logs", "--tail", "--json"]);
    let mut tako = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(tako.0.stdout.take().unwrap()).lines();
    let (mut told, mut states) = (Vec::new(), Vec::new());
    let mut until = |last: u64, told: &mut Vec<u64>, states: &mut Vec<String>| {
        while told.last() != Some(&last) {
            let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            match event["event"].as_str() {
                Some("log") => told.extend(number(&event)),
                _ => states.push(format!("{} {}", event["server"], event["state"]).replace('"', "")),
            }
        }
    };
    until(2, &mut told, &mut states);
    // Twice, the second time with what came of the first.
    for round in [100, 200] {
        relay.cut();
        say(&servers[0], &format!("{round}/5/3"));
        until(round + 4, &mut told, &mut states);
        say(&servers[0], &format!("{}/1/3", round + 10));
        until(round + 10, &mut told, &mut states);
    }
    // The other one was heard all the time, and both are.
    say(&servers[1], "300/1/3");
    until(300, &mut told, &mut states);
    let round = |n: u64| (n..n + 5).chain([n + 10]);
    assert_eq!(told, (0..3).chain(round(100)).chain(round(200)).chain([300]).collect::<Vec<_>>());
    assert_eq!(states, ["east lost", "east back", "east lost", "east back"]);
    assert!(Command::new("kill").args(["-INT", &tako.0.id().to_string()]).status().unwrap().success());
    assert_eq!(wait_for("`tako logs --tail` to end", || tako.0.try_wait().unwrap()).code(), Some(0));
    let err = std::io::read_to_string(tako.0.stderr.take().unwrap()).unwrap();
    for words in ["[east] connection lost, trying again\n", "[east] connected again\n"] {
        assert_eq!(err.matches(words).count(), 2, "{err}");
    }
}
