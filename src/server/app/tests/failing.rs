//! Deploys that fail: everything is as it was, and secrets and records with it.

use super::*;

#[test]
fn keeps_the_old_instances_when_a_new_one_exits_at_once() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 2).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let mut order = it.order("v2", "exit", 2);
    order.manifest.limits.startup_timeout_s = NEVER_S;
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    assert_eq!(e.kind(), Kind::Rejected);
    assert_eq!(e.to_string(), "instance 1 of 2 exited with code 3 before it was ready");
    assert!(e.detail().contains(&"playing exit".into()), "{:?}", e.detail());
    assert!(e.next_step().unwrap().starts_with("v1 still serves"));
    it.assert_v1_stands(&before, &pids);
    assert!(it.log().contains(&"playing exit".into()));
}

#[test]
fn keeps_the_old_instances_when_the_new_one_never_gets_ready() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let mut order = it.order("v2", "silent", 1);
    order.manifest.limits.startup_timeout_s = SHORT_S;
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    let expected = "instance 1 of 1 not ready after 4s: it listens on no port";
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Rejected, expected));
    assert!(e.detail().contains(&"playing silent".into()), "{:?}", e.detail());
    it.assert_v1_stands(&before, &pids);
}

#[test]
fn keeps_the_old_instances_when_the_new_one_fails_its_probe() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let mut order = it.order("v2", "ill", 1);
    order.manifest.limits.startup_timeout_s = SHORT_S;
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Rejected, "instance 1 of 1 is up but /status answered 500"));
    it.assert_v1_stands(&before, &pids);
}

#[test]
fn keeps_the_old_instances_when_the_new_one_cannot_be_started() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let mut order = it.order("v2", "serve", 1);
    order.manifest.start = Some(vec!["/nowhere/program".into()]);
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    let expected = "instance 1 of 1 could not be started: there is no file `/nowhere/program` on the server";
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Rejected, expected));
    it.assert_v1_stands(&before, &pids);
}

/// The first two of three are in balancing when the third fails: all is put back.
#[test]
fn a_late_failure_puts_every_benched_instance_back() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 3).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let posts = it.play.scene().posts.len();
    let e = it.deploy("v2", "third exits", 3).unwrap_err();
    assert_eq!(e.to_string(), "instance 3 of 3 exited with code 3 before it was ready");
    it.assert_v1_stands(&before, &pids);
    // Two swaps and one restore, never fewer than three in balancing.
    let scene = it.play.scene();
    let old = |p: &Posting| p.endpoints.iter().filter(|e| before.endpoints.contains(e)).count();
    let told: Vec<_> = scene.posts[posts..].iter().map(|p| (p.endpoints.len(), old(p))).collect();
    assert_eq!(told, [(3, 2), (3, 1), (3, 3)]);
}

#[test]
fn a_new_instance_that_fails_after_its_swap_fails_the_deploy() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 2).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let events = it.handle.deploy(it.order("v2", "second is silent", 2), "ana".into());
    let second = Notice::Step { number: 2, of: 2, step: Step::Starting };
    while !matches!(events.recv_timeout(PATIENCE).unwrap(), Event::Notice(n) if n == second) {}
    let instances = it.status().instances;
    assert_eq!(instances.iter().filter(|i| i.state == "benched").count(), 1);
    let joined = instances.iter().find(|i| i.version.as_str() == "v2" && i.state == "healthy").unwrap();
    kill(joined.pid, Signal::KILL);
    let e = done(&events).unwrap_err();
    assert_eq!(
        e.to_string(),
        "instance 1 of 2 was ended by signal 9 (SIGKILL): it was killed from outside, not by Tako"
    );
    it.assert_v1_stands(&before, &pids);
}

#[test]
fn a_state_that_cannot_be_written_fails_the_deploy() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    it.play.scene().disk_full = true;
    let e = it.deploy("v2", "serve", 1).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Io, "the disk is full"));
    it.assert_v1_stands(&before, &pids);
    assert_eq!(it.play.scene().activated.last().unwrap().as_str(), "v1");
}

#[test]
fn a_first_deploy_that_fails_leaves_nothing() {
    let it = Sandbox::new();
    let e = it.deploy("v1", "exit", 1).unwrap_err();
    assert_eq!(e.kind(), Kind::Rejected);
    assert!(it.handle.is_empty());
    assert!(!it.release_dir("v1").exists() && !it.layout.state(&it.id).exists());
    assert!(it.play.scene().posts.is_empty());
    assert_eq!((it.status().state, it.play.scene().claims), (AppState::Idle, 0));
    it.deploy("v1", "serve", 1).unwrap();
}

#[test]
fn a_route_of_another_app_is_refused_before_anything_starts() {
    let it = Sandbox::new();
    it.play.scene().claimed = Some("v1.example.com".into());
    let (notices, result) = told(&it.handle.deploy(it.order("v1", "serve", 1), "ana".into()));
    assert_eq!((result.unwrap_err().kind(), notices), (Kind::Conflict, vec![]));
}

#[test]
fn a_release_that_is_not_there_is_refused() {
    let it = Sandbox::new();
    let order = it.order("v1", "serve", 1);
    fs::remove_file(it.layout.complete_marker(&it.id, &order.manifest.version)).unwrap();
    assert_eq!(done(&it.handle.deploy(order, "ana".into())).unwrap_err().kind(), Kind::NotFound);
    let mut order = it.order("v1", "serve", 1);
    order.manifest.health = Some("/x\r\nEvil: 1".into());
    assert_eq!(done(&it.handle.deploy(order, "ana".into())).unwrap_err().kind(), Kind::Config);
    let mut order = it.order("v1", "serve", 1);
    order.manifest.dir = "../../..".into();
    assert_eq!(done(&it.handle.deploy(order, "ana".into())).unwrap_err().kind(), Kind::Config);
}

#[test]
fn secrets_change_with_a_deploy_that_succeeds_and_only_then() {
    let it = Sandbox::new();
    let secrets = |value: &str| {
        Some(Secrets { hash: value.into(), values: [("KEY".into(), Zeroizing::new(value.into()))].into() })
    };
    done(&it.handle.deploy(Deploy { secrets: secrets("one"), ..it.order("v1", "serve", 1) }, "ana".into())).unwrap();
    done(&it.handle.deploy(Deploy { secrets: secrets("two"), ..it.order("v2", "exit", 1) }, "ana".into())).unwrap_err();
    assert_eq!(it.handle.secrets_hash().as_deref(), Some("one"));
    // The same release again with other secrets: new instances all the same. `None` keeps them.
    done(&it.handle.deploy(Deploy { secrets: secrets("two"), ..it.order("v1", "serve", 1) }, "ana".into())).unwrap();
    assert!(it.answers("/secrets")[0].contains(r#""KEY":"two""#));
    it.deploy("v2", "serve", 1).unwrap();
    assert!(it.answers("/secrets")[0].contains(r#""KEY":"two""#));
    assert_eq!(state::load(&it.layout, &it.id).unwrap().unwrap().secrets_hash.as_deref(), Some("two"));
}

#[test]
fn secrets_that_do_not_open_are_asked_for_again() {
    let mut it = Sandbox::new();
    let secrets = || Some(Secrets { hash: "h".into(), values: [("KEY".into(), Zeroizing::new("v".into()))].into() });
    done(&it.handle.deploy(Deploy { secrets: secrets(), ..it.order("v1", "serve", 1) }, "ana".into())).unwrap();
    it.key = Key::random().unwrap();
    it.restart();
    let status = it.status();
    assert_eq!((status.state, status.instances.len()), (AppState::Degraded, 0));
    assert!(status.last_failure.unwrap().what.contains("does not open"));
    assert_eq!(it.handle.secrets_hash(), None);
    assert_eq!(it.deploy("v2", "serve", 1).unwrap_err().kind(), Kind::Refused);
    done(&it.handle.deploy(Deploy { secrets: secrets(), ..it.order("v2", "serve", 1) }, "ana".into())).unwrap();
    assert_eq!(it.answers("/"), ["v2 production"]);
}

#[test]
fn a_release_of_the_history_that_fails_is_kept_and_marked() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    it.deploy("v2", "serve", 1).unwrap();
    it.deploy("v1", "exit", 1).unwrap_err();
    assert!(it.release_dir("v1").exists());
    assert!(it.handle.releases().unwrap().iter().any(|r| r.version.as_str() == "v1" && r.bad && !r.live));
    // Nor is the live one, deployed again with what does not work, thrown away or blamed.
    it.deploy("v2", "exit", 1).unwrap_err();
    assert!(it.handle.releases().unwrap().iter().any(|r| r.version.as_str() == "v2" && !r.bad && r.live));
    assert!(it.release_dir("v2").join(".complete").exists());
    assert_eq!(it.answers("/"), ["v2 production"]);
}

/// As after a `kill -9` between the secrets and the state: what the state does not name does not count.
#[test]
fn a_crash_in_the_middle_of_a_commit_leaves_the_old_release_with_its_secrets() {
    let mut it = Sandbox::new();
    let secrets = |value: &str| Secrets {
        hash: value.into(),
        values: [("KEY".into(), Zeroizing::new(value.to_string()))].into(),
    };
    done(&it.handle.deploy(Deploy { secrets: Some(secrets("one")), ..it.order("v1", "serve", 1) }, "ana".into()))
        .unwrap();
    it.handle.stop();
    let name = super::secrets::new_name().unwrap();
    super::secrets::save(&it.layout, &it.key, &it.id, &name, &secrets("two")).unwrap();
    it.restart();
    until("it serves again", || it.status().state == AppState::Live);
    assert!(it.answers("/secrets")[0].contains(r#""KEY":"one""#));
    assert_eq!(it.handle.secrets_hash().as_deref(), Some("one"));
    assert!(!it.layout.secrets(&it.id, &name).exists());
    // `current` is made to follow the state.
    assert_eq!(it.play.scene().activated.iter().map(Version::as_str).collect::<Vec<_>>(), ["v1"]);
}

/// A state that names secrets never runs without them.
#[test]
fn secrets_that_are_missing_are_not_done_without() {
    let mut it = Sandbox::new();
    let secrets = Secrets { hash: "h".into(), values: [("KEY".into(), Zeroizing::new("v".into()))].into() };
    done(&it.handle.deploy(Deploy { secrets: Some(secrets), ..it.order("v1", "serve", 1) }, "ana".into())).unwrap();
    it.handle.stop();
    super::secrets::keep_only(&it.layout, &it.id, None).unwrap();
    it.restart();
    let status = it.status();
    assert_eq!((status.state, status.instances.len()), (AppState::Degraded, 0));
    assert!(status.last_failure.unwrap().what.contains("is missing"));
}
