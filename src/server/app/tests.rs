//! The actor with real processes on a stage without proxy: posts are acked at once, and an endpoint that was taken out
//! is drained at once unless the test holds it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use zeroize::Zeroizing;

use super::*;
use crate::disk;
use crate::proto::control::{AppState, Secrets, Step};
use crate::proto::manifest::{Limits, Manifest, Runtime};
use crate::proto::route::Route;
use crate::proxy;
use crate::proxy::table::{Endpoint, EndpointId};
use crate::server::board::Posting;
use crate::server::runtime::Launch;
use crate::server::state;
use crate::sys;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// No test by itself: the program that the tests below deploy, which is this one started again.
#[test]
#[allow(clippy::print_stdout, clippy::print_stderr)] // It is a program of its own there.
fn plays_the_app() {
    let Ok(part) = env::var("PLAY") else { return };
    // The test harness has begun a line.
    println!();
    eprintln!("playing {part}");
    match part.as_str() {
        "silent" => std::thread::sleep(Duration::from_secs(600)),
        "exit" => std::process::exit(3),
        "third exits" if nth_start() == 3 => std::process::exit(3),
        "second is silent" if nth_start() == 2 => std::thread::sleep(Duration::from_secs(600)),
        part => serve(part),
    }
}

/// How often the app was started, this time included.
fn nth_start() -> usize {
    let dir = PathBuf::from(env::var("TAKO_DATA_DIR").unwrap());
    (1..).find(|n| fs::File::create_new(dir.join(n.to_string())).is_ok()).unwrap()
}

#[allow(clippy::print_stdout)]
fn serve(part: &str) {
    let port = env::var("PORT").unwrap();
    if part == "slow" {
        std::thread::sleep(Duration::from_millis(300));
    }
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let mut secrets = String::new();
    fs::File::open("/proc/self/fd/3").unwrap().read_to_string(&mut secrets).unwrap();
    let token = secrets.split('"').nth(3).unwrap().to_owned();
    if part == "thief" {
        println!("TAKO:READY:{}", env::var("THEIRS").unwrap());
    } else if port == "0" {
        println!("TAKO:READY:{}", listener.local_addr().unwrap().port());
    }
    let mut ill = part == "ill";
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { continue };
        let head: Vec<String> = lines.take_while(|l| !l.is_empty()).collect();
        let asked = head.contains(&"Host: tako.internal".into());
        let answer = match request.split(' ').nth(1).unwrap() {
            "/status" if ill => "HTTP/1.1 500 Ill\r\n\r\n".into(),
            "/status" if asked && !head.contains(&format!("X-Tako-Internal-Token: {token}")) => {
                "HTTP/1.1 403 Who\r\n\r\n".into()
            }
            "/die" => std::process::exit(9),
            "/move" => {
                println!("TAKO:READY:1");
                println!("moved");
                "HTTP/1.1 200 OK\r\n\r\n".into()
            }
            "/ill" => {
                ill = true;
                "HTTP/1.1 200 OK\r\n\r\n".into()
            }
            "/secrets" => format!("HTTP/1.1 200 OK\r\n\r\n{secrets}"),
            _ => format!("HTTP/1.1 200 OK\r\n\r\n{} {}", env::var("TAKO_BUILD").unwrap(), env::var("ENV").unwrap()),
        };
        let _ = stream.write_all(answer.as_bytes());
    }
}

#[derive(Clone, Default)]
struct Play(Arc<Mutex<Scene>>);

#[derive(Default)]
struct Scene {
    posts: Vec<Posting>,
    to: Option<Sender<proxy::Notice>>,
    /// Endpoints stay busy when they are taken out.
    hold: bool,
    held: BTreeSet<EndpointId>,
    claimed: Option<String>,
    claims: usize,
    activated: Vec<Version>,
    disk_full: bool,
}

struct Claimed(Play);

impl Drop for Claimed {
    fn drop(&mut self) {
        self.0.scene().claims -= 1;
    }
}

impl Play {
    fn scene(&self) -> std::sync::MutexGuard<'_, Scene> {
        self.0.lock().unwrap()
    }

    fn tell(&self, notice: proxy::Notice) {
        if let Some(to) = &self.scene().to {
            to.try_send(notice).unwrap();
        }
    }

    fn taken_out(&self, endpoints: Vec<Endpoint>) {
        for endpoint in endpoints {
            let mut scene = self.scene();
            if scene.hold {
                scene.held.insert(endpoint.id);
            } else {
                drop(scene);
                self.tell(proxy::Notice::Drained(endpoint.id));
            }
        }
    }
}

impl Stage for Play {
    type Claim = Claimed;

    fn claim(&self, _app: &AppId, routes: &[Route]) -> Result<Claimed> {
        let mut scene = self.scene();
        if let Some(route) = routes.iter().find(|r| scene.claimed.as_deref() == Some(r.host())) {
            return Err(Error::new(Kind::Conflict, format!("{route} belongs to other")));
        }
        scene.claims += 1;
        drop(scene);
        Ok(Claimed(self.clone()))
    }

    fn post(&self, _app: &AppId, posting: Posting) -> u64 {
        let mut scene = self.scene();
        let before = scene.posts.last().map_or(Vec::new(), |p| p.endpoints.clone());
        let gone = before.into_iter().filter(|e| !posting.endpoints.contains(e)).collect();
        scene.posts.push(posting);
        let generation = scene.posts.len() as u64;
        drop(scene);
        self.tell(proxy::Notice::Acked(generation));
        self.taken_out(gone);
        generation
    }

    fn remove(&self, app: &AppId) -> u64 {
        // As the Board does: who is removed hears nothing any more.
        self.scene().to = None;
        self.post(app, Posting { routes: vec![], endpoints: vec![], body_limit: 0 })
    }

    fn subscribe(&self, _app: &AppId, to: Sender<proxy::Notice>) {
        self.scene().to = Some(to);
    }

    fn launch(&self, _layout: &Layout, manifest: &Manifest) -> Result<Launch> {
        let argv = match &manifest.start {
            Some(start) => start.iter().map(Into::into).collect(),
            None => vec![
                env::current_exe().unwrap().into_os_string(),
                "--exact".into(),
                "server::app::tests::plays_the_app".into(),
                "--nocapture".into(),
            ],
        };
        Ok(Launch { argv, path: vec![] })
    }

    fn is_complete(&self, layout: &Layout, app: &AppId, version: &Version) -> bool {
        layout.complete_marker(app, version).exists()
    }

    fn describe(&self, _layout: &Layout, _manifest: &Manifest) -> Result<()> {
        Ok(())
    }

    fn activate(&self, _layout: &Layout, manifest: &Manifest) -> Result<()> {
        let mut scene = self.scene();
        if scene.activated.last() != Some(&manifest.version) {
            scene.activated.push(manifest.version.clone());
        }
        match scene.disk_full {
            true => Err(Error::new(Kind::Io, "the disk is full")),
            false => Ok(()),
        }
    }

    fn discard(&self, layout: &Layout, app: &AppId, version: &Version) -> Result<()> {
        disk::remove_tree(&layout.release(app, version))
    }

    fn prune(&self, _layout: &Layout, desired: &mut Desired, running: &[Version], _now_ms: u64) {
        assert!(running.contains(&desired.live));
    }
}

struct Sandbox {
    play: Play,
    layout: Arc<Layout>,
    key: Key,
    id: AppId,
    handle: Handle,
    _dir: tempfile::TempDir,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Also when a test fails: no process outlives it.
        self.play.scene().hold = false;
        self.handle.stop();
    }
}

impl Sandbox {
    fn new() -> Sandbox {
        let dir = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(dir.path().into()));
        let (play, key, id) = (Play::default(), Key::random().unwrap(), AppId::parse("shop").unwrap());
        disk::make_dirs(&layout.app(&id), 0o700).unwrap();
        let handle = begin(&play, &id, &layout, &key);
        Sandbox { play, layout, key, id, handle, _dir: dir }
    }

    /// As a server that starts on the same data.
    fn restart(&mut self) {
        self.handle.stop();
        self.play = Play::default();
        self.handle = begin(&self.play, &self.id, &self.layout, &self.key);
    }

    fn manifest(&self, version: &str, part: &str) -> Manifest {
        let version = Version::parse(version).unwrap();
        let release = self.layout.release(&self.id, &version);
        disk::make_dirs(&release, 0o700).unwrap();
        fs::write(self.layout.complete_marker(&self.id, &version), "").unwrap();
        Manifest {
            app: self.id.clone(),
            version,
            runtime: Runtime::Node,
            runtime_version: None,
            dir: String::new(),
            main: "index.js".into(),
            start: None,
            install: None,
            health: None,
            vars: [("PLAY".to_string(), part.to_string())].into(),
            limits: Limits { startup_timeout_s: 20, drain_timeout_s: 20, ..Limits::default() },
            commit_message: None,
            git_dirty: false,
        }
    }

    fn order(&self, version: &str, part: &str, instances: u32) -> Deploy {
        let routes = vec![Route::parse(&format!("{version}.example.com")).unwrap()];
        Deploy { manifest: self.manifest(version, part), routes, instances, secrets: None }
    }

    fn deploy(&self, version: &str, part: &str, instances: u32) -> Result<Deployed> {
        done(&self.handle.deploy(self.order(version, part, instances), "ana".into()))
    }

    fn posted(&self) -> Posting {
        self.play.scene().posts.last().unwrap().clone()
    }

    /// What each endpoint in balancing answers.
    fn answers(&self, path: &str) -> Vec<String> {
        self.posted().endpoints.iter().map(|e| get(e.addr, path)).collect()
    }

    fn status(&self) -> AppStatus {
        self.handle.status().unwrap()
    }

    fn pids(&self) -> Vec<u32> {
        self.status().instances.iter().map(|i| i.pid).collect()
    }

    fn release_dir(&self, version: &str) -> PathBuf {
        self.layout.release(&self.id, &Version::parse(version).unwrap())
    }

    fn log(&self) -> Vec<String> {
        self.handle.logs(1000, false).iter().flatten().map(|l| l.text).collect()
    }

    /// What stands after a deploy of v2 over v1 failed.
    fn assert_v1_stands(&self, before: &Posting, pids: &[u32]) {
        assert_eq!(&self.posted(), before);
        let status = self.status();
        assert_eq!(status.version.as_ref().map(Version::as_str), Some("v1"));
        assert_eq!(status.state, AppState::Live);
        until("only the old ones run", || self.pids() == pids);
        assert!(self.answers("/").iter().all(|a| a.starts_with("v1")));
        until("the release is removed", || !self.release_dir("v2").exists());
        let desired = state::load(&self.layout, &self.id).unwrap().unwrap();
        assert_eq!((desired.live.as_str(), desired.releases.len()), ("v1", 1));
        assert_eq!(self.play.scene().claims, 0);
    }
}

fn begin(play: &Play, id: &AppId, layout: &Arc<Layout>, key: &Key) -> Handle {
    let desired = state::load(layout, id).unwrap();
    start_on(play.clone(), id.clone(), desired, layout.clone(), key.clone(), Threads::start().unwrap()).unwrap()
}

fn done(events: &Receiver<Event>) -> Result<Deployed> {
    told(events).1
}

fn told(events: &Receiver<Event>) -> (Vec<Notice>, Result<Deployed>) {
    let mut notices = Vec::new();
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Notice(notice) => notices.push(notice),
            Event::Done(result) => return (notices, result),
        }
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.into())
}

fn is_alive(pid: u32) -> bool {
    rustix::process::test_kill_process(Pid::from_raw(pid as i32).unwrap()).is_ok()
}

fn kill(pid: u32, signal: Signal) {
    sys::kill_group(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

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
fn keeps_the_old_instances_when_a_new_one_exits_at_once() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 2).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let begin = Instant::now();
    let e = it.deploy("v2", "exit", 2).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
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
    order.manifest.limits.startup_timeout_s = 1;
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Rejected, "instance 1 of 1 not ready after 1s"));
    assert!(e.detail().contains(&"playing silent".into()), "{:?}", e.detail());
    it.assert_v1_stands(&before, &pids);
}

#[test]
fn keeps_the_old_instances_when_the_new_one_fails_its_probe() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let (before, pids) = (it.posted(), it.pids());
    let mut order = it.order("v2", "ill", 1);
    order.manifest.limits.startup_timeout_s = 1;
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
    let expected = "instance 1 of 1 could not be started: start `/nowhere/program`: no such file or directory";
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
    assert_eq!(e.to_string(), "instance 1 of 2 was ended by signal 9 (SIGKILL, as when memory runs out)");
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
    assert!(status.last_failure.unwrap().contains("does not open"));
    assert_eq!(it.handle.secrets_hash(), None);
    assert_eq!(it.deploy("v2", "serve", 1).unwrap_err().kind(), Kind::Refused);
    done(&it.handle.deploy(Deploy { secrets: secrets(), ..it.order("v2", "serve", 1) }, "ana".into())).unwrap();
    assert_eq!(it.answers("/"), ["v2 production"]);
}

#[test]
fn a_crash_is_told_and_the_instance_starts_again() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let old = it.pids()[0];
    it.answers("/die");
    until("it serves again", || it.pids().iter().any(|pid| *pid != old) && it.status().state == AppState::Live);
    assert_eq!(it.answers("/"), ["v1 production"]);
    assert_eq!(it.status().last_failure.as_deref(), Some("instance 1 exited with code 9"));
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
        it.answers("/die");
        until("it is out", || it.posted().endpoints.is_empty());
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
    assert_eq!(it.status().last_failure.as_deref(), Some(why));
}

#[test]
fn what_a_killed_server_left_running_is_ended_before_anything_starts() {
    let mut it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let note = fs::read(it.layout.run(&it.id).join("1.json")).unwrap();
    it.handle.stop();
    assert_eq!(fs::read_dir(it.layout.run(&it.id)).unwrap().count(), 0);

    // A process that nobody watches, with a note about it, as after `kill -9` of the server.
    let argv = ["/bin/sh", "-c", "echo up; exec sleep 600"].map(Into::into);
    let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    let mut left = sys::spawn(&sys::Spawn { argv: &argv, dir: "/".into(), env, bootstrap: None }).unwrap();
    left.stdout.read_exact(&mut [0; 3]).unwrap();
    leftover::Note::of(left.child.id(), "t", 0).write(&it.layout, &it.id, 1).unwrap();
    // The note of the one that ended in order is about nobody.
    fs::write(it.layout.run(&it.id).join("2.json"), note).unwrap();
    it.restart();
    until("it serves", || it.status().state == AppState::Live);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(left.child.wait().unwrap().signal(), Some(15));
    assert_eq!(fs::read_dir(it.layout.run(&it.id)).unwrap().count(), 1);
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
    order.manifest.limits.startup_timeout_s = 1;
    let e = done(&it.handle.deploy(order, "ana".into())).unwrap_err();
    assert_eq!(e.to_string(), "instance 1 of 1 not ready after 1s: /status answered 500");
    assert_eq!(it.answers("/"), ["v1 production"]);
}

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

#[test]
fn scaling_starts_and_stops_without_touching_the_others() {
    let it = Sandbox::new();
    assert_eq!(done(&it.handle.scale(2)).unwrap_err().kind(), Kind::NotFound);
    it.deploy("v1", "serve", 1).unwrap();
    let first = it.pids()[0];
    let up = done(&it.handle.scale(3)).unwrap();
    assert_eq!((up.instances, up.swaps.len()), (3, 2));
    assert_eq!(it.answers("/").len(), 3);
    assert!(it.pids().contains(&first));
    let down = done(&it.handle.scale(1)).unwrap();
    assert_eq!((down.instances, down.swaps.len()), (1, 0));
    until("two are gone", || it.pids() == [first]);
    assert_eq!(it.posted().endpoints.len(), 1);
    assert_eq!(state::load(&it.layout, &it.id).unwrap().unwrap().instances, 1);
    assert_eq!(done(&it.handle.scale(65)).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn one_rollout_at_a_time() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 1).unwrap();
    let events = it.handle.deploy(it.order("v2", "silent", 1), "ana".into());
    assert_eq!(it.status().state, AppState::Deploying);
    assert_eq!(it.deploy("v3", "serve", 1).unwrap_err().kind(), Kind::Busy);
    assert_eq!(done(&it.handle.rollback(None, "bo".into())).unwrap_err().kind(), Kind::Busy);
    assert_eq!(done(&it.handle.scale(2)).unwrap_err().kind(), Kind::Busy);
    it.handle.stop();
    assert_eq!(done(&events).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(done(&it.handle.scale(2)).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(it.handle.status().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn delete_calls_off_a_rollout_and_stops_all() {
    let it = Sandbox::new();
    it.deploy("v1", "serve", 2).unwrap();
    let events = it.handle.deploy(it.order("v2", "silent", 1), "ana".into());
    until("the new one runs", || it.pids().len() == 3);
    let pids = it.pids();
    let begin = Instant::now();
    assert_eq!(done(&it.handle.delete()).unwrap().version.as_str(), "v1");
    // Nothing was in flight, so no limit was waited for.
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    assert_eq!(done(&events).unwrap_err().kind(), Kind::Conflict);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(it.posted().routes.is_empty());
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
    assert_eq!(e.to_string(), expected);
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
    assert!(status.last_failure.unwrap().contains("is missing"));
}
