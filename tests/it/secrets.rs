//! Secrets as their users handle them: set in several ways, given to colleagues and CI, and sent to servers without a
//! deploy. Where they must not be is `canary`.

use std::io::Write;
use std::process::Stdio;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::deploy::world;
use crate::http::Client;
use crate::sandbox::{HOST, Ran, Server, Sshd, User, wait_for};
use crate::traffic::Traffic;

/// Runs a command with this on its standard input.
pub fn piped(user: &User, args: &[&str], input: &str) -> Ran {
    let mut command = user.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have refused before it read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Ran::from(args, child.wait_with_output().unwrap())
}

pub fn set(user: &User, name: &str, value: &str) {
    let ran = piped(user, &["secrets", "set", name, "-"], value);
    assert_eq!(ran.code, 0, "{ran}");
}

/// Whether the app has this value, by its hash: also in what reads `process.env`.
pub fn has(server: &Server, name: &str, value: &str) -> bool {
    let expected: String = digest(&SHA256, value.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let answer = Client::plain(server.http, HOST).unwrap().get(&format!("/secret-hash?name={name}")).unwrap();
    answer.text().contains(&expected)
}

/// Instances that are healthy.
pub fn pids(server: &Server) -> Vec<u64> {
    let status = server.status("shop").unwrap();
    let healthy = status["instances"].as_array().unwrap().iter().filter(|i| i["state"] == "healthy");
    healthy.map(|i| i["pid"].as_u64().unwrap()).collect()
}

#[test]
fn several_are_set_at_once_from_a_dotenv_file_or_none() {
    let server = Server::start();
    let user = User::new(&Sshd::start(&server));
    user.use_app("mixed", false);
    let bad = "# mine\nA=hunter1\nB='hunter2\nhunter3=4\n";
    let ran = piped(&user, &["secrets", "import", "-"], bad);
    ran.assert_failed(1, &["nothing was set", "line 3: the quote that begins here is never closed"]);
    let ran = piped(&user, &["secrets", "import", "-"], "A=hunter1\nPORT=hunter2\nA=hunter3\n");
    ran.assert_failed(1, &["line 2: PORT is set by Tako itself", "line 3: A is there already, on line 1"]);
    assert!(!ran.to_string().contains("hunter") && !user.project().join(".tako/secrets").exists(), "{ran}");

    let good = "\u{feff}# mine\r\nexport A=one # two\r\nPEM=\"-----BEGIN\\nx=\r\ny\"\r\n";
    let ran = piped(&user, &["secrets", "import", "-", "--json"], good);
    let result: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!((&result["added"], &result["same"]), (&json!(["A", "PEM"]), &json!([])), "{ran}");
    user.write(".env.production", "A=one\nC='3'\n");
    let ran = user.must(&["secrets", "import", ".env.production"]);
    assert!(ran.out.contains("1 secret set for production: C") && ran.out.contains("the same already"), "{ran}");
    let listed = user.result(&["secrets", "ls", "--json"])["secrets"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 3);
}

#[test]
fn a_key_goes_to_a_colleague_and_to_ci() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let (user, colleague) = (User::new(&sshd), User::new(&sshd));
    for user in [&user, &colleague] {
        user.use_app("mixed", false);
    }
    user.run(&["secrets", "key", "export"]).assert_failed(3, &["has no key yet"]);
    set(&user, "API_KEY", "hunter2");
    std::fs::create_dir(colleague.project().join(".tako")).unwrap();
    colleague.write(".tako/secrets", &user.read(".tako/secrets"));
    // All three ways are told.
    let ways = ["tako secrets key import --env production", "keys/shop/production.key", "TAKO_SECRETS_KEY_PRODUCTION"];
    colleague.run(&["secrets", "key", "export"]).assert_failed(3, &ways);
    piped(&colleague, &["secrets", "set", "B", "-"], "x").assert_failed(3, &ways);

    let exported = user.must(&["secrets", "key", "export"]);
    let key = exported.out.trim().to_string();
    assert!(key.len() == 44 && !exported.err.contains(&key), "{}", exported.err);
    user.run(&["secrets", "key", "export", "--json"]).assert_failed(2, &["never in an event"]);

    // What opens nothing is not kept.
    let other = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    for (text, why) in [("garbage", "standard input does not hold a key"), (other, "with the key in standard input")] {
        let ran = piped(&colleague, &["secrets", "key", "import", "-"], text);
        ran.assert_failed(3, &[why]);
        assert!(!ran.to_string().contains(text), "{ran}");
    }
    assert!(!colleague.home().join("keys").exists());
    assert_eq!(piped(&colleague, &["secrets", "key", "import", "-"], &key).code, 0);
    set(&colleague, "B", "x");
    assert!(piped(&colleague, &["secrets", "key", "import", "-"], &key).out.contains("here already"));

    // Another one that is here is not lost by accident.
    std::fs::remove_file(colleague.project().join(".tako/secrets")).unwrap();
    let import = ["secrets", "key", "import", "-"];
    piped(&colleague, &import, other).assert_failed(10, &["--yes"]);
    assert_eq!(colleague.must(&["secrets", "key", "export"]).out.trim(), key);
    assert_eq!(piped(&colleague, &[&import[..], &["--yes"]].concat(), other).code, 0);
    assert_eq!(colleague.must(&["secrets", "key", "export"]).out.trim(), other);

    // In CI it is a variable; a wrong one is told by name.
    let with = |value: &str| {
        let args = ["secrets", "key", "export"];
        let mut command = user.command(&args);
        command.env("TAKO_HOME", user.dir.path().join("empty")).env("TAKO_SECRETS_KEY_PRODUCTION", value);
        Ran::from(&args, command.output().unwrap())
    };
    assert_eq!(with(&key).out.trim(), key);
    for (value, why) in [("garbage", "does not hold a key"), (other, "does not open with the key in")] {
        let ran = with(value);
        ran.assert_failed(3, &["TAKO_SECRETS_KEY_PRODUCTION", why]);
        assert!(!ran.to_string().contains(value), "{ran}");
    }
}

#[test]
fn sync_rolls_only_where_something_changed_and_loses_no_request() {
    let (mut server, _sshd, user) = world();
    set(&user, "API_KEY", "one");
    user.run(&["secrets", "sync"]).assert_failed(1, &["there is no app shop", "tako deploy"]);
    user.must(&["deploy", "--yes"]);
    user.must(&["scale", "2"]);
    let version = server.current("shop").unwrap();
    let before = pids(&server);
    assert_eq!(user.result(&["secrets", "sync", "--json"])["servers"][0]["changed"], false);
    assert_eq!(pids(&server), before);

    set(&user, "API_KEY", "two");
    let traffic = Traffic::start(server.http, server.https, HOST);
    let synced = user.result(&["secrets", "sync", "--json"])["servers"][0].clone();
    assert_eq!((&synced["changed"], &synced["instances"]), (&json!(true), &json!(2)), "{synced}");
    assert_eq!(synced["swaps"].as_array().unwrap().len(), 2, "{synced}");
    traffic.stop().assert_lossless(&[&version]);
    assert!(has(&server, "API_KEY", "two") && !pids(&server).iter().any(|pid| before.contains(pid)));
    assert_eq!(server.current("shop"), Some(version));
    assert!(user.must(&["secrets", "sync"]).err.contains("1 secret unchanged"));

    // A rollback is of the release, and keeps what is in force.
    user.write("change.txt", "two");
    user.must(&["deploy", "--yes"]);
    set(&user, "API_KEY", "three");
    user.must(&["secrets", "sync"]);
    user.must(&["releases", "rollback"]);
    assert!(has(&server, "API_KEY", "three"));
    // And so does a reboot.
    server.crash();
    server.boot();
    wait_for("the app to answer again", || (server.status("shop")?["state"] == "live").then_some(()));
    assert!(has(&server, "API_KEY", "three"));
}

#[test]
fn an_app_that_sleeps_just_takes_them() {
    let (server, _sshd, user) = world();
    set(&user, "API_KEY", "one");
    user.write("tako.toml", &(user.read("tako.toml") + "instances = 0\nidle_timeout = 1\n"));
    user.must(&["deploy", "--yes"]);
    let asleep = || {
        wait_for("its sleep", || {
            let status = server.status("shop")?;
            (status["state"] == "asleep" && status["instances"].as_array()?.is_empty()).then_some(())
        });
    };
    asleep();
    set(&user, "API_KEY", "two");
    let ran = user.must(&["secrets", "sync"]);
    assert!(ran.err.contains("the app sleeps"), "{ran}");
    assert!(pids(&server).is_empty());
    assert!(has(&server, "API_KEY", "two"));
    asleep();
    user.must(&["secrets", "rm", "API_KEY"]);
    user.must(&["secrets", "sync"]);
    assert!(!has(&server, "API_KEY", "two"));
    assert!(user.must(&["secrets", "sync"]).err.contains("0 secrets unchanged"));
}

#[test]
fn secrets_that_the_app_does_not_start_with_leave_the_old_ones_in_force() {
    let (server, _sshd, user) = world();
    let check = "if (process.env.API_KEY === 'bad') { console.error('API_KEY is refused'); process.exit(3); }\n";
    let body = user.read("index.mjs");
    user.write("index.mjs", &body.replacen("const VERSION", &format!("{check}const VERSION"), 1));
    set(&user, "API_KEY", "good");
    user.must(&["deploy", "--yes"]);
    user.must(&["scale", "2"]);
    let (before, sealed) = (pids(&server), || {
        let names = std::fs::read_dir(server.app("shop")).unwrap().flatten().map(|e| e.file_name());
        names.filter(|n| n.to_string_lossy().ends_with(".sealed")).collect::<Vec<_>>()
    });
    let held = sealed();

    set(&user, "API_KEY", "bad");
    let traffic = Traffic::start(server.http, server.https, HOST);
    user.run(&["secrets", "sync"]).assert_failed(4, &["exited with code 3", "API_KEY is refused"]);
    let version = server.current("shop").unwrap();
    traffic.stop().assert_lossless(&[&version]);
    assert!(has(&server, "API_KEY", "good"));
    assert_eq!((pids(&server), sealed()), (before, held));
    let releases = user.result(&["releases", "ls", "--json"])["servers"][0]["releases"].clone();
    assert_eq!((&releases[0]["live"], &releases[0]["bad"]), (&json!(true), &json!(false)), "{releases}");

    // What fills a place after that has the old ones, too.
    let pid = pids(&server)[0].to_string();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    wait_for("two instances again", || (pids(&server).len() == 2).then_some(()));
    assert!(has(&server, "API_KEY", "good"));
}

#[test]
fn an_environment_that_lacks_a_secret_is_refused_and_one_that_has_more_is_told() {
    let (_server, _sshd, user) = world();
    user.write(
        "tako.toml",
        &(user.read("tako.toml") + "\n[envs.staging]\nroute = \"staging.localhost\"\nservers = [\"box\"]\n"),
    );
    for (name, env) in [("A", "production"), ("B", "staging"), ("MOCK", "development")] {
        let ran = piped(&user, &["secrets", "set", name, "--env", env, "-"], "x");
        assert_eq!(ran.code, 0, "{ran}");
    }
    for command in [&["deploy", "--yes"][..], &["secrets", "sync"]] {
        user.run(command).assert_failed(3, &["production lacks 1 secret", "B is set in staging", "tako secrets set B"]);
    }
    set(&user, "B", "x");
    let ran = user.must(&["deploy", "--yes"]);
    assert!(ran.err.contains("production has A, which staging lacks") && !ran.err.contains("MOCK"), "{ran}");
}
