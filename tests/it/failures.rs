//! Deploys that must not go live: the old release serves on, and the user is told why.

use crate::http::Client;
use crate::sandbox::{HOST, Server, User, wait_for};

/// Deploys `mixed`, then `broken` in its place; returns what the second deploy said.
fn replace_by(broken: &str, route: Option<&str>) -> (Server, crate::sandbox::Sshd, User, String, crate::sandbox::Ran) {
    let (server, sshd, user) = super::deploy::world();
    let v1 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    user.use_app(broken, false);
    if let Some(route) = route {
        let config = user.read("tako.toml").replace(HOST, route);
        user.write("tako.toml", &config);
    }
    let ran = user.run(&["deploy", "--yes"]);
    (server, sshd, user, v1, ran)
}

fn assert_nothing_changed(server: &Server, v1: &str) {
    let mut client = Client::plain(server.http, HOST).unwrap();
    assert_eq!(client.get("/").unwrap().json()["version"], *v1);
    assert_eq!(server.current("shop").as_deref(), Some(v1));
    // Its files go when its last process has.
    wait_for("the failed release to be removed", || (server.releases("shop") == [v1]).then_some(()));
    let status = server.status("shop").unwrap();
    assert_eq!(status["version"], *v1);
    assert_eq!(status["routes"], serde_json::json!([HOST]));
    assert!(!server.app("shop").join(".deploy_lock").exists());
}

#[test]
fn one_that_never_gets_ready() {
    // It asks for another route too, which must not be taken.
    let (server, _sshd, _user, v1, ran) = replace_by("never-ready", Some("other.localhost"));
    ran.assert_failed(4, &["not ready after 2s: it listens on no port", "hint: ", "startup_timeout"]);
    assert_nothing_changed(&server, &v1);
    assert_eq!(Client::plain(server.http, "other.localhost").unwrap().get("/").unwrap().status, 404);
}

#[test]
fn on_the_server_a_file_tells_who_is_at_it_and_how_far() {
    let (server, _sshd, user) = super::deploy::world();
    user.use_app("never-ready", false);
    user.write("tako.toml", &user.read("tako.toml").replace("startup_timeout = 2", "startup_timeout = 600"));
    let mut deploy = crate::sandbox::Running(user.command(&["deploy", "--yes"]).spawn().unwrap());
    let told = wait_for("the instance to be waited for", || {
        let file = std::fs::read(server.app("shop").join(".deploy_lock")).ok()?;
        // Whole whenever it is read.
        let told: serde_json::Value = serde_json::from_slice(&file).unwrap();
        (told["step"] == "rolling 1/1").then_some(told)
    });
    let busy = user.run(&["deploy", "--yes"]);
    let who = told["who"].as_str().unwrap();
    busy.assert_failed(7, &[&format!("being deployed by {who} for "), "rolling 1/1"]);
    assert!(told["version"].is_string() && told["since"].as_str().unwrap().ends_with('Z'), "{told}");
    deploy.kill();
}

#[test]
fn one_that_exits_at_once() {
    let (server, _sshd, _user, v1, ran) = replace_by("exits", None);
    ran.assert_failed(4, &["exited with code 3 before it was ready", "boom: cannot connect to db", "hint: "]);
    assert_nothing_changed(&server, &v1);
}

#[test]
fn one_that_fails_its_probe() {
    let (server, _sshd, _user, v1, ran) = replace_by("bad-status", None);
    ran.assert_failed(
        4,
        &["is up but /healthz answered 500", "the queue is unreachable", "hint: see what the app printed"],
    );
    assert_nothing_changed(&server, &v1);
}

#[test]
fn one_whose_route_belongs_to_another_app() {
    let (server, _sshd, user) = super::deploy::world();
    user.must(&["deploy", "--yes"]);
    let config = user.read("tako.toml").replace("name = \"shop\"", "name = \"thief\"");
    user.write("tako.toml", &config);
    let ran = user.run(&["deploy", "--yes"]);
    assert_ne!(ran.code, 0, "{ran}");
    assert!(ran.err.contains("shop") && ran.err.contains(HOST), "{ran}");
    assert!(
        !server.app("thief").join("releases").exists() || server.releases("thief").is_empty(),
        "nothing was uploaded"
    );
}

#[test]
fn a_first_deploy_that_fails_leaves_no_app_behind() {
    let (server, _sshd, user) = super::deploy::world();
    user.use_app("exits", false);
    user.run(&["deploy", "--yes"]).assert_failed(4, &["exited with code 3"]);
    assert_eq!(server.status("shop"), None);
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().status, 404);
    assert_eq!(server.releases("shop"), Vec::<String>::new());
}
