//! Every verb in every situation that an app can be in: what it answers, and that all is of one piece afterwards.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Situation {
    /// Nothing was ever deployed.
    New,
    /// Two instances serve; an earlier release is there.
    Live,
    /// Its one instance ends at once, again and again, and waits for its next start.
    BackingOff,
    /// A new release is starting and is not ready.
    Rolling,
    /// The new release is committed; what it replaced is still busy.
    Draining,
    Asleep,
    /// A request waits for an instance that is starting.
    Waking,
    /// The last start for a request failed a moment ago.
    Failed,
    /// It was deleted, and something is still in flight.
    Deleting,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verb {
    Deploy,
    DeployBroken,
    Rollback,
    ScaleUp,
    ScaleToNone,
    Delete,
}

use Situation::*;
use Verb::*;

const VERBS: [Verb; 6] = [Deploy, DeployBroken, Rollback, ScaleUp, ScaleToNone, Delete];

/// What each of [`VERBS`] comes to: the release that is live then, or why nothing was changed.
fn expected(situation: Situation) -> [std::result::Result<&'static str, Kind>; 6] {
    use Kind::{Busy, NotFound, Rejected};
    match situation {
        New => [Ok("v3"), Err(Rejected), Err(NotFound), Err(NotFound), Err(NotFound), Err(NotFound)],
        Live | Draining | Asleep => [Ok("v3"), Err(Rejected), Ok("v1"), Ok("v2"), Ok("v2"), Ok("gone")],
        // More of what ends at once is refused, none of it is fine.
        BackingOff => [Ok("v3"), Err(Rejected), Ok("v1"), Err(Rejected), Ok("v2"), Ok("gone")],
        Waking | Failed => [Ok("v3"), Err(Rejected), Ok("v1"), Ok("v2"), Ok("v2"), Ok("gone")],
        Rolling => [Err(Busy), Err(Busy), Err(Busy), Err(Busy), Err(Busy), Ok("gone")],
        Deleting => [Err(Busy); 6],
    }
}

/// The receiver is of what goes on meanwhile.
fn bring_about(situation: Situation) -> (Sandbox, Option<Receiver<Event>>) {
    let it = Sandbox::new();
    if situation == New {
        return (it, None);
    }
    // So long a deletion waits for what never ends.
    let drain = if situation == Draining { SHORT_S } else { 20 };
    let mut first = it.order("v1", "serve", 1);
    first.manifest.limits.drain_timeout_s = drain;
    done(&it.handle.deploy(first, "ana".into())).unwrap();
    let live = |part: &str, instances: u32| {
        let mut order = it.order("v2", part, instances);
        order.manifest.limits.idle_timeout_s = 1;
        order.manifest.limits.drain_timeout_s = drain;
        done(&it.handle.deploy(order, "ana".into())).unwrap();
    };
    let asleep = |part: &str| {
        live(part, 0);
        until("it sleeps", || it.status().state == AppState::Asleep && it.pids().is_empty());
    };
    let wake = || it.play.tell(proxy::Notice::Wake("shop".into()));
    let mut meanwhile = None;
    match situation {
        New => {}
        Live => live("serve", 2),
        BackingOff => {
            live("once", 1);
            it.answers("/die");
            until("it is known to loop", || it.status().state == AppState::CrashLooping);
        }
        Rolling => {
            live("serve", 2);
            meanwhile = Some(it.handle.deploy(it.order("v9", "silent", 1), "ana".into()));
            until("the new one runs", || it.pids().len() == 3);
        }
        Draining => {
            it.play.scene().hold = true;
            live("serve", 2);
            until("the old one drains", || it.status().instances.iter().any(|i| i.state == "draining"));
        }
        Asleep => asleep("serve"),
        Waking => {
            asleep("second is silent");
            wake();
            until("it is starting", || it.layout.app_data(&it.id).join("2").exists());
        }
        Failed => {
            asleep("second exits");
            wake();
            until("it has failed", || it.play.scene().posts.iter().any(|p| p.standing == Standing::Failed));
        }
        Deleting => {
            live("serve", 2);
            it.play.scene().hold = true;
            meanwhile = Some(it.handle.delete());
            until("it drains", || it.status().instances.iter().all(|i| i.state == "draining"));
        }
    }
    (it, meanwhile)
}

fn act(it: &Sandbox, verb: Verb) -> Result<Deployed> {
    done(&match verb {
        Deploy => it.handle.deploy(it.order("v3", "serve", 2), "bo".into()),
        DeployBroken => it.handle.deploy(it.order("v3", "exit", 2), "bo".into()),
        Rollback => it.handle.rollback(None, "bo".into()),
        ScaleUp => it.handle.scale(3, "bo".into()),
        ScaleToNone => it.handle.scale(0, "bo".into()),
        Delete => it.handle.delete(),
    })
}

impl Sandbox {
    /// What is told, posted, on disk and running says the same.
    fn assert_of_one_piece(&self, what: &str) {
        let desired = state::load(&self.layout, &self.id).unwrap();
        let status = self.status();
        assert_eq!(status.version, desired.as_ref().map(|d| d.live.clone()), "{what}: told and written");
        assert_eq!(status.wanted, desired.as_ref().map_or(0, |d| d.instances), "{what}: told and written");
        assert_eq!(self.play.scene().claims, 0, "{what}: routes are claimed by nobody");
        let Some(desired) = desired else { return };
        assert_eq!(self.play.scene().activated.last(), Some(&desired.live), "{what}: `current`");
        assert_eq!(self.posted().routes, desired.live().unwrap().routes, "{what}: routes");
        for answer in self.answers("/") {
            assert!(answer.starts_with(desired.live.as_str()), "{what}: {answer} of {}", desired.live);
        }
        // What is in balancing of another release would have answered; what is not, ends.
        let is_live = |i: &crate::proto::status::InstanceStatus| i.version == desired.live;
        let strangers = || self.status().instances.iter().filter(|i| !is_live(i) && i.state != "draining").count();
        until(&format!("{what}: nothing else starts or serves"), || strangers() == 0);
    }
}

fn check(situation: Situation) {
    for (verb, expected) in VERBS.into_iter().zip(expected(situation)) {
        let what = format!("{verb:?} while {situation:?}");
        let (it, meanwhile) = bring_about(situation);
        let before = it.status();
        let result = act(&it, verb);
        match (&result, expected) {
            (Ok(deployed), Ok("gone")) => {
                assert!(deployed.instances == 0, "{what}");
                until(&format!("{what}: nothing runs"), || before.instances.iter().all(|i| !is_alive(i.pid)));
                assert_eq!(it.handle.status().unwrap_err().kind(), Kind::NotFound, "{what}");
                if let Some(events) = meanwhile {
                    assert_eq!(done(&events).unwrap_err().kind(), Kind::Conflict, "{what}: the rollout hears of it");
                }
                continue;
            }
            (Ok(deployed), Ok(version)) => assert_eq!(deployed.version.as_str(), version, "{what}"),
            (Err(e), Err(kind)) => assert_eq!(e.kind(), kind, "{what}: {e}"),
            _ => panic!("{what}: {result:?} instead of {expected:?}"),
        }
        if situation == Deleting || it.handle.status().is_err() {
            continue; // there is nothing whole to look at until it is over
        }
        if situation == Rolling {
            assert_eq!(it.status().state, AppState::Deploying, "{what}: the rollout goes on");
            it.handle.stop();
            assert_eq!(done(&meanwhile.unwrap()).unwrap_err().kind(), Kind::Conflict, "{what}");
            continue;
        }
        it.assert_of_one_piece(&what);
        if result.is_err() {
            assert_eq!((it.status().version, it.status().wanted), (before.version, before.wanted), "{what}");
        }
        // And whatever became of it, the next deploy works.
        it.deploy("v4", "serve", 1).unwrap();
        assert_eq!(it.answers("/"), ["v4 production"], "{what}");
    }
}

#[test]
fn every_verb_before_the_first_deploy() {
    check(New);
}

#[test]
fn every_verb_while_it_serves() {
    check(Live);
}

#[test]
fn every_verb_while_it_backs_off() {
    check(BackingOff);
}

#[test]
fn every_verb_while_it_is_being_deployed() {
    check(Rolling);
}

#[test]
fn every_verb_while_the_old_release_drains() {
    check(Draining);
}

#[test]
fn every_verb_while_it_sleeps() {
    check(Asleep);
}

#[test]
fn every_verb_while_it_wakes() {
    check(Waking);
}

#[test]
fn every_verb_while_its_start_has_failed() {
    check(Failed);
}

#[test]
fn every_verb_while_it_is_being_deleted() {
    check(Deleting);
}

/// One of three is down and waits for its start: a rollout takes that one's place first, and what was there to serve
/// never gets less.
#[test]
fn capacity_never_drops_below_what_was_healthy() {
    let it = Sandbox::new();
    it.deploy("v1", "later starts exit", 3).unwrap();
    get(it.posted().endpoints[1].addr, "/die");
    until("it is known to loop", || it.status().state == AppState::CrashLooping);
    assert_eq!(it.posted().endpoints.len(), 2);
    let posts = it.play.scene().posts.len();
    it.deploy("v2", "serve", 3).unwrap();
    let served: Vec<usize> = it.play.scene().posts[posts..].iter().map(|p| p.endpoints.len()).collect();
    assert!(served.iter().all(|n| *n >= 2) && served.last() == Some(&3), "{served:?}");
}

/// One that is benched for the rollout dies, and the rollout fails: it is started again like any other.
#[test]
fn an_old_one_that_dies_during_a_rollout_that_fails_comes_back() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 2).unwrap();
    let before = it.status();
    let mut order = it.order("v2", "second is silent", 2);
    order.manifest.limits.startup_timeout_s = SHORT_S;
    let events = it.handle.deploy(order, "ana".into());
    let benched = || it.status().instances.iter().find(|i| i.state == "benched").map(|i| i.pid);
    until("one is benched", || benched().is_some());
    let pid = benched().unwrap();
    kill(pid, Signal::KILL);
    assert_eq!(done(&events).unwrap_err().kind(), Kind::Rejected);
    until("both serve again", || it.answers("/") == ["v1 production"; 2]);
    assert!(before.instances.iter().any(|i| i.pid == pid) && !it.pids().contains(&pid));
    it.assert_of_one_piece("after all");
}

/// As a long collection of garbage, or a loop that forgot to yield: one probe may miss it, and that is no churn.
#[test]
fn a_pause_of_two_seconds_changes_nothing() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (pids, addr) = (it.pids(), it.posted().endpoints[0].addr);
    let posts = it.play.scene().posts.len();
    let probes = || get(addr, "/probes").parse::<u32>().unwrap();
    until("it was probed", || probes() > 0);
    for _ in 0..2 {
        get(addr, "/pause");
        let seen = probes();
        until("it is probed again", || probes() > seen + 1);
    }
    assert_eq!((it.pids(), it.play.scene().posts.len()), (pids, posts));
    assert_eq!(it.status().instances[0].state, "healthy");
    assert_eq!(it.status().last_failure, None);
}
