//! What is left after the worst moment: nothing half done, nobody forgotten.

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, wait_for};

fn serves(server: &Server) -> Option<String> {
    let answer = Client::plain(server.http, HOST).ok()?.get("/").ok()?;
    (answer.status == 200).then(|| answer.json()["version"].as_str().unwrap().to_string())
}

#[test]
fn after_kill_9_the_same_apps_serve_the_same_versions_from_the_same_processes() {
    let (mut server, _sshd, user) = super::deploy::world();
    user.must(&["deploy", "--yes"]);
    user.write("change.txt", "two");
    let v2 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    let before = wait_for("the old one to be gone", || {
        server.status("shop").filter(|status| status["instances"].as_array().is_some_and(|all| all.len() == 1))
    });
    server.crash();
    server.boot();
    assert_eq!(wait_for("the app to serve again", || serves(&server)), v2);
    let after = server.status("shop").unwrap();
    for what in ["version", "routes", "wanted", "last_failure"] {
        assert_eq!(after[what], before[what], "{what}");
    }
    let pid = |status: &serde_json::Value| status["instances"][0]["pid"].as_u64().unwrap();
    assert_eq!(pid(&after), pid(&before), "{}", server.log());

    let traffic = crate::traffic::Traffic::start(server.http, server.https, HOST);
    user.write("change.txt", "three");
    let v3 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    traffic.stop().assert_lossless(&[&v2, &v3]);
    wait_for("the adopted one to have ended", || {
        (!std::path::Path::new(&format!("/proc/{}", pid(&before))).exists()).then_some(())
    });
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
fn an_installer_ends_with_the_server() {
    let mut server = Server::start();
    let mut control = Control::open(&server).unwrap();
    super::server::unpack(&server, &mut control, "v1", "").unwrap();
    let wait = ["/bin/sh", "-c", "echo $$ > pid; exec sleep 600"];
    let manifest = json!({"app": "shop", "version": "v1", "runtime": "binary", "main": "run", "install": wait});
    control.begin(json!({"prepare": {"manifest": manifest}}));
    let file = server.app("shop").join("releases/v1/pid");
    let pid = wait_for("the installer", || {
        let pid = std::fs::read_to_string(&file).ok()?.trim().to_owned();
        (!pid.is_empty()).then_some(pid)
    });
    server.crash();
    wait_for("its end", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    server.boot();
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
