//! `tako deploy --dry-run` tells what the deploy then does, and touches nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Fleet, NAMES, of, version};
use crate::sandbox::wait_for;

/// Every file below `dir` with its size and time.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let found = entry.metadata().unwrap();
            // What the running app says of itself is not ours.
            let is_log = entry.path().components().any(|part| part.as_os_str() == "logs");
            match found.is_dir() {
                true if !is_log => open.push(entry.path()),
                false if !is_log => drop(all.insert(entry.path(), (found.len(), found.modified().unwrap()))),
                _ => {}
            }
        }
    }
    all
}

#[test]
fn a_dry_run_tells_what_would_happen_and_changes_nothing() {
    let fleet = Fleet::start();
    let everything = || {
        let servers = fleet.servers.iter().flat_map(|server| files(&server.data()));
        servers.chain(files(&fleet.user.project())).collect::<BTreeMap<_, _>>()
    };
    let plan = || fleet.user.result(&["deploy", "--dry-run", "--json"]);
    let before = everything();
    let first = plan();
    assert_eq!(everything(), before);
    assert_eq!((&first["dry_run"], first["build"][0]["cached"].as_bool()), (&true.into(), Some(false)), "{first}");
    for name in NAMES {
        let one = of(&first, name);
        assert_eq!((one["live"].is_null(), one["upload"]["kind"].as_str()), (true, Some("full")), "{first}");
    }
    let deployed = fleet.deploy();
    assert_eq!(version(&first), version(&deployed));

    // One server is behind, another has nothing of what a delta could be against.
    fleet.change();
    fleet.user.must(&["deploy", "--yes", "--server", "one"]);
    fs::remove_dir_all(fleet.servers[2].app("shop").join("bases")).unwrap();
    // The deploy does not wait for the instance before to end; the files about it go with it.
    let run = fleet.servers[0].app("shop").join("run");
    wait_for("the instance before has ended", || (files(&run).len() == 2).then_some(()));
    let before = everything();
    let second = plan();
    let shown = fleet.user.must(&["deploy", "--dry-run"]);
    assert_eq!(everything(), before);
    let kinds = NAMES.map(|name| of(&second, name)["upload"]["kind"].as_str().unwrap());
    assert_eq!(kinds, ["nothing", "delta", "full"], "{second}");
    assert_eq!(of(&second, "one")["unchanged"], true);
    let (old, new) = (version(&deployed), version(&second));
    let lines =
        [format!("{new}, stays"), format!("{old} → {new}"), format!("delta from {old}"), "it was built before".into()];
    for line in lines {
        // Without a locale the arrow is spelled.
        let spelled = line.replace('→', "->");
        assert!(shown.out.contains(&line) || shown.out.contains(&spelled), "no {line:?} in {shown}");
    }

    // The error that the deploy would have met.
    let config = fleet.user.read("tako.toml");
    fleet.user.write("tako.toml", &config.replace("\"shop\"", "\"thief\""));
    let ran = fleet.user.run(&["deploy", "--dry-run"]);
    ran.assert_failed(4, &["shop.localhost", "shop"]);
}

#[test]
fn a_dry_run_writes_no_choice_of_servers() {
    let fleet = Fleet::start();
    let config = fleet.user.read("tako.toml").replace("servers = [\"one\", \"two\", \"three\"]\n", "");
    fleet.user.write("tako.toml", &config);
    let ran = fleet.user.must(&["deploy", "--dry-run", "--server", "two"]);
    assert!(ran.err.contains("would write two into [envs.production]"), "{ran}");
    assert_eq!(fleet.user.read("tako.toml"), config);
}
