//! One of three servers fails, in each phase in turn.

use std::fs;

use serde_json::json;

use super::{Fleet, NAMES, event, of, states, version};
use crate::http::Client;
use crate::sandbox::{Control, HOST, wait_for};

const TWO: usize = 1;

#[test]
fn until_all_are_ready_one_failure_leaves_all_of_them_as_they_were() {
    let mut fleet = Fleet::start();
    let first = version(&fleet.deploy());
    let before = [0, 1, 2].map(|n| fleet.pids(n));

    // Each phase: how it is broken, what is said then, and how it is mended.
    type Act = fn(&mut Fleet);
    let phases: [(&str, Act, i32, &[&str], Act); 6] = [
        ("connect", |f| f.sshds[TWO].stop(), 6, &["two"], |f| f.sshds[TWO].resume()),
        (
            "preflight",
            // Another app takes the route while ours is gone there.
            |f| {
                let config = f.user.read("tako.toml");
                f.user.write("tako.toml", &config.replace("\"shop\"", "\"thief\"").replace(HOST, "thief.localhost"));
                f.user.must(&["deploy", "--yes", "--server", "two"]);
                f.user.write("tako.toml", &config.replace(HOST, "thief.localhost"));
            },
            4,
            &["two", "thief.localhost"],
            |f| {
                let config = f.user.read("tako.toml").replace("thief.localhost", HOST);
                f.user.write("tako.toml", &config);
                let mut control = Control::open(&f.servers[TWO]).unwrap();
                control.call(json!({"delete": {"app": "thief"}})).unwrap();
            },
        ),
        (
            "lock",
            |f| {
                let mut control = Control::open(&f.servers[TWO]).unwrap();
                control.call(json!({"lock": {"app": "shop", "version": "v9"}})).unwrap();
                HELD.set(Some(control));
            },
            7,
            &["two: shop is being deployed by test@here for ", "(v9, uploading)", "tako deploy --wait 5m"],
            |_| HELD.take().unwrap().vanish(),
        ),
        (
            "upload",
            |f| {
                let incoming = f.servers[TWO].data().join("incoming");
                fs::remove_dir_all(&incoming).unwrap();
                fs::write(incoming, "in the way").unwrap();
            },
            4,
            &["two: write the upload"],
            |f| {
                let incoming = f.servers[TWO].data().join("incoming");
                fs::remove_file(&incoming).unwrap();
                fs::create_dir(incoming).unwrap();
            },
        ),
        (
            "unpack",
            |f| {
                let app = f.servers[TWO].app("shop");
                fs::rename(app.join("releases"), app.join("aside")).unwrap();
                fs::write(app.join("releases"), "in the way").unwrap();
            },
            4,
            &["two"],
            |f| {
                let app = f.servers[TWO].app("shop");
                fs::remove_file(app.join("releases")).unwrap();
                fs::rename(app.join("aside"), app.join("releases")).unwrap();
            },
        ),
        ("prepare", |f| f.say(TWO, "refuse"), 4, &["two", "install the dependencies"], |f| f.unsay(TWO, "refuse")),
    ];
    for (phase, break_it, code, words, mend) in phases {
        fleet.change();
        break_it(&mut fleet);
        let ran = fleet.user.run(&["deploy", "--yes"]);
        ran.assert_failed(code, words);
        mend(&mut fleet);
        assert_eq!(fleet.lives(), [(); 3].map(|()| Some(first.clone())), "{phase}: {ran}");
        assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), before, "{phase}: {ran}");
        for server in &fleet.servers {
            let lock = server.app("shop").join(".deploy_lock");
            wait_for("the lock to go", || (!lock.exists()).then_some(()));
        }
    }
    // The last one is the one that goes live, and where it was brought it is not sent again.
    let healed = fleet.deploy();
    assert_eq!(states(&healed), ["live"; 3], "{healed}");
    assert_eq!(fleet.lives(), [(); 3].map(|()| Some(version(&healed))));
}

thread_local! {
    static HELD: std::cell::RefCell<Option<Control>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn what_was_brought_before_another_server_failed_is_not_sent_again() {
    let fleet = Fleet::start();
    fleet.say(1, "hold");
    fleet.say(1, "refuse");
    let mut run = fleet.begin(&["deploy", "--yes", "--json"]);
    run.until("Upload one", "prepared");
    run.until("Upload three", "prepared");
    fleet.unsay(1, "hold");
    let ran = run.end();
    assert_eq!(ran.code, 4, "{ran}");
    assert_eq!(fleet.lives(), [None, None, None]);
    fleet.unsay(1, "refuse");
    let healed = fleet.deploy();
    for (name, is_sent) in [("one", false), ("two", true), ("three", false)] {
        assert_eq!(of(&healed, name)["sent"]["bytes"].as_u64().unwrap() > 0, is_sent, "{name}: {healed}");
    }
}

#[test]
fn once_all_are_ready_each_stands_for_itself_and_the_next_deploy_is_for_who_failed() {
    let fleet = Fleet::start();
    let mut before = version(&fleet.deploy());
    for (word, told) in [("exit", "exited with code 3"), ("ill", "/healthz answered 500")] {
        fleet.change();
        if word == "ill" {
            // What fails by its health takes as long as it may.
            let config = fleet.user.read("tako.toml").replace("startup_timeout = 60", "startup_timeout = 6");
            fleet.user.write("tako.toml", &config);
        }
        fleet.say(1, word);
        let ran = fleet.user.run(&["deploy", "--yes", "--json"]);
        let result = event(&ran, "result");
        let v2 = version(&result);
        assert_eq!((ran.code, states(&result)), (5, ["live", "kept", "live"]), "{ran}");
        ran.assert_failed(
            5,
            &[
                &format!("{v2} is live on 2 of 3 servers"),
                told,
                &format!("live      one, three   {v2}"),
                &format!("kept      two          {before}"),
                "`tako deploy` retries two only",
                &format!("more: tako logs --server two --release {v2}"),
            ],
        );
        assert!(ran.err.trim_end().ends_with(&format!("--release {v2}")), "the important words are last: {ran}");
        assert_eq!(fleet.lives(), [Some(v2.clone()), Some(before.clone()), Some(v2.clone())]);

        let pids = [0, 2].map(|n| fleet.pids(n));
        fleet.unsay(1, word);
        let healed = fleet.deploy();
        assert_eq!(states(&healed), ["unchanged", "live", "unchanged"], "{healed}");
        for name in ["one", "three"] {
            assert_eq!(of(&healed, name)["sent"]["bytes"], 0, "{healed}");
        }
        assert_eq!([0, 2].map(|n| fleet.pids(n)), pids, "they were not touched");
        assert_eq!(fleet.lives(), [(); 3].map(|()| Some(v2.clone())));
        before = v2;
    }
}

#[test]
fn what_is_live_everywhere_is_left_alone_unless_it_is_forced() {
    let fleet = Fleet::start();
    let first = fleet.deploy();
    let pids = [0, 1, 2].map(|n| fleet.pids(n));
    // Also without what was built: there is nothing to bring.
    fs::remove_dir_all(fleet.user.project().join(".tako/artifacts")).unwrap();
    let again = fleet.deploy();
    assert_eq!((version(&again), states(&again)), (version(&first), ["unchanged"; 3]));
    assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), pids);
    let told = fleet.user.must(&["deploy", "--yes"]);
    assert!(told.out.contains("is live already, nothing to do"), "{told}");
    for name in NAMES {
        assert!(told.err.contains(&format!("{name} ok live already")), "{told}");
    }

    let forced = fleet.user.result(&["deploy", "--yes", "--json", "--force"]);
    assert_eq!(states(&forced), ["live"; 3]);
    assert!([0, 1, 2].map(|n| fleet.pids(n)).iter().zip(&pids).all(|(now, then)| now != then));

    // A limit that is another one is something to do, though no instance would notice.
    let config = fleet.user.read("tako.toml");
    fleet.user.write("tako.toml", &config.replace("startup_timeout = 60", "startup_timeout = 59"));
    let limits = fleet.deploy();
    assert_eq!(states(&limits), ["live"; 3], "{limits}");
    let answer = Client::plain(fleet.servers[2].http, HOST).unwrap().get("/").unwrap();
    assert_eq!(answer.json()["version"], *version(&limits));
}
