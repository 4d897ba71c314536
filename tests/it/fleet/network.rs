//! Three machines, each on a network of its own that may be slow, or gone without a word.

use std::fs;

use serde_json::Value;

use super::{Fleet, NAMES, Run, event, of, states, version};
use crate::http::Client;
use crate::netns::Net;
use crate::sandbox::{HOST, Ran, wait_for};
use crate::uploads::noise;

const DEPLOY: [&str; 3] = ["deploy", "--yes", "--json"];
/// A client that is gone leaves its lock for as long as its server takes to notice.
const AGAIN: [&str; 5] = ["deploy", "--yes", "--json", "--wait", "1m"];
const TWO: usize = 1;
/// Of an upload, and worth going on from.
const SOME: u64 = 512 << 10;

fn prepared(run: &mut Run, names: &[&str]) {
    names.iter().for_each(|name| run.until(&format!("Upload {name}"), "prepared"));
}

/// Where in the events a task first says this.
fn first(ran: &Ran, task: &str, text: &str) -> usize {
    let says = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["task"] == task && event["text"].as_str().is_some_and(|said| said.contains(text))
    };
    ran.out.lines().position(says).unwrap_or_else(|| panic!("{task} never said {text:?}: {ran}"))
}

/// What is on its way to server `n`.
fn arrived(fleet: &Fleet, n: usize) -> u64 {
    let incoming = fs::read_dir(fleet.servers[n].data().join("incoming")).unwrap().flatten();
    incoming.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// Waits until the command has no `ssh` to server `n` any more.
fn until_lost(run: &Run, fleet: &Fleet, n: usize) {
    let sshd = &fleet.sshds[n];
    let is_there =
        |line: &str| line.contains(sshd.host()) && (sshd.port == 22 || line.contains(&sshd.port.to_string()));
    wait_for("ssh to see that nobody is there", || {
        (!run.connections().iter().any(|(_, line)| is_there(line))).then_some(())
    });
}

#[test]
fn three_machines_are_deployed_to_by_their_names() {
    let Some(net) = Net::of("fleet::network::three_machines_are_deployed_to_by_their_names") else { return };
    let fleet = Fleet::on(&net);
    let user = &fleet.user;
    user.write(
        "index.mjs",
        &format!("console.log(`hello from ${{process.env.TAKO_BUILD}}`);\n{}", user.read("index.mjs")),
    );
    let serves = |version: &str| {
        for server in &fleet.servers {
            let answer = Client::tls(server.https, HOST).unwrap().get("/").unwrap();
            assert_eq!(answer.json()["version"], version);
        }
    };
    let v1 = fleet.deploy();
    assert_eq!(states(&v1), ["live"; 3]);
    serves(&version(&v1));
    let status = user.must(&["status"]);
    for name in NAMES {
        assert!(status.out.lines().any(|l| l.contains(name) && l.contains("live")), "{name}: {status}");
    }
    fleet.change();
    let v2 = fleet.deploy();
    for name in NAMES {
        let sent = &of(&v2, name)["sent"];
        assert!(sent["bytes"].as_u64() < sent["of"].as_u64(), "a delta: {v2}");
    }
    serves(&version(&v2));
    assert_eq!(version(&user.result(&["releases", "rollback", "--json"])), version(&v1));
    serves(&version(&v1));
    let logs = wait_for("what all of them printed", || {
        let logs = user.must(&["logs"]);
        NAMES.iter().all(|name| logs.out.contains(&format!("[{name}] "))).then_some(logs)
    });
    assert!(logs.out.contains(&format!("hello from {}", version(&v2))), "{logs}");
}

#[test]
fn a_slow_network_keeps_no_other_from_being_ready_and_all_from_swapping() {
    let Some(net) = Net::of("fleet::network::a_slow_network_keeps_no_other_from_being_ready_and_all_from_swapping")
    else {
        return;
    };
    let fleet = Fleet::on(&net);
    let before = fleet.deploy();
    let pids = [0, 1, 2].map(|n| fleet.pids(n));
    // Most of a minute at that rate.
    fs::write(fleet.user.project().join("movie.bin"), noise(6 << 20)).unwrap();
    net.slow(TWO);
    let mut run = fleet.begin(&DEPLOY);
    prepared(&mut run, &["one", "three"]);
    assert_eq!(fleet.lives(), [(); 3].map(|()| Some(version(&before))));
    assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), pids);
    net.relieve(TWO);
    let ran = run.end();
    let result = event(&ran, "result");
    assert_eq!((ran.code, states(&result)), (0, ["live"; 3]), "{ran}");
    let ready = NAMES.map(|name| first(&ran, &format!("Upload {name}"), "prepared"));
    let begun = NAMES.map(|name| first(&ran, name, "starting"));
    assert!(ready.iter().max() < begun.iter().min(), "all are ready before the first begins: {ran}");
}

#[test]
fn a_network_that_is_gone_for_a_while_in_an_upload_is_waited_for_and_the_rest_is_sent() {
    let Some(net) =
        Net::of("fleet::network::a_network_that_is_gone_for_a_while_in_an_upload_is_waited_for_and_the_rest_is_sent")
    else {
        return;
    };
    let fleet = Fleet::on(&net);
    fs::write(fleet.user.project().join("movie.bin"), noise(6 << 20)).unwrap();
    net.slow(TWO);
    let mut run = fleet.begin(&DEPLOY);
    prepared(&mut run, &["one", "three"]);
    wait_for("some of it", || (arrived(&fleet, TWO) > SOME).then_some(()));
    net.cut(TWO);
    until_lost(&run, &fleet, TWO);
    net.mend(TWO);
    net.relieve(TWO);
    let ran = run.end();
    let result = event(&ran, "result");
    assert_eq!((ran.code, states(&result)), (0, ["live"; 3]), "{ran}");
    assert!(ran.err.contains("two: connection lost at ") && ran.err.contains(" %, going on from there"), "{ran}");
    let sent = |name: &str| of(&result, name)["sent"]["bytes"].as_u64().unwrap();
    assert_eq!(sent("two"), sent("one"), "nothing is sent twice: {ran}");
}

#[test]
fn a_network_that_goes_away_in_an_upload_changes_nothing_and_the_rest_is_sent_later() {
    let Some(net) =
        Net::of("fleet::network::a_network_that_goes_away_in_an_upload_changes_nothing_and_the_rest_is_sent_later")
    else {
        return;
    };
    let fleet = Fleet::on(&net);
    let before = fleet.deploy();
    let pids = [0, 1, 2].map(|n| fleet.pids(n));
    fs::write(fleet.user.project().join("movie.bin"), noise(6 << 20)).unwrap();
    net.slow(TWO);
    let mut run = fleet.begin(&DEPLOY);
    prepared(&mut run, &["one", "three"]);
    wait_for("some of it", || (arrived(&fleet, TWO) > SOME).then_some(()));
    net.cut(TWO);
    until_lost(&run, &fleet, TWO);
    net.unplug(TWO);
    let ran = run.end();
    ran.assert_failed(
        6,
        &["two: the connection was lost during the upload", "does not come back", "the next `tako deploy` goes on"],
    );
    assert_eq!(fleet.lives(), [(); 3].map(|()| Some(version(&before))));
    assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), pids);

    net.mend(TWO);
    net.relieve(TWO);
    let healed = fleet.user.result(&AGAIN);
    assert_eq!(states(&healed), ["live"; 3]);
    for name in ["one", "three"] {
        assert_eq!(of(&healed, name)["sent"]["bytes"], 0, "{healed}");
    }
    let sent = &of(&healed, "two")["sent"];
    let (bytes, all) = (sent["bytes"].as_u64().unwrap(), sent["of"].as_u64().unwrap());
    assert!(bytes > 0 && bytes <= all - SOME, "{healed}");
}

#[test]
fn a_network_that_is_gone_when_all_are_ready_leaves_all_as_they_were() {
    let Some(net) = Net::of("fleet::network::a_network_that_is_gone_when_all_are_ready_leaves_all_as_they_were") else {
        return;
    };
    let fleet = Fleet::on(&net);
    let before = fleet.deploy();
    let pids = [0, 1, 2].map(|n| fleet.pids(n));
    fleet.change();
    fleet.say(2, "hold");
    let mut run = fleet.begin(&DEPLOY);
    prepared(&mut run, &["one", "two"]);
    net.cut(TWO);
    until_lost(&run, &fleet, TWO);
    fleet.unsay(2, "hold");
    let ran = run.end();
    ran.assert_failed(6, &["two: the connection was lost, when all servers were ready", "no server was changed"]);
    assert_eq!(fleet.lives(), [(); 3].map(|()| Some(version(&before))), "{ran}");
    assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), pids);

    net.mend(TWO);
    let healed = fleet.user.result(&AGAIN);
    assert_eq!(states(&healed), ["live"; 3]);
    for name in NAMES {
        assert_eq!(of(&healed, name)["sent"]["bytes"], 0, "{healed}");
    }
}

#[test]
fn a_network_that_is_gone_for_a_while_in_the_swap_is_no_end_of_the_deploy() {
    let Some(net) = Net::of("fleet::network::a_network_that_is_gone_for_a_while_in_the_swap_is_no_end_of_the_deploy")
    else {
        return;
    };
    let fleet = Fleet::on(&net);
    fleet.deploy();
    fleet.change();
    fleet.say(TWO, "wait");
    let mut run = fleet.begin(&DEPLOY);
    run.until("two", "starting");
    net.cut(TWO);
    run.until("two", "lost the connection");
    // Meanwhile it is live there.
    fleet.unsay(TWO, "wait");
    wait_for("the swap", || (fleet.live(TWO) == fleet.live(0)).then_some(()));
    net.mend(TWO);
    let ran = run.end();
    assert_eq!((ran.code, states(&event(&ran, "result"))), (0, ["live"; 3]), "{ran}");
}
