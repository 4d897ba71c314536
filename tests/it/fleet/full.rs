//! One of three servers has no room: before anything is sent, while it is, and when all are ready.

use super::{Fleet, event, of, states, version};
use crate::full_disk::{Disk, Short, may_mount};
use crate::sandbox::Server;

const TWO: usize = 1;

#[test]
fn no_room_on_one_server_changes_none_and_later_only_what_is_missing_is_done() {
    if !may_mount("fleet::full::no_room_on_one_server_changes_none_and_later_only_what_is_missing_is_done") {
        return;
    }
    let mut two = Server::nowhere();
    let disk = Disk::mount(two.dir.path());
    two.boot();
    let fleet = Fleet::of([Server::start(), two, Server::start()], |_, _| {});
    let before = version(&fleet.deploy());
    let pids = [0, 1, 2].map(|n| fleet.pids(n));
    let as_before = |told: &dyn std::fmt::Display| {
        assert_eq!(fleet.lives(), [(); 3].map(|()| Some(before.clone())), "{told}");
        assert_eq!([0, 1, 2].map(|n| fleet.pids(n)), pids, "{told}");
    };

    // It is known before a byte is sent to any.
    fleet.change();
    disk.leave(Short::Pages, 0);
    let ran = fleet.user.run(&["deploy", "--yes"]);
    ran.assert_failed(4, &["two: ", " of disk are needed and ", " free", "make room on the server"]);
    as_before(&ran);
    assert!(fleet.servers.iter().all(|server| server.releases("shop") == [before.clone()]), "{ran}");
    disk.make_room();

    // Room for files is not asked for: it fails while the others are sent to.
    disk.leave(Short::Files, 0);
    let ran = fleet.user.run(&["deploy", "--yes"]);
    disk.make_room();
    ran.assert_failed(4, &["two: "]);
    assert!(["room", "space", "disk full"].iter().any(|word| ran.err.contains(word)), "{ran}");
    as_before(&ran);

    // All are ready, and then one has no room to write down what it serves.
    fleet.change();
    fleet.say(2, "hold");
    let mut run = fleet.begin(&["deploy", "--yes", "--json"]);
    run.until("Upload one", "prepared");
    run.until("Upload two", "prepared");
    disk.leave(Short::Pages, 0);
    disk.leave(Short::Files, 0);
    fleet.unsay(2, "hold");
    let ran = run.end();
    disk.make_room();
    let result = event(&ran, "result");
    let v2 = version(&result);
    assert_eq!((ran.code, states(&result)), (5, ["live", "kept", "live"]), "{ran}");
    ran.assert_failed(5, &[&format!("{v2} is live on 2 of 3 servers"), "two", "`tako deploy` retries two only"]);
    assert_eq!(fleet.lives(), [Some(v2.clone()), Some(before.clone()), Some(v2.clone())]);
    assert_eq!(fleet.pids(TWO), pids[TWO]);

    let healed = fleet.deploy();
    assert_eq!((version(&healed), states(&healed)), (v2, ["unchanged", "live", "unchanged"]), "{healed}");
    for name in ["one", "three"] {
        assert_eq!(of(&healed, name)["sent"]["bytes"], 0, "{healed}");
    }
}
