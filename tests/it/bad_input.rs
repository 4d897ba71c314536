//! What a user may get wrong: a clear error, the right exit code, nothing changed.

use crate::sandbox::{Server, Sshd, User};

#[test]
fn an_unknown_environment_is_named_with_those_there_are() {
    let (server, _sshd, user) = super::deploy::world();
    user.run(&["deploy", "--yes", "--env", "productoin"]).assert_failed(3, &["productoin", "production"]);
    user.run(&["deploy", "--yes", "--env", "development"]).assert_failed(3, &["development"]);
    assert!(server.status("shop").is_none());
}

#[test]
fn a_missing_server_is_named() {
    let (_server, _sshd, user) = super::deploy::world();
    let config = user.read("tako.toml").replace("[envs.production]", "[envs.production]\nservers = [\"bax\"]");
    user.write("tako.toml", &config);
    user.run(&["deploy", "--yes"]).assert_failed(3, &["bax", "box"]);
}

#[test]
fn without_a_server_there_is_guidance() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    let ran = user.run(&["deploy", "--yes"]);
    ran.assert_failed(3, &["tako servers add"]);
}

#[test]
fn an_unreachable_host_is_an_ssh_error() {
    let (server, mut sshd, user) = super::deploy::world();
    sshd.stop();
    user.run(&["deploy", "--yes"]).assert_failed(6, &["box", "refused"]);
    assert!(server.releases("shop").is_empty());
}

#[test]
fn a_changed_host_key_stops_everything() {
    let (server, sshd, user) = super::deploy::world();
    sshd.know("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1JX5yLiyZ8o5Zl8dF0vC2m1R3t9w0a6bC7dE8fG9hI\n");
    user.run(&["deploy", "--yes"]).assert_failed(6, &["host key"]);
    assert!(server.releases("shop").is_empty());
    sshd.know("");
    user.run(&["deploy", "--yes"]).assert_failed(6, &["host key"]);
}

#[test]
fn a_broken_configuration_is_shown_with_its_place() {
    let (_server, _sshd, user) = super::deploy::world();
    user.write("tako.toml", "name = \"shop\"\n[envs.production]\nroute = \"shop.localhost\"\ninstancs = 2\n");
    user.run(&["deploy", "--yes"]).assert_failed(3, &["instancs", "tako.toml:4:1", "instances"]);
}

#[test]
fn a_typo_is_answered_by_a_suggestion() {
    let (_server, _sshd, user) = super::deploy::world();
    user.run(&["depoly"]).assert_failed(2, &["depoly", "deploy"]);
    user.run(&["deploy", "--evn", "x"]).assert_failed(2, &["--evn", "--env"]);
}

#[test]
fn production_is_not_deployed_unasked_without_a_terminal_to_ask_on() {
    let (_server, _sshd, user) = super::deploy::world();
    // Off-terminal the confirmation is not needed; deleting always is.
    user.must(&["deploy"]);
    user.run(&["delete"]).assert_failed(10, &["--confirm"]);
}
