//! Ctrl-C in every phase, once and twice; and how a deploy is joined again.

use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::{Fleet, Run, event, states, version};
use crate::sandbox::{Control, wait_for};

const DEPLOY: [&str; 3] = ["deploy", "--yes", "--json"];

fn no_locks(fleet: &Fleet) {
    for server in &fleet.servers {
        let lock = server.app("shop").join(".deploy_lock");
        wait_for("the lock to go", || (!lock.exists()).then_some(()));
        let mut control = Control::open(server).unwrap();
        let lock = json!({"lock": {"app": "shop", "version": "v9"}});
        wait_for("it to be free", || control.call(lock.clone()).ok());
        // Given back by a word: who comes next need not wait until it is seen that we are gone.
        control.call(json!({"unlock": {"app": "shop"}})).unwrap();
    }
}

/// Ctrl-C before the swap, and the same words wherever it comes.
fn is_ended_by_an_interrupt(run: Run) {
    run.interrupt();
    let ran = run.end();
    assert_eq!(ran.code, 130, "{ran}");
    assert!(ran.err.contains("interrupted; every server is as it was"), "{ran}");
}

/// A deploy whose second server is in the swap, until it is unsaid.
fn held_in_the_swap(fleet: &Fleet) -> Run {
    fleet.change();
    fleet.say(1, "wait");
    let mut run = fleet.begin(&DEPLOY);
    run.until("two", "starting");
    run
}

#[test]
fn before_the_swap_nothing_is_changed() {
    let fleet = Fleet::start();
    let first = version(&fleet.deploy());
    let pids = [0, 1, 2].map(|n| fleet.pids(n));
    let config = fleet.user.read("tako.toml");

    // In the build, while all are connected.
    fleet.change();
    fleet.user.write("tako.toml", &format!("{config}\n[build]\nbuild = \"sleep 600\"\n"));
    let mut run = fleet.begin(&DEPLOY);
    run.until("Build", "sleep 600");
    run.until("Connect", "one, two, three");
    is_ended_by_an_interrupt(run);
    no_locks(&fleet);

    // While the dependencies are installed.
    fleet.user.write("tako.toml", &config);
    fleet.change();
    fleet.say(1, "hold");
    let mut run = fleet.begin(&DEPLOY);
    run.until("Upload one", "prepared");
    run.until("Upload two", "install");
    is_ended_by_an_interrupt(run);
    no_locks(&fleet);
    fleet.unsay(1, "hold");

    // While it waits for somebody else.
    let mut control = Control::open(&fleet.servers[2]).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v9"}})).unwrap();
    let mut run = fleet.begin(&["deploy", "--yes", "--json", "--wait", "1h"]);
    run.until("Wait", "three: shop is being deployed by test@here");
    run.interrupt();
    let ran = run.end();
    assert_eq!(ran.code, 130, "{ran}");
    control.vanish();
    no_locks(&fleet);

    assert_eq!(fleet.lives(), [(); 3].map(|()| Some(first.clone())));
    assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), pids);
}

#[test]
fn in_the_swap_who_has_not_committed_goes_back() {
    let fleet = Fleet::start();
    let first = version(&fleet.deploy());
    let pids = fleet.pids(1);
    fleet.change();
    fleet.say(1, "wait");
    let mut run = fleet.begin(&DEPLOY);
    run.until("one", "live");
    run.until("three", "live");
    run.until("two", "starting");
    run.interrupt();
    let ran = run.end();
    let result = event(&ran, "result");
    let v2 = version(&result);
    assert_eq!((ran.code, states(&result)), (130, ["live", "kept", "live"]), "{ran}");
    ran.assert_failed(130, &[&format!("cancelled; {v2} is live on 2 of 3 servers"), &format!("two          {first}")]);
    assert_eq!(fleet.lives(), [Some(v2.clone()), Some(first), Some(v2.clone())]);
    wait_for("the old one alone", || (fleet.pids(1) == pids).then_some(()));
    no_locks(&fleet);

    // The release is no worse for it, and lies there.
    fleet.unsay(1, "wait");
    let healed = fleet.deploy();
    assert_eq!(states(&healed), ["unchanged", "live", "unchanged"], "{healed}");
    assert_eq!(super::of(&healed, "two")["sent"]["bytes"], 0, "{healed}");
}

#[test]
fn twice_leaves_the_servers_to_it_and_attach_tells_how_it_ended() {
    let fleet = Fleet::start();
    fleet.deploy();
    let mut run = held_in_the_swap(&fleet);
    // The server cannot be told: what it has begun it goes on with.
    kill_process(server(&fleet, 1), Signal::STOP).unwrap();
    run.interrupt();
    run.until_it_cancels();
    run.interrupt();
    let ran = run.end();
    kill_process(server(&fleet, 1), Signal::CONT).unwrap();
    let result = event(&ran, "result");
    assert_eq!((ran.code, states(&result)[1]), (130, "unknown"), "{ran}");
    let hint = event(&ran, "error")["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("tako deploy --attach"), "{ran}");
    fleet.unsay(1, "wait");
    let told = fleet.user.run(&["deploy", "--attach", "--json"]);
    assert_eq!((told.code, states(&event(&told, "result"))), (0, ["live"; 3]), "{told}");
    assert_eq!(fleet.live(1), Some(version(&result)));
    no_locks(&fleet);
}

#[test]
fn attach_joins_a_deploy_and_ends_as_it_does() {
    let fleet = Fleet::start();
    let other = fleet.other();
    let none = other.run(&["deploy", "--attach"]);
    none.assert_failed(1, &["there is no app shop"]);
    fleet.deploy();

    // One that comes up.
    let run = held_in_the_swap(&fleet);
    let mut attached = Run::begin(&other, &["deploy", "--attach", "--json"]);
    attached.until("two", "starting");
    // Ctrl-C there ends nothing but itself.
    let mut leaving = Run::begin(&other, &["deploy", "--attach", "--json"]);
    leaving.until("two", "starting");
    leaving.interrupt();
    let left = leaving.end();
    assert_eq!(left.code, 130, "{left}");
    assert!(event(&left, "error")["hint"].as_str().unwrap().contains("--attach"), "{left}");
    fleet.unsay(1, "wait");
    let (ran, joined) = (run.end(), attached.end());
    assert_eq!((ran.code, joined.code), (0, 0), "{ran}\n{joined}");
    let (ran, joined) = (event(&ran, "result"), event(&joined, "result"));
    assert_eq!((version(&joined), states(&joined)), (version(&ran), ["live"; 3]));

    // One that does not; also when it is asked for afterwards.
    fleet.change();
    fleet.say(1, "exit");
    let ran = fleet.user.run(&DEPLOY);
    assert_eq!(ran.code, 5, "{ran}");
    let told = other.run(&["deploy", "--attach", "--json"]);
    let (ran, result) = (event(&ran, "result"), event(&told, "result"));
    assert_eq!((told.code, version(&result), states(&result)), (5, version(&ran), ["live", "kept", "live"]), "{told}");
    assert!(told.err.contains("exited with code 3"), "{told}");
}

#[test]
fn a_connection_that_is_lost_in_the_swap_is_no_end_of_the_deploy() {
    let fleet = Fleet::start();
    fleet.deploy();
    let mut run = held_in_the_swap(&fleet);
    let port = format!("{}", fleet.sshds[1].port);
    let all = run.connections().into_iter();
    let ours: Vec<_> = all.filter(|(_, line)| line.contains("ssh") && line.contains(&port)).collect();
    assert!(!ours.is_empty());
    for (ssh, _) in ours {
        kill_process(ssh, Signal::KILL).unwrap();
    }
    run.until("two", "lost the connection");
    // It is in the middle of it again.
    run.until("two", "of ");
    // Nobody else can change the app meanwhile, though the one who locked it was gone.
    let mut control = Control::open(&fleet.servers[1]).unwrap();
    let busy = control.call(json!({"lock": {"app": "shop", "version": "v9"}})).unwrap_err();
    assert!(busy["message"].as_str().unwrap().contains("rolling 1/1"), "{busy}");
    fleet.unsay(1, "wait");
    let ran = run.end();
    assert_eq!((ran.code, states(&event(&ran, "result"))), (0, ["live"; 3]), "{ran}");
}

fn server(fleet: &Fleet, n: usize) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(fleet.servers[n].pid()).unwrap()).unwrap()
}
