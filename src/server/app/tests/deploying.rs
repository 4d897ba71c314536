//! Deploys that succeed: who serves when, and when the old ones go.

use super::*;

#[test]
fn a_first_deploy_serves_and_a_second_one_takes_over() {
    let it = Sandbox::new();
    assert!(it.handle.is_empty());
    let (notices, first) = told(&it.handle.deploy(it.order("v1", "serve", 1), "ana".into()));
    let first = first.unwrap();
    assert_eq!((first.version.as_str(), first.previous, first.swaps.len()), ("v1", None, 1));
    assert!(first.swaps[0].boot_us > 0 && first.swaps[0].total_us >= first.swaps[0].boot_us);
    let step = |step| Notice::Step { number: 1, of: 1, step };
    let live = Notice::Live { version: Version::parse("v1").unwrap() };
    assert_eq!(notices, [step(Step::Starting), step(Step::Ready), step(Step::Healthy), step(Step::InBalancing), live]);
    assert_eq!(it.answers("/"), ["v1 production"]);
    let old = it.pids();

    let second = it.deploy("v2", "serve", 1).unwrap();
    assert_eq!(second.previous.unwrap().as_str(), "v1");
    assert_eq!(it.answers("/"), ["v2 production"]);
    assert_eq!(it.posted().routes, [Route::parse("v2.example.com").unwrap()]);
    until("the old one is gone", || !is_alive(old[0]));
    // Never a moment without an instance once there was one.
    let scene = it.play.scene();
    let served: Vec<usize> = scene.posts.iter().map(|p| p.endpoints.len()).collect();
    assert!(served.iter().all(|n| *n == 1), "{served:?}");
    assert_eq!(scene.activated.iter().map(Version::as_str).collect::<Vec<_>>(), ["v1", "v2"]);
    drop(scene);

    let desired = state::load(&it.layout, &it.id).unwrap().unwrap();
    assert_eq!(desired.live.as_str(), "v2");
    let versions: Vec<&str> = desired.releases.iter().map(|r| r.manifest.version.as_str()).collect();
    assert_eq!(versions, ["v2", "v1"]);
    let status = it.status();
    assert_eq!(status.state, AppState::Live);
    let instance = status.instances.iter().find(|i| i.version.as_str() == "v2").unwrap();
    assert!(instance.memory > 0 && instance.port > 0 && instance.state == "healthy");
}

#[test]
fn instances_are_swapped_one_at_a_time_and_capacity_never_drops() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 3).unwrap();
    let old: Vec<u32> = it.pids();
    let posts = it.play.scene().posts.len();
    let (notices, result) = told(&it.handle.deploy(it.order("v2", "serve", 3), "ana".into()));
    assert_eq!(result.unwrap().swaps.len(), 3);
    let scene = it.play.scene();
    let swaps = &scene.posts[posts..];
    assert!(swaps.iter().all(|p| p.endpoints.len() == 3), "{swaps:?}");
    // Routes change with the last swap and not before.
    let routes: Vec<&str> = swaps.iter().map(|p| p.routes[0].host()).collect();
    assert_eq!(routes, ["v1.example.com", "v1.example.com", "v2.example.com"]);
    drop(scene);
    let numbers = |wanted| {
        let of = |n: &Notice| match n {
            Notice::Step { number, of: 3, step } if *step == wanted => Some(*number),
            _ => None,
        };
        notices.iter().filter_map(of).collect::<Vec<u32>>()
    };
    for step in [Step::Starting, Step::Ready, Step::Healthy, Step::InBalancing, Step::Draining] {
        assert_eq!(numbers(step), [1, 2, 3], "{step:?}");
    }
    until("the old ones are gone", || old.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_rollout_may_change_the_number_of_instances() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    it.deploy("v2", "serve", 3).unwrap();
    assert_eq!(it.answers("/"), ["v2 production"; 3]);
    it.deploy("v3", "serve", 1).unwrap();
    assert_eq!(it.answers("/"), ["v3 production"]);
    until("three are gone", || it.pids().len() == 1);
    // On demand is one warm instance for now.
    it.deploy("v4", "serve", 0).unwrap();
    assert_eq!(it.answers("/"), ["v4 production"]);
    assert_eq!((it.status().wanted, it.status().state), (0, AppState::Live));
}

#[test]
fn an_old_instance_lives_until_nothing_is_in_flight() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let old = it.pids()[0];
    it.play.scene().hold = true;
    it.deploy("v2", "serve", 1).unwrap();
    // A later deploy is fine while it drains.
    it.deploy("v3", "serve", 1).unwrap();
    let states = || it.status().instances.iter().map(|i| i.state.clone()).collect::<Vec<_>>();
    let mut now = states();
    now.sort();
    assert_eq!(now, ["draining", "draining", "healthy"]);
    assert!(is_alive(old));
    let held = std::mem::take(&mut it.play.scene().held);
    held.into_iter().for_each(|endpoint| it.play.tell(proxy::Notice::Drained(endpoint)));
    until("the drained ones are gone", || states() == ["healthy"]);
    assert!(!is_alive(old));
}

#[test]
fn the_drain_limit_ends_what_never_drains() {
    let it = Sandbox::new();
    let mut order = it.order("v1", "serve", 1);
    order.manifest.limits.drain_timeout_s = 0;
    done(&it.handle.deploy(order, "ana".into())).unwrap();
    let old = it.pids()[0];
    it.play.scene().hold = true;
    it.deploy("v2", "serve", 1).unwrap();
    until("the old one is gone", || !is_alive(old));
}

#[test]
fn one_rollout_at_a_time() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let events = it.handle.deploy(it.order("v2", "silent", 1), "ana".into());
    assert_eq!(it.status().state, AppState::Deploying);
    assert_eq!(it.deploy("v3", "serve", 1).unwrap_err().kind(), Kind::Busy);
    assert_eq!(done(&it.handle.rollback(None, "bo".into())).unwrap_err().kind(), Kind::Busy);
    assert_eq!(done(&it.handle.scale(2, "bo".into())).unwrap_err().kind(), Kind::Busy);
    it.handle.stop();
    assert_eq!(done(&events).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(done(&it.handle.scale(2, "bo".into())).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(it.handle.status().unwrap_err().kind(), Kind::NotFound);
}

/// What the proxy said about the first time out is heard when they are in balancing again.
#[test]
fn a_late_word_about_an_earlier_time_out_does_not_cut_a_drain_short() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 3).unwrap();
    it.play.scene().hold = true;
    it.deploy("v2", "third exits", 3).unwrap_err();
    let late = std::mem::take(&mut it.play.scene().held);
    assert!(late.len() >= 2);
    late.into_iter().for_each(|endpoint| it.play.tell(proxy::Notice::Drained(endpoint)));
    until("only the old ones run", || it.pids().len() == 3);
    it.deploy("v3", "serve", 3).unwrap();
    let states: Vec<_> = it.status().instances.into_iter().map(|i| (i.version.to_string(), i.state)).collect();
    assert_eq!(states.iter().filter(|(v, s)| v == "v1" && s == "draining").count(), 3, "{states:?}");
}
