//! What a user may get wrong: a clear error, the right exit code, nothing changed.

use serde_json::json;

use crate::sandbox::{Control, Server, Sshd, User};

#[test]
fn an_unknown_environment_is_named_with_those_there_are() {
    let (server, _sshd, user) = super::deploy::world();
    user.run(&["deploy", "--yes", "--env", "productoin"]).assert_failed(3, &["productoin", "production"]);
    user.run(&["deploy", "--yes", "--env", "development"]).assert_failed(3, &["development"]);
    assert!(server.status("shop").is_none());
}

#[test]
fn a_route_that_another_app_has_fails_the_deploy_and_names_both() {
    let (server, _sshd, user) = super::deploy::world();
    let shop = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string();
    user.write("tako.toml", &user.read("tako.toml").replace("\"shop\"", "\"docs\""));
    let words = ["box: docs cannot have route shop.localhost: it belongs to shop", "hint: choose another route"];
    // Also where it is only looked at: the code is that of the deploy that it tells of.
    for args in [&["deploy", "--yes"][..], &["deploy", "--dry-run"]] {
        user.run(args).assert_failed(4, &words);
        assert!(server.status("docs").is_none() && server.releases("docs").is_empty());
        assert_eq!(server.current("shop").as_ref(), Some(&shop));
    }
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
    user.run(&["deploy", "--yes", "--no-mux"]).assert_failed(6, &["host key"]);
    assert!(server.releases("shop").is_empty());
    sshd.know("");
    user.run(&["deploy", "--yes", "--no-mux"]).assert_failed(6, &["host key"]);
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

/// A `tar.zst` with one entry, its name and link written as they are; returned with what its sender would announce.
fn archive(kind: tar::EntryType, name: &str, link: &str, mode: u32) -> (Vec<u8>, serde_json::Value) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, std::io::empty()).unwrap();
    let tar = builder.into_inner().unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &tar);
    let sha256: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let announced =
        json!({"file": format!("{sha256}.tar.zst"), "sha256": sha256, "bytes": zstd.len(), "unpacked": tar.len()});
    (zstd, announced)
}

#[test]
fn a_hostile_archive_is_refused_and_nothing_of_it_stays() {
    use tar::EntryType as T;
    let server = Server::start();
    let mut control = Control::open(&server).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v1"}})).unwrap();
    let mut unpack = |(zstd, announced): (Vec<u8>, serde_json::Value)| {
        let file = server.data().join("incoming").join(announced["file"].as_str().unwrap());
        std::fs::write(file, zstd).unwrap();
        control.call(json!({"unpack": {"app": "shop", "version": "v1", "artifact": announced}}))
    };
    for (what, kind, name, link, mode) in [
        ("climbs out", T::Regular, "../../../../escaped", "", 0o644),
        ("absolute", T::Regular, "/tmp/tako-escaped", "", 0o644),
        ("a link out", T::Symlink, "leak", "/etc/passwd", 0o777),
        ("a link up", T::Symlink, "leak", "../../../host.key", 0o777),
        ("a hard link", T::Link, "leak", "/etc/passwd", 0o644),
        ("a device", T::Char, "null", "", 0o644),
        ("a pipe", T::Fifo, "pipe", "", 0o644),
        ("setuid", T::Regular, "root", "", 0o4755),
    ] {
        let fault = unpack(archive(kind, name, link, mode)).expect_err(what);
        assert_eq!(fault["kind"], "refused", "{what}: {fault}");
        assert!(server.releases("shop").is_empty(), "{what}: {:?}", server.releases("shop"));
        assert!(!server.dir.path().join("escaped").exists() && !std::path::Path::new("/tmp/tako-escaped").exists());
    }
    // The same way, with nothing hostile in it, is taken: so it was the entries that were refused.
    unpack(archive(T::Regular, "index.mjs", "", 0o644)).unwrap();
    assert_eq!(server.releases("shop"), ["v1"]);
}
