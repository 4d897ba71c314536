//! What an operator asks once an app is live: status, releases, scale, rollback, delete, for people and for programs.

use std::path::Path;

use serde_json::{Value, json};

use crate::deploy::world;
use crate::golden;
use crate::sandbox::{Ran, User, wait_for};
use crate::terminal::Terminal;

/// The last event of a run that may fail.
fn event(ran: &Ran, name: &str) -> Value {
    let events = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.rev().find(|event| event["event"] == name).unwrap_or_else(|| panic!("no event {name}: {ran}"))
}

/// The one instance or more of the one app that `tako status` finds.
fn instances(user: &User) -> Vec<Value> {
    user.result(&["status", "--json"])["apps"][0]["status"]["instances"].as_array().cloned().unwrap_or_default()
}

#[test]
fn status_tells_what_every_instance_takes() {
    let (_server, _sshd, user) = world();
    user.must(&["deploy", "--yes"]);
    user.must(&["scale", "2"]);
    let two = instances(&user);
    assert_eq!(two.len(), 2, "{two:?}");
    for instance in &two {
        let number = |name: &str| instance[name].as_u64().unwrap_or_else(|| panic!("no {name} in {instance}"));
        // A node process takes some tens of megabytes and a little while to start.
        assert!(number("memory") > 10_000_000 && number("cpu_ms") > 0 && number("pid") > 1, "{instance}");
        assert_eq!((&instance["state"], number("restarts")), (&json!("healthy"), 0));
        assert!(number("cpu_permille") <= 64_000, "{instance}");
    }
    let shown = user.must(&["status", "--instances"]);
    for word in
        ["CPU", "MEM", "PID", "shop in production on box", &two[0]["pid"].to_string(), &two[1]["pid"].to_string()]
    {
        assert!(shown.out.contains(word), "no {word} in {shown}");
    }
    assert!(!user.must(&["status"]).out.contains("PID"));

    // One that has died is counted where it is filled again.
    let victim = two[0]["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &victim]).status().unwrap().success());
    wait_for("its place to be filled again", || {
        instances(&user).iter().any(|i| i["restarts"] == 1 && i["state"] == "healthy").then_some(())
    });
    assert!(user.must(&["status", "--instances"]).out.contains("RESTARTS"));
}

#[test]
fn status_without_a_project_is_all_that_runs_on_the_servers() {
    let (_server, _sshd, user) = world();
    let home = user.dir.path().to_str().unwrap();
    let nowhere = user.must(&["-C", home, "status"]);
    assert!(nowhere.err.contains("no tako.toml") && nowhere.err.contains("no app is on box"), "{nowhere}");

    user.must(&["deploy", "--yes"]);
    let config = user.read("tako.toml");
    user.write("tako.toml", &config.replace("\"shop\"", "\"docs\"").replace("shop.localhost", "docs.localhost"));
    user.must(&["deploy", "--yes"]);
    let apps = |args: &[&str]| -> Vec<String> {
        let result = user.result(args);
        let name =
            |app: &Value| format!("{} {} {}", app["app"], app["server"], app["status"]["state"]).replace('"', "");
        result["apps"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(apps(&["status", "--json"]), ["docs box live"]);
    let both = ["docs box live", "shop box live"];
    assert_eq!(apps(&["status", "--all", "--json"]), both);
    assert_eq!(apps(&["status", "--all", "--server", "box", "--json"]), both);
    assert_eq!(apps(&["-C", home, "status", "--json"]), both);
    assert!(apps(&["-C", home, "status", "--env", "staging", "--json"]).is_empty());
    user.run(&["status", "--all", "--server", "nowhere"]).assert_failed(1, &["nowhere"]);
}

#[test]
fn what_became_of_each_deploy_is_told() {
    let (_server, _sshd, user) = world();
    let deployed = || user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    let v1 = deployed();
    user.write("change.txt", "two");
    let v2 = deployed();
    user.use_app("exits", true);
    user.run(&["deploy", "--yes"]).assert_failed(4, &["exited with code 3"]);

    let releases = || user.result(&["releases", "ls", "--json"])["servers"][0]["releases"].as_array().unwrap().clone();
    let [failed, live, earlier] = releases().try_into().unwrap();
    assert!(failed["failure"].as_str().unwrap().contains("exited with code 3"), "{failed}");
    assert_eq!((&failed["live"], &failed["bad"]), (&json!(false), &json!(true)));
    assert_eq!((&live["version"], &live["live"], &live["failure"]), (&json!(v2), &json!(true), &json!(null)));
    assert_eq!((&earlier["version"], &earlier["bad"]), (&json!(v1), &json!(false)));
    assert!(
        live["by"].as_str().unwrap().contains('@') && live["deployed_ms"].as_u64() > earlier["deployed_ms"].as_u64()
    );
    let shown = user.must(&["releases", "ls"]);
    assert!(shown.out.contains("failed") && shown.err.contains("did not come up: "), "{shown}");
    // It is not there to go back to.
    let gone = failed["version"].as_str().unwrap();
    user.run(&["releases", "rollback", gone]).assert_failed(1, &[gone, "tako releases ls"]);

    let back = event(&user.must(&["releases", "rollback", "--json"]), "result");
    assert_eq!((&back["version"], &back["servers"][0]["previous"]), (&json!(v1), &json!(v2)));
    assert!(back["servers"][0]["swaps"][0]["boot_us"].as_u64().unwrap() > 0, "{back}");
    let bad: Vec<Value> = releases().into_iter().filter(|r| r["bad"] == true && r["failure"].is_null()).collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0]["version"], *v2);
    assert!(user.must(&["releases", "ls"]).out.contains("rolled back"));
    user.run(&["releases", "rollback", &v1]).assert_failed(1, &["live already"]);
}

#[test]
fn a_rollback_in_production_asks_nothing_of_one_who_could_answer() {
    let (server, _sshd, user) = world();
    let deployed = || user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    let v1 = deployed();
    user.write("change.txt", "two");
    let v2 = deployed();
    let (screen, code) = Terminal::run(&user.command(&["releases", "rollback"])).end();
    assert_eq!((code, server.current("shop")), (0, Some(v1)), "{screen}");
    assert!(!screen.contains("[y/N]"), "{screen}");
    // It is undone in the same way, and scripts that gave the flag go on.
    user.must(&["releases", "rollback", &v2, "--yes"]);
    assert_eq!(server.current("shop"), Some(v2));
}

#[test]
fn screens_and_events_of_what_changes_an_app() {
    let (_server, _sshd, user) = world();
    let v1 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    user.write("change.txt", "two");
    let v2 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();

    let scaled = event(&user.must(&["scale", "2", "--json"]), "result");
    assert_eq!((&scaled["version"], &scaled["servers"][0]["instances"]), (&json!(v2), &json!(2)));
    let mut screens = String::new();
    for (args, code) in [
        (&["scale", "3"][..], 0),
        (&["scale", "0"], 0),
        (&["releases", "rollback"], 0),
        (&["releases", "rollback"], 1),
        (&["delete", "--confirm", "other"], 1),
        (&["delete", "--confirm", "shop"], 0),
        (&["delete", "--confirm", "shop"], 0),
        (&["scale", "1"], 1),
        (&["releases", "ls"], 1),
        (&["status"], 0),
    ] {
        let ran = user.run(args);
        assert_eq!(ran.code, code, "{ran}");
        screens +=
            &format!("# tako {} ends with {code}\n{}# and on standard error\n{}", args.join(" "), ran.out, ran.err);
    }
    golden::check(Path::new("tests/data/screens/operations.txt"), &plain(&screens, &v1, &v2));
    let deleted = event(&user.must(&["delete", "--confirm", "shop", "--json"]), "result");
    assert_eq!(deleted["servers"], json!([{"server": "box", "ok": true, "deleted": false}]));
    assert_eq!(event(&user.run(&["scale", "1", "--json"]), "error")["kind"], "not_found");
}

/// Without what differs from run to run and from locale to locale: versions, stamps, times, and more than ASCII.
fn plain(screens: &str, v1: &str, v2: &str) -> String {
    let screens = screens.replace('✓', "+").replace('○', "o").replace(['–', '·'], "-");
    let line = |line: &str| {
        let line = line.replace(v1, "VERSION-1").replace(v2, "VERSION-2");
        let line = line.split_once("s] ").filter(|_| line.starts_with('[')).map_or(line.as_str(), |(_, rest)| rest);
        line.split_once(" - serving ").map_or(line, |(start, _)| start).to_string() + "\n"
    };
    // Which steps are seen on the way is a matter of time.
    let ends = |l: &&str| !l.starts_with('[') || l.contains(" ok ") || l.contains(" failed");
    screens.lines().filter(ends).map(line).collect()
}
