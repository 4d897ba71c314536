//! The other verbs: rollback, scale, delete.

use super::*;

#[test]
fn rollback_restores_the_release_that_was_live_before() {
    let it = Sandbox::new();
    let rollback = |to: Option<&str>| done(&it.handle.rollback(to.map(|v| Version::parse(v).unwrap()), "bo".into()));
    assert_eq!(rollback(None).unwrap_err().kind(), Kind::NotFound);
    it.deploy("v1", "serve", 1).unwrap();
    assert_eq!(rollback(None).unwrap_err().kind(), Kind::NotFound);
    it.deploy("v2", "serve", 1).unwrap();
    it.deploy("v3", "serve", 1).unwrap();
    let back = rollback(None).unwrap();
    assert_eq!((back.version.as_str(), back.previous.unwrap().as_str()), ("v2", "v3"));
    assert_eq!(it.answers("/"), ["v2 production"]);
    assert_eq!(it.posted().routes, [Route::parse("v2.example.com").unwrap()]);
    // What was rolled back is not chosen again.
    assert_eq!(rollback(None).unwrap().version.as_str(), "v1");
    let releases = it.handle.releases().unwrap();
    let told: Vec<_> = releases.iter().map(|r| (r.version.as_str(), r.live, r.bad, r.by.as_str())).collect();
    assert_eq!(told, [("v1", true, false, "bo"), ("v2", false, true, "bo"), ("v3", false, true, "ana")]);
    assert_eq!(rollback(None).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(rollback(Some("v1")).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(rollback(Some("v9")).unwrap_err().kind(), Kind::NotFound);
    fs::remove_file(it.release_dir("v3").join(".complete")).unwrap();
    assert_eq!(rollback(Some("v3")).unwrap_err().kind(), Kind::NotFound);
    // By name a bad one is good again.
    assert_eq!(rollback(Some("v2")).unwrap().version.as_str(), "v2");
    assert!(it.handle.releases().unwrap().iter().any(|r| r.version.as_str() == "v2" && !r.bad));
}

#[test]
fn scaling_starts_and_stops_without_touching_the_others() {
    let it = Sandbox::new();
    assert_eq!(done(&it.handle.scale(2, "bo".into())).unwrap_err().kind(), Kind::NotFound);
    it.deploy("v1", "serve", 1).unwrap();
    let first = it.pids()[0];
    let up = done(&it.handle.scale(3, "bo".into())).unwrap();
    assert_eq!((up.instances, up.swaps.len()), (3, 2));
    assert_eq!(it.answers("/").len(), 3);
    assert!(it.pids().contains(&first));
    let down = done(&it.handle.scale(1, "bo".into())).unwrap();
    assert_eq!((down.instances, down.swaps.len()), (1, 0));
    until("two are gone", || it.pids() == [first]);
    assert_eq!(it.posted().endpoints.len(), 1);
    assert_eq!(state::load(&it.layout, &it.id).unwrap().unwrap().instances, 1);
    assert_eq!(done(&it.handle.scale(65, "bo".into())).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn delete_calls_off_a_rollout_and_stops_all() {
    let it = Sandbox::new();
    // Nothing is in flight, so no limit is waited for.
    let order = |version, part, instances| {
        let mut order = it.order(version, part, instances);
        order.manifest.limits.drain_timeout_s = NEVER_S;
        order.manifest.limits.startup_timeout_s = NEVER_S;
        order
    };
    done(&it.handle.deploy(order("v1", "serve", 2), "ana".into())).unwrap();
    let events = it.handle.deploy(order("v2", "silent", 1), "ana".into());
    until("the new one runs", || it.pids().len() == 3);
    let pids = it.pids();
    assert_eq!(done(&it.handle.delete()).unwrap().version.as_str(), "v1");
    assert_eq!(done(&events).unwrap_err().kind(), Kind::Conflict);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(it.posted().routes.is_empty());
    assert_eq!(it.handle.status().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_deploy_that_is_cancelled_leaves_all_as_it_was_and_the_release_laid_out() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 2).unwrap();
    let (before, mut pids) = (it.posted(), it.pids());
    let version = |s| Version::parse(s).unwrap();
    assert_eq!(it.handle.cancel(version("v2"), "bo".into()).unwrap_err().kind(), Kind::NotFound);
    // The first of them is in balancing when it is called off.
    let events = it.handle.deploy(it.order("v2", "second is silent", 2), "ana".into());
    let second = Notice::Step { number: 2, of: 2, step: Step::Starting };
    while !matches!(events.recv_timeout(PATIENCE).unwrap(), Event::Notice(n) if n == second) {}
    assert_eq!(it.handle.cancel(version("v1"), "bo".into()).unwrap_err().kind(), Kind::NotFound);
    it.handle.cancel(version("v2"), "bo@ci".into()).unwrap();
    let e = done(&events).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Interrupted, "cancelled by bo@ci"));
    assert_eq!(it.posted(), before);
    pids.sort();
    until("only the old ones run", || {
        let mut now = it.pids();
        now.sort();
        now == pids
    });
    // Nothing was wrong with it: the next deploy finds it there, and it is no failure of the app's.
    assert!(it.layout.complete_marker(&it.id, &version("v2")).exists());
    assert!(it.handle.releases().unwrap().iter().all(|r| r.failure.is_none()) && it.why().is_none());
    it.deploy("v2", "serve", 2).unwrap();
    assert_eq!(it.handle.cancel(version("v2"), "bo".into()).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn others_join_a_rollout_and_hear_how_the_last_one_ended() {
    let it = Sandbox::new();
    assert!(it.handle.attach().is_none());
    let first = it.handle.deploy(it.order("v1", "held", 1), "ana".into());
    until("it is under way", || it.status().state == AppState::Deploying);
    let (joined, second) = it.handle.attach().unwrap();
    assert_eq!((joined.who.as_str(), joined.ended), ("ana", false));
    it.let_go();
    let (notices, result) = told(&first);
    assert_eq!(told(&second).0, notices);
    // What is refused at once is no rollout to join.
    it.handle.rollback(None, "bo".into()).recv().unwrap();
    let (joined, last) = it.handle.attach().unwrap();
    assert!(joined.ended && joined.version == Some(result.unwrap().version));
    assert_eq!(told(&last).0, notices);
}
