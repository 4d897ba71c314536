//! What is left after the worst moment: nothing half done, nobody forgotten.

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, wait_for};

fn serves(server: &Server) -> Option<String> {
    let answer = Client::plain(server.http, HOST).ok()?.get("/").ok()?;
    (answer.status == 200).then(|| answer.json()["version"].as_str().unwrap().to_string())
}

#[test]
fn after_kill_9_the_same_apps_serve_the_same_versions() {
    let (mut server, _sshd, user) = super::deploy::world();
    user.must(&["deploy", "--yes"]);
    user.write("change.txt", "two");
    let v2 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    let before = server.status("shop").unwrap();
    let old_pid = before["instances"][0]["pid"].as_u64().unwrap();
    server.crash();
    server.boot();
    assert_eq!(wait_for("the app to serve again", || serves(&server)), v2);
    let after = server.status("shop").unwrap();
    assert_eq!(
        (&after["version"], &after["routes"], &after["wanted"]),
        (&before["version"], &before["routes"], &before["wanted"])
    );
    wait_for("the orphan of the dead server to be gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{old_pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    user.must(&["deploy", "--yes"]);
}

#[test]
fn an_orderly_stop_ends_every_instance() {
    let (mut server, _sshd, user) = super::deploy::world();
    user.must(&["deploy", "--yes"]);
    let pid = server.status("shop").unwrap()["instances"][0]["pid"].as_u64().unwrap();
    assert!(server.shut_down(), "exit code 0\n{}", server.log());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn an_instance_that_dies_is_replaced() {
    let (server, _sshd, user) = super::deploy::world();
    user.must(&["deploy", "--yes"]);
    let pid = server.status("shop").unwrap()["instances"][0]["pid"].as_u64().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    wait_for("another instance", || {
        let status = server.status("shop")?;
        let instance = status["instances"].as_array()?.iter().find(|i| i["state"] == "healthy")?.clone();
        (instance["pid"].as_u64()? != pid).then_some(())
    });
    assert!(serves(&server).is_some());
}

#[test]
fn a_client_that_is_killed_mid_deploy_leaves_no_lock_and_no_half_release() {
    let (server, _sshd, user) = super::deploy::world();
    let v1 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    // The new release takes its whole start-up time to fail, which is when the client goes.
    user.use_app("never-ready", false);
    let mut child = user
        .command(&["deploy", "--yes"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the rollout to begin", || (server.status("shop")?["state"] == "deploying").then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = json!({"lock": {"app": "shop", "version": null}});
    let mut control = Control::open(&server).unwrap();
    wait_for("the lock to be free", || control.call(lock.clone()).ok());
    drop(control);
    wait_for("the server to roll back by itself", || (server.status("shop")?["state"] == "live").then_some(()));
    assert_eq!(serves(&server).unwrap(), v1);
    wait_for("the failed release to be removed", || (server.releases("shop") == [v1.clone()]).then_some(()));
    assert!(!server.app("shop").join(".deploy_lock").exists());
}

#[test]
fn a_second_server_does_not_take_over_a_living_one() {
    let server = Server::start();
    let second = std::process::Command::new(crate::sandbox::TAKO_SERVER)
        .arg("--data-dir")
        .arg(server.data())
        .arg("--socket")
        .arg(server.socket())
        .args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", String::from_utf8_lossy(&second.stderr));
    assert!(Control::open(&server).is_some());
}
