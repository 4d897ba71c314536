//! What goes over the wire: the second deploy sends what has changed, and whatever is wrong with what it is compared with,
//! the deploy goes through.

use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};

use crate::deploy::{world, world_with};
use crate::http::Client;
use crate::sandbox::{Control, HOST, Ran, Server, Sshd, User};

/// Nothing that compresses, and the same each time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// What `tako deploy` has sent to the one server, as it says.
pub fn sent(result: &Value) -> (u64, u64, Option<String>) {
    let sent = &result["servers"][0]["sent"];
    let number = |name: &str| sent[name].as_u64().unwrap_or_else(|| panic!("no {name} in {result}"));
    (number("bytes"), number("of"), sent["base"].as_str().map(str::to_owned))
}

pub fn version(result: &Value) -> String {
    result["version"].as_str().unwrap().to_owned()
}

/// The size of the last upload, as the server found it on its disk.
fn arrived(server: &Server) -> u64 {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains(" unpacked bytes=")).expect("something was unpacked").to_owned();
    line.split_once(" sent=").unwrap().1.trim().parse().unwrap()
}

fn bases(server: &Server, app: &str) -> Vec<PathBuf> {
    fs::read_dir(server.app(app).join("bases")).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

pub fn deploy(user: &User) -> Value {
    user.result(&["deploy", "--yes", "--json"])
}

pub fn serves(server: &Server, version: &str) {
    let answer = Client::plain(server.http, HOST).unwrap().get("/").unwrap();
    assert_eq!(answer.json()["version"], *version);
}

#[test]
fn a_second_deploy_sends_what_has_changed_and_not_what_is_large() {
    let (server, _sshd, user) = world();
    fs::write(user.project().join("movie.bin"), noise(3 << 20)).unwrap();
    let first = deploy(&user);
    let (bytes, of, base) = sent(&first);
    assert!(bytes == of && bytes > 3 << 20 && base.is_none(), "{first}");
    assert_eq!(arrived(&server), bytes);

    user.write("change.txt", "one line");
    let second = deploy(&user);
    let (bytes, of, base) = sent(&second);
    assert!(bytes < 10_000 && of > 3 << 20, "{second}");
    assert_eq!(base, Some(version(&first)));
    assert_eq!(arrived(&server), bytes);
    serves(&server, &version(&second));
    let there = server.app("shop").join("releases").join(version(&second));
    assert_eq!(fs::read(there.join("movie.bin")).unwrap(), noise(3 << 20));
    assert_eq!(fs::read_to_string(there.join("change.txt")).unwrap(), "one line");

    // The third is against what was rebuilt from the second.
    user.write("change.txt", "two lines");
    let ran = user.must(&["deploy", "--yes"]);
    let words = format!("(delta from {})", version(&second));
    assert!(ran.err.contains("sent of 3.1 MB") && ran.err.contains(&words), "{ran}");

    // Nothing of it is left on either side but what the next one may be against.
    assert_eq!(bases(&server, "shop").len(), 2);
    assert_eq!(fs::read_dir(server.data().join("incoming")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(user.project().join(".tako/upload")).unwrap().count(), 0);
}

#[test]
fn a_base_that_is_gone_or_damaged_costs_an_upload_and_no_deploy() {
    let (server, _sshd, user) = world();
    fs::write(user.project().join("movie.bin"), noise(300_000)).unwrap();
    deploy(&user);
    let change = |n: u32| user.write("change.txt", &format!("change {n}"));
    let whole = |ran: &Ran, why: &str| {
        assert!(ran.err.contains(why) && !ran.err.contains("(delta from"), "{ran}");
        assert!(arrived(&server) > 300_000, "{ran}");
    };

    // Of the right size, and damaged in the middle.
    for base in bases(&server, "shop") {
        let mut bytes = fs::read(&base).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&base, bytes).unwrap();
    }
    change(1);
    whole(&user.must(&["deploy", "--yes", "--verbose"]), "in full: ");
    change(2);
    assert!(sent(&deploy(&user)).0 < 10_000);

    // Another archive by its name.
    let [one, two] = &bases(&server, "shop")[..] else { panic!("{:?}", bases(&server, "shop")) };
    fs::copy(one, two.with_extension("x")).unwrap();
    fs::copy(two, one).unwrap();
    fs::rename(two.with_extension("x"), two).unwrap();
    change(3);
    whole(&user.must(&["deploy", "--yes", "--verbose"]), "in full: ");

    // Gone from the server, and then from here.
    fs::remove_dir_all(server.app("shop").join("bases")).unwrap();
    change(4);
    assert_eq!(sent(&deploy(&user)).2, None);
    change(5);
    assert!(sent(&deploy(&user)).2.is_some());
    fs::remove_dir_all(user.project().join(".tako/artifacts")).unwrap();
    change(6);
    assert_eq!(sent(&deploy(&user)).2, None);

    // Damaged here: then no delta is made of it.
    let ours = fs::read_dir(user.project().join(".tako/artifacts")).unwrap().flatten().map(|e| e.path());
    for archive in ours.filter(|path| path.extension().is_some_and(|e| e == "zst")) {
        fs::write(archive, "nothing").unwrap();
    }
    change(7);
    whole(&user.must(&["deploy", "--yes", "--verbose"]), "no delta from ");
    assert_eq!(fs::read_dir(server.data().join("incoming")).unwrap().count(), 0);
}

#[test]
fn a_base_is_of_its_own_app_alone_and_a_wrong_delta_is_refused_with_a_kind() {
    let (server, _sshd, user) = world();
    fs::write(user.project().join("movie.bin"), noise(100_000)).unwrap();
    deploy(&user);
    let mut control = Control::open(&server).unwrap();
    let mut preflight = |app: &str| {
        let request = json!({"preflight": {"app": app, "version": "v9", "routes": ["other.localhost"]}});
        control.call(request).unwrap()["preflight"]["bases"].as_array().unwrap().clone()
    };
    let [base] = &preflight("shop")[..] else { panic!("one base") };
    assert!(preflight("other").is_empty() && preflight("shop.staging").is_empty());

    let hash = base["sha256"].as_str().unwrap();
    let upload = server.data().join("incoming/up.delta");
    let mut unpack = |app: &str, bytes: &[u8], base: &str| {
        fs::write(&upload, bytes).unwrap();
        control.call(json!({"lock": {"app": app, "version": "v9"}})).unwrap();
        let artifact =
            json!({"file": "up.delta", "sha256": hash, "bytes": bytes.len(), "unpacked": 110_000, "base": base});
        let fault = control.call(json!({"unpack": {"app": app, "version": "v9", "artifact": artifact}})).unwrap_err();
        control.call(json!({"unlock": {"app": app}})).unwrap();
        assert!(!upload.exists(), "{fault}");
        fault["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(unpack("other", b"x", hash), "not_found");
    assert_eq!(unpack("shop", b"x", "../../../host.key"), "not_found");
    assert_eq!(unpack("shop", b"no delta at all", hash), "refused");
    assert!(server.releases("other").is_empty());
    assert_eq!(server.releases("shop").len(), 1);

    // Whatever somebody else did to the base, the next deploy goes through.
    user.write("change.txt", "two");
    serves(&server, &version(&deploy(&user)));
}

#[test]
fn two_apps_are_deployed_by_deltas_at_once() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let users: Vec<User> = ["one", "two"]
        .iter()
        .map(|name| {
            let user = User::new(&sshd);
            user.use_app("mixed", false);
            let config = user.read("tako.toml").replace("\"shop\"", &format!("\"{name}\""));
            user.write("tako.toml", &config.replace(HOST, &format!("{name}.localhost")));
            fs::write(user.project().join("movie.bin"), noise(1 << 20)).unwrap();
            user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
            user
        })
        .collect();
    for round in 0..3 {
        let results: Vec<Value> = thread::scope(|scope| {
            let running: Vec<_> = users
                .iter()
                .map(|user| {
                    user.write("change.txt", &format!("round {round}"));
                    scope.spawn(|| deploy(user))
                })
                .collect();
            running.into_iter().map(|run| run.join().unwrap()).collect()
        });
        for result in results {
            let (bytes, of, base) = sent(&result);
            assert_eq!(base.is_some() && bytes < of / 10, round > 0, "{result}");
        }
    }
}

#[test]
fn a_server_that_kept_nothing_is_sent_all_of_it() {
    // As one of before deltas, which tells of no bases, looks to a client.
    let (server, _sshd, user) = world_with(&[]);
    deploy(&user);
    fs::remove_dir_all(server.app("shop").join("bases")).unwrap();
    // What cannot be kept is no reason to fail.
    fs::write(server.app("shop").join("bases"), "in the way").unwrap();
    user.write("change.txt", "two");
    let result = deploy(&user);
    let (bytes, of, base) = sent(&result);
    assert!(bytes == of && base.is_none(), "{result}");
    serves(&server, &version(&result));
    assert_eq!(fs::read_dir(server.data().join("incoming")).unwrap().count(), 0);
}
