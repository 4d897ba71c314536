//! The actor with real processes on a stage without proxy: posts are acked at once, and an endpoint that was taken out
//! is drained at once unless the test holds it.

mod deploying;
mod serving;
mod demanding;
mod failing;
mod living;
mod verbs;
mod crossing;

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
use crate::proto::control::{Secrets, Step};
use crate::proto::manifest::{Limits, Manifest, Runtime};
use crate::proto::route::Route;
use crate::proto::status::AppState;
use crate::proxy;
use crate::proxy::table::{Endpoint, EndpointId, Standing};
use crate::server::board::Posting;
use crate::server::runtime::Launch;
use crate::server::state;
use crate::sys;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A limit that ends what never comes, and leaves time on a busy machine for all that comes before it.
const SHORT_S: u64 = 4;

/// A limit that no test lives to see.
const NEVER_S: u64 = 3600;

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
        "lends" | "sends" => lend(part == "lends"),
        "once" if nth_start() > 1 => std::process::exit(3),
        "later starts exit" if nth_start() > 3 => std::process::exit(3),
        "third exits" if nth_start() == 3 => std::process::exit(3),
        "second exits" if nth_start() == 2 => std::process::exit(3),
        "second is silent" if nth_start() == 2 => std::thread::sleep(Duration::from_secs(600)),
        part => serve(part),
    }
}

/// Lets a child in a group of its own serve; when it is lent, one whose parent is somebody else.
#[allow(clippy::print_stdout)]
fn lend(is_lent: bool) {
    use std::os::unix::process::CommandExt;
    let program = env::current_exe().unwrap();
    let mut child = match is_lent {
        false => std::process::Command::new(program),
        // The shell between them ends at once.
        true => {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "\"$@\" & echo child $!", "sh"]).arg(program);
            shell
        }
    };
    child.args(env::args().skip(1)).env("PLAY", "serve").process_group(0);
    let mut child = child.spawn().unwrap();
    if is_lent {
        child.wait().unwrap();
        std::thread::sleep(Duration::from_secs(600));
    }
    println!("child {}", child.id());
    child.wait().unwrap();
}

/// How often the app was started, this time included.
fn nth_start() -> usize {
    let dir = PathBuf::from(env::var("TAKO_DATA_DIR").unwrap());
    (1..).find(|n| fs::File::create_new(dir.join(n.to_string())).is_ok()).unwrap()
}

#[allow(clippy::print_stdout)]
fn serve(part: &str) {
    let port = env::var("PORT").unwrap();
    match part {
        "slow" => std::thread::sleep(Duration::from_millis(300)),
        "held" => until("it is let go", || PathBuf::from(env::var("TAKO_DATA_DIR").unwrap()).join("go").exists()),
        _ => {}
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
    let mut probes = 0;
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { continue };
        let head: Vec<String> = lines.take_while(|l| !l.is_empty()).collect();
        let asked = head.contains(&"Host: tako.internal".into());
        let path = request.split(' ').nth(1).unwrap();
        probes += u32::from(path == "/status");
        let answer = match path {
            "/status" if ill => "HTTP/1.1 500 Ill\r\n\r\n".into(),
            "/status" if asked && !head.contains(&format!("X-Tako-Internal-Token: {token}")) => {
                "HTTP/1.1 403 Who\r\n\r\n".into()
            }
            "/die" => std::process::exit(9),
            "/pause" => {
                std::thread::sleep(Duration::from_secs(2));
                "HTTP/1.1 200 OK\r\n\r\n".into()
            }
            "/probes" => format!("HTTP/1.1 200 OK\r\n\r\n{probes}"),
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
        self.post(
            app,
            Posting {
                routes: Vec::new(),
                endpoints: Vec::new(),
                standing: Standing::Awake,
                body_limit: 0,
                assets: Vec::new(),
            },
        )
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

    /// Until nothing was in balancing at some time since there were so many posts: it may be over on a busy machine.
    fn until_out_since(&self, posts: usize) {
        until("it is out", || self.play.scene().posts[posts..].iter().any(|p| p.endpoints.is_empty()));
    }

    /// What was started as `held` goes on.
    fn let_go(&self) {
        fs::write(self.layout.app_data(&self.id).join("go"), "").unwrap();
    }

    /// What each endpoint in balancing answers.
    fn answers(&self, path: &str) -> Vec<String> {
        loop {
            let endpoints = self.posted().endpoints;
            let answers: Option<Vec<String>> = endpoints.iter().map(|e| try_get(e.addr, path)).collect();
            match answers {
                Some(answers) => return answers,
                // One on demand may fall asleep between the two looks.
                None => assert_ne!(self.posted().endpoints, endpoints, "in balancing, and nobody is there"),
            }
        }
    }

    fn status(&self) -> AppStatus {
        self.handle.status().unwrap()
    }

    /// The last failure in one line.
    fn why(&self) -> Option<String> {
        self.status().last_failure.map(|failure| failure.to_string())
    }

    fn pids(&self) -> Vec<u32> {
        self.status().instances.iter().map(|i| i.pid).collect()
    }

    fn release_dir(&self, version: &str) -> PathBuf {
        self.layout.release(&self.id, &Version::parse(version).unwrap())
    }

    fn log(&self) -> Vec<String> {
        let heard = self.handle.logs(&LogQuery::of(self.id.clone())).unwrap();
        heard.iter().flat_map(|told| told.unwrap().lines).map(|l| l.text).collect()
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
    run(before_it_runs(play, id, layout, key)).unwrap()
}

/// For the tests that are the actor's loop themselves.
fn before_it_runs(play: &Play, id: &AppId, layout: &Arc<Layout>, key: &Key) -> (Actor<Play>, Handle) {
    let desired = state::load(layout, id).unwrap();
    let users = Users::new(layout.clone(), false);
    let cell = Cell::of(id, &users, &Tree::none("not in this test")).unwrap();
    actor_on(play.clone(), id.clone(), desired, layout.clone(), key.clone(), Threads::start().unwrap(), cell)
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
    try_get(addr, path).expect("somebody is there")
}

/// `None` when nobody listens.
fn try_get(addr: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.into()))
}

fn is_alive(pid: u32) -> bool {
    rustix::process::test_kill_process(Pid::from_raw(pid as i32).unwrap()).is_ok()
}

fn kill(pid: u32, signal: Signal) {
    sys::kill_group(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}
