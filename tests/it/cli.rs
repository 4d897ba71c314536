//! The command line as scripts, pipes and impatient people use it: every command ends by itself, asks nobody who is
//! not there, and says by its exit code what happened. And what a first app of each runtime looks like.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::http::Client;
use crate::sandbox::{Control, HOST, Ran, Running, Server, Sshd, TAKO, User, wait_for};

/// Every command with its exit code where nobody can answer; the ones that change something are in an order that works.
pub const COMMANDS: &[(&str, &[&str], i32)] = &[
    ("init", &["init"], 10),
    ("config", &["config"], 0),
    ("deploy", &["deploy"], 0),
    ("status", &["status"], 0),
    ("logs", &["logs"], 0),
    ("releases-ls", &["releases", "ls"], 0),
    ("releases-rollback", &["releases", "rollback"], 0),
    ("scale", &["scale", "1"], 0),
    ("run", &["run", "true"], 0),
    ("secrets-set", &["secrets", "set", "API_KEY"], 10),
    ("secrets-import", &["secrets", "import"], 10),
    ("secrets-sync", &["secrets", "sync"], 0),
    ("secrets-key-export", &["secrets", "key", "export"], 3),
    ("secrets-key-import", &["secrets", "key", "import"], 10),
    ("secrets-ls", &["secrets", "ls"], 0),
    ("secrets-rm", &["secrets", "rm", "API_KEY"], 0),
    ("servers-ls", &["servers", "ls"], 0),
    ("servers-check", &["servers", "check"], 0),
    ("servers-status", &["servers", "status"], 0),
    ("servers-add", &["servers", "add", "127.0.0.1", "--name", "other", "--no-check"], 0),
    ("servers-rm", &["servers", "rm", "other"], 10),
    ("rehearse", &["rehearse"], 0),
    ("delete", &["delete"], 10),
    ("version", &["version"], 0),
    ("help", &["help"], 0),
    // Groups name their verbs.
    ("releases", &["releases"], 2),
    ("secrets", &["secrets"], 2),
    ("secrets-key", &["secrets", "key"], 2),
    ("servers", &["servers"], 2),
    ("tako", &[], 0),
];

/// Names of the golden help texts: one for each command there is.
pub fn documented() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/help");
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|e| e.path().file_stem().unwrap().to_str().unwrap().to_string()).collect()
}

#[test]
fn every_command_has_its_help_both_ways() {
    let server = Server::start();
    let user = User::new(&Sshd::start(&server));
    for name in documented() {
        let path: Vec<&str> = if name == "tako" { Vec::new() } else { name.split('-').collect() };
        let (asked, flagged) = ([&["help"], path.as_slice()].concat(), [path.as_slice(), &["--help"]].concat());
        let (asked, flagged) = (user.must(&asked), user.must(&flagged));
        // `tako help help` is about help.
        assert_eq!(asked.out, flagged.out, "{name}");
        assert!(asked.out.contains("Examples:") && asked.out.contains("Usage: tako"), "{asked}");
    }
}

#[test]
fn exit_codes_tell_a_script_what_happened() {
    let (_server, mut sshd, user) = super::deploy::world();
    user.run(&["depoly"]).assert_failed(2, &["deploy"]);
    user.run(&["scale", "many"]).assert_failed(2, &["many"]);
    user.run(&["deploy", "--env", "staging"]).assert_failed(3, &["staging", "check failed"]);
    user.run(&["delete"]).assert_failed(10, &["--confirm"]);
    sshd.stop();
    user.run(&["status"]).assert_failed(6, &["box", "refused"]);
    user.run(&["deploy"]).assert_failed(6, &["box", "refused"]);
}

#[test]
fn the_first_contact_says_what_to_type() {
    let (_server, sshd, user) = super::deploy::world();
    sshd.know("");
    let port = sshd.port.to_string();
    let ran = user.run(&["servers", "add", "ana@127.0.0.1", "--name", "new", "--port", &port]);
    ran.assert_failed(6, &["host key is not known", "SHA256:", "--fingerprint"]);
}

#[test]
fn following_ends_with_its_reader() {
    let (_server, _sshd, user) = super::deploy::world();
    user.write("index.mjs", &format!("console.log('one line and then silence');\n{}", user.read("index.mjs")));
    user.must(&["deploy"]);
    let mut command = user.command(&["logs", "--tail"]);
    let mut tako = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut reader = BufReader::new(tako.0.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    drop(reader);
    let status = wait_for("`tako logs --tail` to end", || tako.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_deploy_goes_on_when_nobody_reads_its_events() {
    let (server, _sshd, user) = super::deploy::world();
    let mut command = user.command(&["deploy", "--json"]);
    let mut tako = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut reader = BufReader::new(tako.0.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let status = wait_for("the deploy to end", || tako.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(server.status("shop").unwrap()["state"], "live");
}

#[test]
fn ctrl_c_during_a_rollout_leaves_the_old_version_and_no_lock() {
    let (server, _sshd, user) = super::deploy::world();
    let v1 = user.result(&["deploy", "--json"])["version"].as_str().unwrap().to_string();
    user.use_app("never-ready", false);
    let mut command = user.command(&["deploy"]);
    let mut tako = Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let deploying = || server.status("shop").is_some_and(|s| s["state"] == "deploying").then_some(());
    wait_for("the rollout to begin", deploying);
    assert!(Command::new("kill").args(["-INT", &tako.0.id().to_string()]).status().unwrap().success());
    let status = wait_for("`tako deploy` to end", || tako.0.try_wait().unwrap());
    let mut said = String::new();
    tako.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("cancelled; every server serves what it did before"), "{said}");

    let served = || Client::plain(server.http, HOST).unwrap().get("/").unwrap().json()["version"].clone();
    assert_eq!(served(), *v1);
    wait_for("the server to go back", || (server.status("shop")?["state"] == "live").then_some(()));
    assert_eq!(served(), *v1);
    assert_eq!(server.current("shop").as_deref(), Some(v1.as_str()));
    wait_for("the lock to be free", || (user.run(&["scale", "1"]).code == 0).then_some(()));
}

#[test]
fn an_uploads_progress_is_told_and_nothing_else_of_the_disk() {
    let server = Server::start();
    let mut control = Control::open(&server).unwrap();
    let mut size = |file: &str| control.call(json!({"incoming": {"file": file}}));
    assert_eq!(size("a.tar.zst.part").unwrap(), json!({"incoming": {"bytes": 0}}));
    fs::write(server.data().join("incoming/a.tar.zst.part"), [7; 1234]).unwrap();
    assert_eq!(size("a.tar.zst.part").unwrap(), json!({"incoming": {"bytes": 1234}}));
    for stranger in ["../host.key", "/etc/passwd", "", ".", "a/b"] {
        assert_eq!(size(stranger).unwrap_err()["kind"], "refused", "{stranger:?}");
    }
}

#[test]
fn a_fetch_handler_answers_on_node() {
    answers_from_a_fetch_handler("node");
}

#[test]
fn a_fetch_handler_answers_on_bun() {
    answers_from_a_fetch_handler("bun");
}

#[test]
fn a_fetch_handler_answers_on_deno() {
    answers_from_a_fetch_handler("deno");
}

fn answers_from_a_fetch_handler(runtime: &str) {
    if !is_there(runtime) {
        return skipped(runtime);
    }
    let (server, _sshd, user) = super::deploy::world();
    user.use_app(&format!("{runtime}-fetch"), false);
    let version = user.result(&["deploy", "--json"])["version"].clone();
    let page = Client::plain(server.http, HOST).unwrap().get("/cart?x=1").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().starts_with(runtime) && page.text().contains("says hello to /cart"), "{}", page.text());
    assert_eq!(server.status("shop").unwrap()["version"], version);
}

#[test]
fn a_binary_is_built_here_and_answers_there() {
    if !is_there("rustc") {
        return skipped("rustc");
    }
    let (server, _sshd, user) = super::deploy::world();
    let example: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hello-binary");
    user.use_app("mixed", false);
    fs::remove_file(user.project().join("index.mjs")).unwrap();
    fs::remove_file(user.project().join("package.json")).unwrap();
    for file in ["main.rs", "tako.toml"] {
        fs::copy(example.join(file), user.project().join(file)).unwrap();
    }
    let mut deploy = user.command(&["deploy"]);
    // A rustc by rustup finds its toolchain below the home, and the user's is another one.
    if let (None, Some(home)) = (std::env::var_os("RUSTUP_HOME"), std::env::var_os("HOME")) {
        deploy.env("RUSTUP_HOME", Path::new(&home).join(".rustup"));
    }
    let ran = Ran::from(&["deploy"], deploy.output().unwrap());
    assert_eq!(ran.code, 0, "{ran}");
    let page = Client::plain(server.http, "hello-binary.localhost").unwrap().get("/").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().to_lowercase().contains("hello"), "{}", page.text());
}

fn is_there(program: &str) -> bool {
    let ran = Command::new(program).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// Past the capture of the test's output, so that it is seen.
pub fn skipped(program: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: there is no {program} on this machine");
}

/// Processes whose parent is `pid` and whose program is `tako-server`.
fn servers_of(pid: u32) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let is_one = |n: &u32| {
        let stat = fs::read_to_string(format!("/proc/{n}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        stat.contains("(tako-server)") && parent == Some(pid)
    };
    numbers.filter(is_one).collect()
}

#[test]
fn a_rehearsal_that_is_killed_takes_its_server_and_its_app_along() {
    let project = tempfile::tempdir().unwrap();
    let app = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/apps/mixed");
    for entry in fs::read_dir(app).unwrap().flatten().filter(|e| e.path().is_file()) {
        fs::copy(entry.path(), project.path().join(entry.file_name())).unwrap();
    }
    let mut command = Command::new(TAKO);
    command.args(["rehearse", "--keep", "--dir"]).arg(project.path()).env("TAKO_HOME", project.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut tako = Running(command.spawn().unwrap());
    let server = wait_for("the private server", || servers_of(tako.0.id()).pop());
    let app = wait_for("the app", || {
        let node = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.starts_with("node"));
        let tasks = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten();
        let all: String = tasks.filter_map(|t| fs::read_to_string(t.path().join("children")).ok()).collect();
        all.split_whitespace().find(node).map(str::to_string)
    });
    tako.kill();
    for pid in [server.to_string(), app] {
        wait_for("what it started to end", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}
