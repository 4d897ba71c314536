//! Secrets for three servers: one has them already, one refuses them, one cannot be reached.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Fleet, event, of, version};
use crate::sandbox::{Control, wait_for};

const TWO: usize = 1;
const THREE: usize = 2;
const SYNC: [&str; 3] = ["secrets", "sync", "--json"];

fn set(fleet: &Fleet, value: &str) {
    let mut set = fleet.user.command(&["secrets", "set", "API_KEY", "-"]);
    let mut child = set.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Which secrets are in force on server `n`.
fn hash(fleet: &Fleet, n: usize) -> Value {
    let mut control = Control::open(&fleet.servers[n]).unwrap();
    control.call(json!({"secrets_hash": {"app": "shop"}})).unwrap()["secrets_hash"]["hash"].clone()
}

/// Whether each was changed; null where that failed.
fn changed(result: &Value) -> [Value; 3] {
    super::NAMES.map(|name| of(result, name)["changed"].clone())
}

#[test]
fn a_sync_is_told_server_by_server_and_done_again_only_where_it_is_missing() {
    let mut fleet = Fleet::start();
    set(&fleet, "old");
    let deployed = version(&fleet.deploy());
    let old = hash(&fleet, 0);
    let before = [0, 1, 2].map(|n| fleet.pids(n));
    assert_eq!(changed(&fleet.user.result(&SYNC)), [false, false, false]);
    assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), before);

    // One has them, one whose new instance does not come up, one that is away.
    set(&fleet, "new");
    // It is in the vault, and nowhere else.
    assert_eq!([0, 1, 2].map(|n| hash(&fleet, n)), [(); 3].map(|()| old.clone()));
    fleet.user.must(&[&SYNC[..], &["--server", "one"]].concat());
    let new = hash(&fleet, 0);
    let one = fleet.pids(0);
    assert!(new != old && one != before[0]);
    fleet.say(TWO, "exit");
    fleet.sshds[THREE].stop();
    let ran = fleet.user.run(&SYNC);
    let result = event(&ran, "result");
    assert_eq!((ran.code, changed(&result)), (5, [json!(false), Value::Null, Value::Null]), "{ran}");
    let kinds = ["two", "three"].map(|name| of(&result, name)["kind"].as_str().unwrap().to_owned());
    assert_eq!(kinds, ["rejected", "unreachable"], "{ran}");
    ran.assert_failed(
        5,
        &[
            "the secrets are in force on 1 of 3 servers",
            "done    one",
            "failed  two: ",
            "exited with code 3",
            "failed  three: ",
            "run it again for the others",
        ],
    );
    assert_eq!(
        (fleet.pids(0), fleet.pids(TWO), fleet.pids(THREE)),
        (one.clone(), before[1].clone(), before[2].clone())
    );
    assert_eq!([hash(&fleet, 0), hash(&fleet, TWO), hash(&fleet, THREE)], [new.clone(), old.clone(), old]);

    // What all say alike is one error, with its own exit code.
    fleet.user.run(&["secrets", "sync", "--server", "three"]).assert_failed(6, &["three: "]);
    fleet.user.run(&["secrets", "sync", "--server", "two"]).assert_failed(4, &["two: "]);
    fleet.sshds[THREE].resume();
    fleet.unsay(TWO, "exit");
    let mut control = Control::open(&fleet.servers[TWO]).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v9"}})).unwrap();
    let busy = "shop is being deployed by test@here";
    fleet.user.run(&["secrets", "sync", "--server", "two"]).assert_failed(7, &["two: ", busy]);
    let ran = fleet.user.run(&SYNC);
    ran.assert_failed(5, &["the secrets are in force on 2 of 3 servers", "done    one, three", busy]);
    control.vanish();

    let healed = wait_for("the lock to go", || {
        let ran = fleet.user.run(&SYNC);
        (ran.code == 0).then(|| event(&ran, "result"))
    });
    assert_eq!(changed(&healed), [json!(false), json!(true), json!(false)], "{healed}");
    assert_eq!([0, 1, 2].map(|n| hash(&fleet, n)), [(); 3].map(|()| new.clone()));
    assert_eq!(fleet.pids(0), one, "it had them");
    assert_eq!(fleet.lives(), [(); 3].map(|()| Some(deployed.clone())));
}
