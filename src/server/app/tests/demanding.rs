//! Apps on demand: asleep, woken, and everything that comes in between.

use super::*;

impl Sandbox {
    fn order_on_demand(&self, version: &str, part: &str) -> Deploy {
        let mut order = self.order(version, part, 0);
        order.manifest.limits.idle_timeout_s = 1;
        order
    }

    /// One that stays awake for long enough to be looked at, also on a busy machine.
    fn order_for_a_look(&self, version: &str, part: &str) -> Deploy {
        let mut order = self.order(version, part, 0);
        order.manifest.limits.idle_timeout_s = SHORT_S;
        order
    }

    /// An app on demand that was deployed and has gone to sleep.
    fn asleep(part: &str) -> Sandbox {
        Sandbox::new().sleeping(|it| it.order_on_demand("v1", part))
    }

    fn sleeping(self, order: impl Fn(&Sandbox) -> Deploy) -> Sandbox {
        let it = self;
        done(&it.handle.deploy(order(&it), "ana".into())).unwrap();
        it.until_state(AppState::Asleep);
        it.until_gone(); // its number is free again
        it
    }

    fn until_state(&self, state: AppState) {
        until(&format!("it is {state:?}"), || self.status().state == state);
    }

    fn until_gone(&self) {
        until("no process is left", || self.pids().is_empty());
    }

    fn wake(&self) {
        self.play.tell(proxy::Notice::Wake("shop".into()));
    }
}

#[test]
fn sleeps_when_it_is_idle_and_a_thousand_wakes_start_one_instance() {
    let it = Sandbox::new();
    done(&it.handle.deploy(it.order_for_a_look("v1", "serve"), "ana".into())).unwrap();
    assert_eq!(it.answers("/"), ["v1 production"], "one is warm after a deploy");
    let warm = it.pids()[0];
    it.until_state(AppState::Asleep);
    it.until_gone();
    assert!(!is_alive(warm));
    let posted = it.posted();
    assert_eq!((posted.endpoints, posted.routes.len()), (vec![], 1));
    assert_eq!(posted.standing, Standing::OnDemand { patience: Duration::from_secs(20) });
    (0..1000).for_each(|_| it.wake());
    it.until_state(AppState::Live);
    assert_eq!((it.answers("/"), it.pids().len()), (vec!["v1 production".to_string()], 1));
    assert_eq!(it.status().last_failure, None);
}

/// Out of balancing first, then drained, then ended: in between a request has the same instance back.
#[test]
fn a_request_that_comes_as_it_dozes_off_has_the_same_instance_back() {
    let it = Sandbox::new();
    it.play.scene().hold = true;
    done(&it.handle.deploy(it.order_for_a_look("v1", "serve"), "ana".into())).unwrap();
    let (pid, endpoint) = (it.pids()[0], it.posted().endpoints[0].id);
    until("it dozes", || it.posted().endpoints.is_empty());
    assert!(is_alive(pid), "something is in flight");
    it.wake();
    until("it is back", || !it.posted().endpoints.is_empty());
    // What was said about the first time out comes late, and it is idle for a second time after.
    it.play.tell(proxy::Notice::Drained(endpoint));
    until("it dozes again", || it.posted().endpoints.is_empty());
    assert_eq!((it.pids(), is_alive(pid)), (vec![pid], true));
    it.play.tell(proxy::Notice::Drained(endpoint));
    it.until_gone();
    it.until_state(AppState::Asleep);
}

#[test]
fn what_is_still_in_flight_after_a_while_is_in_use() {
    let it = Sandbox::new();
    it.play.scene().hold = true;
    done(&it.handle.deploy(it.order_on_demand("v1", "serve"), "ana".into())).unwrap();
    let pid = it.pids()[0];
    until("it dozes", || it.posted().endpoints.is_empty());
    until("it is back", || !it.posted().endpoints.is_empty());
    assert_eq!(it.pids(), [pid]);
}

#[test]
fn activity_keeps_it_awake() {
    let it = Sandbox::new();
    done(&it.handle.deploy(it.order_for_a_look("v1", "serve"), "ana".into())).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(SHORT_S + 2) {
        it.play.tell(proxy::Notice::Activity("shop".into()));
        assert!(!it.posted().endpoints.is_empty(), "idle after {:?}", begun.elapsed());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    it.until_state(AppState::Asleep);
}

/// As on a machine that stands still between the failure and the next turn.
#[test]
fn a_failure_that_is_forgiven_by_the_next_turn_is_heard_by_those_who_wait() {
    let it = Sandbox::asleep("serve");
    it.handle.stop();
    let play = Play::default();
    let (mut actor, _handle) = before_it_runs(&play, &it.id, &it.layout, &it.key);
    actor.boot();
    actor.publish();
    let (now, before) = (Instant::now(), play.scene().posts.len());
    actor.scale_on(scale::Event::Wake, now);
    actor.scale_on(scale::Event::Down(Duration::ZERO), now);
    actor.tick_scale(now + Duration::from_secs(3600));
    actor.publish();
    let said: Vec<Standing> = play.scene().posts[before..].iter().map(|p| p.standing).collect();
    assert!(matches!(said[..], [Standing::Failed, Standing::OnDemand { .. }]), "{said:?}");
}

#[test]
fn a_start_that_fails_is_refused_for_a_while_and_then_tried_again() {
    let it = Sandbox::asleep("second exits");
    it.wake();
    until("it has failed", || it.play.scene().posts.iter().any(|p| p.standing == Standing::Failed));
    assert_eq!(it.why().as_deref(), Some("instance 1 exited with code 3 before it was ready"));
    until("it may be tried again", || it.status().state == AppState::Asleep);
    assert!(matches!(it.posted().standing, Standing::OnDemand { .. }));
    it.wake();
    it.until_state(AppState::Live);
    assert_eq!(it.answers("/"), ["v1 production"]);
}

#[test]
fn a_start_that_takes_too_long_is_given_up_after_those_who_wait() {
    let it = Sandbox::new();
    let mut order = it.order_on_demand("v1", "second is silent");
    order.manifest.limits.startup_timeout_s = SHORT_S;
    done(&it.handle.deploy(order, "ana".into())).unwrap();
    it.until_state(AppState::Asleep);
    it.until_gone();
    let begun = Instant::now();
    it.wake();
    until("it has failed", || it.play.scene().posts.iter().any(|p| p.standing == Standing::Failed));
    assert!(begun.elapsed() > Duration::from_millis(4500), "{:?}", begun.elapsed());
    assert_eq!(it.why().as_deref(), Some("instance 1 not ready after 4s: it listens on no port"));
    it.until_gone();
}

#[test]
fn a_crash_leaves_no_place_and_the_next_wake_fills_one() {
    let it = Sandbox::new();
    done(&it.handle.deploy(it.order("v1", "serve", 0), "ana".into())).unwrap();
    it.answers("/die");
    until("it has failed", || it.play.scene().posts.iter().any(|p| p.standing == Standing::Failed));
    it.until_state(AppState::Asleep);
    assert_eq!(it.pids(), [0; 0]);
    it.wake();
    it.until_state(AppState::Live);
    assert_eq!(it.why().as_deref(), Some("instance 1 exited with code 9"));
}

#[test]
fn a_server_that_starts_wakes_nothing() {
    let mut it = Sandbox::asleep("serve");
    it.restart();
    it.until_state(AppState::Asleep);
    until("its routes are posted", || !it.play.scene().posts.is_empty());
    assert!(it.pids().is_empty() && matches!(it.posted().standing, Standing::OnDemand { .. }));
    it.wake();
    it.until_state(AppState::Live);
}

#[test]
fn the_number_changes_between_none_and_some_while_it_lives() {
    let it = Sandbox::new().sleeping(|it| it.order_for_a_look("v1", "serve"));
    done(&it.handle.scale(0, "bo".into())).unwrap();
    assert_eq!(it.status().state, AppState::Asleep, "nothing is started for nobody");
    done(&it.handle.scale(2, "bo".into())).unwrap();
    assert_eq!((it.answers("/").len(), it.posted().standing), (2, Standing::Awake));
    // Until the first was there, requests waited.
    let scene = it.play.scene();
    assert!(!scene.posts.iter().any(|p| p.endpoints.is_empty() && p.standing == Standing::Awake));
    drop(scene);
    done(&it.handle.scale(0, "bo".into())).unwrap();
    assert_eq!(it.answers("/").len(), 1, "one stays warm");
    it.until_state(AppState::Asleep);
    it.until_gone();
    it.wake();
    it.until_state(AppState::Live);
    done(&it.handle.deploy(it.order("v2", "serve", 2), "ana".into())).unwrap();
    assert_eq!(it.answers("/"), ["v2 production"; 2]);
    done(&it.handle.deploy(it.order_for_a_look("v3", "serve"), "ana".into())).unwrap();
    until("one runs", || it.pids().len() == 1);
    it.until_state(AppState::Asleep);
}

#[test]
fn a_scale_during_a_wake_keeps_what_is_starting_and_fills_what_fails() {
    let it = Sandbox::asleep("second exits");
    it.wake();
    until("the second has begun", || it.layout.app_data(&it.id).join("2").exists());
    done(&it.handle.scale(2, "bo".into())).unwrap();
    until("both serve", || it.answers("/").len() == 2);
    assert_eq!(it.posted().standing, Standing::Awake);
}

#[test]
fn a_deploy_during_a_wake_goes_on_and_serves_those_who_wait() {
    let it = Sandbox::asleep("second is silent");
    it.wake();
    it.until_state(AppState::Starting);
    done(&it.handle.deploy(it.order_for_a_look("v2", "serve"), "ana".into())).unwrap();
    assert_eq!(it.answers("/"), ["v2 production"]);
    until("the other is gone", || it.pids().len() == 1);
    it.until_state(AppState::Asleep);
}

#[test]
fn a_wake_during_a_deploy_has_the_live_release_whatever_becomes_of_the_new_one() {
    let it = Sandbox::new().sleeping(|it| it.order_for_a_look("v1", "serve"));
    let posts = it.play.scene().posts.len();
    let events = it.handle.deploy(it.order_on_demand("v2", "silent"), "ana".into());
    until("the new one runs", || it.pids().len() == 1);
    let fresh = it.pids()[0];
    it.wake();
    until("the live release serves", || it.answers("/") == ["v1 production"]);
    assert_eq!(it.status().state, AppState::Deploying);
    let live = it.posted().endpoints;
    kill(fresh, Signal::KILL);
    done(&events).unwrap_err();
    it.until_state(AppState::Asleep);
    // Whoever asked had this one instance from then on until it was idle.
    let served: Vec<_> = it.play.scene().posts[posts..].iter().map(|p| p.endpoints.clone()).collect();
    let served: Vec<_> = served.into_iter().skip_while(Vec::is_empty).take_while(|e| !e.is_empty()).collect();
    assert!(!served.is_empty() && served.iter().all(|endpoints| *endpoints == live), "{served:?}");
    assert!(it.posted().endpoints.is_empty());
    it.until_gone();
}

#[test]
fn a_failed_deploy_leaves_the_app_asleep_and_a_warm_one_must_start() {
    let it = Sandbox::asleep("serve");
    let e = done(&it.handle.deploy(it.order_on_demand("v2", "exit"), "ana".into())).unwrap_err();
    assert_eq!(e.kind(), Kind::Rejected);
    assert_eq!((it.status().state, it.status().version.unwrap().as_str()), (AppState::Asleep, "v1"));
}

#[test]
fn a_delete_during_a_wake_ends_what_is_starting() {
    let it = Sandbox::asleep("second is silent");
    it.wake();
    it.until_state(AppState::Starting);
    let pid = it.pids()[0];
    done(&it.handle.delete()).unwrap();
    assert!(!is_alive(pid));
    assert!(it.posted().routes.is_empty());
}
