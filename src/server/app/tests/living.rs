//! Instances between deploys: ready, ill, crashed, left over, stopped.

use super::*;

#[test]
fn stop_ends_all_and_the_next_server_starts_what_was_live() {
    let mut it = Sandbox::new();
    let secrets = Secrets { hash: "h1".into(), values: [("KEY".into(), Zeroizing::new("abc".into()))].into() };
    let order = Deploy { secrets: Some(secrets), ..it.order("v1", "serve", 2) };
    done(&it.handle.deploy(order, "ana".into())).unwrap();
    let old = it.pids();
    it.restart();
    assert!(old.iter().all(|pid| !is_alive(*pid)));
    until("both serve again", || it.status().state == AppState::Live);
    assert_eq!(it.answers("/"), ["v1 production", "v1 production"]);
    // The secrets came from the sealed file.
    assert!(it.answers("/secrets")[0].contains(r#""secrets":{"KEY":"abc"}"#));
    assert_eq!(it.handle.secrets_hash().as_deref(), Some("h1"));
}

#[test]
fn a_crash_is_told_and_the_instance_starts_again() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let old = it.pids()[0];
    it.answers("/die");
    until("it serves again", || it.pids().iter().any(|pid| *pid != old) && it.status().state == AppState::Live);
    assert_eq!(it.answers("/"), ["v1 production"]);
    assert_eq!(it.why().as_deref(), Some("instance 1 exited with code 9"));
    // It was out of balancing in between.
    assert!(it.play.scene().posts.iter().any(|p| p.endpoints.is_empty() && !p.routes.is_empty()));
    assert!(it.log().contains(&"tako: instance 1 exited with code 9".into()));
}

#[test]
fn an_instance_that_ends_again_and_again_is_crash_looping() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let begin = Instant::now();
    for _ in 0..3 {
        until("it serves", || !it.posted().endpoints.is_empty());
        let posts = it.play.scene().posts.len();
        it.answers("/die");
        it.until_out_since(posts);
    }
    until("it is known to loop", || it.status().state == AppState::CrashLooping);
    until("it serves", || !it.posted().endpoints.is_empty());
    // 0.1, 0.2 and 0.4 seconds were waited.
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
    // A deploy replaces it.
    it.deploy("v2", "serve", 1).unwrap();
    assert_eq!(it.status().state, AppState::Live);
}

#[test]
fn an_ill_instance_is_taken_out_then_replaced() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let old = it.pids()[0];
    it.answers("/ill");
    until("it is out", || it.posted().endpoints.is_empty());
    assert_eq!(it.status().instances[0].state, "unhealthy");
    until("another one serves", || !it.posted().endpoints.is_empty());
    assert!(!is_alive(old));
    let why = "instance 1 was killed because /status answered 500 5 times";
    assert_eq!(it.why().as_deref(), Some(why));
}

#[test]
fn what_a_killed_server_left_running_is_ended_before_anything_starts() {
    let mut it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let note = fs::read(it.layout.run(&it.id).join("1.json")).unwrap();
    it.handle.stop();
    assert_eq!(fs::read_dir(it.layout.run(&it.id)).unwrap().count(), 0);

    // A process that nobody watches, with a note about it, as after `kill -9` of the server.
    let mut left = sys::spawn(&sys::Spawn::plain(&sys::shell("echo up; exec sleep 600"))).unwrap();
    left.stdout.read_exact(&mut [0; 3]).unwrap();
    leftover::Note::of(left.child.id()).write(&it.layout, &it.id, 1).unwrap();
    // The note of the one that ended in order is about nobody.
    fs::write(it.layout.run(&it.id).join("2.json"), note).unwrap();
    it.restart();
    until("it serves", || it.status().state == AppState::Live);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(left.child.wait().unwrap().signal(), Some(15));
    // Of the new one.
    let mut notes: Vec<_> = fs::read_dir(it.layout.run(&it.id)).unwrap().flatten().map(|e| e.file_name()).collect();
    notes.sort();
    assert_eq!(notes, ["2.born", "2.json"]);
}

/// Two actors on one folder stand for two servers; the first one hears nothing of the second.
#[test]
fn an_adopted_instance_gets_its_first_request_after_its_first_good_answer() {
    let it = Sandbox::new();
    let secrets = Secrets { hash: "h1".into(), values: [("KEY".into(), Zeroizing::new("abc".into()))].into() };
    let order = Deploy { secrets: Some(secrets), ..it.order("v1", "serve", 2) };
    done(&it.handle.deploy(order, "ana".into())).unwrap();
    let (pids, endpoints) = (it.pids(), it.posted().endpoints);

    let play = Play::default();
    let next = begin(&play, &it.id, &it.layout, &it.key);
    until("it serves", || next.status().unwrap().state == AppState::Live);
    let status = next.status().unwrap();
    assert_eq!(status.instances.iter().map(|i| i.pid).collect::<Vec<_>>(), pids);
    assert!(status.last_failure.is_none());
    let posts = std::mem::take(&mut play.scene().posts);
    // Until the first has answered, requests wait.
    assert!(posts[0].endpoints.is_empty() && matches!(posts[0].standing, Standing::OnDemand { .. }), "{posts:?}");
    let last = posts.last().unwrap();
    assert_eq!(last.standing, Standing::Awake);
    let addrs = |endpoints: &[Endpoint]| endpoints.iter().map(|e| e.addr).collect::<Vec<_>>();
    assert_eq!(addrs(&last.endpoints), addrs(&endpoints));
    next.stop();
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "and they are ended like any other");
}

#[test]
fn a_program_without_a_ready_signal_is_ready_when_it_listens() {
    let it = Sandbox::new();
    let exe = env::current_exe().unwrap().to_str().unwrap().to_owned();
    let argv = [exe.as_str(), "--exact", "server::app::tests::plays_the_app", "--nocapture"];
    let mut order = it.order("v1", "slow", 1);
    order.manifest.start = Some(argv.map(String::from).to_vec());
    let deployed = done(&it.handle.deploy(order, "ana".into())).unwrap();
    assert!(deployed.swaps[0].boot_us >= 300_000, "{deployed:?}");
    assert_eq!(it.answers("/"), ["v1 production"]);

    // With a health path it must answer well.
    let mut order = it.order("v2", "ill", 1);
    order.manifest.start = Some(argv.map(String::from).to_vec());
    order.manifest.health = Some("/status".into());
    order.manifest.limits.startup_timeout_s = SHORT_S;
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    assert_eq!(e.to_string(), "instance 1 of 1 not ready after 4s: /status answered 500");
    assert_eq!(it.answers("/"), ["v1 production"]);
}

#[test]
fn the_port_of_another_program_is_not_taken_for_ready() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    // One that would answer well to every question.
    let theirs = before.endpoints[0].addr.port();
    let mut order = it.order("v2", "thief", 1);
    order.manifest.vars.insert("THEIRS".into(), theirs.to_string());
    order.manifest.health = Some("/".into());
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    let expected = format!("instance 1 of 1 says that it listens on port {theirs}, which is another program's");
    assert!(e.to_string().starts_with(&expected), "{e}");
    it.assert_v1_stands(&before, &pids);
}

#[test]
fn a_ready_line_of_one_that_serves_moves_no_traffic() {
    let it = Sandbox::new();
    let exe = env::current_exe().unwrap().to_str().unwrap().to_owned();
    let mut order = it.order("v1", "serve", 1);
    order.manifest.start =
        Some([exe.as_str(), "--exact", "server::app::tests::plays_the_app", "--nocapture"].map(String::from).to_vec());
    done(&it.handle.deploy(order, "ana".into())).unwrap();
    let before = it.posted();
    it.answers("/move");
    until("it was heard", || it.log().contains(&"moved".into()));
    // The status is asked of the actor after it heard what is in the log.
    assert_eq!(it.status().instances[0].port, before.endpoints[0].addr.port());
    assert_eq!(it.posted(), before);
}

/// Kills the n-th child that was told of; it is in a group of its own.
fn end_child(it: &Sandbox, n: usize) {
    let children = || it.log().iter().filter_map(|l| l.strip_prefix("child ")?.parse().ok()).collect::<Vec<u32>>();
    until("it told of its child", || children().len() == n);
    let child = Pid::from_raw(children()[n - 1] as i32).unwrap();
    rustix::process::kill_process(child, Signal::KILL).unwrap();
}

#[test]
fn a_port_that_another_program_took_is_not_taken_for_ready() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let exe = env::current_exe().unwrap().to_str().unwrap().to_owned();
    let argv = [exe.as_str(), "--exact", "server::app::tests::plays_the_app", "--nocapture"];
    let mut order = it.order("v2", "lends", 1);
    order.manifest.start = Some(argv.map(String::from).to_vec());
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    end_child(&it, 1);
    let expected = "instance 1 of 1 does not listen on its port, and another program does";
    assert!(e.to_string().starts_with(expected), "{e}");
    it.assert_v1_stands(&before, &pids);

    // A child in a group of its own is no other program.
    let mut order = it.order("v3", "sends", 1);
    order.manifest.start = Some(argv.map(String::from).to_vec());
    done(&it.handle.deploy(order, "ana".into())).unwrap();
    assert_eq!(it.answers("/"), ["v3 production"]);
    end_child(&it, 2);
}
