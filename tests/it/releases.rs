//! The releases of an app over time: rolled back to, marked bad, pruned.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::deploy::world;
use crate::http::Client;
use crate::sandbox::{HOST, Server, User, wait_for};
use crate::traffic::Traffic;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn deploy(user: &User) -> String {
    user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_owned()
}

fn rollback(user: &User) -> String {
    user.result(&["releases", "rollback", "--json"])["version"].as_str().unwrap().to_owned()
}

fn get(server: &Server, host: &str, path: &str) -> (u16, String) {
    let answer = Client::plain(server.http, host).unwrap().get(path).unwrap();
    (answer.status, answer.text())
}

fn state(server: &Server) -> Value {
    serde_json::from_slice(&fs::read(server.app("shop").join("state.json")).unwrap()).unwrap()
}

/// The releases that have a record, newest first, and whether each is marked bad.
fn records(server: &Server) -> Vec<(String, bool)> {
    let record = |r: &Value| (r["manifest"]["version"].as_str().unwrap().to_owned(), r["bad"] == true);
    state(server)["releases"].as_array().unwrap().iter().map(record).collect()
}

/// A project in which everything that goes live with a release says `part`.
fn write_project(user: &User, part: &str, instances: u32, limit: &str) {
    let config = format!(
        "name = \"shop\"\nruntime = \"node\"\nmain = \"index.mjs\"\n\n[build]\nassets = [\"dist\"]\n\n\
         [vars]\nPUBLIC_PART = \"{part}\"\n\n[limits]\nrequest_body = \"{limit}\"\n\n\
         [envs.production]\nroutes = [\"{HOST}\", \"{part}.localhost\"]\ninstances = {instances}\ndrain_timeout = 5\n"
    );
    user.write("tako.toml", &config);
    fs::create_dir_all(user.project().join("dist")).unwrap();
    user.write("dist/site.css", &format!("{part}{{}}"));
    user.write("change.txt", part);
}

/// All of it is that of `version`, and nothing of the other part.
fn assert_is_live(server: &Server, version: &str, part: &str, other: &str, takes_a_megabyte_and_a_half: bool) {
    assert_eq!(server.current("shop").as_deref(), Some(version));
    for (host, status) in [(HOST, 200), (&*format!("{part}.localhost"), 200), (&format!("{other}.localhost"), 404)] {
        assert_eq!(get(server, host, "/").0, status, "{host}");
    }
    for _ in 0..6 {
        assert_eq!(serde_json::from_str::<Value>(&get(server, HOST, "/").1).unwrap()["version"], *version);
        let var: Value = serde_json::from_str(&get(server, HOST, "/env?name=PUBLIC_PART").1).unwrap();
        assert_eq!(var["value"], *part);
        assert_eq!(get(server, HOST, "/site.css"), (200, format!("{part}{{}}")));
    }
    let body = vec![b'x'; 3 << 19];
    let answer = Client::plain(server.http, HOST).unwrap().request("POST", "/length", Some(&body)).unwrap();
    assert_eq!(answer.status, if takes_a_megabyte_and_a_half { 200 } else { 413 });
    assert_eq!(server.status("shop").unwrap()["version"], *version);
    assert_eq!(state(server)["live"], *version);
}

fn restores_everything_with(instances: u32) {
    let (server, _sshd, user) = world();
    write_project(&user, "one", instances, "1M");
    let v1 = deploy(&user);
    assert_is_live(&server, &v1, "one", "two", false);
    write_project(&user, "two", instances, "2M");
    let v2 = deploy(&user);
    assert_is_live(&server, &v2, "two", "one", true);

    let traffic = Traffic::start(server.http, server.https, HOST);
    wait_for("some traffic", || Client::plain(server.http, HOST).ok()?.get("/").ok());
    assert_eq!(rollback(&user), v1, "no argument means the last good one");
    assert_is_live(&server, &v1, "one", "two", false);
    let tally = traffic.stop();
    assert!(tally.failures.is_empty(), "{:?}", &tally.failures[..tally.failures.len().min(5)]);
    assert_eq!(records(&server), [(v1, false), (v2, true)]);
    let status = server.status("shop").unwrap();
    assert_eq!(status["wanted"], instances);
}

#[test]
fn a_rollback_restores_everything_that_went_live_with_a_release() {
    restores_everything_with(1);
}

#[test]
fn a_rollback_restores_everything_on_three_instances() {
    restores_everything_with(3);
}

#[test]
fn a_release_that_was_rolled_back_from_is_not_chosen_until_it_is_deployed_again() {
    let (server, _sshd, user) = world();
    let v1 = deploy(&user);
    user.write("change.txt", "two");
    let v2 = deploy(&user);
    assert_eq!(rollback(&user), v1);
    let ran = user.run(&["releases", "rollback"]);
    assert!(ran.code != 0 && ran.err.contains("no earlier release that was good"), "{ran}");
    // The same sources are the same version, which gets another chance.
    assert_eq!(deploy(&user), v2);
    assert_eq!(records(&server), [(v2.clone(), false), (v1, false)]);
    user.write("change.txt", "three");
    let v3 = deploy(&user);
    assert_eq!(rollback(&user), v2);
    assert_eq!(records(&server)[..2], [(v2, false), (v3, true)]);
}

#[test]
fn a_rollback_that_fails_changes_nothing_but_the_mark() {
    let (server, _sshd, user) = world();
    let mut versions = vec![deploy(&user)];
    for change in ["two", "three"] {
        user.write("change.txt", change);
        versions.push(deploy(&user));
    }
    let [v1, v2, v3] = &versions[..] else { unreachable!() };
    let main = server.app("shop").join("releases").join(v2).join("index.mjs");
    let code = fs::read_to_string(&main).unwrap();
    fs::write(&main, "process.exit(5)").unwrap();
    let ran = user.run(&["releases", "rollback"]);
    ran.assert_failed(4, &["exited with code 5"]);
    assert_eq!(server.current("shop").as_ref(), Some(v3));
    assert_eq!(serde_json::from_str::<Value>(&get(&server, HOST, "/").1).unwrap()["version"], **v3);
    assert_eq!(records(&server), [(v3.clone(), false), (v2.clone(), true), (v1.clone(), false)]);
    assert!(main.exists(), "it was live once, so it stays");
    // The next one is the one before; and the bad one comes back when it is deployed and works.
    fs::write(&main, code).unwrap();
    assert_eq!(&rollback(&user), v1);
    user.write("change.txt", "two");
    assert_eq!(&deploy(&user), v2);
    assert_eq!(records(&server)[..2], [(v2.clone(), false), (v1.clone(), false)]);
}

#[test]
fn prunes_by_the_records_and_never_what_is_live_or_good() {
    let (mut server, _sshd, user) = world();
    let v1 = deploy(&user);
    assert!(server.shut_down());
    // As after a year: eleven that failed this month, two of spring, and the live one, which the daemon always knows as
    // the newest.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut state = state(&server);
    let live = state["releases"][0].clone();
    let releases = server.app("shop").join("releases");
    let mut put = |name: &str, age_days: u64, bad: bool, has_record: bool| {
        let (from, to) = (releases.join(&v1), releases.join(name));
        assert!(Command::new("cp").arg("-a").arg(from).arg(&to).status().unwrap().success());
        // What the time of a folder says is the opposite of its record.
        let folder = fs::File::open(&to).unwrap();
        let touched = SystemTime::now() - Duration::from_millis((400 - age_days) * DAY_MS);
        folder.set_modified(touched).unwrap();
        if has_record {
            let mut record = live.clone();
            record["manifest"]["version"] = json!(name);
            record["deployed_ms"] = json!(now - age_days * DAY_MS);
            record["bad"] = json!(bad);
            state["releases"].as_array_mut().unwrap().push(record);
        }
    };
    for age in 1..=11 {
        put(&format!("young{age:02}"), age, true, true);
    }
    put("good-of-spring", 200, false, true);
    put("bad-of-spring", 199, true, true);
    put("stranger", 0, false, false);
    fs::File::open(releases.join(&v1)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fs::create_dir(releases.join(".v9.0.staging")).unwrap();
    let path = server.app("shop").join("state.json");
    fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let upload = server.data().join("incoming/left.tar.zst");
    fs::write(&upload, "half").unwrap();
    fs::File::open(&upload).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3 * 24 * 3600)).unwrap();

    server.boot();
    assert!(!releases.join("stranger").exists() && !releases.join(".v9.0.staging").exists() && !upload.exists());
    assert_eq!(server.releases("shop").len(), 14, "pruned is after a deploy");
    user.write("change.txt", "two");
    let v2 = deploy(&user);
    // The one that was live before, and ten others that are young.
    let mut expected: Vec<String> = (1..=10).map(|age| format!("young{age:02}")).collect();
    expected.extend([v1, v2.clone()]);
    expected.sort();
    wait_for("the old ones to be pruned", || (server.releases("shop") == expected).then_some(()));
    wait_for("their records to go", || {
        let mut recorded: Vec<String> = records(&server).into_iter().map(|(v, _)| v).collect();
        recorded.sort();
        (recorded == expected).then_some(())
    });
    assert_eq!(server.current("shop"), Some(v2));
}
