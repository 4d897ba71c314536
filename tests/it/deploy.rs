//! The main job: a project goes live over a real `sshd`, is replaced under load, rolled back, and removed.

use serde_json::Value;

use crate::http::Client;
use crate::sandbox::{HOST, Server, Sshd, User, wait_for};
use crate::traffic::Traffic;

fn version(event: &Value) -> String {
    event["version"].as_str().unwrap_or_else(|| panic!("no version in {event}")).to_string()
}

/// A server, an sshd in front of it, and a user who added it.
pub fn world() -> (Server, Sshd, User) {
    world_with(&[])
}

/// Its server has these arguments more.
pub fn world_with(args: &[&str]) -> (Server, Sshd, User) {
    let server = Server::with(args);
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    (server, sshd, user)
}

#[test]
fn from_init_to_delete_without_losing_a_request() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    let _ = std::fs::remove_file(user.project().join("tako.toml"));

    user.must(&["init", "--yes", "--name", "shop", "--route", HOST, "--runtime", "node"]);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    let v1 = version(&user.result(&["deploy", "--yes", "--json"]));
    assert_eq!(sshd.connections(), 1, "one connection per server, kept from the command before");
    assert_eq!(server.current("shop").as_deref(), Some(v1.as_str()));

    let traffic = Traffic::start(server.http, server.https, HOST);
    let mut socket = Client::plain(server.http, HOST).unwrap().upgrade("/ws").unwrap();
    assert_eq!(socket.receive().unwrap().as_deref(), Some(v1.as_str()), "the app names itself on open");
    let mut events = Client::tls(server.https, HOST).unwrap();
    events.open_events("/sse").unwrap();
    assert!(events.event().unwrap().is_some());

    user.write("change.txt", "two");
    let v2 = version(&user.result(&["deploy", "--yes", "--json"]));
    assert_ne!(v1, v2);
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().json()["version"], *v2);
    for n in 0..10 {
        assert!(socket.echoes(&format!("still here {n}")).unwrap(), "the WebSocket lives through the drain");
        assert!(events.event().unwrap().is_some(), "the event stream lives through the drain");
    }

    user.write("change.txt", "three");
    let v3 = version(&user.result(&["deploy", "--yes", "--json"]));
    assert!(socket.echoes("and through another").unwrap());
    drop((socket, events));
    traffic.stop().assert_lossless(&[&v1, &v2, &v3]);

    let traffic = Traffic::start(server.http, server.https, HOST);
    wait_for("some traffic", || Client::plain(server.http, HOST).ok()?.get("/").ok());
    let back = version(&user.result(&["releases", "rollback", "--json"]));
    assert_eq!(back, v2, "no argument means the last good one");
    assert_eq!(server.current("shop"), Some(v2.clone()));
    traffic.stop().assert_lossless(&[&v3, &v2]);

    let releases = user.must(&["releases", "ls"]);
    for v in [&v1, &v2, &v3] {
        assert!(releases.out.contains(&v[..7]), "{v} in {releases}");
    }
    user.must(&["delete", "--confirm", "shop"]);
    assert!(!server.app("shop").exists());
    let gone = Client::plain(server.http, HOST).unwrap().get("/").unwrap();
    assert_eq!(gone.status, 404);
    assert!(user.must(&["status"]).code == 0);
}

#[test]
fn a_second_deploy_of_the_same_sources_uploads_nothing() {
    let (server, _sshd, user) = world();
    let first = user.result(&["deploy", "--yes", "--json"]);
    let inode = std::fs::metadata(server.app("shop").join("releases").join(version(&first)).join("index.mjs")).unwrap();
    let again = user.result(&["deploy", "--yes", "--json"]);
    assert_eq!(version(&first), version(&again));
    let same = std::fs::metadata(server.app("shop").join("releases").join(version(&first)).join("index.mjs")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&inode), std::os::unix::fs::MetadataExt::ino(&same));
    assert_eq!(std::fs::read_dir(server.data().join("incoming")).unwrap().count(), 0);
}

#[test]
fn scaling_changes_the_number_of_instances_without_losing_a_request() {
    let (server, _sshd, user) = world();
    let v1 = version(&user.result(&["deploy", "--yes", "--json"]));
    let traffic = Traffic::start(server.http, server.https, HOST);
    user.must(&["scale", "3"]);
    let count = |n: usize| {
        wait_for(&format!("{n} healthy instances"), || {
            let status = server.status("shop")?;
            let healthy = status["instances"].as_array()?.iter().filter(|i| i["state"] == "healthy").count();
            (healthy == n && status["instances"].as_array()?.len() == n).then_some(())
        });
    };
    count(3);
    user.write("change.txt", "two");
    let v2 = version(&user.result(&["deploy", "--yes", "--json"]));
    user.must(&["scale", "1"]);
    count(1);
    // Three instances are replaced one by one, so both versions answer for a while: no order to hold.
    let tally = traffic.stop();
    assert!(tally.failures.is_empty(), "{:?}", &tally.failures[..tally.failures.len().min(5)]);
    assert!(tally.answers.iter().all(|a| a.version == v1 || a.version == v2));
    let status = user.must(&["status"]);
    assert!(status.out.contains("shop") && status.out.contains("live"), "{status}");
}

#[test]
fn secrets_reach_the_app_and_rest_nowhere_in_clear() {
    const CANARY: &str = "correct-horse-battery-staple-7391";
    let (server, _sshd, user) = world();
    let mut set = user.command(&["secrets", "set", "API_KEY", "--env", "production", "-"]);
    let mut child = set.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), CANARY.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(user.must(&["secrets", "ls"]).out.contains("API_KEY"));
    for (flags, told) in [(&["config"][..], "# secrets: API_KEY"), (&["config", "--json"], r#""set":["API_KEY"]"#)] {
        let config = user.must(flags);
        assert!(config.out.contains(told) && !config.to_string().contains(CANARY), "{config}");
    }
    assert!(user.must(&["config", "--env", "production"]).out.contains("servers = [\"box\"]"));
    user.must(&["deploy", "--yes"]);

    let mut client = Client::plain(server.http, HOST).unwrap();
    let expected = ring::digest::digest(&ring::digest::SHA256, CANARY.as_bytes());
    let expected: String = expected.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let seen = client.get("/secret-hash?name=API_KEY").unwrap();
    assert!(seen.text().contains(&expected), "{}", seen.text());

    let found = |dir: &std::path::Path| {
        std::process::Command::new("grep").args(["-rlaF", CANARY]).arg(dir).output().unwrap().stdout
    };
    assert_eq!(String::from_utf8_lossy(&found(server.dir.path())), "");
    assert_eq!(String::from_utf8_lossy(&found(user.dir.path())), "");
    let pid = server.status("shop").unwrap()["instances"][0]["pid"].as_u64().unwrap();
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{file} of the app");
    }
}

#[test]
fn logs_come_from_the_first_byte() {
    let (server, _sshd, user) = world();
    user.write("index.mjs", &format!("console.log('first words of the app');\n{}", user.read("index.mjs")));
    user.must(&["deploy", "--yes"]);
    let logs = wait_for("the log on disk", || {
        let logs = user.must(&["logs", "--lines", "50"]);
        logs.out.contains("first words of the app").then_some(logs)
    });
    assert!(!logs.out.contains("TAKO:READY") || server.log().is_empty(), "the signal is not output: {logs}");
}
