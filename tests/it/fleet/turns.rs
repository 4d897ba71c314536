//! Two people deploy at once: one after the other, and nobody waits for ever.

use std::thread;

use serde_json::json;

use super::{Fleet, Run, event, states, version};
use crate::sandbox::Control;

#[test]
fn two_clients_with_the_servers_in_different_orders_both_end_well() {
    let fleet = Fleet::start();
    fleet.deploy();
    let other = fleet.other();
    let config = other.read("tako.toml").replace(r#"["one", "two", "three"]"#, r#"["three", "one", "two"]"#);
    other.write("tako.toml", &config);
    for round in 0..3 {
        fleet.user.write("change.txt", &format!("ours {round}"));
        other.write("change.txt", &format!("theirs {round}"));
        let deploy = |user| Run::begin(user, &["deploy", "--yes", "--json", "--wait", "5m"]).end();
        let (ours, theirs) = thread::scope(|scope| {
            let theirs = scope.spawn(|| deploy(&other));
            (deploy(&fleet.user), theirs.join().unwrap())
        });
        assert_eq!((ours.code, theirs.code), (0, 0), "{ours}\n{theirs}");
        let (ours, theirs) = (event(&ours, "result"), event(&theirs, "result"));
        assert_eq!((states(&ours), states(&theirs)), (["live"; 3], ["live"; 3]));
        // All servers saw them in the same order.
        let [one, two, three] = fleet.lives();
        assert!(one == two && two == three, "{one:?} {two:?} {three:?}");
        assert!(one == Some(version(&ours)) || one == Some(version(&theirs)));
    }
}

#[test]
fn who_finds_it_locked_is_told_how_far_it_is_and_may_wait() {
    let fleet = Fleet::start();
    fleet.deploy();
    let other = fleet.other();
    other.write("change.txt", "theirs");
    fleet.change();
    fleet.say(1, "wait");
    let mut run = fleet.begin(&["deploy", "--yes", "--json"]);
    run.until("two", "starting");
    let ran = other.run(&["deploy", "--yes"]);
    ran.assert_failed(
        7,
        &["two: shop is being deployed by ", "rolling 1/1)", "wait for it with `tako deploy --wait 5m`"],
    );
    let ran = other.run(&["deploy", "--yes", "--wait", "1s"]);
    ran.assert_failed(7, &["after 1.0s of waiting"]);
    // Who waits for long enough has its turn.
    let mut waiting = Run::begin(&other, &["deploy", "--yes", "--json", "--wait", "5m"]);
    waiting.until("Wait", "rolling 1/1");
    fleet.unsay(1, "wait");
    assert_eq!(run.end().code, 0);
    let ran = waiting.end();
    assert_eq!((ran.code, states(&event(&ran, "result"))), (0, ["live"; 3]), "{ran}");
    other.run(&["deploy", "--wait", "forever"]).assert_failed(2, &["--wait forever"]);
}

#[test]
fn two_that_wait_with_the_same_version_deploy_it_once() {
    let fleet = Fleet::start();
    fleet.deploy();
    let other = fleet.other();
    // Both trees are the same from here on.
    fleet.user.write("change.txt", "the same");
    other.write("change.txt", "the same");
    let mut control = Control::open(&fleet.servers[2]).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v9"}})).unwrap();
    let mut runs = [&fleet.user, &other].map(|user| Run::begin(user, &["deploy", "--yes", "--json", "--wait", "5m"]));
    runs.iter_mut().for_each(|run| run.until("Wait", "three: shop is being deployed"));
    control.vanish();
    let results = runs.map(|run| {
        let ran = run.end();
        assert_eq!(ran.code, 0, "{ran}");
        event(&ran, "result")
    });
    let mut all = results.each_ref().map(states);
    all.sort();
    assert_eq!(all, [["live"; 3], ["unchanged"; 3]], "{results:?}");
}
